"""Clip each task's meta-gradient before the mean, so that one wild task cannot throw θ. A value for `Learner.task_gradient`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from fewstep.maml import TaskGradient


def clipped(task_gradient: TaskGradient, max_norm: float) -> TaskGradient:
    """`task_gradient` with the global norm of every task's gradient at most `max_norm`."""

    def clipped_gradient(learner, params, episode, key, step):
        loss, gradient = task_gradient(learner, params, episode, key, step)
        # The floor keeps the derivative-free division finite for a task that is already solved.
        scale = jnp.minimum(1.0, max_norm / jnp.maximum(optax.tree.norm(gradient), 1e-12))
        return loss, jax.tree.map(lambda leaf: leaf * scale, gradient)

    return clipped_gradient
