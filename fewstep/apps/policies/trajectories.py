"""Trajectories of one task, their returns, and rollouts in an environment of pure functions inside the compiled program."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fewstep.apps.policies.environment import Environment, Task
from fewstep.apps.policies.networks import Policy
from fewstep.core.types import Key, Params


class Trajectories(NamedTuple):
    """Rollouts of one policy in one task, all as long as the horizon. Steps after a trajectory's end have weight 0."""

    observations: jax.Array
    """[rollouts, steps, observed], before the action"""
    actions: jax.Array
    """[rollouts, steps, actions], or integers [rollouts, steps]"""
    rewards: jax.Array
    """[rollouts, steps], 0 after the end"""
    log_probability: jax.Array
    """[rollouts, steps], of the actions under the policy that drew them"""
    distribution: Any
    """leaves [rollouts, steps, ...]: what that policy drew them from"""
    weight: jax.Array
    """[rollouts, steps], 1 for a step that was taken and 0 for one after the end"""
    terminated: jax.Array
    """[rollouts, steps], 1 where a trajectory ended by itself; one that never did was cut off"""
    last_observation: jax.Array
    """[rollouts, observed], after the last step: from here a trajectory that was cut off would have gone on"""


class Scored(NamedTuple):
    """Trajectories with what each action was worth: what a policy's loss looks at. Advantages are data, constant in θ."""

    trajectories: Trajectories
    advantages: jax.Array
    """[rollouts, steps]"""


class PolicyReturns(NamedTuple):
    """What policies brought in tasks, by updates: after 0, 1, …, each on fresh trajectories."""

    returns: Any
    """[..., updates + 1]: a task's mean return"""
    steps: Any
    """[..., updates + 1]: environment steps that its trajectories took, all together"""


def returns(trajectories: Trajectories) -> jax.Array:
    """[rollouts]: the sum of a trajectory's rewards, not discounted: what policies are compared by."""
    return jnp.sum(trajectories.rewards * trajectories.weight, axis=-1)


def steps_taken(trajectories: Trajectories) -> jax.Array:
    """Scalar: the environment steps that these trajectories took."""
    return jnp.sum(trajectories.weight)


def mean_over_steps(values: jax.Array, weight: jax.Array) -> jax.Array:
    """The mean of `values` over the steps that were taken: both [rollouts, steps]."""
    return jnp.sum(weight * values) / jnp.maximum(jnp.sum(weight), 1e-8)


def collect(environment: Environment, policy: Policy, params: Params, task: Task, key: Key, rollouts: int) -> Trajectories:
    """`rollouts` trajectories of one task, side by side, each up to the horizon. Pure; map it over tasks with `vmap`."""

    def one_step(carry: tuple[Any, jax.Array], key: Key):
        state, active = carry
        act_key, step_key = jax.random.split(key)
        observation = jax.vmap(environment.observe, (0, None))(state, task)
        distribution = policy.distribution(params, observation)
        action = policy.sample(distribution, act_key)
        after = jax.vmap(environment.step, (0, 0, None, 0))(state, action, task, jax.random.split(step_key, rollouts))
        weight = active.astype(after.reward.dtype)
        log_probability = policy.log_probability(distribution, action)
        ended = after.terminated & active
        reward = jnp.where(active, after.reward, 0)
        seen = observation, action, reward, log_probability, distribution, weight, ended.astype(weight.dtype)
        # A trajectory that has ended stands still: what happens beyond must not become NaN.
        state = jax.tree.map(lambda new, old: jnp.where(_expand_to(active, new), new, old), after.state, state)
        return (state, active & ~after.terminated), seen

    start_key, steps_key = jax.random.split(key)
    state = jax.vmap(environment.reset, (None, 0))(task, jax.random.split(start_key, rollouts))
    carry = state, jnp.ones(rollouts, bool)
    (state, _), seen = jax.lax.scan(one_step, carry, jax.random.split(steps_key, environment.horizon))
    by_rollout = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), seen)
    return Trajectories(*by_rollout, last_observation=jax.vmap(environment.observe, (0, None))(state, task))


def _expand_to(active: jax.Array, leaf: jax.Array) -> jax.Array:
    """`active` [rollouts] with the axes of `leaf` [rollouts, ...]."""
    return active.reshape(active.shape + (1,) * (leaf.ndim - 1))
