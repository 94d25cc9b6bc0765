"""Support rows (floor 4): which columns are kept, how they are read, how old and new ones become one table."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from fewstep.errors import BadInput
from fewstep.tasks.columns import TableFormat
from fewstep.tasks.infer_kinds import in_numbers
from fewstep.tasks.kinds import read_moments, read_words
from fewstep.tasks.reading import column_of
from fewstep.whole import whole


def labeled(table: pl.DataFrame, format: TableFormat, source: str) -> pl.DataFrame:
    """`table` with its labels as text. Raises `BadInput` for missing columns, and for rows that name no unit."""
    for name in _kept(table, format):
        column_of(table, name, source)
    table = table.with_columns(**{name: read_words(table, name, source) for name in format.labels if name in table.columns})
    if format.task in table.columns and (gaps := table[str(format.task)].null_count()):
        raise BadInput(f"{source}: column {format.task!r} names no unit in {gaps} rows. Fill or remove them.")
    return table


def support_columns(table: pl.DataFrame, format: TableFormat, source: str) -> pl.DataFrame:
    """The columns of a `labeled` support file that are kept: the task if it has one, inputs, targets; numbers as numbers, so
    that they mean the same when the rows are read without the rest of their file."""
    return in_numbers(table, format.how, source).select(_kept(table, format))


def _kept(table: pl.DataFrame, format: TableFormat) -> list[str]:
    wanted = [*(column.name for column in format.inputs), *(target.name for target in format.targets)]
    return [format.task, *wanted] if format.task and format.task in table.columns else wanted


class SupportRows(NamedTuple):
    """Support rows as arrays; a row without any known target is not among them."""

    table: pl.DataFrame
    """as they came"""
    inputs: np.ndarray
    """[rows, features]"""
    targets: np.ndarray
    """[rows, outputs]"""
    known: np.ndarray | None
    """[rows, targets] which are known; None where all are"""


def read_rows(table: pl.DataFrame, format: TableFormat, source: str, notes: list[str], whole: bool = False) -> SupportRows:
    """Reads `labeled` support rows; with `whole`, only those of which all targets are known. What is left out is added to
    `notes`.

    Raises `BadInput` for values that cannot be read, and where no row is left.
    """
    table = support_columns(table, format, source)
    targets, known = format.encode_targets(table, source)
    usable = np.asarray(known.all(1) if whole else known.any(1))
    if not usable.all():
        which = "the target" if len(format.targets) == 1 else "a target" if whole else "every target"
        notes.append(f"{(~usable).sum()} of {usable.size} rows lack {which} and are left out")
        table, targets, known = table.filter(pl.Series(usable)), targets[usable], known[usable]
    if table.height == 0:
        names = " and ".join(repr(target.name) for target in format.targets)
        raise BadInput(f"{source}: expected rows with a value of {names}, found none.")
    notes += [
        f"{target.name}: {missing} of {table.height} rows lack this target; their other targets count"
        for target, missing in zip(format.targets, (~known).sum(0), strict=True)
        if missing
    ]
    inputs = format.encode_inputs(table, source, notes)
    return SupportRows(table, inputs, targets, None if known.all() else known)


def read_units(
    table: pl.DataFrame, format: TableFormat, source: str, notes: list[str], whole: bool = False
) -> tuple[SupportRows, dict[str, str]]:
    """(`read_rows` of the units whose rows can be read, the name of each other unit and why not). Raises `BadInput` where no
    unit can be read."""
    found: list[str] = []
    try:
        rows = read_rows(table, format, source, found, whole)
        notes += found
        return rows, {}
    except BadInput:
        odd = unreadable(table, format, source)
        if not odd:
            raise
        return read_rows(without(table, odd, format), format, source, notes, whole), odd


def without(table: pl.DataFrame, odd: Collection[str], format: TableFormat) -> pl.DataFrame:
    """The rows of all units but these."""
    return table.filter(~table[str(format.task)].is_in(list(odd))) if odd else table


def unreadable(table: pl.DataFrame, format: TableFormat, source: str) -> dict[str, str]:
    """The units that hold a value that cannot be read, by name, with the reason; none where all of them do, or where the table
    names no units."""
    if format.task is None or format.task not in table.columns:
        return {}
    names, odd = table[format.task], {}
    each = names.unique(maintain_order=True).to_list()
    for name in each:
        where = f"{source}, the rows of {name!r}"
        try:
            own = support_columns(table.filter(names == name), format, where)
            format.encode_targets(own, where)
            format.encode_inputs(own, where)
        except BadInput as error:
            odd[name] = str(error)
    return odd if len(odd) < len(each) else {}


def far_from_training(table: pl.DataFrame, format: TableFormat, owner: np.ndarray, units: tuple[str, ...]) -> dict[str, str]:
    """The units with support values far outside the trained range, by name, with the reason. `owner` [rows] are the numbers of
    the rows' `units`."""
    found: dict[str, list[str]] = {}
    total = np.bincount(owner, minlength=len(units))
    for name, far in format.far_outside(table, "the support rows", targets=True).items():
        count = np.bincount(owner[far], minlength=len(units))
        for unit in np.flatnonzero(count):
            reason = f"{count[unit]} of {total[unit]} values of {name!r} lie far outside the trained range"
            found.setdefault(units[unit], []).append(f"{reason}, {format.range_of(name)}")
    return {name: "; ".join(reasons) for name, reasons in found.items()}


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
