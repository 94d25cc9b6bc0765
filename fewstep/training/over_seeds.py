"""Several runs of one method as one figure (floor 3): the interquartile mean, with a stratified bootstrap interval.

Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice" (NeurIPS): a mean over few seeds
hangs on the one that failed or shone, a median throws most of them away; the mean of the middle half does neither. Resampling
draws seeds, task by task, so that no task is left out of a sample.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

SEEDS = 10
"""From so many seeds on an interval of this kind is worth something: of fewer, the middle half is hardly anyone."""
LEVEL, DRAWS = 0.95, 10_000
"""of the interval, and how often it is resampled"""


class Interquartile(NamedTuple):
    """The interquartile mean and the ends of its interval."""

    mean: float
    low: float
    high: float


def interquartile_mean(scores: ArrayLike) -> np.ndarray:
    """The mean of the middle half of `scores` [..., numbers], the same quarter (rounded down) cut at either end: [...]."""
    scores = np.sort(np.asarray(scores, np.float64), axis=-1)
    cut = scores.shape[-1] // 4
    return scores[..., cut : scores.shape[-1] - cut].mean(-1)


def over_seeds(scores: ArrayLike, seed: int = 0) -> Interquartile | None:
    """Of `scores` [seeds], or [seeds, tasks] whose tasks are of one scale: over all of them together. None below ten seeds.

    The interval is from percentiles of 10,000 samples, in each of which every task draws as many seeds as there are.
    """
    table = np.asarray(scores, np.float64)
    table = table[:, None] if table.ndim == 1 else table
    seeds, tasks = table.shape
    if seeds < SEEDS:
        return None
    random, found = np.random.default_rng(seed), []
    for _ in range(0, DRAWS, 500):
        drawn = random.integers(seeds, size=(500, seeds, tasks))
        found.append(interquartile_mean(table[drawn, np.arange(tasks)[None, None]].reshape(500, -1)))
    low, high = np.quantile(np.concatenate(found), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interquartile(float(interquartile_mean(table.ravel())), float(low), float(high))
