"""Encodes columns of a table as inputs and outputs of a network, and decodes predictions.

Statistics (means, scales, categories, the span of a date) come from meta-train rows only and are saved with the run as JSON, so
that later support files are encoded exactly as the training table was.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import polars as pl
from msgspec import Meta, Struct

from fewstep.errors import InputError
from fewstep.storage.json import Positive, validate
from fewstep.storage.numerals import split_example
from fewstep.supervised.dates import shown_offset
from fewstep.supervised.kinds import ColumnKind, Kind, place_of, read_clock, read_values, read_words
from fewstep.supervised.labels import twin_hint

DAY = 86_400.0
MOST_HARMONICS = 10_000
FARTHEST = 1e15
"""standard deviations from the mean; larger values are errors of the table, and their squares overflow float32"""
Period = Literal["annual", "weekly", "daily"]
PERIODS: dict[Period, float] = {"annual": 365.2425, "weekly": 7.0, "daily": 1.0}
"""Days. A date column gets harmonics of the periods that its span and spacing can resolve."""


class InputColumn(Struct, frozen=True, forbid_unknown_fields=True):
    """One input column and its features: `(value − center) / scale`; for dates also harmonics of `periods`; for categories a
    one-hot encoding; and an indicator of missing values, if the meta-train rows had any."""

    name: str
    kind: Kind
    center: float = 0.0
    scale: Positive = 1.0
    periods: tuple[Period, ...] = ()
    harmonics: tuple[Annotated[int, Meta(ge=0, le=MOST_HARMONICS)], ...] = ()
    """number of harmonics per period"""
    categories: tuple[str, ...] = ()
    gaps: bool = False
    """whether there is an indicator of missing values"""
    date_format: str | None = None
    span: tuple[float, float] = (-float("inf"), float("inf"))
    """least and greatest value of the meta-train rows"""
    remark: str = ""
    written: str = ""
    """for a number: how it is written, as an example of it; empty for plain numbers"""
    zone: str = ""
    """for a date: the time zone of its harmonics; empty if it has none"""

    @property
    def how(self) -> ColumnKind:
        """How its values are read."""
        return ColumnKind(self.kind, self.date_format, written=self.written, zone=self.zone)

    @property
    def features(self) -> int:
        return (len(self.categories) if self.kind == "category" else 1 + 2 * sum(self.harmonics)) + self.gaps

    def encode(self, table: pl.DataFrame, source: str, notes: list[str]) -> Iterable[np.ndarray]:
        """Yields its features, each [rows], so that not all are in memory at once.

        Missing values become the mean. Adds notes on missing values, unseen categories and values beyond the span.
        """
        if self.kind == "category":
            words = read_words(table, self.name, source)
            missing = words.is_null().to_numpy()
            features = ((words == category).fill_null(False).to_numpy() for category in self.categories)
            other = words.filter(~words.is_in(self.categories)).drop_nulls()
            if other.len():
                odd = other.unique(maintain_order=True).head(3).to_list()
                shown = ", ".join(map(repr, odd)) + twin_hint(odd[0], self.categories)
                notes.append(
                    f"{self.name}: {other.len()} of {words.len()} values are of no category that is kept ({shown}): 'other'"
                )
        else:
            values = read_values(table, self.name, self.how, source)
            clock = read_clock(table, self.name, self.how, source)
            missing = np.isnan(values)
            values = np.where(missing, self.center, values)
            scaled = (values - self.center) / self.scale
            require_near(scaled, self.name, source, table)
            features = chain([scaled], self._waves(values + clock))
            strange = sorted({shown_offset(int(ahead)) for ahead in np.unique(clock)} - set(self.zone.split()))
            if self.zone[:1] in ("+", "-") and strange and not missing.all():
                message = f"{', '.join(strange)} from UTC, in training {self.zone}"
                notes.append(f"{self.name}: clocks {message}; all are taken as local")
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
            local = f", by local clocks ({self.zone})" if self.zone[:1] in ("+", "-") else f", by the clock of {self.zone}"
            utc = " UTC" if self.zone else ""
            return f"{self.name}: date -> trend{waves}{gaps}; {low} to {high}{utc}{local if self.zone else ''}{remark}"
        shape = f"mean {self.center:.4g}, standard deviation {self.scale:.4g}{gaps}{_as_written(self.written)}"
        return f"{self.name}: number, {low} to {high}, {shape}"


def _as_written(example: str) -> str:
    return f", written as {example}" if example else ""


class TargetColumn(Struct, frozen=True, forbid_unknown_fields=True):
    """One target column: a standardized number, or one of `classes`."""

    name: str
    center: float = 0.0
    scale: Positive = 1.0
    classes: tuple[str, ...] = ()
    span: tuple[float, float] = (-float("inf"), float("inf"))
    """least and greatest value of the meta-train rows"""
    written: str = ""
    """for a number: how it is written, as an example of it; empty for plain numbers"""

    @property
    def how(self) -> ColumnKind:
        """How its values are read."""
        return ColumnKind("category") if self.classes else ColumnKind("number", written=self.written)

    def describe(self) -> str:
        if self.classes:
            return f"{self.name}: target, one of {len(self.classes)} classes ({', '.join(self.classes[:8])})"
        shape = f"mean {self.center:.4g}, standard deviation {self.scale:.4g}{_as_written(self.written)}"
        return f"{self.name}: target, {shape}"


def require_near(scaled: np.ndarray, name: str, source: str, table: pl.DataFrame) -> None:
    """Raises `InputError` if standardized values of a column (NaN if missing) are absurdly far from those of training."""
    far = np.flatnonzero(np.abs(scaled) > FARTHEST)
    if far.size:
        raise InputError(
            f"{source}: column {name!r} has {far.size} values ({place_of(table, far)}) more than {FARTHEST:g} standard "
            "deviations away from those of training. Correct them, or empty these cells."
        )


class TableFormat(Struct, frozen=True, forbid_unknown_fields=True):
    """The columns of a table, how they are encoded, and how predictions are converted to the targets' own units."""

    inputs: Annotated[tuple[InputColumn, ...], Meta(min_length=1)]
    targets: Annotated[tuple[TargetColumn, ...], Meta(min_length=1)]
    task: str | None = None
    """the column that names the tasks; None if a file holds one task"""

    @property
    def features(self) -> int:
        return sum(column.features for column in self.inputs)

    @property
    def how(self) -> dict[str, ColumnKind]:
        """The kind of each column, by name."""
        return {column.name: column.how for column in (*self.inputs, *self.targets)}

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns of labels: units, categories, classes."""
        return tuple(filter(None, (self.task, *(name for name, how in self.how.items() if how.kind == "category"))))

    @property
    def outputs(self) -> int:
        """Number of network outputs: one per target, or one per class."""
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
        """The column for the x axis of plots: the first date, else the first number; None for the row number."""
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
        """[rows, features] float32. Adds imputed, unknown and out-of-range values to `notes`.

        Raises `InputError` for a missing column, for values of another kind than in training, or absurdly far from it.
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
        """([rows, outputs] float32, [rows, targets] whether a target is known): standardized or one-hot; 0 if unknown.

        Raises `InputError` for a missing column, for values that are not numbers, and for unknown classes.
        """
        if self.classes:
            words = read_words(table, self.targets[0].name, source)
            unknown = words.filter(~words.is_in(self.classes)).drop_nulls().unique()
            if unknown.len():
                hint = twin_hint(unknown[0], self.classes)
                raise InputError(
                    f"{source}: column {self.targets[0].name!r} holds the class {unknown[0]!r}{hint}; expected one of "
                    f"{', '.join(map(repr, self.classes[:8]))}, those of the training table."
                )
            hot = [(words == name).fill_null(False).to_numpy() for name in self.classes]
            return np.stack(hot, axis=1).astype(np.float32), words.is_not_null().to_numpy()[:, None]
        values = [read_values(table, t.name, t.how, source, "numbers") for t in self.targets]
        scaled = [(value - target.center) / target.scale for value, target in zip(values, self.targets, strict=True)]
        for target, column in zip(self.targets, scaled, strict=True):
            require_near(column, target.name, source, table)
        stacked = np.stack(scaled, axis=1)
        return np.nan_to_num(stacked).astype(np.float32), ~np.isnan(stacked)

    def far_outside(self, table: pl.DataFrame, source: str, targets: bool) -> dict[str, np.ndarray]:
        """[rows] by column: whether values are outside the trained range by more than its width; for numeric inputs and, with
        `targets`, numeric targets. Networks extrapolate arbitrarily to such values."""
        numbers = [column for column in self.inputs if column.kind == "number"]
        numbers += [column for column in self.targets if not column.classes] if targets else []
        found = {}
        for column in numbers:
            values, (low, high) = read_values(table, column.name, column.how, source), column.span
            width = max(high - low, column.scale)
            found[column.name] = (values < low - width) | (values > high + width)
        return found

    def range_of(self, name: str) -> str:
        """The trained range of a numeric column, as text."""
        low, high = next(column.span for column in (*self.inputs, *self.targets) if column.name == name)
        return f"{low:.4g} to {high:.4g}"

    def restore(self, outputs: np.ndarray) -> np.ndarray:
        """Predictions [..., targets] in the targets' own units, float64; probabilities [..., classes] are unchanged."""
        outputs = np.asarray(outputs, np.float64)
        if self.classes:
            return outputs
        return outputs * self.units + np.array([target.center for target in self.targets])

    def shown(self, outputs: np.ndarray) -> np.ndarray:
        """[..., outputs] -> [...]: the value that plots show: the first target, or the probability of the last class."""
        return self.restore(outputs)[..., -1 if self.classes else 0]

    def describe(self) -> list[str]:
        return [*(column.describe() for column in self.inputs), *(target.describe() for target in self.targets)]

    def to_json(self) -> dict[str, Any]:
        saved = msgspec.to_builtins(self)
        for column in (*saved["inputs"], *saved["targets"]):
            column["span"] = [value if np.isfinite(value) else None for value in column["span"]]
        return saved

    @staticmethod
    def from_json(saved: dict[str, Any]) -> TableFormat:
        """Raises `ValueError` with the place in the JSON, or one of a few other errors, if it is damaged."""
        columns = {part: tuple(map(_with_infinite_ends, saved[part])) for part in ("inputs", "targets")}
        format = validate({**saved, **columns}, TableFormat, "the format")
        for column in format.inputs:
            column.describe()  # raises for moments beyond the calendar
            if column.zone[:1] not in ("+", "-"):
                pl.select(pl.datetime(2000, 1, 1, time_zone=column.zone or None))
            if len(column.periods) != len(column.harmonics):
                raise ValueError(f"{column.name} has the periods {column.periods}")
        for column in (*format.inputs, *format.targets):
            split_example(column.written)
        return format


def _with_infinite_ends(column: Any) -> Any:
    """A saved column, with infinite ends of its span for nulls, since JSON has no infinity."""
    if not isinstance(column, dict) or not isinstance(span := column.get("span"), (list, tuple)) or len(span) != 2:
        return column
    return {**column, "span": [end if known is None else known for end, known in zip((-np.inf, np.inf), span, strict=True)]}
