"""The outer step of ProMP (Rothfuss et al. 2019, arXiv 1810.06784): PPO's clipped loss *through* adaptation.

It takes a few steps of an ordinary optimizer on one batch of trajectories and adapts again for each. The clipped loss keeps the
adapted policies near those that collected the queries; a penalty keeps the policies *before* each adaptation step near those
that collected the supports. A step is cheaper than one of a trust region, without its guarantee.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from fewstep.apps.policies.adaptation import path_on
from fewstep.apps.policies.networks import Policy
from fewstep.apps.policies.surrogates import clipped, mean_kl
from fewstep.apps.policies.trajectories import Scored
from fewstep.apps.policies.trpo import StepTaken
from fewstep.core.maml import Learner, MetaState, init, meta_step
from fewstep.core.types import MetaParams


@dataclass(frozen=True)
class ProximalPolicy:
    """Settings of the outer step; the defaults are those of the authors' code."""

    rate: float = 1e-3
    """of the optimizer"""
    epochs: int = 5
    """steps of the optimizer on one batch of trajectories"""
    clip: float = 0.3
    """ratios beyond 1 ± this bring nothing more"""
    penalty: float = 5e-4
    """on the divergence of the policies that drew the supports; fixed"""
    optimizer: Callable[[float], optax.GradientTransformation] = optax.adam
    """of the outer loop, by its rate: one that leaves a part of θ alone is given here"""

    @property
    def outer_optimizer(self) -> optax.GradientTransformation:
        return self.optimizer(self.rate)

    def init(self, params: MetaParams) -> MetaState:
        """The state before the first meta-step."""
        return init(self.outer_optimizer, params)


def proximal_policy_step(
    settings: ProximalPolicy, learner: Learner, policy: Policy, state: MetaState, supports: Scored, queries: Scored
) -> tuple[MetaState, StepTaken]:
    """One outer step of several epochs. `supports` lead with [tasks, steps, rollouts], `queries` with [tasks, rollouts]. Pure.

    Where a number of it is not finite, θ stays where it was.
    """
    surrogate = clipped(settings.clip)

    def of_one_task(params: MetaParams, supports: Scored, query: Scored) -> tuple[jax.Array, jax.Array, jax.Array]:
        path = path_on(learner, params, supports)
        before = [
            mean_kl(policy, policy.distribution(point, support.trajectories.observations), support.trajectories)
            for point, support in zip(path, _steps(supports), strict=False)
        ]
        after = mean_kl(policy, policy.distribution(path[-1], query.trajectories.observations), query.trajectories)
        return surrogate(policy, path[-1], query.trajectories, query.advantages), jnp.mean(jnp.stack(before)), after

    def objective(params: MetaParams):
        loss, before, after = jax.tree.map(jnp.mean, jax.vmap(of_one_task, (None, 0, 0))(params, supports, queries))
        return loss + settings.penalty * before, (loss, after)

    def epoch(inner: MetaState, _: None):
        (_, (loss, _)), gradient = jax.value_and_grad(objective, has_aux=True)(inner.params)
        return meta_step(settings.outer_optimizer, inner, gradient), loss

    last, losses = jax.lax.scan(epoch, state, length=settings.epochs)
    _, (loss, divergence) = objective(last.params)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((last.params, loss, divergence))]))
    params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), (last.params, last.opt_state), (state.params, state.opt_state)
    )
    epochs = jnp.asarray(settings.epochs, jnp.int32)
    kept = jnp.where(finite, jnp.stack([losses[0] - loss, divergence]), 0)
    taken = StepTaken(losses[0], kept[0], kept[1], epochs, finite, finite)
    return MetaState(params, opt_state, state.step + 1), taken


def _steps(supports: Scored) -> list[Scored]:
    """The supports of one task, one for each adaptation step."""
    return [jax.tree.map(lambda leaf, number=number: leaf[number], supports) for number in range(len(supports.advantages))]
