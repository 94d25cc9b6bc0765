"""Text files as tables of text: encodings, separators, comments, and what is wrong with a file that is no table."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import re
from dataclasses import dataclass
from typing import Any

import polars as pl

GAPS = ["", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN", "-nan", "null", "NULL", "None", "?"]
"""what stands for "not known" in a text file"""
SEPARATORS = ",;\t|"
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""byte order marks of encodings that are read besides UTF-8; the longer ones first"""


@dataclass(frozen=True)
class Text:
    """A text file that is open: how its columns are separated, where its header is, what they are called."""

    content: Any
    """a path or bytes, in UTF-8"""
    separator: str
    names: tuple[str, ...]
    raw_names: tuple[str, ...]

    def read(self, columns: list[str], rows: int | None = None) -> pl.DataFrame:
        """Some columns as text, without blanks around words and without rows that have no value at all."""
        raw = dict(zip(self.names, self.raw_names, strict=True))
        try:
            table = _parsed(self.content, self.separator, rows, [raw[name] for name in columns])
        except pl.exceptions.PolarsError as error:
            raise ValueError(fault_of(self.content, self.separator) or str(error)) from error
        table = table.rename({raw[name]: name for name in columns}, strict=False)
        table = table.with_columns(pl.all().str.strip_chars().replace(dict.fromkeys(GAPS)))
        return table.filter(pl.any_horizontal(pl.all().is_not_null())) if table.width > 1 else table


def open_text(content: Any, tabbed: bool = False) -> Text:
    """A file of one of the separators , ; | and tab; `content` is its path or its bytes, `tabbed` says that tabs separate.

    UTF-16 and UTF-32 are read where a byte order mark tells them. Lines above the header that begin with # are comments. Raises
    `ValueError` for text of another encoding, and what polars raises.
    """
    with _lines(content) as file:
        start = file.read(4)
    if encoding := next((name for mark, name in MARKS.items() if start.startswith(mark)), ""):
        with _lines(content) as file:
            content = file.read().decode(encoding).encode()
    elif b"\x00" in start:
        raise ValueError("it is no text in UTF-8. Save it as UTF-8")
    with _lines(content) as file:
        head = file.read(100_000).decode("utf-8", "replace").removeprefix("\ufeff").splitlines()
    skipped, header = _header(head)
    header = re.sub(r'"[^"]*"', "", header)  # what is quoted separates nothing
    separator = "\t" if tabbed else max(SEPARATORS, key=header.count) if any(map(header.count, SEPARATORS)) else ","
    try:
        if skipped:
            with _lines(content) as file:
                content = b"".join(list(file)[skipped:])
        raw = _parsed(content, separator, 0, None).columns
    except pl.exceptions.PolarsError as error:
        raise ValueError(fault_of(content, separator) or str(error)) from error
    return Text(content, separator, tuple(name.strip() for name in raw), tuple(raw))


def _lines(content: Any) -> Any:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")


def _header(lines: list[str]) -> tuple[int, str]:
    """(how many lines of comments are at the top, the header). A line that begins with # is the header itself if a separator
    follows, or if the next line is the first of the data: as many words, and numbers where it has none."""
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        if not line.startswith("#") or line[1:2] in tuple(SEPARATORS):
            return number, line
        after = lines[number + 1] if number + 1 < len(lines) else ""
        separator = max(SEPARATORS, key=line.count)
        words, values = line[1:].split(separator), after.split(separator)
        if len(words) == len(values) > 1 and any(map(_number, values)) and not any(map(_number, words)):
            return number, line
    return 0, lines[0] if lines else ""


def _number(word: str) -> bool:
    return re.fullmatch(r'\s*"?[-+]?\d+([.,]\d+)?"?\s*', word) is not None


def _parsed(content: Any, separator: str, rows: int | None, columns: list[str] | None) -> pl.DataFrame:
    return pl.read_csv(content, separator=separator, infer_schema=False, glob=False, n_rows=rows, columns=columns)


def fault_of(content: Any, separator: str) -> str:
    """What is wrong with a file that polars refused: bytes that are no UTF-8, or a line of too many words; "" for neither."""
    with _lines(content) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                byte = f"byte 0x{line[error.start]:02X} in line {number}"
                return f"it is no text in UTF-8 ({byte}). Save it as UTF-8, or convert it: iconv -f LATIN1 -t UTF-8"
    with _lines(content) as file, contextlib.suppress(csv.Error):
        reader = csv.reader(io.TextIOWrapper(file, "utf-8", newline=""), delimiter=separator)
        expected = len(next(reader, []))
        for words in reader:
            if len(words) > expected:
                return (
                    f"line {reader.line_num} has {len(words)} values, the header has {expected}. Quote words that hold "
                    f"{separator!r}, or correct this line"
                )
    return ""


def legible(name: str) -> str:
    """The name of a file as it can be written: bytes that are no UTF-8 become escapes, so that names stay different."""
    return name.encode("utf-8", "backslashreplace").decode()
