"""A Bayesian last layer, solved in closed form as the adaptation step.

The network ends in features φ(x); an output is y = w·φ(x) + ε with ε ~ N(0, σ²), and what is believed about w is a
mixture of normals with one covariance, w ~ Σ_n π_n N(c_n, σ² R Rᵀ). θ holds the features and the prior belief; adapted
parameters hold the same features and the posterior belief, which has the same form: one adaptation step is Bayes' rule.

With one center this is ALPaCA (Harrison, Sharma & Pavone 2018, arXiv 1807.08912), and it is trained so. `bayes_prior.py`
then puts a center at the last layer of every meta-train task: a kernel density estimate of the prior, which can say what
one normal cannot, that a new task is much like a few of the known ones. Classes are the outputs' unit vectors: what is
believed of y is restricted to them (`class_log_probabilities`), so Bayes' rule stays that of a regression (as in R2-D2,
Bertinetto et al. 2019, arXiv 1805.08136).

An empirical prior for a Bayesian last layer, made of meta-train tasks after training. See bayes_head.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fewstep.core.losses import known_part, mean_by_output, weighted_mean
from fewstep.core.maml import Learner
from fewstep.core.types import Examples, Key, Loss, Network, Params


class GaussianPosterior(NamedTuple):
    """What is believed about the last layer's weights w, [features + 1] for each output (the last one is the constant)."""

    centers: jax.Array
    """c_n [centers, features + 1, outputs]"""
    log_weight: jax.Array
    """log π_n [centers]"""
    root: jax.Array
    """R [features + 1, features + 1]: any matrix with R Rᵀ = covariance / σ²; or one for each output, [outputs, ...], where
    rows lacked some targets"""
    log_noise: jax.Array
    """log σ [outputs]"""


class BayesParams(NamedTuple):
    """Parameters of a network with a Bayesian last layer."""

    body: Params
    belief: GaussianPosterior


class Prediction(NamedTuple):
    """Mean and standard deviation of single targets, noise included; both [examples, outputs]."""

    mean: jax.Array
    deviation: jax.Array


def bayes_network(body: Network, features: int, outputs: int) -> Network:
    """`body`, which gives [examples, features], with a Bayesian last layer; `apply` gives predictive means.

    The prior starts with one center at 0 and a predictive variance near that of standardized targets.
    """

    def init(key: Key) -> BayesParams:
        size = features + 1
        root = 2.0 / jnp.sqrt(size) * jnp.eye(size)
        return BayesParams(
            body.init(key), GaussianPosterior(jnp.zeros((1, size, outputs)), jnp.zeros(1), root, jnp.full(outputs, -1.5))
        )

    return Network(init, lambda params, inputs: predict(body, params, inputs).mean)


def predict(body: Network, params: BayesParams, inputs: jax.Array) -> Prediction:
    """The moments of the predictive distribution at `inputs`.

    The variance is σ² (1 + |Rᵀφ|²) within a center, and between the centers that of their predictions.
    """
    features, belief = with_constant(body.apply(params.body, inputs)), params.belief
    weight = jax.nn.softmax(belief.log_weight)
    means = jnp.einsum("xf,nfo->xno", features, belief.centers)
    mean = jnp.einsum("xno,n->xo", means, weight)
    between = jnp.einsum("xno,n->xo", jnp.square(means - mean[:, None]), weight)
    if belief.root.ndim == 2:
        within = 1.0 + jnp.sum(jnp.square(features @ belief.root), axis=1, keepdims=True)
    else:
        within = 1.0 + jnp.sum(jnp.square(jnp.einsum("xf,ofg->xog", features, belief.root)), axis=2)
    return Prediction(mean, jnp.sqrt(jnp.exp(2.0 * belief.log_noise)[None] * within + between))


def with_constant(features: jax.Array) -> jax.Array:
    """[examples, features] -> [examples, features + 1], the last one 1."""
    return jnp.concatenate([features, jnp.ones((features.shape[0], 1), features.dtype)], axis=1)


