"""What kind of values a column holds, inferred or declared, and the values as numbers (floor 1). Used by tasks/columns.

Four kinds: number, date (seconds since 1970 inside), boolean (0 and 1 inside) and category (text).
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, cast

import numpy as np
import polars as pl

from fewstep.errors import BadInput
from fewstep.tasks.reading import column_of, date_formats, order_of_day, parse_dates, sample

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


def declared_kinds(words: tuple[str, ...]) -> dict[str, ColumnKind]:
    """`NAME=KIND` and `NAME=date:FORMAT` as a dictionary. Raises `BadInput` for another kind."""
    found = {}
    for word in words:
        name, equals, kind = word.rpartition("=") if "=date:" not in word else word.partition("=")
        kind, _, date_format = kind.partition(":")
        if not equals or kind not in KINDS or (date_format and kind != "date"):
            raise BadInput(
                f"--kinds {word!r} should be COLUMN=KIND with one of {', '.join(KINDS)}, such as month=category; "
                "a date may name its format, as in day=date:%m/%d/%Y."
            )
        found[name] = ColumnKind(cast(Kind, kind), date_format or None)
    return found


def infer_kind(table: pl.DataFrame, name: str, source: str, declared: ColumnKind | None = None) -> ColumnKind:
    """The kind of a column: as declared, or what all of its values can be read as.

    Raises `BadInput` for a column without values, for numbers or dates mixed with words, for dates in two formats, for what
    is no date though declared one.
    """
    series = column_of(table, name, source)
    known = series.drop_nulls()
    if known.is_empty():
        raise BadInput(f"{source}: column {name!r} has no values at all. Leave it out.")
    if declared is not None and declared.kind != "date":
        return declared
    if series.dtype in (pl.Date, pl.Datetime):
        return ColumnKind("date")
    if declared is not None:
        return _declared_date(known, name, source, declared)
    if series.dtype == pl.Boolean:
        return ColumnKind("boolean")
    if series.dtype.is_numeric():
        return ColumnKind("number")
    texts = known.str.strip_chars()
    if texts.str.to_lowercase().is_in([*TRUE, *FALSE]).all():
        return ColumnKind("boolean")
    return _date(texts, name, source) or _of_text(texts, name, source)


def _declared_date(known: pl.Series, name: str, source: str, declared: ColumnKind) -> ColumnKind:
    format = declared.date_format
    if format and (known.dtype.is_integer() or known.dtype == pl.String):
        strange = known.filter(parse_dates(known.cast(pl.String), format).is_null())
        if strange.is_empty():
            return declared
        raise BadInput(
            f"{source}: column {name!r} is declared date:{format}, but holds {strange[0]!r}. Correct one of the two."
        )
    found = _date(known, name, source) if known.dtype == pl.String else None
    if found is None:
        raise BadInput(
            f"{source}: column {name!r} is declared a date, but holds {sample(known)}. Name its format: date:%d/%m/%y."
        )
    return found


def _date(texts: pl.Series, name: str, source: str) -> ColumnKind | None:
    try:
        formats = date_formats(texts)
    except ValueError as error:
        raise BadInput(f"{source}: column {name!r} holds {error}, or declare --kinds {name}=category.") from None
    if not formats:
        return None
    first = parse_dates(texts, formats[0])
    for other in formats[1:]:
        if not parse_dates(texts, other).equals(first):
            declare = f"(not as {_pattern(other)}: then declare --kinds {name}=date:{other})"
            return ColumnKind("date", formats[0], f"read as {_pattern(formats[0])} {declare}")
    return ColumnKind("date", formats[0])


def _of_text(texts: pl.Series, name: str, source: str) -> ColumnKind:
    numeric = texts.cast(pl.Float64, strict=False).is_not_null()
    if numeric.all():
        return ColumnKind("number")
    if numeric.mean() >= 0.5:  # type: ignore[operator]
        words = texts.filter(~numeric)
        many = "value that is" if words.len() == 1 else "values that are"
        raise BadInput(
            f"{source}: column {name!r} mixes {numeric.sum()} numbers with {words.len()} {many} none, such as "
            f"{', '.join(map(repr, words.unique(maintain_order=True).head(3)))}. Empty these cells, "
            f"or declare --kinds {name}=category."
        )
    return ColumnKind("category")


def _pattern(format: str) -> str:
    """%d/%m/%Y as day/month/year."""
    names = {
        "%d": "day",
        "%m": "month",
        "%Y": "year",
        "%y": "year",
        "%b": "month",
        "%B": "month",
        "%H": "hour",
        "%M": "minute",
        "%S%.f": "second",
    }
    return re.sub("|".join(map(re.escape, names)), lambda found: names[found.group()], format).replace("%#z", " zone")


def read_values(table: pl.DataFrame, name: str, how: ColumnKind, source: str, expected: str = "") -> np.ndarray:
    """[rows] float64 of a number, date or boolean column, NaN for a gap. Raises `BadInput` for infinities, for
    numbers whose squares would be, and for other kinds."""
    series = column_of(table, name, source)
    if series.null_count() == series.len():  # nothing tells of which kind it is
        return np.full(series.len(), np.nan)
    reader = {"number": _numbers, "date": _moments, "boolean": _booleans}[how.kind]
    read = reader(series, how)
    if read is None:
        raise BadInput(
            f"{source}: column {name!r} should hold {expected or how.kind + 's'}, it holds {sample(series)}. "
            "Choose another column, or turn it into them first."
        )
    values = read.to_numpy()
    huge = np.flatnonzero(np.abs(values) > LARGEST)
    if huge.size:
        what = "infinite values" if np.isinf(values[huge]).all() else f"values beyond {LARGEST:g}"
        raise BadInput(
            f"{source}: column {name!r} has {huge.size} {what} of {values.size} (data {row_list(huge)}). "
            "Correct them, or empty these cells."
        )
    return values


def _numbers(series: pl.Series, how: ColumnKind) -> pl.Series | None:
    if series.dtype == pl.String:
        series = series.str.strip_chars()
    if series.dtype.is_temporal():
        return None
    return _unless_lost(series, series.cast(pl.Float64, strict=False))


def _moments(series: pl.Series, how: ColumnKind) -> pl.Series | None:
    if series.dtype == pl.String or (series.dtype.is_integer() and how.date_format):  # 20160131 is no number
        found = _parsed(series.cast(pl.String), how.date_format)
        if found is None:
            return None
        series = found
    elif series.dtype not in (pl.Date, pl.Datetime):
        return None
    return series.cast(pl.Datetime("us")).cast(pl.Int64).cast(pl.Float64) / 1e6


def _parsed(texts: pl.Series, date_format: str | None) -> pl.Series | None:
    """Dates of the known format, or of another that all of them have: best of one with days and months in the same order."""
    known = date_format or ""
    if known and (whole := _unless_lost(texts, parse_dates(texts, known))) is not None:
        return whole
    try:
        others = date_formats(texts)
    except ValueError:
        return None
    return parse_dates(texts, min(others, key=lambda other: order_of_day(other) != order_of_day(known))) if others else None


def _booleans(series: pl.Series, how: ColumnKind) -> pl.Series | None:
    if series.dtype == pl.String:
        words = series.str.strip_chars().str.to_lowercase()
        known = pl.when(words.is_in([*TRUE, "1"])).then(1.0).when(words.is_in([*FALSE, "0"])).then(0.0)
        return _unless_lost(series, pl.select(known.alias("")).to_series())
    if series.dtype.is_temporal():
        return None
    values = series.cast(pl.Float64, strict=False)
    return values if values.drop_nulls().is_in([0.0, 1.0]).all() else None


def _unless_lost(before: pl.Series, after: pl.Series) -> pl.Series | None:
    """`after`, unless a value that was there is gone."""
    return after if after.null_count() == before.null_count() else None


def read_words(table: pl.DataFrame, name: str, source: str) -> pl.Series:
    """A category column as text, null for a gap; whole numbers without a decimal point, whatever the file made of them."""
    series = column_of(table, name, source)
    if series.dtype.is_float():
        return series.fill_nan(None).cast(pl.String).str.strip_suffix(".0")
    return series.cast(pl.String).str.strip_chars()


def row_list(rows: np.ndarray) -> str:
    """'rows 1, 2, 3, 4, 5, ...' counted from 1."""
    return "rows " + ", ".join(str(row + 1) for row in rows[:5]) + (", ..." if rows.size > 5 else "")
