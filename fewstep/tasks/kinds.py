"""What kind of values a column holds, inferred or declared, and the values as numbers (floor 1). Used by tasks/columns.

Four kinds: number, date (seconds since 1970 inside), boolean (0 and 1 inside) and category (text).
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, cast

import numpy as np
import polars as pl

from fewstep.errors import BadInput
from fewstep.tasks.reading import column_of, date_formats, parse_dates

Kind = Literal["number", "date", "boolean", "category"]
KINDS = ("number", "date", "boolean", "category")
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

    Raises `BadInput` for a column without values, for numbers mixed with words, for dates in two formats.
    """
    series = column_of(table, name, source)
    if declared is not None and (declared.kind != "date" or declared.date_format or series.dtype.is_temporal()):
        return declared
    known = series.drop_nulls()
    if known.is_empty():
        raise BadInput(f"{source}: column {name!r} has no values at all. Leave it out.")
    if series.dtype in (pl.Date, pl.Datetime):
        return ColumnKind("date")
    if series.dtype == pl.Boolean:
        return ColumnKind("boolean")
    if series.dtype.is_numeric():
        return ColumnKind("number")
    if series.dtype not in (pl.String, pl.Categorical, pl.Enum):
        raise BadInput(f"{source}: column {name!r} holds {sample(series)}; expected numbers, dates, yes or no, or words.")
    texts = known.cast(pl.String).str.strip_chars()
    if set(texts.unique().str.to_lowercase()) <= TRUE | FALSE:
        return ColumnKind("boolean")
    return _of_text(texts, name, source, declared)


def _of_text(texts: pl.Series, name: str, source: str, declared: ColumnKind | None) -> ColumnKind:
    try:
        formats = date_formats(texts)
    except ValueError as error:
        raise BadInput(
            f"{source}: column {name!r} holds dates in two formats, such as {error}. Write all of them in one, best 2016-01-31."
        ) from None
    if formats:
        other = f" (not as {_pattern(formats[1])}: then declare --kinds {name}=date:{formats[1]})" if len(formats) > 1 else ""
        alike = len(formats) > 1 and not parse_dates(texts, formats[0]).equals(parse_dates(texts, formats[1]))
        return ColumnKind("date", formats[0], f"read as {_pattern(formats[0])}{other}" if alike else "")
    if declared is not None:
        raise BadInput(
            f"{source}: column {name!r} is declared a date, but holds {sample(texts)}. Name its format: date:%d/%m/%y."
        )
    numeric = texts.cast(pl.Float64, strict=False).is_not_null()
    if numeric.mean() >= 0.5:  # type: ignore[operator]
        words = texts.filter(~numeric)
        raise BadInput(
            f"{source}: column {name!r} mixes {numeric.sum()} numbers with {words.len()} values that are none, such as "
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
        "%b": "month",
        "%B": "month",
        "%H": "hour",
        "%M": "minute",
        "%S%.f": "second",
    }
    return re.sub("|".join(map(re.escape, names)), lambda found: names[found.group()], format).replace("%#z", " zone")


def read_values(table: pl.DataFrame, name: str, how: ColumnKind, source: str, expected: str = "") -> np.ndarray:
    """[rows] float64 of a number, date or boolean column, NaN for a gap. Raises `BadInput` for infinities and other kinds."""
    series = column_of(table, name, source)
    reader = {"number": _numbers, "date": _moments, "boolean": _booleans}[how.kind]
    read = reader(series, how)
    if read is None:
        raise BadInput(
            f"{source}: column {name!r} should hold {expected or how.kind + 's'}, it holds {sample(series)}. "
            "Choose another column, or turn it into them first."
        )
    values = read.to_numpy()
    infinite = np.flatnonzero(np.isinf(values))
    if infinite.size:
        raise BadInput(
            f"{source}: column {name!r} has {infinite.size} infinite values of {values.size} (data {row_list(infinite)}). "
            "Correct them, or empty these cells."
        )
    return values


def _numbers(series: pl.Series, how: ColumnKind) -> pl.Series | None:
    if series.dtype == pl.String:
        series = series.str.strip_chars()
    if series.dtype.is_temporal() or series.dtype.is_nested():
        return None
    return _unless_lost(series, series.cast(pl.Float64, strict=False))


def _moments(series: pl.Series, how: ColumnKind) -> pl.Series | None:
    if series.dtype == pl.String:
        formats = [how.date_format] if how.date_format else []
        try:
            formats += date_formats(series)[:1]
        except ValueError:
            return None
        tried = [parse_dates(series, format) for format in formats]
        parsed = next((moments for moments in tried if moments.null_count() == series.null_count()), None)
        if parsed is None:
            return None
        series = parsed
    elif series.dtype not in (pl.Date, pl.Datetime) and series.null_count() < series.len():
        return None
    return series.cast(pl.Datetime("us")).cast(pl.Int64).cast(pl.Float64) / 1e6


def _booleans(series: pl.Series, how: ColumnKind) -> pl.Series | None:
    if series.dtype == pl.String:
        words = series.str.strip_chars().str.to_lowercase()
        known = pl.when(words.is_in(sorted(TRUE))).then(1.0).when(words.is_in(sorted(FALSE))).then(0.0)
        return _unless_lost(series, pl.select(known.alias("")).to_series())
    if series.dtype.is_temporal() or series.dtype.is_nested():
        return None
    values = series.cast(pl.Float64, strict=False)
    return values if values.drop_nulls().is_in([0.0, 1.0]).all() else None


def _unless_lost(before: pl.Series, after: pl.Series) -> pl.Series | None:
    """`after`, unless a value that was there is gone."""
    return after if after.null_count() == before.null_count() else None


def read_words(table: pl.DataFrame, name: str, source: str) -> pl.Series:
    """A category column as text, null for a gap; whole numbers without a decimal point, whatever the file made of them."""
    series = column_of(table, name, source)
    if series.dtype.is_float() and (series.drop_nulls() == series.drop_nulls().round()).all():
        series = series.fill_nan(None).cast(pl.Int64, strict=False)
    return series.cast(pl.String).str.strip_chars()


def row_list(rows: np.ndarray) -> str:
    """'rows 1, 2, 3, 4, 5, ...' counted from 1."""
    return "rows " + ", ".join(str(row + 1) for row in rows[:5]) + (", ..." if rows.size > 5 else "")


def sample(series: pl.Series) -> str:
    shown = series.drop_nulls().head(2).to_list()
    return f"{series.dtype} such as {', '.join(repr(value) for value in shown)}" if shown else "nothing at all"
