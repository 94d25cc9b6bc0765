"""One unit or a whole fleet after adaptation: what it predicts, how it was got, and more rows for it (floor 4)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl

from fewstep.adapted.asked import known_rows, owners, past_rows
from fewstep.adapted.certainty import Certainty, significant
from fewstep.adapted.rows import alike, support_columns, write_support
from fewstep.arrays import write_arrays
from fewstep.errors import BadInput
from fewstep.problem import Problem
from fewstep.runs import Run, new_directory, write_json
from fewstep.tasks.columns import TableFormat
from fewstep.tasks.kinds import read_words
from fewstep.tasks.labels import note_twins
from fewstep.tasks.table import bucket
from fewstep.tasks.units import pad_units, stack_units, within_units
from fewstep.trained import Report, Trained
from fewstep.training.fit import SIGNS, Steps
from fewstep.types import Examples, Params

FILE, PARAMETERS, SUPPORT = "adapted.json", "parameters.npz", "support.parquet"


@dataclass(frozen=True)
class Adapted:
    """One or more units after adaptation, ready to predict."""

    trained: Trained
    table: pl.DataFrame
    """the support rows as they came: the task column where there is one, inputs and targets"""
    units: tuple[str, ...] | None
    """names of the units; None for one without a name"""
    support: Examples
    """[units, rows, ...], padded"""
    steps: Steps
    report: Report
    notes: tuple[str, ...] = ()

    @staticmethod
    def without_rows(trained: Trained, steps: Steps | None = None) -> Adapted:
        """A unit of which no row is known: it predicts from the prior."""
        format = trained.problem.format
        empty = stack_units(np.zeros((0, format.features)), np.zeros((0, format.outputs)), np.zeros(0, int), 1)
        steps = trained.trained_steps if steps is None else steps
        nothing = Report(np.zeros(1, int), np.full((1, len(SIGNS)), -np.inf), np.ones(1, bool))  # no sign of anything unlike
        return Adapted(trained, pl.DataFrame(), None, empty, steps, nothing)

    @property
    def problem(self) -> Problem:
        return self.trained.problem

    @property
    def format(self) -> TableFormat:
        return self.problem.format

    @property
    def rows(self) -> np.ndarray:
        """[units]: how many support rows each has."""
        return np.asarray(self.support.weight).sum(1).astype(int)

    @property
    def certainty(self) -> Certainty:
        return Certainty(self.trained, self.rows, self.steps)

    @property
    def params(self) -> Params:
        """θ′ of the one unit."""
        if len(self.rows) > 1:
            raise ValueError(f"expected one adapted unit, there are {len(self.rows)}")
        return self.trained.adapt(jax.tree.map(lambda leaf: leaf[0], self.support), self.steps)

    @property
    def unlike(self) -> dict[str, str]:
        """Units unlike anything trained on, with the reason in words."""
        names = self.units or ("it",)
        reasons = {
            name: self.trained.why_unlike(int(rows), signs, self.steps)
            for name, rows, signs in zip(names, self.rows, self.report.signs, strict=True)
        }
        return {name: reason for name, reason in reasons.items() if reason}

    @property
    def can_tell_unlike(self) -> bool:
        """Whether there were units enough to calibrate what is unlike."""
        return all(self.trained.tells_unlike(int(rows), self.steps) for rows in set(self.rows.tolist()))

    @property
    def protocol(self) -> dict[str, Any]:
        """How it was got: rows and steps, of one unit or of each by name; the trained shots."""
        rows, steps = (values.tolist() for values in (self.rows, self.report.steps))
        single = self.units is None or len(self.units) == 1
        return {
            "support_rows": rows[0] if single else dict(zip(self.units or (), rows, strict=True)),
            "adaptation_steps": steps[0] if single else dict(zip(self.units or (), steps, strict=True)),
            "trained_shots": self.problem.settings.shot_range.shown,
        }

    def predict(self, table: pl.DataFrame, source: str = "the inputs", notes: list[str] | None = None) -> np.ndarray:
        """Predictions in the targets' own units, [rows], or [rows, targets] of several; of classes, the likeliest [rows].

        Raises `BadInput` where a training column is missing, or a row belongs to no adapted unit.
        """
        outputs, _, _ = self._ask(table, source, notes)
        if self.format.classes:
            return np.array(self.format.classes)[outputs.argmax(-1)]
        restored = self.format.restore(outputs)
        return restored[:, 0] if restored.shape[1] == 1 else restored

    def predict_proba(self, table: pl.DataFrame, source: str = "the inputs") -> np.ndarray:
        """Calibrated probabilities [rows, classes], in the order of `format.classes`."""
        return self.certainty.probabilities(*self._ask(table, source, None)[::2])

    def predict_interval(
        self, table: pl.DataFrame, level: float | None = None, source: str = "the inputs"
    ) -> tuple[np.ndarray, np.ndarray]:
        """(lower, upper), each [rows] or [rows, targets]: calibrated on units that served for nothing else. By default at the
        highest usual level that their number allows. Raises `BadInput` where a level is asked for that it does not."""
        percent = self.certainty.level(level)
        if percent is None:
            raise BadInput(self.certainty.why_none(95))
        bounds = self.certainty.bounds(*self._ask(table, source, None), percent)
        return tuple(bound[:, 0] if bound.shape[1] == 1 else bound for bound in bounds)  # type: ignore[return-value]

    def columns(self, table: pl.DataFrame, source: str, level: float | None, notes: list[str]) -> dict[str, np.ndarray]:
        """The columns that `fewstep predict` adds: prediction, lower and upper, or the class and the probability of each."""
        percent = None if self.format.classes and level is None else self.certainty.level(level)
        outputs, spread, owner = self._ask(table, source, notes)
        if self.format.classes:
            probabilities = self.certainty.probabilities(outputs, owner)
            named = {f"probability_{name}": significant(probabilities[:, i]) for i, name in enumerate(self.format.classes)}
            return {"prediction": np.array(self.format.classes)[outputs.argmax(-1)], **named}
        parts = {"prediction": self.format.restore(outputs)}
        if percent is None:
            notes.append(self.certainty.why_none(95))
        else:
            parts["lower"], parts["upper"] = self.certainty.bounds(outputs, spread, owner, percent)
            notes.append(
                f"lower and upper enclose {percent} % of rows, on average over units like the "
                f"{self.certainty.calibrated_on()} that they were calibrated on"
            )
        parts = {name: significant(values) for name, values in parts.items()}
        targets = [target.name for target in self.format.targets]
        if len(targets) == 1:
            return {name: values[:, 0] for name, values in parts.items()}
        return {f"{name}_{target}": values[:, i] for i, target in enumerate(targets) for name, values in parts.items()}

    def _ask(self, table: pl.DataFrame, source: str, notes: list[str] | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(outputs [rows, outputs], deviations [rows, outputs], the number of each row's unit [rows])."""
        inputs = self.format.encode_inputs(table, source, notes)
        owner = self._owners(table, source)
        place = within_units(owner)
        size = (bucket(len(self.rows)) if len(self.rows) > 1 else 1, bucket(int(place.max(initial=0)) + 1))
        asked = np.zeros((*size, inputs.shape[1]), np.float32)
        asked[owner, place] = inputs
        answer = self.trained.answer(pad_units(self.support, size[0]), asked, self.steps)
        if notes is not None:
            notes += known_rows(self.support, inputs, owner)
            if time := getattr(self.problem.settings, "time", ""):
                support = self.table, self._owners(self.table, source)
                notes += past_rows(self.format, time, support, (table, owner), source)
        return answer.outputs[owner, place], answer.deviation[owner, place], owner

    def _owners(self, table: pl.DataFrame, source: str) -> np.ndarray:
        """[rows]: the number of the unit that each row belongs to."""
        return owners(table, self.format.task, self.units, len(self.rows), source)

    def update(self, table: pl.DataFrame, source: str = "the new rows") -> Adapted:
        """Adapted again from θ, to old and new rows together. Raises `BadInput` where the columns differ."""
        new = support_columns(table, self.format, source)
        if set(new.columns) != set(self.table.columns):
            odd = ", ".join(map(repr, sorted(set(new.columns) ^ set(self.table.columns))))
            raise BadInput(f"{source}: expected the columns of the rows known so far, but they differ in {odd}.")
        old, new = alike(self.table, new.select(self.table.columns), self.format, source)
        known = set(old.rows())
        fresh = new.filter(pl.Series([row not in known for row in new.rows()], dtype=pl.Boolean))
        adapted = adapt(self.trained, pl.concat([old, fresh]), source, self.steps)
        if fresh.height < new.height:
            said = f"{new.height - fresh.height} of {new.height} rows were known already and count once"
            adapted = replace(adapted, notes=(*adapted.notes, said))
        return adapted

    def save(self, directory: str | Path) -> None:
        """Writes the adapted units into a new folder."""
        directory = new_directory(directory)
        write_arrays(directory / PARAMETERS, self.trained.params)
        write_support(directory / SUPPORT, self.table)
        saved = {
            "run": self.trained.config,
            "calibration": self.trained.calibration,
            "findings": list(self.trained.findings),
            "steps": self.steps,
            "protocol": self.protocol,
        }
        write_json(directory / FILE, saved)

    def save_update(self, directory: str | Path) -> None:
        """Writes the support rows over those in `directory`: whole, or not at all."""
        write_support(Path(directory) / SUPPORT, self.table)


