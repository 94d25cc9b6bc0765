"""What methods on images are compared on: episodes of held-out classes (floor 7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from fewstep.compare.arms.embeddings import embeddings_of
from fewstep.compare.asked import require_budget
from fewstep.compare.ground import Ground, ground, recipe_of
from fewstep.compare.leaks import refuse_known_photos
from fewstep.compare.splits import require_tasks
from fewstep.errors import BadInput
from fewstep.problem import Problem
from fewstep.problems.images import Images
from fewstep.tasks.family import TaskFamily

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
