"""A robot in MuJoCo that is driven by looking ahead with a model that follows it (floor 2). Used by `fewstep play`.

A fault may strike in the middle of a run: the robot is then another one, and nobody tells the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.planning import Plan, Planner, Reward, action_of, elites, first_plan, moved_on, planned
from fewstep.tasks.experience import Simulator
from fewstep.tasks.robots import AWAY, Robot, beginnings, imported_mujoco
from fewstep.types import Params

EFFORT = 0.01
"""what an action's square costs, in meters a second"""
TILTED = 5.0
"""what lying on the side costs, in meters a second; on the back twice that"""
PLANNER = Planner(horizon=20, candidates=200, rounds=3, deviation=1.0, improve=elites())
"""Half a second ahead, a robot runs itself into postures from where nothing that short leads on, and stands still in them; one
second ahead it does not."""
Afterwards = Callable[[int], Any]
"""what is done after each step of control, whose number it is given: adapt, or not"""


class Model(Protocol):
    """What is asked of a model that follows a robot: see `runtime.Follower`."""

    params: Params
    """θ′, as it is now"""

    @property
    def change_scale(self) -> np.ndarray:
        """[observed]: the deviations of changes, in which errors are told."""
        ...

    def after(self, params: Params, observations: jax.Array, actions: jax.Array, /) -> jax.Array: ...
    def observe(self, observation: Any, action: Any, after: Any, /) -> bool: ...
    def adapt(self) -> bool: ...
    def forget(self) -> None: ...


class Run(NamedTuple):
    """What happened; arrays lead with [steps]. A simulation that runs away ends a run, with rewards of 0 from there on."""

    states: np.ndarray
    """float64 [steps + 1, state], MuJoCo's full ones, from which it is drawn"""
    actions: np.ndarray
    rewards: np.ndarray
    errors: np.ndarray
    """of what the model expected of each step: mean square, in deviations of the changes of meta-train robots"""


def forward(robot: Robot) -> Reward:
    """The reward of running: the velocity along x in meters a second, less for tilting over and a little for effort."""
    place = robot.model.nq - robot.where  # the first velocity is the root's along x

    def reward(observation: jax.Array, action: jax.Array, after: jax.Array) -> jax.Array:
        return after[place] - TILTED * (1 - upright(robot, after)) - EFFORT * jnp.sum(jnp.square(action))

    return reward


def upright(robot: Robot, observation: jax.Array) -> jax.Array:
    """1 where the root stands as in its file, 0 where it lies on the side, −1 on the back; 1 for a root that cannot tilt."""
    mujoco, model = imported_mujoco(), robot.model
    if model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE:
        x, y = observation[4 - robot.where], observation[5 - robot.where]  # after x, y, z and the quaternion's w
        return 1 - 2 * (x * x + y * y)
    up = jnp.ones(())
    for joint in np.flatnonzero(model.jnt_bodyid == model.jnt_bodyid[0]):
        if model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_HINGE and abs(model.jnt_axis[joint][2]) < 0.5:
            up = up * jnp.cos(observation[int(model.jnt_qposadr[joint]) - robot.where])
    return up


class Driver:
    """Drives a robot by the model of a `follower`, towards the most `reward`. Compiled once, for any number of runs."""

    def __init__(self, follower: Model, robot: Robot, planner: Planner = PLANNER, reward: Reward | None = None):
        self.follower, self.robot, self.planner = follower, robot, planner
        self.reward = reward or forward(robot)
        self._look_ahead, self._rewards = jax.jit(self._planned), jax.jit(jax.vmap(self.reward))

    def _planned(self, params: Params, observation: jax.Array, plan: Plan, key: jax.Array) -> tuple[jax.Array, jax.Array, Plan]:
        """(what to do now, what the model expects of it, the plan for the next step)."""
        limits = tuple(map(jnp.asarray, self.robot.limits))
        imagine = lambda state, action: self.follower.after(params, state, action)  # noqa: E731
        found = planned(self.planner, imagine, self.reward, observation, plan, limits, key)
        action = action_of(found, limits)
        return action, imagine(observation, action), moved_on(self.planner, found)

    def drive(self, model_at: Callable[[int], Any], steps: int, afterwards: Afterwards, seed: int = 0) -> Run:
        """So many steps of control. `model_at(step)` is the `mujoco.MjModel` that the robot is at that step, and `afterwards`
        what is done once the follower has seen the step. Without memory of earlier runs; the same for the same seed."""
        follower, robot, simulator = self.follower, self.robot, Simulator(self.robot, threads=1)
        follower.forget()
        plan, keys = first_plan(self.planner, robot.actions), jax.random.split(jax.random.key(seed), steps)
        states, actions = [beginnings(robot, np.random.default_rng(seed), 1)[0]], []
        rewards, errors = np.zeros(steps), np.full(steps, np.nan)
        for step in range(steps):
            before = robot.observation(states[-1])
            action, expected, plan = jax.device_get(self._look_ahead(follower.params, before, plan, keys[step]))
            state = simulator.run([model_at(step)], states[-1][None], action[None, None])[0, -1]
            after = robot.observation(state)
            if not (np.isfinite(after) & (np.abs(after) < AWAY)).all():
                break
            states.append(state)
            actions.append(action)
            errors[step] = np.mean(np.square((after - expected) / follower.change_scale))
            follower.observe(before, action, after)
            afterwards(step)
        lived, observations = len(actions), robot.observation(np.array(states))
        if lived:
            rewards[:lived] = self._rewards(observations[:-1], np.array(actions), observations[1:])
        return Run(np.array(states), np.array(actions), rewards, errors)


def adapting(follower: Model, every: int = 1, until: int | None = None) -> Afterwards:
    """Adapts after every so many steps, `until` that step (to the end where it is None)."""

    def afterwards(step: int) -> None:
        if (step + 1) % every == 0 and (until is None or step < until):
            follower.adapt()

    return afterwards
