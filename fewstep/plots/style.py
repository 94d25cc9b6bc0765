"""What all pictures share: colors, axes, scales. Used by plots/curves.py and apps/rows/plots.py."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

TRUTH, SUPPORT, BEFORE, BAND, NOTE = "#444444", "#111111", "#aaaaaa", "#6699cc", "#777777"
STEPS = ["#fdbb6b", "#ee7733", "#cc3311", "#771155", "#332288"]
TRAINED, AUTO = STEPS[2], STEPS[4]


def axes_of(columns: int = 1, rows: int = 1, size: tuple[float, float] = (6.4, 4.0)) -> tuple[Any, Any]:
    """(a figure, its axes [rows, columns])."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def log_scale(axis: Any, values: Sequence[float]) -> None:
    """A logarithmic y axis with plain numbers, where the values span enough to want one."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    if not values or min(values) <= 0 or max(values) < 3 * min(values):
        return
    axis.set_yscale("log")
    span = max(values) / min(values)
    subs = (1.0,) if span > 1e3 else (1.0, 2.0, 5.0) if span > 8 else (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
    axis.yaxis.set_major_locator(LogLocator(subs=subs))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def error_bars(values: Sequence[float], halves: Sequence[float | None]) -> list[list[float]]:
    """How far each bar reaches down and up. Bars of positive values stay above 0, where a logarithmic axis ends."""
    up = [half or 0.0 for half in halves]
    down = [min(half, 0.9 * value) if value > 0 else half for half, value in zip(up, values, strict=True)]
    return [down, up]


def as_dates(seconds: Sequence[float]) -> list[datetime.datetime]:
    start = datetime.datetime(1970, 1, 1)
    return [start + datetime.timedelta(seconds=value) for value in seconds]


def date_axis(axis: Any) -> None:
    import matplotlib.dates as dates

    locator = dates.AutoDateLocator(minticks=3, maxticks=5)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    axis.xaxis.get_offset_text().set_fontsize(8)


def drawable(content: Any) -> Any:
    """JSON whose texts all have letters: a file name that is no UTF-8 holds bytes that are none, which matplotlib refuses."""
    if isinstance(content, str):
        return content.encode("utf-8", "backslashreplace").decode()
    if isinstance(content, dict):
        return {drawable(name): drawable(part) for name, part in content.items()}
    return [drawable(part) for part in content] if isinstance(content, list) else content


def in_words(metric: str) -> str:
    """A metric's name for people: log_loss as "log loss". What follows a blank is the name of a column, and stays."""
    name, blank, column = metric.partition(" ")
    return name.replace("_", " ").replace("mse", "MSE") + blank + column
