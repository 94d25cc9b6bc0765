"""Training images varied at random (floor 1): the same thing photographed again, so that few photos teach more.

An image is zoomed, moved, slanted and mirrored by reading it at other places, and its brightness and contrast change.
Used by images.py and classes.py, inside the compiled program.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from fewstep.types import Key

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


def varied(images: jax.Array, kind: Variation, key: Key) -> jax.Array:
    """[images, height, width, channels] float32, each varied on its own; beyond its edge an image goes on as at the edge."""
    if kind == "none":
        return images
    allowed = RANGES[kind]

    def one(image: jax.Array, key: Key) -> jax.Array:
        view_key, contrast_key, light_key = jax.random.split(key, 3)
        image = read_at(image, *view(allowed, image.shape[0], image.shape[1], view_key))
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
    return placed(zoom, place, slant, height, width)


def placed(zoom: jax.Array, place: jax.Array, slant: jax.Array, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """(rows, columns), both [height, width], of a view. Arguments are [2], of rows and of columns: `zoom` is the part that is
    seen, mirrored where negative; `place` moves it by so many halves of the image; `slant` moves a line along itself, as a
    part of its distance from the middle. Slants by t and −t are nearly a turn by t."""
    middle = (height - 1) / 2, (width - 1) / 2
    down, right = jnp.arange(height)[:, None] - middle[0], jnp.arange(width)[None, :] - middle[1]
    columns = middle[1] * place[1] + zoom[1] * right + slant[1] * down
    rows = middle[0] * place[0] + zoom[0] * down + slant[0] * columns
    return middle[0] + rows, middle[1] + columns


def read_at(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """[..., channels]: the image [height, width, channels] at `rows` and `columns` [...], by linear interpolation."""
    return jax.vmap(lambda channel: map_coordinates(channel, [rows, columns], order=1, mode="nearest"), 2, -1)(image)
