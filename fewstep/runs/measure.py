"""What follows a training (floor 4): the figures of `evaluation.json`, and the numbers from which pictures are drawn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax

from fewstep.problem import Problem
from fewstep.training.calibrate import LEVELS, STATED, nearest_entry
from fewstep.training.classics import beside_classics
from fewstep.training.evaluate import figures, measured_errors
from fewstep.training.fit import Steps
from fewstep.training.gain import gain_of_adaptation
from fewstep.training.report import illustrations, report_by_shots
from fewstep.types import MetaParams


def measure(
    problem: Problem,
    params: MetaParams,
    steps: Sequence[Steps],
    tasks: int = 1000,
    draws: int | None = None,
    beside: bool = False,
) -> dict[str, Any]:
    """What `evaluation.json` holds, timed. Where tasks are few, each is met with several support sets: less hangs on rows.
    By choice `beside` the cheapest classics."""
    started = time.monotonic()
    splits = problem.splits
    assert splits is not None
    draws = draws or (10 if splits.test.size is not None and splits.test.size < 1000 else 1)
    trained = problem.learner.adaptation_steps
    every = list(dict.fromkeys((*steps, 0, trained)))
    measured = measured_errors(problem, params, steps=every, tasks=tasks, draws=draws)
    asked = jax.tree.map(lambda errors: errors[:, : len(steps)], measured)
    result, (name, *others) = figures(problem, asked, steps, draws), problem.metrics
    result |= gain_of_adaptation(measured.metrics[name], every, trained, name)
    if beside and problem.classics:
        judged = "error_rate" if "error_rate" in others else name  # scores of classes are no probabilities
        errors = measured.metrics[judged][:, every.index(trained)]
        result["classics"] = beside_classics(problem, errors, judged, draws, seed=0)
    return {**result, "seconds": round(time.monotonic() - started, 2)}


def measure_more(problem: Problem, params: MetaParams, calibration: dict[str, Any]) -> dict[str, Any]:
    """Errors by number of shots and the coverage of intervals, where the problem knows support rows."""
    if not problem.shot_counts:
        return {}
    level = stated_level(calibration, problem.settings.shot_range.most)
    return {"by_shots": report_by_shots(problem, params, calibration, level)}


def stated_level(calibration: dict[str, Any], rows: int) -> int | None:
    """The highest of the usual levels that the calibration allows at this number of support rows."""
    entry = nearest_entry(calibration, rows)
    if entry is None or "factors" not in entry["trained"]:
        return None
    factors = entry["trained"]["factors"]
    return next((level for level in STATED if all(by[LEVELS.index(level)] is not None for by in factors)), None)


def drawings(
    problem: Problem, params: MetaParams, steps: Sequence[Steps], calibration: dict[str, Any], worst: Sequence[str]
) -> dict[str, Any]:
    """The numbers of `illustrations.json`: a few unseen tasks, and the `worst` of them by name."""
    level = stated_level(calibration, problem.settings.shot_range.most) if problem.shot_counts else None

    def half_width(rows: int) -> list[float | None]:
        entry = nearest_entry(calibration, rows)
        assert entry is not None and level is not None
        return [by_level[LEVELS.index(level)] for by_level in entry["trained"]["factors"]]

    band = None if level is None else half_width
    drawn = {**illustrations(problem, params, steps, half_width=band), "level": level}
    assert problem.splits is not None
    names = problem.splits.test.names
    if worst and names:
        numbers = [names.index(name) for name in worst]
        drawn["worst"] = illustrations(problem, params, steps, tasks=numbers, half_width=band)["tasks"]
    return drawn


def worst_tasks(result: dict[str, Any], count: int = 6) -> list[str]:
    """The names of the tasks with the greatest errors after the trained steps, where tasks have names."""
    steps, trained = result["steps"], result["protocol"]["trained_adaptation_steps"]
    place = steps.index(trained) if trained in steps else len(steps) - 1
    errors = {name: values[place] for name, values in result.get("by_task", {}).items() if values[place] is not None}
    return sorted(errors, key=lambda name: -errors[name])[:count]
