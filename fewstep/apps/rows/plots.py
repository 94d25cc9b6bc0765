"""Pages of unseen tasks: support rows, truth, predictions before and after adaptation, intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fewstep.plots.style import BAND, BEFORE, STEPS, SUPPORT, TRUTH, as_dates, axes_of, date_axis, in_words

BEYOND = 0.6
"""Predictions and intervals are shown so far beyond the truth, in parts of its range; further ones are cut off."""


def unseen_tasks(contents: dict[str, Any]) -> Any:
    """A page of tasks that were never trained on, the first ones of the meta-test tasks."""
    shown = contents["shown"]
    return _page(shown, shown["tasks"], contents["result"], "") if shown and shown["tasks"] else None


def worst_tasks(contents: dict[str, Any]) -> Any:
    """The same of the tasks with the greatest errors, where tasks have names."""
    shown = contents["shown"]
    if not shown or not shown.get("worst"):
        return None
    return _page(shown, shown["worst"], contents["result"], "The unseen tasks with the greatest errors")


def _page(shown: dict[str, Any], tasks: list[dict[str, Any]], result: dict[str, Any], title: str) -> Any:
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    figure, axes = axes_of(columns, rows, (max(7.0, 4.2 * columns), 3.1 * rows + 0.5 + 0.35 * bool(title)))
    errors = errors_of(result)
    for axis in list(axes.flat)[len(tasks) :]:
        axis.set_visible(False)
    trained = trained_steps(shown, result)
    for axis, task in zip(axes.flat, tasks, strict=False):
        _task(axis, task, shown, tasks, trained)
        error = errors.get(task["title"])
        heading = task["title"] if error is None else f"{task['title']}: {in_words(result['metric'])} {error:.3g}"
        axis.set_title(heading, fontsize=10)
    figure.supxlabel(shown["x"], fontsize=10)
    figure.supylabel(shown["y"], fontsize=10)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    options = {"ncols": min(len(labels), 2 * columns + 2), "frameon": False, "fontsize": 9}
    episodes = result["protocol"].get("episodes_per_task", 1) if result else 1
    if episodes > 1 and any(task["title"] in errors for task in tasks):
        of_each = f"{in_words(result['metric'])}: of each task the mean over {episodes} episodes, one of which is drawn"
        title = f"{title}\n{of_each}" if title else of_each
    # A title of the figure would lie upon the legend: it is the legend's.
    legend = figure.legend(handles, labels, loc="outside upper center", title=title or None, title_fontsize=11, **options)
    legend.get_title().set_multialignment("center")
    return figure


def errors_of(result: dict[str, Any]) -> dict[str, float]:
    """name of a task -> its error after the trained steps, mean over its episodes."""
    if not result or "by_task" not in result:
        return {}
    steps, trained = result["steps"], result["protocol"].get("trained_adaptation_steps")
    place = steps.index(trained) if trained in steps else len(steps) - 1
    return {name: values[place] for name, values in result["by_task"].items() if values[place] is not None}


def trained_steps(shown: dict[str, Any], result: dict[str, Any]) -> int:
    """The number of steps that the model was trained for, where it is drawn; else the greatest that is."""
    trained = result["protocol"].get("trained_adaptation_steps") if result else None
    return next((step for step in shown["steps"] if step == trained), max(shown["steps"], default=0))


def _task(axis: Any, task: dict[str, Any], shown: dict[str, Any], page: list[dict[str, Any]], trained: int) -> None:
    """One task: truth, predictions after each number of steps, the interval, the support set. Styles are the page's."""
    convert = as_dates if shown["dates"] else list
    x, classes = convert(task["x"]), is_probability(shown)
    single = all(len(set(other["x"])) == len(other["x"]) for other in page)
    lines = is_function(shown, single)
    truth = np.array(task["truth"], float)
    axis.plot(x, truth, "-" if lines and single and not classes else "o", ms=5, color=TRUTH, lw=2.2, alpha=0.45, label="truth")
    if task.get("lower") is not None and task.get("upper") is not None:
        lower, upper = np.array(task["lower"], float), np.array(task["upper"], float)
        label = f"{shown['level']} % interval" if shown.get("level") else "interval"
        if lines:
            axis.fill_between(x, lower, upper, color=BAND, alpha=0.3, lw=0, label=label, zorder=0)
        else:
            axis.vlines(x, lower, upper, color=BAND, alpha=0.4, lw=3.5, label=label, zorder=0)
    lighter = max(0, 4 - len(shown["steps"]))  # few steps: no pale colors
    for number, (step, prediction) in enumerate(zip(shown["steps"], task["predictions"], strict=True)):
        if not lines and step not in (0, trained):
            continue  # dots of many steps hide one another
        label = "before adaptation" if step == 0 else f"after {step} step{'s' * (step != 1)}"
        color = BEFORE if step == 0 else STEPS[min(number - 1 + lighter, len(STEPS) - 1)]
        style = "." if not lines else "--" if step == 0 else "-"
        axis.plot(x, np.array(prediction, float), style, ms=5, color=color, lw=1.4, label=label)
    axis.plot(convert(task["support_x"]), task["support_y"], "o", color=SUPPORT, ms=4.5, label="support set")
    axis.set_ylim(*((-0.08, 1.08) if classes else _reach(task)))
    if classes:
        axis.set_yticks([0, 0.5, 1])
    axis.tick_params(labelsize=8)
    if shown["dates"]:
        date_axis(axis)


def is_probability(shown: dict[str, Any]) -> bool:
    """Whether y is the probability of a class: the truth is then 0 or 1 in every row."""
    values = {value for task in shown["tasks"] for value in (*task["truth"], *task["support_y"])}
    return values <= {0.0, 1.0} and str(shown["y"]).startswith("probability")


def is_function(shown: dict[str, Any], single: bool) -> bool:
    """Whether a line through the predictions means something: x is the only input, or each row's own moment (`single`)."""
    return (shown["inputs"] == 1 and shown["x"] != "row") or (shown["dates"] and single)


def _reach(task: dict[str, Any]) -> tuple[float, float]:
    """The y limits: all of the truth, and of predictions and intervals what is near it."""
    known = np.array([*task["truth"], *task["support_y"]], float)
    known = known[np.isfinite(known)] if np.isfinite(known).any() else np.zeros(1)  # no row may have the target that is shown
    low, high = float(known.min()), float(known.max())
    size = max(high - low, 1e-3 * max(abs(high), abs(low)), 1e-9)
    others: Sequence[Any] = [*task["predictions"], task.get("lower") or [], task.get("upper") or []]
    values = np.concatenate([known, *(np.array(values, float) for values in others)])
    values = np.clip(values[np.isfinite(values)], low - BEYOND * size, high + BEYOND * size)
    margin = 0.06 * max(float(values.max() - values.min()), size)
    return float(values.min()) - margin, float(values.max()) + margin
