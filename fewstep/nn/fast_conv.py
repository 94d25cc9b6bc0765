"""Convolutions that stay fast when every task has its own kernel, in any model, unchanged.

Two things make convolutions of adapted parameters slow. Mapped over tasks by `vmap` they become one *grouped*
convolution, for which backends are ill prepared. And inside a loop, as the inner one, XLA's CPU backend uses its fast
routine for one order of axes only; the derivatives of a convolution come in others, hundreds of times slower. Both can be
seen and mended in a program that is already differentiated: `fast_convolutions(f)` traces `f` and puts every convolution
in another form, equal to rounding.

The forms that a convolution can take, equal to rounding: which is fast depends on shapes, backend and place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from fewstep.core.jaxpr import holds, rewritten, traced


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
        **accuracy(others),
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
    found = jnp.einsum("gpk,gko->pgo", patches, by_group, **accuracy(others))
    return found.reshape(examples, *places, outputs)


def by_places(lhs, rhs, axes, strides, padding, image_spread, kernel_spread, others) -> jax.Array:
    """A product of matrices for each place of the result, where they are few, as in the derivative of a kernel. Axes stay as
    they stand, so that nothing but the cuts is copied: a kernel's derivative is a sum over all places of all images.
    """
    (example, feature, *space), (output, entry, *window), out_spec = axes
    swap = any(gap > 1 for gap in image_spread)
    if swap:  # gaps between the image's places: cut the kernel instead
        sizes, taps = [lhs.shape[axis] for axis in space], [rhs.shape[axis] for axis in window]
        padding = swapped_padding(sizes, taps, strides, padding, image_spread, kernel_spread)
        lhs, rhs, image_spread, kernel_spread = rhs, lhs, kernel_spread, image_spread
        example, feature, space, output, entry, window = output, entry, window, example, feature, space
    edges = [(0, 0, 0)] * lhs.ndim
    for axis, (low, high), gap in zip(space, padding, image_spread, strict=True):
        edges[axis] = (low, high, gap - 1)
    lhs = lax.pad(lhs, jnp.zeros((), lhs.dtype), edges)
    taps = [rhs.shape[axis] for axis in window]
    far = zip(space, spread(taps, kernel_spread), strides, strict=True)
    places = [(lhs.shape[axis] - reach) // stride + 1 for axis, reach, stride in far]
    contracted = sorted(zip([feature, *space], [entry, *window], strict=True))
    kernel, over = as_matrix(rhs, output, [axis for _, axis in contracted])
    parts = []
    for place in itertools.product(*map(range, places)):
        start, stop, every = [0] * lhs.ndim, list(lhs.shape), [1] * lhs.ndim
        for axis, at, stride, size, gap in zip(space, place, strides, taps, kernel_spread, strict=True):
            start[axis], stop[axis], every[axis] = at * stride, at * stride + (size - 1) * gap + 1, gap
        cut, along = as_matrix(lax.slice(lhs, start, stop, every), example, [axis for axis, _ in contracted])
        parts.append(lax.dot_general(cut, kernel, (((along,), (over,)), ((), ())), **accuracy(others)))
    result = jnp.stack(parts).reshape(*places, *parts[0].shape)  # [...places, examples, outputs]
    if swap:
        result = jnp.flip(result, range(len(places))).swapaxes(-1, -2)
    wanted = dict(zip(out_spec, [len(places), len(places) + 1, *range(len(places))], strict=True))
    return result.transpose([wanted[axis] for axis in range(result.ndim)])


def as_matrix(array: jax.Array, free: int, contracted: list[int]) -> tuple[jax.Array, int]:
    """(the array with its `contracted` axes as one, the place of that one)."""
    if free == 0:
        return array.transpose(free, *contracted).reshape(array.shape[free], -1), 1
    return array.transpose(*contracted, free).reshape(-1, array.shape[free]), 0


def accuracy(others) -> dict:
    """What a convolution says of its precision, for the product in its place."""
    return {name: others.get(name) for name in ("precision", "preferred_element_type")}


def padded(images, padding, spread) -> jax.Array:
    """Zeros around the places of the images, and between them; negative numbers cut off."""
    space = [(low, high, gap - 1) for (low, high), gap in zip(padding, spread, strict=True)]
    if not any(any(each) for each in space):
        return images
    return lax.pad(images, jnp.zeros((), images.dtype), [(0, 0, 0), *space, (0, 0, 0)])


def spread(sizes, gaps) -> list[int]:
    """How far places reach that stand so far apart."""
    return [(size - 1) * gap + 1 for size, gap in zip(sizes, gaps, strict=True)]


def swapped_padding(sizes, window, strides, padding, image_spread, kernel_spread) -> list[tuple[int, int]]:
    """Of the same sum with image and kernel in each other's place, and its places in reverse order, by out[p] = Σ image[u]
    kernel[u l + low − p s]: for images smaller than the window, which differentiating a kernel's derivative brings forth."""
    found = []
    reach, long = spread(sizes, image_spread), spread(window, kernel_spread)
    for size, far, stride, (low, high) in zip(reach, long, strides, padding, strict=True):
        last = (low + size + high - far) // stride * stride
        found.append((last - low, size - far + low))
    return found


