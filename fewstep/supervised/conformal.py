"""Calibration on meta-calibration tasks: widths of intervals, the temperature of probabilities, and what is unlike.

Split conformal prediction over tasks, one score a task (Dunn, Wasserman & Ramdas 2023, arXiv 1809.07441, subsampling): an
interval at 95 % covers a row of a new task, exchangeable with the calibration tasks and met with as many support rows,
with a probability of at least 95 %, on average over tasks; and n tasks allow no level beyond n / (n + 1). Calibration
tasks serve for nothing else.

What `calibration.json` holds, as `calibrate.py` writes it.

Annotations are evaluated here: as text, Python 3.11 does not see which keys are not required.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np

from fewstep.core.problem import Problem, Splits, needed_to_calibrate
from fewstep.core.tasks import TaskFamily
from fewstep.core.types import MetaParams
from fewstep.storage.json import Count, Positive, validate
from fewstep.supervised.fit import POLICIES, SIGNS, EpisodePredictions, EpisodePredictor, evenly, rooms

LEVELS = tuple(range(50, 100))
"""per cent"""
DEFAULT_LEVELS = (95, 90, 80)
"""per cent: the level of intervals where none is asked for is the first of these that the calibration tasks allow; those of
prediction sets"""
UNLIKE = (96, 95)
"""so many per cent of tasks like those of training are not flagged: the first that their number allows"""
BEYOND = 2.0
"""Where too few tasks calibrate, a task is unlike others from so many times the deviation of the most deviant meta-train or
meta-validation task on."""
MOST_TASKS, EPISODES = 500, 320
"""Calibration looks at so many tasks, and at so many episodes of each number of shots where tasks are few."""
REPEATS = 500
"""So often one row of each calibration task is drawn."""
TEMPERATURES = np.geomspace(0.25, 8.0, 61)


def calibrate(problem: Problem, params: MetaParams) -> dict[str, Any]:
    """What `calibration.json` holds: for 0 shots and each number of `problem.shot_counts`, and for the trained number of
    adaptation steps and for 'auto', the factors of intervals by level and output, the temperature, and the OOD thresholds.

    Without calibration tasks, it holds the OOD thresholds alone, by meta-train and meta-validation tasks.
    """
    assert problem.splits is not None
    splits, trained = problem.splits, problem.learner.adaptation_steps
    family = splits.calibration
    if problem.row_error is None or not problem.shot_counts:
        return {"tasks": 0, "trained_steps": trained, "by_shots": []}
    prober = EpisodePredictor(problem, params)
    counts = sorted({0, *problem.shot_counts})
    room = rooms(counts, problem.settings.shot_range.most)
    found = []
    for shots in counts:
        probed, usual, learned = (
            prober.probe(each, shots, room[shots], EPISODES, MOST_TASKS, seed) if each is not None else None
            for each, seed in ((family, 1), (splits.validation, 2), (needed(splits, family, shots), 4))
        )
        if usual is not None and (probed is not None or learned is not None):
            entry = {policy: summary(problem, probed, usual, learned, policy) for policy in POLICIES}
            tasks = 0 if probed is None else int(probed.known.any((1, 2)).sum(0).min())
            found.append({"shots": shots, "tasks": tasks, **entry})
    tasks = 0 if family is None else int(family.tasks(MOST_TASKS).size)
    return {"tasks": tasks, "trained_steps": trained, "by_shots": found}


def needed(splits: Splits, family: TaskFamily | None, shots: int) -> TaskFamily | None:
    """The meta-train tasks, where so few tasks of the calibration `family` have so many examples that these say nothing of what
    is like training. Without support examples there is nothing to say."""
    tasks = 0 if family is None else int(family.tasks(MOST_TASKS, shots).size)
    return None if shots == 0 or UNLIKE[-1] * (tasks + 1) <= 100 * tasks else splits.train


def summary(
    problem: Problem,
    probed: EpisodePredictions | None,
    usual: EpisodePredictions,
    learned: EpisodePredictions | None,
    policy: str,
) -> dict[str, Any]:
    """The numbers that are kept of one number of shots and one choice of steps: `probed` are calibration tasks, `usual`
    meta-validation tasks, `learned` meta-train tasks where calibration tasks are too few for an OOD threshold."""
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
        result["likeness"] = rough_ood_threshold(usual.signs[policy], learned.signs[policy])
        return result
    ours, theirs = probed.signs[policy], usual.signs[policy]
    center, scale = theirs.mean((0, 1)), theirs.std((0, 1)) + 1e-3
    ood_score = ((ours - center) / scale).max(-1)
    level = next((level for level in UNLIKE if level * (probed.tasks + 1) <= 100 * probed.tasks), UNLIKE[-1])
    result["likeness"] = {
        "level": level,
        "center": center.tolist(),
        "scale": scale.tolist(),
        "limit": quantile(ood_score, np.full(ood_score.shape, 1.0 / ood_score.size), level, probed.tasks),
        "usual": np.exp(np.quantile(ours.reshape(-1, len(SIGNS)), level / 100, axis=0)).tolist(),
    }
    return result


def interval_quantiles(scores: np.ndarray, known: np.ndarray) -> list[float | None]:
    """`quantiles` of one output, over the tasks that have values of its target; both [tasks, draws, queries]."""
    has = known.any((1, 2))
    if not has.any():
        return [None] * len(LEVELS)
    return quantiles(scores[has], evenly(known[has]), LEVELS, int(has.sum()))


def rough_ood_threshold(*signs: np.ndarray) -> dict[str, Any]:
    """What is like training, by meta-validation and meta-train tasks, each [tasks, draws, signs]. Training has seen most of
    these, so their limit is no quantile: it lies `BEYOND` the most deviant of them."""
    every = np.concatenate([each.reshape(-1, len(SIGNS)) for each in signs])
    every = every[np.isfinite(every).all(1)]  # what diverges is like nothing
    if not len(every):
        nothing = [0.0] * len(SIGNS)
        return {"level": 100, "center": nothing, "scale": [1.0] * len(SIGNS), "limit": None, "usual": nothing}
    center, scale = every.mean(0), every.std(0) + 1e-3
    return {
        "level": 100,
        "center": center.tolist(),
        "scale": scale.tolist(),
        "limit": BEYOND * float(((every - center) / scale).max()),
        "usual": np.exp(every.max(0)).tolist(),
        "known_tasks": int(sum(each.shape[0] for each in signs)),
    }


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


def allowed_intervals(tasks: int) -> str:
    """Which of the usual intervals so many calibration tasks allow: a line to read before the training."""
    needed = {level: needed_to_calibrate(level / 100) for level in DEFAULT_LEVELS[::-1]}
    best = max((level for level, number in needed.items() if number <= tasks), default=None)
    takes = ", ".join(f"{number} for {level} %" for level, number in needed.items())
    allowed = f"up to {best} %" if best else "none"
    return f"intervals (lower and upper): {allowed}, by {tasks} calibration units; {takes} are needed"


def nearest_entry(calibration: dict[str, Any], rows: int) -> dict[str, Any] | None:
    """The entry of the number of shots next to `rows`, on a logarithmic scale. The one of 0 shots is for no rows alone, which
    have no other."""
    entries = [entry for entry in calibration["by_shots"] if "trained" in entry and (entry["shots"] == 0) == (rows == 0)]
    return min(entries, key=lambda entry: abs(np.log((entry["shots"] + 1) / (rows + 1))), default=None)


OfSigns = tuple[float, float, float]
"""a number for each of `SIGNS`"""


class OODThreshold(TypedDict):
    """What is like the tasks of training."""

    level: int
    limit: float | None
    center: OfSigns
    scale: tuple[Positive, Positive, Positive]
    usual: OfSigns
    known_tasks: NotRequired[int]
    """how many meta-train and meta-validation tasks the limit is of, where too few tasks calibrated"""


class Choice(TypedDict):
    """Of one number of shots and one choice of steps."""

    likeness: OODThreshold
    temperature: NotRequired[Positive]
    factors: NotRequired[tuple[tuple[float | None, ...], ...]]


class Entry(TypedDict):
    """Of one number of shots."""

    shots: Count
    tasks: int
    trained: NotRequired[Choice]
    auto: NotRequired[Choice]


Unfinished = Literal["training", "calibrating", "uncalibrated", "stopped"]
"""why a run had no calibration when a model was adapted (`runs/lock.py`)"""


class OfTables(TypedDict):
    """Of a table, of sine waves, of robots."""

    by_shots: tuple[Entry, ...]
    unfinished: NotRequired[Unfinished]


def require_calibration(found: Any, problem: Problem) -> None:
    """Raises `ValueError` if `found` is no calibration of a model of `problem`, which may be without data."""
    of_tables, outputs = validate(found, OfTables, "the calibration"), problem.format.outputs
    for entry in of_tables["by_shots"]:
        choices = [entry[name] for name in ("trained", "auto") if name in entry]
        factors = [choice["factors"] for choice in choices if choice.get("factors")]
        if len(choices) == 1 or any(len(each) != outputs or {*map(len, each)} != {len(LEVELS)} for each in factors):
            raise ValueError(f"the calibration: of {entry['shots']} shots expected {outputs} outputs of {len(LEVELS)} levels")
