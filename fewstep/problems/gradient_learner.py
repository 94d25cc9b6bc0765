"""From settings to a learner of gradient steps: each published variant is a value in one of its fields (floor 3).
Used by supervised.py and image_model.py; variants.py says which settings make which variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fewstep.gradients import annealed, auto, evolution, exact, first_order, implicit, reptile, stored
from fewstep.maml import InnerOptimizer, Learner, TaskGradient
from fewstep.problem import LowerRates
from fewstep.problems.learners import clip_tasks
from fewstep.problems.settings import ALL, LearningSettings
from fewstep.types import Loss, MetaParams, Network, Params
from fewstep.variants import (
    alfa,
    alfa_start,
    bootstrapped,
    bounded,
    curvature,
    layer_step_rates,
    log_rates,
    lslr,
    meta_curvature,
    meta_sgd,
    moves,
    multi_step_loss,
    per_step,
    proximal,
    step_values,
)
from fewstep.variants.meta_curvature import Curvature
from fewstep.variants.paths import chosen

WAYS = {"auto": auto, "exact": exact, "stored": stored, "first-order": first_order, "reptile": reptile}
"""the meta-gradients that need no further settings"""
Parts = Mapping[str, tuple[str, ...]]
"""what "head" and "body" mean where parameters have no such names"""


def gradient_learner(settings: LearningSettings, network: Network, loss: Loss, parts: Parts | None = None) -> Learner:
    """The learner of gradient steps that the settings describe. Raises `BadInput` where they name parameters that the
    `network` does not have."""
    learner = Learner(loss, inner_optimizer(settings), settings.adaptation_steps, task_gradient=task_gradient(settings))
    names = moving(settings, parts or {})
    if named := (*(names if names != ALL else ()), *settings.per_step):
        chosen(jax.eval_shape(network.init, jax.random.key(0)), named)
    if names != ALL:
        learner = replace(learner, adaptation_step=moves(names))
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
        optimizer = bounded(optimizer, settings.inner_clip)
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


def rates_lowered(settings: LearningSettings) -> LowerRates | None:
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
