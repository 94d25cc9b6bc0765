"""The outer step of Finn et al. 2017: TRPO (Schulman et al. 2015, arXiv 1502.05477) *through* adaptation.

The surrogate is that of the adapted policies on their query trajectories; the trust region bounds how far these policies
move. θ moves along H⁻¹g, H the Hessian of their mean KL divergence in θ, found by conjugate gradients; the step is then
shortened until, after adapting anew, the surrogate has improved and the divergence is within its limit.

Products with H are exact. Let d(θ) be the adapted policies' distributions on the query observations. The divergence is
least at the θ that drew the trajectories, so its gradient in d is zero there, the second derivative of d falls out, and H
= JᵀMJ with J = ∂d/∂θ and M the divergence's Hessian in d. J contains the inner loss's second derivative; its third is
never needed. (The authors' code took differences of gradients to avoid it.) d is linearized once, for the gradient and
all products alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from fewstep.apps.policies.adaptation import adapted_on
from fewstep.apps.policies.networks import Policy
from fewstep.apps.policies.surrogates import mean_kl, ratio_of
from fewstep.apps.policies.trajectories import Scored
from fewstep.core.maml import Learner, MetaState
from fewstep.core.types import MetaParams


@dataclass(frozen=True)
class TrustRegion:
    """Settings of the outer step."""

    kl_limit: float = 0.01
    """the mean divergence of the adapted policies in one meta-step, at most"""
    damping: float = 1e-5
    """added to the Hessian's diagonal"""
    iterations: int = 10
    """of conjugate gradients"""
    shrink: float = 0.8
    """by this the step is shortened where it was too long"""
    tries: int = 15
    """so often at most; then θ stays where it is"""

    def init(self, params: MetaParams) -> MetaState:
        """The state before the first meta-step."""
        return MetaState(params, (), jnp.zeros((), jnp.int32))


class StepTaken(NamedTuple):
    """What an outer step did: scalars."""

    surrogate: jax.Array
    """of the adapted policies, before the step (minus their mean advantage: about 0)"""
    improvement: jax.Array
    """by which the step lowered it"""
    kl: jax.Array
    """mean divergence of the adapted policies from those that drew the queries, after the step"""
    tries: jax.Array
    """step lengths that were tried; the outer epochs, where the step is not a line search"""
    accepted: jax.Array
    """bool: False if no length would do, and θ stayed where it was"""
    finite: jax.Array
    """bool: whether the gradient and the direction were numbers"""


