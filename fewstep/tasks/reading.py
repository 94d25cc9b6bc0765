"""Files as tables (floor 1): CSV, TSV and Parquet by polars, one file or many, and dates written as text."""

from __future__ import annotations

import difflib
import glob
import gzip
import io
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from fewstep.errors import BadInput
from fewstep.tasks.photos import legible

FILE = "@file"
"""the column that names the file of a row, where several were read as one table"""
UNPACKED, MOST_RATIO = 2**28, 200
"""What unpacks to more bytes than this, and to more than so many times its size, is no table."""
CELL = 8
"""bytes of a number in a table that is read"""
OTHER_PACKINGS = (b"(\xb5/\xfd", b"BZh", b"\xfd7zX", b"PK\x03\x04", b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")
"""zstd, bzip2, xz, zip and zlib, by their first bytes"""
GAPS = ["", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "null", "NULL", "None", "?"]
"""what stands for "not known" in a text file"""
CLOCKS = (" %H:%M:%S%.f", " %H:%M", "T%H:%M:%S%.f", "T%H:%M")
DAYS = ("%Y-%m-%d", "%Y/%m/%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%d %B %Y", "%B %d, %Y", "%d-%B-%Y")
SHORT_DAYS = ("%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%d-%B-%y")
DATES = tuple(day + clock for day in (*DAYS, *SHORT_DAYS) for clock in ("", *CLOCKS, *(f"{clock}%#z" for clock in CLOCKS)))
"""formats of dates that are recognized (%B knows the short names of months too); of two that fit a whole column, the earlier
is taken, and the choice is said"""
LIKELY_DATE = "|".join(
    (
        r"^\d{4}[-/.]\d{1,2}[-/.]\d{1,2}",
        r"^\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}",
        r"^\d{1,2}[ -]\p{L}{3,9}[ -]\d{2,4}",
        r"^\p{L}{3,9} \d{1,2}, \d{4}",
    )
)
READABLE = (pl.String, pl.Boolean, pl.Date, pl.Datetime, pl.Categorical, pl.Enum, pl.Null)
"""what a column may hold beside numbers: not bytes, durations, times of day, lists or structures"""
FIRST_YEAR = 1000
"""%Y takes 16 for a year of the first century; no table means that"""


class Columns(NamedTuple):
    """A file that is open, of which columns are read when they are asked for."""

    names: Sequence[str]
    read: Callable[[list[str]], pl.DataFrame]


def read_table(path: str | Path, columns: Collection[str] = ()) -> pl.DataFrame:
    """A table from one file, or from all files of a pattern such as 'units/*.csv', which then has the column `@file`.

    Where `columns` are given, no others are read: a wide file takes no more memory than what is used of it.
    Raises `BadInput` where there is no such file, where it is no table or has no rows, where files differ in columns, or where
    one of `columns` is missing.
    """
    if glob.has_magic(str(path)) and not Path(path).exists():
        return _read_many(str(path), columns)
    table = _read_one(Path(path), columns)
    if table.height == 0:
        raise BadInput(f"{path}: expected rows, found a table without any.")
    return table


def _read_many(pattern: str, columns: Collection[str]) -> pl.DataFrame:
    paths = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]
    if not paths:
        raise BadInput(f"{pattern}: expected files, found none that fit the pattern. Check it, and quote it for the shell.")
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):  # folders tell them apart
        names = [str(path.with_suffix("")) for path in paths]
    tables = [
        _read_one(path, columns).with_columns(pl.lit(legible(name)).alias(FILE))
        for path, name in zip(paths, names, strict=True)
    ]
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


def _read_one(path: Path, columns: Collection[str]) -> pl.DataFrame:
    if not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe or a device" if path.exists() else "no such file"
        hint = f" A file for each unit? Try '{path}/*.csv' with --task @file." if path.is_dir() else " Check the path."
        raise BadInput(f"{path}: expected a CSV, TSV or Parquet file, found {what}.{hint}")
    with _in_words(path):
        names, read = _parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _text(path)
    doubled = [name for name in names if re.sub(r"_duplicated_\d+$", "", name) != name]
    if named := sorted({re.sub(r"_duplicated_\d+$", "", name) for name in doubled} & set(names)):
        raise BadInput(f"{path}: expected columns of different names, found {named[0]!r} twice. Rename one of them.")
    for name in columns:
        if name not in (*names, FILE):
            raise no_column(name, names, str(path))
    with _in_words(path):
        return read([name for name in names if not columns or name in columns])


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """Says that a file is no table, and why."""
    try:
        yield
    except Exception as error:  # polars raises many kinds for what is not a table
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(f"{path}: expected a CSV, TSV or Parquet table, but it cannot be read as one: {first}") from error


def _parquet(path: Path) -> Columns:
    """Raises `ValueError` where the file says that it unpacks absurdly: of a value that repeats a few bytes make any number."""
    table = pl.scan_parquet(_unpacked(path), glob=False)

    def read(columns: list[str]) -> pl.DataFrame:
        rows = table.select(pl.len()).collect().item()
        if rows * len(columns) * CELL > most_unpacked(path):
            raise ValueError(f"its {rows:,} rows unpack to more than {MOST_RATIO} times its size")
        return table.select(columns).collect()

    return Columns(table.collect_schema().names(), read)


