"""Labels as they are written: names of units, categories, classes, and pairs of them that may be one."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl


def bare(labels: pl.Series) -> pl.Series:
    """What is left of labels without differences that people do not mean: case, blanks, and the spelling of a number."""
    words = labels.str.to_lowercase().str.replace_all(r"[\s\u00a0_-]+", " ").str.strip_chars()
    numbers = words.cast(pl.Float64, strict=False).cast(pl.String)
    return pl.select(pl.coalesce(numbers, words)).to_series()


def note_twins(name: str, labels: Iterable[str], what: str, notes: list[str]) -> None:
    """Adds to `notes` that two labels of a column differ only in case, blanks or the spelling of a number, if two do."""
    words = pl.Series(sorted(set(labels)), dtype=pl.String)
    alike = pl.DataFrame({"word": words, "bare": bare(words)}).group_by("bare", maintain_order=True).agg("word")
    twins = alike.filter(pl.col("word").list.len() > 1)["word"].to_list()
    if twins:
        more = f"; {len(twins) - 1} more are as near" if len(twins) > 1 else ""
        shown = " and ".join(f'"{word}"' for word in twins[0][:2])
        notes.append(f"{name}: labels {shown} are different {what}; if they are one, write them alike{more}")


def twin_hint(label: str, known: Iterable[str]) -> str:
    """ " (did you mean ...?)", where a known label differs from `label` only in case, blanks or the spelling of a number."""
    words = pl.Series([label, *known], dtype=pl.String)
    same = bare(words)
    near = words[1:].filter(same[1:] == same[0])
    return f' (did you mean "{near[0]}"?)' if near.len() else ""
