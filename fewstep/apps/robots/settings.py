"""Settings of robots with faults in MuJoCo, and the Problem built from them: one dynamics model, adapted to each robot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.apps.robots.data import PARTS, Experience, collect_experience, read_experience
from fewstep.apps.robots.fault_effects import require_effects
from fewstep.apps.robots.faults import Change, Faults, read_family
from fewstep.apps.robots.tasks import format_of, windows
from fewstep.core.problem import Illustration, Problem, Splits
from fewstep.core.tasks import TaskFamily
from fewstep.errors import InputError
from fewstep.recipe.settings import PLAIN_MAML, LearningSettings
from fewstep.simulators.mujoco import Robot
from fewstep.supervised.columns import TableFormat
from fewstep.supervised.model import supervised

MOST = 10**6
"""robots, runs of each and steps of a run"""


@dataclass(frozen=True, kw_only=True)
class RobotFaults(LearningSettings):
    """Robots whose motors, load or ground have changed in a way that they cannot look up (MuJoCo, the extra [rl])."""

    robot: str = "half-cheetah"
    """half-cheetah, ant, or an MJCF file"""
    family: str = "severe"
    """what differs from robot to robot: severe (motors weak, dead or reversed, another load), mild (one faulty motor), payload,
    friction, or a YAML file of changes"""
    data: str = ""
    """a file of what robots lived through (from fewstep gather, or a log), instead of robots, runs and run-steps"""
    robots: tuple[int, int, int] = (300, 60, 60)
    """robots for meta-training, -validation and -testing"""
    runs: int = 3
    """runs of each robot, moving at random"""
    run_steps: int = 100
    """control steps of a run"""
    shots: int | tuple[int, int] = 32
    """transitions of the support set: what the robot has just lived through"""
    queries: int = 48
    """transitions that follow, the query set"""
    meta_batch_size: int = 16
    """tasks per meta-step"""
    meta_steps: int = 2_000
    """meta-steps of the whole run"""
    outer_rate: float = 2e-3
    """outer rate beta of Adam"""
    inner_outer_rate: float = 6e-3
    """outer rate of what the inner optimizer learns (its rates, its matrices); faster than theta avoids poor solutions"""
    hidden: tuple[int, ...] = (128, 128)
    """units of the hidden layers"""
    log_every: int = 200
    """meta-steps between two lines of the log"""

    def build(self, seed: int = 0, format: TableFormat | None = None) -> Problem:
        """The Problem; its robots are drawn by `seed`. With a saved `format` the model alone, nothing is simulated."""
        self.check(seed)
        shared = {
            "name": "robot-faults",
            "protocol": {"robot": self.robot, "family": self.family, "queries": self.queries},
            "layers": {"activation": jax.nn.silu},
            "evaluation_steps": tuple(sorted({0, 1, 3, self.adaptation_steps, 2 * self.adaptation_steps})),
            "baselines": ("unchanged", "ridge"),
            "leave_one_out": None,  # of networks of this size it takes gigabytes
        }
        if format is not None:
            return supervised(self, format, **shared)
        if not all(1 <= count <= MOST for count in (*self.robots, self.runs)):
            raise InputError(
                f"--robots and --runs should be at least 1 and at most {MOST:,}, got {self.robots} and {self.runs}."
            )
        if not self.data:
            self.check_steps(self.run_steps)
        robot, parts = Robot(self.robot), self.collected(seed)
        self.check_steps(parts["train"].actions.shape[2])
        format = format_of(robot, parts["train"])
        families = {part: windows(found, format, self.shot_range, self.queries) for part, found in parts.items()}
        return supervised(
            self,
            format,
            **shared,
            splits=Splits(families["train"], families["validation"], families["test"]),
            illustrate=lambda number: illustration(families["test"], format, number, self.shot_range.most, robot.seconds),
            validation_tasks=len(parts["validation"].actions) * 4,
            notes=(*robot.notes, *said(robot, parts)),
        )

    def check_steps(self, steps: int) -> None:
        """Raises `InputError` if a task has no room in runs of so many steps, or where they would never end."""
        least = self.shot_range.most + self.queries
        if steps < least:
            raise InputError(
                f"--run-steps {steps} is too few for {self.shot_range.most} support and {self.queries} query transitions. Try "
                f"at least {least}."
            )
        if steps > MOST:
            raise InputError(f"--run-steps should be at most {MOST:,}, got {steps}.")

    def collected(self, seed: int) -> dict[str, Experience]:
        """What robots lived through, by part: read from the file, or simulated."""
        robot, family = Robot(self.robot), read_family(self.family)
        if self.data:
            require_effects(Faults(robot, family))  # says now whether fewstep gather and play can draw faults from it
            return read_experience(self.data, robot)
        return simulated_experience(robot, robot.path.read_bytes(), family, self.robots, self.runs, self.run_steps, seed)


def illustration(family: TaskFamily, format: TableFormat, number: int, shots: int, seconds: float) -> Illustration:
    """A window of an unseen robot, along time: 0 is where its last support transition ends."""
    support, query = family.episode(jnp.asarray(number), jax.random.key(number), shots)
    before, after = (seconds * np.arange(len(part.weight)) for part in (support, query))
    return Illustration(
        title=f"robot {number + 1}",
        support=support,
        support_x=before - shots * seconds,
        inputs=query.inputs,
        x=after,
        truth=format.shown(np.asarray(query.targets)),
        x_label="seconds",
    )


@lru_cache(maxsize=2)
def simulated_experience(
    robot: Robot,
    content: bytes,
    family: tuple[Change, ...],
    robots: tuple[int, int, int],
    runs: int,
    steps: int,
    seed: int,
) -> dict[str, Experience]:
    """What meta-train, -validation and -test robots did. A training, its evaluation and its pictures ask for the same; where
    the `content` of the robot's file has changed, another robot is asked for."""
    del content
    faults = Faults(robot, family)
    require_effects(faults)
    return {
        part: collect_experience(faults, (seed, number), count, runs, steps)
        for number, (part, count) in enumerate(zip(PARTS, robots, strict=True))
    }


def held_out_conditions(faults: Faults, seed: int, count: int) -> np.ndarray:
    """[count, size]: conditions of robots that are in no part of the experience by this `seed` (see `simulated_experience`)."""
    return faults.sample(np.random.default_rng((seed, len(PARTS))), count)


def said(robot: Robot, parts: dict[str, Experience]) -> list[str]:
    """What a person should know of the experience."""
    taken = sum(found.actions.shape[0] * found.actions.shape[1] * found.actions.shape[2] for found in parts.values())
    notes = [f"{sum(len(found.actions) for found in parts.values())} robots, {taken} control steps of {robot.seconds:g} s"]
    for part, found in parts.items():
        if found.dropped:
            number, step = found.dropped[0]
            notes.append(
                f"{len(found.dropped)} meta-{part} robots are left out, since their simulation runs away (the first: robot "
                f"{number + 1} at step {step})"
            )
    return notes


PRESETS: dict[str, tuple[RobotFaults, str]] = {
    "default": (RobotFaults(), "the recipe on 300 robots with severe faults: five steps with learned rates, under a minute"),
    "control": (
        replace(RobotFaults(), meta_steps=8_000, inner_clip=8.0),
        "for driving robots on --data that fewstep gather wrote: longer, with inner steps that cannot run away",
    ),
    "maml": (
        replace(RobotFaults(), inner_rate=0.01, **PLAIN_MAML),
        "MAML as published, at a fixed rate",
    ),
}
