"""A multi-layer perceptron in flax.nnx as a pair of pure functions. Used by the sine and table problems."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import jax

from fewstep.core.types import Network
from fewstep.nn.conv4 import made_once, network_of

GLOROT = jax.nn.initializers.glorot_uniform()


@made_once
def mlp(
    sizes: Sequence[int],
    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu,
    kernel_init: Callable = GLOROT,
    last_activation: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> Network:
    """Dense layers of the given `sizes` (inputs, hidden ..., outputs), `activation` between them, `last_activation` at the end.

    Biases start at zero. The default kernels are uniform in (−a, a), a = √(6 / (fan in + fan out)): the Glorot bound.
    `apply` maps [examples, sizes[0]] to [examples, sizes[-1]]; parameters are nested dicts of arrays.
    """
    from flax import nnx  # here, so that `import fewstep` need not wait for it

    class MLP(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.layers = nnx.List(
                nnx.Linear(fan_in, fan_out, kernel_init=kernel_init, rngs=rngs) for fan_in, fan_out in itertools.pairwise(sizes)
            )

        def __call__(self, x: jax.Array) -> jax.Array:
            for layer in self.layers[:-1]:
                x = activation(layer(x))
            return last_activation(self.layers[-1](x))

    return network_of(MLP)
