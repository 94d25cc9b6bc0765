"""Numbers as people write them: decimal points and commas, groups of thousands, signs, currencies, units.

A way of writing is kept as an example of it: "1.234,5 €" means a decimal comma, points between thousands and a trailing
euro sign; "1 €" whole numbers of euros; "" plain numbers such as -1.5e3. `1.234` and `1,234` can be read in two ways.
Other values of the column decide, then other columns of the file, then how the column was written in training."""

from __future__ import annotations

import re
from collections.abc import Callable

import polars as pl

POINT, COMMA = "1,234.5", "1.234,5"
WHOLE = "1"
WRITTEN = re.compile(f"(.*?)({re.escape(POINT)}|{re.escape(COMMA)}|{WHOLE})(.*)", re.DOTALL)
SYMBOL = r"(?:[A-Z]{0,3}[$€£¥₹₽₩])"
UNIT = r"(?:[%‰]|[A-Z]{0,3}[$€£¥₹₽₩]|[\p{L}°µ][\p{L}\p{N}°µ²³/·*^]+|[mgshdKVWAJNTLlCF°])"
"""per cent, a currency, letters, or one letter that is the symbol of a unit"""
CORE = r"(?:\d[\d.,' ]*|[.,]\d+)(?:[eE][-+]?\d+)?"
SHAPE = rf"^(\()?\s*([-+])?\s*({SYMBOL})?\s*([-+])?({CORE})\s*({UNIT})?\s*(\))?$"
LOOKS = r"^[^\p{L}\d]{0,4}\d[\d.,'’_\s]*(?:[eE][-+]?\d+)?[^\p{L}\d]{0,2}[\p{L}°µ²³/]{0,4}[^\p{L}\d]?$"
"""what looks like a number, well written or not"""
SAMPLE = 10_000
"""rows of other columns that are looked at for how numbers are written"""


BLANKS = "[\u00a0\u2007\u2009\u202f]"


def _readable(decimal: str, group: str) -> str:
    groups = "|".join(rf"(?:{mark}\d{{3}})+" for mark in (re.escape(group), " ", "'"))
    decimal = re.escape(decimal)
    return rf"^(?:(?:\d+|[1-9]\d{{0,2}}(?:{groups}))(?:{decimal}\d*)?|{decimal}\d+)(?:[eE][-+]?\d+)?$"


READABLE = {POINT: _readable(".", ","), COMMA: _readable(",", ".")}
OTHER = {POINT: COMMA, COMMA: POINT}


class Ambiguous(ValueError):
    """A value that is a number in two ways of writing. The message is the value."""


def split_example(written: str) -> tuple[str, str, str]:
    """(prefix, way of writing, suffix) of an example; empty texts for what it does not tell. Raises `ValueError` for others."""
    if not written:
        return "", "", ""
    found = WRITTEN.fullmatch(written)
    way = "" if found is None or found[2] == WHOLE else found[2]
    read = parts_of(pl.Series([written])).row(0, named=True)
    if found is None or (read["prefix"], read["core"], read["suffix"]) != (found[1].strip(), found[2], found[3].strip()):
        raise ValueError(f"{written!r} shows no way to write a number; expected one such as {POINT} or {COMMA} or 1,234.5 kg")
    return found[1].strip(), way, found[3]


def parts_of(texts: pl.Series) -> pl.DataFrame:
    """Of each text: `prefix` and `suffix` (a currency, a unit), `core` (digits and marks, null where there is no number) and
    `negative`."""
    plain = texts.str.replace_all(BLANKS, " ").str.replace_all("’", "'").str.replace_all("−", "-").str.strip_chars()
    found = plain.str.extract_groups(SHAPE).struct.unnest()
    opened, before, prefix, sign, core, suffix, closed = (found.to_series(place).fill_null("") for place in range(7))
    signs = opened + before + sign
    sound = ((opened == "") == (closed == "")) & (signs.str.len_chars() <= 1) & ((prefix == "") | (suffix == ""))
    core = pl.select(pl.when(sound & (core != "")).then(core.str.strip_chars())).to_series()
    return pl.DataFrame({"prefix": prefix, "core": core, "suffix": suffix, "negative": signs.is_in(["-", "("])})


