"""Safe adaptation: how many steps to take, 0 included, by leaving out each support row in turn.

Too many steps on too few rows make a model worse than it was. The rows themselves can tell: each is predicted by the
model adapted to all others, after every number of steps (Stone 1974, cross-validatory choice), and fewer steps win where
it is close."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fewstep.core.losses import Apply
from fewstep.core.maml import Learner, adaptation_path
from fewstep.core.types import Examples, Key, LeaveOneOut, MetaParams, Network
from fewstep.variants.bayes_head import GaussianPosterior, Prediction, by_output, posterior, predict, told, with_constant

FEW_ROWS = 256
"""Of up to so many rows 1 − h is found without taking h from 1, at a cost that grows with their square."""
LEAST_OWN = 1e-6
"""1 − h is no less in float32, where h is close to 1"""
AT_ONCE = 64
"""So many rows are left out at once where each means adapting anew: more would need memory by the square of their number."""


def leave_one_out(learner: Learner, apply: Apply) -> LeaveOneOut:
    """By adapting anew without each row, many rows at once: for any learner on `Examples`."""

    def predictions(params: MetaParams, support: Examples, key: Key, steps: int) -> jax.Array:
        def without(row: jax.Array) -> jax.Array:
            rest = support._replace(weight=support.weight.at[row].set(0.0))
            path = adaptation_path(learner, params, rest, key, steps)
            return jax.vmap(lambda adapted: apply(adapted, support.inputs[row][None])[0])(path)

        return jnp.swapaxes(jax.lax.map(without, jnp.arange(support.weight.shape[0]), batch_size=AT_ONCE), 0, 1)

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
    """Mean and deviation of every support row given all others: of single centers by what one adaptation tells, and the centers
    weigh what the other rows say, their evidence without the row's own part in it."""
    prior = params.theta.belief
    features = with_constant(body.apply(params.theta.body, support.inputs))
    way = by_whitening if support.weight.shape[0] <= FEW_ROWS else by_leverage
    belief = posterior(prior, features, support.targets, support.weight)
    precision = jnp.exp(-2.0 * prior.log_noise)
    if support.weight.ndim == 1:
        own, misses = way(prior, belief, features, support)
        said = -0.5 * jnp.square(misses) @ precision * (own * support.weight)[:, None]
        own = own[:, None]
    else:
        own, misses = each_output_left_out(way, by_output(prior), belief, features, support)
        said = -0.5 * jnp.einsum("xno,o,xo,xo->xn", jnp.square(misses), precision, own, support.weight)
    weight = jax.nn.softmax(belief.log_weight[None] - said, axis=1)
    means = support.targets[:, None] - misses
    mean = jnp.einsum("xno,xn->xo", means, weight)
    between = jnp.einsum("xno,xn->xo", jnp.square(means - mean[:, None]), weight)
    return Prediction(mean, jnp.sqrt(1.0 / (precision[None] * own) + between))


def each_output_left_out(way, prior: GaussianPosterior, belief: GaussianPosterior, features: jax.Array, support: Examples):
    """(1 − h [rows, outputs], misses [rows, centers, outputs]): `way` for each output and the rows that have its target; both
    beliefs have a root for each output."""

    def one_output(before: jax.Array, after: jax.Array, roots: tuple[jax.Array, ...], targets: jax.Array, weight: jax.Array):
        alone = Examples(support.inputs, targets[:, None], weight)
        one, other = (
            GaussianPosterior(centers[..., None], prior.log_weight, root, prior.log_noise[:1])
            for centers, root in zip((before, after), roots, strict=True)
        )
        own, misses = way(one, other, features, alone)
        return own, misses[..., 0]

    each = jax.vmap(one_output, (2, 2, 0, 1, 1), (1, 2))
    return each(prior.centers, belief.centers, (prior.root, belief.root), support.targets, support.weight)


def by_leverage(
    prior: GaussianPosterior, belief: GaussianPosterior, features: jax.Array, support: Examples
) -> tuple[jax.Array, jax.Array]:
    """(1 − h [rows], misses [rows, centers, outputs]) of left-out rows: with the leverage h = φᵀ R Rᵀ φ after adaptation, the
    variance of a row given all others is σ² / (1 − h), and its residual r becomes r / (1 − h) (Cook 1977)."""
    del prior
    own = jnp.maximum(1.0 - jnp.sum(jnp.square(features @ belief.root), axis=1) * support.weight, LEAST_OWN)
    return own, (support.targets[:, None] - jnp.einsum("xf,nfo->xno", features, belief.centers)) / own[:, None, None]


def by_whitening(
    prior: GaussianPosterior, belief: GaussianPosterior, features: jax.Array, support: Examples
) -> tuple[jax.Array, jax.Array]:
    """The same from the prior: with K = I + Φ R Rᵀ Φᵀ, 1 − h is the diagonal of K⁻¹, and K⁻¹ (y − Φ c) is r (Rasmussen &
    Williams 2006, equations 5.10 to 5.12). Of few rows h is so close to 1 that float32 knows nothing of 1 − h; a sum of squares
    of the factor of K⁻¹ it does know."""
    del belief
    factor = whitening(prior.root, features, support.weight)
    own = jnp.sum(jnp.square(factor), axis=0)
    away = support.targets[:, None] - jnp.einsum("xf,nfo->xno", features, prior.centers)
    independent = jnp.einsum("rx,xno->rno", factor, away)
    return own, jnp.einsum("rx,rno->xno", factor, independent) / own[:, None, None]


def whitening(root: jax.Array, features: jax.Array, weight: jax.Array) -> jax.Array:
    """L⁻¹ [rows, rows] with L Lᵀ = I + Φ R Rᵀ Φᵀ: what each row adds to those before it, row after row as in `condition`, for
    unit vectors as targets."""

    def one_row(state: tuple[jax.Array, jax.Array], row: tuple[jax.Array, jax.Array, jax.Array]):
        root, known = state
        feature, counts, unit = row
        gain, growth, root = told(root, counts * feature)
        news = unit - counts * (feature @ known)
        return (root, known + gain[:, None] * news[None]), news * jax.lax.rsqrt(growth)

    nothing = jnp.zeros_like(features.T)
    return jax.lax.scan(one_row, (root, nothing), (features, weight, jnp.eye(features.shape[0], dtype=features.dtype)))[1]


def safe_steps(errors: jax.Array, weight: jax.Array, margin: float = 0.25) -> jax.Array:
    """The number of steps for `errors` [steps + 1, rows], each row's when it was left out: the best on average. A row's
    `weight` [rows] may be the part of its targets that is known.

    0 where the best gains less over not adapting than `margin` standard errors of that gain, or where there is one row.
    """
    rows = jnp.sum(weight)
    counted = jnp.where(weight[None] > 0, errors * weight[None], 0.0)  # a row of padding may well diverge
    means = jnp.sum(counted, axis=1) / jnp.maximum(rows, 1.0)
    best = jnp.argmin(jnp.where(jnp.isfinite(means), means, jnp.inf))
    gain = jnp.where(weight > 0, errors[0] - errors[best], 0.0)
    mean = jnp.sum(weight * gain) / jnp.maximum(rows, 1.0)
    variance = jnp.sum(weight * jnp.square(gain - mean)) / jnp.maximum(rows - 1.0, 1.0)
    sure = (rows > 1) & (mean > margin * jnp.sqrt(variance / jnp.maximum(rows, 1.0)))
    return jnp.where(sure, best, 0)
