"""Meta-SGD (Li et al. 2017, arXiv 1707.09835): the inner rates are learned beside θ, one for each parameter.

Rates live in log space: a rate stays positive, and one outer step changes it by a factor, whatever its size. (The
paper's rates may turn negative; ours are the paper's restricted to descent directions.)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from fewstep.core.types import Params
from fewstep.variants.learned import broadcasts, log_rate, require_like


def log_rates(theta: Params, rate: float) -> Params:
    """Starting values for `MetaParams.inner`: log(`rate`) for every parameter of θ."""
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, log_rate(rate)), theta)


def meta_sgd(rates: Params) -> optax.GradientTransformation:
    """θ′ ← θ′ − exp(rates) ∘ ∇L, as a value for `Learner.inner_optimizer`. `rates` is a pytree like θ."""

    def update(updates, state, params=None):
        del params
        require_like("meta_sgd", "log_rates(theta, rate)", rates, updates, broadcasts, "log rates of the same shape")
        return jax.tree.map(lambda rate, leaf: -jnp.exp(rate) * leaf, rates, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