Lowering = Literal["direct", "matrix", "places"]
"""'direct': a convolution whose axes stand in the order that loops are fast in, for tasks one after the other; 'matrix': a
product of matrices, for many tasks at once (patches gathered, then one product: Chellapilla, Puri & Simard 2006); 'places': a
product for each place of a small result, where it is one (the derivative of a kernel), else as 'direct'"""
Choice = Callable[[str], Lowering]
"""which form a convolution takes, by its `signature`"""


def fast_convolutions(function: Callable[..., Any], lowering: Lowering | Choice = "direct") -> Callable[..., Any]:
    """`function` with its convolutions in the form that `lowering` names, or names for each. Put it around a gradient, not
    inside one: what is differentiated afterwards brings forth new convolutions."""

    def in_form(lhs: jax.Array, rhs: jax.Array, **params: Any) -> jax.Array:
        form = lowering(signature(lhs, rhs, params)) if callable(lowering) else lowering
        return convolution(lhs, rhs, **params, lowering=form)

    return rewritten(function, {"conv_general_dilated": in_form}, differentiated=True)


def has_convolutions(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether `function` makes use of them on such arguments; shapes are enough."""
    return holds(function, "conv_general_dilated", *arguments)


def traced_for_convolutions(function: Callable[..., Any], *arguments: Any) -> tuple[bool, Callable[..., Any]]:
    """(`has_convolutions`, the same function of such arguments, which is not traced again)."""
    return traced(function, "conv_general_dilated", *arguments)


def signature(lhs: Any, rhs: Any, params: dict[str, Any]) -> str:
    """What the speed of a convolution depends on, beside the machine: shapes, axes, strides, padding, dilation, groups."""
    axes = "/".join("".join(map(str, spec)) for spec in params["dimension_numbers"])
    names = ("window_strides", "padding", "lhs_dilation", "rhs_dilation", "feature_group_count", "batch_group_count")
    return f"{lhs.dtype} {lhs.shape} {rhs.shape} {axes} " + " ".join(str(params[name]) for name in names).replace(", ", ",")


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
    """`lax.conv_general_dilated`, whose arguments these are, in the form of `lowering`."""
    lhs_spec, rhs_spec, out_spec = dimension_numbers
    groups = feature_group_count, batch_group_count
    reach = spread([lhs.shape[axis] for axis in lhs_spec[2:]], lhs_dilation)
    long = spread([rhs.shape[axis] for axis in rhs_spec[2:]], rhs_dilation)
    sizes = zip(reach, long, window_strides, padding, strict=True)
    places = [(size + low + high - far) // stride + 1 for size, far, stride, (low, high) in sizes]
    few = math.prod(places) < math.prod(rhs.shape[axis] for axis in rhs_spec[2:])
    if lowering == "places" and few and groups == (1, 1):
        return by_places(lhs, rhs, dimension_numbers, window_strides, padding, lhs_dilation, rhs_dilation, others)
    images = lhs.transpose(lhs_spec[0], *lhs_spec[2:], lhs_spec[1])  # [examples, ...space, channels]
    kernel = rhs.transpose(*rhs_spec[2:], rhs_spec[1], rhs_spec[0])  # [...window, channels, outputs]
    swap = groups == (1, 1) and (math.prod(reach), -images.shape[0]) < (math.prod(long), -kernel.shape[-1])
    if swap:
        sizes = images.shape[1:-1], kernel.shape[:-2]
        padding = swapped_padding(*sizes, window_strides, padding, lhs_dilation, rhs_dilation)
        images, kernel = jnp.moveaxis(kernel, -1, 0), jnp.moveaxis(images, 0, -1)
        lhs_dilation, rhs_dilation = rhs_dilation, lhs_dilation
    if all(stride == 1 for stride in window_strides) and any(gap > 1 for gap in lhs_dilation) and groups == (1, 1):
        result = by_phases(images, kernel, padding, lhs_dilation, rhs_dilation, lowering, others)
    else:
        images = padded(images, [(0, 0)] * len(padding), lhs_dilation)
        result = of_plain(images, kernel, padding, window_strides, rhs_dilation, groups, lowering, others)
    if swap:
        result = jnp.flip(result, range(1, result.ndim - 1)).swapaxes(0, -1)
    order = [out_spec.index(axis) for axis in range(len(out_spec))]  # of (examples, channels, ...space)
    stands = [0, len(order) - 1, *range(1, len(order) - 1)]
    return result.transpose([stands[place] for place in order])


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
