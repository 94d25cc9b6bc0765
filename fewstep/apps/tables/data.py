"""From tables to a `TableFormat`: kinds, means, scales, categories and periods of columns.

It also turns arrays and frames in memory (NumPy, pandas, polars) into columns. Neither pandas nor pyarrow is imported: a pandas
column is recognized by its methods and converted kind by kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from fewstep.errors import InputError
from fewstep.storage.numerals import looks_numeric
from fewstep.supervised.columns import DAY, FARTHEST, PERIODS, InputColumn, Period, TableFormat, TargetColumn
from fewstep.supervised.dates import LIKELY_DATE
from fewstep.supervised.infer_kinds import infer_kind
from fewstep.supervised.kinds import ColumnKind, place_of, read_values, read_words
from fewstep.supervised.labels import note_twins

MOST_CATEGORIES = 64
"""A category column keeps so many of its values, the most frequent ones; all others are "other"."""


@dataclass(frozen=True)
class Fitting:
    """What a format is fitted to: the columns, what was declared of them, and the rows that may be looked at."""

    table: pl.DataFrame
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    in_train: np.ndarray
    """[rows] bool"""
    source: str = "the table"
    task: str | None = None
    kinds: dict[str, ColumnKind] = field(default_factory=dict)
    most_harmonics: int = 2


def fit_format(fitting: Fitting, notes: list[str]) -> TableFormat:
    """Infers kinds of columns from the table, and means, scales and categories from its meta-train rows.

    A date gets up to `most_harmonics` harmonics of each period that it can show. Raises `InputError` for columns that cannot be
    used, for inputs of one value each, for targets of two kinds or of one value; adds to `notes` what a person should know.
    """
    source = fitting.source
    inputs = tuple(_fit_input(fitting, name, notes) for name in fitting.inputs)
    targets = _fit_targets(fitting, notes)
    if all(column.features == 0 or column.span[0] == column.span[1] for column in inputs if column.kind != "category") and all(
        len(column.categories) < 2 for column in inputs if column.kind == "category"
    ):
        raise InputError(
            f"{source}: every input column has one value in all rows, so nothing can be told from them. Choose others."
        )
    _warn_of_leaks(fitting, inputs, targets, notes)
    return TableFormat(inputs, targets, fitting.task)


def _fit_input(fitting: Fitting, name: str, notes: list[str]) -> InputColumn:
    table, source, in_train = fitting.table, fitting.source, fitting.in_train
    how = infer_kind(table, name, source, fitting.kinds.get(name))
    if how.kind == "category":
        words = read_words(table, name, source).filter(pl.Series(in_train))
        counts = words.drop_nulls().value_counts().sort("count", name, descending=[True, False])
        if counts.is_empty():
            raise _no_values(source, name)
        kept = sorted(counts[name].head(MOST_CATEGORIES).to_list())
        note_twins(name, counts[name], "categories", notes)
        if counts.height > MOST_CATEGORIES:
            if name not in fitting.kinds:
                _require_words(counts[name], name, source)
            notes.append(
                f"{name}: {counts.height} categories; the {MOST_CATEGORIES} most frequent are kept, all others are 'other'"
            )
        return InputColumn(name, "category", categories=tuple(kept), gaps=bool(words.null_count()))
    values = read_values(table, name, how, source)[in_train]
    gaps = bool(np.isnan(values).any())
    known = values[~np.isnan(values)]
    if known.size == 0:
        raise _no_values(source, name)
    visible = visible_periods(known) if how.kind == "date" else {}
    return InputColumn(
        name,
        how.kind,
        float(known.mean()),
        spread(known),
        tuple(visible),
        tuple(min(count, fitting.most_harmonics) for count in visible.values()),
        gaps=gaps,
        date_format=how.date_format,
        span=(float(known.min()), float(known.max())),
        remark=how.remark,
        written=how.written or "",
        zone=how.zone,
    )


def _require_words(values: pl.Series, name: str, source: str) -> None:
    """Raises `InputError` if most of many categories look like numbers or dates that could not be read."""
    looks = looks_numeric(values) | values.str.contains(LIKELY_DATE)
    if 2 * looks.sum() >= values.len():
        shown = ", ".join(map(repr, values.filter(looks).head(3)))
        raise InputError(
            f"{source}: column {name!r} has {values.len()} values that look like numbers or dates, but are not all written in "
            f"one known way: {shown}. Write them in one, with one unit, or declare --kinds {name}=category."
        )


def _no_values(source: str, name: str) -> InputError:
    return InputError(f"{source}: column {name!r} has no values in the meta-train rows. Leave it out.")


def _fit_targets(fitting: Fitting, notes: list[str]) -> tuple[TargetColumn, ...]:
    table, source = fitting.table, fitting.source
    found = {name: infer_kind(table, name, source, fitting.kinds.get(name)) for name in fitting.targets}
    kinds = {name: how.kind for name, how in found.items()}
    if dated := [name for name, kind in kinds.items() if kind == "date"]:
        raise InputError(
            f"{source}: column {dated[0]!r} should hold numbers or classes, it holds dates. Choose another --target."
        )
    classed = [name for name, kind in kinds.items() if kind != "number"]
    if classed and len(fitting.targets) > 1:
        raise InputError(
            f"{source}: several targets should all be numbers, but {classed[0]!r} holds classes. "
            "Train one run for the classes and one for the numbers."
        )
    if classed:
        words = read_words(table, classed[0], source).drop_nulls()
        classes: tuple[str, ...] = tuple(words.unique().sort().to_list())
        note_twins(classed[0], classes, "classes", notes)
        if len(classes) < 2:
            raise InputError(
                f"{source}: column {classed[0]!r} has the one class {words[0]!r} in all rows; there is nothing to predict."
            )
        if len(classes) > MOST_CATEGORIES:
            raise InputError(
                f"{source}: column {classed[0]!r} has {len(classes)} classes; expected at most {MOST_CATEGORIES}. "
                "Is it a name or a number written as text?"
            )
        return (TargetColumn(classed[0], classes=classes),)
    targets = []
    for name in fitting.targets:
        values = read_values(table, name, found[name], source, "numbers")[fitting.in_train]
        known = values[~np.isnan(values)]
        if known.size == 0 or known.min() == known.max():
            what = "no values" if known.size == 0 else f"the one value {known[0]:g}"
            raise InputError(f"{source}: column {name!r} has {what} in the meta-train rows; there is nothing to predict.")
        if not 1 / FARTHEST < known.std() < FARTHEST:  # errors are squared, in the target's own units, in float32
            raise InputError(
                f"{source}: column {name!r} has a standard deviation of {known.std():.3g}; expected one between "
                f"{1 / FARTHEST:g} and {FARTHEST:g}. Give the target in other units."
            )
        span = (float(known.min()), float(known.max()))
        targets.append(TargetColumn(name, float(known.mean()), spread(known), span=span, written=found[name].written or ""))
    return tuple(targets)


def _warn_of_leaks(fitting: Fitting, inputs: Sequence[InputColumn], targets: Sequence[TargetColumn], notes: list[str]) -> None:
    """An input that is the target itself, up to its unit, will not be known when it is asked for."""
    table, source = fitting.table, fitting.source
    question = "will you know it when you ask?"
    for target in targets:
        words, y = read_words(table, target.name, source), as_numbers(fitting, target)
        for column in inputs:
            if column.kind == "category":
                same = (read_words(table, column.name, source) == words).all()
            else:  # a date is known whenever it is asked for
                same = column.kind != "date" and _proportional(read_values(table, column.name, column.how, source), y)
            if same:
                notes.append(f"warning: input {column.name!r} says exactly what target {target.name!r} is; {question}")


def as_numbers(fitting: Fitting, target: TargetColumn) -> np.ndarray:
    """[rows] of a target: its numbers, of two classes 0 and 1, of more the numbers that name them; NaN where there are none."""
    if not target.classes:
        return read_values(fitting.table, target.name, target.how, fitting.source)
    words = read_words(fitting.table, target.name, fitting.source)
    numbers = words == target.classes[1] if len(target.classes) == 2 else words
    return numbers.cast(pl.Float64, strict=False).to_numpy()


def _proportional(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether each is a linear function of the other, where both are known."""
    both = ~np.isnan(x) & ~np.isnan(y)
    x, y = x[both], y[both]
    return bool(x.size > 2 and x.std() > 0 and y.std() > 0 and abs(np.corrcoef(x, y)[0, 1]) > 1 - 1e-9)


