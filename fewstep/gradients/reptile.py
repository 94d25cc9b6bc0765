"""Reptile (Nichol, Achiam & Schulman 2018, arXiv 1803.02999): θ moves towards adapted parameters. A value for
`Learner.task_gradient`."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fewstep.core.maml import Learner, adapt, start_and_back
from fewstep.core.types import Batch, Episode, Key, MetaParams
from fewstep.core.varying import of_one_task
from fewstep.errors import InputError
from fewstep.gradients.implicit import require_plain_objective


def reptile(learner: Learner, params: MetaParams, episode: Episode, key: Key, step: jax.Array) -> tuple[jax.Array, MetaParams]:
    """(loss after adaptation, θ − θ′): adapted to support and query examples together, since none is held back.

    Nothing is differentiated but the loss in each adaptation step, and what the inner optimizer would learn is left as it is.
    With one step of gradient descent at rate α, θ − θ′ = α ∇L(θ): the gradient of joint training. Where a task starts from a
    function of θ (`Learner.start`), what adaptation moved is brought back to θ through that function. Raises `InputError` for a
    learner with another objective than the query loss, or whose adaptation moves some parameters alone (`variants.moves`): the
    others would never be learned.
    """
    del step
    require_plain_objective(learner, "reptile")
    if getattr(learner.adaptation_step, "partial", False):
        raise InputError(
            "gradients.reptile: expected a Learner whose adaptation moves all parameters, got an adaptation_step that moves "
            "some alone. θ − θ′ is 0 for the others, so they would never be learned. Use gradients.exact, or remove "
            "adaptation_step."
        )
    params = of_one_task(learner, params, episode, key)
    adapt_key, query_key = jax.random.split(key)
    everything = together(episode)
    start, back = start_and_back(learner, params, everything, adapt_key)
    adapted = adapt(learner, params, everything, adapt_key)
    (moved,) = back(jax.tree.map(jnp.subtract, start, adapted))
    return learner.loss(adapted, everything, query_key), MetaParams(moved, jax.tree.map(jnp.zeros_like, params.inner))


def together(episode: Episode) -> Batch:
    """Support and query set as one batch. Raises `InputError` where they cannot be put one after the other."""
    support, query = jax.tree.leaves(episode.support), jax.tree.leaves(episode.query)
    alike = jax.tree.structure(episode.support) == jax.tree.structure(episode.query)
    if not alike or any(a.ndim == 0 or a.shape[1:] != b.shape[1:] for a, b in zip(support, query, strict=True)):
        raise InputError("reptile: expected support and query sets that differ in their number of examples alone")
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), episode.support, episode.query)
