"""Model-predictive control by sampling, for any dynamics model, and a robot in MuJoCo that is driven by it.

Candidate plans are sampled around the plan of the previous step, shifted by one; the model rolls out each; their returns decide
where the next candidates are sampled. The update is a value: `random_shooting` (as in Nagabandi et al. 2019, arXiv 1803.11347),
`cem` (the cross-entropy method, Rubinstein 1999) or `mppi` (Williams et al. 2017, arXiv 1707.02342).

A fault may strike in the middle of a run; the model is not informed of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.apps.robots.data import Simulator
from fewstep.core.types import Key, Params
from fewstep.simulators.mujoco import DIVERGENCE_LIMIT, Robot, import_mujoco, initial_states

Dynamics = Callable[[jax.Array, jax.Array], jax.Array]
"""`(observation, action) -> the next observation`"""
Reward = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""`(observation, action, the next observation) -> scalar`, of one step"""


class Plan(NamedTuple):
    """Where candidates are drawn: actions of the steps ahead, in parts of their range from −1 to 1."""

    mean: jax.Array
    """[horizon, actions]"""
    deviation: jax.Array
    """[horizon, actions]"""


Improve = Callable[[jax.Array, jax.Array, Plan], Plan]
"""`(candidates [candidates, horizon, actions], returns [candidates], the plan they were sampled around) -> the next plan`"""


def random_shooting(candidates: jax.Array, returns: jax.Array, drawn: Plan) -> Plan:
    """The candidate that is worth most, and around it as far as before."""
    return Plan(candidates[jnp.argmax(returns)], drawn.deviation)


def cem(share: float = 0.1, least: float = 0.05) -> Improve:
    """Mean and deviation of the best `share` of the candidates; no deviation falls below `least`."""

    def improve(candidates: jax.Array, returns: jax.Array, drawn: Plan) -> Plan:
        count = max(2, round(share * len(candidates)))
        chosen = candidates[jax.lax.top_k(returns, count)[1]]
        return Plan(jnp.mean(chosen, 0), jnp.maximum(jnp.std(chosen, 0), least))

    return improve


def mppi(temperature: float = 0.1) -> Improve:
    """The mean of all candidates by exp(return / (temperature · deviation of the returns)), and around it as far as before."""

    def improve(candidates: jax.Array, returns: jax.Array, drawn: Plan) -> Plan:
        weights = jax.nn.softmax(returns / (temperature * jnp.std(returns) + 1e-9))
        return Plan(jnp.einsum("c,cha->ha", weights, candidates), drawn.deviation)

    return improve


class Planner(NamedTuple):
    """How far and how hard it looks ahead."""

    horizon: int = 10
    candidates: int = 500
    """in each round"""
    rounds: int = 1
    """of drawing and improving at each step of control"""
    deviation: float = 0.6
    """of the first candidates, in parts of half an action's range"""
    improve: Improve = random_shooting
    persistence: float = 0.0
    """of a candidate's deviations from one step to the next: 0 for white noise. What moves a body pushes for longer than a step
    (Pinneri et al. 2020, arXiv 2008.06389)"""


def initial_plan(planner: Planner, actions: int) -> Plan:
    """Before anything is known: around the middle of all ranges."""
    shape = planner.horizon, actions
    return Plan(jnp.zeros(shape), jnp.full(shape, planner.deviation))


