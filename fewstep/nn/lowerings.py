"""The forms that a convolution can take, equal to rounding (floor 1): which is fast depends on shapes, backend and place."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax


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
