"""Adapted models of rows: one unit or a fleet after adaptation, its predictions, and updates with new rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import polars as pl

from fewstep.application import ADAPTED
from fewstep.core.problem import Problem
from fewstep.core.types import Examples, Params
from fewstep.errors import InputError
from fewstep.storage.arrays import write_arrays
from fewstep.storage.files import new_directory, write_json
from fewstep.supervised.adapted_rows import (
    ConformalPredictor,
    align_types,
    drop_units,
    far_from_training,
    labeled,
    read_units,
    significant,
    support_columns,
    write_support,
)
from fewstep.supervised.columns import TableFormat
from fewstep.supervised.fit import OOD_FEATURES, Steps
from fewstep.supervised.kinds import read_values, read_words
from fewstep.supervised.labels import note_twins, twin_hint
from fewstep.supervised.padding import bucket, pad_units, stack_units, within_units
from fewstep.supervised.trained import Report, Trained

if TYPE_CHECKING:
    from fewstep.runs import Run

RowsOfUnits = tuple[pl.DataFrame, np.ndarray]
"""rows, and the index of each row's unit, [rows]"""


class RowPredictions(NamedTuple):
    """Predictions for rows of one or more units."""

    conformal: ConformalPredictor
    """for all units, including those without support rows"""
    owner: np.ndarray
    """[rows]: the index of each row's unit"""
    outputs: np.ndarray
    """[rows, outputs]"""
    deviation: np.ndarray
    """[rows, outputs]"""
    is_ood: np.ndarray
    """[rows]: whether the unit is out of distribution, or the inputs of the row are far outside the trained range"""

    def bounds(self, percent: int) -> tuple[np.ndarray, np.ndarray]:
        """(lower, upper) [rows, outputs]; NaN for out-of-distribution rows, for which no interval is valid."""
        lower, upper = self.conformal.bounds(self.outputs, self.deviation, self.owner, percent)
        return np.where(self.is_ood[:, None], np.nan, lower), np.where(self.is_ood[:, None], np.nan, upper)


