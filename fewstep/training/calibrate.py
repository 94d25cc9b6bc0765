"""Calibration on meta-calibration tasks (floor 3): widths of intervals, the temperature of probabilities, and what is unlike.

Split conformal prediction over tasks, one score a task (Dunn, Wasserman & Ramdas 2023, arXiv 1809.07441, subsampling): an
interval at 95 % covers a row of a new task, exchangeable with the calibration tasks and met with as many support rows, with a
probability of at least 95 %, on average over tasks; and n tasks allow no level beyond n / (n + 1). Calibration tasks serve for
nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fewstep.problem import Problem
from fewstep.training.fit import SIGNS
from fewstep.training.probe import POLICIES, Probed, Prober, rooms
from fewstep.types import MetaParams

LEVELS = tuple(range(50, 100))
"""per cent"""
STATED = (95, 90, 80)
"""per cent: the level of intervals where none is asked for is the first of these that the calibration tasks allow; those of
prediction sets"""
UNLIKE = (96, 95)
"""so many per cent of tasks like those of training are not flagged: the first that their number allows"""
MOST_TASKS, EPISODES = 500, 320
"""Calibration looks at so many tasks, and at so many episodes of each number of shots where tasks are few."""
REPEATS = 500
"""So often one row of each calibration task is drawn."""
TEMPERATURES = np.geomspace(0.25, 8.0, 61)


def calibrate(problem: Problem, params: MetaParams) -> dict[str, Any]:
    """What `calibration.json` holds: for each number of shots of `problem.shot_counts`, and for the trained number of
    adaptation steps and for 'auto', the factors of intervals by level and output, the temperature, and the limits of likeness.
    """
    assert problem.splits is not None
    family = problem.splits.calibration
    trained = problem.learner.adaptation_steps
    if family is None or problem.row_error is None or not problem.shot_counts:
        return {"tasks": 0, "trained_steps": trained, "by_shots": []}
    prober = Prober(problem, params)
    room = rooms(problem.shot_counts, problem.settings.shot_range.most)
    found = []
    for shots in problem.shot_counts:
        probed = prober.probe(family, shots, room[shots], EPISODES, MOST_TASKS, seed=1)
        usual = prober.probe(problem.splits.validation, shots, room[shots], EPISODES, MOST_TASKS, seed=2)
        if probed is not None and usual is not None:
            entry = {policy: summary(problem, probed, usual, policy) for policy in POLICIES}
            found.append({"shots": shots, "tasks": probed.tasks, **entry})
    return {"tasks": int(family.tasks(MOST_TASKS).size), "trained_steps": trained, "by_shots": found}


def summary(problem: Problem, probed: Probed, usual: Probed, policy: str) -> dict[str, Any]:
    """The numbers that are kept of one number of shots and one choice of steps."""
    weights, targets, outputs = probed.weights, np.asarray(probed.query.targets), probed.outputs[policy]
    result: dict[str, Any] = {}
    if problem.format.classes:
        result["temperature"] = best_temperature(outputs, targets, weights)
    else:
        scores = np.abs(targets - outputs) / probed.deviation[policy]
        each = np.moveaxis(scores, -1, 0)
        result["factors"] = [quantiles(score, weights, LEVELS, probed.tasks) for score in each]
    ours, theirs = probed.signs[policy], usual.signs[policy]
    center, scale = theirs.mean((0, 1)), theirs.std((0, 1)) + 1e-3
    strangeness = ((ours - center) / scale).max(-1)
    level = next((level for level in UNLIKE if level * (probed.tasks + 1) <= 100 * probed.tasks), UNLIKE[-1])
    result["likeness"] = {
        "level": level,
        "center": center.tolist(),
        "scale": scale.tolist(),
        "limit": quantile(strangeness, np.full(strangeness.shape, 1.0 / strangeness.size), level, probed.tasks),
        "usual": np.exp(np.quantile(ours.reshape(-1, len(SIGNS)), level / 100, axis=0)).tolist(),
    }
    return result


def quantile(scores: np.ndarray, weight: np.ndarray, level: int, tasks: int) -> float | None:
    """The score that a row of one more task stays below with a probability of at least `level` per cent, on average over such
    tasks; None where so few tasks allow no such score. For [tasks, ...] `scores` and their `weight`.
    """
    return quantiles(scores, weight, (level,), tasks)[0]


def quantiles(scores: np.ndarray, weight: np.ndarray, levels: Sequence[int], tasks: int) -> list[float | None]:
    """`quantile` for each of `levels`.

    One score a task, drawn at random from its rows: of n such scores the k-th, k = ⌈level (n + 1)⌉, covers a row of one more
    task with a probability of k / (n + 1) (split conformal). Which rows were drawn is luck, so the draw is repeated, and the
    score is taken below which lies as much of all rows, tasks weighing the same, as below the k-th on average.
    """
    flat, mass = scores.reshape(tasks, -1).astype(np.float64), weight.reshape(tasks, -1).astype(np.float64)
    mass = mass / np.maximum(mass.sum(1, keepdims=True), 1e-300)
    # One row of each task, by its weight: the place at which the running sum passes a uniform number.
    running, uniform = np.cumsum(mass, axis=1), np.random.default_rng(0).random((tasks, REPEATS))
    place = [
        np.searchsorted(row, draws * row[-1] * (1 - 1e-12), side="right") for row, draws in zip(running, uniform, strict=True)
    ]
    drawn = np.sort(np.take_along_axis(flat, np.stack(place), axis=1), axis=0)
    order = np.argsort(flat, axis=None)
    pooled, below = flat.ravel()[order], np.cumsum(mass.ravel()[order]) / tasks
    found: list[float | None] = []
    for level in levels:
        rank = int(np.ceil(level / 100 * (tasks + 1) - 1e-9))
        if rank > tasks:
            found.append(None)
            continue
        share = below[np.searchsorted(pooled, drawn[rank - 1], side="right") - 1].mean()
        found.append(float(pooled[min(np.searchsorted(below, share - 1e-9), pooled.size - 1)]))
    return found


def best_temperature(log_probabilities: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> float:
    """The temperature under which softmax(log p / T) has the least log loss, tasks weighing the same (Guo et al. 2017)."""

    def loss(temperature: float) -> float:
        scaled = log_probabilities / temperature
        scaled = scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
        return float(-(weight * (scaled * targets).sum(-1)).sum())

    return float(min(TEMPERATURES, key=loss))


def nearest_entry(calibration: dict[str, Any], rows: int) -> dict[str, Any] | None:
    """The entry of the number of shots next to `rows`, on a logarithmic scale."""
    entries = [entry for entry in calibration["by_shots"] if "trained" in entry]
    return min(entries, key=lambda entry: abs(np.log((entry["shots"] + 1) / (rows + 1))), default=None)
