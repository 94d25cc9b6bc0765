"""Warns of likely mistakes in a table before training, one line each.

Nothing here changes how a column is read. docs/tables.md states each rule with its threshold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from fewstep.apps.tables.data import Fitting, as_numbers
from fewstep.errors import InputError
from fewstep.supervised.columns import TableFormat
from fewstep.supervised.infer_kinds import infer_kind
from fewstep.supervised.kinds import read_values

CODES, ROWS_A_CODE = 10, 10
"""Whole numbers that are a target are asked about if there are at most so many different ones, of at least so many rows each
on average."""
TAIL = 10.0
"""Values that are not negative have a long tail if, among those above 0, the 99th percentile lies so many times as far above
the median as the 1st lies below it."""
FAR = 50.0
"""times the interquartile range away from the median: values that decide squared errors alone"""
LEAST_DIFFERENT = 10
"""Columns of fewer different values have no tails and no sentinels."""
ALIKE = 0.995
"""the correlation, or that of ranks, from which on an input is nearly the target"""
SAME = 1 - 1e-6
"""the correlation from which on an input is the target of another row, but for rounding"""
LAGS = (1, 2, 3, 7, 12, 24)
LEAST_ROWS = 20
"""Of fewer rows nothing is said of tails, sentinels and likeness."""
QUESTION = "will you know it when you ask?"


class Column(NamedTuple):
    """The numbers of a column."""

    name: str
    values: np.ndarray
    """[rows] float64, NaN for gaps"""

    @property
    def known(self) -> np.ndarray:
        return self.values[~np.isnan(self.values)]


def advise(
    fitting: Fitting,
    format: TableFormat,
    rows_of: Sequence[np.ndarray],
    time: str,
    declared: Collection[str],
    notes: list[str],
) -> tuple[str, ...]:
    """Adds the advice on the columns of `format` to `notes`. Returns what the user has to be asked before training: of targets
    whose kind is not `declared`."""
    numbers = [column for column in format.inputs if column.kind == "number"]
    inputs = [Column(each.name, read_values(fitting.table, each.name, each.how, fitting.source)) for each in numbers]
    targets = [Column(target.name, as_numbers(fitting, target)) for target in format.targets]
    shown = [target for target in targets if not format.classes]
    for column in (*inputs, *shown):
        notes.extend(extremes(column))
    for target in targets:
        for column in inputs:
            notes.extend(copies(column, target, rows_of, time))
    asked = (coded(target, len(targets) == 1) for target in shown if target.name not in declared)
    return tuple(question for question in asked if question)


def unused_dates(table: pl.DataFrame, used: Collection[str], source: str) -> Iterator[str]:
    """A line for each column of dates that is not among those `used`, of a table that is read without --time."""
    for name in table.columns:
        if name in used:
            continue
        try:
            kind = infer_kind(table, name, source).kind
        except InputError:  # what is not used may hold anything
            continue
        if kind == "date":
            yield (
                f"column {name!r} holds dates and is not used. With --time {name} support rows always precede the rows asked "
                "for; without it they are drawn at random"
            )


def coded(target: Column, alone: bool) -> str:
    """The question whether a target of few whole numbers is a number or a class; "" where there is none. `alone`: whether it
    is the only target, since several are all numbers."""
    values = np.unique(target.known)
    few = values.size <= CODES and target.known.size >= ROWS_A_CODE * values.size
    if not few or not np.all(values == np.round(values)):
        return ""
    listed = ", ".join(f"{value:g}" for value in values)
    name = target.name
    say = f"say --kinds {name}=number to predict its size"
    if alone:
        return f"Target {name!r} holds only {listed}: {say}, or --kinds {name}=category to predict which class it is."
    return f"Target {name!r} holds only {listed}: {say}, or, where these are classes, train one run for them alone."


def extremes(column: Column) -> Iterator[str]:
    """Sentinels; without these, a long tail and values far outside."""
    values = column.known
    if values.size < LEAST_ROWS:
        return
    while (found := sentinel(values)) is not None:
        others = values[values != found]
        yield (
            f"{column.name}: {values.size - others.size} of {values.size} values are exactly {found:g}, far outside all others "
            f"({others.min():.4g} to {others.max():.4g}). If it stands for a gap, empty these cells"
        )
        values = others
    if np.unique(values).size < LEAST_DIFFERENT:
        return
    low, middle, high = np.quantile(values[values > 0] if values.min() >= 0 else values, (0.01, 0.5, 0.99))
    if values.min() >= 0 and high - middle > TAIL * (middle - low):
        of = "Its logarithm" if values.min() > 0 else "The logarithm of 1 + this"
        yield (
            f"{column.name}: a long tail of great values (above 0: median {middle:.4g}, 99th percentile {high:.4g}). {of} may "
            "be learned better; take it before"
        )
        return
    first, middle, third = np.quantile(values, (0.25, 0.5, 0.75))
    if third > first and (far := np.abs(values - middle) > FAR * (third - first)).any():
        yield (
            f"{column.name}: {far.sum()} of {values.size} values lie more than {FAR:g} interquartile ranges away from the "
            f"median {middle:.4g}, up to {values[np.abs(values - middle).argmax()]:.4g}: few rows decide squared errors"
        )


def sentinel(values: np.ndarray) -> float | None:
    """The least or greatest value, if it repeats and lies farther from those between than these are apart; None for neither."""
    found, counts = np.unique(values, return_counts=True)
    if found.size <= LEAST_DIFFERENT:
        return None
    middle = found[1:-1]
    for value, count in ((found[0], counts[0]), (found[-1], counts[-1])):
        if count > 1 and np.abs(middle - value).min() > middle[-1] - middle[0]:
            return float(value)
    return None


def copies(column: Column, target: Column, rows_of: Sequence[np.ndarray], time: str) -> Iterator[str]:
    """An input that is nearly the target, or the target of another row of its task. `rows_of` are the rows of each task, in the
    order of the column `time`, or of the file where that is ""."""
    both = ~np.isnan(column.values) & ~np.isnan(target.values)
    if both.sum() < LEAST_ROWS:
        return
    x, y = column.values[both], target.values[both]
    straight = correlation(x, y)
    if straight > 1 - 1e-9:  # exactly the target, which is said where formats are fitted
        return
    if straight > ALIKE or correlation(ranks(x), ranks(y)) > ALIKE:
        yield f"warning: input {column.name!r} is nearly the target {target.name!r} (correlation {straight:.4f}); {QUESTION}"
        return
    for lag in (*LAGS, *(-lag for lag in LAGS)):
        earlier, later = (np.concatenate(part) for part in zip(*(shifted(rows, abs(lag)) for rows in rows_of), strict=True))
        own, other = (later, earlier) if lag > 0 else (earlier, later)
        x, y = column.values[own], target.values[other]
        both = ~np.isnan(x) & ~np.isnan(y)
        if both.sum() >= LEAST_ROWS and correlation(x[both], y[both]) > SAME:
            yield lagged(column.name, target.name, lag, time)
            return


def lagged(name: str, target: str, lag: int, time: str) -> str:
    """In words."""
    where = f"{abs(lag)} row{'s' * (abs(lag) > 1)} {'before' if lag > 0 else 'after'}"
    start = f"warning: input {name!r} is the target {target!r} of {where}, in the order of {time or 'the file'}"
    if lag < 0:
        return f"{start}; {QUESTION}"
    if time:
        return f"{start}: figures are those of forecasts {abs(lag)} row{'s' * (abs(lag) > 1)} ahead"
    return f"{start}: support rows tell the targets of rows that are asked for. Leave it out, or say --time COLUMN"


def shifted(rows: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, those `lag` rows later) of one task."""
    return rows[: max(rows.size - lag, 0)], rows[lag:]


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """The absolute value of Pearson's, 0 where one of them is constant."""
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt(np.square(x).sum()) * np.sqrt(np.square(y).sum())
    return float(abs((x * y).sum()) / scale) if scale > 0 else 0.0


def ranks(values: np.ndarray) -> np.ndarray:
    """From 0 on; equal values have the mean of their places."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[place]
