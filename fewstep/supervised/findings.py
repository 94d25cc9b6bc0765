"""Findings on a trained model as sentences: does adaptation help, is a cheap baseline as good?

They are derived from the figures of `evaluation.json`. A bad finding is one that is not in the model's favor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from fewstep.supervised.baselines import TITLES

FEW_CLASSES = 20
"""Tasks of fewer classes say little about other classes, however many there are."""


class Finding(NamedTuple):
    """A sentence on the model, and whether it is in its favor."""

    text: str
    good: bool


def findings(result: dict[str, Any]) -> list[Finding]:
    """The findings in the content `result` of an `evaluation.json`; none if it lacks the figures."""
    found = []
    if gain := result.get("adaptation_gain"):
        classes = result.get("protocol", {}).get("classes", FEW_CLASSES)
        few = f" All tasks are of the same {classes} classes; on other classes it may differ." if classes < FEW_CLASSES else ""
        found.append(Finding(said_of_adaptation(gain) + few, gain["outcome"] == "better"))
    if classics := result.get("classics"):
        found.append(Finding(baseline_message(classics), classics["by_classic"][classics["best"]]["outcome"] == "better"))
    return found


def bad_findings(result: Any) -> tuple[str, ...]:
    """The bad findings in the content of an `evaluation.json`; none if it is damaged."""
    try:
        return tuple(finding.text for finding in findings(result) if not finding.good)
    except (KeyError, TypeError, ValueError, AttributeError):
        return ()


def run_messages(bad: Sequence[str]) -> tuple[str, ...]:
    """The bad findings of a run in one message, shown when it is adapted or predicts; empty if there are none."""
    return (f"of this run's evaluation: {' '.join(bad)}",) if bad else ()


def said_of_adaptation(gain: dict[str, Any]) -> str:
    """'Adaptation lowers the mse by 62 % (95 % interval 55 to 68 %, 308 tasks).'"""
    metric, tasks, outcome = named(gain["metric"]), counted(gain["tasks"]), gain["outcome"]
    if gain["diverged"]:
        return f"Adaptation diverges on {gain['diverged']} of {tasks}."
    if gain["difference"] is None:
        return f"The {metric} before adaptation is not finite on all of {tasks}: it cannot be told whether adaptation helps."
    if gain["tasks"] < 2:
        return "There is one unseen task: it cannot be told whether adaptation helps."
    if "return" in metric:
        low, high = (f"{gain['difference'][name]:.3g}" for name in ("low", "high"))
        if outcome == "worse":
            return f"Adaptation makes it worse: the {metric} changes by {low} to {high} (95 % interval, {tasks})."
        verb, end = ("raises", "") if outcome == "better" else ("changes", ": not shown to help")
        change = f"{gain['difference']['mean']:.3g} (95 % interval {low} to {high}, {tasks})"
        return f"Adaptation {verb} the {metric} by {change}{end}."
    if outcome == "worse":
        return f"Adaptation makes it worse: it raises the {metric} {by(gain, -1)}."
    if outcome == "better":
        return f"Adaptation lowers the {metric} {by(gain)}."
    return f"Adaptation changes the {metric} {by(gain, -1)}: not shown to help."


def baseline_message(found: dict[str, Any]) -> str:
    """The baseline with the lowest error, and whether the model is better."""
    name, metric = found["best"], named(found["metric"])
    best, title = found["by_classic"][name], TITLES.get(name, name)
    ours = "diverges" if best["after"] is None else f"has {best['after']:.3g}"
    others = f" Not tried: {', '.join(f'{TITLES.get(key, key)}: {why}' for key, why in found['left_out'].items())}."
    others = others if found["left_out"] else ""
    if best["outcome"] == "better":
        best_of = f"Of cheap classics {title} is best ({metric} {best['before']:.3g})"
        return f"{best_of}; this model {ours}, lower {by(best)}.{others}"
    beside = f"{metric} {best['before']:.3g}, this model {ours}"
    if best["outcome"] == "not shown":
        less = best["difference"] is not None and best["difference"]["mean"] >= 0
        change = f", {'lower' if less else 'higher'} {by(best, 1 if less else -1)}" if best["difference"] is not None else ""
        return f"Not shown to be better than a cheap classic, {title}: {beside}{change}.{others}"
    return f"A cheap classic does better, {title}: {beside}. Use it, or let `fewstep compare` say what to take.{others}"


def by(gain: dict[str, Any], sign: int = 1) -> str:
    """'by 62 % (95 % interval 55 to 68 %, 308 tasks)': the reduction of the error, or with `sign` −1 its increase. If the
    interval contains 0 and only the sign test is significant, '(less in 7 of 7 unseen tasks)'."""
    tasks, part, of = counted(gain["tasks"]), gain["relative"], gain["difference"]
    mean = f"{of['mean'] * sign:.3g}" if part is None or part["mean"] is None else f"{percent(sign * part['mean'])} %"
    if gain["outcome"] != "not shown" and of["low"] is not None and of["low"] <= 0 <= of["high"]:
        count = gain["lower_in"] if sign > 0 else gain["tasks"] - gain["lower_in"]
        return f"by {mean} ({'less' if sign > 0 else 'more'} in {count} of {tasks})"
    if part is None or None in part.values():
        ends = sorted((sign * of["low"], sign * of["high"])) if of["low"] is not None else None
        inside = f"95 % interval {ends[0]:.3g} to {ends[1]:.3g}, {tasks}" if ends else tasks
        return f"by {sign * of['mean']:.3g} ({inside})"
    low, high = sorted((sign * part["low"], sign * part["high"]))
    return f"by {percent(sign * part['mean'])} % (95 % interval {percent(low)} to {percent(high)} %, {tasks})"


def percent(share: float) -> str:
    """Formats a percentage with two digits, or three near 100 %."""
    value = 100 * share
    return f"{value:.0f}" if 10 <= abs(value) < 98.5 or abs(value) >= 101 else f"{value:.1f}"


def counted(tasks: int) -> str:
    return f"{tasks} unseen task{'s' * (tasks != 1)}"


def named(metric: str) -> str:
    return metric.replace("_", " ")
