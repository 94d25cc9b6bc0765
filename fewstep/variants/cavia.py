"""CAVIA (Zintgraf, Shiarlis, Kurin, Hofmann & Whiteson 2019, arXiv 1810.03642): adaptation moves a few numbers alone.

A context c, a vector beside the network's inputs, is all that adaptation moves; every task starts it at 0. The network
itself is shared by all tasks and learned by the outer loop alone. What is known of a task is then `size` numbers, however
large the network: they can be stored, drawn and compared. In the first layer c acts as a bias W_c c, whose directions W_c
are learned.

`Learner(losses.mean_squared_error(with_context(network, 5).apply), …, adaptation_step=moves("context"),
start=fresh_context)`."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fewstep.core.types import Batch, Key, Network, Params
from fewstep.core.validation import kind_of
from fewstep.errors import InputError

CONTEXT = "context"


def with_context(network: Network, size: int) -> Network:
    """`network`, which takes [examples, features + size], as one of [examples, features]: the context follows the features.
    θ is {"context" [size], "network"}."""
    if size < 1:
        raise InputError(f"expected a context of at least one number, got {size}")

    def init(key: Key) -> Params:
        return {CONTEXT: jnp.zeros(size), "network": network.init(key)}

    def apply(params: Params, inputs: jax.Array) -> jax.Array:
        if inputs.ndim != 2:
            raise InputError(f"with_context: expected inputs [examples, features], got the shape {inputs.shape}. Flatten them.")
        context = jnp.broadcast_to(params[CONTEXT], (inputs.shape[0], size))
        return network.apply(params["network"], jnp.concatenate([inputs, context], axis=1))

    return Network(init, apply)


def fresh_context(theta: Params, support: Batch, key: Key) -> Params:
    """The context at 0, whatever θ says of it, as a value for `Learner.start`: its meta-gradient is 0, so it stays there."""
    del support, key
    if not isinstance(theta, dict) or CONTEXT not in theta:
        got = f"entries {sorted(map(str, theta))}" if isinstance(theta, dict) else kind_of(theta)
        raise InputError(
            f"fresh_context: expected parameters with the entry {CONTEXT!r}, got {got}. with_context(network, size).init makes "
            "such parameters."
        )
    return {**theta, CONTEXT: jnp.zeros_like(theta[CONTEXT])}
