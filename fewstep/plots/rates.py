"""The loss after adaptation over inner rates, of `fewstep train PROBLEM --find-rate` (floor 4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fewstep.plots.style import BEFORE, NOTE, STEPS, TRAINED, axes_of, log_scale

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
