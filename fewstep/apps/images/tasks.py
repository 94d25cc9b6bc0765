"""Episodes of images (N ways, K shots), batches for pretraining, and augmentation, all inside the compiled program.

A task is a choice of classes, decided by its number alone; support and query images are sampled for each episode. Pixels stay
bytes until an episode is built, on the device, or on the host if they do not fit there. For pretraining, all classes form one
family of batches: MAML with no adaptation step is ordinary training on query sets. Augmentation zooms, shifts, shears and
mirrors an image by resampling it, and changes brightness and contrast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from msgspec import Struct

from fewstep.core.prefetch import OnHost
from fewstep.core.tasks import Shots, TaskFamily
from fewstep.core.types import Episode, Examples, Key, Params
from fewstep.storage.json import Positive

Variation = Literal["none", "characters", "photos"]
"""how training images are varied: not at all, moved and zoomed a little, or cropped, mirrored and lit anew"""


class Range(NamedTuple):
    """How far an image may change."""

    zoom: tuple[float, float]
    """part of its width and of its height that is seen"""
    move: float
    """how far it is moved beyond that, as a part of half its size"""
    slant: float
    """how far a line is moved along itself, as a part of its distance from the middle; rows and columns differ"""
    mirror: bool
    light: float
    """change of contrast, as a part; and of brightness, in standard deviations"""


RANGES: dict[str, Range] = {
    "characters": Range((0.8, 1.2), 0.15, 0.25, False, 0.0),
    "photos": Range((0.6, 1.0), 0.0, 0.0, True, 0.25),
}


def augment(images: jax.Array, kind: Variation, key: Key) -> jax.Array:
    """[images, height, width, channels] float32, each varied on its own; beyond its edge an image goes on as at the edge."""
    if kind == "none":
        return images
    allowed = RANGES[kind]

    def one(image: jax.Array, key: Key) -> jax.Array:
        view_key, contrast_key, light_key = jax.random.split(key, 3)
        image = interpolate(image, *view(allowed, image.shape[0], image.shape[1], view_key))
        if allowed.light:
            contrast = 1 + allowed.light * jax.random.uniform(contrast_key, minval=-1.0, maxval=1.0)
            image = image * contrast + allowed.light * jax.random.uniform(light_key, minval=-1.0, maxval=1.0)
        return image

    return jax.vmap(one)(images, jax.random.split(key, images.shape[0]))


def view(allowed: Range, height: int, width: int, key: Key) -> tuple[jax.Array, jax.Array]:
    """(rows, columns), both [height, width]: where in an image each pixel of a random view of it is read."""
    zoom_key, place_key, slant_key, mirror_key = jax.random.split(key, 4)
    zoom = jax.random.uniform(zoom_key, (2,), minval=allowed.zoom[0], maxval=allowed.zoom[1])
    # A part of the image may lie anywhere in it; what is larger than the image shows its edges.
    place = jax.random.uniform(place_key, (2,), minval=-1.0, maxval=1.0) * (jnp.abs(1 - zoom) + allowed.move)
    slant = allowed.slant * jax.random.uniform(slant_key, (2,), minval=-1.0, maxval=1.0)
    if allowed.mirror:
        zoom = zoom.at[1].multiply(jnp.where(jax.random.bernoulli(mirror_key), -1.0, 1.0))
    return view_coordinates(zoom, place, slant, height, width)


def view_coordinates(
    zoom: jax.Array, place: jax.Array, slant: jax.Array, height: int, width: int
) -> tuple[jax.Array, jax.Array]:
    """(rows, columns), both [height, width], of a view. Arguments are [2], of rows and of columns: `zoom` is the part that is
    seen, mirrored where negative; `place` moves it by so many halves of the image; `slant` moves a line along itself, as a
    part of its distance from the middle. Slants by t and −t are nearly a turn by t."""
    middle = (height - 1) / 2, (width - 1) / 2
    down, right = jnp.arange(height)[:, None] - middle[0], jnp.arange(width)[None, :] - middle[1]
    columns = middle[1] * place[1] + zoom[1] * right + slant[1] * down
    rows = middle[0] * place[0] + zoom[0] * down + slant[0] * columns
    return middle[0] + rows, middle[1] + columns


def interpolate(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """[..., channels]: the image [height, width, channels] at `rows` and `columns` [...], by linear interpolation."""
    return jax.vmap(lambda channel: map_coordinates(channel, [rows, columns], order=1, mode="nearest"), 2, -1)(image)


MOST_CALIBRATION, MOST_CALIBRATION_PHOTOS = 39, 20
"""Photos of so many calibration classes are kept with a run of images, and so many of each, or a few more than the shots."""


class ImageStore(NamedTuple):
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


class Normalization(Struct, frozen=True, forbid_unknown_fields=True):
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
class EpisodeSpec:
    """The shape of episodes."""

    ways: int
    shots: Shots
    queries: int
    """of each class"""
    rotate: bool = False
    """each class is turned by a random multiple of 90 degrees: a turned character is another character"""
    variation: Variation = "none"
    """how each image is varied on its own"""
    unknown_classes: int = 0
    """query images of so many further classes, one of each, at the end, whose targets are 0 for all classes"""


def image_tasks(photos: ImageStore, classes: np.ndarray, spec: EpisodeSpec, pixels: Normalization, key: Key) -> TaskFamily:
    """The family of tasks of `spec.ways` of these `classes`, numbered by `key`.

    Support images stand class by class, and so do queries. Targets [images, ways] are 1 for the class. Where there are fewer
    shots than the most, the other support images weigh 0.
    """
    numbers, most = jnp.asarray(classes), spec.shots.most
    each = most + spec.queries
    width = int(np.asarray(photos.length)[classes].max())

    def episode(task: jax.Array, episode_key: Key, shots: jax.Array | int | None = None) -> Episode:
        if shots is None and spec.shots.least < spec.shots.most:
            episode_key, count_key = jax.random.split(episode_key)
            shots = spec.shots.draw(count_key)
        chosen, turns = classes_of(task)
        image = jax.vmap(lambda one, key: photos.start[one] + distinct(key, photos.length[one], width, each))(
            chosen, jax.random.split(episode_key, chosen.size)
        )  # [classes, shots + queries]
        known, others = image[: spec.ways], image[spec.ways :, 0]
        targets = jnp.eye(spec.ways)
        weight = jnp.ones(most) if shots is None else (jnp.arange(most) < shots).astype(jnp.float32)
        support = Examples(
            encoded(known[:, :most], turns[: spec.ways]), jnp.repeat(targets, most, 0), jnp.tile(weight, spec.ways)
        )
        query = Examples(
            encoded(known[:, most:], turns[: spec.ways]),
            jnp.repeat(targets, spec.queries, 0),
            jnp.ones(spec.ways * spec.queries),
        )
        if spec.unknown_classes:
            unknown = Examples(
                encoded(others[:, None], turns[spec.ways :]),
                jnp.zeros((spec.unknown_classes, spec.ways)),
                jnp.ones(spec.unknown_classes),
            )
            query = jax.tree.map(lambda one, other: jnp.concatenate([one, other]), query, unknown)
        if spec.variation != "none":
            vary = lambda part, key: part._replace(inputs=augment(part.inputs, spec.variation, key))  # noqa: E731
            support_key, query_key = jax.random.split(jax.random.fold_in(episode_key, 1))
            support, query = vary(support, support_key), vary(query, query_key)
        return Episode(support, query)

    def classes_of(task: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(the classes [ways + strangers] of a task, by how many right angles each is turned)."""
        class_key, turn_key = jax.random.split(jax.random.fold_in(key, task))
        count = spec.ways + spec.unknown_classes
        place = distinct(class_key, numbers.size, numbers.size, count)
        turns = jax.random.randint(turn_key, (count,), 0, 4) if spec.rotate else jnp.zeros(count, jnp.int32)
        return numbers[place], turns

    def encoded(image: jax.Array, turns: jax.Array) -> jax.Array:
        """[classes, images] numbers of images -> [classes · images, height, width, channels]."""
        found = photos.pixels[image]
        if spec.rotate:
            found = jax.vmap(rotate_quarters)(found, turns)
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


