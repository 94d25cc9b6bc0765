"""Convolutions that stay fast when every task has its own kernel (floor 1), in any model, unchanged.

Two things make convolutions of adapted parameters slow. Mapped over tasks by `vmap` they become one *grouped* convolution, for
which backends are ill prepared. And inside a loop, as the inner one, XLA's CPU backend uses its fast routine for one order of
axes only; the derivatives of a convolution come in others, hundreds of times slower. Both can be seen and mended in a program
that is already differentiated: `fast_convolutions(f)` traces `f` and puts every convolution in another form, equal to rounding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from fewstep.nn.rewriting import rewritten

Lowering = Literal["direct", "matrix"]
"""'direct': a convolution whose axes stand in the order that loops are fast in, for tasks one after the other; 'matrix': a
product of matrices, for many tasks at once (patches gathered, then one product: Chellapilla, Puri & Simard 2006)"""


def fast_convolutions(function: Callable[..., Any], lowering: Lowering = "direct") -> Callable[..., Any]:
    """`function` with its convolutions in the form that `lowering` names. Put it around a gradient, not inside one: what is
    differentiated afterwards brings forth new convolutions."""
    return rewritten(function, {"conv_general_dilated": partial(convolution, lowering=lowering)}, differentiated=True)


def convolution(
    lhs: jax.Array,
    rhs: jax.Array,
    *,
    window_strides: tuple[int, ...],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: tuple[int, ...],
    rhs_dilation: tuple[int, ...],
    dimension_numbers: Any,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    lowering: Lowering = "direct",
    **others: Any,
) -> jax.Array:
    """`lax.conv_general_dilated`, whose arguments these are, by way of `lowering`."""
    lhs_spec, rhs_spec, out_spec = dimension_numbers
    images = lhs.transpose(lhs_spec[0], *lhs_spec[2:], lhs_spec[1])  # [examples, ...space, channels]
    kernel = rhs.transpose(*rhs_spec[2:], rhs_spec[1], rhs_spec[0])  # [...window, channels, outputs]
    swap = math.prod(images.shape[1:-1]) < math.prod(kernel.shape[:-2]) and feature_group_count == batch_group_count == 1
    if swap:
        images, kernel, padding, lhs_dilation, rhs_dilation = swapped(
            images, kernel, window_strides, padding, lhs_dilation, rhs_dilation
        )
    groups = feature_group_count, batch_group_count
    if all(stride == 1 for stride in window_strides) and any(spread > 1 for spread in lhs_dilation) and groups == (1, 1):
        result = by_phases(images, kernel, padding, lhs_dilation, rhs_dilation, lowering, others)
    else:
        images = padded(images, [(0, 0)] * len(padding), lhs_dilation)
        result = of_plain(images, kernel, padding, window_strides, rhs_dilation, groups, lowering, others)
    if swap:
        result = jnp.flip(result, range(1, result.ndim - 1)).swapaxes(0, -1)
    order = [out_spec.index(axis) for axis in range(len(out_spec))]  # of (examples, channels, ...space)
    stands = [0, len(order) - 1, *range(1, len(order) - 1)]
    return result.transpose([stands[place] for place in order])


def swapped(images, kernel, strides, padding, image_spread, kernel_spread):
    """The same sum with image and kernel in each other's place, and its places in reverse order, by out[p] = Σ image[u]
    kernel[u l + low − p s]: for images smaller than the window, which differentiating a kernel's derivative brings forth."""
    swapped_padding = []
    for size, window, stride, (low, high), spread, step in zip(
        images.shape[1:-1], kernel.shape[:-2], strides, padding, image_spread, kernel_spread, strict=True
    ):
        reach, long = (size - 1) * spread + 1, (window - 1) * step + 1
        last = (low + reach + high - long) // stride * stride
        swapped_padding.append((last - low, reach - long + low))
    return jnp.moveaxis(kernel, -1, 0), jnp.moveaxis(images, 0, -1), swapped_padding, kernel_spread, image_spread


