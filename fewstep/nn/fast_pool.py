"""Max-pooling whose derivatives are fast, in any model, unchanged.

The derivative of a sliding window's maximum looks for the place of the maximum, window by window, which backends do
slowly, and its own derivative is slower still. Taken axis by axis, both are elementwise."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fewstep.core.jaxpr import rewritten

MOST_PLACES = 25
"""Larger windows stay as they are."""


def fast_pooling(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its max-pooling in the form of `largest`. Put it inside a gradient: around the loss."""
    return rewritten(function, {"reduce_window_max": max_pooling}, differentiated=False)


def max_pooling(x: jax.Array, *, window_dimensions, window_strides, padding, base_dilation, window_dilation) -> jax.Array:
    """`lax.reduce_window` of `lax.max`, whose arguments these are."""
    if any(spread != 1 for spread in base_dilation) or math.prod(window_dimensions) > MOST_PLACES:
        return lax.reduce_window(
            x, -jnp.inf, lax.max, window_dimensions, window_strides, padding, base_dilation, window_dilation
        )
    lowest = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    x = lax.pad(x, jnp.asarray(lowest, x.dtype), [(low, high, 0) for low, high in padding])
    return largest(x, tuple(window_dimensions), tuple(window_strides), tuple(window_dilation))


def largest(x: jax.Array, window: tuple[int, ...], strides: tuple[int, ...], dilation: tuple[int, ...]) -> jax.Array:
    """The largest of every window; of equals the first, which alone has a derivative, as in `lax.reduce_window`. Axis by axis,
    the last one first: so that of equals in several rows the one in the first row is found."""
    for axis in reversed(range(x.ndim)):
        size, stride, step = window[axis], strides[axis], dilation[axis]
        if size == stride == 1:
            continue
        count = (x.shape[axis] - (size - 1) * step - 1) // stride + 1
        if size == stride and step == 1:  # windows side by side are an axis of a reshaped array: no cutting, no padding back
            side_by_side = lax.slice_in_dim(x, 0, count * size, axis=axis)
            side_by_side = side_by_side.reshape(*x.shape[:axis], count, size, *x.shape[axis + 1 :])
            x = largest_along(side_by_side, axis + 1)
        else:
            starts = [at * step for at in range(size)]
            places = [lax.slice_in_dim(x, start, start + (count - 1) * stride + 1, stride, axis) for start in starts]
            x = reduce(lambda best, found: jnp.where(found > best, found, best), places)
    return x


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def largest_along(x: jax.Array, axis: int) -> jax.Array:
    """The largest along an axis. As a reduction, not a chain of choices: XLA would compute the chain again for each that reads
    its result, in whatever order that reads it."""
    return jnp.max(x, axis)


@largest_along.defjvp
def _largest_along_jvp(axis, primals, tangents):
    (x,), (dot,) = primals, tangents
    # By order, not by what equals the largest: XLA may compute x once for the reduction and again here, rounded otherwise.
    best, slope = (lax.index_in_dim(each, 0, axis, keepdims=False) for each in (x, dot))
    for at in range(1, x.shape[axis]):
        value, change = (lax.index_in_dim(each, at, axis, keepdims=False) for each in (x, dot))
        higher = value > best
        best, slope = jnp.where(higher, value, best), jnp.where(higher, change, slope)
    return largest_along(x, axis), slope
