"""fewstep adapt RUN --support FILE --out ADAPTED: fit a run to new units (floor 6)."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from fewstep.cli.arguments import choose_steps, parse, prepare_jax, say, say_notes
from fewstep.errors import BadInput


@dataclass(frozen=True)
class Adapt:
    """Fit a trained run to new units from the rows of a file with the training columns (the task column tells units apart), or
    to new classes from a few photos of each, or a policy to a task by acting in it."""

    run: Annotated[str, tyro.conf.Positional]
    """the run's folder"""
    out: str
    """folder for the adapted model"""
    support: str = ""
    """a CSV, TSV or Parquet file, or a pattern of them: the few rows of the new units, with inputs and target; of images, a
    folder or zip with a folder of photos for each new class"""
    steps: str | None = None
    """adaptation steps, by default as trained; auto chooses them for each unit by leaving its rows out in turn"""
    task: str = ""
    """policies: the task, as its family understands it (a velocity, 1 or -1, a goal x,y, JSON); by default an unseen one"""
    updates: int = 3
    """policies: how often to adapt, each time on fresh trajectories"""
    rollouts: int | None = None
    """policies: trajectories for each update; by default as trained"""
    env: str = ""
    """policies: the environment to act in, module:factory; one of rl has to be named again, other runs bring theirs"""
    seed: int = 0
    """policies: decides everything random"""
    json: bool = False
    """print one JSON object on stdout"""


def main(argv: list[str]) -> int:
    arguments = parse(Adapt, argv, "fewstep adapt")
    steps = None if arguments.steps is None else choose_steps(arguments.steps)
    if steps is not None and len(steps) > 1:
        raise BadInput(f"--steps should be one number of adaptation steps, or auto, got {arguments.steps!r}.")
    prepare_jax()
    from fewstep import runs
    from fewstep.adapted import adapt as adapt_units
    from fewstep.problems.image_learning import ImageLearning
    from fewstep.tasks.reading import FILE, read_table

    run = runs.open_run(arguments.run, arguments.env)
    if isinstance(run, runs.PolicyRun):
        from fewstep.cli import policies

        return policies.adapt(run, arguments)
    if not arguments.support:
        raise BadInput("--support is needed: the few rows of the new units, or a folder with photos of the new classes.")
    if unused := [name for name in ("task", "updates", "rollouts", "seed") if getattr(arguments, name) != getattr(Adapt, name)]:
        raise BadInput(f"--{unused[0]} is for policies; {arguments.run} was trained on {run.config['problem']}.")
    if isinstance(run.settings, ImageLearning):
        from fewstep.cli import photos

        return photos.adapt(run, arguments.support, arguments.out, steps[0] if steps else None, arguments.json)
    format = run.settings.read_format(run.config["format"])
    table = read_table(arguments.support, labels=format.labels)
    model = adapt_units(run, table, arguments.support, steps[0] if steps else None)
    model.save(arguments.out)
    if model.units is None and model.format.task not in (None, FILE):
        near = difflib.get_close_matches(str(model.format.task), table.columns, n=1, cutoff=0.6)
        hint = f" If {near[0]!r} is that column, rename it." if near else ""
        say(f"note: no column {model.format.task!r}, so all rows are taken for those of one unit.{hint}", json=True)
    tell(model, arguments.out, arguments.json)
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
        print(json.dumps({"adapted": out, **model.protocol, **said}))
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
