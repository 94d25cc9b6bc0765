"""Columns of a table as a network's inputs and outputs, and back (floor 1). Used by every problem whose tasks are rows.

What is learned from data here (means, scales, the span of a date) comes from the meta-train rows alone, is plain JSON,
and travels with the run: a support file next year is read exactly as the training table was.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fewstep.errors import BadInput

DAY = 86_400.0
PERIODS = {"annual": 365.2425, "weekly": 7.0, "daily": 1.0}
"""Days. A date column gets harmonics of the periods that its span and its spacing can show."""


@dataclass(frozen=True)
class InputColumn:
    """One input column: `(value − center) / scale`, and for a date the harmonics of `periods` beside that trend."""

    name: str
    kind: str
    """'number' or 'date' (seconds since 1970 inside)"""
    center: float = 0.0
    scale: float = 1.0
    periods: tuple[str, ...] = ()
    harmonics: tuple[int, ...] = ()
    """how many of each period: the first has the period itself, the second half of it ..."""

    @property
    def features(self) -> int:
        return 1 + 2 * sum(self.harmonics)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """[rows] float64 -> [rows, features]."""
        trend = (values - self.center) / self.scale
        angles = [
            2 * np.pi * order * values / (PERIODS[period] * DAY)
            for period, count in zip(self.periods, self.harmonics, strict=True)
            for order in range(1, count + 1)
        ]
        return np.stack([trend, *(wave(angle) for angle in angles for wave in (np.sin, np.cos))], axis=1)

    def describe(self) -> str:
        if self.kind == "date":
            return f"{self.name}: date -> trend" + "".join(
                f" + {count} {period} harmonics" for period, count in zip(self.periods, self.harmonics, strict=True)
            )
        return f"{self.name}: number, mean {self.center:.4g}, standard deviation {self.scale:.4g}"


@dataclass(frozen=True)
class TableFormat:
    """Which columns are read, how, and how predictions return to the target's own units."""

    inputs: tuple[InputColumn, ...]
    target: str
    target_center: float = 0.0
    target_scale: float = 1.0
    task: str | None = None
    """the column whose values name the tasks; None where a file holds one task"""

    @property
    def features(self) -> int:
        return sum(column.features for column in self.inputs)

    @property
    def x_label(self) -> str:
        return self.inputs[0].name

    @property
    def x_is_date(self) -> bool:
        return self.inputs[0].kind == "date"

    def encode_inputs(self, table: pl.DataFrame, source: str) -> np.ndarray:
        """[rows, features] float32. Raises `BadInput` for a missing column, a gap, a value that is no number."""
        columns = [column.encode(read_column(table, column.name, column.kind, source)) for column in self.inputs]
        return np.concatenate(columns, axis=1).astype(np.float32)

    def encode_target(self, table: pl.DataFrame, source: str) -> np.ndarray:
        """[rows, 1] float32, standardized."""
        values = read_column(table, self.target, "number", source)
        return ((values - self.target_center) / self.target_scale).astype(np.float32)[:, None]

    def restore_target(self, standardized: np.ndarray) -> np.ndarray:
        """Predictions in the target's own units, float64."""
        return np.asarray(standardized, np.float64) * self.target_scale + self.target_center

    def describe(self) -> list[str]:
        target = f"{self.target}: target, mean {self.target_center:.4g}, standard deviation {self.target_scale:.4g}"
        return [*(column.describe() for column in self.inputs), target]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(saved: dict[str, Any]) -> TableFormat:
        tuples = ("periods", "harmonics")
        inputs = tuple(
            InputColumn(**{**column, **{name: tuple(column[name]) for name in tuples}}) for column in saved["inputs"]
        )
        return TableFormat(**{**saved, "inputs": inputs})


