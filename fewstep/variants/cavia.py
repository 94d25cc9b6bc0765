"""CAVIA (Zintgraf, Shiarlis, Kurin, Hofmann & Whiteson 2019, arXiv 1810.03642): adaptation moves a few numbers alone (floor 2).

A context c, a vector beside the network's inputs, is all that adaptation moves; every task starts it at 0. The network itself
is shared by all tasks and learned by the outer loop alone. What is known of a task is then `size` numbers, however large the
network: they can be stored, drawn and compared. In the first layer c acts as a bias W_c c, whose directions W_c are learned.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.ad_checkpoint import checkpoint_name

from fewstep.errors import BadInput
from fewstep.maml import INNER_GRADIENT, InnerOptimizer, Learner
from fewstep.types import Batch, Key, Network, Params

CONTEXT = "context"


def with_context(network: Network, size: int) -> Network:
    """`network`, which takes [examples, features + size], as one of [examples, features]: the context follows the features.
    θ is {"context" [size], "network"}."""
    if size < 1:
        raise ValueError(f"expected a context of at least one number, got {size}")

    def init(key: Key) -> Params:
        return {CONTEXT: jnp.zeros(size), "network": network.init(key)}

    def apply(params: Params, inputs: jax.Array) -> jax.Array:
        if inputs.ndim != 2:
            raise BadInput(f"with_context: expected inputs [examples, features], got the shape {inputs.shape}. Flatten them.")
        context = jnp.broadcast_to(params[CONTEXT], (inputs.shape[0], size))
        return network.apply(params["network"], jnp.concatenate([inputs, context], axis=1))

    return Network(init, apply)


def fresh_context(theta: Params, support: Batch, key: Key) -> Params:
    """The context at 0, whatever θ says of it, as a value for `Learner.start`: its meta-gradient is 0, so it stays there."""
    del support, key
    return {**theta, CONTEXT: jnp.zeros_like(theta[CONTEXT])}


def move_context(
    learner: Learner, optimizer: optax.GradientTransformation, state: tuple[Params, Any], support: Batch, key: Key
) -> tuple[Params, Any]:
    """One step of the inner optimizer on the context alone, as a value for `Learner.adaptation_step`.

    For the optimizer, which is one for θ, the gradient of all else is 0; `context_optimizer` makes such of one for the context.
    """
    adapted, opt_state = state

    def loss(context: jax.Array, support: Batch, key: Key) -> jax.Array:
        return learner.loss({**adapted, CONTEXT: context}, support, key)

    gradient = checkpoint_name(learner.inner_gradient(loss)(adapted[CONTEXT], support, key), INNER_GRADIENT)
    gradients = {**jax.tree.map(jnp.zeros_like, adapted), CONTEXT: gradient}
    updates, opt_state = optimizer.update(gradients, opt_state, adapted)
    moved = optax.apply_updates(adapted[CONTEXT], updates[CONTEXT])  # type: ignore[index]
    return {**adapted, CONTEXT: moved}, opt_state


def context_optimizer(optimizer: InnerOptimizer) -> InnerOptimizer:
    """An inner optimizer for θ of one for the context: what it learns (rates, curvature) need not know the network.

    `Learner(…, context_optimizer(meta_sgd), …)` goes with `MetaParams(theta, log_rates(theta["context"], rate))`.
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        return lambda inner: _of_context(optimizer(inner))
    return _of_context(optimizer)


def _of_context(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        moved, state = optimizer.update(updates[CONTEXT], state, None if params is None else params[CONTEXT])
        return {**jax.tree.map(jnp.zeros_like, updates), CONTEXT: moved}, state

    return optax.GradientTransformation(lambda params: optimizer.init(params[CONTEXT]), update)  # type: ignore[index]
