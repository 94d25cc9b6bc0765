"""A last layer solved by ridge regression, as the adaptation step: R2-D2 (Bertinetto, Henriques, Torr & Vedaldi 2019,
arXiv 1805.08136, equation 4), pulled to θ's own last layer.

One adaptation step gives the minimum over W of Σ_rows |y − W φ(x)|² + λ |W − W_θ|², the constant included, and leaves the
features as they are. Without hidden layers φ(x) is x, and this is the ridge regression of each task by itself. λ is
`MetaParams.inner`, in log space: the outer loop may learn it, or leave it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fewstep.core.losses import Apply
from fewstep.core.maml import AdaptationStep, Learner
from fewstep.core.types import Examples, Key, Params
from fewstep.core.validation import kind_of
from fewstep.errors import InputError
from fewstep.variants.bayes_head import GaussianPosterior, posterior, with_constant


class Pull(NamedTuple):
    """The state of `pulled`: where adaptation started, and how strongly it is held there."""

    start: Params
    log_ridge: jax.Array


def l2_to_init(log_ridge: Any) -> optax.GradientTransformation:
    """No optimizer at all: it remembers where adaptation started, and log λ. Raises `InputError` for what is no single
    number."""
    if np.shape(log_ridge) != ():
        raise InputError(
            f"pulled: expected MetaParams.inner as one number, log λ, got {kind_of(log_ridge)}. Try jnp.zeros(())."
        )
    return optax.GradientTransformation(
        lambda params: Pull(params, jnp.asarray(log_ridge)),  # type: ignore[arg-type, return-value]
        lambda updates, state, params=None: (updates, state),  # type: ignore[arg-type, return-value]
    )


def ridge_step(features: Apply, layer: int) -> AdaptationStep:
    """The value for `Learner.adaptation_step`, to be used with `pulled`. `features(params, inputs)` is what the last layer
    sees, `layer` its number in a perceptron's parameters. Every step starts from θ's last layer: a second one changes nothing.

    Ridge regression is Bayes' rule for a normal prior of variance 1/λ around W_θ and noise of variance 1, so it goes row by row
    like that (`bayes_head.condition`).
    """

    def step(learner: Learner, optimizer: Any, state: tuple[Any, Any], support: Examples, key: Key):
        del learner, optimizer, key
        params, pull = state
        start = pull.start["layers"][layer]
        known = with_constant(features(params, support.inputs))
        center = jnp.concatenate([start["kernel"], start["bias"][None]])[None]
        root = jnp.exp(-0.5 * pull.log_ridge) * jnp.eye(known.shape[1], dtype=known.dtype)
        prior = GaussianPosterior(center, jnp.zeros(1, known.dtype), root, jnp.zeros(center.shape[2], known.dtype))
        solved = posterior(prior, known, support.targets, support.weight).centers[0]
        layers = {**params["layers"], layer: {"kernel": solved[:-1], "bias": solved[-1]}}
        return {**params, "layers": layers}, pull

    return step