def _text(path: Path) -> Columns:
    """Text of one of the separators , ; and tab, numbers with a decimal point, or with a comma where ; separates.

    Blanks around words do not count, nor do lines without any value.
    """
    content = _unpacked(path)
    with path.open("rb") if content is path else io.BytesIO(content) as file:
        head, sample = file.readline().decode("utf-8", "replace"), file.read(10_000).decode("utf-8", "replace")
    head = re.sub(r'"[^"]*"', "", head)  # what is quoted separates nothing
    tabbed = path.suffix.lower() in (".tsv", ".tab")
    separator = "\t" if tabbed else max(",;\t", key=head.count) if any(map(head.count, ",;\t")) else ","
    comma = separator == ";" and re.search(r'(^|;)"?-?\d+,\d', sample, re.MULTILINE) is not None

    def parsed(inferred_from: int | None, **parts: Any) -> pl.DataFrame:
        return pl.read_csv(
            content,
            separator=separator,
            infer_schema_length=inferred_from,
            null_values=GAPS,
            decimal_comma=comma,
            glob=False,
            **parts,
        )

    def read(columns: list[str]) -> pl.DataFrame:
        try:
            table = parsed(10_000, columns=columns)
        except pl.exceptions.ComputeError:  # a word after ten thousand numbers, say
            table = parsed(None, columns=columns)
        table = table.with_columns(pl.col(pl.String).str.strip_chars().replace(dict.fromkeys(GAPS)))
        return table.filter(pl.any_horizontal(pl.all().is_not_null())) if table.width > 1 else table

    return Columns(parsed(0, n_rows=0).columns, read)


def _unpacked(path: Path) -> Any:
    """The file itself, or the bytes that a gzip holds. Raises `ValueError` for what is packed in other ways, or absurdly."""
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(OTHER_PACKINGS):
        raise ValueError("it is packed; unpack it first, or pack it by gzip")
    if not start.startswith(b"\x1f\x8b"):
        return path if legible(str(path)) == str(path) else path.read_bytes()  # polars has no words for such a name
    parts, most = [], most_unpacked(path)
    with gzip.open(path) as file:
        while part := file.read(2**24):
            parts.append(part)
            if len(parts) * 2**24 > most:
                raise ValueError(f"it unpacks to more than {MOST_RATIO} times its size; unpack it first")
    return b"".join(parts)


def most_unpacked(path: Path) -> int:
    """Bytes to which a file of this size may unpack."""
    return max(UNPACKED, MOST_RATIO * path.stat().st_size)


def column_of(table: pl.DataFrame, name: str, source: str) -> pl.Series:
    """One column, words as text. Raises `BadInput`, with the nearest name, where there is none, and where it holds what is
    neither number, date, yes or no, nor word."""
    if name not in table.columns:
        raise no_column(name, table.columns, source)
    series = table[name]
    if not (series.dtype.is_numeric() or series.dtype in READABLE):
        raise BadInput(f"{source}: column {name!r} holds {sample(series)}; expected numbers, dates, yes or no, or words.")
    return series.cast(pl.String) if series.dtype in (pl.Categorical, pl.Enum) else series


def no_column(name: str, columns: Sequence[str], source: str) -> BadInput:
    """What to say of a column that is not among `columns`."""
    if "," in name and all(part in columns for part in name.split(",")):
        return BadInput(f"{source}: there is no column {name!r}; separate columns by spaces.")
    near = difflib.get_close_matches(name, columns, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, columns[:12]))}."
    if name == FILE:
        hint = "it names the file of a row where --data is a pattern such as 'units/*.csv'."
    return BadInput(f"{source}: there is no column {name!r}; {hint}")


def sample(series: pl.Series) -> str:
    """What a column holds, in words."""
    shown = series.drop_nulls().head(2).to_list()
    return f"{series.dtype} such as {', '.join(repr(value) for value in shown)}" if shown else "nothing at all"


def date_formats(series: pl.Series) -> list[str]:
    """The formats under which every value of a text column is a date; [] where there is none.

    Raises `ValueError`, with an example of each, where half of the values or more are dates, but not all in one format.
    """
    texts = series.drop_nulls().str.strip_chars().unique(maintain_order=True)
    head = texts.head(100)
    if head.is_empty() or 2 * head.str.contains(LIKELY_DATE).sum() < head.len():
        return []
    likely = [format for format in DATES if parse_dates(head, format).is_not_null().any()]
    fits = {format: parse_dates(texts, format).is_not_null() for format in likely}
    whole = [format for format, fit in fits.items() if fit.all()]
    if whole or not fits or 2 * pl.select(pl.any_horizontal(*fits.values())).to_series().sum() < texts.len():
        return whole
    best = max(likely, key=lambda format: fits[format].sum())
    date, other = texts.filter(fits[best])[0], texts.filter(~fits[best])[:1]
    if any(parse_dates(other, format).is_not_null().all() for format in DATES):
        raise ValueError(f"dates in two formats, such as {date!r} and {other[0]!r}. Write all of them in one, best 2016-01-31")
    raise ValueError(f"dates such as {date!r} beside {other[0]!r}, which is none. Empty such cells")


def parse_dates(series: pl.Series, format: str) -> pl.Series:
    """A text column as moments, null where a value is no date of this `format`. Moments with a zone become UTC."""
    parsed = series.str.strip_chars().str.strptime(pl.Datetime("us"), format, strict=False)
    parsed = parsed.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if "%#z" in format else parsed
    return pl.select(pl.when(parsed.dt.year() >= FIRST_YEAR).then(parsed).alias(series.name)).to_series()


def order_of_day(format: str) -> str:
    """In which order a format has its day, month and year: dmy, mdy or ymd."""
    return "".join(re.findall("%([dmbByY])", format)).lower().replace("b", "m")
