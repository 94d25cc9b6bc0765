"""From the settings that problems share to a learner (floor 3). Used by problems/supervised.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from fewstep.errors import BadInput
from fewstep.gradients import annealed, auto, clipped, exact, first_order, stored
from fewstep.maml import Learner
from fewstep.problem import Splits
from fewstep.tasks.columns import TableFormat
from fewstep.tasks.family import Shots
from fewstep.types import Loss, MetaParams, Network, Params
from fewstep.variants import (
    averaged,
    bayes_step,
    body_and_bayes_step,
    curvature,
    empirical_prior,
    layer_step_rates,
    log_rates,
    lslr,
    meta_curvature,
    meta_sgd,
    move_body,
    multi_step_loss,
    remember_prior,
    shrunk,
)

LARGEST_SEED = 2**31 - 1
MOST_CENTERS = 500
"""An empirical prior has a center for each meta-train task, up to so many."""
META_GRADIENTS = {"auto": auto, "exact": exact, "stored": stored, "first-order": first_order}
PLAIN_MAML: dict[str, Any] = {
    "inner_optimizer": "sgd",
    "outer_rate": 1e-3,
    "outer_decay": 0.999,
    "outer_schedule": "constant",
    "multi_step": 0.0,
    "first_order_until": 0.0,
    "average": 0.0,
    "clip": 0.0,
}
"""Settings of MAML as published, without anything of the recipes that came after it."""
BANDWIDTHS = (0.1, 0.2, 0.3, 0.5, 0.7)
"""Widths of an empirical prior around its centers that are tried, in parts of the trained prior's width."""


@dataclass(frozen=True)
class LearningSettings:
    """The numbers of Algorithm 1 and of the default recipe. A field's docstring is its help text."""

    shots: int | tuple[int, int] = 10
    """examples in a task's support set, K in the paper; a range 3:50 draws the number anew for each task of training"""
    queries: int = 10
    """examples in a task's query set during training"""
    meta_batch_size: int = 25
    """tasks per meta-step"""
    meta_steps: int = 40_000
    """meta-steps of the whole run"""
    adapter: Literal["gradient", "bayes-head"] = "gradient"
    """how a task is fitted: by gradient steps on all weights, or by Bayes' rule on the last layer, in closed form"""
    adaptation_steps: int = 5
    """adaptation steps in training; Bayes' rule needs one, whatever is set here"""
    body_steps: int = 0
    """with bayes-head: gradient steps on the features, after Bayes' rule and before it is applied again"""
    inner_rate: float = 0.03
    """inner rate alpha; where rates are learned, their starting value"""
    inner_optimizer: Literal["sgd", "meta-sgd", "lslr", "meta-curvature"] = "meta-sgd"
    """what a gradient step is: alpha alone (sgd), learned rates per parameter (meta-sgd) or per layer and step (lslr), or
    learned matrices per layer"""
    outer_rate: float = 4e-3
    """outer rate beta of Adam"""
    inner_outer_rate: float = 1.2e-2
    """outer rate of what the inner optimizer learns (its rates, its matrices); faster than theta avoids poor solutions"""
    outer_decay: float = 0.99
    """second decay of the outer Adam (b2); the usual 0.999 forgets too slowly for meta-gradients of a few tasks"""
    outer_schedule: Literal["cosine", "constant"] = "cosine"
    """how the outer rate changes over the run"""
    multi_step: float = 0.3
    """judge every adaptation step during this first part of the run, less and less (MAML++); 0 never"""
    first_order_until: float = 0.0
    """leave second derivatives out during this first part of the run (MAML++); 0 never"""
    average: float = 0.0
    """validate and keep a moving average of the parameters with this decay; 0 for the parameters themselves"""
    clip: float = 1.0
    """largest norm of one task's meta-gradient; 0 for no limit"""
    meta_gradient: Literal["auto", "exact", "stored", "first-order"] = "auto"
    """exact in memory that does not grow with the steps (exact), exact and faster where memory allows (stored), whichever fits
    (auto), or without second derivatives (first-order MAML)"""
    tasks_at_once: int = 0
    """tasks of a meta-batch that are computed side by side; 0 for as many as are fast and fit in memory"""
    bad_tasks: Literal["stop", "drop"] = "stop"
    """where the loss of a task is not a finite number: stop the run, or drop the task, count it and go on"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """of matrix products; all else is float32. bfloat16 is for GPUs; it is checked against float32 before training"""
    hidden: tuple[int, ...] = (40, 40)
    """units of the hidden layers"""
    log_every: int = 500
    """meta-steps between two lines of the log"""

    @property
    def shot_range(self) -> Shots:
        return Shots(self.shots, self.shots) if isinstance(self.shots, int) else Shots(*self.shots)

    @staticmethod
    def read_format(saved: dict[str, Any]) -> Any:
        """The format that `config.json` records."""
        return TableFormat.from_json(saved)

    def check(self, seed: int) -> None:
        """Raises `BadInput` for the first setting, or the seed, that is out of range."""
        if not 0 <= seed <= LARGEST_SEED:
            raise BadInput(f"--seed should lie between 0 and {LARGEST_SEED}, got {seed}.")
        for name in ("queries", "meta_batch_size", "meta_steps", "log_every"):
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        least, most = self.shot_range
        fine = most >= 1 and 0 <= least <= most
        _require(self, "shots", fine, "at least 1, or a range such as 3:50 from the least to the most")
        _require(self, "body_steps", 0 <= self.body_steps <= 100, "between 0 and 100")
        _require(self, "adaptation_steps", 0 <= self.adaptation_steps <= 1000, "between 0 and 1000")
        _require(self, "tasks_at_once", self.tasks_at_once >= 0, "at least 0")
        for name in ("inner_rate", "outer_rate", "inner_outer_rate"):
            _require(self, name, 0 < getattr(self, name) < float("inf"), "a positive number")
        _require(self, "outer_decay", 0 <= self.outer_decay < 1, "between 0 and 1")
        _require(self, "multi_step", 0 <= self.multi_step <= 1, "between 0 and 1, a part of the run")
        _require(self, "first_order_until", 0 <= self.first_order_until <= 1, "between 0 and 1, a part of the run")
        _require(self, "average", 0 <= self.average < 1, "between 0 and 1, and less than 1")
        _require(self, "clip", self.clip >= 0, "at least 0 (0 for no limit)")
        _require(self, "hidden", all(units >= 1 for units in self.hidden), "positive numbers of units")


def _require(settings: LearningSettings, name: str, fine: bool, expected: str) -> None:
    if not fine:
        raise BadInput(f"--{name.replace('_', '-')} should be {expected}, got {getattr(settings, name)}.")


def bayes_learner(settings: LearningSettings, body: Network, loss: Loss) -> Learner:
    """A learner whose first adaptation step is Bayes' rule on the last layer, and whose further ones move the features too."""
    if settings.body_steps:
        learner = Learner(loss, move_body, 1 + settings.body_steps, adaptation_step=body_and_bayes_step(body))
    else:
        learner = Learner(loss, remember_prior, 1, adaptation_step=bayes_step(body))
    return clip_tasks(settings, learner)


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


