"""fewstep resume RUN: go on where a run stopped."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import tyro

from fewstep.cli.arguments import Together, parse, prepare_jax, say
from fewstep.cli.train import complete
from fewstep.errors import InputError


@dataclass(frozen=True)
class Resume:
    """Go on with an interrupted run, bit for bit as if it had never stopped."""

    run: Annotated[str, tyro.conf.Positional]
    """the run's folder"""
    env: str = ""
    """of a run of rl: names its environment again, module:factory, whose code is not run otherwise"""
    json: bool = False
    """print one JSON object on stdout"""
    together: Annotated[Together, tyro.conf.arg(name="")] = field(default_factory=Together)


def main(argv: list[str]) -> int:
    arguments = parse(Resume, argv, "fewstep resume")
    prepare_jax()
    from fewstep import runs

    together = arguments.together
    if together.process is not None and runs.is_trained(arguments.run):  # the others of it may have ended long ago
        if together.process > 0:
            say("this run is trained; process 0 does alone what follows", json=True)
            return 0
        together = Together(together.devices)
    devices = together.join()
    run = runs.open_run(arguments.run, arguments.env)
    if arguments.together.processes != 1 and "processes" not in run.application.capabilities:
        raise InputError(f"--processes: {run.config['problem']} knows no such thing. Leave it out.")
    if (run.directory / "evaluation.json").is_file() and runs.is_trained(run.directory):
        say("this run is done already: only what follows its training is done anew", json=True)
    return complete(partial(runs.resume, run, **devices), arguments.run, arguments.json)
