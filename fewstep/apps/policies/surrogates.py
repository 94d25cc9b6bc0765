"""Losses whose gradient is a policy gradient: inner ones, which are differentiated twice, and outer ones.

All have one signature, `(policy, params, trajectories, advantages) -> scalar`, and are means over the steps that were
taken, as in the code of Finn et al. 2017. Where the policy is the one that drew the trajectories, their gradients agree.
What differs is the second derivative, the one of the inner loss that the meta-gradient needs: how the *drawing* depends
on θ.

| inner loss | second derivative, for advantages that do not depend on θ |
|---|---|
| `dice` | unbiased, and the noisiest |
| `decayed_dice(0.5)`, … | between `dice` and `lvc`, in bias as in noise |
| `lvc`, `likelihood_ratio` | without the terms that tie an action to what was drawn before it; far less noise |
| `naive` | without all terms of the drawing: the one of automatic differentiation gone wrong |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from fewstep.apps.policies.networks import Policy
from fewstep.apps.policies.trajectories import Trajectories, mean_over_steps
from fewstep.core.types import Params

Surrogate: TypeAlias = Callable[[Policy, Params, Trajectories, jax.Array], jax.Array]
"""`(policy, params, trajectories, advantages [rollouts, steps]) -> scalar`, to be minimized"""


def log_probability(policy: Policy, params: Params, trajectories: Trajectories) -> jax.Array:
    """[rollouts, steps]: log π(action | observation) under these parameters."""
    return policy.log_probability(policy.distribution(params, trajectories.observations), trajectories.actions)


def naive(policy: Policy, params: Params, trajectories: Trajectories, advantages: jax.Array) -> jax.Array:
    """−mean(log π · A), as most code has it: its gradient is right, its second derivative is not."""
    return -mean_over_steps(log_probability(policy, params, trajectories) * advantages, trajectories.weight)


def likelihood_ratio(policy: Policy, params: Params, trajectories: Trajectories, advantages: jax.Array) -> jax.Array:
    """−mean(π / π_old · A), π_old what drew the trajectories (Rothfuss et al. 2019, arXiv 1810.06784)."""
    log_ratio = log_probability(policy, params, trajectories) - trajectories.log_probability
    return -mean_over_steps(jnp.exp(log_ratio) * advantages, trajectories.weight)


def lvc(policy: Policy, params: Params, trajectories: Trajectories, advantages: jax.Array) -> jax.Array:
    """−mean(π / ⊥π · A): low variance curvature (Rothfuss et al. 2019). As the ratio, but 1 wherever θ stands."""
    log_pi = log_probability(policy, params, trajectories)
    return -mean_over_steps(_magic_box(log_pi) * advantages, trajectories.weight)


def dice(policy: Policy, params: Params, trajectories: Trajectories, advantages: jax.Array) -> jax.Array:
    """−mean((□ Σ_(s ≤ t) log π − □ Σ_(s < t) log π) · A): Loaded DiCE (Farquhar et al. 2019, arXiv 1909.10549).

    □x = exp(x − ⊥x) (Foerster et al. 2018, arXiv 1802.05098). Advantages may come from any baseline.
    """
    log_pi = log_probability(policy, params, trajectories)
    so_far = jnp.cumsum(log_pi, axis=1)  # steps after the end are summed as well, but into nothing that has weight
    return -mean_over_steps((_magic_box(so_far) - _magic_box(so_far - log_pi)) * advantages, trajectories.weight)


def decayed_dice(decay: float) -> Surrogate:
    """`dice` that forgets: an action depends on one drawn so many steps before it `decay` ** steps as much as it does.

    A compromise of bias and noise between `lvc` (0) and `dice` (1), of Farquhar et al. 2019 too. Its credit for what exploring
    leads to is what `lvc` lacks.
    """

    def surrogate(policy: Policy, params: Params, trajectories: Trajectories, advantages: jax.Array) -> jax.Array:
        log_pi = log_probability(policy, params, trajectories)

        def step(before: jax.Array, now: jax.Array) -> tuple[jax.Array, jax.Array]:
            return decay * (before + now), before

        before = jax.lax.scan(step, jnp.zeros_like(log_pi[:, 0]), log_pi.T)[1].T
        return -mean_over_steps((_magic_box(before + log_pi) - _magic_box(before)) * advantages, trajectories.weight)

    return surrogate


INNER: dict[str, Surrogate] = {
    "likelihood_ratio": likelihood_ratio,
    "dice": dice,
    "decayed_dice": decayed_dice(0.5),
    "lvc": lvc,
    "naive": naive,
}
"""the estimators by name"""


def clipped(clip: float = 0.3) -> Surrogate:
    """PPO's loss (Schulman et al. 2017, arXiv 1707.06347, equation 7): ratios beyond 1 ± `clip` bring nothing more."""

    def surrogate(policy: Policy, params: Params, trajectories: Trajectories, advantages: jax.Array) -> jax.Array:
        ratio = jnp.exp(log_probability(policy, params, trajectories) - trajectories.log_probability)
        worse = jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - clip, 1 + clip) * advantages)
        return -mean_over_steps(worse, trajectories.weight)

    return surrogate


def ratio_of(policy: Policy, distribution: Any, trajectories: Trajectories, advantages: jax.Array) -> jax.Array:
    """`likelihood_ratio` of a policy given by its distributions, with leaves [rollouts, steps, ...]."""
    log_ratio = policy.log_probability(distribution, trajectories.actions) - trajectories.log_probability
    return -mean_over_steps(jnp.exp(log_ratio) * advantages, trajectories.weight)


def mean_kl(policy: Policy, distribution: Any, trajectories: Trajectories) -> jax.Array:
    """Mean KL(π_old ‖ π) over the steps that were taken, of a policy given by its distributions."""
    return mean_over_steps(policy.kl(trajectories.distribution, distribution), trajectories.weight)


def _magic_box(x: jax.Array) -> jax.Array:
    """1, with the derivatives of exp."""
    return jnp.exp(x - jax.lax.stop_gradient(x))
