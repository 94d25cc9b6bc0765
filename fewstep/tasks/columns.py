"""Columns of a table as a network's inputs and outputs, and back (floor 1). Used by every problem whose tasks are rows.

What is learned from data here (means, scales, categories, the span of a date) comes from the meta-train rows alone, is plain
JSON, and travels with the run: a support file next year is read exactly as the training table was.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from typing import Any, get_type_hints

import numpy as np
import polars as pl

from fewstep.errors import BadInput
from fewstep.plain import require_a
from fewstep.tasks.kinds import ColumnKind, Kind, read_values, read_words, row_list

DAY = 86_400.0
FARTHEST = 1e15
"""standard deviations from the mean: what lies farther is an error of the table, and beyond float32 when it is squared"""
PERIODS = {"annual": 365.2425, "weekly": 7.0, "daily": 1.0}
"""Days. A date column gets harmonics of the periods that its span and its spacing can show."""


@dataclass(frozen=True)
class InputColumn:
    """One input column and its features: `(value − center) / scale`, for a date the harmonics of `periods` beside that trend,
    for a category one feature a known value, which is 1 or 0; and one more for gaps, where the meta-train rows had any."""

    name: str
    kind: Kind
    center: float = 0.0
    scale: float = 1.0
    periods: tuple[str, ...] = ()
    harmonics: tuple[int, ...] = ()
    """how many of each period: the first has the period itself, the second half of it ..."""
    categories: tuple[str, ...] = ()
    gaps: bool = False
    """whether there is a feature that says that the value is not known"""
    date_format: str | None = None
    span: tuple[float, float] = (-float("inf"), float("inf"))
    """least and greatest value of the meta-train rows"""
    remark: str = ""

    @property
    def features(self) -> int:
        return (len(self.categories) if self.kind == "category" else 1 + 2 * sum(self.harmonics)) + self.gaps

    def encode(self, table: pl.DataFrame, source: str, notes: list[str]) -> Iterable[np.ndarray]:
        """Its features one by one, each [rows]: many waves of many rows need not be held at once.

        Gaps become the mean; gaps, unseen categories and values beyond the span are noted.
        """
        if self.kind == "category":
            words = read_words(table, self.name, source)
            missing = words.is_null().to_numpy()
            features = ((words == category).fill_null(False).to_numpy() for category in self.categories)
            other = words.filter(~words.is_in(self.categories)).drop_nulls()
            if other.len():
                shown = ", ".join(map(repr, other.unique(maintain_order=True).head(3)))
                notes.append(
                    f"{self.name}: {other.len()} of {words.len()} values are of no category that is kept ({shown}): 'other'"
                )
        else:
            values = read_values(table, self.name, ColumnKind(self.kind, self.date_format), source)
            missing = np.isnan(values)
            values = np.where(missing, self.center, values)
            scaled = (values - self.center) / self.scale
            require_near(scaled, self.name, source)
            features = chain([scaled], self._waves(values))
            beyond = int(np.sum((values < self.span[0]) | (values > self.span[1])))
            if beyond:
                low, high = map(self._show, self.span)
                notes.append(f"{self.name}: {beyond} of {values.size} values lie outside the trained range, {low} to {high}")
        if missing.any():
            how = "with a feature that says so" if self.gaps else "the training table had none"
            becomes = "no category" if self.kind == "category" else "the mean"
            notes.append(f"{self.name}: {missing.sum()} of {missing.size} values are missing and become {becomes} ({how})")
        return chain(features, [missing] if self.gaps else [])

    def _waves(self, values: np.ndarray) -> Iterator[np.ndarray]:
        for period, count in zip(self.periods, self.harmonics, strict=True):
            for order in range(1, count + 1):
                angle = 2 * np.pi * order * values / (PERIODS[period] * DAY)
                yield np.sin(angle)
                yield np.cos(angle)

    def _show(self, value: float) -> str:
        if self.kind != "date" or not np.isfinite(value):
            return f"{value:.4g}"
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=value)
        return str(moment.date() if moment.time() == datetime.time() else moment.replace(microsecond=0))

    def describe(self) -> str:
        gaps = " + a feature for gaps" if self.gaps else ""
        if self.kind == "category":
            shown = ", ".join(self.categories[:6]) + (", ..." if len(self.categories) > 6 else "")
            return f"{self.name}: category of {len(self.categories)} values ({shown}){gaps}"
        if self.kind == "boolean":
            return f"{self.name}: yes or no, {100 * self.center:.0f} % yes{gaps}"
        low, high = map(self._show, self.span)
        if self.kind == "date":
            waves = "".join(f" + {n} {period} harmonics" for period, n in zip(self.periods, self.harmonics, strict=True))
            remark = f", {self.remark}" if self.remark else ""
            return f"{self.name}: date -> trend{waves}{gaps}; {low} to {high}{remark}"
        return f"{self.name}: number, {low} to {high}, mean {self.center:.4g}, standard deviation {self.scale:.4g}{gaps}"


@dataclass(frozen=True)
class TargetColumn:
    """One target column: a number, standardized, or a class, one of `classes`."""

    name: str
    center: float = 0.0
    scale: float = 1.0
    classes: tuple[str, ...] = ()

    def describe(self) -> str:
        if self.classes:
            return f"{self.name}: target, one of {len(self.classes)} classes ({', '.join(self.classes[:8])})"
        return f"{self.name}: target, mean {self.center:.4g}, standard deviation {self.scale:.4g}"


@dataclass(frozen=True)
class TableFormat:
    """Which columns are read, how, and how predictions return to the target's own units."""

    inputs: tuple[InputColumn, ...]
    targets: tuple[TargetColumn, ...]
    task: str | None = None
    """the column whose values name the tasks; None where a file holds one task"""

    @property
    def features(self) -> int:
        return sum(column.features for column in self.inputs)

    @property
    def outputs(self) -> int:
        """How many numbers the network gives a row: one a target, or one a class."""
        return len(self.classes) or len(self.targets)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of a classification; empty for a regression."""
        return self.targets[0].classes

    @property
    def units(self) -> np.ndarray:
        """[targets]: the size of one standardized unit."""
        return np.array([target.scale for target in self.targets])

    @property
    def x(self) -> InputColumn | None:
        """What a picture has along its x axis: the first date, else the first number; None for the number of the row."""
        return next((column for kind in ("date", "number") for column in self.inputs if column.kind == kind), None)

    @property
    def x_label(self) -> str:
        return self.x.name if self.x else "row"

    @property
    def x_is_date(self) -> bool:
        return self.x is not None and self.x.kind == "date"

    @property
    def y_label(self) -> str:
        return f"probability of {self.classes[-1]!r}" if self.classes else self.targets[0].name

    def encode_inputs(self, table: pl.DataFrame, source: str, notes: list[str] | None = None) -> np.ndarray:
        """[rows, features] float32. What was imputed, unknown or out of range is added to `notes`.

        Raises `BadInput` for a missing column, for values of another kind than in training, and absurdly far from it.
        """
        found: list[str] = []
        inputs = np.empty((table.height, self.features), np.float32)
        features = chain.from_iterable(column.encode(table, source, found) for column in self.inputs)
        for place, feature in enumerate(features):
            inputs[:, place] = feature
        if notes is not None:
            notes += found
        return inputs

    def encode_targets(self, table: pl.DataFrame, source: str) -> tuple[np.ndarray, np.ndarray]:
        """([rows, outputs] float32, [rows] whether all targets are known): standardized, or 1 for the class and 0 for others.

        Raises `BadInput` for a missing column, for what is no number, for a class that training did not know.
        """
        if self.classes:
            words = read_words(table, self.targets[0].name, source)
            unknown = words.filter(~words.is_in(self.classes)).drop_nulls().unique()
            if unknown.len():
                raise BadInput(
                    f"{source}: column {self.targets[0].name!r} holds the class {unknown[0]!r}; expected one of "
                    f"{', '.join(map(repr, self.classes[:8]))}, those of the training table."
                )
            hot = [(words == name).fill_null(False).to_numpy() for name in self.classes]
            return np.stack(hot, axis=1).astype(np.float32), words.is_not_null().to_numpy()
        values = [read_values(table, t.name, ColumnKind("number"), source, "numbers") for t in self.targets]
        scaled = [(value - target.center) / target.scale for value, target in zip(values, self.targets, strict=True)]
        for target, column in zip(self.targets, scaled, strict=True):
            require_near(column, target.name, source)
        stacked = np.stack(scaled, axis=1)
        return np.nan_to_num(stacked).astype(np.float32), np.all(~np.isnan(stacked), axis=1)

    def restore(self, outputs: np.ndarray) -> np.ndarray:
        """Predictions [..., targets] in the targets' own units, float64; probabilities [..., classes] as they are."""
        outputs = np.asarray(outputs, np.float64)
        if self.classes:
            return outputs
        return outputs * self.units + np.array([target.center for target in self.targets])

    def shown(self, outputs: np.ndarray) -> np.ndarray:
        """[..., outputs] -> [...]: the one number a picture shows: the first target, or the probability of the last class."""
        return self.restore(outputs)[..., -1 if self.classes else 0]

    def describe(self) -> list[str]:
        return [*(column.describe() for column in self.inputs), *(target.describe() for target in self.targets)]

    def to_json(self) -> dict[str, Any]:
        saved = asdict(self)
        for column in saved["inputs"]:
            column["span"] = [value if np.isfinite(value) else None for value in column["span"]]
        return saved

    @staticmethod
    def from_json(saved: dict[str, Any]) -> TableFormat:
        """Raises many kinds of errors where it is damaged."""

        def column(kind, values):
            known = {f.name for f in fields(kind)}
            if set(values) - known:
                raise KeyError(*sorted(set(values) - known))
            made = kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
            for name, hint in get_type_hints(kind).items():
                if name != "span":
                    require_a(getattr(made, name), hint, name)
            if not made.scale > 0:
                raise ValueError(f"{made.name} has the scale {made.scale}")
            return replace(made, center=float(made.center), scale=float(made.scale))  # JSON may hold whole numbers beyond int64

        inputs = []
        for values in saved["inputs"]:
            require_a(values["span"], tuple[float | None, float | None], "span")
            low, high = values["span"]
            span = (-np.inf if low is None else float(low), np.inf if high is None else float(high))
            inputs.append(column(InputColumn, {**values, "span": span}))
            inputs[-1].describe()  # a moment beyond the calendar is found here
            if len(inputs[-1].periods) != len(inputs[-1].harmonics) or not set(inputs[-1].periods) <= set(PERIODS):
                raise ValueError(f"{inputs[-1].name} has the periods {inputs[-1].periods}")
        targets = tuple(column(TargetColumn, values) for values in saved["targets"])
        require_a(saved["task"], str | None, "task")
        if not inputs or not targets:
            raise ValueError("no inputs, or no targets")
        return TableFormat(tuple(inputs), targets, saved["task"])


def require_near(scaled: np.ndarray, name: str, source: str) -> None:
    """Raises `BadInput` where standardized values of a column, NaN for gaps, lie absurdly far from those of training."""
    far = np.flatnonzero(np.abs(scaled) > FARTHEST)
    if far.size:
        raise BadInput(
            f"{source}: column {name!r} has {far.size} values (data {row_list(far)}) more than {FARTHEST:g} standard "
            "deviations away from those of training. Correct them, or empty these cells."
        )
