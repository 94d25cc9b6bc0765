"""Probes of the meta-gradient (floor 5): whether second order makes a difference, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fewstep.compare.probes.jackknife import cosines, jackknife, of_one_task
from fewstep.compare.probes.measure import Probe, flat, program
from fewstep.gradients import first_order, stored
from fewstep.maml import Learner, TaskGradient
from fewstep.training.operations import operations
from fewstep.types import Episode, Key, MetaParams


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
