"""Statistics of probes, and their intervals over tasks (floor 5). Used by probes.py; what compares arms is statistics.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats


def jackknife(statistic: Callable[[np.ndarray], float], tasks: int) -> tuple[float, float, float]:
    """(value, low, high) of a `statistic` of the tasks with these numbers, and its 95 % interval: leaving out one task after
    the other gives the standard error (Efron & Stein 1981), Student's t the rest. Unlike in a bootstrap no task comes twice,
    which a mean over pairs of tasks would mind. The ends are NaN where there are fewer than three tasks or the value is.
    """
    everyone = np.arange(tasks)
    value = float(statistic(everyone))
    if tasks < 3 or not np.isfinite(value):
        return value, float("nan"), float("nan")
    without = np.array([statistic(np.delete(everyone, task)) for task in everyone])
    error = np.sqrt((tasks - 1) / tasks * np.sum(np.square(without - without.mean())))
    half = float(stats.t.ppf(0.975, tasks - 1) * error)
    return value, value - half, value + half


def ratio(part: float, whole: float) -> float:
    """NaN where there is nothing to be a part of."""
    return float(part / whole) if whole else float("nan")


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[tasks, tasks]: of each of `first` [tasks, numbers] with each of `second`; NaN with a vector of zeros."""
    products = first @ second.T
    lengths = np.linalg.norm(first, axis=1)[:, None] * np.linalg.norm(second, axis=1)[None]
    return np.divide(products, lengths, out=np.full_like(products, np.nan), where=lengths > 0)


def of_one_task(values: np.ndarray, keep: np.ndarray) -> float:
    """The mean of `values` [tasks, tasks] over the kept tasks with themselves."""
    return float(values[keep, keep].mean())


def of_two_tasks(values: np.ndarray, keep: np.ndarray) -> float:
    """The mean of `values` [tasks, tasks] over all pairs of two kept tasks."""
    among, count = values[np.ix_(keep, keep)], len(keep)
    return float((among.sum() - np.trace(among)) / (count * (count - 1))) if count > 1 else float("nan")


def effective_rank(products: np.ndarray, keep: np.ndarray) -> float:
    """(Σ λ)² / Σ λ² of the covariance of the kept vectors, by their inner `products` [tasks, tasks]: the number of directions
    in which they vary, where they vary in all of these alike. NaN where they do not vary."""
    among = centered(products[np.ix_(keep, keep)])
    squares = float(np.sum(np.square(among)))
    return float(np.trace(among) ** 2 / squares) if squares > 0 else float("nan")


def centered(products: np.ndarray) -> np.ndarray:
    """Inner products of vectors less their mean, by those of the vectors."""
    rows = products.mean(axis=0)
    return products - rows[:, None] - rows[None] + rows.mean()


def spread_beyond_chance(first: np.ndarray, second: np.ndarray, keep: np.ndarray) -> float:
    """The standard deviation between tasks by their mean, of what was measured of each twice, [tasks] each: chance is in one of
    both alone, so it has no part in their covariance. 0 where this is negative, NaN where the mean is 0."""
    one, two = first[keep], second[keep]
    covariance = float(np.sum((one - one.mean()) * (two - two.mean())) / (len(keep) - 1))
    return ratio(np.sqrt(max(covariance, 0.0)), (one.mean() + two.mean()) / 2)
