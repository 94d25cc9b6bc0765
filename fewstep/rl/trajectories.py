"""Trajectories of one task, and what they brought (floor 2): the support and query sets of reinforcement learning."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


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


class Judged(NamedTuple):
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