def fit_format(
    table: pl.DataFrame,
    inputs: tuple[str, ...],
    target: str,
    task: str,
    in_train: np.ndarray,
    source: str,
    most_harmonics: int = 2,
) -> TableFormat:
    """Infers kinds of columns from the table, and means and scales from its meta-train rows (`in_train`, [rows] bool).

    A date gets up to `most_harmonics` harmonics of each period that it can show.
    """
    columns = []
    for name in inputs:
        kind = "date" if is_date(table, name, source) else "number"
        values = read_column(table, name, kind, source, expected="numbers or dates")[in_train]
        visible = visible_periods(values) if kind == "date" else {}
        harmonics = tuple(min(count, most_harmonics) for count in visible.values())
        columns.append(InputColumn(name, kind, float(values.mean()), spread(values), tuple(visible), harmonics))
    values = read_column(table, target, "number", source)[in_train]
    return TableFormat(tuple(columns), target, float(values.mean()), spread(values), task)


def spread(values: np.ndarray) -> float:
    """The standard deviation, or 1 for a constant column."""
    deviation = float(values.std())
    return deviation if deviation > 0 else 1.0


def visible_periods(seconds: np.ndarray) -> dict[str, int]:
    """The periods that dates can show, and how many harmonics of each: their span covers most of the period, and their
    spacing is at most half of a harmonic's."""
    unique = np.unique(seconds) / DAY
    if unique.size < 3:
        return {}
    span, spacing = unique[-1] - unique[0], float(np.median(np.diff(unique)))
    return {
        name: int(days / (2 * spacing) + 1e-6)
        for name, days in PERIODS.items()
        if span >= 0.75 * days and spacing <= 0.5 * days
    }


def read_table(path: str | Path) -> pl.DataFrame:
    """A CSV, TSV or Parquet file by polars. Raises `BadInput` where there is no such file or it is no table."""
    path = Path(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise BadInput(f"{path}: expected a CSV, TSV or Parquet file, found {what}. Check the path.")
    suffix = path.suffix.lower()
    try:
        if suffix in (".parquet", ".pq"):
            table = pl.read_parquet(path)
        else:
            separator = "\t" if suffix in (".tsv", ".tab") else ","
            table = pl.read_csv(path, separator=separator, infer_schema_length=10_000, try_parse_dates=True)
    except Exception as error:  # polars raises many kinds for what is not a table
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(f"{path}: expected a CSV, TSV or Parquet table, but it cannot be read as one: {first}") from error
    if table.height == 0:
        raise BadInput(f"{path}: expected rows, found a table without any.")
    return table


def column_of(table: pl.DataFrame, name: str, source: str) -> pl.Series:
    """One column, or `BadInput` with the nearest name."""
    if name not in table.columns:
        near = difflib.get_close_matches(name, table.columns, n=1, cutoff=0.4)
        if all(part in table.columns for part in name.split(",")):
            raise BadInput(f"{source}: there is no column {name!r}; separate columns by spaces.")
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, table.columns[:12]))}."
        raise BadInput(f"{source}: there is no column {name!r}; {hint}")
    return table[name]


def is_date(table: pl.DataFrame, name: str, source: str) -> bool:
    return column_of(table, name, source).dtype in (pl.Date, pl.Datetime)


def read_column(table: pl.DataFrame, name: str, kind: str, source: str, expected: str = "numbers") -> np.ndarray:
    """[rows] float64: numbers as they are, dates as seconds since 1970. Raises `BadInput` for gaps and other kinds."""
    series = column_of(table, name, source)
    if kind == "date":
        if series.dtype not in (pl.Date, pl.Datetime):
            raise BadInput(f"{source}: column {name!r} was a date in training, here it holds {_sample(series)}.")
        series = series.cast(pl.Datetime("us")).cast(pl.Int64).cast(pl.Float64) / 1e6
    elif not series.dtype.is_numeric():
        raise BadInput(
            f"{source}: column {name!r} should hold {expected}, it holds {_sample(series)}. "
            "Choose another column, or turn it into numbers first."
        )
    values = series.cast(pl.Float64).to_numpy()
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        rows = ", ".join(str(row + 1) for row in bad[:5]) + (", ..." if bad.size > 5 else "")
        raise BadInput(
            f"{source}: column {name!r} has {bad.size} missing or infinite values of {values.size} (data rows {rows}). "
            "Fill them or remove these rows."
        )
    return values


def _sample(series: pl.Series) -> str:
    shown = series.drop_nulls().head(2).to_list()
    return f"{series.dtype} such as {', '.join(repr(value) for value in shown)}" if shown else "nothing at all"