def condition(
    prior: GaussianPosterior, features: jax.Array, targets: jax.Array, weight: jax.Array
) -> tuple[GaussianPosterior, jax.Array]:
    """(the belief after all rows, log p(y) of these rows less a constant): Bayes' rule, one row after the other.

    `features` are [rows, features + 1], `targets` [rows, outputs]; rows of `weight` 0 say nothing. With a = Rᵀ φ and
    s = 1 + |a|², a row moves every center by R a (y − φ·c) / s and multiplies its weight by N(y; φ·c, σ² s); R becomes
    R − R a aᵀ / (s + √s), a root of the posterior covariance (Potter 1963; Bierman 1977, section V.3), in float32 too.
    Where rows lack some targets (`weight` [rows, outputs]), each output is conditioned on its own rows, with a root of its own.

    No library's Cholesky factor or triangular solve: two batched ones at a time wait for each other for ever on two CPU cores.
    """
    if weight.ndim > 1:
        return _condition_by_output(prior, features, targets, weight)
    centers, size = prior.centers.shape[:2]
    if centers > 1 and features.shape[0] <= size:
        return _condition_together(prior, features, targets, weight)
    precision = jnp.exp(-2.0 * prior.log_noise)

    def one_row(state: tuple[GaussianPosterior, jax.Array], row: tuple[jax.Array, jax.Array, jax.Array]):
        belief, volume = state
        feature, target, counts = row
        gain, growth, root = told(belief.root, counts * feature)
        residual = counts * (target[None] - jnp.einsum("f,nfo->no", feature, belief.centers))
        belief = GaussianPosterior(
            belief.centers + gain[None, :, None] * residual[:, None, :],
            belief.log_weight - 0.5 * jnp.square(residual) @ precision / growth,
            root,
            belief.log_noise,
        )
        volume += 0.5 * target.shape[0] * jnp.log(growth) + counts * jnp.sum(belief.log_noise)
        return (belief, volume), None

    nothing = jnp.zeros_like(prior.log_weight[0], features.dtype)
    (belief, volume), _ = jax.lax.scan(one_row, (prior, nothing), (features, targets, weight))
    evidence = jax.nn.logsumexp(belief.log_weight)
    return belief._replace(log_weight=belief.log_weight - evidence), evidence - volume


def _condition_by_output(
    prior: GaussianPosterior, features: jax.Array, targets: jax.Array, weight: jax.Array
) -> tuple[GaussianPosterior, jax.Array]:
    """`condition` of each output on its own rows: given the center, outputs are independent, so the evidence of a center is the
    product over outputs."""

    def one_output(centers: jax.Array, root: jax.Array, log_noise: jax.Array, targets: jax.Array, weight: jax.Array):
        alone = GaussianPosterior(centers[..., None], jnp.zeros_like(prior.log_weight), root, log_noise[None])
        belief, evidence = condition(alone, features, targets[:, None], weight)
        return belief.centers[..., 0], belief.root, belief.log_weight + evidence  # the last: log p(y | center)

    root = by_output(prior).root
    axes = (2, 0, 0, 1, 1)
    centers, root, said = jax.vmap(one_output, axes, (2, 0, 0))(prior.centers, root, prior.log_noise, targets, weight)
    log_weight = prior.log_weight + jnp.sum(said, axis=0)
    evidence = jax.nn.logsumexp(log_weight)
    return GaussianPosterior(centers, log_weight - evidence, root, prior.log_noise), evidence


def by_output(belief: GaussianPosterior) -> GaussianPosterior:
    """The same belief with a root for each output."""
    outputs = belief.log_noise.shape[0]
    return (
        belief if belief.root.ndim == 3 else belief._replace(root=jnp.broadcast_to(belief.root, (outputs, *belief.root.shape)))
    )


def start_by_output(theta: BayesParams, support: Examples, key: Key) -> BayesParams:
    """θ, as a value for `Learner.start`: with a root for each output where support rows lack some targets, since the posterior
    has one then, and all points of an adaptation path have the same shapes."""
    del key
    return theta if support.weight.ndim == 1 else theta._replace(belief=by_output(theta.belief))


def _condition_together(
    prior: GaussianPosterior, features: jax.Array, targets: jax.Array, weight: jax.Array
) -> tuple[GaussianPosterior, jax.Array]:
    """`condition` of many centers on few rows: these move by products of matrices, and not once for each row.

    What rows move centers by is a matter of features alone. So is how far a row's residual shrinks by the rows before it: row i
    meets y_i − φ_i·c − Σ_{j<i} (φ_i·gain_j) r_j, with r_j the residual that row j met.
    """

    def one_row(root: jax.Array, row: tuple[jax.Array, jax.Array]):
        gain, growth, root = told(root, row[1] * row[0])
        return root, (gain, growth)

    root, (gains, growths) = jax.lax.scan(one_row, prior.root, (features, weight))
    before = jnp.tril(features @ gains.T, -1)
    alone = targets[:, None] - jnp.einsum("rf,nfo->rno", features, prior.centers)

    def one_residual(found: jax.Array, row: tuple[jax.Array, ...]):
        number, shrinks, own, counts = row
        return found.at[number].set(counts * (own - jnp.einsum("r,rno->no", shrinks, found))), None

    numbers = jnp.arange(features.shape[0])
    residuals, _ = jax.lax.scan(one_residual, jnp.zeros_like(alone), (numbers, before, alone, weight))
    log_weight = prior.log_weight - 0.5 * jnp.einsum(
        "rno,o,r->n", jnp.square(residuals), jnp.exp(-2 * prior.log_noise), 1 / growths
    )
    volume = jnp.sum(0.5 * targets.shape[1] * jnp.log(growths) + weight * jnp.sum(prior.log_noise))
    evidence = jax.nn.logsumexp(log_weight)
    centers = prior.centers + jnp.einsum("rf,rno->nfo", gains, residuals)
    return GaussianPosterior(centers, log_weight - evidence, root, prior.log_noise), evidence - volume


