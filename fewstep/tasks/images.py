"""Few-shot classification of images: N ways, K shots, cut from one array (floor 1). Used by problems/images.py.

A task is a choice of classes. Its number decides which, so that task 17 is the same whoever asks; which photos of them are
support and which query is drawn for each episode. Pixels stay bytes until an episode is cut from them, on the device, or where
they do not fit there, on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from msgspec import Struct

from fewstep.plain import Positive
from fewstep.tasks.augment import Variation, varied
from fewstep.tasks.family import Shots, TaskFamily
from fewstep.tasks.on_host import OnHost
from fewstep.types import Episode, Examples, Key, Params

MOST_CALIBRATION, MOST_CALIBRATION_PHOTOS = 39, 20
"""Photos of so many calibration classes are kept with a run of images, and so many of each, or a few more than the shots."""


class Photos(NamedTuple):
    """All images of a data set."""

    pixels: jax.Array | OnHost
    """uint8 [images, height, width, channels], class by class"""
    start: jax.Array
    """[classes] the first image of each class"""
    length: jax.Array
    """[classes]"""

    @property
    def on_host(self) -> OnHost | None:
        return self.pixels if isinstance(self.pixels, OnHost) else None


class Pixels(Struct, frozen=True, forbid_unknown_fields=True):
    """How bytes become numbers: (pixel / 255 − mean) / deviation, by channel."""

    mean: tuple[float, ...]
    deviation: tuple[Positive, ...]

    def encode(self, pixels: Any) -> jax.Array:
        """uint8 [..., channels] -> float32."""
        mean, deviation = (jnp.asarray(values, jnp.float32) for values in (self.mean, self.deviation))
        scale, shift = 1 / (255 * deviation), mean / deviation
        grow = (1,) * (pixels.ndim - 1) + (-1,)
        return pixels.astype(jnp.float32) * scale.reshape(grow) - shift.reshape(grow)

    def decode(self, values: Any) -> np.ndarray:
        """Back to bytes."""
        mean, deviation = (np.asarray(each, np.float32) for each in (self.mean, self.deviation))
        return np.clip(np.round((np.asarray(values) * deviation + mean) * 255), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Cut:
    """The shape of episodes."""

    ways: int
    shots: Shots
    queries: int
    """of each class"""
    rotate: bool = False
    """each class is turned by a random multiple of 90 degrees: a turned character is another character"""
    variation: Variation = "none"
    """how each image is varied on its own"""
    strangers: int = 0
    """query images of so many further classes, one of each, at the end, whose targets are 0 for all classes"""


def image_tasks(photos: Photos, classes: np.ndarray, cut: Cut, pixels: Pixels, key: Key) -> TaskFamily:
    """The family of tasks of `cut.ways` of these `classes`, numbered by `key`.

    Support images stand class by class, and so do queries. Targets [images, ways] are 1 for the class. Where there are fewer
    shots than the most, the other support images weigh 0.
    """
    numbers, most = jnp.asarray(classes), cut.shots.most
    each = most + cut.queries
    width = int(np.asarray(photos.length)[classes].max())

    def episode(task: jax.Array, episode_key: Key, shots: jax.Array | int | None = None) -> Episode:
        if shots is None and cut.shots.least < cut.shots.most:
            episode_key, count_key = jax.random.split(episode_key)
            shots = cut.shots.draw(count_key)
        chosen, turns = classes_of(task)
        image = jax.vmap(lambda one, key: photos.start[one] + distinct(key, photos.length[one], width, each))(
            chosen, jax.random.split(episode_key, chosen.size)
        )  # [classes, shots + queries]
        known, others = image[: cut.ways], image[cut.ways :, 0]
        targets = jnp.eye(cut.ways)
        weight = jnp.ones(most) if shots is None else (jnp.arange(most) < shots).astype(jnp.float32)
        support = Examples(
            encoded(known[:, :most], turns[: cut.ways]), jnp.repeat(targets, most, 0), jnp.tile(weight, cut.ways)
        )
        query = Examples(
            encoded(known[:, most:], turns[: cut.ways]),
            jnp.repeat(targets, cut.queries, 0),
            jnp.ones(cut.ways * cut.queries),
        )
        if cut.strangers:
            strange = Examples(
                encoded(others[:, None], turns[cut.ways :]), jnp.zeros((cut.strangers, cut.ways)), jnp.ones(cut.strangers)
            )
            query = jax.tree.map(lambda one, other: jnp.concatenate([one, other]), query, strange)
        if cut.variation != "none":
            vary = lambda part, key: part._replace(inputs=varied(part.inputs, cut.variation, key))  # noqa: E731
            support_key, query_key = jax.random.split(jax.random.fold_in(episode_key, 1))
            support, query = vary(support, support_key), vary(query, query_key)
        return Episode(support, query)

    def classes_of(task: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(the classes [ways + strangers] of a task, by how many right angles each is turned)."""
        class_key, turn_key = jax.random.split(jax.random.fold_in(key, task))
        count = cut.ways + cut.strangers
        place = distinct(class_key, numbers.size, numbers.size, count)
        turns = jax.random.randint(turn_key, (count,), 0, 4) if cut.rotate else jnp.zeros(count, jnp.int32)
        return numbers[place], turns

    def encoded(image: jax.Array, turns: jax.Array) -> jax.Array:
        """[classes, images] numbers of images -> [classes · images, height, width, channels]."""
        found = photos.pixels[image]
        if cut.rotate:
            found = jax.vmap(turned)(found, turns)
        return pixels.encode(found.reshape(-1, *found.shape[2:]))

    return TaskFamily(episode, describe=lambda task: classes_of(task)[0], on_host=photos.on_host)


def class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """[images] float32: images / (classes · images of the same class), for numbers of classes `labels` [images].

    In a weighted mean, each class then counts alike. All are exactly 1 if each class has the same number of images.
    """
    return (labels.size / classes / np.bincount(labels, minlength=classes)[labels]).astype(np.float32)


def distinct(key: Key, size: jax.Array | int, most: int, count: int) -> jax.Array:
    """[count] different numbers below `size`, which is at most `most` and at least `count`."""
    chance = jnp.where(jnp.arange(most) < size, jax.random.uniform(key, (most,)), -1.0)
    return jax.lax.top_k(chance, count)[1]


def turned(image: jax.Array, turns: jax.Array) -> jax.Array:
    """[..., height, width, channels] turned by so many right angles."""
    return jax.lax.switch(turns, TURNS, image)


def _turned(turns: int):
    return lambda images: jnp.rot90(images, turns, axes=(-3, -2))


TURNS = [_turned(turns) for turns in range(4)]


class ImageTasks(NamedTuple):
    """What is asked of unseen tasks of images beside their own queries."""

    validation: TaskFamily
    """meta-validation tasks whose queries end with strangers: images of none of the task's classes"""
    test: TaskFamily
    names: tuple[str, ...]
    """of all classes, by number"""
    parts: dict[str, list[str]]
    """the names of meta-train, -validation, calibration and -test classes"""
    pixels: Pixels
    features: Callable[[Params, jax.Array], jax.Array]
    """`features(params, images) -> [images, features]`: what the last layer sees"""
    calibration: np.ndarray
    """uint8 [classes, photos, height, width, channels]: photos of the classes that serve for prediction sets alone"""
