"""The environments of speed/policies.py outside JAX: navigation by NumPy for many rows, and both of its problems as Gymnasium
environments, one trajectory each, as public codes of MAML for reinforcement learning step them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from fewstep.apps.policies.environment import ResetResult, Simulation, StepResult, Tasks
from fewstep.apps.policies.locomotion import ACTION_SCALE, FAMILIES
from fewstep.apps.policies.nav2d import HORIZON, NEAR, REACH, STRIDE
from fewstep.simulators.mujoco import RESET_NOISE, Robot, import_mujoco


def navigation_in_numpy() -> Simulation:
    """fewstep/apps/policies/nav2d.py for many trajectories side by side."""
    places, goals = np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)

    def begin(tasks: Tasks, seeds: Sequence[int]) -> ResetResult:
        nonlocal places, goals
        places, goals = np.zeros((len(seeds), 2), np.float32), np.asarray(tasks, np.float32)
        return ResetResult(places, {})

    def step(actions: np.ndarray, alive: np.ndarray) -> StepResult:
        nonlocal places
        places = places + STRIDE * np.clip(actions, -1, 1).astype(np.float32)
        error = places - goals
        ended = np.all(np.abs(error) < NEAR, axis=-1)
        return StepResult(places, -np.sqrt(np.sum(error**2, axis=-1)), ended, np.zeros(len(ended), bool), {})

    return Simulation(draw_goals, begin, step, observation_size=2, action_size=2, horizon=HORIZON)


def draw_goals(random: np.random.Generator, count: int) -> np.ndarray:
    """[count, 2]"""
    return random.uniform(-REACH, REACH, (count, 2))


class Navigation(gymnasium.Env):
    """2D navigation, one trajectory."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def set_task(self, task: np.ndarray) -> None:
        self.goal = np.asarray(task, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.place = np.zeros(2, np.float32)
        return self.place, {}

    def step(self, action: np.ndarray):
        self.place = self.place + STRIDE * np.clip(action, -1, 1).astype(np.float32)
        x, y = self.place - self.goal
        return self.place, -np.sqrt(x**2 + y**2), abs(x) < NEAR and abs(y) < NEAR, False, {}


class HalfCheetahVelocity(gymnasium.Env):
    """`cheetah-vel`, one trajectory: what Gymnasium's half-cheetah does in a step, with this reward."""

    observation_space = spaces.Box(-np.inf, np.inf, (17,), np.float32)
    action_space = spaces.Box(-1 / ACTION_SCALE, 1 / ACTION_SCALE, (6,), np.float32)

    def __init__(self) -> None:
        self.robot = Robot("half-cheetah")
        self.model = self.robot.model
        self.data = import_mujoco().MjData(self.model)
        self.advance = import_mujoco().mj_step

    def set_task(self, task: float) -> None:
        self.velocity = float(task)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        import_mujoco().mj_resetData(self.model, self.data)
        self.data.qpos += self.np_random.uniform(-RESET_NOISE, RESET_NOISE, self.model.nq)
        self.data.qvel += RESET_NOISE * self.np_random.standard_normal(self.model.nv)
        return self.observation(), {}

    def step(self, action: np.ndarray):
        parts = np.clip(ACTION_SCALE * action.astype(np.float64), -1, 1)
        before = self.data.qpos[0]
        self.data.ctrl[:] = parts
        self.advance(self.model, self.data, self.robot.substeps)
        velocity = (self.data.qpos[0] - before) / self.robot.seconds
        reward = -abs(velocity - self.velocity) - FAMILIES["cheetah-vel"].cost * np.sum(parts**2)
        return self.observation(), reward, False, False, {}

    def observation(self) -> np.ndarray:
        return np.concatenate([self.data.qpos[1:], self.data.qvel]).astype(np.float32)
