"""Probes of gradients: how different tasks are, and whether they pull the same way.

Probes of the meta-gradient: whether second order makes a difference, and what it costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fewstep.compare.diagnostics.measure import (
    Probe,
    by_task,
    cosines,
    flat,
    gradient_at,
    halves,
    jackknife,
    of_one_task,
    of_two_tasks,
    program,
)
from fewstep.core.losses import known_part
from fewstep.core.maml import Learner, TaskGradient
from fewstep.core.types import Episode, Examples, Key, MetaParams, Params
from fewstep.gradients import first_order, stored
from fewstep.training.operations import operations

MOST_ROWS = 32
"""so many rows of a set at most make its Fisher information"""


def diversity(learner: Learner, params: MetaParams, episodes: Episode, key: Key) -> dict[str, Probe]:
    """How different tasks are, in two ways: by their gradients, and by the diagonal of their empirical Fisher information (the
    mean square of the gradients of single rows), after Achille et al. 2019 (Task2Vec, arXiv 1902.03545) and Miranda et al. 2022
    (the diversity coefficient, arXiv 2208.01545): the mean cosine distance of pairs of tasks.

    Few rows make a task look different from itself too. So each task is embedded twice, by its support and by its query set,
    and what is told is by how much further two tasks are apart than two such halves of one: 0 for tasks that are the same.
    """
    at = lambda batch, episode, key: gradient_at(learner, params, batch, episode.support, key)  # noqa: E731
    fisher = lambda batch, episode, key: information(lambda row: at(row, episode, key), batch)  # noqa: E731
    ways = {
        "diversity": ("gradients", at, "tasks ask for {} changes of the model", ("much the same", "related", "different")),
        "fisher_diversity": (
            "Fisher information",
            fisher,
            "{} parameters matter to all",
            ("the same", "partly the same", "few"),
        ),
    }
    found = {}
    for name, (of, way, words, amounts) in ways.items():
        if way is fisher and not isinstance(episodes.support, Examples):
            continue
        both = cosines(*by_task(lambda *task, way=way: halves(task[0], lambda half: way(half, *task)), episodes, key))
        value, low, high = jackknife(lambda keep, both=both: of_one_task(both, keep) - of_two_tasks(both, keep), len(both))
        amount = amounts[0] if value < 0.1 else amounts[1] if value < 0.4 else amounts[2]
        says = f"By their {of}, {words.format(amount)} (0: all alike, 1: unrelated)."
        found[name] = Probe(f"How different tasks are, by {of}", value, low, high, says)
    return found


def information(gradient: Callable[[Examples], Params], examples: Examples) -> Params:
    """The diagonal of the empirical Fisher information: E over rows of (the gradient of one row)²."""
    rows = jax.tree.map(lambda leaf: leaf[:MOST_ROWS], examples)

    def add(total: Params, row: Examples) -> tuple[Params, None]:
        alone = gradient(jax.tree.map(lambda leaf: leaf[None], row))  # of a row of weight 0 it is 0
        return jax.tree.map(lambda sum, leaf: sum + jnp.square(leaf), total, alone), None

    shape = jax.eval_shape(gradient, jax.tree.map(lambda leaf: leaf[:1], rows))
    total, _ = jax.lax.scan(add, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape), rows)
    return jax.tree.map(lambda leaf: leaf / jnp.maximum(jnp.sum(known_part(rows.weight)), 1.0), total)


def coherence(learner: Learner, params: MetaParams, episodes: Episode, key: Key) -> dict[str, Probe]:
    """Whether gradients at θ agree: those of different tasks (gradient coherence; Guiroy et al. 2019, arXiv 1907.07287), and a
    task's own, of its support and of its query set, without which no step on the one helps with the other."""

    def gradients(episode: Episode, key: Key) -> list[jax.Array]:
        return halves(episode, lambda half: gradient_at(learner, params, half, episode.support, key))

    both = cosines(*by_task(gradients, episodes, key))
    value, low, high = jackknife(lambda keep: of_two_tasks(both, keep), len(both))
    amount = "agree" if value > 0.3 else "oppose one another" if value < -0.3 else "are nearly unrelated"
    says = f"At the starting point, gradients of different tasks {amount} (1: the same direction)."
    found = {"coherence": Probe("Do tasks pull the same way", value, low, high, says)}
    value, low, high = jackknife(lambda keep: of_one_task(both, keep), len(both))
    amount = "points where its other rows do" if value > 0.5 else "is partly chance" if value > 0.1 else "is mostly chance"
    says = f"The gradient of a task's support rows {amount} (1: the same direction)."
    return found | {"agreement": Probe("Do support rows speak for the others", value, low, high, says)}


def second_order(learner: Learner, params: MetaParams, episodes: Episode, key: Key) -> dict[str, Probe]:
    """How the first-order and the exact gradient of a task differ, and what the exact one costs beside it."""
    step = jnp.asarray(2**30, jnp.int32)  # long after all that changes early in training

    def gradient(way: TaskGradient) -> Callable[[Episode, Key], jax.Array]:
        return lambda episode, key: flat(way(learner, params, episode, key, step)[1].theta)

    measured = [program(gradient(way)) for way in (first_order, stored)]
    both = cosines(*(gradients(episodes, key) for gradients in measured))
    value, low, high = jackknife(lambda keep: of_one_task(both, keep), len(both))
    amount = "nearly the same: first order is enough" if value > 0.95 else "different"
    says = f"The first-order and the exact gradient of a task are {amount} (mean cosine {value:.2f})."
    found = {"first_order": Probe("Does second order matter", value, low, high, says)}
    one = jax.tree.map(lambda leaf: leaf[0], episodes)
    cheap, exact = (operations(gradient(way), one, key) for way in (first_order, stored))
    times = [seconds(gradients, episodes, key) for gradients in measured]
    points = (("operations a task, first order", float(cheap)), ("operations a task, exact", float(exact)))
    ratio = exact / max(cheap, 1)
    says = f"An exact meta-gradient takes {ratio:.2g} times the operations of a first-order one."
    found["price"] = Probe("What second order costs", ratio, None, None, says, points, times[1] / times[0])
    return found


def seconds(measured: Callable[[Episode, Key], Any], episodes: Episode, key: Key) -> float:
    """The least time of three, of a program that ran before."""
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        measured(episodes, key)
        taken.append(time.perf_counter() - began)
    return min(taken)
