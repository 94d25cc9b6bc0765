"""Half-cheetah and ant in MuJoCo, that are to run at a velocity or in a direction they are not told.

Finn et al. 2017, section 5.3, on gymnasium's robots: a command holds for 0.05 s, an observation is the positions without
where the robot is in its world, then the velocities, and runs begin with gymnasium's noise. Rewards are those of the
codes that moved these tasks there (ProMP; pytorch-maml-rl); a velocity is the distance covered in a step over its
duration:

| family | task | reward |
|---|---|---|
| `cheetah-vel` | v uniform in [0, 2) | −abs(ẋ − v) − 0.05 a² |
| `cheetah-dir` | 1 or −1 | d ẋ − 0.05 a² |
| `ant-vel` | v uniform in [0, 3) | 1.05 − abs(ẋ − v) − 0.005 a² |
| `ant-dir` | 1 or −1 | d ẋ + 0.05 − 0.005 a² |

a is the command in parts of the actuators' range. An ant's trajectory ends where its torso leaves heights of 0.2 to 1. Its
contact forces are neither paid for nor observed: MuJoCo 2.0 and later never computed them for those codes. There are but two
directions, so they show that a policy adapts, not that it generalizes; of velocities, ranges are held out for testing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fewstep.apps.policies.environment import ResetResult, Simulation, StepResult, Tasks
from fewstep.errors import InputError
from fewstep.simulators.mujoco import DIVERGENCE_LIMIT, Robot, capture_warnings, import_mujoco, initial_states
from fewstep.training.devices import cpu_cores

HORIZON = 100
ACTION_SCALE = 0.1
"""an action of 1 is so much of an actuator's range: exploring with deviation 1 then stays within it, as in the codes above"""


class Family(NamedTuple):
    """Tasks for one robot."""

    robot: str
    most: float | None
    """velocities are uniform from 0 to this; None for the two directions"""
    held_out: tuple[tuple[float, float], ...]
    """velocities to test on, which training never sees"""
    cost: float
    """of a² in a step"""
    bonus: float
    """in every step"""
    heights: tuple[float, float] | None
    """of the torso, outside which a trajectory ends"""


STANDING = (0.2, 1.0)
FAMILIES = {
    "cheetah-vel": Family("half-cheetah", 2.0, ((0.5, 0.7), (1.3, 1.5)), 0.05, 0.0, None),
    "cheetah-dir": Family("half-cheetah", None, (), 0.05, 0.0, None),
    "ant-vel": Family("ant", 3.0, ((0.75, 1.05), (1.95, 2.25)), 0.005, 1.05, STANDING),
    "ant-dir": Family("ant", None, (), 0.005, 0.05, STANDING),
}


def locomotion(name: str, horizon: int = HORIZON, action_scale: float = ACTION_SCALE, threads: int = 0) -> Simulation:
    """The Simulation of a family in `FAMILIES`; `threads` of MuJoCo's, 0 for one on each core, change no result.

    A task is a float: the velocity, or 1 and −1. Raises `InputError` if the action scale is none.
    """
    if not 0 < action_scale <= 1:
        raise InputError(f"--action-scale should lie above 0 and be at most 1 (the whole range), got {action_scale}.")
    family = FAMILIES[name]
    robot = Robot(family.robot)
    runs = _Simulator(robot, family, action_scale, threads)
    velocities = family.most is not None
    return Simulation(
        sample_tasks=(lambda random, count: velocities_of(family, random, count)) if velocities else directions,
        sample_unseen=(lambda random, count: velocities_of(family, random, count, unseen=True)) if velocities else None,
        begin=runs.begin,
        step=runs.step,
        observation_size=robot.observation_size,
        action_size=robot.action_size,
        horizon=horizon,
        action_limit=1 / action_scale,
        action_range=robot.limits,
        snapshot=lambda: runs.states[0].copy(),
        notes=robot.notes,
    )


def read_task(name: str, text: str) -> float:
    """A task of a family in words: a velocity in meters a second, or 1 and -1. Raises `InputError` for another."""
    directions = FAMILIES[name].most is None
    try:
        task = float(text)
    except ValueError:
        task = float("nan")
    if not np.isfinite(task) or (directions and task not in (1, -1)):
        expected = "1 (forwards) or -1 (backwards)" if directions else "a velocity in meters a second, such as 1.2"
        raise InputError(f"--task of {name}: expected {expected}, got {text!r}.")
    return task


