"""What kind of values a column holds, inferred or declared. Used by tasks/fit_columns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import cast

import numpy as np
import polars as pl

from fewstep.errors import InputError
from fewstep.storage.numerals import COMMA, POINT, Ambiguous, evidence, fits, split_example, written_as
from fewstep.storage.tables import column_of, sample
from fewstep.supervised.dates import OddDate, date_formats, parse_dates
from fewstep.supervised.kinds import (
    FALSE,
    KINDS,
    TRUE,
    ColumnKind,
    Kind,
    ambiguous,
    place_of,
    read_values,
    zone_of,
    zone_of_texts,
)


def declared_kinds(words: tuple[str, ...]) -> dict[str, ColumnKind]:
    """`NAME=KIND`, `NAME=date:FORMAT` and `NAME=number:EXAMPLE` as a dictionary. Raises `InputError` for another kind."""
    found = {}
    for word in words:
        detailed = "=date:" in word or "=number:" in word
        name, equals, kind = word.partition("=") if detailed else word.rpartition("=")
        kind, _, detail = kind.partition(":")
        if not equals or kind not in KINDS or (detail and kind not in ("date", "number")):
            raise InputError(
                f"--kinds {word!r} should be COLUMN=KIND with one of {', '.join(KINDS)}, such as month=category; "
                f"a date may name its format, as in day=date:%m/%d/%Y, a number its way of writing, as in price=number:{COMMA}."
            )
        try:
            written = detail if kind == "number" and detail and any(split_example(detail)) else None
        except ValueError as error:
            raise InputError(f"--kinds {word!r}: {error}.") from None
        found[name] = ColumnKind(cast(Kind, kind), detail or None if kind == "date" else None, written=written)
    return found


def infer_kind(table: pl.DataFrame, name: str, source: str, declared: ColumnKind | None = None) -> ColumnKind:
    """The kind of a column: as declared, or what all of its values can be read as.

    Raises `InputError` for a column without values, for numbers or dates mixed with words, for dates in two formats, for what
    is no date though declared one.
    """
    series = column_of(table, name, source)
    known = series.drop_nulls()
    if known.is_empty():
        raise InputError(f"{source}: column {name!r} has no values at all. Leave it out.")
    if declared is not None and declared.kind == "number" and declared.written is None:
        return _number(table, name, source) or declared
    if declared is not None and declared.kind != "date":
        return declared
    if series.dtype in (pl.Date, pl.Datetime):
        return ColumnKind("date", zone=zone_of(series))
    if declared is not None:
        return _declared_date(table, name, source, declared)
    if series.dtype == pl.Boolean:
        return ColumnKind("boolean")
    if series.dtype.is_numeric():
        return cast(ColumnKind, _number(table, name, source))
    texts = known.str.strip_chars()
    if texts.str.to_lowercase().is_in([*TRUE, *FALSE]).all():
        return ColumnKind("boolean")
    return _date(table, name, source) or _number(table, name, source) or _of_text(table, name, source)


def number_kinds(
    table: pl.DataFrame, names: Iterable[str], declared: dict[str, ColumnKind], source: str
) -> dict[str, ColumnKind]:
    """Those of the columns `names` that are numbers, with how they are written. Raises what `infer_kind` raises."""
    found = {}
    for name in names:
        series = column_of(table, name, source)
        if (series.dtype == pl.String or series.dtype.is_numeric()) and series.null_count() < series.len():
            found[name] = infer_kind(table, name, source, declared.get(name))
    return {name: how for name, how in found.items() if how.kind == "number"}


def in_numbers(table: pl.DataFrame, kinds: dict[str, ColumnKind], source: str) -> pl.DataFrame:
    """`table` with those of its columns that are numbers written as text as numbers, so that they are read once.

    Raises what `read_values` raises.
    """
    texts = [name for name, how in kinds.items() if how.kind == "number" and table.schema.get(name) == pl.String]
    return table.with_columns(pl.Series(name, read_values(table, name, kinds[name], source)).fill_nan(None) for name in texts)


def _declared_date(table: pl.DataFrame, name: str, source: str, declared: ColumnKind) -> ColumnKind:
    known = column_of(table, name, source).drop_nulls()
    format = declared.date_format
    if format and (known.dtype.is_integer() or known.dtype == pl.String):
        strange = known.filter(parse_dates(known.cast(pl.String), format).is_null())
        if strange.is_empty():
            return declared._replace(zone=zone_of_texts(known, format))
        raise InputError(
            f"{source}: column {name!r} is declared date:{format}, but holds {strange[0]!r}. Correct one of the two."
        )
    found = _date(table, name, source) if known.dtype == pl.String else None
    if found is None:
        raise InputError(
            f"{source}: column {name!r} is declared a date, but holds {sample(known)}. Name its format: date:%d/%m/%y."
        )
    return found


def _date(table: pl.DataFrame, name: str, source: str) -> ColumnKind | None:
    texts = column_of(table, name, source).drop_nulls().str.strip_chars()
    try:
        formats = date_formats(texts)
    except OddDate as error:
        where = place_of(table, np.flatnonzero((table[name].cast(pl.String).str.strip_chars() == error.value).to_numpy()))
        raise InputError(f"{source}: column {name!r} holds {error} ({where}), or declare --kinds {name}=category.") from None
    if not formats:
        return None
    first, zone = parse_dates(texts, formats[0]), zone_of_texts(texts, formats[0])
    for other in formats[1:]:
        if not parse_dates(texts, other).equals(first):
            declare = f"(not as {_pattern(other)}: then declare --kinds {name}=date:{other})"
            return ColumnKind("date", formats[0], f"read as {_pattern(formats[0])} {declare}", zone=zone)
    return ColumnKind("date", formats[0], zone=zone)


def _number(table: pl.DataFrame, name: str, source: str) -> ColumnKind | None:
    """A number, with how it is written, or how the rest of the table writes them; None for text that is something else."""
    series = column_of(table, name, source)
    if series.dtype != pl.String:
        return ColumnKind("number", written=COMMA if evidence(table, name) == COMMA else "")
    try:
        written = written_as(series.drop_nulls(), None, lambda: evidence(table, name))
    except Ambiguous as error:
        raise ambiguous(source, name, str(error)) from None
    return None if written is None else ColumnKind("number", written=written)


def _of_text(table: pl.DataFrame, name: str, source: str) -> ColumnKind:
    texts = column_of(table, name, source)
    numeric = max((fits(texts, example) for example in (POINT, COMMA, "1%", "$1", "1$", "1€", "€1")), key=lambda fit: fit.sum())
    if 0.5 * texts.drop_nulls().len() <= numeric.sum() < texts.drop_nulls().len():
        words = texts.filter(~numeric).drop_nulls()
        many = "value that is" if words.len() == 1 else "values that are"
        none = "none" if words.cast(pl.Float64, strict=False).is_null().all() else "not written so"
        where = place_of(table, np.flatnonzero((~numeric & texts.is_not_null()).to_numpy()))
        raise InputError(
            f"{source}: column {name!r} mixes {numeric.sum()} numbers with {words.len()} {many} {none}, such as "
            f"{', '.join(map(repr, words.unique(maintain_order=True).head(3)))} ({where}). Empty these cells, "
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