def gradient_learner(settings: LearningSettings, loss: Loss) -> Learner:
    """The learner of gradient steps that the settings describe."""
    inner_optimizers = {
        "sgd": optax.sgd(settings.inner_rate),
        "meta-sgd": meta_sgd,
        "lslr": lslr,
        "meta-curvature": meta_curvature,
    }
    way, until = META_GRADIENTS[settings.meta_gradient], int(settings.first_order_until * settings.meta_steps)
    learner = Learner(
        loss,
        inner_optimizers[settings.inner_optimizer],
        settings.adaptation_steps,
        task_gradient=annealed(way, until) if until else way,
    )
    if settings.multi_step > 0 and settings.adaptation_steps > 1:
        learner = replace(learner, objective=multi_step_loss(int(settings.multi_step * settings.meta_steps)))
    return clip_tasks(settings, learner)


def clip_tasks(settings: LearningSettings, learner: Learner) -> Learner:
    learner = replace(learner, tasks_at_once=settings.tasks_at_once or None)
    if settings.clip == 0:
        return learner
    return replace(learner, task_gradient=clipped(learner.task_gradient, settings.clip))


def make_params(settings: LearningSettings, theta: Params) -> MetaParams:
    """The meta-parameters before training: θ, and what the inner optimizer learns."""
    if settings.adapter == "bayes-head":
        return MetaParams(theta, log_rates(theta.body, settings.inner_rate) if settings.body_steps else ())
    learned = {
        "sgd": lambda *_: (),
        "meta-sgd": log_rates,
        "lslr": partial(layer_step_rates, steps=settings.adaptation_steps),
        "meta-curvature": curvature,
    }
    return MetaParams(theta, learned[settings.inner_optimizer](theta, settings.inner_rate))


def outer_optimizer(settings: LearningSettings) -> optax.GradientTransformation:
    """Adam, with its own rate for what the inner optimizer learns, and an average of the parameters where one is asked for."""
    adam = optax.adam(outer_schedule(settings), b2=settings.outer_decay)
    optimizer = optax.chain(adam, scale_inner(settings.inner_outer_rate / settings.outer_rate))
    return averaged(optimizer, settings.average) if settings.average else optimizer


def scale_inner(factor: float) -> optax.GradientTransformation:
    """Multiplies the updates of `MetaParams.inner`, and leaves those of θ alone."""

    def update(updates: Any, params: Any) -> MetaParams:
        del params
        return MetaParams(updates.theta, jax.tree.map(lambda leaf: factor * leaf, updates.inner))

    return optax.stateless(update)


def outer_schedule(settings: LearningSettings) -> optax.Schedule:
    """β by meta-step."""
    if settings.outer_schedule == "constant":
        return optax.constant_schedule(settings.outer_rate)
    return optax.cosine_decay_schedule(settings.outer_rate, settings.meta_steps)
