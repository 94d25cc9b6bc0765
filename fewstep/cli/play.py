"""fewstep play RUN --out FILE (floor 6): a robot that a fault strikes in the middle of a run, with and without adaptation, or
a policy in one task before adaptation and after each update."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fewstep.cli.arguments import parse, prepare_jax, say
from fewstep.cli.writing import new_file
from fewstep.errors import BadInput

SUFFIXES = (".gif", ".webp")


@dataclass(frozen=True)
class Play:
    """Drive a robot by a run of robot-faults, looking ahead: healthy, and struck by a fault with and without adaptation. Or
    watch a policy in a task: before adaptation and after each update."""

    run: Annotated[str, tyro.conf.Positional]
    """the run's folder, or that of an adapted policy"""
    out: str
    """the moving picture to write: .gif or .webp"""
    fault: str = ""
    """from which family the fault is drawn: severe, mild, payload, friction, or a YAML file; by default the run's"""
    seconds: float = 15.0
    """of each run; the fault strikes in the middle"""
    adapt_every: int = 1
    """steps of control between two adaptations"""
    seed: int = 0
    """decides the fault and where the robot begins; of a policy the task, where none is given, and all that is random"""
    task: str = ""
    """policies: the task, as its family understands it (a velocity, 1 or -1, a goal x,y, JSON); by default an unseen one"""
    updates: int = 3
    """policies: how often to adapt, each time on fresh trajectories; 1 to 3 are seen well side by side"""
    env: str = ""
    """policies: the environment to act in, module:factory; one of rl has to be named again, other runs bring theirs"""
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
    from fewstep.problems.policy_settings import PolicySettings
    from fewstep.rl.acting import SHAPE, open_policy

    adapted = open_policy(arguments.run) if (Path(arguments.run) / SHAPE).is_file() else None
    run: Any = None if adapted else runs.open_run(arguments.run, arguments.env)
    policy = adapted is not None or isinstance(run.settings, PolicySettings)
    for_others = ("fault", "seconds", "adapt_every") if policy else ("task", "updates", "env")
    if unused := [name for name in for_others if getattr(arguments, name) != getattr(Play, name)]:
        whose = "runs of robot-faults" if policy else "policies"
        raise BadInput(f"--{unused[0].replace('_', '-')} is for {whose}, and {arguments.run} is none.")
    if policy:
        return play_policy(arguments, out, run, adapted)
    shown = played(
        run,
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
            f"no picture: MuJoCo finds nothing to draw with here ({error}). Try MUJOCO_GL=egl, or osmesa if installed.",
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


def play_policy(arguments: Play, out: Path, run: Any, adapted: Any) -> int:
    """Plays a policy's run, or a policy that was `adapted`."""
    from fewstep.cli.policies import broken, say_going_on
    from fewstep.cli.policy_play import STEP_SECONDS, panels, played, played_adapted, played_figures
    from fewstep.plots.film import NoRenderer
    from fewstep.plots.policy_film import policy_film
    from fewstep.runs.policy_run import plain, task_in_words

    if run is not None:
        say_going_on(run)
        say("acting, adapting ...", json=True)
        shown = played(run, arguments.task, arguments.updates, arguments.seed)
    else:
        shown = played_adapted(adapted, Path(arguments.run), arguments.task, arguments.env, arguments.seed)
    try:
        say("drawing ...", json=True)
        policy_film(panels(shown), STEP_SECONDS, out)
        drawn, why = str(out), ""
    except NoRenderer as error:
        drawn, why = None, f"no picture: nothing can draw it here ({error}). Of MuJoCo's robots try MUJOCO_GL=egl or osmesa."
    figures, notes, task = played_figures(shown), [*broken(shown.said), *[why] * bool(why)], plain(shown.task)
    taken = shown.about["environment_steps"] if shown.about else []
    if arguments.json:
        print(json.dumps({"picture": drawn, "task": task, "played": figures, "environment_steps": taken, "notes": notes}))
        return 0
    say(f"task {task_in_words(task)}")
    say(f"{'':18}{'return shown':>14}{'steps':>8}" + f"{'mean return':>14}{'environment steps':>20}" * bool(taken))
    for number, (title, row) in enumerate(figures.items()):
        more = f"{row['mean_return']:14.1f}{taken[number]:20,}" if taken else ""
        say(f"{title:18}{row['return']:14.1f}{row['steps']:8}{more}")
    for line in notes:
        say(line)
    if drawn:
        say(f"picture: {drawn}")
    return 0