def trust_region_step(
    settings: TrustRegion, learner: Learner, policy: Policy, state: MetaState, supports: Scored, queries: Scored
) -> tuple[MetaState, StepTaken]:
    """One outer step. Leaves of `supports` are [tasks, steps, rollouts, ...], of `queries` [tasks, rollouts, ...]. Pure."""
    start, back = ravel_pytree(state.params)
    after_adapting = _distributions(learner, policy, supports, queries)

    def judged(distributions: Any) -> tuple[jax.Array, jax.Array]:
        """(surrogate, divergence), means over tasks."""
        surrogate = jax.vmap(lambda d, q: ratio_of(policy, d, q.trajectories, q.advantages))(distributions, queries)
        divergence = jax.vmap(lambda d, q: mean_kl(policy, d, q.trajectories))(distributions, queries)
        return jnp.mean(surrogate), jnp.mean(divergence)

    distributions, product, pull = _curvature(lambda flat: after_adapting(back(flat)), lambda d: judged(d)[1], start)
    surrogate, gradient = jax.value_and_grad(lambda d: judged(d)[0])(distributions)
    gradient = pull(gradient)

    def damped(v: jax.Array) -> jax.Array:
        return product(v) + settings.damping * v

    direction = conjugate_gradients(damped, gradient, settings.iterations)
    # The longest step along the direction whose divergence is, to second order, the limit: ½ s² dᵀHd = limit.
    curvature = jnp.vdot(direction, damped(direction))
    step = direction * jnp.sqrt(2 * settings.kl_limit / jnp.maximum(curvature, 1e-12))
    finite = jnp.all(jnp.isfinite(step)) & jnp.isfinite(surrogate)
    step = jnp.where(finite, step, 0)

    def attempt(tries: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        length = settings.shrink ** tries.astype(step.dtype)
        found, divergence = judged(after_adapting(back(start - length * step)))
        return surrogate - found, divergence, (found < surrogate) & (divergence <= settings.kl_limit)  # NaN is False

    def next_try(searched):
        tries, *_ = searched
        return tries + 1, *attempt(tries)

    nothing = jnp.zeros((), start.dtype)
    searched = jnp.zeros((), jnp.int32), nothing, nothing, jnp.zeros((), bool)
    tries, improvement, divergence, accepted = jax.lax.while_loop(
        lambda searched: ~searched[3] & (searched[0] < settings.tries) & finite, next_try, searched
    )
    length = jnp.where(accepted, settings.shrink ** (tries - 1).astype(step.dtype), 0)
    params = back(start - length * step)
    taken = StepTaken(
        surrogate, jnp.where(accepted, improvement, 0), jnp.where(accepted, divergence, 0), tries, accepted, finite
    )
    return MetaState(params, state.opt_state, state.step + 1), taken


def divergence_product(
    learner: Learner, policy: Policy, params: MetaParams, supports: Scored, queries: Scored
) -> Callable[[jax.Array], jax.Array]:
    """v -> Hv, H the Hessian in θ (raveled) of the adapted policies' mean divergence, at the θ that drew the trajectories."""
    start, back = ravel_pytree(params)
    after_adapting = _distributions(learner, policy, supports, queries)

    def divergence(distributions: Any) -> jax.Array:
        return jnp.mean(jax.vmap(lambda d, q: mean_kl(policy, d, q.trajectories))(distributions, queries))

    return _curvature(lambda flat: after_adapting(back(flat)), divergence, start)[1]


def conjugate_gradients(product: Callable[[jax.Array], jax.Array], target: jax.Array, iterations: int) -> jax.Array:
    """x with `product(x)` ≈ `target`, for a positive definite product; it stays where it is once nothing is left to gain."""

    def iterate(state, _):
        x, residual, along, left = state
        moved = product(along)
        bend = jnp.vdot(along, moved)
        useful = (left > 1e-20) & (bend > 0)
        length = jnp.where(useful, left / jnp.where(useful, bend, 1), 0)
        x, residual = x + length * along, residual - length * moved
        now = jnp.vdot(residual, residual)
        along = residual + jnp.where(useful, now / jnp.maximum(left, 1e-30), 0) * along
        return (x, residual, along, now), None

    start = jnp.zeros_like(target), target, target, jnp.vdot(target, target)
    return jax.lax.scan(iterate, start, length=iterations)[0][0]


def _distributions(learner: Learner, policy: Policy, supports: Scored, queries: Scored) -> Callable[[MetaParams], Any]:
    """θ -> the adapted policies' distributions on the query observations, leaves [tasks, rollouts, steps, ...]."""

    def of_one_task(params: MetaParams, supports: Scored, query: Scored) -> Any:
        return policy.distribution(adapted_on(learner, params, supports), query.trajectories.observations)

    return lambda params: jax.vmap(of_one_task, (None, 0, 0))(params, supports, queries)


def _curvature(distributions_at: Callable[[jax.Array], Any], divergence: Callable[[Any], jax.Array], start: jax.Array):
    """(d(θ), v -> JᵀMJv, u -> Jᵀu)."""
    distributions, push = jax.linearize(distributions_at, start)
    transposed = jax.linear_transpose(push, start)
    bend = jax.linearize(jax.grad(divergence), distributions)[1]

    def pull(cotangent: Any) -> jax.Array:
        return transposed(cotangent)[0]

    return distributions, lambda v: pull(bend(push(v))), pull
