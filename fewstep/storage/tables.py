"""Files as tables: text, Parquet, Arrow and JSON by polars; one file, many, or standard input.

Files that commands write: new ones, and tables whole or not at all.
"""

from __future__ import annotations

import difflib
import glob
import gzip
import io
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from fewstep.errors import InputError
from fewstep.storage.arrays import atomic_write
from fewstep.storage.numerals import COMMA, POINT, SAMPLE, ways_of
from fewstep.storage.text_files import GAPS, Text, legible, open_text

if TYPE_CHECKING:
    import polars as pl

INPUT = "-"
"""standard input"""
KNOWN = "a CSV, TSV, Parquet, Arrow or JSON table"
SHEETS = ("xlsx", "xls", "xlsm", "xlsb", "ods")
FILE = "@file"
"""the column that names the file of a row, where several were read as one table"""
UNPACKED, MOST_RATIO = 2**28, 200
"""What unpacks to more bytes than this, and to more than so many times its size, is no table."""
CELL = 8
"""bytes of a number in a table that is read"""
OTHER_PACKINGS = (b"(\xb5/\xfd", b"BZh", b"\xfd7zX", b"PK\x03\x04", b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")
"""zstd, bzip2, xz, zip and zlib, by their first bytes"""
READABLE = (pl.String, pl.Boolean, pl.Date, pl.Datetime, pl.Categorical, pl.Enum, pl.Null)
"""what a column may hold beside numbers: not bytes, durations, times of day, lists or structures"""


class Columns(NamedTuple):
    """A file that is open, of which columns are read when they are asked for."""

    names: Sequence[str]
    read: Callable[[list[str]], pl.DataFrame]
    kinds_known: bool = True
    """whether the file tells numbers from text; text files do not"""


def read_table(path: str | Path, columns: Collection[str] = (), labels: Collection[str] = ()) -> pl.DataFrame:
    """A table from one file, from all files of a pattern such as 'units/*.csv', which then has the column `@file`, or from
    standard input, for '-'.

    Where `columns` are given, no others are read: a wide file takes no more memory than what is used of it. (One more comes
    where only it tells how the file writes numbers.) Columns of text files become numbers where every program would read them
    as the same numbers; all others, and the `labels`, stay text as it is written.
    Raises `InputError` where there is no such file, where it is no table or has no rows, where files differ in columns, or
    where one of `columns` is missing.
    """
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", str(path)):
        raise InputError(f"{path}: expected a file, found an address. Download it first: curl -LO {path}")
    if glob.has_magic(str(path)) and not Path(path).exists():
        table, kinds_known = _read_many(str(path), columns)
    else:
        table, kinds_known = _read_one(Path(path), columns)
    if table.height == 0:
        raise InputError(f"{path}: expected rows, found a table without any.")
    return table if kinds_known else settled(table, labels)


def _read_many(pattern: str, columns: Collection[str]) -> tuple[pl.DataFrame, bool]:
    paths = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]
    if not paths:
        raise InputError(f"{pattern}: expected files, found none that fit the pattern. Check it, and quote it for the shell.")
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):  # folders tell them apart
        names = [str(path.with_suffix("")) for path in paths]
    read = [_read_one(path, columns) for path in paths]
    named = zip(read, names, strict=True)
    tables = [table.with_columns(pl.lit(legible(name)).alias(FILE)) for (table, _), name in named]
    for path, table in zip(paths, tables, strict=True):
        if not columns and set(table.columns) != set(tables[0].columns):
            odd = sorted(set(table.columns) ^ set(tables[0].columns))
            raise InputError(
                f"{path}: expected the columns of {paths[0]}, but they differ in {', '.join(map(repr, odd[:6]))}. "
                "Give all files the same columns."
            )
    tables = [table for table in tables if table.height]
    if not tables:
        raise InputError(f"{pattern}: expected rows, found {len(paths)} tables without any.")
    # A column may be text in one file and of another kind in the next: then all of it is read as text.
    kinds: dict[str, set[pl.DataType]] = {}
    for table in tables:
        for name, kind in table.schema.items():
            kinds.setdefault(name, set()).update({kind} - {pl.Null})
    textual = [name for name, found in kinds.items() if len(found) > 1 and not all(kind.is_numeric() for kind in found)]
    texts = [table.with_columns(pl.col(set(textual) & set(table.columns)).cast(pl.String)) for table in tables]
    return pl.concat(texts, how="diagonal_relaxed"), any(kinds_known for _, kinds_known in read)


