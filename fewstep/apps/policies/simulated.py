"""Meta-steps whose trajectories come from a simulator outside JAX: `meta_step` for a `Simulation`.

Each control step is one compiled call of the policy and one call of the simulator, for all tasks and rollouts together;
adaptation and the outer step are compiled. All randomness depends only on (key, number of the meta-step, number of the task),
so the same keys give the same bits. A trajectory that breaks (its environment raises, or returns numbers that are not finite)
is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.apps.policies.advantages import scored
from fewstep.apps.policies.environment import Simulation, Tasks
from fewstep.apps.policies.meta_step import MetaStepInfo, PolicySearch, outer_step
from fewstep.apps.policies.networks import Policy, update_statistics
from fewstep.apps.policies.trajectories import PolicyReturns, Scored, Trajectories
from fewstep.core.maml import MetaState
from fewstep.core.types import Key, MetaParams, Params
from fewstep.errors import TrainingError


class Collected(NamedTuple):
    """What came of rolling policies out."""

    trajectories: Trajectories
    """leaves [tasks, rollouts, ...]"""
    broken: np.ndarray
    """bool [tasks, rollouts]: whether a trajectory broke"""
    messages: tuple[str, ...]
    """of each that did: its task, the step and why"""


def collect_simulated(
    simulation: Simulation, policy: Policy, thetas: Params, tasks: Tasks, rollouts: int, key: Key
) -> Collected:
    """`rollouts` trajectories of every task, each under its task's entry of `thetas` [tasks, ...], up to the horizon.

    Raises `TrainingError` if all trajectories break.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(tasks)))
    at_once = max(1, simulation.at_once // rollouts)
    groups = [
        _rolled_out(
            simulation, policy, jax.tree.map(lambda leaf, part=part: leaf[part], thetas), tasks[part], rollouts, keys[part]
        )
        for part in (slice(first, first + at_once) for first in range(0, len(tasks), at_once))
    ]
    broken = np.concatenate([each.broken for each in groups])
    messages = tuple(line for each in groups for line in each.messages)
    if broken.all():
        raise TrainingError(f"All {broken.size} trajectories broke, the first in {messages[0]}. The last checkpoint is kept.")
    trajectories = groups[0].trajectories
    if len(groups) > 1:
        trajectories = jax.tree.map(lambda *parts: jnp.concatenate(parts), *(each.trajectories for each in groups))
    return Collected(trajectories, broken, messages)


def simulated_meta_step(
    search: PolicySearch, simulation: Simulation, policy: Policy, state: MetaState, key: Key
) -> tuple[MetaState, MetaStepInfo]:
    """One meta-step, as `policy_meta_step`; `key` is that of the whole run. Not for `jax.jit`: it is made of compiled parts."""
    task_key, *keys = jax.random.split(jax.random.fold_in(key, state.step), 3)
    tasks = simulation.sample(generator_of(task_key), search.tasks)
    found, _ = simulated_path(search, simulation, policy, state.params, tasks, keys, search.adaptation_steps, search.rollouts)
    *supports, query = (each.trajectories for each in found)
    state, taken = _outer(search, policy, state, supports, query)
    returned = jnp.asarray([np.mean(_whole_returns(each)[~each.broken]) for each in found], jnp.float32)
    steps = sum(int(np.sum(each.trajectories.weight)) for each in found)
    messages = tuple(line for each in found for line in each.messages)
    return state, MetaStepInfo(returned, jnp.asarray(steps, jnp.int32), taken, messages)


def evaluate_simulated(
    search: PolicySearch,
    simulation: Simulation,
    policy: Policy,
    params: MetaParams,
    tasks: Tasks,
    key: Key,
    steps: int = 3,
    rollouts: int = 40,
    later_rate: float = 0.5,
) -> PolicyReturns:
    """What policies bring in tasks after 0, 1, … adaptation steps, each of them on fresh trajectories: [tasks, steps + 1].

    Trajectories that broke are left out; where all of a task's did, its return is NaN.
    """
    keys = jax.random.split(key)
    return returns_by_update(simulated_path(search, simulation, policy, params, tasks, keys, steps, rollouts, later_rate)[0])


def returns_by_update(found: Sequence[Collected]) -> PolicyReturns:
    """What was collected by update, as returns and counts of steps: float64 and int64 [tasks, updates + 1]."""
    sums = np.stack([np.sum(np.where(each.broken, 0, _whole_returns(each)), 1) for each in found], 1)
    counts = np.stack([np.sum(~each.broken, 1) for each in found], 1)
    steps = np.stack([np.sum(np.asarray(each.trajectories.weight), (1, 2)).astype(int) for each in found], 1)
    return PolicyReturns(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan), steps)


