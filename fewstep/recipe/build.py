"""From the settings that problems share to the learner of a Bayesian last layer, and to the outer optimizer of all
learners; and to a learner of gradient steps, of which each published variant is a value in one of its fields. `variants.py`
says which settings make which variant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fewstep.core.maml import InnerOptimizer, Learner, TaskGradient
from fewstep.core.problem import LowerRates, Splits
from fewstep.core.types import Loss, MetaParams, Network, Params
from fewstep.gradients import annealed, auto, clipped, evolution, exact, first_order, implicit, reptile, stored
from fewstep.recipe.settings import ALL, LearningSettings
from fewstep.variants import (
    adapt_only,
    alfa,
    alfa_start,
    averaged,
    bayes_step,
    body_and_bayes_step,
    bootstrapped,
    carry_prior,
    clip_inner_gradient,
    curvature,
    empirical_prior,
    layer_step_rates,
    log_rates,
    lslr,
    meta_curvature,
    meta_sgd,
    move_body,
    multi_step_loss,
    per_step,
    proximal,
    scale_updates,
    shrunk,
    start_by_output,
    step_values,
)
from fewstep.variants.meta_curvature import Curvature
from fewstep.variants.partial import chosen

MOST_CENTERS = 500
"""An empirical prior has a center for each meta-train task, up to so many."""
BANDWIDTHS = (0.1, 0.2, 0.3, 0.5, 0.7)
"""Widths of an empirical prior around its centers that are tried, in parts of the trained prior's width."""


def bayes_learner(settings: LearningSettings, body: Network, loss: Loss) -> Learner:
    """A learner whose first adaptation step is Bayes' rule on the last layer, and whose further ones move the features too."""
    if settings.body_steps:
        learner = Learner(loss, move_body, 1 + settings.body_steps, adaptation_step=body_and_bayes_step(body))
    else:
        learner = Learner(loss, carry_prior, 1, adaptation_step=bayes_step(body))
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
    optimizer = scale_updates(optimizer) if settings.rollbacks else optimizer
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


WAYS = {"auto": auto, "exact": exact, "stored": stored, "first-order": first_order, "reptile": reptile}
"""the meta-gradients that need no further settings"""
Parts = Mapping[str, tuple[str, ...]]
"""what "head" and "body" mean where parameters have no such names"""


def gradient_learner(settings: LearningSettings, network: Network, loss: Loss, parts: Parts | None = None) -> Learner:
    """The learner of gradient steps that the settings describe. Raises `InputError` where they name parameters that the
    `network` does not have."""
    learner = Learner(loss, inner_optimizer(settings), settings.adaptation_steps, task_gradient=task_gradient(settings))
    names = moving(settings, parts or {})
    if named := (*(names if names != ALL else ()), *settings.per_step):
        chosen(jax.eval_shape(network.init, jax.random.key(0)), named)
    if names != ALL:
        learner = replace(learner, adaptation_step=adapt_only(names))
    if settings.bootstrap:
        learner = replace(learner, objective=bootstrapped(settings.bootstrap))
    elif settings.multi_step > 0 and settings.adaptation_steps > 1:
        learner = replace(learner, objective=multi_step_loss(int(settings.multi_step * settings.meta_steps)))
    return clip_tasks(settings, learner)


def inner_optimizer(settings: LearningSettings) -> InnerOptimizer:
    """What one gradient step is."""
    descent = optax.sgd(settings.inner_rate)
    if settings.meta_gradient == "implicit":
        descent = proximal(descent, settings.proximal)
    known = {"sgd": descent, "meta-sgd": meta_sgd, "lslr": lslr, "meta-curvature": meta_curvature, "alfa": alfa}
    optimizer: InnerOptimizer = known[settings.inner_optimizer]
    if settings.inner_clip:
        optimizer = clip_inner_gradient(optimizer, settings.inner_clip)
    return per_step(optimizer, settings.per_step) if settings.per_step else optimizer


def gradient_params(settings: LearningSettings, theta: Params) -> MetaParams:
    """The meta-parameters before training: θ, and what the inner optimizer learns."""
    steps, rate = settings.adaptation_steps, settings.inner_rate
    learned: Any = {
        "sgd": lambda: (),
        "meta-sgd": lambda: log_rates(theta, rate),
        "lslr": lambda: layer_step_rates(theta, rate, steps),
        "meta-curvature": lambda: curvature(theta, rate),
        "alfa": lambda: alfa_start(theta, rate, steps),
    }[settings.inner_optimizer]()
    return MetaParams(theta, step_values(theta, settings.per_step, steps, learned) if settings.per_step else learned)


def shrink_inner_rates(settings: LearningSettings) -> LowerRates | None:
    """How what the inner optimizer has learned takes smaller steps; None where no rate is learned, and where the settings want
    them left alone."""
    if settings.inner_optimizer == "sgd" or not settings.lower_rates:
        return None

    def lower(inner: Any, factor: jax.Array) -> Any:
        times = lambda rates: rates + jnp.log(factor)  # noqa: E731 - rates live in log space
        if settings.inner_optimizer == "alfa":
            return inner | {"rate": times(inner["rate"])}
        if settings.inner_optimizer == "meta-curvature":
            change = lambda layer: layer._replace(rates=times(layer.rates))  # noqa: E731
            return jax.tree.map(change, inner, is_leaf=lambda node: isinstance(node, Curvature))
        return jax.tree.map(times, inner)

    if settings.per_step:
        return lambda inner, factor: inner | {"inner": lower(inner["inner"], factor)}
    return lower


def task_gradient(settings: LearningSettings) -> TaskGradient:
    """How the meta-gradient of one task is taken."""
    if settings.meta_gradient == "implicit":
        return implicit(settings.proximal)
    if settings.meta_gradient == "evolution":
        return evolution(settings.deviation, settings.directions)
    way, until = WAYS[settings.meta_gradient], int(settings.first_order_until * settings.meta_steps)
    return annealed(way, until) if until else way


def moving(settings: LearningSettings, parts: Parts) -> tuple[str, ...]:
    """The names of the parameters that adaptation moves."""
    names = settings.adapt
    if names == ALL and settings.context:
        names = ("context",)
    elif names == ALL and settings.lora:
        names = ("lora", "head")
    return tuple(full for name in names for full in parts.get(name, (name,)))