def settled(table: pl.DataFrame, labels: Collection[str]) -> pl.DataFrame:
    """Text columns that are plain numbers, or true and false, as such: whole numbers if their text can be had back, others
    unless the table has decimal commas or may have them. `labels` stay text."""
    texts = {name: table[name] for name, kind in table.schema.items() if kind == pl.String and name not in (*labels, FILE)}
    ways = {name: ways_in(column) for name, column in texts.items()}
    commas = any(COMMA in found and texts[name].str.contains(",").any() for name, found in ways.items())
    pointed = any(found == [POINT] for found in ways.values())
    known = {}
    for name, column in texts.items():
        if column.null_count() == column.len():
            continue
        if column.is_in(["true", "false"]).all():
            known[name] = column == "true"
        elif ways[name] and column.str.contains(r"^(0|-?[1-9]\d*)$").all():
            known[name] = column.cast(pl.Int64, strict=False)
        elif ways[name] and not commas and (pointed and column.str.contains(".", literal=True).any()):
            known[name] = column.cast(pl.Float64, strict=False)
    return table.with_columns(*(new.alias(name) for name, new in known.items() if not _lost(texts[name], new)))


def _lost(before: pl.Series, after: pl.Series) -> bool:
    return after.null_count() > before.null_count()


def ways_in(column: pl.Series) -> list[str]:
    """In which ways of writing all values of a text column are numbers; [] where they are none."""
    found = ways_of(column.head(SAMPLE).drop_nulls().unique())[0]
    return ways_of(column.drop_nulls().unique())[0] if len(found) > 1 else found


def _read_one(path: Path, columns: Collection[str]) -> tuple[pl.DataFrame, bool]:
    """(the table, whether its file tells numbers from text)."""
    if not path.is_file() and str(path) != INPUT:
        what = "a folder" if path.is_dir() else "a pipe or a device" if path.exists() else "no such file"
        hint = f" A file for each unit? Try '{path}/*.csv' with --task @file." if path.is_dir() else " Check the path."
        raise InputError(f"{path}: expected {KNOWN}, found {what}.{hint}")
    with _in_words(path):
        names, read, kinds_known = _opened(path)
    doubled = [name for name in names if re.sub(r"_duplicated_\d+$", "", name) != name]
    named = sorted({re.sub(r"_duplicated_\d+$", "", name) for name in doubled} & set(names))
    if named := named or sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path}: expected columns of different names, found {named[0]!r} twice. Rename one of them.")
    for name in columns:
        if name not in (*names, FILE):
            raise no_column(name, names, str(path))
    with _in_words(path):
        return read([name for name in names if not columns or name in columns]), kinds_known


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """Says that a file is no table, and why."""
    try:
        yield
    except Exception as error:  # polars raises many kinds for what is not a table
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: expected {KNOWN}, but it cannot be read as one: {first}") from error


def _opened(path: Path) -> Columns:
    """A file by its ending, and standard input by its first bytes."""
    content = _unpacked(path)
    with io.BytesIO(content) if isinstance(content, bytes) else path.open("rb") as file:
        start = file.read(16)
    most = max(UNPACKED, MOST_RATIO * len(content)) if str(path) == INPUT else most_unpacked(path)
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if start.startswith(b"SQLite format 3\x00"):
        raise ValueError("it is a database. Export a table: sqlite3 -header -csv FILE 'select * from TABLE' > table.csv")
    if kind in SHEETS:
        return _sheet(path)
    if kind in ("parquet", "pq") or (str(path) == INPUT and start.startswith(b"PAR1")):
        return _lazy(pl.scan_parquet(content, glob=False), most)
    if kind in ("arrow", "feather", "ipc") or start.startswith(b"ARROW1"):
        if start.startswith(b"FEA1"):
            raise ValueError("it is a Feather file of version 1. Write it anew as version 2")
        return _lazy(pl.scan_ipc(io.BytesIO(content) if isinstance(content, bytes) else content, glob=False), most)
    if kind in ("json", "jsonl", "ndjson") or (str(path) == INPUT and start.lstrip()[:1] in (b"[", b"{")):
        return _json(content, start.lstrip()[:1])
    return _witnessed(open_text(content, kind in ("tsv", "tab")))


def _lazy(table: pl.LazyFrame, most: int) -> Columns:
    """Raises `ValueError` where the file says that it unpacks absurdly: of a value that repeats a few bytes make any number."""

    def read(columns: list[str]) -> pl.DataFrame:
        rows = table.select(pl.len()).collect().item()
        if rows * len(columns) * CELL > most:
            raise ValueError(f"its {rows:,} rows unpack to more than {MOST_RATIO} times its size")
        return table.select(columns).collect()

    return Columns(table.collect_schema().names(), read)


def _json(content: Any, first: bytes) -> Columns:
    """A list of records, or lines with one record each."""
    read = pl.read_json if first == b"[" else pl.read_ndjson
    try:
        table = read(content, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f'expected a list of records [{{"a": 1}}, ...] or a record on each line ({error})') from error
    texts = pl.col(pl.String).str.strip_chars().replace(dict.fromkeys(GAPS))
    return Columns(table.columns, table.with_columns(texts).select)


def _sheet(path: Path) -> Columns:
    try:
        import fastexcel  # type: ignore[import-not-found]  # noqa: F401, which polars reads by
    except ImportError:
        raise ValueError("it is a spreadsheet. Export it as CSV, or pip install fastexcel") from None
    sheets = pl.read_excel(path, sheet_id=0)
    if len(sheets) > 1:
        raise ValueError(f"it has {len(sheets)} sheets ({', '.join(sheets)}). Save the one that is meant as a file")
    table = next(iter(sheets.values()))
    return Columns(table.columns, table.select)


