"""Which inner rate suits a problem before anything is trained: meta-validation tasks are adapted to from the initial
parameters, by plain gradient descent at each of a range of rates. Used by the command train with --find-rate."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fewstep.core.maml import adapt, started
from fewstep.core.problem import Problem
from fewstep.core.types import Key, MetaParams
from fewstep.supervised.evaluate import MOST_DRAWS, finite_or_none
from fewstep.training.jit import jit_hoisted
from fewstep.training.map_tasks import map_tasks
from fewstep.training.operations import operations

RATES = tuple(float(f"{rate:.2g}") for rate in np.logspace(-4, 1, 21))
"""Of two digits, so that the rate that is recommended is the one that was tried."""
MOST_TASKS, LEAST_TASKS = 100, 10
"""So many are tried, depending on what one of them takes."""
OPERATIONS = 2e12
"""in which the trials should be done: some minute's worth"""
FEW = 0.01
"""Adaptation may fail on so many tasks before a rate counts as too large."""
ROUNDING = 1e-6
"""A support loss that grows by less than this part of it has not grown: at the smallest rates it hardly changes at all."""


class Trials(NamedTuple):
    """What was measured, by episode: several of each task where tasks are few."""

    before: jax.Array
    """[episodes] query loss before adaptation"""
    after: jax.Array
    """[episodes, rates] query loss after it"""
    diverged: jax.Array
    """[episodes, rates] whether adaptation made the support loss worse, or not finite"""


def try_rates(problem: Problem, params: MetaParams, tasks: jax.Array, draws: jax.Array, rates: jax.Array, key: Key) -> Trials:
    """Adapts at each of `rates` to an episode of each of `tasks`; `draws`, one for each, tell episodes of one task apart.

    Only the inner optimizer is another one than in training: what adaptation moves and what it starts from stay. What an
    optimizer adds to plain descent (rates it learns, a pull to the start) is left out. Pure.
    """
    assert problem.splits is not None
    family = problem.splits.validation

    def one_episode(number):
        task, draw = number
        episode_key, adapt_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, task), draw))
        episode = family.episode(task, episode_key)
        losses = lambda theta: [problem.learner.loss(theta, batch, adapt_key) for batch in episode]  # noqa: E731
        support, before = losses(started(problem.learner, params, episode.support, adapt_key))

        def at_rate(rate):
            learner = replace(problem.learner, inner_optimizer=optax.sgd(rate))
            fitted, after = losses(adapt(learner, params, episode.support, adapt_key))
            return after, ~(fitted <= support + ROUNDING * jnp.abs(support)) | ~jnp.isfinite(fitted)

        return Trials(before, *jax.lax.map(at_rate, rates))  # one after the other: the episode is drawn once for all

    return map_tasks(one_episode, (tasks, draws), tasks.shape[0])


def episodes_of(problem: Problem, rates: tuple[float, ...] = RATES) -> tuple[jax.Array, jax.Array]:
    """(tasks, draws): the numbers of the meta-validation tasks that are tried, each once or, where they are few, more often."""
    assert problem.splits is not None
    key, one = jax.random.key(0), jnp.zeros(1, jnp.int32)
    one_task = lambda params: try_rates(problem, params, one, one, jnp.asarray(rates), key)  # noqa: E731
    each = operations(one_task, jax.eval_shape(problem.init, key))
    most = int(min(MOST_TASKS, max(LEAST_TASKS, OPERATIONS // max(each, 1))))
    tasks = problem.splits.validation.tasks(most)
    draws = max(1, min(MOST_DRAWS, most // tasks.size))
    return jnp.repeat(tasks, draws), jnp.tile(jnp.arange(draws), tasks.size)


def find_rate(problem: Problem, seed: int = 0, rates: tuple[float, ...] = RATES) -> dict[str, Any]:
    """Tries `rates` from the parameters that a run with this `seed` starts from; what was found, as plain data.

    `median`, `mean` and `diverges_on` have an entry for each rate: query losses after adaptation, and the share of episodes
    on which it diverges. A loss that is not finite is None. `recommended` is None where every rate diverges.
    """
    init_key, _, key = jax.random.split(jax.random.key(seed), 3)
    tasks, draws = episodes_of(problem, rates)
    program = jit_hoisted(lambda *arguments: try_rates(problem, *arguments))
    trials = jax.device_get(program(problem.init(init_key), tasks, draws, jnp.asarray(rates), key))
    before, after = (np.where(np.isfinite(loss), loss, np.inf).astype(np.float64) for loss in trials[:2])
    medians, diverges_on = np.median(after, 0), trials.diverged.mean(0)
    recommended, diverges_from = choose(rates, medians, diverges_on)
    return {
        "problem": problem.name,
        "tasks": len(np.unique(tasks)),
        "episodes": len(tasks),
        "adaptation_steps": problem.learner.adaptation_steps,
        "before": dict(zip(("median", "mean"), finite_or_none(np.array([np.median(before), before.mean()])), strict=True)),
        "rates": list(rates),
        "median": finite_or_none(medians),
        "mean": finite_or_none(after.mean(0)),
        "diverges_on": [float(share) for share in diverges_on],
        "recommended": recommended,
        "diverges_from": diverges_from,
    }


def choose(rates: tuple[float, ...], medians: np.ndarray, diverges_on: np.ndarray) -> tuple[float | None, float | None]:
    """(the rate of the lowest median among those that diverge on few tasks, the first one above it that diverges on more)."""
    fine = (diverges_on <= FEW) & np.isfinite(medians)
    best = int(np.argmin(np.where(fine, medians, np.inf))) if fine.any() else None
    best_rate = -math.inf if best is None else rates[best]
    beyond = [rate for rate, share in zip(rates, diverges_on, strict=True) if share > FEW and rate > best_rate]
    return None if best is None else rates[best], min(beyond, default=None)
