"""fewstep adapt RUN --support FILE --out ADAPTED: fit a run to new units by rows of a table (floor 6)."""

from __future__ import annotations

import difflib
import json as to_json
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from fewstep.cli.arguments import one_choice_of_steps, prepare_jax, say, say_notes
from fewstep.errors import BadInput


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
        from fewstep.adapted.units import adapt
        from fewstep.tasks.reading import FILE, read_table

        run = runs.open_run(self.run)
        if not self.support:
            raise BadInput("--support is needed: the few rows of the new units.")
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
    from fewstep.adapted.certainty import span, uncalibrated

    say_notes((*model.trained.said, *model.notes))
    unlike, rows, steps = model.unlike, model.rows, model.report.steps
    say_units("warning: left out, since its rows cannot be read", model.left_out)
    if not model.certainty.finished:
        say(f"note: {uncalibrated(model.trained)}", json=True)
    elif not model.can_tell_unlike:
        say("note: nothing is known of how units like those of training adapt; only values far outside their range are flagged",
            json=True)  # fmt: skip
    say_units("unlike anything trained on", unlike)
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
        said = {"unlike": unlike, "held_back": model.held_back, "left_out": model.left_out, "notes": list(model.notes)}
        print(to_json.dumps({"adapted": out, **model.protocol, **said}))
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
