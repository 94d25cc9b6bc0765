"""Rolling a policy out in an environment made of pure functions, inside the compiled program (floor 2)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fewstep.nn.policies import Policy
from fewstep.rl.trajectories import Trajectories
from fewstep.tasks.environments import Environment, Task
from fewstep.types import Key, Params


def collect(environment: Environment, policy: Policy, params: Params, task: Task, key: Key, rollouts: int) -> Trajectories:
    """`rollouts` trajectories of one task, side by side, each up to the horizon. Pure; map it over tasks with `vmap`."""

    def one_step(carry: tuple[Any, jax.Array], key: Key):
        state, alive = carry
        act_key, step_key = jax.random.split(key)
        observation = jax.vmap(environment.observe, (0, None))(state, task)
        distribution = policy.distribution(params, observation)
        action = policy.sample(distribution, act_key)
        after = jax.vmap(environment.step, (0, 0, None, 0))(state, action, task, jax.random.split(step_key, rollouts))
        weight = alive.astype(after.reward.dtype)
        log_probability = policy.log_probability(distribution, action)
        ended = after.terminated & alive
        reward = jnp.where(alive, after.reward, 0)
        seen = observation, action, reward, log_probability, distribution, weight, ended.astype(weight.dtype)
        # A trajectory that has ended stands still: what happens beyond must not become NaN.
        state = jax.tree.map(lambda new, old: jnp.where(_like(alive, new), new, old), after.state, state)
        return (state, alive & ~after.terminated), seen

    start_key, steps_key = jax.random.split(key)
    state = jax.vmap(environment.reset, (None, 0))(task, jax.random.split(start_key, rollouts))
    carry = state, jnp.ones(rollouts, bool)
    (state, _), seen = jax.lax.scan(one_step, carry, jax.random.split(steps_key, environment.horizon))
    by_rollout = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), seen)
    return Trajectories(*by_rollout, last_observation=jax.vmap(environment.observe, (0, None))(state, task))


def _like(alive: jax.Array, leaf: jax.Array) -> jax.Array:
    """`alive` [rollouts] with the axes of `leaf` [rollouts, ...]."""
    return alive.reshape(alive.shape + (1,) * (leaf.ndim - 1))
