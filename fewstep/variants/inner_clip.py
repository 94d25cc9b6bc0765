"""Inner steps of bounded length: an adaptation that meets a task unlike all others cannot run away.

The inner gradient is shortened to a norm of at most `limit` before the inner optimizer sees it (Pascanu, Mikolov & Bengio
2013, arXiv 1211.5063). Learned rates grow until they are right for most tasks; for a few they are then far too large, and
what five such steps lead to is a loss of 1e25, and no meta-gradient that could say so. Not optax's `clip_by_global_norm`,
whose derivative is not a number where the gradient is 0, as on an empty support set."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fewstep.core.maml import InnerOptimizer
from fewstep.core.types import Params


def clip_inner_gradient(optimizer: InnerOptimizer, limit: float) -> InnerOptimizer:
    """`optimizer` after shortening gradients to the norm `limit`; shorter ones are left as they are, bit for bit."""

    def shortened(updates: Params, params: Params = None) -> Params:
        del params
        square = optax.tree.norm(updates, squared=True)
        times = jnp.where(square > limit**2, limit / jnp.sqrt(jnp.maximum(square, limit**2)), 1.0)
        return jax.tree.map(lambda leaf: leaf * times.astype(leaf.dtype), updates)

    def both(inner: Any) -> optax.GradientTransformation:
        known = optimizer if isinstance(optimizer, optax.GradientTransformation) else optimizer(inner)
        return optax.chain(optax.stateless(shortened), known)

    return both