def adapt(
    model: Run | Trained, table: pl.DataFrame, source: str = "the support set", steps: Steps | None = None, which: str = "best"
) -> Adapted:
    """Adapts a trained model to the rows of one unit, or of all units that the task column names, in one compiled call.

    Raises `BadInput` for missing columns, for no row with a known target, and where adaptation does not stay finite.
    """
    trained = model if isinstance(model, Trained) else Trained.of(model, which)
    format = trained.problem.format
    steps = trained.trained_steps if steps is None else steps
    notes: list[str] = []
    table = support_columns(table, format, source)
    targets, known = format.encode_targets(table, source)
    if not known.all():
        notes.append(f"{(~known).sum()} of {known.size} rows lack the target and are left out")
        table, targets = table.filter(pl.Series(known)), targets[known]
    if table.height == 0:
        names = " and ".join(repr(target.name) for target in format.targets)
        raise BadInput(f"{source}: expected rows with a value of {names}, found none.")
    inputs = format.encode_inputs(table, source, notes)
    named = format.task is not None and format.task in table.columns
    names = read_words(table, format.task, source) if named and format.task else pl.Series(["it"] * table.height)
    if names.null_count():
        raise BadInput(f"{source}: column {format.task!r} names no unit in {names.null_count()} rows. Fill or remove them.")
    units = tuple(names.unique(maintain_order=True).to_list())
    note_twins(str(format.task), units, "units", notes)
    owner = names.replace_strict({name: number for number, name in enumerate(units)}, return_dtype=pl.Int64).to_numpy()
    support = stack_units(inputs, targets, owner, len(units))
    padded = pad_units(support, bucket(len(units)) if len(units) > 1 else 1)
    report = Report(*(values[: len(units)] for values in trained.report(padded, steps)))
    if not report.finite.all():
        wild = units[int(report.finite.argmin())]
        raise BadInput(
            f"{source}: adaptation{'' if len(units) == 1 else f' of {wild!r}'} in {steps} steps does not stay finite on these "
            "rows. Try fewer --steps, or look for extreme values."
        )
    return Adapted(trained, table, units if named else None, support, steps, report, tuple(notes))
