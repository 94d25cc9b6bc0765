"""fewstep adapt RUN --support FILE --out ADAPTED: fit a run to one new task (floor 5)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from fewstep.cli.arguments import parse, prepare_jax, say
from fewstep.errors import BadInput


@dataclass(frozen=True)
class Adapt:
    """Fit a trained run to one new task from the rows of a file with the training columns."""

    run: Annotated[str, tyro.conf.Positional]
    """the run's folder"""
    support: str
    """a CSV, TSV or Parquet file: the few rows of the new task, with inputs and target"""
    out: str
    """folder for the adapted model"""
    steps: int | None = None
    """adaptation steps; by default as trained"""
    json: bool = False
    """print one JSON object on stdout"""


def main(argv: list[str]) -> int:
    arguments = parse(Adapt, argv, "fewstep adapt")
    if arguments.steps is not None and not 0 <= arguments.steps <= 10_000:
        raise BadInput(f"--steps should lie between 0 and 10000, got {arguments.steps}.")
    prepare_jax()
    from fewstep import adapted, runs
    from fewstep.tasks.columns import read_table

    run = runs.open_run(arguments.run)
    model = adapted.adapt(run, read_table(arguments.support), arguments.support, arguments.steps)
    model.save(arguments.out)
    rows, steps, trained = (model.protocol[name] for name in ("support_rows", "adaptation_steps", "trained_shots"))
    if rows != trained and run.settings.adapter == "gradient":
        say(f"note: {rows} support rows, trained with {trained}; the learned rates were not tried at this number.", json=True)
    if arguments.json:
        print(json.dumps({"adapted": arguments.out, **model.protocol}))
    else:
        say(f"adapted to {rows} rows in {steps} step{'s' * (steps != 1)} -> {arguments.out}")
    return 0
