"""fewstep resume RUN: go on where a run stopped (floor 6)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import tyro

from fewstep.cli.arguments import parse, prepare_jax
from fewstep.cli.train import complete
from fewstep.errors import BadInput


@dataclass(frozen=True)
class Resume:
    """Go on with an interrupted run, bit for bit as if it had never stopped."""

    run: Annotated[str, tyro.conf.Positional]
    """the run's folder"""
    env: str = ""
    """of a run of rl: names its environment again, module:factory, whose code is not run otherwise"""
    devices: int | Literal["all"] = "all"
    """the tasks of a meta-batch are split over so many devices; bit for bit is as many as before"""
    json: bool = False
    """print one JSON object on stdout"""


def main(argv: list[str]) -> int:
    arguments = parse(Resume, argv, "fewstep resume")
    prepare_jax()
    from fewstep import runs

    run = runs.open_run(arguments.run, arguments.env)
    if arguments.devices == "all":
        return complete(run.resume, arguments.run, arguments.json)
    if isinstance(run, runs.PolicyRun):
        raise BadInput(f"--devices splits tasks of models that predict, and {arguments.run} trains a policy.")
    return complete(partial(run.resume, devices=arguments.devices), arguments.run, arguments.json)
