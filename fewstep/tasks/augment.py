"""Training images varied at random (floor 1): the same thing photographed again, so that few photos teach more.

An image is zoomed, moved and mirrored by resampling it with two small matrices, one for rows and one for columns, and its
brightness and contrast change. Used by images.py and classes.py, inside the compiled program.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from fewstep.types import Key

Variation = Literal["none", "characters", "photos"]
"""how training images are varied: not at all, moved and zoomed a little, or cropped, mirrored and lit anew"""


class Range(NamedTuple):
    """How far an image may change."""

    zoom: tuple[float, float]
    """part of its width and of its height that is seen"""
    mirror: bool
    light: float
    """change of contrast, as a part; and of brightness, in standard deviations"""


RANGES: dict[str, Range] = {"characters": Range((0.85, 1.15), False, 0.0), "photos": Range((0.6, 1.0), True, 0.25)}


def varied(images: jax.Array, kind: Variation, key: Key) -> jax.Array:
    """[images, height, width, channels] float32, each varied on its own; beyond its edge an image goes on as at the edge."""
    if kind == "none":
        return images
    allowed, (height, width) = RANGES[kind], images.shape[1:3]

    def one(image: jax.Array, key: Key) -> jax.Array:
        zoom_key, place_key, mirror_key, contrast_key, light_key = jax.random.split(key, 5)
        zoom = jax.random.uniform(zoom_key, (2,), minval=allowed.zoom[0], maxval=allowed.zoom[1])
        # A part of the image may lie anywhere in it; what is larger than the image shows its edges.
        place = jax.random.uniform(place_key, (2,), minval=-1.0, maxval=1.0) * jnp.abs(1 - zoom)
        rows, columns = resampling(height, zoom[0], place[0]), resampling(width, zoom[1], place[1])
        if allowed.mirror:
            columns = jnp.where(jax.random.bernoulli(mirror_key), columns[::-1], columns)
        image = jnp.einsum("ab,bcd,ec->aed", rows, image, columns)
        if allowed.light:
            contrast = 1 + allowed.light * jax.random.uniform(contrast_key, minval=-1.0, maxval=1.0)
            image = image * contrast + allowed.light * jax.random.uniform(light_key, minval=-1.0, maxval=1.0)
        return image

    return jax.vmap(one)(images, jax.random.split(key, images.shape[0]))


def resampling(size: int, zoom: jax.Array, place: jax.Array) -> jax.Array:
    """[size, size]: rows that read a line of pixels between its pixels, by linear interpolation. `zoom` is the part of the line
    that is read; `place` moves it by so many halves of the line."""
    middle = (size - 1) / 2
    position = middle * (1 + place) + (jnp.arange(size) - middle) * zoom
    position = jnp.clip(position, 0, size - 1)
    return jnp.maximum(0.0, 1 - jnp.abs(position[:, None] - jnp.arange(size)[None]))
