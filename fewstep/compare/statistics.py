"""Errors of methods on the same tasks and seeds: intervals of differences, and what they say of each method.

The errors of a method are a table [seeds, tasks].

Many methods are compared, so intervals are corrected step by step (Holm 1979): at 1 − (1 − confidence)/k if k methods are not
yet shown to differ. The bound on how far the chosen method is behind any other needs no correction: to be wrong, it has to be
wrong about the best method, which is a single one.

A method may fail on a few tasks, with errors a thousand times larger than all others. Its mean error is then unknown, but one
can still show that it is not better: differences are clipped from above at a large value before a lower bound of their mean
is computed, and the mean of clipped differences never exceeds the mean.

All statements are about tasks like those sampled. A small sample may miss a kind of task that makes up a fifth of all tasks,
so methods are never called equivalent on few tasks.

Intervals of the mean of a table [seeds, tasks] treat both seeds and tasks as samples. Rows differ (another seed, another
training) and columns differ (tasks are hard or easy), so the uncertainty depends on the number of rows and columns, not of
cells. With three seeds, a bootstrap has only three rows to resample, and Satterthwaite's t alone covers less than its nominal
level. Two corrections, both in closed form, restore the coverage (measured by `benchmarks/accuracy/compare/coverage.py`):

* The variance of a few seeds is usually underestimated, and the degrees of freedom are then overestimated: they are computed
  with a seed variance that the true one exceeds only once in four times.
* Errors of tasks are skewed; the quantile is moved by Hall's cubic transformation (Hall 1992, Journal of the Royal Statistical
  Society B 54, 221-228), which is monotone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, get_args

import numpy as np
from scipy import stats

from fewstep.compare.results import Comparison, Difference, Interval, Outcome, Question, Scores
from fewstep.errors import InputError

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
    """A method's errors less those of the chosen method."""

    whole: Layout
    cut: Layout
    """of what is cut off above, by which is told what the mean is at least"""

    def interval(self, miss: float) -> Interval:
        """Of the true mean, missed with probability `miss`."""
        return interval(self.whole, miss)._replace(low=interval(self.cut, miss).low)

    def behind(self, miss: float) -> float:
        """At most so much worse is the chosen method."""
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


NAN = float("nan")
FEW_TASKS = 20
"""Fewer held-out tasks than this say that one method is better than another, never that they are alike."""


def compared(
    scores: Sequence[Scores], chosen: str, margin: float, confidence: float = 0.95, question: Question = "seeds"
) -> Comparison:
    """Compares every method with the `chosen` one on the same tasks; methods that differ by less than `margin` are equivalent.

    Raises `InputError` if methods do not have the same tasks, there are fewer than 2, or `chosen` is none of them or diverged.
    """
    _check(scores, chosen, margin, confidence, question)
    failed = {method.name: int(np.sum(~np.isfinite(method.errors).all(1))) for method in scores}
    known = {method.name: method.errors for method in scores if not failed[method.name]}
    rows = (lambda errors: errors.mean(0, keepdims=True)) if question == "models" else (lambda errors: errors)
    layouts = {
        name: beside(rows(difference_of(errors, known[chosen])), margin) for name, errors in known.items() if name != chosen
    }
    miss = 1 - confidence
    spoken = _step_by_step(layouts, margin, miss)
    tasks, differences = scores[0].errors.shape[1], {}
    least = FEW_TASKS * (tasks < FEW_TASKS)  # more tasks are asked for where there are so few
    for method in scores:
        if method.name in layouts:
            found, (shown, level) = layouts[method.name], spoken[method.name]
            outcome = outcome_of(shown, margin, tasks)
            behind = found.behind(miss)
            more = more_tasks(found.cut, needed(found.cut.mean, margin), level / 2) if outcome == "inconclusive" else 0
            more = more and max(more, least)
            differences[method.name] = Difference(shown.mean, shown.low, shown.high, outcome, behind, more)
        elif method.name != chosen:
            differences[method.name] = Difference(NAN, NAN, NAN, "diverged", NAN, None)
    own = {name: _positive(interval(layout(rows(errors)), miss), errors) for name, errors in known.items()}
    return Comparison(
        chosen,
        margin,
        confidence,
        question,
        max(len(method.errors) for method in scores),
        tasks,
        {method.name: own.get(method.name, Interval(NAN, NAN, NAN)) for method in scores},
        differences,
        max([0.0, *(differences[name].behind for name in layouts)]),
        _more_for_regret(layouts, differences, margin, miss, least),
        {name: count for name, count in failed.items() if count},
    )