def rotate_quarters(image: jax.Array, turns: jax.Array) -> jax.Array:
    """[..., height, width, channels] turned by so many right angles."""
    return jax.lax.switch(turns, TURNS, image)


def _rotation(turns: int):
    return lambda images: jnp.rot90(images, turns, axes=(-3, -2))


TURNS = [_rotation(turns) for turns in range(4)]


class ImageTasks(NamedTuple):
    """What is asked of unseen tasks of images beside their own queries."""

    validation: TaskFamily
    """meta-validation tasks whose queries end with strangers: images of none of the task's classes"""
    test: TaskFamily
    names: tuple[str, ...]
    """of all classes, by number"""
    parts: dict[str, list[str]]
    """the names of meta-train, -validation, calibration and -test classes"""
    pixels: Normalization
    features: Callable[[Params, jax.Array], jax.Array]
    """`features(params, images) -> [images, features]`: what the last layer sees"""
    calibration: np.ndarray
    """uint8 [classes, photos, height, width, channels]: photos of the classes that serve for prediction sets alone"""


def joint_batches(
    photos: ImageStore,
    classes: np.ndarray,
    batch: int,
    pixels: Normalization,
    rotate: bool = False,
    variation: Variation = "none",
) -> TaskFamily:
    """Batches of images of these `classes`, each image as likely as any; targets [batch, classes], or with `rotate` [batch, 4 ·
    classes]: a class turned by 90 degrees is another class. The support set of an episode is its query set."""
    start, length = (np.asarray(each)[classes] for each in photos[1:])
    numbers = jnp.asarray(np.concatenate([first + np.arange(count) for first, count in zip(start, length, strict=True)]))
    labels = jnp.asarray(np.repeat(np.arange(classes.size), length))
    columns = class_count(classes, rotate)

    def episode(task: jax.Array, key: Key, shots: jax.Array | int | None = None) -> Episode:
        del task, shots
        image_key, turn_key, vary_key = jax.random.split(key, 3)
        chosen = jax.random.randint(image_key, (batch,), 0, numbers.size)
        images, label = photos.pixels[numbers[chosen]], labels[chosen]
        if rotate:
            turns = jax.random.randint(turn_key, (batch,), 0, 4)
            images, label = jax.vmap(rotate_quarters)(images, turns), 4 * label + turns
        inputs = augment(pixels.encode(images), variation, vary_key)
        examples = Examples(inputs, jax.nn.one_hot(label, columns), jnp.ones(batch))
        return Episode(examples, examples)

    return TaskFamily(episode, on_host=photos.on_host)


def class_count(classes: np.ndarray, rotate: bool) -> int:
    """How many classes there are to be told apart."""
    return int(classes.size) * (4 if rotate else 1)