def improve_plan(
    planner: Planner, dynamics: Dynamics, reward: Reward, observation: jax.Array, plan: Plan, limits, key: Key
) -> Plan:
    """The plan from this `observation` on, drawn around `plan`; its first action is the one to take (`first_action`). Pure.

    `limits` are (least, most) of the actions, both [actions]. A candidate that the model leads to numbers that are not finite
    is worth nothing.
    """

    def worth(candidate: jax.Array) -> jax.Array:
        def step(state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
            after = dynamics(state, action)
            return after, reward(state, action, after)

        return jnp.sum(jax.lax.scan(step, observation, scale_to_limits(candidate, limits))[1])

    def round_of(plan: Plan, key: Key) -> tuple[Plan, None]:
        noise = colored_noise(jax.random.normal(key, (planner.candidates - 1, *plan.mean.shape)), planner.persistence)
        drawn = jnp.concatenate([plan.mean[None], plan.mean[None] + plan.deviation[None] * noise])  # the plan itself is one
        drawn = jnp.clip(drawn, -1.0, 1.0)
        returns = jax.vmap(worth)(drawn)
        finite = jnp.isfinite(returns)
        least = jnp.min(jnp.where(finite, returns, jnp.inf), initial=0.0)
        return planner.improve(drawn, jnp.where(finite, returns, least - 1e6), plan), None

    return jax.lax.scan(round_of, plan, jax.random.split(key, planner.rounds))[0]


def colored_noise(noise: jax.Array, persistence: float) -> jax.Array:
    """White noise [candidates, horizon, actions] made one whose neighbors in time correlate so much; of the same deviation."""

    def step(before: jax.Array, fresh: jax.Array) -> tuple[jax.Array, jax.Array]:
        now = persistence * before + (1 - persistence**2) ** 0.5 * fresh
        return now, now

    first, rest = noise[:, 0], jnp.moveaxis(noise[:, 1:], 1, 0)
    return jnp.concatenate([first[None], jax.lax.scan(step, first, rest)[1]]).swapaxes(0, 1)


def first_action(plan: Plan, limits) -> jax.Array:
    """[actions]: what to do now."""
    return scale_to_limits(plan.mean[0], limits)


def shift_plan(planner: Planner, plan: Plan) -> Plan:
    """The plan of the next step: without the action that was taken, its last one repeated, drawn as far around as at first."""
    mean = jnp.concatenate([plan.mean[1:], plan.mean[-1:]])
    return Plan(mean, jnp.full_like(mean, planner.deviation))


def scale_to_limits(parts: jax.Array, limits) -> jax.Array:
    """Actions from parts between −1 and 1 of their range [..., actions]."""
    least, most = (jnp.broadcast_to(jnp.asarray(limit), parts.shape) for limit in limits)
    return (most + least) / 2 + parts * (most - least) / 2


EFFORT = 0.01
"""what an action's square costs, in meters a second"""
TILTED = 5.0
"""what lying on the side costs, in meters a second; on the back twice that"""
PLANNER = Planner(horizon=20, candidates=200, rounds=3, deviation=1.0, improve=cem())
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


def running_reward(robot: Robot) -> Reward:
    """The reward of running: the velocity along x in meters a second, less for tilting over and a little for effort."""
    place = robot.model.nq - robot.world_coordinates  # the first velocity is the root's along x

    def reward(observation: jax.Array, action: jax.Array, after: jax.Array) -> jax.Array:
        return after[place] - TILTED * (1 - upright(robot, after)) - EFFORT * jnp.sum(jnp.square(action))

    return reward


def upright(robot: Robot, observation: jax.Array) -> jax.Array:
    """1 where the root stands as in its file, 0 where it lies on the side, −1 on the back; 1 for a root that cannot tilt."""
    mujoco, model = import_mujoco(), robot.model
    if model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE:
        x, y = (observation[number - robot.world_coordinates] for number in (4, 5))  # after x, y, z and the quaternion's w
        return 1 - 2 * (x * x + y * y)
    up = jnp.ones(())
    for joint in np.flatnonzero(model.jnt_bodyid == model.jnt_bodyid[0]):
        if model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_HINGE and abs(model.jnt_axis[joint][2]) < 0.5:
            up = up * jnp.cos(observation[int(model.jnt_qposadr[joint]) - robot.world_coordinates])
    return up


class Driver:
    """Drives a robot by the model of a `follower`, towards the most `reward`. Compiled once, for any number of runs."""

    def __init__(self, follower: Model, robot: Robot, planner: Planner = PLANNER, reward: Reward | None = None):
        self.follower, self.robot, self.planner = follower, robot, planner
        self.reward = reward or running_reward(robot)
        self._look_ahead, self._rewards = jax.jit(self._planned), jax.jit(jax.vmap(self.reward))

    def _planned(self, params: Params, observation: jax.Array, plan: Plan, key: jax.Array) -> tuple[jax.Array, jax.Array, Plan]:
        """(what to do now, what the model expects of it, the plan for the next step)."""
        limits = tuple(map(jnp.asarray, self.robot.limits))
        dynamics = lambda state, action: self.follower.after(params, state, action)  # noqa: E731
        found = improve_plan(self.planner, dynamics, self.reward, observation, plan, limits, key)
        action = first_action(found, limits)
        return action, dynamics(observation, action), shift_plan(self.planner, found)

    def drive(self, model_at: Callable[[int], Any], steps: int, afterwards: Afterwards, seed: int = 0) -> Run:
        """So many steps of control. `model_at(step)` is the `mujoco.MjModel` that the robot is at that step, and `afterwards`
        what is done once the follower has seen the step. Without memory of earlier runs; the same for the same seed."""
        follower, robot, simulator = self.follower, self.robot, Simulator(self.robot, threads=1)
        follower.forget()
        plan, keys = initial_plan(self.planner, robot.action_size), jax.random.split(jax.random.key(seed), steps)
        states, actions = [initial_states(robot, np.random.default_rng(seed), 1)[0]], []
        rewards, errors = np.zeros(steps), np.full(steps, np.nan)
        for step in range(steps):
            before = robot.observation(states[-1])
            action, expected, plan = jax.device_get(self._look_ahead(follower.params, before, plan, keys[step]))
            state = simulator.run([model_at(step)], states[-1][None], action[None, None])[0, -1]
            after = robot.observation(state)
            if not (np.isfinite(after) & (np.abs(after) < DIVERGENCE_LIMIT)).all():
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


def adapt_every(follower: Model, every: int = 1, until: int | None = None) -> Afterwards:
    """Adapts after every so many steps, `until` that step (to the end where it is None)."""

    def afterwards(step: int) -> None:
        if (step + 1) % every == 0 and (until is None or step < until):
            follower.adapt()

    return afterwards
