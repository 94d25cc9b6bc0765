"""From the settings that problems share to the learner of a Bayesian last layer, and to the outer optimizer of all learners
(floor 3). Used by supervised.py, image_model.py and gradient_learner.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fewstep.gradients import clipped
from fewstep.maml import Learner
from fewstep.problem import Splits
from fewstep.problems.settings import LearningSettings
from fewstep.types import Loss, MetaParams, Network, Params
from fewstep.variants import (
    averaged,
    bayes_step,
    body_and_bayes_step,
    empirical_prior,
    log_rates,
    move_body,
    remember_prior,
    shrunk,
    slowed,
    start_by_output,
)

MOST_CENTERS = 500
"""An empirical prior has a center for each meta-train task, up to so many."""
BANDWIDTHS = (0.1, 0.2, 0.3, 0.5, 0.7)
"""Widths of an empirical prior around its centers that are tried, in parts of the trained prior's width."""


def bayes_learner(settings: LearningSettings, body: Network, loss: Loss) -> Learner:
    """A learner whose first adaptation step is Bayes' rule on the last layer, and whose further ones move the features too."""
    if settings.body_steps:
        learner = Learner(loss, move_body, 1 + settings.body_steps, adaptation_step=body_and_bayes_step(body))
    else:
        learner = Learner(loss, remember_prior, 1, adaptation_step=bayes_step(body))
    return clip_tasks(settings, replace(learner, start=start_by_output))


def empirical_priors(body: Network, splits: Splits | None):
    """What may follow the training of a Bayesian last layer: empirical priors of meta-train tasks, by bandwidth."""

    def completions(params: MetaParams) -> list[MetaParams]:
        assert splits is not None
        family, numbers = splits.train, splits.train.tasks(MOST_CENTERS)
        if family.examples is not None:
            tasks = jax.vmap(family.examples)(numbers)
        else:
            keys = jax.random.split(jax.random.key(0), numbers.size)
            episodes = jax.vmap(lambda number, key: family.episode(number, key))(numbers, keys)
            tasks = jax.tree.map(lambda *both: jnp.concatenate(both, 1), episodes.support, episodes.query)
        prior = jax.jit(lambda theta: empirical_prior(body, theta, tasks))(params.theta)
        return [params._replace(theta=shrunk(prior, shrink)) for shrink in BANDWIDTHS]

    return completions


def clip_tasks(settings: LearningSettings, learner: Learner) -> Learner:
    learner = replace(learner, tasks_at_once=settings.tasks_at_once or None)
    if settings.clip == 0:
        return learner
    return replace(learner, task_gradient=clipped(learner.task_gradient, settings.clip))


def bayes_params(settings: LearningSettings, theta: Params) -> MetaParams:
    """The meta-parameters before training: the prior with its features, and rates where gradient steps move these."""
    return MetaParams(theta, log_rates(theta.body, settings.inner_rate) if settings.body_steps else ())


def outer_optimizer(settings: LearningSettings) -> optax.GradientTransformation:
    """Adam, with its own rate for what the inner optimizer learns; with steps that may become smaller, and an average of the
    parameters, where these are asked for."""
    adam = optax.adam(outer_schedule(settings), b2=settings.outer_decay)
    scale = optax.scale(settings.inner_outer_rate / settings.outer_rate)
    optimizer = optax.chain(adam, optax.masked(scale, MetaParams(theta=False, inner=True)))
    optimizer = slowed(optimizer) if settings.rollbacks else optimizer
    return averaged(optimizer, settings.average) if settings.average else optimizer


def outer_schedule(settings: LearningSettings) -> optax.Schedule:
    """β by meta-step: it climbs from 0, then stays, or falls to 0 by a cosine.

    Its numbers are an array, which a compiled program takes as an argument: trainings that differ in their length or their
    outer rate alone are one program.
    """
    first = int(settings.warm_up * settings.meta_steps)
    numbers = jnp.asarray([settings.outer_rate, first, settings.meta_steps - first], jnp.float32)

    def schedule(count: Any) -> jax.Array:
        rate, climb, rest = numbers
        after = jnp.clip((count - climb) / jnp.maximum(rest, 1.0), 0.0, 1.0)
        falling = 0.5 * (1.0 + jnp.cos(jnp.pi * after)) if settings.outer_schedule == "cosine" else 1.0
        return rate * jnp.where(count < climb, count / jnp.maximum(climb, 1.0), falling)

    return schedule
