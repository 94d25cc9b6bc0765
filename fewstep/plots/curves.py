"""Curves of a run: its training, and its error on unseen tasks by adaptation steps and by number of shots.

The loss after adaptation over inner rates, of `fewstep train PROBLEM --find-rate`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.plots.style import AUTO, BEFORE, NOTE, STEPS, TRAINED, axes_of, error_bars, in_words, log_scale

MOST_TARGETS = 4
"""So many targets get curves of their own."""


def training(contents: dict[str, Any]) -> Any:
    """Meta-loss, and the error on meta-validation tasks in its own units, over meta-steps."""
    records = contents["records"]
    if not records:
        return None
    validated = [record for record in records if record.get("validation") is not None]
    figure, axes = axes_of(1, 2 if validated else 1, (6.4, 5.6 if validated else 3.4))
    curves = [(records, "meta_loss", "meta-loss (mean since the last point)", STEPS[1])]
    if validated:
        curves.append((validated, "validation", "checkpoints, meta-validation tasks", STEPS[4]))
    for axis, (points, name, label, color) in zip(axes[:, 0], curves, strict=True):
        steps, values = [point["meta_step"] for point in points], [point[name] for point in points]
        axis.plot(steps, values, color=color, lw=1.4, marker="o", ms=3)
        last, best = len(values) - 1, min(range(len(values)), key=values.__getitem__)
        if name == "validation":
            axis.plot(steps[best], values[best], "o", ms=8, mfc="none", mec=color)
            options = {"xytext": (0, -16), "ha": "center", "textcoords": "offset points", "fontsize": 9}
            axis.annotate(f"best: {values[best]:.3g}", (steps[best], values[best]), **options)
        if name != "validation" or best != last:
            options = {"xytext": (7, -3), "textcoords": "offset points", "fontsize": 9}
            axis.annotate(f"{values[last]:.3g}", (steps[last], values[last]), **options)
        log_scale(axis, values)
        axis.margins(y=0.16)
        axis.set_xlim(0, 1.1 * steps[last])
        axis.set_title(label, fontsize=10, loc="left")
    axes[-1, 0].set_xlabel("meta-step")
    return figure


def adaptation(contents: dict[str, Any]) -> Any:
    """Error on unseen tasks over adaptation steps, with its interval; beside it a mark for 'auto' steps."""
    result = contents["result"]
    if not result:
        return None
    figure, axes = axes_of()
    axis = axes[0, 0]
    found = zip(result["steps"], result["mean"], result["ci95"], strict=True)
    known = [(step, mean, half) for step, mean, half in found if mean is not None]
    points = [point for point in known if point[0] != "auto"]
    steps, means, halves = zip(*points, strict=True) if points else ((), (), ())
    axis.errorbar(steps, means, yerr=error_bars(means, halves), color=TRAINED, marker="o", capsize=4, lw=1.4)
    ticks, labels = list(steps), [str(step) for step in steps]
    for _, mean, half in [point for point in known if point[0] == "auto"]:
        last = max(steps, default=0)
        ticks, labels = [*ticks, last + 0.2 * max(last, 1)], [*labels, "auto"]
        axis.errorbar(ticks[-1:], [mean], yerr=error_bars([mean], [half]), color=AUTO, marker="_", ms=16, mew=2, capsize=4)
        means = (*means, mean)
    for place, mean in zip(ticks, means, strict=True):
        axis.annotate(f"{mean:.3g}", (place, mean), textcoords="offset points", xytext=(8, 8), fontsize=9)
    log_scale(axis, means)
    trained = result["protocol"].get("trained_adaptation_steps")
    if trained is not None:
        axis.axvline(trained, color=BEFORE, lw=1, ls="--", zorder=0)
        options = {"transform": axis.get_xaxis_transform(), "va": "top", "fontsize": 8, "color": NOTE}
        axis.text(trained, 0.98, "trained for ", ha="right", **options)
    axis.set_xticks(ticks, labels)
    axis.margins(x=0.12, y=0.15)
    automatic = " (auto: chosen for each task by its support set)" if "auto" in labels else ""
    axis.set(
        xlabel=f"adaptation steps{automatic}",
        ylabel=f"{in_words(result['metric'])}, 95 % interval over tasks",
        title=f"{result['tasks']} unseen task{'s' * (result['tasks'] != 1)}, {result['protocol'].get('shots')} shots",
    )
    return figure


def by_shots(contents: dict[str, Any]) -> Any:
    """Error on unseen tasks over the number of shots; beside it the coverage and the width of intervals."""
    result = contents["result"]
    found = result.get("by_shots") if result else None
    if not found or not found["shots"]:
        return None
    intervals = [(shots, entry) for shots, entry in zip(found["shots"], found["intervals"], strict=True) if entry]
    figure, axes = axes_of(3 if intervals else 1, 1, (11.5, 3.9) if intervals else (6.4, 4.0))
    _errors(axes[0, 0], found, in_words(result["metric"]))
    if intervals:
        _intervals(axes[0, 1], axes[0, 2], intervals, contents["config"])
    tasks = f"{min(found['tasks'])} to {max(found['tasks'])}" if len(set(found["tasks"])) > 1 else str(found["tasks"][0])
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    calibrated = f"; intervals calibrated on {intervals[0][1]['calibrated_on']} others" if intervals else ""
    figure.suptitle(f"{tasks} unseen task{'s' * (tasks != '1')}, by number of shots{calibrated}", fontsize=12)
    for axis in axes.flat:
        _shots_axis(axis, found["shots"], result["protocol"].get("trained_shots", result["protocol"].get("shots")))
    return figure


def _errors(axis: Any, found: dict[str, Any], metric: str) -> None:
    """Before adaptation, after the trained steps, after steps chosen for each task."""
    curves = (
        ("before adaptation", found["before"], None, {"color": BEFORE, "ls": "--"}),
        ("after adaptation", found["mean"], found["ci95"], {"color": TRAINED, "marker": "o", "ms": 4.5}),
        ("steps chosen for each task (auto)", found["auto"], None, {"color": AUTO, "ls": ":", "marker": "D", "ms": 3}),
    )
    drawn = []
    for label, means, halves, style in curves:
        points = [
            (x, y, half)
            for x, y, half in zip(found["shots"], means, halves or [None] * len(means), strict=True)
            if y is not None
        ]
        if not points:
            continue
        shots, values, bars = zip(*points, strict=True)
        bar = error_bars(values, bars) if halves else None
        axis.errorbar(shots, values, yerr=bar, capsize=3, lw=1.4, label=label, **style)
        drawn += values
    log_scale(axis, drawn)
    axis.set_title(f"{metric}, 95 % interval over tasks", fontsize=10, loc="left")
    axis.margins(y=0.12)


def _intervals(coverage: Any, width: Any, intervals: list[tuple[int, dict[str, Any]]], config: dict[str, Any]) -> None:
    """How much intervals cover, beside what they promise, and their mean width; a curve for each target."""
    level = intervals[0][1]["level"]
    targets = (config.get("format") or {}).get("targets") or []
    count = min(len(intervals[0][1]["coverage"]), MOST_TARGETS)
    shots = [number for number, _ in intervals]
    single = count == 1
    colors = [TRAINED] if single else [STEPS[(2 * number + 1) % len(STEPS)] for number in range(count)]
    for number, color in enumerate(colors):
        name = targets[number]["name"] if number < len(targets) else f"target {number + 1}"
        covered, half, wide = (
            np.array([entry[key][number] for _, entry in intervals], float) for key in ("coverage", "ci95", "width")
        )
        bar = np.stack([half, np.minimum(half, 1.0 - covered)]) * 100  # no more than all rows are covered
        style = {"color": color, "marker": "o", "ms": 4.5, "lw": 1.4, "label": _short(name)}
        coverage.errorbar(
            np.array(shots) * 1.03**number, 100 * covered, yerr=np.nan_to_num(np.maximum(bar, 0.0)), capsize=3, **style
        )
        # Widths of several targets are in several units: in standard deviations they have one axis.
        width.plot(shots, wide if single or not targets else wide / targets[number]["scale"], **style)
    coverage.axhline(level, color=NOTE, lw=1, ls="--", zorder=0)
    low = min(coverage.get_ylim()[0], level - 5.0)
    coverage.set_ylim(low - 0.08 * (100 - low), 100.5)
    coverage.set_title(f"rows within the {level} % intervals, per cent", fontsize=10, loc="left")
    width.set_title("mean width of the intervals", fontsize=10, loc="left")
    if targets:
        width.set_ylabel(_short(targets[0]["name"]) if single else "standard deviations of the target", fontsize=9)
    width.set_ylim(0, 1.06 * width.get_ylim()[1])
    if not single:
        width.legend(frameon=False, fontsize=8, loc="lower left")


def _shots_axis(axis: Any, shots: list[int], trained: Any) -> None:
    """A logarithmic axis with a tick at each number of shots; the trained number, or range, is marked."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    if min(shots) > 0 and len(shots) > 1:
        axis.set_xscale("log")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_locator(FixedLocator(shots))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.margins(x=0.1)
    axis.set_xlabel("shots (support examples)")
    ends = [int(number) for number in re.findall(r"\d+", str(trained))]
    if not ends:
        return
    if len(ends) == 1:
        axis.axvline(ends[0], color=BEFORE, lw=1, ls="--", zorder=0)
    else:
        axis.axvspan(ends[0], ends[-1], color=BEFORE, alpha=0.15, lw=0, zorder=0)
    if axis.get_subplotspec().is_first_col():
        options = {"transform": axis.get_xaxis_transform(), "va": "top", "fontsize": 8, "color": NOTE}
        axis.text(ends[-1], 0.99, "trained for ", ha="right", **options)


