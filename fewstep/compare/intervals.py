"""Intervals of the mean of a table, seeds × tasks, both of them drawn from many (floor 5). Used by statistics.py.

Rows differ (another seed, another training), columns differ (tasks are hard or easy), so the mean of the table is as sure as
its rows and its columns are many, not its cells. With three seeds a resampled interval has three rows to draw from, and
Satterthwaite's t alone covers less than it says; what covers it, as `benchmarks/accuracy/compare/coverage.py` measures, is
Satterthwaite's t with two corrections, both in closed form:

* The variance of so few seeds is mostly estimated too small, and the degrees of freedom then too many: they are counted with
  a seed variance that the true one exceeds once in four times only.
* Errors of tasks are skewed; the quantile is moved by Hall's cubic transformation (Hall 1992, Journal of the Royal Statistical
  Society B 54, 221-228), which is monotone.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import stats

from fewstep.compare.results import Interval

FAR = 20
"""times the margin, or the median difference: what differs by more counts for no more where it is asked who may be better"""
POWER = 0.8
"""so likely are 'about M more tasks' to tell"""
FURTHEST = 1e4
"""times the tasks that there are: nobody has more"""


@cache
def low_share(freedom: int) -> float:
    """An estimated variance of so many degrees of freedom is less than this part of the true one once in four times."""
    return float(stats.chi2.ppf(0.25, freedom)) / freedom


class Layout(NamedTuple):
    """The mean of a table [seeds, tasks], and mean squares of the two-way layout as parts of the mean's variance."""

    mean: float
    between_seeds: float
    """what rows differ by: from seed to seed, and by chance"""
    between_tasks: float
    """what columns differ by: from task to task, and by chance"""
    within: float
    """chance alone: of a seed on a task"""
    third: float
    """the third cumulant of the mean, from task to task"""
    seeds: int
    tasks: int

    @property
    def seed_variance(self) -> float:
        """From seed to seed alone; 0 where there is one row."""
        return max(self.between_seeds - self.within, 0.0)

    @property
    def variance(self) -> float:
        return self.seed_variance + self.between_tasks

    @property
    def freedom(self) -> float:
        """Satterthwaite's degrees of freedom, at a cautious seed variance."""
        if not self.variance:
            return self.tasks - 1.0
        seeds = max(self.between_seeds / low_share(self.seeds - 1) - self.within, 0.0) if self.seeds > 1 else 0.0
        parts = seeds**2 / max(self.seeds - 1, 1) + self.between_tasks**2 / (self.tasks - 1)
        return (seeds + self.between_tasks) ** 2 / parts

    def quantile(self, t: float) -> float:
        """Where the true mean lies at `t` of Student's distribution."""
        deviation = self.variance**0.5
        skew = self.third / deviation**3 if deviation else 0.0
        if abs(skew) > 1e-6:  # Hall's transformation, inverted
            t = -3 / skew * (float(np.cbrt(1 - skew * (t + skew / 6))) - 1)
        return self.mean + deviation * t

    def reversed(self) -> Layout:
        """Of the negative errors."""
        return self._replace(mean=-self.mean, third=-self.third)

    def over(self, tasks: float) -> Layout:
        """As it would be over so many tasks of the same kind: seeds go on differing, all else averages out."""
        share = self.tasks / tasks
        between_seeds = self.seed_variance + min(self.between_seeds, self.within) * share
        squares = between_seeds, self.between_tasks * share, self.within * share
        return Layout(self.mean, *squares, self.third * share**2, self.seeds, int(tasks))


def layout(errors: np.ndarray) -> Layout:
    """The layout of `errors` [seeds, tasks], all of them finite; at least 2 tasks."""
    seeds, tasks = errors.shape
    mean, by_seed, by_task = float(errors.mean()), errors.mean(1), errors.mean(0)
    left = errors - by_seed[:, None] - by_task + mean
    third = tasks * np.sum((by_task - mean) ** 3) / ((tasks - 1) * (tasks - 2)) if tasks > 2 else 0.0
    return Layout(
        mean,
        float(np.sum((by_seed - mean) ** 2) / max(seeds - 1, 1) / seeds),
        float(np.sum((by_task - mean) ** 2) / (tasks - 1) / tasks),
        float(np.sum(left**2) / max(seeds - 1, 1) / (tasks - 1) / errors.size),
        float(third / tasks**2),
        seeds,
        tasks,
    )


class Beside(NamedTuple):
    """An arm's errors less those of the chosen arm."""

    whole: Layout
    cut: Layout
    """of what is cut off above, by which is told what the mean is at least"""

    def interval(self, miss: float) -> Interval:
        """Of the true mean, missed with probability `miss`."""
        return interval(self.whole, miss)._replace(low=interval(self.cut, miss).low)

    def behind(self, miss: float) -> float:
        """At most so much worse is the chosen arm."""
        return upper(self.cut.reversed(), miss)


def beside(differences: np.ndarray, margin: float) -> Beside:
    """Of `differences` [seeds, tasks]."""
    most = FAR * max(margin, float(np.median(np.abs(differences))))
    return Beside(layout(differences), layout(np.minimum(differences, most)))


def upper(found: Layout, miss: float) -> float:
    """An upper bound of the true mean, missed with probability `miss`."""
    return found.quantile(float(stats.t.isf(miss, found.freedom)))


def interval(found: Layout, miss: float) -> Interval:
    """An interval of the true mean, missed with probability `miss`, half of it on either side."""
    t = float(stats.t.isf(miss / 2, found.freedom))
    return Interval(found.mean, found.quantile(-t), found.quantile(t))


def more_tasks(found: Layout, target: float, miss: float) -> int | None:
    """About so many more tasks bring a bound that is missed with probability `miss` within `target` of the mean, four times in
    five; None where seeds differ too much for any number of tasks."""
    counts = found.tasks * np.geomspace(1.01, FURTHEST, 200)
    layouts = [found.over(count) for count in counts]
    power = stats.norm.ppf(POWER)
    reach = stats.t.isf(miss, np.array([one.freedom for one in layouts])) + power
    near = reach * np.sqrt([one.variance for one in layouts]) <= target
    return max(1, int(np.ceil(counts[near.argmax()])) - found.tasks) if near.any() else None
