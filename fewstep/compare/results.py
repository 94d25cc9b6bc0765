"""Types shared by the parts of a comparison: scores, differences and the verdict."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

Question = Literal["seeds", "models"]
"""what an interval is about: the method, trained again with other seeds, or these very models; on other tasks either way"""
Outcome = Literal["better", "worse", "equivalent", "inconclusive", "diverged"]
"""of a method beside the chosen one; 'equivalent': they differ by less than the margin, for sure"""


class Metric(NamedTuple):
    """What the errors of a comparison are; the lower, the better."""

    name: str
    title: str
    """in words, with its unit"""
    least_margin: float = 0.0
    """smaller differences never matter"""
    from_zero: bool = True
    """whether 0 is perfect, so that errors can be told as parts of one another"""
    support: str = "support rows"
    """what methods adapt to a task by"""
    work: str = "operations"
    """by which 'the cheaper' is decided"""


class Scores(NamedTuple):
    """One method's errors on held-out tasks; all methods' are of the same tasks, and of the same episodes of each."""

    name: str
    errors: np.ndarray
    """[seeds, tasks] float64: the mean error of a task over its episodes' query rows; NaN if the method diverged. What does
    not depend on a seed has one row"""
    cost: float
    """by which 'take the cheaper' is decided: operations, or seconds, to train and to adapt a thousand times"""


class About(NamedTuple):
    """Title and costs of a method, for people."""

    title: str
    """in words, such as 'MAML, exact'"""
    train_seconds: float
    adapt_milliseconds: float


class Interval(NamedTuple):
    mean: float
    low: float
    high: float


class Difference(NamedTuple):
    """A method's error less the chosen method's, on the same tasks: positive if the method is worse."""

    mean: float
    low: float
    high: float
    outcome: Outcome
    behind: float
    """upper bound of how much worse the chosen method is than this one, at the stated confidence (one-sided)"""
    more_tasks: int | None
    """about so many more held-out tasks would tell; 0 if they already do, None if more tasks alone would not"""


class Comparison(NamedTuple):
    """All methods beside the chosen one."""

    chosen: str
    margin: float
    confidence: float
    question: Question
    seeds: int
    tasks: int
    errors: dict[str, Interval]
    """of each method; NaN if it diverged"""
    differences: dict[str, Difference]
    """of each method but the chosen one"""
    regret: float
    """at most so much is lost by the chosen method beside the best of all, at the stated confidence"""
    more_tasks: int | None
    """about so many more held-out tasks would tell whether that is more than the margin; 0 if they already do, None if seeds
    differ too much for any number of tasks"""
    diverged: dict[str, int]
    """method -> on how many of its seeds some task has no finite error; methods without are left out"""


class Verdict(NamedTuple):
    outcome: Literal["method", "equivalent", "inconclusive"]
    method: str
    """the recommended one, chosen on meta-validation tasks"""
    runner_up: str | None
    """the best of the others on the same meta-validation tasks"""
    more_tasks: int | None
    """if inconclusive: about how many more held-out tasks would decide it; None if tasks alone would not"""
    sentences: tuple[str, ...]
    comparison: Comparison
    """on meta-test tasks"""