def spread(values: np.ndarray) -> float:
    """The standard deviation, or 1 for a constant column."""
    deviation = float(values.std())
    return deviation if deviation > 0 and values.min() < values.max() else 1.0


def visible_periods(seconds: np.ndarray) -> dict[Period, int]:
    """The periods that dates can show, and how many harmonics of each: their span covers most of the period, and their
    spacing is at most half of a harmonic's."""
    unique = np.unique(seconds) / DAY
    if unique.size < 3:
        return {}
    span, spacing = unique[-1] - unique[0], float(np.median(np.diff(unique)))
    return {
        name: int(days / (2 * spacing) + 1e-6)
        for name, days in PERIODS.items()
        if span >= 0.75 * days and spacing <= 0.5 * days
    }


def order_of_time(table: pl.DataFrame, name: str, source: str, kinds: dict[str, ColumnKind], notes: list[str]) -> np.ndarray:
    """[rows] float64: moments or numbers by which rows are ordered. Raises `InputError` for gaps and for words; where dates
    can be read in two ways, the choice is added to `notes`."""
    how = infer_kind(table, name, source, kinds.get(name))
    if how.kind not in ("number", "date"):
        raise InputError(f"{source}: --time {name!r} should hold dates or numbers, it holds a {how.kind}.")
    if how.remark:
        notes.append(f"--time {name}: {how.remark}")
    values = read_values(table, name, how, source)
    gaps = np.flatnonzero(np.isnan(values))
    if gaps.size:
        raise InputError(
            f"{source}: --time {name!r} has {gaps.size} gaps ({place_of(table, gaps)}), so these rows have no place in time."
        )
    return values


