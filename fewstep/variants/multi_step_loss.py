"""Multi-step loss (Antoniou et al. 2019, MAML++, arXiv 1810.09502, section 4): every adaptation step is judged (floor 2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fewstep.maml import Learner, Objective, adaptation_path
from fewstep.types import Episode, Key, MetaParams


def multi_step_loss(until: int) -> Objective:
    """Σ_k w_k L(θ_k, query) over the adaptation steps k = 1 … K, as a value for `Learner.objective`.

    At meta-step 0 all steps weigh the same; the weight moves linearly to the last step, which alone counts from
    meta-step `until` on. Judging the early steps steadies the first part of training; it costs K query passes.
    """

    def objective(learner: Learner, params: MetaParams, episode: Episode, key: Key, step: jax.Array) -> jax.Array:
        adapt_key, query_key = jax.random.split(key)
        path = adaptation_path(learner, params, episode.support, adapt_key)
        steps = jax.tree.map(lambda leaf: leaf[1:], path)
        losses = jax.vmap(lambda adapted: learner.loss(adapted, episode.query, query_key))(steps)
        return jnp.dot(step_weights(learner.adaptation_steps, step, until), losses)

    return objective


def step_weights(adaptation_steps: int, step: jax.Array, until: int) -> jax.Array:
    """w [adaptation_steps]: from uniform at meta-step 0 to (0, …, 0, 1) at meta-step `until`. They sum to 1."""
    remaining = jnp.clip(1.0 - step / max(until, 1), 0.0, 1.0)
    last = jnp.zeros(adaptation_steps).at[-1].set(1.0)
    return remaining / adaptation_steps + (1.0 - remaining) * last
