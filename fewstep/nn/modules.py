"""A flax.nnx module as a pair of pure functions (floor 1). Used by the networks of this folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from fewstep.types import Key, Network, Params


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