def is_frame(values: Any) -> bool:
    """Whether these are named columns, a kind for each, and not one array."""
    return hasattr(values, "columns") and hasattr(values, "shape")


def names_of(frame: Any) -> tuple[str, ...]:
    """Names of a frame's columns, as text. Raises `InputError` if two are the same."""
    names = tuple(map(str, frame.columns))
    if doubled := [name for name in names if names.count(name) > 1]:
        raise InputError(f"X: expected columns of different names, found {doubled[0]!r} twice. Rename one of them.")
    return names


def columns_of(frame: Any, names: Sequence[str]) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """(the columns of a frame under these `names`; those that it declares to be categories)."""
    columns = [series_of(frame[column]).alias(name) for column, name in zip(frame.columns, names, strict=True)]
    declared = [is_categorical(frame[column]) for column in frame.columns]
    return pl.DataFrame(columns), tuple(name for name, yes in zip(names, declared, strict=True) if yes)


def is_categorical(column: Any) -> bool:
    """Whether a column says of itself that its values are categories, numbers though they may be."""
    if isinstance(column, pl.Series):
        return column.dtype in (pl.Categorical, pl.Enum)
    return str(column.dtype) == "category"


def series_of(values: Any) -> pl.Series:
    """A column of a frame, an array or a list [rows]; what is not known is null, or NaN among floats."""
    if isinstance(values, pl.Series):
        return values
    if hasattr(values, "isna"):
        return _of_pandas(values)
    array = np.asarray(values)
    return pl.Series(array.tolist(), strict=False) if array.dtype == object else pl.Series(array)


def _of_pandas(column: Any) -> pl.Series:
    kind = str(column.dtype)
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "iufb":
        return pl.Series(column.to_numpy())
    if kind.startswith("datetime64"):
        zone = getattr(column.dt, "tz", None)
        if zone is None:
            return pl.Series(column.to_numpy().astype("datetime64[us]"))
        moments = pl.Series(column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy().astype("datetime64[us]"))
        try:
            return moments.dt.replace_time_zone("UTC").dt.convert_time_zone(str(zone))
        except pl.exceptions.PolarsError:  # a fixed distance from UTC, which has no name
            return pl.Series(column.dt.strftime("%Y-%m-%dT%H:%M:%S.%f%z").tolist(), dtype=pl.String, strict=False)
    gaps = column.isna().to_numpy()
    return pl.Series([None if gap else value for gap, value in zip(gaps, column.tolist(), strict=True)], strict=False)
