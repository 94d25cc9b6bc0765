"""Classic models of images (floor 2): the class whose mean is nearest, of pixels or of histograms of oriented gradients."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.nn.heads import class_means
from fewstep.types import Episode

BINS, CELLS = 9, 8
"""of directions of a gradient between 0 and 180 degrees; about so many cells along each side of an image"""


def flat(images: jax.Array) -> jax.Array:
    """[images, height, width, channels] -> [images, numbers]: the pixels themselves."""
    return images.reshape(images.shape[0], -1)


def oriented_gradients(images: jax.Array) -> jax.Array:
    """[images, height, width, channels] -> [images, numbers]: histograms of oriented gradients (Dalal & Triggs 2005).

    At each pixel the channel with the greatest gradient counts. Its length is shared by linear interpolation between the two
    nearest of `BINS` directions without sign, and summed over square cells; blocks of 2 × 2 cells are brought to length 1. Rows
    and columns of pixels that fill no cell are cut off.
    """
    height, width = images.shape[1:3]
    cell = max(2, min(height, width) // CELLS)
    padded = jnp.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
    down, across = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1], padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    size = jnp.sqrt(jnp.square(down) + jnp.square(across))
    steepest = jnp.argmax(size, -1, keepdims=True)
    down, across, size = (jnp.take_along_axis(each, steepest, -1)[..., 0] for each in (down, across, size))
    place = jnp.mod(jnp.arctan2(down, across), jnp.pi) * (BINS / jnp.pi)  # [0, BINS], a circle
    rows, columns = height // cell, width // cell

    def histogram(number: jax.Array) -> jax.Array:
        away = jnp.abs(place - number)
        share = size * jnp.maximum(0.0, 1.0 - jnp.minimum(away, BINS - away))
        share = share[:, : rows * cell, : columns * cell]
        return share.reshape(-1, rows, cell, columns, cell).sum((2, 4))

    cells = jnp.moveaxis(jax.lax.map(histogram, jnp.arange(BINS, dtype=jnp.float32)), 0, -1)
    blocks = jnp.concatenate([cells[:, :-1, :-1], cells[:, :-1, 1:], cells[:, 1:, :-1], cells[:, 1:, 1:]], -1)
    blocks = blocks / jnp.sqrt(jnp.sum(jnp.square(blocks), -1, keepdims=True) + 1e-6)
    return flat(blocks)


def nearest_mean(features: Callable[[jax.Array], jax.Array]) -> Callable[[Episode], np.ndarray]:
    """Episodes that lead with [episodes] -> minus the squared distance [episodes, queries, classes] to each class's mean."""

    def one(episode: Episode) -> jax.Array:
        support, query = episode
        means, asked = class_means(features(support.inputs), support), features(query.inputs)
        return -jnp.sum(jnp.square(asked[:, None] - means[None]), -1)

    program = jax.jit(lambda episodes: jax.lax.map(one, episodes))
    return lambda episodes: np.asarray(program(episodes))
