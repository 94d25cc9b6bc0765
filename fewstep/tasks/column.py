"""One column of a table as a network's inputs or outputs (floor 1). Used by tasks/columns."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Annotated, Literal

import numpy as np
import polars as pl
from msgspec import Meta, Struct

from fewstep.errors import BadInput
from fewstep.plain import Positive
from fewstep.tasks.dates import shown_offset
from fewstep.tasks.kinds import ColumnKind, Kind, place_of, read_clock, read_values, read_words
from fewstep.tasks.labels import twin_hint

DAY = 86_400.0
MOST_HARMONICS = 10_000
FARTHEST = 1e15
"""standard deviations from the mean: what lies farther is an error of the table, and beyond float32 when it is squared"""
Period = Literal["annual", "weekly", "daily"]
PERIODS: dict[Period, float] = {"annual": 365.2425, "weekly": 7.0, "daily": 1.0}
"""Days. A date column gets harmonics of the periods that its span and its spacing can show."""


class InputColumn(Struct, frozen=True, forbid_unknown_fields=True):
    """One input column and its features: `(value − center) / scale`, for a date the harmonics of `periods` beside that trend,
    for a category one feature a known value, which is 1 or 0; and one more for gaps, where the meta-train rows had any."""

    name: str
    kind: Kind
    center: float = 0.0
    scale: Positive = 1.0
    periods: tuple[Period, ...] = ()
    harmonics: tuple[Annotated[int, Meta(ge=0, le=MOST_HARMONICS)], ...] = ()
    """how many of each period: the first has the period itself, the second half of it ..."""
    categories: tuple[str, ...] = ()
    gaps: bool = False
    """whether there is a feature that says that the value is not known"""
    date_format: str | None = None
    span: tuple[float, float] = (-float("inf"), float("inf"))
    """least and greatest value of the meta-train rows"""
    remark: str = ""
    written: str = ""
    """for a number: how it is written, as an example of it; empty for plain numbers"""
    zone: str = ""
    """for a date: whose clock its waves follow; empty where it has no time zone"""

    @property
    def how(self) -> ColumnKind:
        """How its values are read."""
        return ColumnKind(self.kind, self.date_format, written=self.written, zone=self.zone)

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
                told = f"{', '.join(strange)} from UTC, in training {self.zone}"
                notes.append(f"{self.name}: clocks {told}; all are taken as local")
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
    """One target column: a number, standardized, or a class, one of `classes`."""

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
    """Raises `BadInput` where standardized values of a column, NaN for gaps, lie absurdly far from those of training."""
    far = np.flatnonzero(np.abs(scaled) > FARTHEST)
    if far.size:
        raise BadInput(
            f"{source}: column {name!r} has {far.size} values ({place_of(table, far)}) more than {FARTHEST:g} standard "
            "deviations away from those of training. Correct them, or empty these cells."
        )
