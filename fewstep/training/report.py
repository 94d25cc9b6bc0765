"""What is reported of held-out tasks beside their errors (floor 3): errors by number of shots, coverage of intervals, pictures'
numbers. All of it is plain data for the files of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.maml import adaptation_path
from fewstep.problem import Problem
from fewstep.tasks.columns import TableFormat
from fewstep.tasks.units import bucket, pad
from fewstep.training.calibrate import LEVELS, nearest_entry
from fewstep.training.evaluate import finite_or_none, summarize
from fewstep.training.fit import Steps, deviation, fit
from fewstep.training.probe import Probed, Prober, evenly, rooms
from fewstep.types import MetaParams

EPISODES = 320
"""Figures by number of shots, and of intervals, take about so many episodes each."""


def report_by_shots(problem: Problem, params: MetaParams, calibration: dict[str, Any], level: int | None) -> dict[str, Any]:
    """By number of support examples: the headline metric before adaptation, after the trained steps and after 'auto' steps;
    and where there is a `level`, how many rows its intervals cover and how wide they are. `trained` says whether the number was
    met in training. Tasks weigh the same."""
    assert problem.splits is not None
    prober = Prober(problem, params)
    room = rooms(problem.shot_counts, problem.settings.shot_range.most)
    names = ("shots", "trained", "tasks", "before", "mean", "ci95", "auto", "intervals")
    result: dict[str, Any] = {name: [] for name in names}
    least, most = problem.settings.shot_range
    for shots in problem.shot_counts:
        probed = prober.probe(problem.splits.test, shots, room[shots], EPISODES, 1000, seed=3)
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


def coverage(problem: Problem, probed: Probed, calibration: dict[str, Any], level: int, shots: int) -> dict[str, Any] | None:
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
        weights = evenly(probed.known[has][..., output])
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
        return outputs, deviation(problem, fit(problem, params, support, key, trained), inputs)

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
