"""What is reported of held-out tasks beside their errors: errors by number of shots, coverage of intervals, pictures'
numbers. All of it is plain data for the files of a run.

What follows a training: the figures of `evaluation.json`, and the numbers from which pictures are drawn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.core.maml import adaptation_path
from fewstep.core.problem import Problem
from fewstep.core.types import MetaParams
from fewstep.supervised.baselines import compare_baselines
from fewstep.supervised.columns import TableFormat
from fewstep.supervised.conformal import DEFAULT_LEVELS, LEVELS, nearest_entry
from fewstep.supervised.evaluate import figures, finite_or_none, measured_errors, summarize
from fewstep.supervised.fit import (
    EpisodePredictions,
    EpisodePredictor,
    Steps,
    adapt_task,
    deviation,
    normalized_weights,
    padded_shots,
)
from fewstep.supervised.gain import gain_of_adaptation
from fewstep.supervised.padding import bucket, pad

EPISODES = 320
"""Figures by number of shots, and of intervals, take about so many episodes each."""


def report_by_shots(problem: Problem, params: MetaParams, calibration: dict[str, Any], level: int | None) -> dict[str, Any]:
    """By number of support examples: the headline metric before adaptation, after the trained steps and after 'auto' steps;
    and where there is a `level`, how many rows its intervals cover and how wide they are. `trained` says whether the number was
    met in training. Tasks weigh the same."""
    assert problem.splits is not None
    predictor = EpisodePredictor(problem, params)
    padded = padded_shots(problem.shot_counts, problem.settings.shot_range.most)
    names = ("shots", "trained", "tasks", "before", "mean", "ci95", "auto", "intervals")
    result: dict[str, Any] = {name: [] for name in names}
    least, most = problem.settings.shot_range
    for shots in problem.shot_counts:
        probed = predictor.predict(problem.splits.test, shots, padded[shots], EPISODES, 1000, seed=3)
        if probed is None:
            continue
        weights = probed.weights
        by_task = [
            (probed.errors(problem, outputs) * weights).sum((1, 2)) * probed.tasks
            for outputs in (probed.before, probed.outputs["trained"], probed.outputs["auto"])
        ]
        found = summarize(np.stack(by_task, axis=1))
        intervals = None if level is None else coverage(problem, probed, calibration, level, shots)
        means = found["mean"]
        entry = (shots, least <= shots <= most, probed.tasks, means[0], means[1], found["ci95"][1], means[2], intervals)
        for name, value in zip(result, entry, strict=True):
            result[name].append(value)
    return result


def coverage(
    problem: Problem, probed: EpisodePredictions, calibration: dict[str, Any], level: int, shots: int
) -> dict[str, Any] | None:
    """How many query rows of unseen tasks the intervals of `level` per cent cover, with its 95 % interval over tasks, and their
    mean width in the targets' units; lists by target, each over the tasks with values of it. None where the calibration allows
    no such interval."""
    entry = nearest_entry(calibration, shots)
    if entry is None or problem.format.classes:
        return None
    factors = np.array([by_level[LEVELS.index(level)] for by_level in entry["trained"].get("factors", ())], float)
    if factors.size == 0 or np.isnan(factors).any():
        return None
    half = factors * probed.deviation["trained"]
    covered = np.abs(probed.query.targets - probed.outputs["trained"]) <= half
    found: dict[str, list[Any]] = {"coverage": [], "ci95": [], "width": []}
    for output, unit in enumerate(problem.format.units):
        has = probed.known[..., output].any((1, 2))
        weights = normalized_weights(probed.known[has][..., output])
        by_task = (covered[has][..., output] * weights).sum((1, 2)) * has.sum()
        summary = summarize(by_task[:, None])
        found["coverage"] += summary["mean"]
        found["ci95"] += summary["ci95"]
        found["width"].append(float(2 * (half[has][..., output] * weights).sum() * unit) if has.any() else None)
    return {"level": level, **found, "calibrated_on": calibration["tasks"]}


def illustrations(
    problem: Problem,
    params: MetaParams,
    steps: Sequence[Steps],
    count: int = 6,
    seed: int = 0,
    tasks: Sequence[int] | None = None,
    half_width: Callable[[int], list[float | None]] | None = None,
) -> dict[str, Any]:
    """Meta-test tasks (the first ones, or `tasks`) with their predictions after each of `steps`, as plain numbers for a file;
    'auto' is no one number of steps, and is not shown.

    `half_width(rows)` is by how many deviations [outputs] an interval reaches to each side, after so many support rows.
    """
    assert problem.illustrate is not None and problem.splits is not None
    format_ = problem.format
    trained = problem.learner.adaptation_steps
    counted = [step for step in steps if step != "auto"] or sorted({0, trained})

    @jax.jit
    def predictions_along(params, support, inputs):
        key = jax.random.key(seed)
        path = adaptation_path(problem.learner, params, support, key, max(counted))
        outputs = jax.vmap(lambda adapted: problem.predict(adapted, inputs))(path)
        if problem.format.classes:
            return jnp.exp(outputs), jnp.zeros_like(outputs[0])
        if problem.row_error is None:
            return outputs, jnp.zeros_like(outputs[0])
        return outputs, deviation(problem, adapt_task(problem, params, support, key, trained), inputs)

    drawn, x_label = [], format_.x_label
    numbers = range(min(count, problem.splits.test.size or count)) if tasks is None else tasks
    for number in numbers:
        shown = problem.illustrate(number)
        x_label = shown.x_label or x_label
        count = len(shown.x)  # padded, so that tasks of different length are one program
        support = pad(shown.support, bucket(shown.support.weight.shape[0]))
        inputs = np.pad(np.asarray(shown.inputs), [(0, bucket(count) - count), (0, 0)])
        predictions, deviations = jax.device_get(predictions_along(params, support, inputs))
        predictions, deviations = predictions[:, :count], deviations[:count]
        weight = np.asarray(shown.support.weight)
        rows = int(weight.reshape(len(weight), -1).any(1).sum())
        real = (weight if weight.ndim == 1 else weight[:, 0]) > 0  # the rows that have the target that is shown
        factor = half_width(rows)[0] if half_width and not format_.classes else None
        band = {}
        if factor is not None and trained in counted:
            middle, half = predictions[trained][:, :1], factor * deviations[:, :1]
            band = {"lower": first_target(format_, middle - half), "upper": first_target(format_, middle + half)}
        drawn.append(
            {
                "title": shown.title,
                "x": shown.x.tolist(),
                "truth": finite_or_none(shown.truth),
                "support_x": (shown.support_x if weight.ndim == 1 else shown.support_x[real]).tolist(),
                "support_y": format_.shown(np.asarray(shown.support.targets)[real]).tolist(),
                "predictions": [finite_or_none(format_.shown(predictions[step])) for step in counted],
                **band,
            }
        )
    return {
        "steps": list(counted),
        "x": x_label,
        "y": format_.y_label,
        "dates": format_.x_is_date,
        "inputs": len(format_.inputs),
        "tasks": drawn,
    }


def first_target(format_: TableFormat, standardized: np.ndarray) -> list[float | None]:
    """[rows, 1] of the first target, in its own units."""
    target = format_.targets[0]
    return finite_or_none(np.asarray(standardized[:, 0], np.float64) * target.scale + target.center)


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
    if beside and problem.baselines:
        judged = "error_rate" if "error_rate" in others else name  # scores of classes are no probabilities
        errors = measured.metrics[judged][:, every.index(trained)]
        result["classics"] = compare_baselines(problem, errors, judged, draws, seed=0)
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
    return next((level for level in DEFAULT_LEVELS if all(by[LEVELS.index(level)] is not None for by in factors)), None)


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
