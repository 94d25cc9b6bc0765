"""Calibration on meta-calibration tasks (floor 3): widths of intervals, the temperature of probabilities, and what is unlike.

Split conformal prediction over tasks: every calibration task weighs as one score, spread evenly over its rows, and one more
task, the unseen one, may do worse than all (Lee, Barber & Willett 2023, arXiv 2306.06342). So an interval at 95 % covers a row
of a new task, exchangeable with these and met with as many support rows, with a probability of at least 95 %, on average over
tasks; and n tasks allow no level beyond n / (n + 1). Calibration tasks serve for nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fewstep.problem import Problem
from fewstep.training.fit import SIGNS
from fewstep.training.probe import POLICIES, Probed, Prober, rooms
from fewstep.types import MetaParams

LEVELS = tuple(range(50, 100))
"""per cent"""
UNLIKE = 95
"""so many per cent of tasks like those of training are not flagged"""
MOST_TASKS, EPISODES = 500, 320
"""Calibration looks at so many tasks, and at so many episodes of each number of shots where tasks are few."""
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
        result["factors"] = [[quantile(score, weights, level, probed.tasks) for level in LEVELS] for score in each]
    ours, theirs = probed.signs[policy], usual.signs[policy]
    center, scale = theirs.mean((0, 1)), theirs.std((0, 1)) + 1e-3
    strangeness = ((ours - center) / scale).max(-1)
    result["likeness"] = {
        "center": center.tolist(),
        "scale": scale.tolist(),
        "limit": quantile(strangeness, np.full(strangeness.shape, 1.0 / strangeness.size), UNLIKE, probed.tasks),
        "usual": np.exp(np.quantile(ours.reshape(-1, len(SIGNS)), UNLIKE / 100, axis=0)).tolist(),
    }
    return result


def quantile(scores: np.ndarray, weight: np.ndarray, level: int, tasks: int) -> float | None:
    """The least score at or below which lies `level` per cent, where one more task counts as worse than all; None where so
    few tasks allow no such score."""
    wanted = level / 100 * (tasks + 1) / tasks
    if wanted > 1 + 1e-9:
        return None
    counts = weight.ravel() > 0
    flat, mass = scores.ravel()[counts], weight.ravel()[counts]
    order = np.argsort(flat)
    place = np.searchsorted(np.cumsum(mass[order]), min(wanted, 1.0) - 1e-9)
    return float(flat[order][min(place, flat.size - 1)])


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
