"""Training images varied at random (floor 1): the same thing photographed again, so that few photos teach more.

An image is zoomed, moved, slanted and mirrored by reading its rows and its columns at other places, one after the other, and
its brightness and contrast change. Used by images.py and classes.py, inside the compiled program.
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
    allowed, (height, width) = RANGES[kind], images.shape[1:3]

    def one(image: jax.Array, key: Key) -> jax.Array:
        zoom_key, place_key, slant_key, mirror_key, contrast_key, light_key = jax.random.split(key, 6)
        zoom = jax.random.uniform(zoom_key, (2,), minval=allowed.zoom[0], maxval=allowed.zoom[1])
        # A part of the image may lie anywhere in it; what is larger than the image shows its edges.
        place = jax.random.uniform(place_key, (2,), minval=-1.0, maxval=1.0) * (jnp.abs(1 - zoom) + allowed.move)
        rows, columns = read_at(height, zoom[0], place[0]), read_at(width, zoom[1], place[1])
        if allowed.mirror:
            columns = jnp.where(jax.random.bernoulli(mirror_key), columns[::-1], columns)
        if allowed.slant:
            slant = allowed.slant * jax.random.uniform(slant_key, (2,), minval=-1.0, maxval=1.0)
            image = jnp.einsum("xab,bxc->axc", reading(slanted(rows, slant[0], width), height), image)
            image = jnp.einsum("yab,ybc->yac", reading(slanted(columns, slant[1], height), width), image)
        else:
            image = jnp.einsum("ab,bcd,ec->aed", reading(rows, height), image, reading(columns, width))
        if allowed.light:
            contrast = 1 + allowed.light * jax.random.uniform(contrast_key, minval=-1.0, maxval=1.0)
            image = image * contrast + allowed.light * jax.random.uniform(light_key, minval=-1.0, maxval=1.0)
        return image

    return jax.vmap(one)(images, jax.random.split(key, images.shape[0]))


def read_at(size: int, zoom: jax.Array, place: jax.Array) -> jax.Array:
    """[size]: where on a line of pixels each new pixel is read. `zoom` is the part of the line that is read; `place` moves it
    by so many halves of the line."""
    middle = (size - 1) / 2
    return middle * (1 + place) + (jnp.arange(size) - middle) * zoom


def slanted(positions: jax.Array, slant: jax.Array, lines: int) -> jax.Array:
    """[lines, size]: the same on each of so many lines, which are moved along themselves, those on both sides of the middle in
    opposite ways. Slants of rows and columns by t and −t are nearly a turn by t."""
    return positions[None] + slant * (jnp.arange(lines) - (lines - 1) / 2)[:, None]


def reading(positions: jax.Array, size: int) -> jax.Array:
    """[..., size]: weights of a line's pixels that read it at `positions` [...], by linear interpolation."""
    pixels = jnp.arange(size).reshape((1,) * positions.ndim + (size,))
    return jnp.maximum(0.0, 1 - jnp.abs(jnp.clip(positions, 0, size - 1)[..., None] - pixels))
