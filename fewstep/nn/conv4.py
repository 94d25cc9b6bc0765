"""The four-layer convolutional network of few-shot image classification, in flax.nnx.

Vinyals et al. 2016 (arXiv 1606.04080), as in Finn et al. 2017 (section 5.2): four times 3 × 3 convolution, normalization,
ReLU and either 2 × 2 max-pooling (mini-ImageNet) or a stride of two in the convolution (Omniglot), then one linear layer.

A flax.nnx module as a pair of pure functions. Used by the networks of this folder.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, ParamSpec

import jax
import jax.numpy as jnp

from fewstep.core.types import Key, Network, Params
from fewstep.nn.fast_pool import largest

MOST_NETWORKS = 256
P = ParamSpec("P")


def made_once(build: Callable[P, Network]) -> Callable[P, Network]:
    """`build`, whose last networks are kept by its arguments (lists as tuples): flax and JAX keep something of every class of
    modules, a hundred KiB of it, as long as the process lives, and a process may build the problem of a run thousands of times.
    """
    kept = functools.lru_cache(MOST_NETWORKS)(build)

    @functools.wraps(build)
    def network(*arguments: P.args, **named: P.kwargs) -> Network:
        fixed = lambda value: tuple(value) if isinstance(value, list) else value  # noqa: E731
        return kept(*map(fixed, arguments), **{name: fixed(value) for name, value in named.items()})

    return network


def network_of(make: Callable[[Any], Any]) -> Network:
    """The `Network` of `make(rngs)`, a flax.nnx module whose only state is its parameters: nested dicts of arrays."""
    from flax import nnx  # here, so that `import fewstep` need not wait for it

    def init(key: Key) -> Params:
        return nnx.to_pure_dict(nnx.state(make(nnx.Rngs(key)), nnx.Param))

    graph, abstract = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))

    def apply(params: Params, inputs: jax.Array) -> jax.Array:
        state = jax.tree.map(lambda variable: variable, abstract)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state)(inputs)

    return Network(init, apply)


GROUP_SIZE = 16
"""channels of a group in group normalization"""
POOL = (1, 2, 2, 1)


@made_once
def conv4(
    image: tuple[int, int, int],
    classes: int | None,
    filters: int = 64,
    reduction: Literal["pool", "stride"] = "pool",
    normalization: Literal["group", "batch"] = "group",
    layers: int = 4,
    average: bool = False,
) -> Network:
    """`apply` maps images [examples, height, width, channels] to logits [examples, classes]; where `classes` is None to what
    the last linear layer would see, [examples, features]: all places of all filters, or their `average` over places.

    Normalization by 'group' (Wu & He 2018) looks at each image alone. By 'batch' it takes the statistics of the very batch, as
    the published figures do: predictions of a query set then depend on one another (they are transductive).
    """
    from flax import nnx

    height, width, channels = image

    class Conv4(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            strides = 2 if reduction == "stride" else 1
            inputs = [channels, *[filters] * (layers - 1)]
            self.convolutions = nnx.List(
                nnx.Conv(size, filters, (3, 3), strides=strides, padding="SAME", rngs=rngs) for size in inputs
            )
            self.scales = nnx.List(nnx.Param(jnp.ones((1, 1, 1, filters))) for _ in inputs)
            self.shifts = nnx.List(nnx.Param(jnp.zeros((1, 1, 1, filters))) for _ in inputs)
            shrink = (lambda size: -(-size // 2)) if reduction == "stride" else (lambda size: size // 2)
            high, wide = height, width
            for _ in inputs:
                high, wide = shrink(high), shrink(wide)
            size = filters if average else high * wide * filters
            self.last = None if classes is None else nnx.Linear(size, classes, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            for convolve, scale, shift in zip(self.convolutions, self.scales, self.shifts, strict=True):
                x = jax.nn.relu(normalize(convolve(x), normalization) * scale[...] + shift[...])
                x = largest(x, POOL, POOL, (1, 1, 1, 1)) if reduction == "pool" else x
            x = jnp.mean(x, (1, 2)) if average else x.reshape(x.shape[0], -1)
            return x if self.last is None else self.last(x)

    return network_of(Conv4)


def normalize(x: jax.Array, by: Literal["group", "batch"], epsilon: float = 1e-5) -> jax.Array:
    """Mean 0 and variance 1 of [examples, height, width, channels]: each image's groups of channels, or each channel of all."""
    over = (0, 1, 2) if by == "batch" else (1, 2)
    places, group = math.prod(x.shape[axis] for axis in over), 1 if by == "batch" else min(GROUP_SIZE, x.shape[3])

    def mean(values: jax.Array) -> jax.Array:
        """Of each channel first, then of its group: a reduction that leaves the last axis whole is twice as fast."""
        by_channel = jnp.sum(values, over, keepdims=True) / places
        by_group = jnp.mean(by_channel.reshape(*by_channel.shape[:3], -1, group), -1, keepdims=True)
        return jnp.broadcast_to(by_group, (*by_group.shape[:4], group)).reshape(by_channel.shape)

    centered = x - mean(x)
    return centered * jax.lax.rsqrt(mean(jnp.square(centered)) + epsilon)
