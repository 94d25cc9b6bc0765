"""Support rows of adapted models, and conformal intervals and calibrated probabilities of their predictions."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from fewstep.core.problem import needed_to_calibrate
from fewstep.errors import InputError
from fewstep.storage.arrays import atomic_write
from fewstep.storage.tables import column_of
from fewstep.supervised.columns import TableFormat
from fewstep.supervised.conformal import DEFAULT_LEVELS, nearest_entry
from fewstep.supervised.fit import Steps
from fewstep.supervised.infer_kinds import in_numbers
from fewstep.supervised.kinds import read_moments, read_words
from fewstep.supervised.trained import Trained


def labeled(table: pl.DataFrame, format: TableFormat, source: str) -> pl.DataFrame:
    """`table` with labels converted to text. Raises `InputError` for missing columns, and for rows that name no unit."""
    for name in _kept(table, format):
        column_of(table, name, source)
    table = table.with_columns(**{name: read_words(table, name, source) for name in format.labels if name in table.columns})
    if format.task in table.columns and (gaps := table[str(format.task)].null_count()):
        raise InputError(f"{source}: column {format.task!r} names no unit in {gaps} rows. Fill or remove them.")
    return table


def support_columns(table: pl.DataFrame, format: TableFormat, source: str) -> pl.DataFrame:
    """Selects the columns of a `labeled` support table: the task if there is one, inputs and targets. Numbers written as text
    are parsed, so that their meaning does not depend on the rest of the file."""
    return in_numbers(table, format.how, source).select(_kept(table, format))


def _kept(table: pl.DataFrame, format: TableFormat) -> list[str]:
    wanted = [*(column.name for column in format.inputs), *(target.name for target in format.targets)]
    return [format.task, *wanted] if format.task and format.task in table.columns else wanted


class SupportRows(NamedTuple):
    """Support rows as arrays, without rows that lack all targets."""

    table: pl.DataFrame
    """as they were read"""
    inputs: np.ndarray
    """[rows, features]"""
    targets: np.ndarray
    """[rows, outputs]"""
    known: np.ndarray | None
    """[rows, targets]: whether a target is known; None if all are"""


def read_rows(table: pl.DataFrame, format: TableFormat, source: str, notes: list[str], whole: bool = False) -> SupportRows:
    """Reads `labeled` support rows; with `whole`, only those with all targets. Adds what is left out to `notes`.

    Raises `InputError` for values that cannot be read, and if no row is left.
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
        raise InputError(f"{source}: expected rows with a value of {names}, found none.")
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
    """(`read_rows` of all readable units, the reasons for the other units by name). Raises `InputError` if no unit can be
    read."""
    found: list[str] = []
    try:
        rows = read_rows(table, format, source, found, whole)
        notes += found
        return rows, {}
    except InputError:
        odd = unreadable(table, format, source)
        if not odd:
            raise
        return read_rows(drop_units(table, odd, format), format, source, notes, whole), odd


def drop_units(table: pl.DataFrame, odd: Collection[str], format: TableFormat) -> pl.DataFrame:
    """The rows of all units except `odd`."""
    return table.filter(~table[str(format.task)].is_in(list(odd))) if odd else table


def unreadable(table: pl.DataFrame, format: TableFormat, source: str) -> dict[str, str]:
    """Units with a value that cannot be read, by name, with the reason; empty if that holds for all units, or if the table has
    no task column."""
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
        except InputError as error:
            odd[name] = str(error)
    return odd if len(odd) < len(each) else {}


def far_from_training(table: pl.DataFrame, format: TableFormat, owner: np.ndarray, units: tuple[str, ...]) -> dict[str, str]:
    """Units with support values far outside the trained range, by name, with the reason. `owner` [rows] are indices into
    `units`."""
    found: dict[str, list[str]] = {}
    total = np.bincount(owner, minlength=len(units))
    for name, far in format.far_outside(table, "the support rows", targets=True).items():
        count = np.bincount(owner[far], minlength=len(units))
        for unit in np.flatnonzero(count):
            reason = f"{count[unit]} of {total[unit]} values of {name!r} lie far outside the trained range"
            found.setdefault(units[unit], []).append(f"{reason}, {format.range_of(name)}")
    return {name: "; ".join(reasons) for name, reasons in found.items()}


