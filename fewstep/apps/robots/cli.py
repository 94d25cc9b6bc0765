"""fewstep gather RUN --out FILE: drives a run's robots by its model and saves their experience for the next training.

fewstep play RUN --out FILE: drives a robot that is healthy, and one with a fault, with and without adaptation.
"""

from __future__ import annotations

import json as to_json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from fewstep.apps.robots.adapted import Follower
from fewstep.apps.robots.fault_effects import require_effects
from fewstep.apps.robots.faults import Faults, read_family
from fewstep.apps.robots.mpc import Driver, adapt_every
from fewstep.apps.robots.settings import RobotFaults, held_out_conditions
from fewstep.cli.adapted import say_going_on
from fewstep.cli.arguments import prepare_jax, say
from fewstep.errors import InputError
from fewstep.runs import Run, open_run
from fewstep.runs.config import require_same_sources
from fewstep.simulators.film import NoRenderer, Scene, write_film
from fewstep.simulators.mujoco import Robot
from fewstep.storage.tables import moving_picture, new_file
from fewstep.supervised.trained import Trained


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

    def __call__(self) -> int:
        out = moving_picture(self.out, self.seed)
        if self.adapt_every < 1 or not 1 <= self.seconds <= 600:
            got = f"{self.adapt_every} and {self.seconds:g}"
            raise InputError(f"expected --adapt-every of at least 1 and --seconds from 1 to 600, got {got}.")
        prepare_jax()
        tell = lambda text: say(text, json=True)  # noqa: E731
        shown = played(open_run(self.run), self.fault, self.seconds, self.adapt_every, self.seed, tell)
        try:
            say("drawing ...", json=True)
            write_film(shown.scenes, shown.step_seconds, out)
            drawn, why = str(out), ""
        except NoRenderer as error:
            drawn, why = (
                None,
                f"no picture: MuJoCo finds nothing to draw with here ({error}). Try MUJOCO_GL=egl, or osmesa if installed.",
            )
        if self.json:
            print(to_json.dumps({"picture": drawn, "fault": shown.fault, "runs": shown.figures(), "note": why or None}))
            return 0
        say(f"fault: {', '.join(shown.fault) or 'none'}")
        say(f"{'':34}{'return before':>15}{'after':>9}{'model error before':>20}{'after':>9}")
        for title, row in shown.figures().items():
            numbers = (
                f"{row['return_before']:15.1f}{row['return_after']:9.1f}{row['error_before']:20.3f}{row['error_after']:9.3f}"
            )
            away = f"  ran away after {row['ran_away']:.1f} s" if row["ran_away"] is not None else ""
            say(f"{title:34}{numbers}{away}")
        say(f"picture: {drawn}" if drawn else why)
        return 0


class Shown(NamedTuple):
    """What was played."""

    fault: list[str]
    """in words"""
    strikes: int
    """the step at which it strikes"""
    step_seconds: float
    scenes: list[Scene]

    def figures(self) -> dict[str, dict[str, float | None]]:
        """Of each scene: return and mean model error before the fault and after; when it ran away, if it did."""
        return {scene.title: figures(scene, self.strikes, self.step_seconds) for scene in self.scenes}


def played(run: Run, family: str, seconds: float, every: int, seed: int, tell: Callable[[str], None]) -> Shown:
    """Drives the run's robot three times for so many `seconds`, from the same beginning. Raises `InputError` for another
    run."""
    follower, settings = follower_of_run(run)
    robot = Robot(settings.robot)
    faults = Faults(robot, read_family(family or settings.family))
    require_effects(faults)
    condition = held_out_conditions(faults, seed, 1)[0]
    healthy, faulty = faults.model(faults.healthy()), faults.model(condition)
    driver, steps = Driver(follower, robot), round(seconds / robot.seconds)
    strikes = steps // 2
    struck = lambda step: healthy if step < strikes else faulty  # noqa: E731
    scenarios: dict[str, tuple[Callable[[int], Any], int | None, int | None]] = {
        "healthy": (lambda step: healthy, None, None),
        "fault, no adaptation from there on": (struck, strikes, strikes),
        "fault, adapting": (struck, None, strikes),
    }
    scenes = []
    for title, (models, until, line) in scenarios.items():
        tell(f"driving: {title} ...")
        found = driver.drive(models, steps, adapt_every(follower, every, until), seed)
        scenes.append(Scene(title, models, found.states, np.cumsum(found.rewards), found.errors, line))
    return Shown(faults.describe(condition), strikes, robot.seconds, scenes)


def follower_of_run(run: Run) -> tuple[Follower, RobotFaults]:
    """The model of a run of robot-faults, which follows a robot, and its settings. Raises `InputError` for another run."""
    say_going_on(run)
    trained = Trained.of(run)
    settings = trained.problem.settings
    if not isinstance(settings, RobotFaults):
        raise InputError(f"{run.directory}: expected a run of robot-faults, got one of {run.config['problem']}.")
    require_same_sources(run.application, settings, run.config, run.directory, ("robot", "family"))
    return Follower(trained.problem, trained.params, trained.config), settings


def figures(scene: Scene, strikes: int, step_seconds: float) -> dict[str, float | None]:
    lived = int(np.isfinite(scene.errors).sum())
    before = float(scene.returned[strikes - 1])
    return {
        "return_before": before,
        "return_after": float(scene.returned[-1]) - before,
        "error_before": float(np.nanmean(scene.errors[:strikes])),
        "error_after": float(np.nanmean(scene.errors[strikes:])) if lived > strikes else float("nan"),
        "ran_away": None if lived == len(scene.errors) else lived * step_seconds,
    }


@dataclass(frozen=True)
class Collect:
    """Drive all robots of a run of robot-faults by its model, each struck by its fault, and write what they lived through, with
    what the run was trained on, as data of the next run: fewstep train robot-faults --data FILE."""

    run: Annotated[str, tyro.conf.Positional]
    """the run's folder"""
    out: str
    """the file to write: .npz"""
    seed: int = 0
    """decides where the robots begin and what is tried"""
    json: bool = False
    """print one JSON object on stdout"""

    def __call__(self) -> int:
        out = new_file(self.out, (".npz",))
        if not out.parent.is_dir():
            raise InputError(f"--out {out}: there is no folder {out.parent}.")
        if self.seed < 0:
            raise InputError(f"--seed should be at least 0, got {self.seed}.")
        prepare_jax()
        from fewstep.apps.robots.data import write_experience
        from fewstep.apps.robots.rollouts import collect_more

        run = open_run(self.run)
        follower, settings = follower_of_run(run)
        found = collect_more(follower, settings, run.config["seed"], self.seed)
        write_experience(out, found.parts)
        summary = {
            "file": str(out),
            "robots": {part: len(experience.actions) for part, experience in found.parts.items()},
            "runs_of_each": found.parts["train"].actions.shape[1],
            "left_out": found.left_out,
            "model_error": found.error,
        }
        if self.json:
            print(to_json.dumps(summary))
            return 0
        say(f"model error while driving: {found.error:.3f}; it was asked about states that it had not met")
        if found.left_out:
            say(f"{found.left_out} robots are left out, since their simulation runs away")
        say(f"written: {out}, {summary['runs_of_each']} runs of each of {sum(summary['robots'].values())} robots")
        say(f"next: fewstep train robot-faults --data {out} --robot {settings.robot} --family {settings.family}")
        return 0
