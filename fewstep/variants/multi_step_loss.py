"""Multi-step loss (Antoniou et al. 2019, MAML++, arXiv 1810.09502, section 4): every adaptation step is judged."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fewstep.core.maml import Learner, Objective, adaptation_path
from fewstep.core.types import Episode, Key, MetaParams
from fewstep.nn.fast_conv import has_convolutions


def multi_step_loss(until: int) -> Objective:
    """Σ_k w_k L(θ_k, query) over the adaptation steps k = 1 … K, as a value for `Learner.objective`.

    At meta-step 0 all steps weigh the same; the weight moves linearly to the last step, which alone counts from
    meta-step `until` on. Judging the early steps steadies the first part of training; it costs K query passes: in a model with
    convolutions only as long as the early steps count.
    """
    length = jnp.full(1, until, float)  # an array is an argument of a compiled program, for which a number is a constant

    def objective(learner: Learner, params: MetaParams, episode: Episode, key: Key, step: jax.Array) -> jax.Array:
        adapt_key, query_key = jax.random.split(key)
        path = adaptation_path(learner, params, episode.support, adapt_key)
        steps = jax.tree.map(lambda leaf: leaf[1:], path)
        weights = step_weights(learner.adaptation_steps, step, length[0])
        if not has_convolutions(learner.loss, jax.tree.map(lambda leaf: leaf[0], steps), episode.query, query_key):
            return jnp.dot(weights, jax.vmap(lambda adapted: learner.loss(adapted, episode.query, query_key))(steps))

        # One after the other: side by side, every step's own kernels would make one grouped convolution, many times slower.
        def add(total, judged):
            weight, adapted = judged
            loss = lambda: weight * learner.loss(adapted, episode.query, query_key)  # noqa: E731
            return total + jax.lax.cond(weight > 0, loss, lambda: jnp.zeros_like(total)), None

        return jax.lax.scan(add, jnp.zeros_like(weights[0]), (weights, steps))[0]

    return objective


def step_weights(adaptation_steps: int, step: jax.Array, until: jax.Array | float) -> jax.Array:
    """w [adaptation_steps]: from uniform at meta-step 0 to (0, …, 0, 1) at meta-step `until`. They sum to 1."""
    remaining = jnp.clip(1.0 - step / jnp.maximum(until, 1), 0.0, 1.0)
    last = jnp.zeros(adaptation_steps).at[-1].set(1.0)
    return remaining / adaptation_steps + (1.0 - remaining) * last
