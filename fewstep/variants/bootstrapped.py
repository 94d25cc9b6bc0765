"""Bootstrapped meta-gradients (Flennerhag, Schroecker, Zahavy, van Hasselt, Silver & Singh 2022, arXiv 2109.04504): θ learns to
be in K adaptation steps where it would be after some more.

The way to the target is not differentiated, so that θ looks further ahead than the meta-gradient reaches, at the cost of
plain adaptation steps. Parameters are matched (the paper's squared Euclidean distance), not predictions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import optax

from fewstep.core.maml import Learner, Objective, adapt, started
from fewstep.core.types import Batch, Episode, Key, MetaParams, Params
from fewstep.errors import InputError


def bootstrapped(more: int) -> Objective:
    """½ |θ_K − target|², as a value for `Learner.objective`. The target is a constant: from θ_K, `more` further adaptation
    steps to the support set, with the inner optimizer's state as it was, then one on the loss of the query set.

    This last one is a first step of the inner optimizer, whose state is of the support set. With `more` = 0 and plain gradient
    descent of rate α, the gradient is α times that of the loss after adaptation. What a training reports as its loss is this
    distance. It needs a task gradient that differentiates: a distance to a target that moves along means nothing.
    """
    if more < 0:
        raise InputError(f"expected a number of further adaptation steps from 0 on, got {more}")

    def objective(learner: Learner, params: MetaParams, episode: Episode, key: Key, step: jax.Array) -> jax.Array:
        del step
        adapt_key, query_key, more_key = jax.random.split(key, 3)
        reached = adapt(with_state(learner, params), params, episode.support, adapt_key)
        # Stopped here too, not at the target alone: so the way to it is never traced for differentiation.
        fixed, later = jax.lax.stop_gradient((params, reached))
        if more:
            from_there = replace(with_state(learner, fixed), start=lambda *_, first=later: first)
            later = adapt(from_there, fixed, episode.support, more_key, more)
        target = query_step(learner, fixed, later[0], episode.query, query_key)
        return 0.5 * optax.tree.norm(optax.tree.sub(reached[0], jax.lax.stop_gradient(target)), squared=True)

    return objective


def with_state(learner: Learner, params: MetaParams) -> Learner:
    """The same learner, whose adapted parameters are a pair: with them comes the inner optimizer's state."""
    optimizer = learner.optimizer(params.inner)

    def start(theta: Params, support: Batch, key: Key) -> tuple[Params, Any]:
        del theta
        first = started(learner, params, support, key)
        return first, optimizer.init(first)

    def step(_: Learner, none: Any, state: tuple[tuple[Params, Any], Any], support: Batch, key: Key):
        return learner.adaptation_step(learner, optimizer, state[0], support, key), state[1]

    def loss(pair: tuple[Params, Any], batch: Batch, key: Key) -> jax.Array:
        return learner.loss(pair[0], batch, key)

    return replace(learner, loss=loss, inner_optimizer=optax.identity(), start=start, adaptation_step=step)


def query_step(learner: Learner, params: MetaParams, adapted: Params, query: Batch, key: Key) -> Params:
    """`adapted` after a first step of the inner optimizer on the query set: all of it, also what adaptation may leave alone."""
    optimizer = learner.optimizer(params.inner)
    updates = optimizer.update(jax.grad(learner.loss)(adapted, query, key), optimizer.init(adapted), adapted)[0]
    return optax.apply_updates(adapted, updates)
