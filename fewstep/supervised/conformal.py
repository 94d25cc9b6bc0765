"""Calibration on meta-calibration tasks: interval quantiles, temperatures of probabilities, and OOD thresholds.

Split conformal prediction over tasks, with one score per task (Dunn, Wasserman & Ramdas 2023, arXiv 1809.07441, subsampling). A
95 % interval covers a row of a new task with a probability of at least 95 %, on average over tasks, if the task is exchangeable
with the calibration tasks and has as many support rows. n tasks allow no level above n / (n + 1). Calibration tasks serve for
nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np

from fewstep.core.problem import Problem, Splits, needed_to_calibrate
from fewstep.core.tasks import TaskFamily
from fewstep.core.types import MetaParams
from fewstep.storage.json import Count, Positive, validate
from fewstep.supervised.fit import (
    OOD_FEATURES,
    POLICIES,
    EpisodePredictions,
    EpisodePredictor,
    normalized_weights,
    padded_shots,
)

LEVELS = tuple(range(50, 100))
"""per cent"""
DEFAULT_LEVELS = (95, 90, 80)
"""per cent: intervals default to the first of these levels that the calibration tasks allow; levels of prediction sets"""
UNLIKE = (96, 95)
"""per cent of in-distribution tasks below the OOD threshold: the first of these that the number of tasks allows"""
BEYOND = 2.0
"""With too few calibration tasks, the OOD threshold is this factor times the maximum score of meta-train and meta-validation
tasks."""
MOST_TASKS, EPISODES = 500, 320
"""Calibration uses at most this many tasks, and about this many episodes per number of shots if tasks are few."""
REPEATS = 500
"""How often one row of each calibration task is sampled."""
TEMPERATURES = np.geomspace(0.25, 8.0, 61)


def calibrate(problem: Problem, params: MetaParams) -> dict[str, Any]:
    """The content of `calibration.json`: for 0 shots and each of `problem.shot_counts`, and for the trained number of
    adaptation steps and 'auto', the interval quantiles by level and output, the temperature, and the OOD threshold.

    Without calibration tasks, only OOD thresholds, from meta-train and meta-validation tasks.
    """
    assert problem.splits is not None
    splits, trained = problem.splits, problem.learner.adaptation_steps
    family = splits.calibration
    if problem.row_error is None or not problem.shot_counts:
        return {"tasks": 0, "trained_steps": trained, "by_shots": []}
    predictor = EpisodePredictor(problem, params)
    counts = sorted({0, *problem.shot_counts})
    padded = padded_shots(counts, problem.settings.shot_range.most)
    found = []
    for shots in counts:
        probed, usual, learned = (
            predictor.predict(each, shots, padded[shots], EPISODES, MOST_TASKS, seed) if each is not None else None
            for each, seed in ((family, 1), (splits.validation, 2), (fallback_tasks(splits, family, shots), 4))
        )
        if usual is not None and (probed is not None or learned is not None):
            entry = {policy: summary(problem, probed, usual, learned, policy) for policy in POLICIES}
            tasks = 0 if probed is None else int(probed.known.any((1, 2)).sum(0).min())
            found.append({"shots": shots, "tasks": tasks, **entry})
    tasks = 0 if family is None else int(family.tasks(MOST_TASKS).size)
    return {"tasks": tasks, "trained_steps": trained, "by_shots": found}


def fallback_tasks(splits: Splits, family: TaskFamily | None, shots: int) -> TaskFamily | None:
    """The meta-train tasks, if too few tasks of the calibration `family` have `shots` examples to set an OOD threshold. None
    otherwise, and for 0 shots."""
    tasks = 0 if family is None else int(family.tasks(MOST_TASKS, shots).size)
    return None if shots == 0 or UNLIKE[-1] * (tasks + 1) <= 100 * tasks else splits.train


def summary(
    problem: Problem,
    probed: EpisodePredictions | None,
    usual: EpisodePredictions,
    learned: EpisodePredictions | None,
    policy: str,
) -> dict[str, Any]:
    """Calibration for one number of shots and one choice of steps. `probed` are calibration tasks, `usual` meta-validation
    tasks, `learned` meta-train tasks if calibration tasks are too few for an OOD threshold."""
    result: dict[str, Any] = {}
    if probed is not None:
        targets, outputs = np.asarray(probed.query.targets), probed.outputs[policy]
        if problem.format.classes:
            result["temperature"] = best_temperature(outputs, targets, probed.weights)
        else:
            scores = np.abs(targets - outputs) / probed.deviation[policy]
            known = np.moveaxis(probed.known, -1, 0)
            result["factors"] = [
                interval_quantiles(score, has) for score, has in zip(np.moveaxis(scores, -1, 0), known, strict=True)
            ]
    if learned is not None or probed is None:
        assert learned is not None
        result["likeness"] = rough_ood_threshold(usual.ood_features[policy], learned.ood_features[policy])
        return result
    ours, theirs = probed.ood_features[policy], usual.ood_features[policy]
    center, scale = theirs.mean((0, 1)), theirs.std((0, 1)) + 1e-3
    ood_score = ((ours - center) / scale).max(-1)
    level = next((level for level in UNLIKE if level * (probed.tasks + 1) <= 100 * probed.tasks), UNLIKE[-1])
    result["likeness"] = {
        "level": level,
        "center": center.tolist(),
        "scale": scale.tolist(),
        "limit": quantile(ood_score, np.full(ood_score.shape, 1.0 / ood_score.size), level, probed.tasks),
        "usual": np.exp(np.quantile(ours.reshape(-1, len(OOD_FEATURES)), level / 100, axis=0)).tolist(),
    }
    return result


def interval_quantiles(scores: np.ndarray, known: np.ndarray) -> list[float | None]:
    """`quantiles` for one output, over tasks with values of its target; both arguments are [tasks, draws, queries]."""
    has = known.any((1, 2))
    if not has.any():
        return [None] * len(LEVELS)
    return quantiles(scores[has], normalized_weights(known[has]), LEVELS, int(has.sum()))


def rough_ood_threshold(*features: np.ndarray) -> dict[str, Any]:
    """OOD threshold from meta-validation and meta-train tasks, each [tasks, draws, features]. Most of these were seen in
    training, so the threshold is not a quantile but `BEYOND` times the maximum score."""
    every = np.concatenate([each.reshape(-1, len(OOD_FEATURES)) for each in features])
    every = every[np.isfinite(every).all(1)]  # diverged episodes are excluded
    if not len(every):
        nothing = [0.0] * len(OOD_FEATURES)
        return {"level": 100, "center": nothing, "scale": [1.0] * len(OOD_FEATURES), "limit": None, "usual": nothing}
    center, scale = every.mean(0), every.std(0) + 1e-3
    return {
        "level": 100,
        "center": center.tolist(),
        "scale": scale.tolist(),
        "limit": BEYOND * float(((every - center) / scale).max()),
        "usual": np.exp(every.max(0)).tolist(),
        "known_tasks": int(sum(each.shape[0] for each in features)),
    }


def quantile(scores: np.ndarray, weight: np.ndarray, level: int, tasks: int) -> float | None:
    """The score that bounds a row of a new task with a probability of at least `level` per cent, on average over tasks; None if
    there are too few tasks. `scores` and `weight` are [tasks, ...].
    """
    return quantiles(scores, weight, (level,), tasks)[0]


def quantiles(scores: np.ndarray, weight: np.ndarray, levels: Sequence[int], tasks: int) -> list[float | None]:
    """`quantile` for each of `levels`.

    One score per task is sampled from its rows. The k-th of n such scores, k = ⌈level (n + 1)⌉, covers a row of a new task with
    a probability of k / (n + 1) (split conformal). To remove the randomness of the sample, it is repeated, and the result is
    the quantile of all rows, with equal weight per task, at the mean mass below the k-th score.
    """
    flat, mass = scores.reshape(tasks, -1).astype(np.float64), weight.reshape(tasks, -1).astype(np.float64)
    mass = mass / np.maximum(mass.sum(1, keepdims=True), 1e-300)
    # Samples one row of each task by weight: the index at which the cumulative sum exceeds a uniform number.
    running, uniform = np.cumsum(mass, axis=1), np.random.default_rng(0).random((tasks, REPEATS))
    place = [
        np.searchsorted(row, draws * row[-1] * (1 - 1e-12), side="right") for row, draws in zip(running, uniform, strict=True)
    ]
    sampled = np.sort(np.take_along_axis(flat, np.stack(place), axis=1), axis=0)
    order = np.argsort(flat, axis=None)
    pooled, below = flat.ravel()[order], np.cumsum(mass.ravel()[order]) / tasks
    found: list[float | None] = []
    for level in levels:
        rank = int(np.ceil(level / 100 * (tasks + 1) - 1e-9))
        if rank > tasks:
            found.append(None)
            continue
        share = below[np.searchsorted(pooled, sampled[rank - 1], side="right") - 1].mean()
        found.append(float(pooled[min(np.searchsorted(below, share - 1e-9), pooled.size - 1)]))
    return found


def best_temperature(log_probabilities: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> float:
    """The temperature T that minimizes the log loss of softmax(log p / T), with equal weight per task (Guo et al. 2017)."""

    def loss(temperature: float) -> float:
        scaled = log_probabilities / temperature
        scaled = scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
        return float(-(weight * (scaled * targets).sum(-1)).sum())

    return float(min(TEMPERATURES, key=loss))


def allowed_intervals(tasks: int) -> str:
    """A line on which of the default interval levels this number of calibration tasks allows."""
    needed = {level: needed_to_calibrate(level / 100) for level in DEFAULT_LEVELS[::-1]}
    best = max((level for level, number in needed.items() if number <= tasks), default=None)
    takes = ", ".join(f"{number} for {level} %" for level, number in needed.items())
    allowed = f"up to {best} %" if best else "none"
    return f"intervals (lower and upper): {allowed}, by {tasks} calibration units; {takes} are needed"


def nearest_entry(calibration: dict[str, Any], rows: int) -> dict[str, Any] | None:
    """The entry whose number of shots is nearest to `rows` on a logarithmic scale. The entry for 0 shots is used for 0 rows
    only, and no other is."""
    entries = [entry for entry in calibration["by_shots"] if "trained" in entry and (entry["shots"] == 0) == (rows == 0)]
    return min(entries, key=lambda entry: abs(np.log((entry["shots"] + 1) / (rows + 1))), default=None)


PerFeature = tuple[float, float, float]
"""a number for each of `OOD_FEATURES`"""


class OODThreshold(TypedDict):
    """The OOD score of a task is max((features − center) / scale); tasks above `limit` are out of distribution."""

    level: int
    limit: float | None
    center: PerFeature
    scale: tuple[Positive, Positive, Positive]
    usual: PerFeature
    known_tasks: NotRequired[int]
    """number of meta-train and meta-validation tasks behind the limit, if there are too few calibration tasks"""


class Choice(TypedDict):
    """Calibration for one number of shots and one choice of steps."""

    likeness: OODThreshold
    temperature: NotRequired[Positive]
    factors: NotRequired[tuple[tuple[float | None, ...], ...]]


class Entry(TypedDict):
    """Calibration for one number of shots."""

    shots: Count
    tasks: int
    trained: NotRequired[Choice]
    auto: NotRequired[Choice]


Unfinished = Literal["training", "calibrating", "uncalibrated", "stopped"]
"""why a run had no calibration when a model was adapted (`runs/lock.py`)"""


class Calibration(TypedDict):
    """Calibration of a model of rows: tables, sine waves, robots."""

    by_shots: tuple[Entry, ...]
    unfinished: NotRequired[Unfinished]


def require_calibration(found: Any, problem: Problem) -> None:
    """Raises `ValueError` if `found` is not a calibration of a model of `problem`, which may be without data."""
    calibration, outputs = validate(found, Calibration, "the calibration"), problem.format.outputs
    for entry in calibration["by_shots"]:
        choices = [entry[name] for name in ("trained", "auto") if name in entry]
        factors = [choice["factors"] for choice in choices if choice.get("factors")]
        if len(choices) == 1 or any(len(each) != outputs or {*map(len, each)} != {len(LEVELS)} for each in factors):
            raise ValueError(f"the calibration: of {entry['shots']} shots expected {outputs} outputs of {len(LEVELS)} levels")
