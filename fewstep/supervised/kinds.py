"""The values of a column as numbers or as text, by what is known of its kind. Used by tasks/columns.

Four kinds: number, date (seconds since 1970 inside), boolean (0 and 1 inside) and category (text).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from fewstep.errors import InputError
from fewstep.storage.numerals import COMMA, POINT, Ambiguous, evidence, fits, numbers_of, written_as
from fewstep.storage.tables import FILE, column_of, sample
from fewstep.supervised.dates import date_formats, names_zone, offsets, order_of_day, parse_dates, shown_offset

Kind = Literal["number", "date", "boolean", "category"]
KINDS = ("number", "date", "boolean", "category")
LARGEST = 1e150
"""Squares of greater numbers are infinite."""
TRUE, FALSE = {"true", "yes", "y", "t"}, {"false", "no", "n", "f"}


class ColumnKind(NamedTuple):
    """How the values of a column are read."""

    kind: Kind
    date_format: str | None = None
    """for dates written as text"""
    remark: str = ""
    """what a person should know of how it was inferred"""
    written: str | None = None
    """for numbers: how they are written, as an example of it ("" for plain numbers); None where that is not known yet"""
    zone: str = ""
    """for dates: whose clock they show: the name of a time zone, or the distances from UTC in which texts end, +01:00 +02:00"""


def read_values(table: pl.DataFrame, name: str, how: ColumnKind, source: str, expected: str = "") -> np.ndarray:
    """[rows] float64 of a number, date or boolean column, NaN for a gap. Raises `InputError` for infinities, for
    numbers whose squares would be, for other kinds, and for numbers, units and zones that are not written as they were."""
    series = column_of(table, name, source)
    if series.null_count() == series.len():  # nothing tells of which kind it is
        return np.full(series.len(), np.nan)
    if how.kind == "number":
        read = _numbers(table, series, how, source)
    else:
        read = _moments(series, how, source) if how.kind == "date" else _booleans(series)
    lost = np.flatnonzero((read.is_null() & series.is_not_null()).to_numpy())
    if lost.size:
        example = f" written like {how.written!r}" if how.written else ""
        first = "" if lost[0] < 2 else f", and {series[int(lost[0])]!r}"
        raise InputError(
            f"{source}: column {name!r} should hold {expected or how.kind + 's'}{example}, it holds {sample(series)}{first} "
            f"({place_of(table, lost)}). Choose another column, or turn it into them first."
        )
    values = read.to_numpy()
    huge = np.flatnonzero(np.abs(values) > LARGEST)
    if huge.size:
        what = "infinite values" if np.isinf(values[huge]).all() else f"values beyond {LARGEST:g}"
        raise InputError(
            f"{source}: column {name!r} has {huge.size} {what} of {values.size} ({place_of(table, huge)}). "
            "Correct them, or empty these cells."
        )
    return values


def _nothing(series: pl.Series) -> pl.Series:
    return pl.Series(series.name, [None] * series.len(), pl.Float64)


def _numbers(table: pl.DataFrame, series: pl.Series, how: ColumnKind, source: str) -> pl.Series:
    if series.dtype.is_temporal():
        return _nothing(series)
    if series.dtype != pl.String:
        return series.cast(pl.Float64, strict=False)
    try:
        written = written_as(series.drop_nulls(), how.written, lambda: evidence(table, series.name))
    except Ambiguous as error:
        raise ambiguous(source, series.name, str(error)) from None
    if written is not None:
        return numbers_of(series, written)
    readable = pl.Series(fits(series.fill_null(""), how.written or ""))
    return pl.select(pl.when(readable).then(numbers_of(series, how.written or ""))).to_series()


def ambiguous(source: str, name: str, value: str) -> InputError:
    read = [f"{number:g}" for way in (POINT, COMMA) for number in numbers_of(pl.Series([value]), way)]
    return InputError(
        f"{source}: column {name!r} holds {value!r}, which is {read[0]} or {read[1]}, and nothing in the table says which. "
        f"For training declare --kinds {name}=number:{POINT} or {name}=number:{COMMA}; in other files write "
        f"{read[0]} or {read[1]}."
    )


def _moments(series: pl.Series, how: ColumnKind, source: str) -> pl.Series:
    zone = zone_of(series)
    if series.dtype == pl.String or (series.dtype.is_integer() and how.date_format):  # 20160131 is no number
        texts = series.cast(pl.String)
        format = _format_of(texts, how.date_format or "")
        if format is None:
            return _nothing(series)
        zone, moments = zone_of_texts(texts, format), parse_dates(texts, format)
    elif series.dtype in (pl.Date, pl.Datetime):
        moments = series
    else:
        return _nothing(series)
    if bool(zone) != bool(how.zone):
        expected = f"with a time zone ({how.zone})" if how.zone else "without a time zone"
        raise InputError(
            f"{source}: column {series.name!r} should hold times {expected}, as in training; it holds {sample(series)}. "
            "Write them as in training."
        )
    return moments.cast(pl.Datetime("us")).cast(pl.Int64).cast(pl.Float64) / 1e6


def _format_of(texts: pl.Series, known: str) -> str | None:
    """The known format of dates, or another that all of them have: best of one with days and months in the same order."""
    if known and parse_dates(texts, known).null_count() == texts.null_count():
        return known
    try:
        others = date_formats(texts)
    except ValueError:
        return None
    return min(others, key=lambda other: order_of_day(other) != order_of_day(known)) if others else None


def zone_of(series: pl.Series) -> str:
    """The name of the time zone of a column of moments; "" for none."""
    return (series.dtype.time_zone or "") if isinstance(series.dtype, pl.Datetime) else ""


def zone_of_texts(texts: pl.Series, format: str) -> str:
    """The clock that dates written as text show: UTC where all end in Z, else their distances from UTC, +01:00 +02:00."""
    if not names_zone(format):
        return ""
    known = texts.drop_nulls().str.strip_chars()
    if known.str.ends_with("Z").all():
        return "UTC"
    return " ".join(map(shown_offset, sorted(offsets(known).drop_nulls().unique().to_list()))) or "UTC"


def read_clock(table: pl.DataFrame, name: str, how: ColumnKind, source: str) -> np.ndarray:
    """[rows] float64: seconds by which the clock of a date column is ahead of `read_values`, which are UTC; 0 without a zone.

    Of a named zone it is that zone's clock, whatever zone the moments are written in; of texts that end in distances from UTC,
    each one's own.
    """
    series = column_of(table, name, source)
    if not how.zone or series.null_count() == series.len():
        return np.zeros(series.len())
    named = how.zone[0] not in "+-"
    if not named and series.dtype == pl.String:
        return offsets(series).fill_null(0).cast(pl.Float64).to_numpy()
    seconds = read_values(table, name, how, source)
    utc = pl.Series(np.round(seconds * 1e6)).fill_nan(None).cast(pl.Int64).cast(pl.Datetime("us"))
    local = utc.dt.replace_time_zone("UTC").dt.convert_time_zone(how.zone if named else zone_of(series) or "UTC")
    ahead = local.dt.replace_time_zone(None).cast(pl.Int64) - utc.cast(pl.Int64)
    return ahead.fill_null(0).to_numpy() / 1e6


def read_moments(table: pl.DataFrame, name: str, how: ColumnKind, source: str) -> pl.Series:
    """A date column in one form, whatever its file made of it: moments, or, with a zone, text as 2024-03-01T08:00:00+01:00."""
    seconds = read_values(table, name, how, source)
    if not how.zone:
        return pl.Series(name, np.round(seconds * 1e6)).fill_nan(None).cast(pl.Int64).cast(pl.Datetime("us"))
    ahead = read_clock(table, name, how, source) if how.zone[0] in "+-" else np.zeros(seconds.size)
    clock = pl.Series(name, np.round((seconds + ahead) * 1e6)).fill_nan(None).cast(pl.Int64).cast(pl.Datetime("us"))
    return clock.dt.strftime("%Y-%m-%dT%H:%M:%S%.6f") + pl.Series([shown_offset(int(offset)) for offset in ahead])


def _booleans(series: pl.Series) -> pl.Series:
    if series.dtype == pl.String:
        words = series.str.strip_chars().str.to_lowercase()
        known = pl.when(words.is_in([*TRUE, "1"])).then(1.0).when(words.is_in([*FALSE, "0"])).then(0.0)
        return pl.select(known.alias(series.name)).to_series()
    if series.dtype.is_temporal():
        return _nothing(series)
    values = series.cast(pl.Float64, strict=False).fill_nan(None)
    return pl.select(pl.when(values.is_in([0.0, 1.0])).then(values)).to_series()


def read_words(table: pl.DataFrame, name: str, source: str) -> pl.Series:
    """A category column as text, null for a gap; whole numbers without a decimal point, whatever the file made of them."""
    series = column_of(table, name, source)
    if series.dtype.is_float():
        return series.fill_nan(None).cast(pl.String).str.strip_suffix(".0")
    return series.cast(pl.String).str.strip_chars()


def place_of(table: pl.DataFrame, rows: np.ndarray) -> str:
    """'data rows 3, 8', or, of many files, 'data row 2 of units/b': where rows of a table came from."""
    if FILE not in table.columns or not rows.size:
        return f"data {row_list(rows)}"
    files = table[FILE].cast(pl.String)
    within = int((files == files[int(rows[0])])[: int(rows[0]) + 1].sum())
    return f"data row {within} of {files[int(rows[0])]!r}"


def row_list(rows: np.ndarray) -> str:
    """'rows 1, 2, 3, 4, 5, ...' counted from 1."""
    return "rows " + ", ".join(str(row + 1) for row in rows[:5]) + (", ..." if rows.size > 5 else "")
