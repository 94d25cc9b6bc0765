"""Paired differences of errors on the same tasks, with intervals over tasks."""

from __future__ import annotations

from typing import Any

import numpy as np

from fewstep.supervised.evaluate import finite_or_none

LEVEL = 0.95


def paired_gain(before: np.ndarray, after: np.ndarray, comparisons: int = 1) -> dict[str, Any]:
    """The gain from errors `before` to errors `after`, both [tasks]: means, difference, and relative gain.

    `difference` has Student's t interval over tasks. `relative` is 1 − mean(after) / mean(before) with Fieller's interval for a
    ratio of means (Fieller 1954, JRSS B 16), which excludes 0 exactly if the interval of the difference does. It is None if the
    errors before do not differ significantly from 0. Intervals are at 95 %, or jointly at 95 % for several `comparisons`
    (Bonferroni). `outcome` is "better" or "worse" if the interval of the difference excludes 0. A few tasks with large errors
    may make it too wide; then the outcome is that of a sign test over tasks, if the means agree, and "not shown" otherwise.
    `lower_in` is the number of tasks with a lower error. A task whose error is non-finite only after makes it "worse".
    """
    from scipy.special import stdtrit

    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    count, finite = before.size, np.isfinite(before) & np.isfinite(after)
    diverged = int(np.sum(~np.isfinite(after)))
    result: dict[str, Any] = {"tasks": count, "diverged": diverged, "difference": None, "relative": None}
    if not finite.all():
        mean = [float(each.mean()) if np.isfinite(each).all() else None for each in (before, after)]
        outcome = "worse" if diverged > np.sum(~np.isfinite(before)) else "not shown"
        return {**result, "before": mean[0], "after": mean[1], "outcome": outcome}
    gains = before - after
    result |= {"before": float(before.mean()), "after": float(after.mean())}
    if count < 2:
        return {**result, "difference": interval(gains.mean(), np.nan, np.nan), "outcome": "not shown"}
    reach = float(stdtrit(count - 1, 1 - (1 - LEVEL) / comparisons / 2))
    half = reach * gains.std(ddof=1) / np.sqrt(count)
    low, high = gains.mean() - half, gains.mean() + half
    rounding = 1e-6 * max(abs(before.mean()), abs(after.mean()))  # equal errors differ by rounding
    result["difference"] = interval(gains.mean(), low, high)
    result["relative"] = relative(before, after, reach)
    result["lower_in"] = int(np.sum(gains > rounding))
    if low > rounding or high < -rounding:
        return {**result, "outcome": "better" if low > rounding else "worse"}
    return {**result, "outcome": by_signs(gains[np.abs(gains) > rounding], comparisons)}


def by_signs(gains: np.ndarray, comparisons: int) -> str:
    """The outcome of a two-sided sign test on paired differences [tasks] without ties, if their mean agrees."""
    from scipy.stats import binomtest

    up = int(np.sum(gains > 0))
    significant = gains.size > 0 and binomtest(up, gains.size).pvalue < (1 - LEVEL) / comparisons
    if not significant or np.sign(gains.mean()) != np.sign(2 * up - gains.size):
        return "not shown"
    return "better" if up > gains.size - up else "worse"


def relative(before: np.ndarray, after: np.ndarray, reach: float) -> dict[str, float | None] | None:
    """1 − the ratio of the means of `after` and `before`, with Fieller's interval: all ratios r for which the mean of
    after − r · before is within `reach` standard errors of 0. None if these do not form an interval."""
    errors = np.cov(after, before, ddof=1) / before.size
    square, middle, constant = (
        before.mean() ** 2 - reach**2 * errors[1, 1],
        before.mean() * after.mean() - reach**2 * errors[0, 1],
        after.mean() ** 2 - reach**2 * errors[0, 0],
    )
    if square <= 1e-12 * before.mean() ** 2:
        return None
    root = np.sqrt(max(middle**2 - square * constant, 0.0))
    return interval(1 - after.mean() / before.mean(), 1 - (middle + root) / square, 1 - (middle - root) / square)


def interval(mean: float, low: float, high: float) -> dict[str, float | None]:
    """An interval as in files."""
    return dict(zip(("mean", "low", "high"), finite_or_none(np.array([mean, low, high], float)), strict=True))


def gain_of_adaptation(by_steps: np.ndarray, steps: Any, wanted: Any, metric: str, rising: bool = False) -> dict[str, Any]:
    """`adaptation_gain` of `evaluation.json`: from no step to the `wanted` number of `steps`, for [tasks, steps] of a `metric`;
    empty if these were not measured, or if `wanted` is 0. With `rising`, higher is better, as for returns."""
    if wanted == 0 or 0 not in steps or wanted not in steps:
        return {}
    before, after = (np.asarray(by_steps[:, list(steps).index(step)], np.float64) for step in (0, wanted))
    if not rising:
        return {"adaptation_gain": {"metric": metric, "steps": wanted, **paired_gain(before, after)}}
    found = paired_gain(-before, -after)  # returns may be negative, so ratios are meaningless
    found |= {name: None if found[name] is None else -found[name] for name in ("before", "after")}
    return {"adaptation_gain": {"metric": metric, "steps": wanted, **found, "relative": None}}