def align_types(old: pl.DataFrame, new: pl.DataFrame, format: TableFormat, source: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Converts two tables with the same columns to the same types: dates to moments, numbers of different types to floats,
    other columns of different types to text."""
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
    """Writes the rows atomically."""
    with atomic_write(path) as partial, partial.open("wb") as file:  # polars supports only UTF-8 paths
        table.write_parquet(file)


WAIT = "so nothing is calibrated; wait until that ends, then adapt again"
UNFINISHED = {
    "training": f"the run was in training by another process when this model was adapted, {WAIT}",
    "calibrating": f"the run was being calibrated by another process when this model was adapted, {WAIT}",
    "uncalibrated": "the run was trained, and stopped before it was calibrated; `fewstep resume RUN` does it, then adapt again",
    "stopped": "the run was not trained to its end, so nothing is calibrated; `fewstep resume RUN` does it, then adapt again",
}


def uncalibrated(trained: Trained) -> str:
    """Why there is no calibration, and what to do."""
    return UNFINISHED[trained.calibration.get("unfinished", "stopped")]


@dataclass(frozen=True)
class ConformalPredictor:
    """Intervals and probabilities of units that were adapted to `rows` [units] support rows in `steps` steps."""

    trained: Trained
    rows: np.ndarray
    steps: Steps

    def level(self, requested: float | None) -> int | None:
        """The level of intervals in per cent: `requested`, or the highest default level with a calibration; None if there is
        none."""
        if requested is not None:
            percent = round(100 * requested) if 0 < requested < 1 else 0
            if not 50 <= percent <= 99 or abs(100 * requested - percent) > 1e-6:
                raise InputError(f"--level should be between 0.50 and 0.99, in whole per cent, got {requested}.")
            if not self._allowed(percent):
                raise InputError(self.why_none(percent))
            return percent
        return next((percent for percent in DEFAULT_LEVELS if self._allowed(percent)), None)

    @property
    def finished(self) -> bool:
        """Whether the training was completed, after which the run is calibrated."""
        return self.trained.calibration.get("trained_steps", self.trained.trained_steps) is not None

    def why_none(self, percent: int) -> str:
        """Why there are no intervals at this level."""
        if self.trained.problem.format.classes:
            return "There are no intervals of classes; their probabilities are calibrated."
        if not self.finished:
            return f"No intervals: {uncalibrated(self.trained)}."
        if self.trained.policy(self.steps) is None:
            trained = f"for {self.trained.trained_steps} adaptation steps and for auto"
            return f"No intervals: they are calibrated {trained}, not for {self.steps}."
        needed, found = needed_to_calibrate(percent / 100), self.calibrated_on()
        return (
            f"No intervals at {percent} %: expected at least {needed} calibration units, found {found} with enough rows. "
            f"{'Ask for a lower --level, or train' if found else 'Train'} on a table of more units."
        )

    def calibrated_on(self) -> int:
        """Number of calibration units of the intervals: the minimum over the numbers of support rows."""
        entries = [nearest_entry(self.trained.calibration, rows) for rows in self._counts]
        return min((entry["tasks"] for entry in entries if entry), default=0)

    @property
    def _counts(self) -> set[int]:
        """The numbers of support rows that decide whether there are intervals. Units without rows have a calibration of their
        own, and do not deprive a fleet of its intervals."""
        counts = set(self.rows.tolist())
        return counts - {0} or counts

    def _allowed(self, percent: int) -> bool:
        return all(self.trained.quantiles(rows, percent, self.steps) is not None for rows in self._counts)

    def bounds(self, outputs: np.ndarray, spread: np.ndarray, owner: np.ndarray, percent: int) -> tuple[np.ndarray, np.ndarray]:
        """(lower, upper) [rows, outputs] in the targets' own units, for rows of the units `owner` [rows]; NaN for units whose
        number of support rows has no calibration."""
        none = [np.nan] * outputs.shape[1]
        by_unit = np.array([self.trained.quantiles(int(rows), percent, self.steps) or none for rows in self.rows])
        half, format = spread * by_unit[owner], self.trained.problem.format
        return format.restore(outputs - half), format.restore(outputs + half)

    def probabilities(self, outputs: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """[rows, classes] from log-probabilities, at the temperature for the number of support rows of each row's unit."""
        temperature = np.array([self.trained.temperature(int(rows), self.steps) for rows in self.rows])
        scaled = outputs / temperature[owner][:, None]
        powers = np.exp(scaled - scaled.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)


def significant(values: np.ndarray) -> np.ndarray:
    """Rounds to seven significant digits, the precision of float32."""
    values = np.asarray(values, np.float64)
    size = np.floor(np.log10(np.clip(np.abs(values), 1e-30, 1e300)))  # infinities stay as they are
    unit = 10.0 ** (6 - size)
    return np.round(values * unit) / unit


def span(numbers: np.ndarray) -> str:
    """'6', or '5 to 6'."""
    low, high = numbers.min(), numbers.max()
    return f"{low}" if low == high else f"{low} to {high}"
