"""fewstep plot RUN: the pictures of a run, from its files alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from fewstep.cli.arguments import parse, say


@dataclass(frozen=True)
class Plot:
    """Draw the pictures of a run again, from the files in its folder."""

    run: Annotated[str, tyro.conf.Positional]
    """the run's folder"""
    json: bool = False
    """print one JSON object on stdout"""


def main(argv: list[str]) -> int:
    arguments = parse(Plot, argv, "fewstep plot")
    from fewstep import plots
    from fewstep.runs import activity

    pictures = plots.draw(arguments.run)
    if now := activity(arguments.run):
        say(f"note: {now}; the pictures show what it has written so far", json=True)
    if arguments.json:
        print(json.dumps({"pictures": [str(path) for path in pictures]}))
    else:
        say("\n".join(str(path) for path in pictures))
    return 0