def by_phases(images, kernel, padding, image_spread, kernel_spread, lowering, others) -> jax.Array:
    """The convolution of images with gaps between their places (the derivative of a strided convolution), without multiplying
    by the gaps: the places p = r, r + l, r + 2 l ... meet the same taps, and are one small convolution for each phase r < l."""
    axes = range(len(padding))
    reaches = [(images.shape[1 + axis] - 1) * image_spread[axis] + 1 + sum(padding[axis]) for axis in axes]
    sizes = [reaches[axis] - (kernel.shape[axis] - 1) * kernel_spread[axis] for axis in axes]
    whole = [-(-size // spread) for size, spread in zip(sizes, image_spread, strict=True)]
    phases = []
    for phase in itertools.product(*map(range, image_spread)):
        part, ends, steps = kernel, [], []
        for axis in axes:
            # Tap t of place r + l q meets the image's place q + (r + t · step − low) / l, where that is a whole number.
            meets = [phase[axis] + tap * kernel_spread[axis] - padding[axis][0] for tap in range(kernel.shape[axis])]
            taps = [tap for tap, place in enumerate(meets) if place % image_spread[axis] == 0] or [0]
            apart = taps[1] - taps[0] if len(taps) > 1 else 1
            start, step = meets[taps[0]] // image_spread[axis], apart * kernel_spread[axis] // image_spread[axis] or 1
            part = lax.slice_in_dim(part, taps[0], taps[-1] + 1, apart, axis)
            part = part if meets[taps[0]] % image_spread[axis] == 0 else jnp.zeros_like(part)  # a phase that meets no tap
            ends.append((-start, start + whole[axis] + (len(taps) - 1) * step - images.shape[1 + axis]))
            steps.append(step)
        phases.append(of_plain(images, part, ends, (1,) * len(steps), tuple(steps), (1, 1), lowering, others))
    together = jnp.stack(phases).reshape(*image_spread, images.shape[0], *whole, -1)
    space = len(sizes)
    order = [space, *(place for axis in axes for place in (space + 1 + axis, axis)), 2 * space + 1]
    spread_out = [count * spread for count, spread in zip(whole, image_spread, strict=True)]
    together = together.transpose(order).reshape(images.shape[0], *spread_out, -1)
    return together[(slice(None), *(slice(size) for size in sizes))]


def of_plain(images, kernel, padding, strides, dilation, groups, lowering, others) -> jax.Array:
    """The convolution of images without gaps; `padding` may be negative."""
    if lowering == "matrix" and groups[1] == 1:
        return by_matrix(padded(images, padding, (1,) * len(padding)), kernel, strides, dilation, groups[0], others)
    # Padding is left to the convolution: beside a change of axes, XLA makes of it a loop over single numbers.
    cut = [(min(low, 0), min(high, 0)) for low, high in padding]
    filled = [(max(low, 0), max(high, 0)) for low, high in padding]
    return direct(padded(images, cut, (1,) * len(padding)), kernel, filled, strides, dilation, groups, others)


def padded(images, padding, spread) -> jax.Array:
    """Zeros around the places of the images, and between them; negative numbers cut off."""
    space = [(low, high, gap - 1) for (low, high), gap in zip(padding, spread, strict=True)]
    if not any(any(each) for each in space):
        return images
    return lax.pad(images, jnp.zeros((), images.dtype), [(0, 0, 0), *space, (0, 0, 0)])


def direct(images, kernel, padding, strides, dilation, groups, others) -> jax.Array:
    """The convolution with its axes in the order in which XLA's CPU backend is fast inside loops."""
    letters = "DHW"[-len(strides) :]
    return lax.conv_general_dilated(
        images,
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=groups[0],
        batch_group_count=groups[1],
        precision=others.get("precision"),
        preferred_element_type=others.get("preferred_element_type"),
    )


def by_matrix(images, kernel, strides, dilation, groups, others) -> jax.Array:
    """Patches [examples · places, window · channels] times the kernel: under `vmap`, products of matrices side by side."""
    *window, channels, outputs = kernel.shape
    examples, taps = images.shape[0], math.prod(window)
    reach = [(size - 1) * step + 1 for size, step in zip(window, dilation, strict=True)]
    places = [(size - far) // stride + 1 for size, far, stride in zip(images.shape[1:-1], reach, strides, strict=True)]
    # Cut out by tap (its value at all places), or by place (all taps there): whichever are fewer, as in a kernel's derivative.
    by_tap, by_place = (window, places, dilation, strides), (places, window, strides, dilation)
    counts, of_each, step, apart = by_tap if taps <= math.prod(places) else by_place
    cuts = []
    for index in itertools.product(*map(range, counts)):
        start = [at * size for at, size in zip(index, step, strict=True)]
        stop = [at + (count - 1) * size + 1 for at, count, size in zip(start, of_each, apart, strict=True)]
        cut = lax.slice(images, (0, *start, 0), (examples, *stop, images.shape[-1]), (1, *apart, 1))
        cuts.append(cut.reshape(examples, -1, images.shape[-1]))
    patches = jnp.stack(cuts, axis=2 if counts is window else 1)  # [examples, places, taps, groups · channels]
    patches = patches.reshape(-1, taps, groups, channels).transpose(2, 0, 1, 3).reshape(groups, -1, taps * channels)
    by_group = kernel.reshape(taps * channels, groups, outputs // groups).transpose(1, 0, 2)
    found = jnp.einsum(
        "gpk,gko->pgo",
        patches,
        by_group,
        precision=others.get("precision"),
        preferred_element_type=others.get("preferred_element_type"),
    )
    return found.reshape(examples, *places, outputs)
