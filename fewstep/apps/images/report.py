"""Calibration and evaluation of few-shot image classification: the contents of a run's JSON files.

Meta-validation tasks choose the number of steps, the temperature and the threshold for unknown classes; prediction sets are
calibrated for each task (`prediction_sets.py`). Accuracy has two intervals, over episodes and over classes. A few test episodes
are stored for the figures.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from msgspec import Meta

from fewstep.apps.images import prediction_sets
from fewstep.apps.images.predictions import (
    TaskPredictor,
    episode_sampler,
    is_correct,
    probabilities,
    reliability,
    unknown_detection,
    unknown_threshold,
)
from fewstep.core.maml import adapt, started
from fewstep.core.problem import Problem
from fewstep.core.types import MetaParams
from fewstep.storage.json import validate
from fewstep.supervised.baselines import compare_image_baselines
from fewstep.supervised.conformal import Positive, Unfinished, best_temperature
from fewstep.supervised.evaluate import summarize
from fewstep.supervised.fit import Steps
from fewstep.supervised.gain import gain_of_adaptation
from fewstep.training.jit import jit_hoisted
from fewstep.training.map_tasks import map_tasks


def calibrate_images(problem: Problem, params: MetaParams) -> dict[str, Any]:
    """What `calibration.json` holds. Strangers among the queries of meta-validation tasks set the threshold of "none of
    these"."""
    assert problem.images is not None and problem.splits is not None
    images = problem.images
    trained = problem.learner.adaptation_steps
    steps = sorted({trained, *numeric_steps(problem.evaluation_steps)})
    answers = TaskPredictor(problem, params, steps).predict(
        images.validation, problem.validation_tasks, seed=5, what="meta-validation tasks"
    )
    known = answers.known
    right = is_correct(answers)  # [tasks, steps, queries]
    by_task, place = right.mean(2), steps.index(trained)
    by_steps = by_task.mean(0)
    best = int(by_steps.argmax())
    # Of numbers of steps that do equally well, within what chance would do on the same tasks, the trained one.
    gain = by_task[:, best] - by_task[:, place]
    if gain.mean() > gain.std() / np.sqrt(gain.size):
        place = best
    outputs, targets = answers.log_probabilities[:, place][:, known], answers.targets[:, known]
    temperature = best_temperature(outputs, targets, np.full(targets.shape[:2], 1.0 / targets[..., 0].size))
    result: dict[str, Any] = {
        "kind": "images",
        "tasks": problem.validation_tasks,
        "shots": problem.settings.shot_range.shown,
        "chosen_steps": steps[place],
        "accuracy_by_steps": {str(step): float(value) for step, value in zip(steps, by_steps, strict=True)},
        "temperature": temperature,
    }
    if not known.all():
        result["none_of_these"] = unknown_threshold(answers, place, temperature)
    result["sets"] = {"classes": len(images.calibration)}
    return result


def evaluate_images(
    problem: Problem,
    params: MetaParams,
    calibration: dict[str, Any],
    steps: Sequence[Steps],
    tasks: int,
    beside: bool = False,
) -> dict[str, Any]:
    """The figures of `evaluation.json` for the first so many meta-test tasks; by choice `beside` the cheapest classics."""
    assert problem.images is not None
    names = problem.images.names
    chosen = calibration.get("chosen_steps", problem.learner.adaptation_steps)
    numbers_of_steps = sorted({*numeric_steps(steps), chosen})
    answers = TaskPredictor(problem, params, numbers_of_steps).predict(problem.images.test, tasks, seed=0, what="unseen tasks")
    known, right = answers.known, is_correct(answers)
    loss = -(answers.log_probabilities * answers.targets[:, None]).sum(-1)[:, :, known].mean(-1)
    of_query = np.take_along_axis(answers.classes, answers.targets[:, known].argmax(-1), axis=1)  # [tasks, known queries]
    numbers = np.unique(of_query)
    by_class = np.stack([right.transpose(0, 2, 1)[of_query == number].mean(0) for number in numbers])
    place = numbers_of_steps.index(chosen)
    over_classes = summarize(by_class)
    result = {
        "problem": problem.name,
        "split": "test",
        "tasks": tasks,
        "classes": int(numbers.size),
        "steps": numbers_of_steps,
        "metric": "accuracy",
        **summarize(right.mean(2)),
        "ci95_by_class": over_classes["ci95"],
        "query_loss": summarize(loss),
        "by_class": {names[number]: float(value) for number, value in zip(numbers, by_class[:, place], strict=True)},
        "protocol": {
            **problem.protocol,
            "chosen_adaptation_steps": chosen,
            "tasks": tasks,
            "classes": int(numbers.size),
            "interval": "95 %, Student's t, over episodes of these classes; and over classes",
        },
    }
    errors = 1 - right.mean(2)
    result |= gain_of_adaptation(errors, numbers_of_steps, chosen, "error_rate")
    if beside:
        cut = episode_sampler(problem.images.test, seed=0)
        result["classics"] = compare_image_baselines(problem, errors[:, place], lambda numbers: cut(jnp.asarray(numbers))[0])
    if "temperature" in calibration:
        outputs, targets = answers.log_probabilities[:, place][:, known], answers.targets[:, known]
        result["calibration"] = reliability(outputs, targets, calibration["temperature"])
        result |= unknown_detection(answers, place, calibration)
        result |= prediction_sets.measured(problem, params, chosen, calibration["temperature"])
    return result


def numeric_steps(steps: Sequence[Steps]) -> list[int]:
    """Those that are numbers: images know no 'auto'."""
    return [step for step in steps if isinstance(step, int)]


class UnknownRule(TypedDict):
    """Which photos are none of the classes."""

    score: Literal["probability", "similarity"]
    limit: float
    tells: NotRequired[bool]
    told: NotRequired[float]
    told_at_least: NotRequired[float]


class ImageCalibration(TypedDict, total=False):
    """Of images; empty where the run was not trained to its end."""

    chosen_steps: Annotated[int, Meta(ge=0, le=10_000)]
    temperature: Positive
    none_of_these: UnknownRule
    unfinished: Unfinished


def check_image_calibration(found: Any, problem: Problem) -> None:
    """Raises `ValueError` if `found` is no calibration of a model of images."""
    del problem
    validate(found, ImageCalibration, "the calibration")


EPISODES = 4
MOST_SUPPORT, MOST_QUERIES = 5, 8
"""images of a class that are kept for the picture"""


def example_episodes(problem: Problem, params: MetaParams, calibration: dict[str, Any]) -> dict[str, Any]:
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

    program = jit_hoisted(lambda params, numbers: map_tasks(lambda number: one_task(params, number), numbers, EPISODES))
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
