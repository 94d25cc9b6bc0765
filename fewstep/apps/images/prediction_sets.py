"""Prediction sets of classes: conformal prediction with classes as units.

A task has w classes. In the place of each class c of them, every calibration class stands once: the model is adapted to
its photos, as many as there are of c, beside the photos of the other classes, and is asked about further photos of it.
Given the other classes, c and the n calibration classes are exchangeable. So the rank of the score of a photo of c among
n scores, of one photo of each calibration class, is uniform, and p = (1 + number of scores at least as great) / (n + 1)
is at most α with a probability of at most α (split conformal prediction: Vovk, Gammerman & Shafer 2005; of classes: Fisch
et al. 2021, arXiv 2102.08898). Of several photos of each calibration class, p is the average over all ways to take one of
each. An average of such p is at most α with a probability of at most 2 α (Rüschendorf 1982; Vovk & Wang 2020, arXiv
1212.4966).

A set holds the classes with p > 1 − level: the right one with a probability of at least 1 − 2 (1 − level), of one photo
of each calibration class at least `level`. These classes need not make up disjoint tasks: n / (n + 1) bounds the level,
whatever w.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.apps.images.format import ImageFormat
from fewstep.apps.images.predictions import probabilities
from fewstep.apps.images.tasks import MOST_CALIBRATION, MOST_CALIBRATION_PHOTOS, class_weights
from fewstep.core.maml import adapt
from fewstep.core.problem import Problem, needed_to_calibrate
from fewstep.core.types import Examples, MetaParams
from fewstep.errors import InputError
from fewstep.storage.arrays import arrays_in, atomic_write
from fewstep.supervised.conformal import DEFAULT_LEVELS
from fewstep.training.jit import jit_hoisted
from fewstep.training.map_tasks import map_tasks

PHOTOS = "calibration_photos.npz"
HEADERS = 1024
"""bytes that the header of an array takes at most"""
QUERIES = 5
"""photos of a calibration class that are scored, at most"""
AT_ONCE = 32
MOST_IMAGES = 20_000
"""Where more photos than this would be adapted to, fewer calibration classes are looked at, but as many as the level takes."""
MEASURED = 400
"""Coverage on unseen tasks is measured with so many adaptations, or those of one task."""


def write_photos(directory: Path, photos: np.ndarray) -> None:
    """Keeps the photos of calibration classes with a run, or with an adapted model."""
    with atomic_write(directory / PHOTOS) as partial, partial.open("wb") as file:
        np.savez_compressed(file, photos=photos)


def read_photos(directory: Path, problem: Problem) -> np.ndarray | None:
    """uint8 [classes, photos, height, width, channels]; None if there are none, as of tables.

    Raises `InputError` if they are damaged."""
    path = directory / PHOTOS
    if not isinstance(problem.format, ImageFormat) or not path.is_file():
        return None
    shape = problem.format.shape
    most = MOST_CALIBRATION * max(MOST_CALIBRATION_PHOTOS, problem.settings.shot_range.most + 5) * math.prod(shape)
    try:
        with arrays_in(path, most=most + HEADERS) as arrays:
            photos = arrays["photos"]
        if photos.dtype != np.uint8 or photos.ndim != 5 or photos.shape[2:] != shape:
            raise ValueError(f"of shape {photos.shape}")
    except Exception as error:  # damaged archives raise many kinds
        raise InputError(f"{path} is damaged ({error}). Restore it; without the file there are no prediction sets.") from error
    return photos


def scoring(problem: Problem, steps: int) -> Callable[..., jax.Array]:
    """The program `(params, images [photos, ...], weight, targets, rows [ways, photos], asked [ways, queries], calibration
    [classes, photos, ...], temperature) -> [ways, classes, queries]`: the improbability of the right class, for each class of
    the task and each calibration class in its place. `rows` are places in the photos of the task followed by those of a
    calibration class."""

    def scores(params: MetaParams, images, weight, targets, rows, asked, calibration, temperature):
        ways, count = rows.shape[0], calibration.shape[0]

        def one(pair):
            place, number = pair
            given = jnp.concatenate([images, calibration[number]])[rows[place]]
            support = Examples(problem.format.pixels.encode(given), targets, weight)
            adapted = adapt(problem.learner, params, support, jax.random.key(0), steps)
            outputs = problem.predict(adapted, problem.format.pixels.encode(calibration[number][asked[place]]))
            return 1 - jax.nn.softmax(outputs / temperature)[:, place]

        place, number = jnp.meshgrid(jnp.arange(ways), jnp.arange(count), indexing="ij")
        return map_tasks(one, (place.ravel(), number.ravel()), AT_ONCE).reshape(ways, count, -1)

    return jit_hoisted(scores)


def class_scores(
    program: Callable[..., jax.Array],
    params: MetaParams,
    images: np.ndarray,
    labels: np.ndarray,
    calibration: np.ndarray,
    temperature: float,
    level: float,
) -> np.ndarray:
    """[ways, classes, queries] of `scoring`, for a task with support `images` [photos, ...] of bytes and `labels` [photos], and
    calibration photos [classes, photos, ...], more of each than of any class of the task."""
    counts, (classes, each) = np.bincount(labels), calibration.shape[:2]
    queries = min(QUERIES, each - counts.max())
    rows = np.tile(np.arange(labels.size), (counts.size, 1))
    for place, count in enumerate(counts):
        rows[place, labels == place] = labels.size + np.arange(count)
    asked = counts[:, None] + np.arange(queries)[None]
    allowed = max(needed_to_calibrate(level), MOST_IMAGES // (counts.size * labels.size))
    weight, targets = class_weights(labels, counts.size), np.eye(counts.size, dtype=np.float32)[labels]
    return np.asarray(program(params, images, weight, targets, rows, asked, calibration[: min(classes, allowed)], temperature))


def limits(scores: np.ndarray, level: float) -> np.ndarray:
    """[ways]: the improbability up to which each class belongs to a set, of `class_scores` [ways, classes, queries].

    Infinite if the calibration classes are too few for the level."""
    ways, classes, queries = scores.shape
    least = (1 - level) * (classes + 1) - 1  # p > 1 - level: so many calibration classes and more score at least as high
    if least < -1e-9:
        return np.full(ways, np.inf)
    place = int(np.floor(least * queries + 1e-6))
    return -np.sort(-scores.reshape(ways, -1), axis=1)[:, place]


def measured(problem: Problem, params: MetaParams, steps: int, temperature: float) -> dict[str, Any]:
    """How often sets hold the right class on the first meta-test tasks, and how many classes they have, by level (per cent)."""
    assert problem.images is not None and problem.splits is not None
    calibration = problem.images.calibration
    shots = problem.settings.shot_range.most
    levels = [level for level in DEFAULT_LEVELS if needed_to_calibrate(level / 100) <= len(calibration)]
    if not levels or shots >= calibration.shape[1]:
        return {}
    tasks = max(1, MEASURED // (problem.settings.ways * len(calibration)))
    program, family = scoring(problem, steps), problem.splits.test

    def met(params: MetaParams, number: jax.Array):
        support, query = family.episode(number, jax.random.fold_in(jax.random.key(7), number), shots)
        adapted = adapt(problem.learner, params, support, jax.random.key(0), steps)
        return support, query.targets, problem.predict(adapted, query.inputs)

    meet = jit_hoisted(lambda params, numbers: map_tasks(lambda number: met(params, number), numbers, 1))
    kept: dict[int, list[np.ndarray]] = {level: [] for level in levels}
    for number in range(tasks):
        one = jax.device_get(meet(params, jnp.array([number])))
        support, targets, outputs = jax.tree.map(lambda leaf: leaf[0], one)
        images = problem.format.pixels.decode(support.inputs)
        scores = class_scores(program, params, images, support.targets.argmax(1), calibration, temperature, max(levels) / 100)
        chance = probabilities(outputs, temperature)
        for level in levels:
            inside = 1 - chance <= limits(scores, level / 100)
            kept[level].append(np.stack([(inside & (targets > 0)).any(1), inside.sum(1)]))
    found = {str(level): np.concatenate(each, axis=1).mean(1).tolist() for level, each in kept.items()}
    return {"sets": {level: {"coverage": one, "classes": size, "tasks": tasks} for level, (one, size) in found.items()}}
