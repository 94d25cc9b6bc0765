"""fewstep resume RUN: go on where a run stopped (floor 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from fewstep.cli.arguments import parse, prepare_jax, say
from fewstep.cli.train import finish


@dataclass(frozen=True)
class Resume:
    """Go on with an interrupted run, bit for bit as if it had never stopped."""

    run: Annotated[str, tyro.conf.Positional]
    """the run's folder"""
    json: bool = False
    """print one JSON object on stdout"""


def main(argv: list[str]) -> int:
    arguments = parse(Resume, argv, "fewstep resume")
    prepare_jax()
    from fewstep import plots, runs
    from fewstep.training.loop import Interrupted

    run = runs.open_run(arguments.run)
    try:
        run.resume()
    except Interrupted:
        say(f"Interrupted; the run is saved. Go on with: fewstep resume {arguments.run}", json=True)
        return 130
    return finish(run, arguments.json, plots)