def owners(
    table: pl.DataFrame, task: str | None, units: tuple[str, ...] | None, count: int, source: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """([rows] index of each row's unit, from the column `task`; names of units that are not among the `count` known ones, whose
    indices follow). Known units may have no names.

    Raises `InputError` if a row names no unit.
    """
    if task is None or task not in table.columns:
        if count > 1:
            raise InputError(f"{source}: expected the column {task!r}, which says of which of the {count} units a row is.")
        return np.zeros(table.height, int), ()
    names = read_words(table, task, source)
    if units is None:
        if names.n_unique() > 1:
            raise InputError(f"{source}: expected rows of the one adapted unit, found {names.n_unique()} values of {task!r}.")
        return np.zeros(table.height, int), ()
    if names.null_count():
        raise InputError(f"{source}: column {task!r} names no unit in {names.null_count()} rows. Fill or remove them.")
    others = tuple(names.filter(~names.is_in(units)).unique(maintain_order=True).to_list())
    numbers = {name: number for number, name in enumerate((*units, *others))}
    return names.replace_strict(numbers, return_dtype=pl.Int64).to_numpy(), others


def known_rows(support: Examples, inputs: np.ndarray, owner: np.ndarray) -> list[str]:
    """A note on rows with the same inputs as a support row of their unit, if there are any. `support` [units, rows, ...]."""
    known = [
        {row.tobytes() for row, weight in zip(rows, weights, strict=True) if weight.any()}
        for rows, weights in zip(np.asarray(support.inputs), np.asarray(support.weight), strict=True)
    ]
    shared = sum(row.tobytes() in known[unit] for row, unit in zip(np.ascontiguousarray(inputs), owner, strict=True))
    if not shared:
        return []
    return [f"{shared} of {len(inputs)} rows have the inputs of a support row: of these it may know the answer"]


def past_rows(format: TableFormat, time: str, support: RowsOfUnits, wanted: RowsOfUnits, source: str) -> list[str]:
    """A note on rows that precede the last support row of their unit, if there are any; for models trained to forecast in
    `time`."""
    column = next((column for column in format.inputs if column.name == time), None)
    if column is None or support[0].height == 0:
        return []
    (known, of_known), (moments, owner) = (
        (read_values(rows, time, column.how, source), units) for rows, units in (support, wanted)
    )
    last = np.full(max(of_known.max(), owner.max(initial=0)) + 1, -np.inf)
    np.maximum.at(last, of_known, np.nan_to_num(known, nan=-np.inf))
    past = int((moments < last[owner]).sum())
    if not past:
        return []
    return [f"{past} of {moments.size} rows precede known rows of their unit; the run was trained to forecast alone"]


FILE, PARAMETERS, SUPPORT = ADAPTED, "parameters.npz", "support.parquet"
UNLIKE, ROWS = "unlike_training", "support_rows"
"""columns of predictions: whether the unit or the row is out of distribution, so that it has no interval; the number of support
rows of its unit"""


@dataclass(frozen=True)
class Adapted:
    """One or more units after adaptation, ready to predict."""

    trained: Trained
    table: pl.DataFrame
    """the support rows as they were read: the task column if there is one, inputs and targets"""
    units: tuple[str, ...] | None
    """names of the units; None for one without a name"""
    support: Examples
    """[units, rows, ...], padded"""
    steps: Steps
    report: Report
    notes: tuple[str, ...] = ()
    far: dict[str, str] = field(default_factory=dict)
    """units with support values far outside the trained range, with the reason"""
    left_out: dict[str, str] = field(default_factory=dict)
    """units that are not adapted since their rows could not be read, with the reason"""

    @staticmethod
    def without_rows(trained: Trained, steps: Steps | None = None) -> Adapted:
        """A unit without support rows, which predicts from the prior."""
        format = trained.problem.format
        empty = stack_units(np.zeros((0, format.features)), np.zeros((0, format.outputs)), np.zeros(0, int), 1)
        steps = trained.trained_steps if steps is None else steps
        return Adapted(trained, pl.DataFrame(), None, empty, steps, nothing_done(1))

    @property
    def problem(self) -> Problem:
        return self.trained.problem

    @property
    def format(self) -> TableFormat:
        return self.problem.format

    @property
    def rows(self) -> np.ndarray:
        """[units]: number of support rows of each."""
        weight = np.asarray(self.support.weight)
        return weight.reshape(*weight.shape[:2], -1).any(2).sum(1)

    @property
    def conformal(self) -> ConformalPredictor:
        return ConformalPredictor(self.trained, self.rows, self.steps)

    @property
    def params(self) -> Params:
        """θ′, if there is one unit."""
        if len(self.rows) > 1:
            raise ValueError(f"expected one adapted unit, there are {len(self.rows)}")
        return self.trained.adapt(jax.tree.map(lambda leaf: leaf[0], self.support), self.steps)

    @property
    def ood_reasons(self) -> dict[str, str]:
        """Out-of-distribution units, by name, with the reason."""
        found = {}
        for name, rows, features in zip(self._names, self.rows, self.report.ood_features, strict=True):
            unusable = self.left_out.get(name) if rows == 0 else None
            reasons = (unusable, self.far.get(name), self.trained.ood_reason(int(rows), features, self.steps))
            if any(reasons):
                found[name] = "; ".join(filter(None, reasons))
        return found

    @property
    def held_back(self) -> dict[str, str]:
        """Units that made fewer adaptation steps than requested, since all steps would increase the error on their support
        rows; with the reason."""
        if self.steps == "auto":
            return {}
        reason = (
            f"after {self.steps} adaptation step{'s' * (self.steps != 1)} its support rows would be missed more than before"
        )
        taken = zip(self._names, self.rows, self.report.steps, strict=True)
        return {name: f"{reason}; {steps} taken" for name, rows, steps in taken if rows and steps < self.steps}

    @property
    def _names(self) -> tuple[str, ...]:
        return self.units or ("it",)

    @property
    def can_detect_ood(self) -> bool:
        """Whether the calibration has OOD thresholds for these units."""
        return all(self.trained.can_detect_ood(int(rows), self.steps) for rows in set(self.rows.tolist()))

    @property
    def protocol(self) -> dict[str, Any]:
        """Support rows and adaptation steps, of the one unit or by name, and the trained shots."""
        rows, steps = (values.tolist() for values in (self.rows, self.report.steps))
        single = self.units is None or len(self.units) == 1
        return {
            "support_rows": rows[0] if single else dict(zip(self.units or (), rows, strict=True)),
            "adaptation_steps": steps[0] if single else dict(zip(self.units or (), steps, strict=True)),
            "trained_shots": self.problem.settings.shot_range.shown,
        }

    def predict(self, table: pl.DataFrame, source: str = "the inputs", notes: list[str] | None = None) -> np.ndarray:
        """Predictions in the targets' own units, [rows], or [rows, targets] for several targets; for classes, the most probable
        one [rows].

        Units without support rows get the prediction before adaptation. Raises `InputError` if a training column is missing, or
        if a row names no unit.
        """
        outputs = self._predict_rows(table, source, notes).outputs
        if self.format.classes:
            return np.array(self.format.classes)[outputs.argmax(-1)]
        restored = self.format.restore(outputs)
        return restored[:, 0] if restored.shape[1] == 1 else restored

    def predict_proba(self, table: pl.DataFrame, source: str = "the inputs") -> np.ndarray:
        """Calibrated probabilities [rows, classes], in the order of `format.classes`."""
        answers = self._predict_rows(table, source, None)
        return answers.conformal.probabilities(answers.outputs, answers.owner)

    def predict_interval(
        self, table: pl.DataFrame, level: float | None = None, source: str = "the inputs"
    ) -> tuple[np.ndarray, np.ndarray]:
        """(lower, upper), each [rows] or [rows, targets], calibrated on units that serve for nothing else. `level` defaults to
        the highest of the default levels that the calibration supports. NaN for out-of-distribution units and inputs. Raises
        `InputError` if the calibration does not support `level`."""
        percent = self.conformal.level(level)
        if percent is None:
            raise InputError(self.conformal.why_none(95))
        bounds = self._predict_rows(table, source, None).bounds(percent)
        return tuple(bound[:, 0] if bound.shape[1] == 1 else bound for bound in bounds)  # type: ignore[return-value]

    def columns(self, table: pl.DataFrame, source: str, level: float | None, notes: list[str]) -> dict[str, np.ndarray]:
        """The columns that `fewstep predict` adds: prediction, lower and upper, or the class and the probability of each; and
        for every row, whether it is out of distribution and how many support rows its unit has. Missing bounds are NaN."""
        percent = None if self.format.classes and level is None else self.conformal.level(level)
        answers = self._predict_rows(table, source, notes)
        beside = {UNLIKE: answers.is_ood, ROWS: answers.conformal.rows[answers.owner]}
        if self.format.classes:
            probabilities = answers.conformal.probabilities(answers.outputs, answers.owner)
            named = {f"probability_{name}": significant(probabilities[:, i]) for i, name in enumerate(self.format.classes)}
            return {"prediction": np.array(self.format.classes)[answers.outputs.argmax(-1)], **named, **beside}
        parts = {"prediction": self.format.restore(answers.outputs)}
        if percent is None:
            notes.append(self.conformal.why_none(95))
        else:
            parts["lower"], parts["upper"] = answers.bounds(percent)
            notes.append(
                f"lower and upper enclose {percent} % of rows, on average over units like the "
                f"{self.conformal.calibrated_on()} that they were calibrated on"
            )
            if empty := int(np.isnan(parts["lower"]).any(1).sum()):
                why = "they or their unit are unlike training, or nothing was calibrated for so few support rows"
                notes.append(f"{empty} of {len(answers.owner)} rows have no lower and upper: {why}")
        parts = {name: significant(values) for name, values in parts.items()}
        targets = [target.name for target in self.format.targets]
        if len(targets) == 1:
            return {**{name: values[:, 0] for name, values in parts.items()}, **beside}
        each = {f"{name}_{target}": values[:, i] for i, target in enumerate(targets) for name, values in parts.items()}
        return {**each, **beside}

    def _predict_rows(self, table: pl.DataFrame, source: str, notes: list[str] | None) -> RowPredictions:
        inputs = self.format.encode_inputs(table, source, notes)
        owner, others = owners(table, self.format.task, self.units, len(self.rows), source)
        fleet = self.joined_by(others) if others else self
        place = within_units(owner)
        size = (bucket(len(fleet.rows)) if len(fleet.rows) > 1 else 1, bucket(int(place.max(initial=0)) + 1))
        batch = np.zeros((*size, inputs.shape[1]), np.float32)
        batch[owner, place] = inputs
        predicted = self.trained.predict(pad_units(fleet.support, size[0]), batch, self.steps)
        ood_reasons = fleet.ood_reasons
        far = np.any(
            list(self.format.far_outside(table, source, targets=False).values()) or [np.zeros(owner.size, bool)], axis=0
        )
        if notes is not None:
            notes += known_rows(fleet.support, inputs, owner)
            if time := getattr(self.problem.settings, "time", ""):
                of_support, _ = owners(self.table, self.format.task, self.units, len(self.rows), source)
                notes += past_rows(self.format, time, (self.table, of_support), (table, owner), source)
            if others:
                shown = ", ".join(map(repr, others[:3])) + ", ..." * (len(others) > 3) + twin_hint(others[0], self.units or ())
                count = int((owner >= len(self.rows)).sum())
                notes.append(f"{count} of {owner.size} rows are of {len(others)} units without support rows ({shown}): "
                             "their predictions are those before adaptation")  # fmt: skip
            if far.any():
                notes.append(f"{far.sum()} of {owner.size} rows have inputs far outside the trained range")
        far |= np.array([name in ood_reasons for name in fleet._names])[owner]
        return RowPredictions(fleet.conformal, owner, predicted.outputs[owner, place], predicted.deviation[owner, place], far)

    def joined_by(self, units: tuple[str, ...]) -> Adapted:
        """These units and `others` without support rows."""
        more, report = nothing_done(len(units)), self.report
        report = Report(*(np.concatenate(parts) for parts in zip(report, more, strict=True)))
        names = (*(self.units or ()), *units)
        return replace(self, units=names, support=pad_units(self.support, len(names)), report=report)

    def update(self, table: pl.DataFrame, source: str = "the new rows") -> Adapted:
        """Adapts again from θ to the union of old and new rows. Raises `InputError` if the columns differ."""
        notes: list[str] = []
        new = labeled(table, self.format, source)
        _, odd = read_units(new, self.format, source, [])
        new = support_columns(drop_units(new, odd, self.format), self.format, source)
        if set(new.columns) != set(self.table.columns):
            differing = ", ".join(map(repr, sorted(set(new.columns) ^ set(self.table.columns))))
            raise InputError(f"{source}: expected the columns of the rows known so far, but they differ in {differing}.")
        old, new = align_types(self.table, new.select(self.table.columns), self.format, source)
        known = set(old.rows())
        fresh = new.filter(pl.Series([row not in known for row in new.rows()], dtype=pl.Boolean))
        adapted = adapt(self.trained, pl.concat([old, fresh]), source, self.steps)
        if fresh.height < new.height:
            notes.append(f"{new.height - fresh.height} of {new.height} rows were known already and count once")
        before = {name: reason for name, reason in self.left_out.items() if name not in (adapted.units or ())}
        return replace(adapted, notes=(*adapted.notes, *notes), left_out={**before, **odd})

    def save(self, directory: str | Path) -> None:
        """Writes the adapted units into a new folder."""
        directory = new_directory(directory)
        write_arrays(directory / PARAMETERS, self.trained.params)
        write_support(directory / SUPPORT, self.table)
        self._write_rest(directory)

    def _write_rest(self, directory: Path) -> None:
        saved = {
            **self.trained.about(),
            "steps": self.steps,
            "protocol": self.protocol,
            "left_out": self.left_out,
        }
        write_json(directory / FILE, saved)

    def save_update(self, directory: str | Path) -> None:
        """Replaces the support rows in `directory` atomically."""
        write_support(Path(directory) / SUPPORT, self.table)
        self._write_rest(Path(directory))


def adapt(
    model: Run | Trained, table: pl.DataFrame, source: str = "the support set", steps: Steps | None = None, which: str = "best"
) -> Adapted:
    """Adapts a trained model to the rows of one unit, or of all units in the task column, in one compiled call.

    Units whose rows cannot be read are left out if there are others. Raises `InputError` for missing columns, if no row has a
    known target, and if no unit can be read.
    """
    trained = model if isinstance(model, Trained) else Trained.of(model, which)
    format = trained.problem.format
    steps = trained.trained_steps if steps is None else steps
    notes: list[str] = []
    table = labeled(table, format, source)
    rows, left_out = read_units(table, format, source, notes, trained.problem.settings.adapter == "in-context")
    named = format.task is not None and format.task in table.columns
    names = rows.table[str(format.task)] if named else pl.Series(["it"] * rows.table.height)
    units = tuple(names.unique(maintain_order=True).to_list())
    note_twins(str(format.task), units, "units", notes)
    owner = names.replace_strict({name: number for number, name in enumerate(units)}, return_dtype=pl.Int64).to_numpy()
    support = stack_units(rows.inputs, rows.targets, owner, len(units), rows.known)
    padded = pad_units(support, bucket(len(units)) if len(units) > 1 else 1)
    report = Report(*(values[: len(units)] for values in trained.report(padded, steps)))
    far = far_from_training(rows.table, format, owner, units)
    return Adapted(trained, rows.table, units if named else None, support, steps, report, tuple(notes), far, left_out)


def nothing_done(units: int) -> Report:
    """The report of units without support rows: no steps, and not out of distribution."""
    return Report(np.zeros(units, int), np.full((units, len(OOD_FEATURES)), -np.inf))
