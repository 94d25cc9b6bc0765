"""Learned inner rates for each layer and each adaptation step (Antoniou, Edwards & Storkey 2019, MAML++, arXiv 1810.09502,
section 4: "LSLR").

Far fewer numbers than Meta-SGD's one for each parameter, but other ones from step to step: the first may be bold, the
last careful. A layer is here an array of parameters, as in the authors' code. Rates live in log space, as those of
`meta_sgd`; the authors', which are learned as they are, may turn negative."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fewstep.core.types import Params
from fewstep.variants.learned import log_rate, require_like


def layer_step_rates(theta: Params, rate: float, steps: int) -> Params:
    """Starting values for `MetaParams.inner`: log(`rate`) [steps] for every array of θ.

    At least one entry each, so that what was trained with 0 adaptation steps still has a rate to adapt with.
    """
    return jax.tree.map(lambda leaf: jnp.full(max(steps, 1), log_rate(rate), jnp.result_type(leaf)), theta)


def lslr(rates: Params) -> optax.GradientTransformation:
    """θ′ ← θ′ − exp(rates[k]) ∇L in step k = 0, 1, …, as a value for `Learner.inner_optimizer`.

    `rates` is a pytree like θ with arrays [steps]; steps beyond these take the last rate. Its state is k, an int32 scalar. A
    rate is one number for a whole array, so an array that is wider than θ's (a head for more classes) has it too.
    """

    def update(updates: Params, state: jax.Array, params: Params = None) -> tuple[Params, jax.Array]:
        del params
        fits = lambda rate, leaf: np.ndim(rate) == 1 and np.size(rate) > 0  # noqa: E731
        require_like("lslr", "layer_step_rates(theta, rate, steps)", rates, updates, fits, "log rates [steps]")

        def downhill(rate: jax.Array, leaf: jax.Array) -> jax.Array:
            return -jnp.exp(rate[jnp.minimum(state, rate.shape[0] - 1)]) * leaf

        return jax.tree.map(downhill, rates, updates), state + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)  # type: ignore[arg-type]
