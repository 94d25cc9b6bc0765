"""Columns of a table as a network's inputs and outputs, and back (floor 1). Used by every problem whose tasks are rows.

What is learned from data here (means, scales, categories, the span of a date) comes from the meta-train rows alone, is plain
JSON, and travels with the run: a support file next year is read exactly as the training table was.
"""

from __future__ import annotations

from itertools import chain
from typing import Annotated, Any

import msgspec
import numpy as np
import polars as pl
from msgspec import Meta, Struct

from fewstep.errors import BadInput
from fewstep.plain import validate
from fewstep.tasks.column import InputColumn, TargetColumn, require_near
from fewstep.tasks.kinds import ColumnKind, read_values, read_words
from fewstep.tasks.labels import twin_hint
from fewstep.tasks.numerals import split_example


class TableFormat(Struct, frozen=True, forbid_unknown_fields=True):
    """Which columns are read, how, and how predictions return to the target's own units."""

    inputs: Annotated[tuple[InputColumn, ...], Meta(min_length=1)]
    targets: Annotated[tuple[TargetColumn, ...], Meta(min_length=1)]
    task: str | None = None
    """the column whose values name the tasks; None where a file holds one task"""

    @property
    def features(self) -> int:
        return sum(column.features for column in self.inputs)

    @property
    def how(self) -> dict[str, ColumnKind]:
        """How each column that is read is read."""
        return {column.name: column.how for column in (*self.inputs, *self.targets)}

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns whose text is a name: of units, of categories, of classes."""
        return tuple(filter(None, (self.task, *(name for name, how in self.how.items() if how.kind == "category"))))

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
        """([rows, outputs] float32, [rows, targets] which targets are known): standardized, or 1 for the class and 0 for
        others; 0 where a target is not known.

        Raises `BadInput` for a missing column, for what is no number, for a class that training did not know.
        """
        if self.classes:
            words = read_words(table, self.targets[0].name, source)
            unknown = words.filter(~words.is_in(self.classes)).drop_nulls().unique()
            if unknown.len():
                hint = twin_hint(unknown[0], self.classes)
                raise BadInput(
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
        """name of a column -> [rows] whether its value lies outside the trained range by more than the width of that range; of
        numbers among the inputs, and with `targets` among these. What a network makes of such values is anyone's guess."""
        numbers = [column for column in self.inputs if column.kind == "number"]
        numbers += [column for column in self.targets if not column.classes] if targets else []
        found = {}
        for column in numbers:
            values, (low, high) = read_values(table, column.name, column.how, source), column.span
            width = max(high - low, column.scale)
            found[column.name] = (values < low - width) | (values > high + width)
        return found

    def range_of(self, name: str) -> str:
        """The trained range of a column of numbers, in words."""
        low, high = next(column.span for column in (*self.inputs, *self.targets) if column.name == name)
        return f"{low:.4g} to {high:.4g}"

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
            column.describe()  # a moment beyond the calendar is found here
            if column.zone[:1] not in ("+", "-"):
                pl.select(pl.datetime(2000, 1, 1, time_zone=column.zone or None))
            if len(column.periods) != len(column.harmonics):
                raise ValueError(f"{column.name} has the periods {column.periods}")
        for column in (*format.inputs, *format.targets):
            split_example(column.written)
        return format


def _with_infinite_ends(column: Any) -> Any:
    """A saved column, with an infinite end of its span for each null: JSON has no infinite numbers."""
    if not isinstance(column, dict) or not isinstance(span := column.get("span"), (list, tuple)) or len(span) != 2:
        return column
    return {**column, "span": [end if known is None else known for end, known in zip((-np.inf, np.inf), span, strict=True)]}
