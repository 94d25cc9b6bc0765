"""fewstep evaluate RUN: errors on held-out tasks after 0, 1, 5, 10 ... adaptation steps."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from fewstep.cli.arguments import choose_steps, parse, prepare_jax, say
from fewstep.cli.output import print_evaluation
from fewstep.errors import InputError


@dataclass(frozen=True)
class Evaluate:
    """Measure a run on meta-test tasks, and write evaluation.json where nothing but the defaults was asked for."""

    run: Annotated[str, tyro.conf.Positional]
    """the run's folder"""
    steps: str | None = None
    """numbers of adaptation steps to measure after, such as 0,1,5,auto; by default as after training"""
    tasks: int | None = None
    """how many distinct tasks at most; by default 1000, or 40 if a model acts in them"""
    shots: int | None = None
    """support examples; by default as trained"""
    ways: int | None = None
    """classes of a task; by default as trained"""
    queries: int | None = None
    """query examples of each class; by default as after training"""
    draws: int | None = None
    """episodes per task; by default 1, or 10 where there are fewer than 1000 tasks"""
    checkpoint: Literal["best", "last"] = "best"
    """which checkpoint: best on validation, or last"""
    env: str = ""
    """of a run of rl: names its environment again, module:factory, whose code is not run otherwise"""
    json: bool = False
    """print one JSON object on stdout"""


def main(argv: list[str]) -> int:
    arguments = parse(Evaluate, argv, "fewstep evaluate")
    steps = None if arguments.steps is None else choose_steps(arguments.steps)
    for name in ("tasks", "shots", "ways", "queries", "draws"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} should be at least 1, got {value}.")
    prepare_jax()
    from fewstep import runs

    run = runs.open_run(arguments.run, arguments.env)
    if arguments != Evaluate(arguments.run, env=arguments.env, json=arguments.json) or run.in_other_env:
        asked = {"shots": arguments.shots, "ways": arguments.ways, "queries": arguments.queries}
        setting_of = run.application.evaluation
        changes: dict[str, Any] = {setting_of.get(name, name): value for name, value in asked.items() if value is not None}
        result = run.evaluate(steps, arguments.tasks, arguments.draws, arguments.checkpoint, **changes)
    elif now := runs.activity(run.directory):
        say(f"note: {now}; this is its best checkpoint so far, and nothing is written", json=True)
        result = run.evaluate()
    else:
        if not os.access(run.directory, os.W_OK):
            raise InputError(f"{run.directory} cannot be written to. With --tasks 1000 it is measured, and nothing is written.")
        result = run.write_evaluation()
    if arguments.json:
        print(json.dumps(result))
    else:
        print_evaluation(result)
    return 0
