"""A flax.nnx module as a pair of pure functions (floor 1). Used by the networks of this folder."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import jax

from fewstep.types import Key, Network, Params

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