def simulated_path(
    search: PolicySearch,
    simulation: Simulation,
    policy: Policy,
    params: MetaParams,
    tasks: Tasks,
    keys: Sequence[Key] | Key,
    steps: int,
    rollouts: int,
    later_rate: float = 1.0,
    watch: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> tuple[list[Collected], list[Params]]:
    """What was collected for each of `steps` adaptation steps and at last with θ′, and by which: [θ, θ′, …] of all tasks.

    `keys` are (of the path, of the last). `watch` is told of the collections: it passes on their numbers, one by one.
    """
    state, found = _start(search, policy, later_rate, len(tasks), params), []
    path = [state[0]]
    path_key, last_key = keys
    step_keys = [*jax.random.split(path_key, steps), last_key]
    for number in watch(range(steps + 1)):
        found.append(collect_simulated(simulation, policy, state[0], tasks, rollouts, step_keys[number]))
        if number < steps:
            state = _adapt(search, policy, later_rate, params, state, found[-1].trajectories)
            path.append(state[0])
    return found, path


def _rolled_out(simulation: Simulation, policy: Policy, thetas: Params, tasks: Tasks, rollouts: int, keys: Key) -> Collected:
    """The trajectories of some tasks, side by side."""
    shape = len(tasks), rollouts
    rows, steps = len(tasks) * rollouts, simulation.horizon
    begin_keys, act_keys = _split(keys)
    begun = simulation.begin([task for task in tasks for _ in range(rollouts)], _seeds(begin_keys, rollouts).ravel().tolist())
    observation = np.asarray(begun.observations, np.float32)
    active = np.all(np.isfinite(observation), axis=-1)
    broken, messages = (
        ~active,
        [_broken_message(tasks, row // rollouts, 0, begun.messages.get(row)) for row in np.flatnonzero(~active).tolist()],
    )
    seen = np.zeros((rows, steps, simulation.observation_size), np.float32)
    acted = (
        np.zeros((rows, steps), np.int32)
        if simulation.discrete
        else np.zeros((rows, steps, simulation.action_size), np.float32)
    )
    rewards, weight, terminated = (np.zeros((rows, steps), np.float32) for _ in range(3))
    last = np.where(active[:, None], observation, 0)
    for step in range(steps):
        if not active.any():
            break
        seen[:, step] = last
        actions = np.asarray(_act(policy, thetas, last.reshape(*shape, -1), act_keys, step))
        acted[:, step] = actions.reshape(acted[:, step].shape)
        outcome = simulation.step(acted[:, step], active)
        fine = np.all(np.isfinite(outcome.observations), axis=-1) & np.isfinite(outcome.rewards)
        for row in np.flatnonzero(active & ~fine).tolist():
            messages.append(_broken_message(tasks, row // rollouts, step + 1, outcome.messages.get(row)))
        broken |= active & ~fine
        active = active & fine
        weight[active, step] = 1
        rewards[active, step] = outcome.rewards[active]
        terminated[active, step] = outcome.terminated[active]
        last = np.where(active[:, None], outcome.observations, last)  # one that has ended stands still
        active = active & ~outcome.terminated & ~outcome.truncated
    # Dropped as a whole: were it cut where it broke, breaking would pay wherever rewards are negative.
    rewards[broken], weight[broken], terminated[broken] = 0, 0, 0
    parts = seen, acted, rewards, weight, terminated, last
    by_task = (jnp.asarray(part.reshape(*shape, *part.shape[1:])) for part in parts)
    return Collected(_completed(policy, thetas, *by_task), broken.reshape(shape), tuple(messages))


def _broken_message(tasks: Tasks, number: int, step: int, why: str | None) -> str:
    where = f"at step {step}" if step else "at its reset"
    return f"task {number + 1} ({tasks[number]!r}) {where}: {why or 'what came back is not a number'}"


def generator_of(key: Key) -> np.random.Generator:
    """NumPy's random numbers, decided by a key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _whole_returns(collected: Collected) -> np.ndarray:
    """float64 [tasks, rollouts]"""
    return np.sum(np.asarray(collected.trajectories.rewards, np.float64), axis=-1)


@jax.jit
def _split(keys: Key) -> tuple[Key, Key]:
    pairs = jax.vmap(jax.random.split)(keys)
    return pairs[:, 0], pairs[:, 1]


@partial(jax.jit, static_argnums=1)
def _seeds(keys: Key, rollouts: int) -> jax.Array:
    return jax.vmap(lambda key: jax.random.bits(key, (rollouts,), jnp.uint32))(keys)


@partial(jax.jit, static_argnums=0)
def _act(policy: Policy, thetas: Params, observations: jax.Array, keys: Key, step: jax.Array) -> jax.Array:
    """Actions [tasks, rollouts, ...] in one step of control."""

    def of_one_task(theta: Params, observations: jax.Array, key: Key) -> jax.Array:
        return policy.sample(policy.distribution(theta, observations), jax.random.fold_in(key, step))

    return jax.vmap(of_one_task)(thetas, observations, keys)


@partial(jax.jit, static_argnums=0)
def _completed(
    policy: Policy,
    thetas: Params,
    observations: jax.Array,
    actions: jax.Array,
    rewards: jax.Array,
    weight: jax.Array,
    terminated: jax.Array,
    last: jax.Array,
) -> Trajectories:
    """The trajectories, with what the actions were drawn from."""
    distribution = jax.vmap(policy.distribution)(thetas, observations)
    log_probability = policy.log_probability(distribution, actions)
    return Trajectories(observations, actions, rewards, log_probability, distribution, weight, terminated, last)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _start(search: PolicySearch, policy: Policy, later_rate: float, tasks: int, params: MetaParams) -> Any:
    """The state of every task's adaptation before its first step: (θ, of its optimizer), [tasks, ...]."""
    optimizer = search.learner(policy, later_rate).optimizer(params.inner)
    return jax.vmap(lambda _: (params.theta, optimizer.init(params.theta)))(jnp.arange(tasks))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _adapt(search: PolicySearch, policy: Policy, later_rate: float, params: MetaParams, state: Any, found: Trajectories) -> Any:
    """The state after one adaptation step of every task."""
    learner = search.learner(policy, later_rate)
    optimizer = learner.optimizer(params.inner)

    def of_one_task(state: Any, found: Trajectories) -> Any:
        return learner.adaptation_step(learner, optimizer, state, _scored(search, found), jax.random.key(0))

    return jax.vmap(of_one_task)(state, found)


@partial(jax.jit, static_argnums=(0, 1))
def _outer(search: PolicySearch, policy: Policy, state: MetaState, supports: Sequence[Trajectories], query: Trajectories):
    """(the state after the outer step, how it went); what was seen is counted for the meta-steps to come."""
    score = jax.vmap(partial(_scored, search))
    by_step = [score(each) for each in supports]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves, 1), *by_step)
    state, taken = outer_step(search, policy, state, stacked, score(query))
    theta = state.params.theta
    for each in (*supports, query):
        theta = update_statistics(theta, each.observations, each.weight)
    return MetaState(state.params._replace(theta=theta), state.opt_state, state.step), taken


def _scored(search: PolicySearch, trajectories: Trajectories) -> Scored:
    return scored(trajectories, search.discount, search.trace, bootstrap=search.bootstrap)
