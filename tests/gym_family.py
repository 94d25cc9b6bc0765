"""Gymnasium environments as a user may write them, good and bad, and how the tests of simulators roll policies out."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from fewstep.apps.policies.networks import policy_for
from fewstep.apps.policies.simulated import collect_simulated
from fewstep.core.types import MetaParams


class Point(gymnasium.Env):
    """2D navigation (fewstep/apps/policies/nav2d.py), written by hand."""

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
        error = self.place - self.goal
        return self.place.astype(np.float32), -np.linalg.norm(error), bool(np.all(np.abs(error) < 0.01)), False, {}


class Drawn(Point):
    """It draws itself: as red as it lies to the right, as green as it lies up. Made by `sample`, which takes a render mode."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def render(self):
        color = np.clip(128 + 500 * np.array([*self.place, 0.0]), 0, 255).astype(np.uint8)
        return np.broadcast_to(color, (40, 60, 3)).copy()


def sample(render_mode=None):
    return Drawn(render_mode)


class Buttons(gymnasium.Env):
    """One button of three pays, by the task; it is told with the reset, and a trajectory is a single press."""

    observation_space = spaces.Discrete(2)
    action_space = spaces.Discrete(3, start=1)

    def sample_tasks(self, rng, n):
        return [{"pays": int(button)} for button in rng.integers(1, 4, n)]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.pays = (options or {}).get("task", {"pays": 1})["pays"]
        return 0, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        return 1, float(action == self.pays), True, False, {}


class Breaking(Point):
    """Goals on the right break it at the third step: upper ones raise, lower ones pay no number."""

    def reset(self, *, seed=None, options=None):
        self.taken = 0
        return super().reset(seed=seed)

    def step(self, action):
        self.taken += 1
        seen, reward, *rest = super().step(action)
        if self.taken == 3 and self.goal[0] > 0:
            if self.goal[1] > 0:
                raise ValueError("the motor is gone")
            reward = float("nan")
        return (seen, reward, *rest)


class AlwaysBreaking(Point):
    def step(self, action):
        raise ValueError("no motor at all")


class OldStyle(Point):
    def step(self, action):
        seen, reward, ended, _, info = super().step(action)
        return seen, reward, ended, info


class TooFew(Point):
    def sample_tasks(self, rng, n):
        return [np.ones(2)]


class NoneToday(Point):
    def sample_tasks(self, rng, n):
        raise KeyError("goals")


class AlwaysTheSame(Point):
    def sample_tasks(self, rng, n):
        return [np.ones(2)] * n


class WithoutTasks(gymnasium.Env):
    observation_space, action_space = Point.observation_space, Point.action_space


class WithoutTelling(WithoutTasks):
    def sample_tasks(self, rng, n):
        return list(range(n))

    def reset(self, *, seed=None):
        return np.zeros(2, np.float32), {}


class ManySwitches(Point):
    action_space = spaces.MultiBinary(3)


def not_an_environment():
    return 3


def failing():
    raise OSError("no such simulator")


KEY = jax.random.key(0)
SMALL = [
    "--meta-batch-size",
    "2",
    "--rollouts",
    "2",
    "--hidden",
    "8",
    "--meta-steps",
    "2",
    "--log-every",
    "1",
    "--horizon",
    "5",
]


def policy_of(simulation, hidden=(8,)):
    return policy_for(simulation.observation_size, simulation.action_size, simulation.discrete, hidden)


def thetas_of(policy, tasks, key=KEY):
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (tasks, *leaf.shape)), policy.init(key))


def params_of(policy):
    return MetaParams(policy.init(KEY))


def collected(simulation, tasks, rollouts=3, key=KEY):
    policy = policy_of(simulation)
    return collect_simulated(simulation, policy, thetas_of(policy, len(tasks)), tasks, rollouts, key)
