"""What methods on images are compared on: episodes of held-out classes (floor 7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from fewstep.compare.arms import LEARNED, classical
from fewstep.compare.arms.arm import Arm
from fewstep.compare.arms.embeddings import PROBE, embeddings_of
from fewstep.compare.asked import require_budget
from fewstep.compare.ground import Ground, ground, recipe_of
from fewstep.compare.leaks import SHOWN
from fewstep.compare.splits import require_tasks
from fewstep.errors import BadInput
from fewstep.problem import Problem
from fewstep.problems.image_classes import Parts
from fewstep.problems.images import Images
from fewstep.tasks.family import TaskFamily
from fewstep.tasks.image_set import ImageSet

TASKS = 100
"""held-out tasks of each split, one episode of each"""
LEAST_BUDGET = 120.0
"""seconds: reading and compiling take longer than with rows"""


def grounds(settings: Any, seed: int, note: Callable[[str], None], *, budget: float, embeddings: str = "") -> tuple[Ground]:
    """One split. Raises `BadInput` for embeddings that do not fit, and for photos that are in classes of two splits."""
    require_budget(budget, LEAST_BUDGET)
    if embeddings and not isinstance(settings, Images):
        raise BadInput("--embeddings are of photos: leave them out, or compare on images.")
    first = image_ground(settings, seed, embeddings)
    if embeddings:
        embeddings_of(embeddings, first.settings, seed)  # type: ignore[arg-type]
    for line in first.problem.notes:
        note(f"note: {line}")
    if isinstance(settings, Images):
        refuse_known_photos(*settings.classes(seed)[:2])
    require_tasks(len(first.test.names))
    return (first,)


def image_ground(settings: Any, seed: int, embeddings: str = "") -> Ground:
    """One episode of each of many held-out tasks; networks are trained from untrained parameters on."""
    base = replace(recipe_of(settings), joint_steps=0)
    return ground(base, seed, tasks=TASKS, draws=1, names_of=names_of, images=True, embeddings=embeddings)


def names_of(problem: Problem, family: TaskFamily, count: int) -> tuple[str, ...]:
    """The classes of each task, as people call them."""
    assert problem.images is not None and family.describe is not None
    classes = np.asarray(jax.vmap(family.describe)(family.tasks(count)))
    return tuple(", ".join(problem.images.names[one] for one in task) for task in classes)


def refuse_known_photos(found: ImageSet, parts: Parts) -> None:
    """The same photo in two classes, as it is once it is brought to its size. One of a single color is no photo."""
    content = [image.tobytes() for image in found.images]
    files = found.files or tuple(f"a photo of {name}" for name in np.repeat(found.names, found.length))
    of_class = lambda number: range(found.start[number], found.start[number] + found.length[number])  # noqa: E731
    known = {content[image]: image for number in parts["train"] for image in of_class(number)}
    for part in ("validation", "test"):
        twice = [
            (image, known[content[image]])
            for number in parts[part]
            for image in of_class(number)
            if content[image] in known and np.ptp(found.images[image])
        ]
        if twice:
            raise BadInput(
                f"{len(twice)} photo{'s' * (len(twice) > 1)} of meta-{part} classes would be known from training: "
                + "; ".join(f"{files[one]} is {files[other]}" for one, other in twice[:SHOWN])
                + "; ..." * (len(twice) > SHOWN)
                + ". Remove one of each pair."
            )


def methods() -> tuple[Arm, ...]:
    """The methods that apply to images; a probe on given embeddings follows the nearest class mean."""
    place = LEARNED.index(classical.NEAREST) + 1
    return tuple(arm for arm in (*LEARNED[:place], PROBE, *LEARNED[place:]) if arm.images)