def _short(name: str, most: int = 30) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


ROOM = 2.0
"""Losses up to so many times the one before adaptation are shown; those of a rate that diverges go up without end."""


def draw_rates(found: dict[str, Any], path: Path) -> None:
    """Draws what `training.find_rate` found into a PNG file."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure = rates(found)
    try:
        figure.savefig(path, dpi=130)
    finally:
        plt.close(figure)


def rates(found: dict[str, Any]) -> Any:
    """Median and mean over tasks, the loss before adaptation, the recommended rate, and where tasks diverge."""
    figure, axes = axes_of(size=(6.4, 4.4))
    axis, tried = axes[0, 0], found["rates"]
    axis.set_xscale("log")
    axis.set_xlim(tried[0], tried[-1])
    before, best = found["before"]["median"], found["recommended"]
    medians, means = (np.array(found[name], float) for name in ("median", "mean"))
    low, top = _limits(medians, means, before)
    shown = {"lw": 1.4, "ms": 3.5, "marker": "o"}
    axis.plot(tried, _up(means, top), color=STEPS[0], label="after (mean)", **shown)
    axis.plot(tried, _up(medians, top), color=TRAINED, label="after (median)", **shown)
    log_scale(axis, [low, top])
    span = top - low
    axis.set_ylim(*((0.85 * low, top) if axis.get_yscale() == "log" else (low - 0.1 * span, top)))
    if before is not None:
        axis.axhline(before, color=BEFORE, lw=1.4, ls="--", zorder=0, label="before (median)")
    if found["diverges_from"] is not None:
        style = {"color": BEFORE, "alpha": 0.25, "lw": 0, "zorder": 0, "label": "more than 1 % of tasks diverge"}
        axis.axvspan(found["diverges_from"], 1.001 * tried[-1], **style)
    if best is not None:
        place = tried.index(best)
        axis.axvline(best, color=TRAINED, lw=1, ls=":", zorder=0)
        axis.plot(best, medians[place], "o", ms=9, mfc="none", mec=TRAINED)
        on_left = place > len(tried) // 2
        options = {"xytext": (-9 if on_left else 9, -3), "ha": "right" if on_left else "left", "textcoords": "offset points"}
        axis.annotate(f"recommended: {best:g}", (best, medians[place]), va="top", fontsize=9, **options)
    steps, tasks = found["adaptation_steps"], found["tasks"]
    after = f"after {steps} step{'s' * (steps != 1)}"
    axis.set_title(f"query loss before and {after}, {tasks} meta-validation tasks", fontsize=10, loc="left")
    axis.set_xlabel("inner rate, from the initial parameters")
    axis.tick_params(axis="y", which="minor", left=False)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8, labelcolor=NOTE)
    return figure


def _limits(medians: np.ndarray, means: np.ndarray, before: float | None) -> tuple[float, float]:
    """(the lowest loss, the highest that is shown): what diverges must not squash the rest."""
    finite = [loss for loss in (*medians, *means, before) if loss is not None and np.isfinite(loss)] or [0.0, 1.0]
    low, level = min(finite), finite[-1] if before is None else before
    return low, min(max(finite), level + (ROOM - 1) * max(abs(level), level - low)) + 0.05 * max(abs(level), 1e-6)


def _up(losses: np.ndarray, top: float) -> np.ndarray:
    """Losses far above the picture, or not finite, as points somewhat above it: a line leads out of it, and is not cut."""
    return np.where(losses <= 10 * abs(top) + 1.0, losses, 10 * abs(top) + 1.0)