def told(root: jax.Array, feature: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(R a / s, s, the root after it) of a row with these features: the part of `condition` that no target has a say in."""
    along = feature @ root
    growth = 1.0 + jnp.dot(along, along)
    gain = root @ along / growth
    return gain, growth, root - jnp.outer(gain, along) / (1.0 + jax.lax.rsqrt(growth))


def posterior(prior: GaussianPosterior, features: jax.Array, targets: jax.Array, weight: jax.Array) -> GaussianPosterior:
    """Bayes' rule: what is believed after the rows of `condition`."""
    return condition(prior, features, targets, weight)[0]


def negative_log_evidence(prior: GaussianPosterior, features: jax.Array, targets: jax.Array, weight: jax.Array) -> jax.Array:
    """−log p(y), a mean over the examples that count, less a constant: what the features make of the support set."""
    return -condition(prior, features, targets, weight)[1] / jnp.maximum(jnp.sum(known_part(weight)), 1.0)


def bayes_step(body: Network):
    """The value for `Learner.adaptation_step`, to be used with `carry_prior` as the inner optimizer.

    Every step starts from the prior, so that a second one does not count the support set twice.
    """

    def step(learner: Learner, optimizer: optax.GradientTransformation, state: tuple[Any, Any], support: Examples, key: Key):
        del learner, optimizer, key
        params, prior = state
        features = with_constant(body.apply(params.body, support.inputs))
        return params._replace(belief=posterior(prior, features, support.targets, support.weight)), prior

    return step


carry_prior = optax.GradientTransformation(lambda params: params.belief, lambda updates, state, params=None: (updates, state))  # type: ignore[attr-defined]
"""No optimizer at all: its state is the belief before adaptation."""


class Memory(NamedTuple):
    """The state of `move_body`: the belief before adaptation, and how many steps were made."""

    prior: GaussianPosterior
    step: jax.Array


def body_and_bayes_step(body: Network):
    """Like `bayes_step`, but from the second step on, the body first takes a gradient step up the evidence of the support set.

    To be used with `move_body` as the inner optimizer: one step is Bayes' rule alone, k + 1 steps move the features k times.
    """

    def step(learner: Learner, optimizer: Any, state: tuple[Any, Any], support: Examples, key: Key):
        del learner, key
        params, memory = state

        def surprise(weights: Params) -> jax.Array:
            features = with_constant(body.apply(weights, support.inputs))
            return negative_log_evidence(memory.prior, features, support.targets, support.weight)

        updates, memory = optimizer.update(jax.grad(surprise)(params.body), memory)
        moved: Any = optax.apply_updates(params.body, updates)
        features = with_constant(body.apply(moved, support.inputs))
        return BayesParams(moved, posterior(memory.prior, features, support.targets, support.weight)), memory

    return step


def move_body(rates: Params) -> Any:
    """θ_body ← θ_body − exp(rates) ∘ ∇, and nothing in the first step; `rates` is a pytree like the body, in log space."""

    def update(updates: Params, state: Memory, params: Params = None):
        del params
        moving = (state.step > 0).astype(jnp.float32)
        moves = jax.tree.map(lambda rate, leaf: -moving.astype(leaf.dtype) * jnp.exp(rate) * leaf, rates, updates)
        return moves, state._replace(step=state.step + 1)

    return optax.GradientTransformation(lambda params: Memory(params.belief, jnp.zeros((), jnp.int32)), update)  # type: ignore


def negative_log_likelihood(body: Network) -> Loss:
    """−log N(y; mean, deviation²) of single targets, less its constant: mean over the examples that count and their outputs."""

    def loss(params: BayesParams, examples: Examples, key: Key) -> jax.Array:
        del key
        mean, deviation = predict(body, params, examples.inputs)
        values = 0.5 * jnp.square((examples.targets - mean) / deviation) + jnp.log(deviation)
        if examples.weight.ndim > 1:
            return mean_by_output(values, examples.weight)
        return weighted_mean(jnp.mean(values, axis=1), examples.weight)

    return loss


def class_log_probabilities(prediction: Prediction) -> jax.Array:
    """log p(class) [examples, classes], where outputs are classes: the predictive density at each unit vector, normalized."""
    classes = prediction.mean.shape[1]
    away = (jnp.eye(classes)[None] - prediction.mean[:, None]) / prediction.deviation[:, None]
    return jax.nn.log_softmax(-0.5 * jnp.sum(jnp.square(away), axis=-1), axis=-1)


def empirical_prior(body: Network, params: BayesParams, tasks: Examples) -> BayesParams:
    """`params` with a center for each of `tasks` (leaves lead with the task axis): the last layer that its rows call for."""

    def center(examples: Examples) -> jax.Array:
        features = with_constant(body.apply(params.body, examples.inputs))
        return posterior(params.belief, features, examples.targets, examples.weight).centers[0]

    centers = jax.lax.map(center, tasks, batch_size=256)
    uniform = jnp.full(centers.shape[0], -jnp.log(centers.shape[0]))
    return params._replace(belief=params.belief._replace(centers=centers, log_weight=uniform))


def shrunk(params: BayesParams, factor: float) -> BayesParams:
    """`params` with `factor` times the width around each center: the bandwidth of an empirical prior."""
    return params._replace(belief=params.belief._replace(root=factor * params.belief.root))