def valued(parts: pl.DataFrame, way: str) -> pl.Series:
    """Float64 values of `parts_of` by one way of writing, null where they are no such numbers."""
    core = pl.col("core")
    digits = core.str.replace_all("[, ']", "") if way == POINT else core.str.replace_all("[. ']", "").str.replace(",", ".")
    value = pl.when(core.str.contains(READABLE[way])).then(digits.cast(pl.Float64, strict=False))
    return parts.select(pl.when("negative").then(-value).otherwise(value).alias("value"))["value"]


def ways_of(texts: pl.Series) -> tuple[list[str], bool]:
    """(the ways of writing in which all texts are numbers, whether it matters which one is taken)."""
    parts = parts_of(texts)
    if parts["core"].null_count() or parts.height == 0:
        return [], False
    read = {way: valued(parts, way) for way in READABLE}
    return [way for way, values in read.items() if not values.null_count()], not read[POINT].equals(read[COMMA])


def evidence(table: pl.DataFrame, without: str = "") -> str:
    """How the other text columns of a table write numbers: POINT, COMMA, or "" where they do not tell or disagree."""
    others = [name for name, kind in table.schema.items() if kind == pl.String and name != without]
    found = {ways[0] for name in others if len(ways := ways_of(table[name].head(SAMPLE).drop_nulls().unique())[0]) == 1}
    return found.pop() if len(found) == 1 else ""


def written_as(texts: pl.Series, known: str | None, others: Callable[[], str]) -> str | None:
    """How all `texts` (no nulls) are written, as an example; None where they are not all numbers of one way and one unit.

    `known` is how the column was written before: its unit is the only one then, and may be left out. `others()` is what other
    columns tell. Raises `Ambiguous`.
    """
    texts = texts.str.strip_chars().unique(maintain_order=True)
    infinite = texts.cast(pl.Float64, strict=False).is_infinite().fill_null(False)  # refused later, by name
    texts = texts.filter(~infinite)
    prefix, before, suffix = split_example(known or "")
    parts = parts_of(texts)
    if parts["core"].null_count() or texts.is_empty():
        return (known or "") if texts.is_empty() else None
    affixes = set(parts.select("prefix", "suffix").unique().rows())
    if known is None:
        if len(affixes) > 1 or texts.str.starts_with("(").all():
            return None
        prefix, suffix = affixes.pop()
        suffix = f" {suffix}" if suffix and texts.str.contains(r"\d[ \u00a0\u202f]").all() else suffix
    elif not affixes <= {("", ""), (prefix, suffix.strip())}:
        return None
    ways, matters = ways_of(texts)
    if not ways:
        return None
    way = ways[0]
    if len(ways) > 1:
        way = others() or before
        if not way and matters and not _plain(parts):
            raise Ambiguous(texts.filter(parts["core"].str.contains("[.,]"))[0])
    plain = way == POINT and not before and not texts.cast(pl.Float64, strict=False).null_count()
    return f"{prefix}{way or WHOLE}{suffix}" if prefix or suffix else "" if plain else way


def _plain(parts: pl.DataFrame) -> bool:
    """Whether numbers such as 1.234, and none like 0.5, are written as programs write them: with points alone, and not as
    1.230 beside 950, where a program leaves the last zero out or writes 950.000."""
    core = parts["core"]
    pointed = core.str.contains(".", literal=True)
    thousands = bool(core.filter(pointed).str.ends_with("0").any()) and not pointed.all()
    return not (thousands or core.str.contains(",").any() or (parts["prefix"] + parts["suffix"] != "").any())


def numbers_of(texts: pl.Series, written: str) -> pl.Series:
    """Float64 values of texts that are `written` so; null where they are not."""
    plain = texts.str.strip_chars().cast(pl.Float64, strict=False)
    if not written and plain.null_count() == texts.null_count():
        return plain
    values = valued(parts_of(texts), split_example(written)[1] or POINT)
    infinite = plain.is_infinite().fill_null(False)
    return pl.select(pl.when(infinite).then(plain).otherwise(values).alias(texts.name)).to_series()


def fits(texts: pl.Series, written: str) -> pl.Series:
    """[texts] whether each is a number `written` so, with the unit of the example, or without one if that has none."""
    parts = parts_of(texts)
    prefix, way, suffix = split_example(written)
    alike = (parts["prefix"] == prefix) & (parts["suffix"] == suffix.strip())
    return alike & valued(parts, way or POINT).is_not_null()


def looks_numeric(texts: pl.Series) -> pl.Series:
    """[texts] whether each looks like a number with or without a unit, well written or not."""
    return texts.str.contains(LOOKS)
