"""Some test episodes of images as plain data for a file (floor 3): what was given, what was asked, what was answered."""

from __future__ import annotations

import base64
import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.maml import adapt, started
from fewstep.problem import Problem
from fewstep.training.image_certainty import probabilities
from fewstep.training.mapping import over_tasks
from fewstep.training.programs import compiled
from fewstep.types import MetaParams

EPISODES = 4
MOST_SUPPORT, MOST_QUERIES = 5, 8
"""images of a class that are kept for the picture"""


def episodes_shown(problem: Problem, params: MetaParams, calibration: dict[str, Any]) -> dict[str, Any]:
    """The content of `illustrations.json`: the first meta-test tasks."""
    assert problem.images is not None and problem.splits is not None
    family, names, pixels = problem.splits.test, problem.images.names, problem.images.pixels
    steps = calibration.get("chosen_steps", problem.learner.adaptation_steps)

    def one_task(params, number):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), number))
        support, query = family.episode(number, keys[0])
        before = problem.predict(started(problem.learner, params, support, keys[1]), query.inputs)
        adapted = adapt(problem.learner, params, support, keys[1], steps)
        return support, query, before, problem.predict(adapted, query.inputs), family.describe(number)  # type: ignore[misc]

    program = compiled(lambda params, numbers: over_tasks(lambda number: one_task(params, number), numbers, EPISODES))
    found = jax.device_get(program(params, jnp.arange(EPISODES)))
    shown = []
    for number in range(EPISODES):
        support, query, before, after, classes = jax.tree.map(lambda leaf, number=number: leaf[number], found)
        ways = support.targets.shape[-1]
        chance = probabilities(after, calibration.get("temperature", 1.0))
        asked = []
        for label in range(ways):
            for place in np.flatnonzero(query.targets[:, label] > 0)[:MOST_QUERIES]:
                asked.append(
                    {
                        "image": png(pixels.decode(query.inputs[place])),
                        "truth": label,
                        "predicted": int(chance[place].argmax()),
                        "probability": float(chance[place].max()),
                    }
                )
        given = [
            [png(pixels.decode(support.inputs[place])) for place in np.flatnonzero(real)[:MOST_SUPPORT]]
            for real in (support.targets * support.weight[:, None]).T > 0
        ]
        known = query.targets.sum(-1) > 0
        right, earlier = (int((each[known].argmax(-1) == query.targets[known].argmax(-1)).sum()) for each in (after, before))
        shots = int(support.weight.sum()) // ways
        title = f"{ways} ways, {shots} shot{'s' * (shots != 1)}, {right} of {known.sum()} right"
        if steps and np.ptp(before[known], axis=-1).max() > 0:  # else all classes are alike before adaptation
            title += f"; before adaptation {earlier}"
        labels = [names[number] for number in classes[:ways]]
        shown.append({"title": title, "classes": labels, "support": given, "queries": asked})
    return {"kind": "images", "steps": steps, "episodes": shown}


def png(image: np.ndarray) -> str:
    """uint8 [height, width, channels] as a PNG file in base64."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")
