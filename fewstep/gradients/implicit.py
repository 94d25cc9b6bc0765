"""Implicit MAML (Rajeswaran, Finn, Kakade & Levine 2019, arXiv 1909.04630): the meta-gradient from where adaptation ends,
whatever way it went (floor 1). Values for `Learner.task_gradient`.

Adaptation minimizes G(φ) = L(φ, support) + λ/2 |φ − θ|². At its minimum ∇L + λ (φ − θ) = 0, so dφ/dθ = (I + H/λ)⁻¹ with H the
Hessian of L at φ, and the meta-gradient is (I + H/λ)⁻¹ ∇L(φ, query): a linear system, solved by conjugate gradients.
"""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from fewstep.errors import BadInput
from fewstep.gradients.own_rules import own_rules
from fewstep.maml import Learner, TaskGradient, adapt, of_one_task, start_and_back
from fewstep.types import Batch, Episode, Key, Loss, MetaParams, Params


def implicit(strength: float, iterations: int = 10, tolerance: float = 0.1) -> TaskGradient:
    """The task gradient of iMAML, with λ = `strength` and at most so many `iterations` of conjugate gradients.

    The learner's inner optimizer should have the same pull, `variants.proximal(…, strength)`, and come to the minimum: a
    `remainder` above `tolerance` is said in a warning. What it learns has no part in the minimum, and is left as it is. Where
    a task starts from a function of θ (`Learner.start`), the gradient goes back to θ through it.

    Conjugate gradients need a symmetric H. Raises `BadInput` for a loss with derivative rules of its own (see own_rules.py),
    of which H may not be symmetric, or which has no forward derivative.
    """
    if strength <= 0:
        raise ValueError(f"expected a positive strength of the proximal term, got {strength}")

    def gradient(learner: Learner, params: MetaParams, episode: Episode, key: Key, step: jax.Array):
        del step
        params = of_one_task(learner, params, episode, key)
        adapt_key, query_key = jax.random.split(key)
        start, back = start_and_back(learner, params, episode.support, adapt_key)
        _require_symmetric(learner.loss, start, episode.support, adapt_key)
        adapted = jax.lax.stop_gradient(adapt(learner, params, episode.support, adapt_key))
        left = remainder(learner.loss, start, adapted, strength, episode.support, adapt_key)
        jax.debug.callback(lambda left: _warn(float(jnp.max(left)), tolerance), left)
        loss, right = jax.value_and_grad(learner.loss)(adapted, episode.query, query_key)
        # Linearized once: every product is then the linear part alone.
        curvature = jax.linearize(lambda theta: jax.grad(learner.loss)(theta, episode.support, adapt_key), adapted)[1]
        flat, restore = ravel_pytree(right)  # one vector: under `vmap` JAX's solver takes no tree whose leaves differ in axes
        system = lambda v: v + ravel_pytree(curvature(restore(v)))[0] / strength  # noqa: E731
        solved = jax.scipy.sparse.linalg.cg(system, flat, maxiter=iterations)[0]
        (gradient,) = back(restore(solved))
        return loss, MetaParams(gradient, jax.tree.map(jnp.zeros_like, params.inner))

    return gradient


def remainder(loss: Loss, theta: Params, adapted: Params, strength: float, support: Batch, key: Key) -> jax.Array:
    """|∇L(φ) + λ (φ − θ)| over |∇L(φ)| + λ |φ − θ|: 0 where adaptation has come to the minimum, 1 where it has not begun."""
    slope = jax.grad(loss)(adapted, support, key)
    pull = optax.tree.scale(strength, optax.tree.sub(adapted, theta))
    size = optax.tree.norm(slope) + optax.tree.norm(pull)
    return optax.tree.norm(optax.tree.add(slope, pull)) / jnp.maximum(size, 1e-30)


def _require_symmetric(loss: Loss, start: Params, support: Batch, key: Key) -> None:
    if rules := own_rules(loss, start, support, key):
        raise BadInput(
            "implicit: expected a loss with a symmetric Hessian and a forward derivative, which conjugate gradients need; got "
            f"one with a derivative rule of its own: {', '.join(rules)}. Use exact, stored, auto, truncated or first_order."
        )


def _warn(left: float, tolerance: float) -> None:
    if not left <= tolerance:
        warnings.warn(  # without the number, so that Python says it once in a training
            f"implicit: adaptation ends more than {tolerance:g} away from the minimum that the meta-gradient is taken at (0 "
            "there, 1 at the start). Take more adaptation steps, a larger inner rate or a greater strength.",
            stacklevel=2,
        )
