"""Policies in pictures (floor 4): returns over the training, returns after each update, and the ways that were taken."""

from __future__ import annotations

from typing import Any

from fewstep.plots.style import BEFORE, NOTE, STEPS, TRAINED, axes_of, error_bars

AFTER = [BEFORE, STEPS[0], STEPS[2], STEPS[4]]
"""colors, by updates"""


def returns(contents: dict[str, Any]) -> Any:
    """Returns on validation tasks after 0, 1, … updates, over the environment steps of the training."""
    records = contents["records"]
    if not records:
        return None
    figure, axes = axes_of(1, 1, (7.0, 4.2))
    axis, taken = axes[0, 0], [record["environment_steps"] / 1e6 for record in records]
    for update in reversed(range(len(records[0]["validation_returns"]))):
        values = [record["validation_returns"][update] for record in records]
        axis.plot(taken, values, color=color_of(update), lw=1.4, label=f"after {updates_in_words(update)}")
    best = min(records, key=lambda record: record["validation"])
    axis.axvline(best["environment_steps"] / 1e6, color=NOTE, lw=1, ls="--", zorder=0)
    options = {"transform": axis.get_xaxis_transform(), "va": "bottom", "fontsize": 8, "color": NOTE}
    axis.text(best["environment_steps"] / 1e6, 0.02, "kept ", ha="right", **options)
    axis.set(xlabel="environment steps, millions", ylabel="mean return on validation tasks")
    axis.legend(frameon=False, fontsize=9, loc="center right")
    return figure


def after_updates(contents: dict[str, Any]) -> Any:
    """Mean return on test tasks after 0, 1, … updates, with its interval over tasks."""
    result = contents["result"]
    if not result:
        return None
    figure, axes = axes_of()
    axis, bars = axes[0, 0], error_bars([0.0] * len(result["mean"]), result["ci95"])
    axis.errorbar(result["steps"], result["mean"], yerr=bars, color=TRAINED, marker="o", capsize=4, lw=1.4)
    for step, mean in zip(result["steps"], result["mean"], strict=True):
        axis.annotate(f"{mean:.3g}", (step, mean), textcoords="offset points", xytext=(8, -14), fontsize=9)
    axis.set_xticks(result["steps"])
    axis.margins(x=0.14, y=0.15)
    title = f"{result['tasks']} unseen tasks, {result['protocol']['test_rollouts']} trajectories for each update"
    axis.set(xlabel="updates (adaptation steps)", ylabel="mean return, 95 % interval over tasks", title=title)
    return figure


def ways(contents: dict[str, Any]) -> Any:
    """A row for each of a few unseen tasks: where trajectories led before and after each update, and the goal."""
    shown = contents["shown"]
    if not shown or shown.get("kind") != "ways":
        return None
    tasks = shown["tasks"]
    columns = len(tasks[0]["ways"])
    figure, axes = axes_of(columns, len(tasks), (2.3 * columns + 0.4, 2.35 * len(tasks) + 0.4))
    for row, task in zip(axes, tasks, strict=True):
        for update, (axis, paths) in enumerate(zip(row, task["ways"], strict=True)):
            for path in paths:
                x, y = zip(*path, strict=True)
                axis.plot(x, y, color=color_of(update), lw=0.8, alpha=0.8)
                axis.plot(x[-1], y[-1], ".", color=color_of(update), ms=4)
            axis.plot(0, 0, "o", color=NOTE, ms=3)
            axis.plot(*task["goal"], "*", color="#228833", ms=11, mec="white", zorder=3)
            axis.set(xlim=(-0.85, 0.85), ylim=(-0.85, 0.85), xticks=[], yticks=[], aspect="equal")
            axis.spines[["top", "right"]].set_visible(True)
            axis.set_title(f"after {updates_in_words(update)}: {task['returns'][update]:.1f}", fontsize=8)
    figure.suptitle(f"{len(tasks)} unseen goals (stars): trajectories and their mean return", fontsize=11)
    return figure


def color_of(update: int) -> str:
    return AFTER[min(update, len(AFTER) - 1)]


def updates_in_words(update: int) -> str:
    return f"{update} update{'s' * (update != 1)}"


PICTURES = {"returns": returns, "updates": after_updates, "ways": ways}
"""those of a policy's run, in place of the others"""
