"""Drives many robots at once, each with its own adapted copy of a model, to collect on-policy experience.

A model trained on random motion errs where a planner takes it: it is queried at states that it has never seen, and the planner
exploits its errors. So meta-train robots are driven by the model, their experience is added to its training data, and so on
(data aggregation, Ross, Gordon & Bagnell 2011, arXiv 1011.0686; for models Nagabandi et al. 2018, arXiv 1708.02596).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.apps.robots.adapted import Follower
from fewstep.apps.robots.data import Experience, Simulator, merge_runs
from fewstep.apps.robots.faults import Faults, read_family
from fewstep.apps.robots.mpc import (
    Plan,
    Planner,
    Reward,
    first_action,
    improve_plan,
    initial_plan,
    mppi,
    running_reward,
    shift_plan,
)
from fewstep.apps.robots.settings import RobotFaults
from fewstep.core.types import Examples, MetaParams
from fewstep.errors import InputError
from fewstep.simulators.mujoco import DIVERGENCE_LIMIT, Robot, initial_states
from fewstep.training.progress import watched

COLLECTION_PLANNER = Planner(horizon=10, candidates=100, rounds=1, deviation=0.8, improve=mppi(0.3))
"""how far it looks ahead while experience is gathered: less than when it counts, for there are hundreds of robots"""
HEALTHY_STEPS = 30
"""steps of control before the fault strikes, which are not kept: what follows begins amid a run"""
EXPLORATION_NOISE = 0.2
"""deviation of what is added to each command, in parts of half its range: an even gait says little of each motor"""


class CollectedMore(NamedTuple):
    """What `collect_more` found."""

    parts: dict[str, Experience]
    left_out: int
    """robots whose simulation ran away"""
    error: float
    """of the model while it drove"""


def collect_more(follower: Follower, settings: RobotFaults, run_seed: int, seed: int) -> CollectedMore:
    """What a run of these settings was trained on, and one more run of each of its robots, driven by its model.

    Raises `InputError` if the conditions of its robots are not known.
    """
    faults = Faults(Robot(settings.robot), read_family(settings.family))
    parts = settings.collected(run_seed)
    if any(part.conditions.shape[1] != faults.size for part in parts.values()):
        raise InputError(
            f"{settings.data}: the conditions of its robots are not those of --family {settings.family}: it is a log?"
        )
    conditions = np.concatenate([part.conditions for part in parts.values()])
    driven, error = Fleet(follower, faults).drive(conditions, parts["train"].actions.shape[2], seed)
    gone = {number for number, _ in driven.dropped}
    found, first, taken = {}, 0, 0
    for name, part in parts.items():
        numbers = range(first, first + len(part.conditions))
        survivors = [number for number in numbers if number not in gone]
        rows = slice(taken, taken + len(survivors))
        dropped = tuple((number - first, step) for number, step in driven.dropped if number in numbers)
        found[name] = merge_runs(
            part, Experience(driven.observations[rows], driven.actions[rows], driven.conditions[rows], dropped)
        )
        first, taken = numbers.stop, rows.stop
    return CollectedMore(found, len(gone), error)


class Fleet:
    """Drives many robots of one family. Compiled once for each number of robots."""

    def __init__(self, follower: Follower, faults: Faults, planner: Planner = COLLECTION_PLANNER, reward: Reward | None = None):
        self.follower, self.faults, self.planner = follower, faults, planner
        self.reward = reward or running_reward(faults.robot)
        self._step = jax.jit(jax.vmap(self._one, in_axes=(None, 0, 0, 0, 0)))

    def _one(self, params: MetaParams, memory: Examples, observation: jax.Array, plan: Plan, key: jax.Array):
        """(what one robot does now, what its model expects of it, its plan for the next step), after adapting to what it
        remembers."""
        least, most = limits = tuple(map(jnp.asarray, self.faults.robot.limits))
        plan_key, curious_key = jax.random.split(key)
        adapted, _ = self.follower.adapted(params, memory)
        dynamics = lambda state, action: self.follower.after(adapted, state, action)  # noqa: E731
        found = improve_plan(self.planner, dynamics, self.reward, observation, plan, limits, plan_key)
        curious = EXPLORATION_NOISE * (most - least) / 2 * jax.random.normal(curious_key, least.shape)
        action = jnp.clip(first_action(found, limits) + curious, least, most)
        return action, dynamics(observation, action), shift_plan(self.planner, found)

    def drive(self, conditions: np.ndarray, steps: int, seed: int) -> tuple[Experience, float]:
        """One run of `steps` steps of a robot of each condition [robots, factors], from where the fault struck it on, and the
        mean square of what the model mistook, in deviations of the changes of meta-train robots. Robots whose simulation runs
        away are left out and named."""
        faults, robot, count = self.faults, self.faults.robot, len(conditions)
        simulator, scale = Simulator(robot), self.follower.change_scale
        healthy, faulty = [faults.model(faults.healthy())] * count, [faults.model(condition) for condition in conditions]
        states = initial_states(robot, np.random.default_rng(seed), count)
        seen, done = [robot.observation(states)], []
        plan = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], count, 0), initial_plan(self.planner, robot.action_size))
        memory = self._forgotten(count)
        key, ends, errors = jax.random.key(seed), np.full(count, HEALTHY_STEPS + steps), []
        for step in watched(range(HEALTHY_STEPS + steps), "steps of driving", 1):
            if step == HEALTHY_STEPS:
                memory = self._forgotten(count)
            keys = jax.random.split(jax.random.fold_in(key, step), count)
            action, expected, plan = self._step(self.follower.meta_params, memory, seen[-1], plan, keys)
            done.append(np.asarray(action))
            after = simulator.run(healthy if step < HEALTHY_STEPS else faulty, states, done[-1][:, None])[:, -1]
            found = robot.observation(after)
            away = ~np.all(np.isfinite(found) & (np.abs(found) < DIVERGENCE_LIMIT), axis=1)
            ends[away] = np.minimum(ends[away], step)
            states = np.where(away[:, None], states, after)  # so that the others can go on
            seen.append(robot.observation(states))
            memory = self._remembered(memory, seen[-2], done[-1], seen[-1])
            errors.append(np.mean(np.square((seen[-1] - np.asarray(expected)) / scale), 1))
        survivors = ends == HEALTHY_STEPS + steps
        dropped = tuple((int(number), int(ends[number])) for number in np.flatnonzero(~survivors))
        observations, actions = (np.stack(kept[HEALTHY_STEPS:], 1)[survivors, None] for kept in (seen, done))
        error = float(np.mean(np.stack(errors[HEALTHY_STEPS:], 1)[survivors]))
        return Experience(observations, actions, np.asarray(conditions[survivors], np.float32), dropped), error

    def _forgotten(self, count: int) -> Examples:
        """Memories of nothing."""
        memory = self.follower.memory.examples()
        return Examples(*(np.zeros((count, *np.shape(leaf)), np.float32) for leaf in memory))  # type: ignore[arg-type]

    def _remembered(self, memory: Examples, before: np.ndarray, actions: np.ndarray, after: np.ndarray) -> Examples:
        """Memories whose newest transition is this one, without their oldest."""
        inputs, changes = self.follower.standardized(before, actions, after)
        newest = Examples(inputs, changes, np.ones(len(inputs), np.float32))  # type: ignore[arg-type]
        return jax.tree.map(lambda rows, row: np.concatenate([rows[:, 1:], row[:, None]], 1), memory, newest)
