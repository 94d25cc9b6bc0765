"""Implicit MAML (Rajeswaran, Finn, Kakade & Levine 2019, arXiv 1909.04630): the meta-gradient from where adaptation ends,
whatever way it went. Values for `Learner.task_gradient`.

Adaptation minimizes G(φ) = L(φ, support) + λ/2 |φ − θ|². At its minimum ∇L + λ (φ − θ) = 0, so dφ/dθ = (I + H/λ)⁻¹ with H
the Hessian of L at φ, and the meta-gradient is (I + H/λ)⁻¹ ∇L(φ, query): a linear system, solved by conjugate gradients."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from fewstep.core.maml import Learner, TaskGradient, adapt, adaptation_step, start_and_back, task_loss
from fewstep.core.types import Batch, Episode, Key, Loss, MetaParams, Params
from fewstep.core.varying import axes_of, of_one_task, varying
from fewstep.errors import InputError
from fewstep.gradients.custom_rules import own_rules


def implicit(strength: float, iterations: int = 500, tolerance: float = 0.1, accuracy: float = 1e-3) -> TaskGradient:
    """The task gradient of iMAML, with λ = `strength`.

    The learner's inner optimizer should have the same pull, `variants.proximal(…, strength)`, and come to the minimum: a
    `remainder` above `tolerance` is said in a warning. Conjugate gradients end at a relative error of `accuracy`, or after so
    many `iterations`, which is said in a warning too. What the inner optimizer learns has no part in the minimum, and is left
    as it is. Where a task starts from a function of θ (`Learner.start`), the gradient goes back to θ through it.

    Raises `InputError` for a learner with another objective than the query loss, or with an adaptation step of its own, such as
    `variants.moves`: its θ′ is no minimum in all parameters. Conjugate gradients need a symmetric H: raises `InputError` too
    for a loss with derivative rules of its own (see own_rules.py), whose H may not be symmetric or have no forward derivative.
    """
    if strength <= 0:
        raise InputError(f"expected a positive strength of the proximal term, got {strength}")

    def gradient(learner: Learner, params: MetaParams, episode: Episode, key: Key, step: jax.Array):
        del step
        require_plain_objective(learner, "implicit")
        if learner.adaptation_step is not adaptation_step:
            raise InputError(
                "gradients.implicit: expected a Learner whose adaptation_step moves all parameters by the inner optimizer, "
                f"got {_named(learner.adaptation_step)}. Its θ′ is not the minimum that the implicit gradient is taken at. Use "
                "gradients.exact, or remove adaptation_step."
            )
        params = of_one_task(learner, params, episode, key)
        adapt_key, query_key = jax.random.split(key)
        start, back = start_and_back(learner, params, episode.support, adapt_key)
        _require_symmetric(learner.loss, start, episode.support, adapt_key)
        adapted = jax.lax.stop_gradient(adapt(learner, params, episode.support, adapt_key))
        loss, right = jax.value_and_grad(learner.loss)(adapted, episode.query, query_key)
        # Linearized once: every product is then the linear part alone.
        slope, curvature = jax.linearize(lambda theta: jax.grad(learner.loss)(theta, episode.support, adapt_key), adapted)
        flat, restore = ravel_pytree(right)
        system = lambda v: v + ravel_pytree(curvature(restore(v)))[0] / strength  # noqa: E731
        solution, error = solved(system, flat, accuracy, iterations)
        left = remainder(learner.loss, start, adapted, strength, episode.support, adapt_key)
        names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(adapted)]
        still = _unmoved(start, adapted, slope)

        def say(left: np.ndarray, still: np.ndarray, error: np.ndarray) -> None:
            _warn_of_adaptation(float(np.max(left)), tolerance, [n for n, s in zip(names, still.T, strict=True) if np.any(s)])
            _warn_of_system(float(np.max(error)), accuracy, iterations)

        jax.debug.callback(say, left, still, error)
        (gradient,) = back(restore(solution))
        return loss, MetaParams(gradient, jax.tree.map(jnp.zeros_like, params.inner))

    return gradient


def require_plain_objective(learner: Learner, way: str) -> None:
    """Raises `InputError` where the learner has an objective that this way of a gradient would not look at."""
    if learner.objective is not task_loss:
        raise InputError(
            f"gradients.{way}: expected a Learner whose objective is the query loss after adaptation, fewstep.task_loss, got "
            f"{_named(learner.objective)}, which {way} does not differentiate. Use gradients.exact, or remove the objective."
        )


def _named(value: object) -> str:
    return getattr(value, "__qualname__", None) or repr(value)


def solved(
    product: Callable[[jax.Array], jax.Array], right: jax.Array, accuracy: float, iterations: int
) -> tuple[jax.Array, jax.Array]:
    """(x [n], |b − A x| / |x|) of A x = b, with b = `right` [n] and A v = `product(v)`, by conjugate gradients (Hestenes &
    Stiefel 1952), until this residual is at most `accuracy`, in at most so many `iterations`.

    A is symmetric. Where its eigenvalues are 1 or more (I + H/λ of a convex loss), |b − A x| is at least the error |x − A⁻¹ b|,
    whatever the condition number. The residual returned is computed from x: by rounding, that of the iterations drifts away
    from it. A direction along which A is not positive ends the iterations (Steihaug 1983).
    """
    size = jnp.max(jnp.abs(right), initial=0)
    scale = jnp.where(size > 0, size, 1)  # so that no square underflows
    right = right / scale

    def unfinished(state: tuple[jax.Array, ...]) -> jax.Array:
        x, _, _, square, done = state
        return (square > accuracy**2 * jnp.vdot(x, x)) & (done < iterations)

    def iterate(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        x, residual, direction, square, done = state
        along = product(direction)
        steepness = jnp.vdot(direction, along)
        convex = steepness > 0
        length = jnp.where(convex, square / jnp.where(convex, steepness, 1), jnp.where(done == 0, 1, 0))
        next_residual = residual - length * along
        next_square = jnp.vdot(next_residual, next_residual)
        next_direction = next_residual + next_square / square * direction
        return x + length * direction, next_residual, next_direction, next_square, jnp.where(convex, done + 1, iterations)

    none = varying(jnp.zeros((), jnp.int32), axes_of(right))
    x = jax.lax.while_loop(unfinished, iterate, (jnp.zeros_like(right), right, right, jnp.vdot(right, right), none))[0]
    error = jnp.linalg.norm(right - product(x)) / jnp.maximum(jnp.linalg.norm(x), jnp.finfo(x.dtype).tiny)
    return scale * x, error


def remainder(loss: Loss, theta: Params, adapted: Params, strength: float, support: Batch, key: Key) -> jax.Array:
    """|∇L(φ) + λ (φ − θ)| over |∇L(φ)| + λ |φ − θ|: 0 where adaptation has come to the minimum, 1 where it has not begun."""
    slope = jax.grad(loss)(adapted, support, key)
    pull = optax.tree.scale(strength, optax.tree.sub(adapted, theta))
    size = optax.tree.norm(slope) + optax.tree.norm(pull)
    return optax.tree.norm(optax.tree.add(slope, pull)) / jnp.maximum(size, 1e-30)


def _require_symmetric(loss: Loss, start: Params, support: Batch, key: Key) -> None:
    if rules := own_rules(loss, start, support, key):
        raise InputError(
            "implicit: expected a loss with a symmetric Hessian and a forward derivative, which conjugate gradients need; got "
            f"one with a derivative rule of its own: {', '.join(rules)}. Use exact, stored, auto, truncated or first_order."
        )


def _unmoved(start: Params, adapted: Params, slope: Params) -> jax.Array:
    """[leaves] of bool: which have stayed where they start though their gradient is not 0, while others have moved."""
    pairs = zip(jax.tree.leaves(start), jax.tree.leaves(adapted), strict=True)
    stayed = jnp.stack([jnp.all(before == after) for before, after in pairs])
    return stayed & jnp.stack([jnp.any(leaf != 0) for leaf in jax.tree.leaves(slope)]) & ~jnp.all(stayed)


def _warn_of_adaptation(left: float, tolerance: float, unmoved: Sequence[str]) -> None:
    """Without the number, so that Python says it once in a training. Of what is not finite, the loss says so itself."""
    if left > tolerance and unmoved:
        warnings.warn(
            f"implicit: adaptation leaves parameters where they start ({', '.join(unmoved[:5])}), but the meta-gradient is "
            "taken at a minimum in all parameters. Let the inner optimizer move all of them, or use gradients.exact.",
            stacklevel=2,
        )
    elif left > tolerance:
        warnings.warn(
            f"implicit: adaptation ends more than {tolerance:g} away from the minimum that the meta-gradient is taken at (0 "
            "there, 1 at the start). The inner optimizer needs the same pull, variants.proximal(…, strength). If it has it, "
            "take more adaptation steps, a larger inner rate or a greater strength.",
            stacklevel=2,
        )


def _warn_of_system(error: float, accuracy: float, iterations: int) -> None:
    """With the power of ten above the error, so that Python says few of them in a training."""
    if error > accuracy:
        above = 10.0 ** math.ceil(math.log10(min(error, 1e30)))
        warnings.warn(
            f"implicit: the meta-gradient's linear system has a relative residual of up to {above:g} after at most "
            f"{iterations} iterations of conjugate gradients; {accuracy:g} was asked for. Give implicit(…, iterations=…) more, "
            "a greater strength, or another accuracy=…: float32 does not reach 1e-7 times the condition number.",
            stacklevel=2,
        )
