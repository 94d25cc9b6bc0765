"""What robots did (floor 1): many robots of a family of faults, each moving at random, simulated in one batched call of MuJoCo.

The transitions of one robot are one task: its last second is the support set, what follows it the query set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fewstep.cores import cpu_cores
from fewstep.errors import BadInput
from fewstep.tasks.faults import Faults
from fewstep.tasks.robots import AWAY, Robot, beginnings, imported_mujoco, warnings_of

PERSISTENCE = 0.8
"""of random commands from one step of control to the next"""


class Experience(NamedTuple):
    """Of many robots."""

    observations: np.ndarray
    """float32 [robots, runs, steps + 1, observed]"""
    actions: np.ndarray
    """float32 [robots, runs, steps, actions]"""
    conditions: np.ndarray
    """float32 [robots, factors]"""
    dropped: tuple[tuple[int, int], ...]
    """(robot, step) of those whose simulation ran away, which are left out"""


@dataclass(frozen=True)
class Simulator:
    """MuJoCo's threads; results are the same with any number of them."""

    robot: Robot
    threads: int = 0
    """0 for one on each core"""

    def run(self, models: list, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """float64 [runs, steps + 1, state]: the full states of one model each, from `states` [runs, state] on, under `actions`
        [runs, steps, actions]."""
        from mujoco.rollout import Rollout

        mujoco, substeps = imported_mujoco(), self.robot.substeps
        threads = self.threads or cpu_cores()
        # Of a simulation that runs away MuJoCo would warn; it is seen in the states.
        with warnings_of(mujoco), Rollout(nthread=threads if threads > 1 else 0) as rollout:
            data = [mujoco.MjData(self.robot.model) for _ in range(threads)]
            commands = np.repeat(actions.astype(np.float64), substeps, axis=1)
            found = np.asarray(rollout.rollout(models, data, np.ascontiguousarray(states, np.float64), commands)[0])
        return np.concatenate([states[:, None], found[:, substeps - 1 :: substeps]], 1)


def commands(robot: Robot, random: np.random.Generator, runs: int, steps: int) -> np.ndarray:
    """float32 [runs, steps, actions]: an Ornstein–Uhlenbeck walk in the range of each actuator, cut at its ends."""
    least, most = robot.limits
    walk = np.empty((steps, runs, robot.actions))
    walk[0] = random.standard_normal((runs, robot.actions))
    for step in range(1, steps):
        fresh = random.standard_normal((runs, robot.actions))
        walk[step] = PERSISTENCE * walk[step - 1] + (1 - PERSISTENCE**2) ** 0.5 * fresh
    middle, reach = (most + least) / 2, (most - least) / 2
    return np.clip(middle + reach * walk.swapaxes(0, 1), least, most).astype(np.float32)


def joined(first: Experience, more: Experience) -> Experience:
    """Further runs of the same robots, of as many steps; those that `more` has left out are left out."""
    kept = np.setdiff1d(np.arange(len(first.conditions)), [number for number, _ in more.dropped])
    observations = np.concatenate([first.observations[kept], more.observations], 1)
    actions = np.concatenate([first.actions[kept], more.actions], 1)
    return Experience(observations, actions, first.conditions[kept], (*first.dropped, *more.dropped))


def gathered(faults: Faults, seed: int | tuple[int, ...], robots: int, runs: int, steps: int, threads: int = 0) -> Experience:
    """So many robots of a family, `runs` runs of `steps` steps of control each. The same for the same seed.

    Robots whose simulation runs away are left out and named. Raises `BadInput` where none stays.
    """
    random = np.random.default_rng(seed)
    robot, conditions = faults.robot, faults.draw(random, robots)
    states, actions = beginnings(robot, random, robots * runs), commands(robot, random, robots * runs, steps)
    models = [model for condition in conditions for model in [faults.model(condition)] * runs]
    found = robot.observation(Simulator(robot, threads).run(models, states, actions))
    fine = np.all(np.isfinite(found) & (np.abs(found) < AWAY), axis=-1).reshape(robots, runs, -1)
    fine = np.all(fine, axis=1)  # [robots, steps + 1]
    kept = np.all(fine, axis=-1)
    if not kept.any():
        raise BadInput(
            f"{robot.name}: the simulation of all {robots} robots runs away. Expected ranges in which it is stable: try "
            "narrower ones, or a smaller timestep in the model's file."
        )
    by_robot = lambda values: values.reshape(robots, runs, *values.shape[1:])[kept]  # noqa: E731
    dropped = tuple((int(number), int(np.argmin(fine[number]))) for number in np.flatnonzero(~kept))
    return Experience(by_robot(found), by_robot(actions), conditions[kept].astype(np.float32), dropped)