def velocities_of(family: Family, random: np.random.Generator, count: int, unseen: bool = False) -> np.ndarray:
    """float64 [count]: velocities, uniform over the ranges that are held out, or over the others."""
    assert family.most is not None
    ends = [0.0, *(end for held_out in family.held_out for end in held_out), family.most]
    first = 1 if unseen else 0
    least, most = np.array(ends[first::2]), np.array(ends[first + 1 :: 2])
    least = least[: len(most)]
    far = np.concatenate([[0], np.cumsum(most - least)])
    along = random.uniform(0, far[-1], count)
    which = np.minimum(np.searchsorted(far, along, side="right") - 1, len(least) - 1)
    return least[which] + along - far[which]


def directions(random: np.random.Generator, count: int) -> np.ndarray:
    """float64 [count]: 1 and −1 by turns, the first one drawn, so that a batch has as many of each."""
    first = 1.0 if random.random() < 0.5 else -1.0
    return first * (-1.0) ** np.arange(count)


@dataclass
class _Simulator:
    """The states that MuJoCo is given and gives back, one call for all of them in each step of control."""

    robot: Robot
    family: Family
    action_scale: float
    threads: int

    def __post_init__(self) -> None:
        self.pool: Any = None
        self.states, self.tasks = np.zeros((0, 0)), np.zeros(0)

    def begin(self, tasks: Tasks, seeds: Sequence[int]) -> ResetResult:
        self.tasks = np.asarray(tasks, np.float64)
        self.states = np.concatenate([initial_states(self.robot, np.random.default_rng(int(seed)), 1) for seed in seeds])
        return ResetResult(self.robot.observation(self.states), {})

    def step(self, actions: np.ndarray, active: np.ndarray) -> StepResult:
        rows = np.flatnonzero(active)
        parts = np.clip(np.asarray(actions, np.float64) * self.action_scale, -1, 1)
        before = self.states[:, 1].copy()
        self.states[rows] = self._simulated(self.states[rows], parts[rows])
        with np.errstate(invalid="ignore", over="ignore"):  # of a simulation that ran away
            velocity = (self.states[:, 1] - before) / self.robot.seconds
            task, family = self.tasks, self.family
            gained = task * velocity if family.most is None else -np.abs(velocity - task)
            rewards = gained + family.bonus - family.cost * np.sum(parts**2, axis=-1)
            terminated = np.zeros(len(task), bool)
            if family.heights is not None:
                height = self.states[:, 3]
                terminated = (height < family.heights[0]) | (height > family.heights[1])
            observations = self.robot.observation(self.states)
            gone = ~np.all(np.abs(observations) < DIVERGENCE_LIMIT, axis=-1)  # not a number, too
        observations[gone] = np.nan
        messages = {int(row): "the simulation ran away" for row in np.flatnonzero(gone & active)}
        return StepResult(observations, rewards, terminated, np.zeros(len(task), bool), messages)

    def _simulated(self, states: np.ndarray, parts: np.ndarray) -> np.ndarray:
        """float64 [rows, state] after one step of control under commands [rows, actions], −1 to 1 in parts of the range."""
        mujoco, model, substeps = import_mujoco(), self.robot.model, self.robot.substeps
        if self.pool is None:  # it and its MjData outlive the steps: making them takes longer than a step
            from mujoco.rollout import Rollout

            threads = self.threads or cpu_cores()
            self.pool = Rollout(nthread=threads if threads > 1 else 0)
            self.data = [mujoco.MjData(model) for _ in range(threads)]
        least, most = self.robot.limits
        commands = (least + most) / 2.0 + (most - least) / 2.0 * parts
        rows = len(states)
        found = np.empty((rows, substeps, states.shape[1]))
        sensed = np.empty((rows, substeps, model.nsensordata))
        # Without its checks, which copy every array anew; the arrays above and below are what these would make.
        with capture_warnings(mujoco):
            self.pool.rollout(
                [model] * rows,
                self.data,
                np.ascontiguousarray(states),
                np.repeat(commands[:, None], substeps, axis=1),
                control_spec=int(mujoco.mjtState.mjSTATE_CTRL.value),
                skip_checks=True,
                nstep=substeps,
                state=found,
                sensordata=sensed,
            )
        return found[:, -1]
