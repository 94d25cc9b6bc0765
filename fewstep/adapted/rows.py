"""Support rows as they came (floor 4): which columns are kept, how old and new ones become one table, and where they stand."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from fewstep.tasks.columns import TableFormat
from fewstep.tasks.infer_kinds import in_numbers
from fewstep.tasks.kinds import read_moments, read_words
from fewstep.tasks.reading import column_of
from fewstep.whole import whole


def support_columns(table: pl.DataFrame, format: TableFormat, source: str) -> pl.DataFrame:
    """The columns of a support file that are kept: the task where it has one, inputs, targets; numbers as numbers and labels as
    text, so that they mean the same when the rows are read without the rest of their file."""
    wanted = [*(column.name for column in format.inputs), *(target.name for target in format.targets)]
    task = [format.task] if format.task and format.task in table.columns else []
    for name in [*task, *wanted]:
        column_of(table, name, source)
    table = in_numbers(table, format.how, source)
    texts = {name: read_words(table, name, source) for name in format.labels if name in table.columns}
    return table.with_columns(**texts).select([*task, *wanted])


def alike(old: pl.DataFrame, new: pl.DataFrame, format: TableFormat, source: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Two tables of the same columns, now of the same types too, whatever their files made of them: dates are moments, numbers
    that differ in type are floats, anything else that differs is text."""
    dates = {column.name: column for column in format.inputs if column.kind == "date"}

    def read(table: pl.DataFrame, name: str) -> pl.Series:
        types = {old.schema[name], new.schema[name]}
        if all(type.is_numeric() for type in types):
            return (
                table[name]
                if len(types) == 1 and table[name].dtype.is_integer()
                else table[name].cast(pl.Float64).fill_nan(None)
            )
        if name in dates:
            return read_moments(table, name, dates[name].how, source)
        return table[name] if len(types) == 1 else read_words(table, name, source)

    return tuple(pl.DataFrame([read(table, name) for name in old.columns]) for table in (old, new))  # type: ignore[return-value]


def write_support(path: Path, table: pl.DataFrame) -> None:
    """Writes the rows: whole, or not at all."""
    with whole(path) as partial, partial.open("wb") as file:  # polars knows no path that is not UTF-8
        table.write_parquet(file)
