"""A Bayesian last layer on four powers of one input. Used by the tests of the last layer and of leaving rows out."""

import jax.numpy as jnp
import numpy as np

from fewstep import Examples, Learner, Network
from fewstep.variants import bayes_step, carry_prior, negative_log_likelihood
from fewstep.variants.bayes_head import GaussianPosterior

FEATURES, ROWS = 4, 7
POLYNOMIALS = Network(lambda key: (), lambda params, x: x ** jnp.arange(1, FEATURES + 1)[None])
"""A body without parameters: φ(x) = (x, x², x³, x⁴), and the constant behind it."""


def numbers(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def prior(centers=1, outputs=1):
    size = FEATURES + 1
    return GaussianPosterior(
        numbers(0, centers, size, outputs), numbers(1, centers), numbers(2, size, size), numbers(3, outputs) / 2
    )


def examples(seed=5, rows=ROWS, outputs=1):
    return Examples(numbers(seed, rows, 1) / 2, numbers(seed + 1, rows, outputs), jnp.ones(rows))


def learner(**fields):
    loss = negative_log_likelihood(POLYNOMIALS)
    return Learner(loss, carry_prior, 1, adaptation_step=bayes_step(POLYNOMIALS), **fields)
