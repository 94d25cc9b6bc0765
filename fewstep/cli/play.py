"""fewstep play RUN --out FILE: a robot that a fault strikes in the middle of a run, with and without adaptation (floor 5)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from fewstep.cli.arguments import parse, prepare_jax, say
from fewstep.cli.writing import new_file
from fewstep.errors import BadInput

SUFFIXES = (".gif", ".webp")


@dataclass(frozen=True)
class Play:
    """Drive a robot by a run of robot-faults, looking ahead: healthy, and struck by a fault with and without adaptation."""

    run: Annotated[str, tyro.conf.Positional]
    """the run's folder"""
    out: str
    """the moving picture to write: .gif or .webp"""
    fault: str = ""
    """from which family the fault is drawn: severe, mild, payload, friction, or a YAML file; by default the run's"""
    seconds: float = 15.0
    """of each run; the fault strikes in the middle"""
    adapt_every: int = 1
    """steps of control between two adaptations"""
    seed: int = 0
    """decides the fault and where the robot begins"""
    json: bool = False
    """print one JSON object on stdout"""


def main(argv: list[str]) -> int:
    arguments = parse(Play, argv, "fewstep play")
    out = new_file(arguments.out, SUFFIXES)
    if not out.parent.is_dir():
        raise BadInput(f"--out {out}: there is no folder {out.parent}.")
    if arguments.adapt_every < 1 or not 1 <= arguments.seconds <= 600:
        got = f"{arguments.adapt_every} and {arguments.seconds:g}"
        raise BadInput(f"expected --adapt-every of at least 1 and --seconds from 1 to 600, got {got}.")
    if arguments.seed < 0:
        raise BadInput(f"--seed should be at least 0, got {arguments.seed}.")
    prepare_jax()
    from fewstep import runs
    from fewstep.cli.robot_play import played
    from fewstep.plots.film import NoRenderer, film

    shown = played(
        runs.open_run(arguments.run),
        arguments.fault,
        arguments.seconds,
        arguments.adapt_every,
        arguments.seed,
        lambda text: say(text, json=True),
    )
    try:
        say("drawing ...", json=True)
        film(shown.scenes, shown.step_seconds, out)
        drawn, why = str(out), ""
    except NoRenderer as error:
        drawn, why = (
            None,
            f"no picture: MuJoCo finds nothing to draw with here ({error}). Try MUJOCO_GL=egl or MUJOCO_GL=osmesa.",
        )
    if arguments.json:
        print(json.dumps({"picture": drawn, "fault": shown.fault, "runs": shown.figures(), "note": why or None}))
        return 0
    say(f"fault: {', '.join(shown.fault) or 'none'}")
    say(f"{'':34}{'return before':>15}{'after':>9}{'model error before':>20}{'after':>9}")
    for title, row in shown.figures().items():
        numbers = f"{row['return_before']:15.1f}{row['return_after']:9.1f}{row['error_before']:20.3f}{row['error_after']:9.3f}"
        say(f"{title:34}{numbers}" + (f"  ran away after {row['ran_away']:.1f} s" if row["ran_away"] is not None else ""))
    say(f"picture: {drawn}" if drawn else why)
    return 0