def _witnessed(text: Text) -> Columns:
    """The columns of a text file, each as text; with another one where none of those asked for tells how numbers are written
    and that one does."""

    def read(columns: list[str]) -> pl.DataFrame:
        others = [name for name in text.names if name not in columns]
        asked = text.read(columns, SAMPLE) if others else None
        if asked is None or any(len(ways_in(column)) == 1 for column in asked):
            return text.read(columns)
        open_ways = any(ways_of(column.drop_nulls().unique())[1] for column in asked)
        ways = {column.name: ways_in(column) for column in text.read(others, SAMPLE)}
        told = [name for way in (COMMA, POINT) for name in others if ways[name] == [way] and (way == COMMA or open_ways)]
        return text.read([*columns, *told[:1]])

    return Columns(text.names, read, kinds_known=False)


def _unpacked(path: Path) -> Any:
    """The file itself, or the bytes that a gzip or standard input holds. Raises `ValueError` for what is packed in other ways,
    or absurdly."""
    if str(path) == INPUT:
        content = sys.stdin.buffer.read(UNPACKED + 1)
        if len(content) > UNPACKED:
            raise ValueError(f"standard input has more than {UNPACKED:,} bytes. Write it to a file")
        return content
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(OTHER_PACKINGS) and path.suffix.lower().removeprefix(".") not in SHEETS:
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
    """One column, words as text. Raises `InputError`, with the nearest name, where there is none, and where it holds what is
    neither number, date, yes or no, nor word."""
    if name not in table.columns:
        raise no_column(name, table.columns, source)
    series = table[name]
    if not (series.dtype.is_numeric() or series.dtype in READABLE):
        raise InputError(f"{source}: column {name!r} holds {sample(series)}; expected numbers, dates, yes or no, or words.")
    return series.cast(pl.String) if series.dtype in (pl.Categorical, pl.Enum) else series


def no_column(name: str, columns: Sequence[str], source: str) -> InputError:
    """What to say of a column that is not among `columns`."""
    if "," in name and all(part in columns for part in name.split(",")):
        return InputError(f"{source}: there is no column {name!r}; separate columns by spaces.")
    near = difflib.get_close_matches(name, columns, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, columns[:12]))}."
    if name == FILE:
        hint = "it names the file of a row where --data is a pattern such as 'units/*.csv'."
    return InputError(f"{source}: there is no column {name!r}; {hint}")


def sample(series: pl.Series) -> str:
    """What a column holds, in words."""
    shown = series.drop_nulls().head(100).unique(maintain_order=True).head(2).to_list()
    kind = "text" if series.dtype == pl.String else str(series.dtype)
    return f"{kind} such as {', '.join(repr(value) for value in shown)}" if shown else "nothing at all"


SUFFIXES = (".csv", ".tsv", ".parquet", ".arrow", ".feather", ".json", ".jsonl")


def new_table(out: str) -> Path:
    """The file that `--out` names. Raises `InputError` where it exists or has no ending of a table."""
    return new_file(out, SUFFIXES)


def new_file(out: str, suffixes: Sequence[str]) -> Path:
    """The file that `--out` names. Raises `InputError` where it exists or ends in none of `suffixes`."""
    path = Path(out)
    if path.suffix.lower() not in suffixes:
        raise InputError(f"--out {path} should end in {' or '.join(filter(None, (', '.join(suffixes[:-1]), suffixes[-1])))}.")
    if path.exists():
        raise InputError(f"--out {path} already exists. Choose another name, or remove it; nothing was changed.")
    return path


def write_table(table: pl.DataFrame, out: Path) -> None:
    """Writes `table` to `out`. Raises `InputError` where it cannot be written there, or the format cannot hold its columns."""
    from polars.exceptions import PolarsError

    try:
        with atomic_write(out) as partial, partial.open("wb") as file:
            match out.suffix.lower():
                case ".parquet":
                    table.write_parquet(file)
                case ".arrow" | ".feather":
                    table.write_ipc(file)
                case ".json":
                    table.write_json(file)
                case ".jsonl":
                    table.write_ndjson(file)
                case suffix:
                    table.write_csv(file, separator="\t" if suffix == ".tsv" else ",")
    except PolarsError as error:
        raise InputError(
            f"--out {out} cannot hold the columns: {error}. Choose a .parquet file, or leave columns out."
        ) from error
    except OSError as error:
        raise InputError(
            f"--out {out} cannot be written: {error.strerror}. Choose a folder that exists and may be written to."
        ) from error


def moving_picture(out: str, seed: int) -> Path:
    """The file that `--out` of `fewstep play` names. Raises `InputError` if it cannot be written, or for a seed below 0."""
    path = new_file(out, (".gif", ".webp"))
    if not path.parent.is_dir():
        raise InputError(f"--out {path}: there is no folder {path.parent}.")
    if seed < 0:
        raise InputError(f"--seed should be at least 0, got {seed}.")
    return path
