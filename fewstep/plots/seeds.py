"""Every run of a method after each adaptation step, and what they come to together. Used by `fewstep results --plot`
and the benchmarks of policies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fewstep.plots.style import STEPS, axes_of
from fewstep.supervised.evaluate import over_seeds, summarize

COLORS = (STEPS[2], STEPS[4], "#228833", "#66ccee", "#997700", STEPS[3])


class Panel(NamedTuple):
    """What may be compared."""

    figure: str
    """what is measured, on what"""
    steps: Sequence[int | str]
    methods: dict[str, list[list[float | None]]]
    """name -> of each run, its figure after each number of steps; None where it diverged"""


class Summary(NamedTuple):
    """What runs come to: [steps] each."""

    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    what: str


def seeds_figure(panels: Sequence[Panel], steps: str = "adaptation steps") -> Any:
    """A line for each run, pale, and one for what they come to, with its 95 % interval where there are several."""
    figure, axes = axes_of(len(panels), 1, (5.6 * len(panels) + 0.6, 4.4))
    for axis, panel in zip(axes[0], panels, strict=True):
        places = np.arange(len(panel.steps))
        for number, (name, runs) in enumerate(panel.methods.items()):
            color = COLORS[number % len(COLORS)]
            table = np.array([[np.nan if value is None else value for value in run] for run in runs], float)
            aside = 0.06 * (number - (len(panel.methods) - 1) / 2)
            for run in table:
                axis.plot(places + aside, run, color=color, lw=0.7, alpha=0.6, marker=".", ms=4)
            found = summary(table)
            axis.fill_between(places + aside, found.low, found.high, color=color, alpha=0.15, lw=0)
            label = f"{name}: {len(runs)} run{'s' * (len(runs) != 1)}{found.what}"
            axis.plot(places + aside, found.middle, color=color, lw=1.6, marker="o", ms=5, mfc="white", label=label)
        axis.set_xticks(places, [str(step) for step in panel.steps])
        axis.set(xlabel=steps, ylabel=panel.figure)
        axis.legend(frameon=False, fontsize=8)
    return figure


def summary(table: np.ndarray) -> Summary:
    """Of runs [runs, steps]: the interquartile mean from ten on, else the mean; with the 95 % interval over them."""
    quartiles = [over_seeds(column) for column in table.T]
    if all(each is not None for each in quartiles) and np.isfinite(table).all():
        middle, low, high = np.array(quartiles, float).T
        return Summary(middle, low, high, ", interquartile mean")
    mean = table.mean(0)
    if len(table) == 1:
        return Summary(mean, mean, mean, "")
    half = np.array([np.nan if each is None else each for each in summarize(table)["ci95"]], float)
    return Summary(mean, mean - half, mean + half, ", mean")
