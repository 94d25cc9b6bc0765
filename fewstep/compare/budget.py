"""Plans how a time budget is spent: times a meta-step of each method, then gives all methods as many as fit.

If the budget is too small, it drops work in a fixed order: training to equal compute, the search of settings, seeds, then
methods (MAML and joint training last). The result lists what was dropped. Quick methods are not planned."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax

from fewstep.compare.methods import AnyBenchmark, Method
from fewstep.compare.runner import SEARCH_PART, Lengths

NEEDED = ("joint", "joint-ridge", "maml")
"""These are timed and trained first, and left out last."""
FIRST_TO_GO = ("in-context", "fomaml", "maml-from-joint", "reptile", "anil", "joint-finetuned", "bayes-head")
LAST_TO_GO = ("maml", "joint-ridge", "joint")
LEFT_OUT = "not within the budget"
LAST_PART = 0.12
"""of the budget, for the verdict, curves and the run that is recommended"""
FAIR_PART, LEAST_PART = 1 / 10, 1 / 40
"""A training shorter than this part of its recipe's is too short for all extras, or for a comparison at all."""
TIMED_SECONDS = 0.6


class Pace(NamedTuple):
    """What one method's training takes."""

    compiling: float
    """seconds, once, as if nothing had been found in the cache of compiled programs"""
    meta_step: float
    """seconds"""
    operations: float
    """of a meta-step; of a policy its environment steps"""


@dataclass(frozen=True)
class Plan:
    """What is trained, and for how long."""

    meta_steps: int
    """of every method"""
    seeds: int
    search: bool
    equal_compute: dict[str, int]
    """method -> meta-steps to the operations that exact MAML takes; of methods that take less"""
    paces: dict[str, Pace]
    left_out: dict[str, str] = field(default_factory=dict)
    """method -> why"""
    notes: tuple[str, ...] = ()
    budget: float = 0.0
    """seconds, for which it was made"""

    def lengths(self, equal_compute: bool = False) -> Lengths:
        steps = self.equal_compute if equal_compute else dict.fromkeys(self.paces, self.meta_steps)
        return Lengths(steps, self.search, equal_compute)


def pace_of(method: Method, benchmark: AnyBenchmark) -> Pace:
    """Times a meta-step, after its program is compiled; the same program trains the method."""
    assert method.problem is not None
    problem = method.problem(benchmark, method.grid(benchmark)[0], 100)[1]
    count, run, state = benchmark.training(problem)
    started = time.monotonic()
    with seconds_saved() as saved:
        state = jax.block_until_ready(run(state, 1))
    compiling, made, length = time.monotonic() - started + sum(saved), 0, 1
    started = time.monotonic()
    while (taken := time.monotonic() - started) < TIMED_SECONDS:
        state = jax.block_until_ready(run(state, length))
        made, length = made + length, min(2 * length, 64)
    return Pace(compiling, taken / made, count)


@contextmanager
def seconds_saved() -> Iterator[list[float]]:
    """What compiling would have taken longer meanwhile, had its programs not been in the cache: a method's other programs may
    not be there."""
    saved: list[float] = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event.endswith("compile_time_saved_sec"):
            saved.append(max(duration_secs, 0.0))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield saved
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


class Costs(NamedTuple):
    """What a plan is made of."""

    paces: dict[str, Pace]
    choices: dict[str, int]
    """trained method -> how many of its settings are tried"""
    dependents: tuple[str, ...]
    """methods that need no training beside that of another, whose programs they share"""
    folds: int
    extra: float
    """seconds that a training takes beside its meta-steps: validation, checkpoints, scores"""
    compiling: float
    """seconds that a method's programs for validating and scoring take, once"""
    quick: float = 0.0
    """seconds that another seed of all methods takes that need no training"""

    def seconds(self, plan: Plan) -> float:
        total = (plan.seeds - 1) * self.quick
        for name, pace in self.paces.items():
            if name in plan.left_out:
                continue
            whole = plan.meta_steps * pace.meta_step + self.extra
            total += self.folds * plan.seeds * whole + self.compiling
            if plan.search:
                tried = SEARCH_PART * plan.meta_steps * pace.meta_step + self.extra
                total += self.folds * (self.choices[name] - 1) * tried
            if name in plan.equal_compute:
                total += self.folds * (plan.equal_compute[name] * pace.meta_step + self.extra)
        dependents = sum(name not in plan.left_out for name in self.dependents)
        return total + dependents * self.folds * plan.seeds * self.extra


def equal_steps(paces: Mapping[str, Pace], meta_steps: int, left_out: Mapping[str, str]) -> dict[str, int]:
    """Meta-steps of the cheaper methods to the operations that so many of exact MAML take."""
    if "maml" not in paces:
        return {}
    target = paces["maml"].operations * meta_steps
    found = {name: int(target / pace.operations) for name, pace in paces.items() if name not in left_out}
    return {name: steps for name, steps in found.items() if steps > 1.1 * meta_steps}


def planned(costs: Costs, left: float, recipe: int, seeds: int) -> Plan:
    """The plan that makes the most of the seconds `left`. If no training fits, it has 0 meta-steps and leaves all methods
    out."""
    fair, least = max(1, math.ceil(FAIR_PART * recipe)), max(1, math.ceil(LEAST_PART * recipe))
    plans = reductions(Plan(recipe, seeds, True, {}, costs.paces), costs)
    for reduced in plans:
        steps = affordable(reduced, costs, left, recipe)
        if steps >= fair:
            return with_steps(reduced, steps)
    reduced = plans[-1]
    for name in ("", *LAST_TO_GO):
        if name in costs.paces or name in costs.dependents:
            reduced = replace(reduced, left_out={**reduced.left_out, name: LEFT_OUT})
        if set(costs.paces) <= set(reduced.left_out):
            break
        if (steps := affordable(reduced, costs, left, recipe)) >= least:
            return with_steps(reduced, steps)
    return Plan(0, seeds, False, {}, costs.paces, dict.fromkeys((*costs.paces, *costs.dependents), LEFT_OUT))


def reductions(plan: Plan, costs: Costs) -> Sequence[Plan]:
    """Plans that give up more and more; `equal_compute` is filled in by `with_steps` where it is not given up."""
    plans = [replace(plan, equal_compute={"": 0})]
    plan = replace(plan, notes=("equal compute",))
    plans.append(plan)
    if any(count > 1 for count in costs.choices.values()):
        plan = replace(plan, search=False, notes=(*plan.notes, "the search of settings of methods that are trained"))
        plans.append(plan)
    for fewer in range(plan.seeds - 1, 0, -1):
        reduced = replace(plan, seeds=fewer, notes=(*plan.notes, f"{plan.seeds - fewer} of {plan.seeds} seeds"))
        plans.append(reduced)
    plan = plans[-1]
    for name in FIRST_TO_GO:
        if name in costs.paces or name in costs.dependents:
            plan = replace(plan, left_out={**plan.left_out, name: LEFT_OUT})
            plans.append(plan)
    return plans


def with_steps(plan: Plan, steps: int) -> Plan:
    equal = equal_steps(plan.paces, steps, plan.left_out) if plan.equal_compute else {}
    return replace(plan, meta_steps=steps, equal_compute=equal)


def affordable(plan: Plan, costs: Costs, left: float, recipe: int) -> int:
    """The most meta-steps, up to the recipe's, that `plan` has time for in so many seconds; 0 where it has for none."""
    low, high = 0, recipe
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if costs.seconds(with_steps(plan, middle)) <= left else (low, middle - 1)
    return low
