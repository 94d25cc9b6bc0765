"""Files as tables (floor 1): CSV, TSV and Parquet by polars, one file or many, and dates written as text."""

from __future__ import annotations

import difflib
import glob
import re
from pathlib import Path

import polars as pl

from fewstep.errors import BadInput

FILE = "@file"
"""the column that names the file of a row, where several were read as one table"""
GAPS = ["", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "null", "NULL", "None", "?"]
"""what stands for "not known" in a text file"""
CLOCKS = ("", " %H:%M:%S%.f", " %H:%M", "T%H:%M:%S%.f", "T%H:%M", " %H:%M:%S%.f%#z", "T%H:%M:%S%.f%#z")
DAYS = ("%Y-%m-%d", "%Y/%m/%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%d %b %Y", "%d %B %Y", "%b %d, %Y")
DATES = tuple(day + clock for day in DAYS for clock in CLOCKS)
"""formats of dates that are recognized; of two that fit a whole column, the earlier is taken, and the choice is said"""


def read_table(path: str | Path) -> pl.DataFrame:
    """A table from one file, or from all files of a pattern such as 'units/*.csv', which then has the column `@file`.

    Raises `BadInput` where there is no such file, where it is no table or has no rows, or where files differ in columns.
    """
    if glob.has_magic(str(path)) and not Path(path).exists():
        return _read_many(str(path))
    table = _read_one(Path(path))
    if table.height == 0:
        raise BadInput(f"{path}: expected rows, found a table without any.")
    return table


def _read_many(pattern: str) -> pl.DataFrame:
    paths = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]
    if not paths:
        raise BadInput(f"{pattern}: expected files, found none that fit the pattern. Check it, and quote it for the shell.")
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):  # folders tell them apart
        names = [str(path.with_suffix("")) for path in paths]
    tables = [_read_one(path).with_columns(pl.lit(name).alias(FILE)) for path, name in zip(paths, names, strict=True)]
    for path, table in zip(paths, tables, strict=True):
        if set(table.columns) != set(tables[0].columns):
            odd = sorted(set(table.columns) ^ set(tables[0].columns))
            raise BadInput(
                f"{path}: expected the columns of {paths[0]}, but they differ in {', '.join(map(repr, odd[:6]))}. "
                "Give all files the same columns."
            )
    tables = [table.select(tables[0].columns) for table in tables if table.height]
    if not tables:
        raise BadInput(f"{pattern}: expected rows, found {len(paths)} tables without any.")
    # A column that is empty or whole-numbered in one file may be another kind in the next: then all of it is read as text.
    kinds = {name: {table.schema[name] for table in tables} - {pl.Null} for name in tables[0].columns}
    textual = [name for name, found in kinds.items() if len(found) > 1 and not all(kind.is_numeric() for kind in found)]
    return pl.concat([table.with_columns(pl.col(textual).cast(pl.String)) for table in tables], how="vertical_relaxed")


def _read_one(path: Path) -> pl.DataFrame:
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        hint = f" A file for each unit? Try '{path}/*.csv' with --task @file." if path.is_dir() else " Check the path."
        raise BadInput(f"{path}: expected a CSV, TSV or Parquet file, found {what}.{hint}")
    try:
        table = pl.read_parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _read_text(path)
    except Exception as error:  # polars raises many kinds for what is not a table
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(f"{path}: expected a CSV, TSV or Parquet table, but it cannot be read as one: {first}") from error
    doubled = [name for name in table.columns if re.sub(r"_duplicated_\d+$", "", name) != name]
    if named := sorted({re.sub(r"_duplicated_\d+$", "", name) for name in doubled} & set(table.columns)):
        raise BadInput(f"{path}: expected columns of different names, found {named[0]!r} twice. Rename one of them.")
    return table


def _read_text(path: Path) -> pl.DataFrame:
    """Text of one of the separators , ; and tab, numbers with a decimal point, or with a comma where ; separates."""
    with path.open("rb") as file:
        head, sample = file.readline().decode("utf-8", "replace"), file.read(10_000).decode("utf-8", "replace")
    tabbed = path.suffix.lower() in (".tsv", ".tab")
    separator = "\t" if tabbed else max(",;\t", key=head.count) if any(map(head.count, ",;\t")) else ","
    comma = separator == ";" and re.search(r"(^|;)-?\d+,\d", sample) is not None

    def read(rows: int | None) -> pl.DataFrame:
        return pl.read_csv(path, separator=separator, infer_schema_length=rows, null_values=GAPS, decimal_comma=comma)

    try:
        return read(10_000)
    except pl.exceptions.ComputeError:  # a word after ten thousand numbers, say
        return read(None)


def column_of(table: pl.DataFrame, name: str, source: str) -> pl.Series:
    """One column, or `BadInput` with the nearest name."""
    if name not in table.columns:
        near = difflib.get_close_matches(name, table.columns, n=1, cutoff=0.4)
        if "," in name and all(part in table.columns for part in name.split(",")):
            raise BadInput(f"{source}: there is no column {name!r}; separate columns by spaces.")
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, table.columns[:12]))}."
        if name == FILE:
            hint = "it names the file of a row where --data is a pattern such as 'units/*.csv'."
        raise BadInput(f"{source}: there is no column {name!r}; {hint}")
    return table[name]


def date_formats(series: pl.Series) -> list[str]:
    """The formats under which every value of a text column is a date; [] where there is none.

    Raises `ValueError` with two examples where every value is a date, but not all in one format.
    """
    texts = series.drop_nulls().unique(maintain_order=True).str.strip_chars()
    if texts.is_empty() or texts.head(100).str.contains(r"\d").mean() != 1.0:
        return []
    likely = texts.head(100).str.contains(r"^\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}|\d{1,2},? \w{3,9},? \d{4}|\w{3,9} \d{1,2}, \d{4}")
    if not likely.any():
        return []
    fits = {format: parse_dates(texts, format).is_not_null() for format in DATES}
    whole = [format for format, fit in fits.items() if fit.all()]
    partial = {format: fit for format, fit in fits.items() if fit.any()}
    if whole or not partial:
        return whole
    best = max(partial, key=lambda format: partial[format].sum())
    rest = texts.filter(~partial[best])
    if all(
        any(parse_dates(rest[i : i + 1], format).is_not_null()[0] for format in partial) for i in range(min(rest.len(), 50))
    ):
        raise ValueError(f"{texts.filter(partial[best])[0]!r} and {rest[0]!r}")
    return []


def parse_dates(series: pl.Series, format: str) -> pl.Series:
    """A text column as moments, null where a value is no date of this `format`. Moments with a zone become UTC."""
    parsed = series.str.strip_chars().str.strptime(pl.Datetime("us"), format, strict=False)
    return parsed.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if "%#z" in format else parsed
