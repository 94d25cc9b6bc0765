"""Errors of arms on the same tasks, over the same seeds: intervals of differences, and what they say of each arm (floor 5).

An arm's errors are a table, seeds × tasks; how sure its mean is stands in intervals.py.

Many arms are compared, so what is said of them is corrected step by step (Holm 1979): at 1 − (1 − confidence)/k where k arms
are not told to differ yet. That the chosen arm is behind none by more than the margin needs no correction: to say it wrongly,
one has to be wrong about the best arm, which is one of them.

An arm may break in a few tasks, by errors a thousand times as large as all others. How much worse it is on average, nobody can
tell then; that it is not better needs no such figure. Differences are cut off far above where it is asked what their mean is at
least: the mean of what is cut off above is never larger than the mean.

All of this is about tasks like those drawn. Few may lack a kind that one in five is of: there no arms are called equivalent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np

from fewstep.compare.intervals import Beside, beside, interval, layout, more_tasks
from fewstep.compare.results import Comparison, Difference, Interval, Outcome, Question, Scores
from fewstep.errors import BadInput

NAN = float("nan")
FEW_TASKS = 20
"""Fewer held-out tasks than this say that one arm is better than another, never that they are alike."""


def compared(
    scores: Sequence[Scores], chosen: str, margin: float, confidence: float = 0.95, question: Question = "seeds"
) -> Comparison:
    """Every arm beside the `chosen` one on the same tasks; arms that differ by less than `margin` are equivalent.

    Raises `BadInput` where arms have not the same tasks, there are fewer than 2, or `chosen` is none of them or diverged.
    """
    _check(scores, chosen, margin, confidence, question)
    failed = {arm.name: int(np.sum(~np.isfinite(arm.errors).all(1))) for arm in scores}
    known = {arm.name: arm.errors for arm in scores if not failed[arm.name]}
    rows = (lambda errors: errors.mean(0, keepdims=True)) if question == "models" else (lambda errors: errors)
    layouts = {
        name: beside(rows(difference_of(errors, known[chosen])), margin) for name, errors in known.items() if name != chosen
    }
    miss = 1 - confidence
    spoken = _step_by_step(layouts, margin, miss)
    tasks, differences = scores[0].errors.shape[1], {}
    least = FEW_TASKS * (tasks < FEW_TASKS)  # more tasks are asked for where there are so few
    for arm in scores:
        if arm.name in layouts:
            found, (shown, level) = layouts[arm.name], spoken[arm.name]
            outcome = outcome_of(shown, margin, tasks)
            behind = found.behind(miss)
            more = more_tasks(found.cut, needed(found.cut.mean, margin), level / 2) if outcome == "cannot tell" else 0
            more = more and max(more, least)
            differences[arm.name] = Difference(shown.mean, shown.low, shown.high, outcome, behind, more)
        elif arm.name != chosen:
            differences[arm.name] = Difference(NAN, NAN, NAN, "diverged", NAN, None)
    own = {name: _positive(interval(layout(rows(errors)), miss), errors) for name, errors in known.items()}
    return Comparison(
        chosen,
        margin,
        confidence,
        question,
        max(len(arm.errors) for arm in scores),
        tasks,
        {arm.name: own.get(arm.name, Interval(NAN, NAN, NAN)) for arm in scores},
        differences,
        max([0.0, *(differences[name].behind for name in layouts)]),
        _more_for_regret(layouts, differences, margin, miss, least),
        {name: count for name, count in failed.items() if count},
    )


def difference_of(errors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[seeds, tasks]: what one arm errs more than another; what has one row has the same one for all seeds."""
    seeds = max(len(errors), len(others)) if 1 in (len(errors), len(others)) else min(len(errors), len(others))
    return errors[:seeds] - others[:seeds]


def outcome_of(shown: Interval, margin: float, tasks: int) -> Outcome:
    """What an interval of a difference over so many tasks says."""
    if -margin < shown.low and shown.high < margin:
        return "equivalent" if tasks >= FEW_TASKS else "cannot tell"
    return "worse" if shown.low > 0 else "better" if shown.high < 0 else "cannot tell"


def needed(difference: float, margin: float) -> float:
    """As near as this a bound has to come so that two arms are told apart, or told to be equivalent."""
    return max(abs(difference), margin - abs(difference))


def _step_by_step(layouts: dict[str, Beside], margin: float, miss: float) -> dict[str, tuple[Interval, float]]:
    """Holm's procedure: each arm's interval, and the probability of missing it.

    Arms that are told to differ leave more of that probability to the others. Equivalent ones do not: they may be without any
    difference, of which something false could still be said if only the odd ones were left.
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
    """About so many more tasks would tell whether the chosen arm is behind any other by more than the margin."""

    def target(name: str) -> float:
        mean = layouts[name].cut.mean
        within = margin + mean  # so far is the chosen arm from being a margin behind
        return abs(within) if differences[name].outcome == "better" else max(within, -mean)

    late = [name for name, found in layouts.items() if found.behind(miss) > margin]
    wanted = [more_tasks(layouts[name].cut, target(name), miss) for name in late]
    return None if None in wanted else max([least, *(count for count in wanted if count is not None)])


def _positive(shown: Interval, errors: np.ndarray) -> Interval:
    """No interval of what is never negative begins below 0."""
    return shown._replace(low=max(shown.low, 0.0)) if errors.min() >= 0 else shown


def _check(scores: Sequence[Scores], chosen: str, margin: float, confidence: float, question: str) -> None:
    names = [arm.name for arm in scores]
    if len(set(names)) < len(names):
        raise BadInput(f"Arms should have different names, got {', '.join(names)}.")
    for arm in scores:
        if arm.errors.ndim != 2 or 0 in arm.errors.shape:
            raise BadInput(f"Errors of arm {arm.name} should be an array [seeds, tasks], got shape {arm.errors.shape}.")
        if arm.errors.shape[1] != scores[0].errors.shape[1]:
            counts = f"{scores[0].errors.shape[1]} of {scores[0].name}, {arm.errors.shape[1]} of {arm.name}"
            raise BadInput(f"All arms should be measured on the same tasks, got {counts}.")
    if not scores or scores[0].errors.shape[1] < 2:
        raise BadInput("A comparison should have at least 2 held-out tasks; give more tasks, or hold out a larger part.")
    if chosen not in names or not np.isfinite(scores[names.index(chosen)].errors).all():
        raise BadInput(f"The chosen arm should be one of those that did not diverge, got {chosen}.")
    if not 0 < margin < float("inf"):
        raise BadInput(f"--margin should be a positive number, got {margin}.")
    if not 0.5 <= confidence < 1:
        raise BadInput(f"Confidence should lie between 0.5 and 1, such as 0.95, got {confidence}.")
    if question not in get_args(Question):
        raise BadInput(f"The question should be one of {', '.join(get_args(Question))}, got {question}.")
