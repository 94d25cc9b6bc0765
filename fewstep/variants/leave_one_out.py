"""Safe adaptation (floor 2): how many steps to take, 0 included, by leaving out each support row in turn.

Too many steps on too few rows make a model worse than it was. The rows themselves can tell: each is predicted by the model
adapted to all others, after every number of steps (Stone 1974, cross-validatory choice), and fewer steps win where it is close.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fewstep.losses import Apply
from fewstep.maml import Learner, adaptation_path
from fewstep.types import Examples, Key, LeaveOneOut, MetaParams, Network
from fewstep.variants.bayes_head import Prediction, posterior, predict, with_constant

LEAST_OWN = 1e-6
"""1 − h is no less in float32, where h is close to 1"""


def leave_one_out(learner: Learner, apply: Apply) -> LeaveOneOut:
    """By adapting anew without each row, all rows at once under `vmap`: for any learner on `Examples`."""

    def predictions(params: MetaParams, support: Examples, key: Key, steps: int) -> jax.Array:
        def without(row: jax.Array) -> jax.Array:
            rest = support._replace(weight=support.weight.at[row].set(0.0))
            path = adaptation_path(learner, params, rest, key, steps)
            return jax.vmap(lambda adapted: apply(adapted, support.inputs[row][None])[0])(path)

        return jnp.swapaxes(jax.vmap(without)(jnp.arange(support.weight.shape[0])), 0, 1)

    return predictions


def bayes_leave_one_out(body: Network, outputs_of: Callable[[Prediction], jax.Array]) -> LeaveOneOut:
    """In closed form, for Bayes' rule on the last layer: one adaptation serves all rows. `steps` beyond 1 change nothing."""

    def predictions(params: MetaParams, support: Examples, key: Key, steps: int) -> jax.Array:
        del key
        before = outputs_of(predict(body, params.theta, support.inputs))
        after = outputs_of(left_out(body, params, support))
        return jnp.stack([before] + [after] * steps)

    return predictions


def left_out(body: Network, params: MetaParams, support: Examples) -> Prediction:
    """Mean and deviation of every support row given all others, from the belief given all rows (Cook 1977): with h = φᵀ R Rᵀ φ
    after adaptation, a row's residual becomes r / (1 − h) and its variance σ² / (1 − h), for each center; the centers weigh
    what the other rows say, their evidence without the row's own part in it."""
    prior = params.theta.belief
    features = with_constant(body.apply(params.theta.body, support.inputs))
    belief = posterior(prior, features, support.targets, support.weight)
    leverage = jnp.sum(jnp.square(features @ belief.root), axis=1) * support.weight
    own = jnp.maximum(1.0 - leverage, LEAST_OWN)
    fitted = jnp.einsum("xf,nfo->xno", features, belief.centers)
    misses = (support.targets[:, None] - fitted) / own[:, None, None]
    precision = jnp.exp(-2.0 * prior.log_noise)
    said = -0.5 * jnp.square(misses) @ precision * (own * support.weight)[:, None]
    weight = jax.nn.softmax(belief.log_weight[None] - said, axis=1)
    means = support.targets[:, None] - misses
    mean = jnp.einsum("xno,xn->xo", means, weight)
    between = jnp.einsum("xno,xn->xo", jnp.square(means - mean[:, None]), weight)
    return Prediction(mean, jnp.sqrt(1.0 / (precision[None] * own[:, None]) + between))


def safe_steps(errors: jax.Array, weight: jax.Array, margin: float = 0.25) -> jax.Array:
    """The number of steps for `errors` [steps + 1, rows], each row's when it was left out: the best on average.

    0 where the best gains less over not adapting than `margin` standard errors of that gain, or where there is one row.
    """
    rows = jnp.sum(weight)
    means = jnp.sum(errors * weight[None], axis=1) / jnp.maximum(rows, 1.0)
    best = jnp.argmin(jnp.where(jnp.isfinite(means), means, jnp.inf))
    gain = jnp.where(weight > 0, errors[0] - errors[best], 0.0)
    mean = jnp.sum(gain) / jnp.maximum(rows, 1.0)
    variance = jnp.sum(weight * jnp.square(gain - mean)) / jnp.maximum(rows - 1.0, 1.0)
    sure = (rows > 1) & (mean > margin * jnp.sqrt(variance / jnp.maximum(rows, 1.0)))
    return jnp.where(sure, best, 0)
