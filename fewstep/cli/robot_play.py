"""A robot driven by a run (floor 6): healthy, and struck by a fault with and without adaptation. Used by `fewstep play`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fewstep.cli.policies import say_going_on
from fewstep.driving import Driver, adapting
from fewstep.errors import BadInput
from fewstep.plots.film import Scene
from fewstep.problems.robot_faults import RobotFaults, unmet
from fewstep.runs import Run
from fewstep.runs.config import require_same_files
from fewstep.runtime import Follower
from fewstep.tasks.fault_effects import require_effects
from fewstep.tasks.faults import Faults, read_family
from fewstep.tasks.robots import Robot
from fewstep.trained import Trained


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
    """Drives the run's robot three times for so many `seconds`, from the same beginning. Raises `BadInput` for another run."""
    follower, settings = follower_of(run)
    robot = Robot(settings.robot)
    faults = Faults(robot, read_family(family or settings.family))
    require_effects(faults)
    condition = unmet(faults, seed, 1)[0]
    healthy, faulty = faults.model(faults.healthy()), faults.model(condition)
    driver, steps = Driver(follower, robot), round(seconds / robot.seconds)
    strikes = steps // 2
    struck = lambda step: healthy if step < strikes else faulty  # noqa: E731
    told: dict[str, tuple[Callable[[int], Any], int | None, int | None]] = {
        "healthy": (lambda step: healthy, None, None),
        "fault, no adaptation from there on": (struck, strikes, strikes),
        "fault, adapting": (struck, None, strikes),
    }
    scenes = []
    for title, (models, until, line) in told.items():
        tell(f"driving: {title} ...")
        found = driver.drive(models, steps, adapting(follower, every, until), seed)
        scenes.append(Scene(title, models, found.states, np.cumsum(found.rewards), found.errors, line))
    return Shown(faults.told(condition), strikes, robot.seconds, scenes)


def follower_of(run: Run) -> tuple[Follower, RobotFaults]:
    """The model of a run of robot-faults, which follows a robot, and its settings. Raises `BadInput` for another run."""
    say_going_on(run)
    trained = Trained.of(run)
    settings = trained.problem.settings
    if not isinstance(settings, RobotFaults):
        raise BadInput(f"{run.directory}: expected a run of robot-faults, got one of {run.config['problem']}.")
    require_same_files(settings, run.config, run.directory)
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
