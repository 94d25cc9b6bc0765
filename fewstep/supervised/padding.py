"""Rows of many units as one padded array, so that a fleet is adapted in one compiled call."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.core.types import Examples


def within_units(owner: np.ndarray) -> np.ndarray:
    """[rows]: the place of each row among those of its unit."""
    order = np.argsort(owner, kind="stable")
    starts = np.concatenate([[0], np.flatnonzero(np.diff(owner[order])) + 1])[: owner.size]
    lengths = np.diff(np.append(starts, owner.size))
    place = np.empty(owner.size, int)
    place[order] = np.arange(owner.size) - np.repeat(starts, lengths)
    return place


def stack_units(
    inputs: np.ndarray, targets: np.ndarray, owner: np.ndarray, units: int, known: np.ndarray | None = None
) -> Examples:
    """Rows as [units, rows, ...], padded with weight 0 to a bucket. Where some targets are not `known` [rows, outputs], weights
    are [units, rows, outputs]."""
    place = within_units(owner)
    size = (units, bucket(int(place.max(initial=0)) + 1))
    stacked = Examples(
        np.zeros((*size, inputs.shape[1]), np.float32),  # type: ignore[arg-type]
        np.zeros((*size, targets.shape[1]), np.float32),  # type: ignore[arg-type]
        np.zeros(size if known is None else (*size, targets.shape[1]), np.float32),  # type: ignore[arg-type]
    )
    for array, values in zip(stacked, (inputs, targets, 1.0 if known is None else known), strict=True):
        array[owner, place] = values  # type: ignore[index]
    return stacked


def pad_units(support: Examples, units: int) -> Examples:
    """`support` [units, ...] with units without rows appended, so that few shapes have to be compiled."""
    return Examples(*(np.pad(leaf, [(0, units - leaf.shape[0])] + [(0, 0)] * (leaf.ndim - 1)) for leaf in support))  # type: ignore[arg-type]


def pad(examples: Examples, size: int) -> Examples:
    """`examples` with rows of weight 0 appended up to `size` rows, so that few shapes have to be compiled."""
    missing = size - examples.weight.shape[0]
    return jax.tree.map(lambda leaf: jnp.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1)), examples)


def bucket(count: int) -> int:
    """The padded size for `count` rows: the next power of two, at least 8."""
    return max(8, 1 << (count - 1).bit_length())