def difference_of(errors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[seeds, tasks]: what one method errs more than another; what has one row has the same one for all seeds."""
    seeds = max(len(errors), len(others)) if 1 in (len(errors), len(others)) else min(len(errors), len(others))
    return errors[:seeds] - others[:seeds]


def outcome_of(shown: Interval, margin: float, tasks: int) -> Outcome:
    """What an interval of a difference over so many tasks says."""
    if -margin < shown.low and shown.high < margin:
        return "equivalent" if tasks >= FEW_TASKS else "inconclusive"
    return "worse" if shown.low > 0 else "better" if shown.high < 0 else "inconclusive"


def needed(difference: float, margin: float) -> float:
    """As near as this a bound has to come so that two methods are told apart, or told to be equivalent."""
    return max(abs(difference), margin - abs(difference))


def _step_by_step(layouts: dict[str, Beside], margin: float, miss: float) -> dict[str, tuple[Interval, float]]:
    """Holm's procedure: each method's interval, and the probability of missing it.

    Methods that are told to differ leave more of that probability to the others. Equivalent ones do not: they may be without
    any difference, of which something false could still be said if only the odd ones were left.
    """
    told: dict[str, tuple[Interval, float]] = {}
    while left := [name for name in layouts if name not in told]:
        level = miss / len(left)
        tried = {name: (layouts[name].interval(level), level) for name in left}
        differ = {name: found for name, found in tried.items() if not found[0].low <= 0 <= found[0].high}
        if not differ:
            return told | tried
        told |= differ
    return told


def _more_for_regret(
    layouts: dict[str, Beside], differences: dict[str, Difference], margin: float, miss: float, least: int
) -> int | None:
    """About so many more tasks would tell whether the chosen method is behind any other by more than the margin."""

    def target(name: str) -> float:
        mean = layouts[name].cut.mean
        within = margin + mean  # so far is the chosen method from being a margin behind
        return abs(within) if differences[name].outcome == "better" else max(within, -mean)

    late = [name for name, found in layouts.items() if found.behind(miss) > margin]
    wanted = [more_tasks(layouts[name].cut, target(name), miss) for name in late]
    return None if None in wanted else max([least, *(count for count in wanted if count is not None)])


def _positive(shown: Interval, errors: np.ndarray) -> Interval:
    """No interval of what is never negative begins below 0."""
    return shown._replace(low=max(shown.low, 0.0)) if errors.min() >= 0 else shown


def _check(scores: Sequence[Scores], chosen: str, margin: float, confidence: float, question: str) -> None:
    names = [method.name for method in scores]
    if len(set(names)) < len(names):
        raise InputError(f"Methods should have different names, got {', '.join(names)}.")
    for method in scores:
        if method.errors.ndim != 2 or 0 in method.errors.shape:
            raise InputError(
                f"Errors of method {method.name} should be an array [seeds, tasks], got shape {method.errors.shape}."
            )
        if method.errors.shape[1] != scores[0].errors.shape[1]:
            counts = f"{scores[0].errors.shape[1]} of {scores[0].name}, {method.errors.shape[1]} of {method.name}"
            raise InputError(f"All methods should be measured on the same tasks, got {counts}.")
    if not scores or scores[0].errors.shape[1] < 2:
        raise InputError("A comparison should have at least 2 held-out tasks; give more tasks, or hold out a larger part.")
    if chosen not in names or not np.isfinite(scores[names.index(chosen)].errors).all():
        raise InputError(f"The chosen method should be one of those that did not diverge, got {chosen}.")
    if not 0 < margin < float("inf"):
        raise InputError(f"--margin should be a positive number, got {margin}.")
    if not 0.5 <= confidence < 1:
        raise InputError(f"Confidence should lie between 0.5 and 1, such as 0.95, got {confidence}.")
    if question not in get_args(Question):
        raise InputError(f"The question should be one of {', '.join(get_args(Question))}, got {question}.")
