"""A Bayesian last layer, solved in closed form as the adaptation step (floor 2).

The network ends in features φ(x); an output is y = w·φ(x) + ε with ε ~ N(0, σ²), and what is believed about w is a mixture of
normals with one covariance, w ~ Σ_n π_n N(c_n, σ² R Rᵀ). θ holds the features and the prior belief; adapted parameters hold the
same features and the posterior belief, which has the same form: one adaptation step is Bayes' rule.

With one center this is ALPaCA (Harrison, Sharma & Pavone 2018, arXiv 1807.08912), and it is trained so. `empirical_prior` then
puts a center at the last layer of every meta-train task: a kernel density estimate of the prior, which can say what one normal
cannot, that a new task is much like a few of the known ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.scipy.linalg import solve_triangular

from fewstep.losses import weighted_mean
from fewstep.maml import Learner
from fewstep.types import Examples, Key, Loss, Network, Params


class Belief(NamedTuple):
    """What is believed about the last layer's weights w, [features + 1] for each output (the last one is the constant)."""

    centers: jax.Array
    """c_n [centers, features + 1, outputs]"""
    log_weight: jax.Array
    """log π_n [centers]"""
    root: jax.Array
    """R [features + 1, features + 1]: any matrix with R Rᵀ = covariance / σ²"""
    log_noise: jax.Array
    """log σ [outputs]"""


class BayesParams(NamedTuple):
    """Parameters of a network with a Bayesian last layer."""

    body: Params
    belief: Belief


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
        return BayesParams(body.init(key), Belief(jnp.zeros((1, size, outputs)), jnp.zeros(1), root, jnp.full(outputs, -1.5)))

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
    within = 1.0 + jnp.sum(jnp.square(features @ belief.root), axis=1, keepdims=True)
    return Prediction(mean, jnp.sqrt(jnp.exp(2.0 * belief.log_noise)[None] * within + between))


def with_constant(features: jax.Array) -> jax.Array:
    """[examples, features] -> [examples, features + 1], the last one 1."""
    return jnp.concatenate([features, jnp.ones((features.shape[0], 1), features.dtype)], axis=1)


def posterior(prior: Belief, features: jax.Array, targets: jax.Array, weight: jax.Array) -> Belief:
    """Bayes' rule for `features` [examples, features + 1] and `targets` [examples, outputs]; rows of weight 0 say nothing.

    With A = Φ R and C the Cholesky factor of I + A Aᵀ, which is safe in float32: every center moves by R Aᵀ (C Cᵀ)⁻¹ (y − Φ c),
    its weight by its evidence, and R becomes R (I − Aᵀ C⁻ᵀ (C + I)⁻¹ A), a root of the posterior covariance (Andrews 1968).
    """
    count = targets.shape[0]
    mapped = weight[:, None] * features @ prior.root
    identity = jnp.eye(count, dtype=mapped.dtype)
    factor = jnp.linalg.cholesky(identity + mapped @ mapped.T)
    residuals = weight[:, None, None] * (targets[:, None] - jnp.einsum("xf,nfo->xno", features, prior.centers))
    solved = solve_triangular(factor, jnp.concatenate([mapped, residuals.reshape(count, -1)], axis=1), lower=True)
    whitened, gain = solved[:, mapped.shape[1] :].reshape(residuals.shape), prior.root @ solved[:, : mapped.shape[1]].T
    evidence = -0.5 * jnp.einsum("xno,o->n", jnp.square(whitened), jnp.exp(-2.0 * prior.log_noise))
    return Belief(
        prior.centers + jnp.einsum("fx,xno->nfo", gain, whitened),
        jax.nn.log_softmax(prior.log_weight + evidence),
        prior.root - gain @ solve_triangular(factor + identity, mapped, lower=True),
        prior.log_noise,
    )


def bayes_step(body: Network):
    """The value for `Learner.adaptation_step`, to be used with `remember_prior` as the inner optimizer.

    Every step starts from the prior, so that a second one does not count the support set twice.
    """

    def step(learner: Learner, optimizer: optax.GradientTransformation, state: tuple[Any, Any], support: Examples, key: Key):
        del learner, optimizer, key
        params, prior = state
        features = with_constant(body.apply(params.body, support.inputs))
        return params._replace(belief=posterior(prior, features, support.targets, support.weight)), prior

    return step


remember_prior = optax.GradientTransformation(
    lambda params: params.belief, lambda updates, state, params=None: (updates, state)
)  # type: ignore[attr-defined]
"""No optimizer at all: its state is the belief before adaptation."""


def negative_log_likelihood(body: Network) -> Loss:
    """−log N(y; mean, deviation²) of single targets, less its constant: mean over the examples that count and their outputs."""

    def loss(params: BayesParams, examples: Examples, key: Key) -> jax.Array:
        del key
        mean, deviation = predict(body, params, examples.inputs)
        values = jnp.mean(0.5 * jnp.square((examples.targets - mean) / deviation) + jnp.log(deviation), axis=1)
        return weighted_mean(values, examples.weight)

    return loss


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
