"""2D navigation as a Gymnasium environment of one's own, for `fewstep train rl --env point_family:Point`."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces


class Point(gymnasium.Env):
    """A point in the plane that is paid for being near a goal. The goal is the task."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-0.1, 0.1, (2,), np.float32)
    goal = np.zeros(2)

    def sample_tasks(self, rng, n):
        return list(rng.uniform(-0.5, 0.5, (n, 2)))

    def set_task(self, task):
        self.goal = np.asarray(task)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.zeros(2)
        return self.place.astype(np.float32), {}

    def step(self, action):
        self.place = self.place + action
        return self.place.astype(np.float32), -float(np.linalg.norm(self.place - self.goal)), False, False, {}
