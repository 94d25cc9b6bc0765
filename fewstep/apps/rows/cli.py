"""fewstep adapt RUN --support FILE --out ADAPTED: fit a run to new units by rows of a table.

fewstep update ADAPTED --support MORE: adapt again from θ, to old and new rows together.

fewstep predict ADAPTED --inputs FILE --out FILE: predictions in the target's own units.
"""

from __future__ import annotations

import difflib
import json as to_json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fewstep.cli.arguments import one_choice_of_steps, prepare_jax, say, say_notes
from fewstep.errors import InputError
from fewstep.storage.tables import new_table, write_table


@dataclass(frozen=True)
class Adapt:
    """Fit a trained run to new units from the rows of a file with the training columns; the task column tells units apart."""

    run: Annotated[str, tyro.conf.Positional]
    """the run's folder"""
    out: str
    """folder for the adapted model"""
    support: str = ""
    """a CSV, TSV or Parquet file, or a pattern of them: the few rows of the new units, with inputs and target"""
    steps: str | None = None
    """adaptation steps, by default as trained; auto chooses them for each unit by leaving its rows out in turn"""
    json: bool = False
    """print one JSON object on stdout"""

    def __call__(self) -> int:
        steps = one_choice_of_steps(self.steps)
        prepare_jax()
        from fewstep import runs
        from fewstep.storage.tables import FILE, read_table
        from fewstep.supervised.adapted import adapt

        run = runs.open_run(self.run)
        if not self.support:
            raise InputError("--support is needed: the few rows of the new units.")
        format = run.problem(with_data=False).format
        table = read_table(self.support, labels=format.labels)
        model = adapt(run, table, self.support, steps)
        model.save(self.out)
        if model.units is None and model.format.task not in (None, FILE):
            near = difflib.get_close_matches(str(model.format.task), table.columns, n=1, cutoff=0.6)
            hint = f" If {near[0]!r} is that column, rename it." if near else ""
            say(f"note: no column {model.format.task!r}, so all rows are taken for those of one unit.{hint}", json=True)
        tell(model, self.out, self.json)
        return 0


def tell(model: Any, out: str, as_json: bool) -> None:
    """Says what was adapted: rows, steps, what is unlike training, what was left out. `model` is an `Adapted`."""
    from fewstep.supervised.adapted_rows import span, uncalibrated

    say_notes((*model.trained.messages, *model.notes))
    ood_reasons, rows, steps = model.ood_reasons, model.rows, model.report.steps
    say_units("warning: left out, since its rows cannot be read", model.left_out)
    if not model.conformal.finished:
        say(f"note: {uncalibrated(model.trained)}", json=True)
    elif not model.can_detect_ood:
        say("note: nothing is known of how units like those of training adapt; only values far outside their range are flagged",
            json=True)  # fmt: skip
    say_units("unlike anything trained on", ood_reasons)
    say_units("note: fewer adaptation steps", model.held_back)
    trained = model.problem.settings.shot_range
    beyond = int(((rows < trained.least) | (rows > trained.most)).sum())
    if beyond and model.problem.settings.adapter == "gradient" and model.steps != "auto":
        which = f"{rows[0]} support rows" if len(rows) == 1 else f"{beyond} units have other numbers of support rows"
        say(
            f"note: {which}, trained with {trained.shown}; the learned rates were not tried at this number. Try --steps auto.",
            json=True,
        )
    if model.problem.settings.adapter == "bayes-head" and model.steps != "auto" and model.steps > model.trained.trained_steps:
        say(f"note: trained with {model.trained.trained_steps} adaptation steps; Bayes' rule gains nothing by more", json=True)
    if as_json:
        record = {"unlike": ood_reasons, "held_back": model.held_back, "left_out": model.left_out, "notes": list(model.notes)}
        print(to_json.dumps({"adapted": out, **model.protocol, **record}))
    elif len(rows) == 1:
        say(f"adapted to {rows[0]} row{'' if rows[0] == 1 else 's'} in {steps[0]} step{'' if steps[0] == 1 else 's'} -> {out}")
    else:
        say(f"adapted {len(rows)} units to {span(rows)} rows each, in {span(steps)} adaptation steps -> {out}")


def say_units(what: str, reasons: dict[str, str]) -> None:
    """A line for each of the first ten units: what is to be said of it, its name, and why."""
    for name, reason in list(reasons.items())[:10]:
        say(f"{what}: {name}: {reason}", json=True)
    if len(reasons) > 10:
        say(f"... and {len(reasons) - 10} more units (all of them with --json)", json=True)


@dataclass(frozen=True)
class Update:
    """Adapt again, to the rows known so far and those of a file; new units join the others."""

    adapted: Annotated[str, tyro.conf.Positional]
    """the adapted model's folder"""
    support: str
    """a CSV, TSV or Parquet file, or a pattern of them: the new rows, with the columns of the old ones"""
    out: str | None = None
    """folder for the updated model; by default the old one is written over"""
    json: bool = False
    """print one JSON object on stdout"""

    def __call__(self) -> int:
        prepare_jax()
        from fewstep.storage.tables import read_table
        from fewstep.supervised.adapted_folder import open_units

        model = open_units(Path(self.adapted))
        model = model.update(read_table(self.support, labels=model.format.labels), self.support)
        if self.out is None:
            model.save_update(self.adapted)
        else:
            model.save(self.out)
        tell(model, self.out or self.adapted, self.json)
        return 0


@dataclass(frozen=True)
class Predict:
    """Predict with an adapted model: the inputs file, with prediction, lower and upper (or class probabilities) added."""

    adapted: Annotated[str, tyro.conf.Positional]
    """the adapted model's folder"""
    inputs: str
    """a CSV, TSV or Parquet file, or a pattern of them, with the input columns; of several units, with the task column too"""
    out: str
    """the file to write: .csv, .tsv, .parquet, .arrow, .feather, .json or .jsonl"""
    level: float | None = None
    """which part of rows lower and upper enclose, such as 0.9; by default 0.95 where enough units were left to calibrate it"""
    json: bool = False
    """print one JSON object on stdout"""

    def __call__(self) -> int:
        prepare_jax()
        import polars as pl

        from fewstep.storage.tables import read_table
        from fewstep.supervised.adapted_folder import open_units
        from fewstep.supervised.infer_kinds import in_numbers
        from fewstep.supervised.kinds import read_words

        out = new_table(self.out)
        model = open_units(Path(self.adapted))
        format = model.format
        table = in_numbers(read_table(self.inputs, labels=format.labels), format.how, self.inputs)
        notes: list[str] = []
        columns = model.columns(table, self.inputs, self.level, notes)
        if taken := [name for name in columns if name in table.columns]:
            raise InputError(f"{self.inputs}: there is a column {taken[0]!r} already. Rename it, or it would be lost.")
        series = [pl.Series(name, values) for name, values in columns.items()]
        empty = [each.fill_nan(None) if each.name.startswith(("lower", "upper")) else each for each in series]
        result = table.with_columns(*empty)
        write_table(result, out)
        say_notes((*model.trained.messages, *notes))
        asked = set(read_words(table, format.task, self.inputs)) if format.task in table.columns else {"it"}
        say_units("unlike anything trained on", {name: why for name, why in model.ood_reasons.items() if name in asked})
        targets = [target.name for target in model.format.targets]
        if self.json:
            print(to_json.dumps({"predictions": str(out), "rows": table.height, "columns": list(columns), "notes": notes}))
        else:
            say(f"{table.height} predictions of {' and '.join(map(repr, targets))} -> {out}")
        return 0
