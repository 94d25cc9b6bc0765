"""The residual network of few-shot image classification, in flax.nnx: ResNet-12, without a last layer.

Oreshkin et al. 2018 (TADAM, arXiv 1805.10123), in the form of Lee et al. 2019 (MetaOptNet, arXiv 1904.03758, section
4.1): four blocks, each of three 3 × 3 convolutions beside a 1 × 1 one, then 2 × 2 max-pooling. Their DropBlock is left
out: adaptation would see other weights in every step."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from fewstep.core.types import Network
from fewstep.errors import InputError
from fewstep.nn.conv4 import GROUP_SIZE, POOL, made_once, network_of, normalize
from fewstep.nn.fast_pool import largest

SLOPE = 0.1
"""of the leaky ReLU below 0"""


@made_once
def resnet12(
    image: tuple[int, int, int],
    filters: tuple[int, ...] = (64, 160, 320, 640),
    normalization: Literal["group", "batch"] = "group",
) -> Network:
    """`apply` maps images [examples, height, width, channels] to features [examples, filters[-1]], means over all places.

    One block for each of `filters`, which halves height and width. Normalization is that of `conv4`: by 'group' it looks at
    each image alone, by 'batch' at the very batch. Raises `InputError` where nothing of an image would be left, or where groups
    of channels do not divide the filters.
    """
    from flax import nnx

    height, width, channels = image
    if min(height, width) < 2 ** len(filters):
        raise InputError(
            f"resnet12: expected images of at least {2 ** len(filters)} by {2 ** len(filters)}, since each of {len(filters)} "
            f"blocks halves them, got {height} by {width}. Enlarge the images, or give fewer filters."
        )
    if normalization == "group" and any(size > GROUP_SIZE and size % GROUP_SIZE for size in filters):
        raise InputError(f"resnet12: expected multiples of {GROUP_SIZE} filters, the channels of a group, got {filters}.")
    # As in the authors' code: the variance of what goes back through a convolution is kept.
    spread = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")

    class Convolution(nnx.Module):
        """Without a constant of its own: the shift stands in its place."""

        def __init__(self, before: int, after: int, size: int, rngs: nnx.Rngs):
            self.convolve = nnx.Conv(before, after, (size, size), use_bias=False, kernel_init=spread, rngs=rngs)
            self.scale = nnx.Param(jnp.ones((1, 1, 1, after)))
            self.shift = nnx.Param(jnp.zeros((1, 1, 1, after)))

        def __call__(self, x: jax.Array) -> jax.Array:
            return normalize(self.convolve(x), normalization) * self.scale[...] + self.shift[...]

    class Block(nnx.Module):
        def __init__(self, before: int, after: int, rngs: nnx.Rngs):
            self.path = nnx.List(Convolution(size, after, 3, rngs) for size in (before, after, after))
            self.shortcut = Convolution(before, after, 1, rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            first, second, third = self.path
            inside = third(leaky(second(leaky(first(x)))))
            return largest(leaky(inside + self.shortcut(x)), POOL, POOL, (1, 1, 1, 1))

    class ResNet12(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            sizes = zip((channels, *filters[:-1]), filters, strict=True)
            self.blocks = nnx.List(Block(before, after, rngs) for before, after in sizes)

        def __call__(self, x: jax.Array) -> jax.Array:
            for block in self.blocks:
                x = block(x)
            return jnp.mean(x, (1, 2))

    return network_of(ResNet12)


def leaky(x: jax.Array) -> jax.Array:
    return jax.nn.leaky_relu(x, SLOPE)
