"""Clip each task's meta-gradient before the mean, so that one wild task cannot throw θ. A value for `Learner.task_gradient`.

Matrix products in bfloat16: on hardware that has units for them, several times faster than in float32.

Only products and convolutions: their factors are rounded to bfloat16, their sums are taken in float32. θ, gradients,
updates, normalizations, softmax and losses stay in float32 (mixed precision, Micikevicius et al. 2018, arXiv 1710.03740);
bfloat16 has the range of float32, so that no loss needs scaling.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from fewstep.core.jaxpr import rewritten
from fewstep.core.maml import TaskGradient


def clipped(task_gradient: TaskGradient, max_norm: float) -> TaskGradient:
    """`task_gradient` with the global norm of every task's gradient at most `max_norm`."""

    def clipped_gradient(learner, params, episode, key, step):
        loss, gradient = task_gradient(learner, params, episode, key, step)
        # The floor keeps the derivative-free division finite for a task that is already solved.
        scale = jnp.minimum(1.0, max_norm / jnp.maximum(optax.tree.norm(gradient), 1e-12))
        return loss, jax.tree.map(lambda leaf: leaf * scale, gradient)

    return clipped_gradient


def half_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its float32 matrix products and convolutions in bfloat16. Put it around a gradient, so that it covers
    products of the way back too."""
    products = {"dot_general": lax.dot_general, "conv_general_dilated": lax.conv_general_dilated}
    rules = {name: partial(_rounded, product) for name, product in products.items()}
    return rewritten(function, rules, differentiated=True)


def _rounded(product: Callable[..., jax.Array], one: jax.Array, other: jax.Array, **params: Any) -> jax.Array:
    taken = {"rhs_shape", "lhs_shape", "out_sharding"}  # what the public functions find themselves
    params = {name: value for name, value in params.items() if name not in taken}
    if one.dtype == other.dtype == jnp.float32:
        one, other = one.astype(jnp.bfloat16), other.astype(jnp.bfloat16)
        params |= {"preferred_element_type": jnp.float32, "precision": None}
    return product(one, other, **params)
