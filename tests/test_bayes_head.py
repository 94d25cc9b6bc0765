"""The Bayesian last layer against textbook formulas, a Gaussian process and plain enumeration. Place: variants/bayes_head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known import assert_close

from fewstep import Episode, Examples, Learner, MetaParams, Network, adapt, adaptation_path, task_loss
from fewstep.variants import bayes_network, bayes_step, empirical_prior, negative_log_likelihood, remember_prior, shrunk
from fewstep.variants.bayes_head import BayesParams, Belief, posterior, predict

KEY = jax.random.key(3)
FEATURES, ROWS = 4, 7
POLYNOMIALS = Network(lambda key: (), lambda params, x: x ** jnp.arange(1, FEATURES + 1)[None])
"""A body without parameters: φ(x) = (x, x², x³, x⁴), and the constant behind it."""


def numbers(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def prior(centers=1, outputs=1):
    size = FEATURES + 1
    return Belief(numbers(0, centers, size, outputs), numbers(1, centers), numbers(2, size, size), numbers(3, outputs) / 2)


def design(x):
    return np.column_stack([*(np.asarray(x) ** power for power in range(1, FEATURES + 1)), np.ones(len(x))])


def examples(seed=5, rows=ROWS, outputs=1):
    return Examples(numbers(seed, rows, 1) / 2, numbers(seed + 1, rows, outputs), jnp.ones(rows))


def learner(**fields):
    loss = negative_log_likelihood(POLYNOMIALS)
    return Learner(loss, remember_prior, 1, adaptation_step=bayes_step(POLYNOMIALS), **fields)


def test_one_center_gives_the_conjugate_formulas_of_bayesian_linear_regression(float64):
    belief, support, x = prior(), examples(), numbers(9, 6, 1)
    adapted = adapt(learner(), MetaParams(BayesParams((), belief)), support, KEY)
    noise = np.exp(2 * float(belief.log_noise[0]))
    covariance = noise * np.asarray(belief.root @ belief.root.T)
    phi, y, m = design(support.inputs), np.asarray(support.targets), np.asarray(belief.centers[0])
    after = np.linalg.inv(np.linalg.inv(covariance) + phi.T @ phi / noise)  # Bishop (2006), equations 3.50 and 3.51
    mean = after @ (np.linalg.inv(covariance) @ m + phi.T @ y / noise)
    np.testing.assert_allclose(adapted.belief.centers[0], mean, rtol=1e-8)
    np.testing.assert_allclose(noise * adapted.belief.root @ adapted.belief.root.T, after, rtol=1e-7)
    found = predict(POLYNOMIALS, adapted, x)
    np.testing.assert_allclose(found.mean, design(x) @ mean, rtol=1e-8)
    variance = noise + np.einsum("xf,fg,xg->x", design(x), after, design(x))  # equation 3.59
    np.testing.assert_allclose(found.deviation[:, 0] ** 2, variance, rtol=1e-8)


def test_one_center_predicts_as_a_gaussian_process_with_the_matching_kernel(float64):
    belief, support, x = prior()._replace(centers=jnp.zeros((1, FEATURES + 1, 1))), examples(), numbers(9, 6, 1)
    found = predict(POLYNOMIALS, adapt(learner(), MetaParams(BayesParams((), belief)), support, KEY), x)
    noise = np.exp(2 * float(belief.log_noise[0]))

    def kernel(a, b):
        return noise * design(a) @ np.asarray(belief.root @ belief.root.T) @ design(b).T

    inverse = np.linalg.inv(kernel(support.inputs, support.inputs) + noise * np.eye(ROWS))
    across = kernel(x, support.inputs)
    np.testing.assert_allclose(found.mean, across @ inverse @ support.targets, rtol=1e-7)
    variance = noise + np.diag(kernel(x, x) - across @ inverse @ across.T)
    np.testing.assert_allclose(found.deviation[:, 0] ** 2, variance, rtol=1e-7)


def test_several_centers_are_weighed_by_their_evidence(float64):
    belief, support, x = prior(3), examples(), numbers(9, 6, 1)
    found = predict(POLYNOMIALS, BayesParams((), posterior_of(belief, support)), x)
    noise = np.exp(2 * float(belief.log_noise[0]))
    phi, y = design(support.inputs), np.asarray(support.targets[:, 0])
    marginal = noise * (np.eye(ROWS) + phi @ np.asarray(belief.root @ belief.root.T) @ phi.T)
    beliefs = [belief._replace(centers=center[None], log_weight=jnp.zeros(1)) for center in belief.centers]
    alone = [predict(POLYNOMIALS, BayesParams((), posterior_of(one, support)), x) for one in beliefs]
    errors = [y - phi @ np.asarray(center[:, 0]) for center in belief.centers]
    weight = np.exp(np.asarray(belief.log_weight)) * np.exp([-0.5 * e @ np.linalg.solve(marginal, e) for e in errors])
    weight /= weight.sum()
    assert 0.01 < weight.max() < 0.999
    means, variances = (np.array([part(one)[:, 0] for one in alone]) for part in (lambda p: p.mean, lambda p: p.deviation**2))
    mean = weight @ means
    np.testing.assert_allclose(found.mean[:, 0], mean, rtol=1e-7)
    np.testing.assert_allclose(found.deviation[:, 0] ** 2, weight @ (variances + means**2) - mean**2, rtol=1e-7)


def posterior_of(belief, support):
    return posterior(belief, jnp.asarray(design(support.inputs)), support.targets, support.weight)


@pytest.mark.parametrize("centers", [1, 3])
def test_rows_in_two_turns_teach_the_same_as_rows_at_once(float64, centers):
    belief, support = prior(centers, outputs=2), examples(outputs=2)
    first, second = (jax.tree.map(lambda leaf, rows=rows: leaf[rows], support) for rows in (slice(3), slice(3, None)))
    once, twice = posterior_of(belief, support), posterior_of(posterior_of(belief, first), second)
    np.testing.assert_allclose(twice.centers, once.centers, rtol=1e-7)
    np.testing.assert_allclose(jax.nn.softmax(twice.log_weight), jax.nn.softmax(once.log_weight), rtol=1e-7)
    np.testing.assert_allclose(twice.root @ twice.root.T, once.root @ once.root.T, rtol=1e-7, atol=1e-10)


def test_padding_teaches_nothing(float64):
    belief, support = prior(3), examples()
    padded = jax.tree.map(lambda leaf: jnp.concatenate([leaf, 7.0 * jnp.ones_like(leaf[:4])]), support)
    padded = padded._replace(weight=jnp.concatenate([support.weight, jnp.zeros(4)]))
    assert_close(posterior_of(belief, padded), posterior_of(belief, support), rtol=1e-9)


def test_a_second_step_does_not_count_the_support_set_twice(float64):
    path = adaptation_path(learner(), MetaParams(BayesParams((), prior(2))), examples(), KEY, steps=3)
    for leaf in jax.tree.leaves(path):
        np.testing.assert_allclose(leaf[2:], jnp.broadcast_to(leaf[1], leaf[2:].shape), rtol=1e-12)
    assert_close(jax.tree.map(lambda leaf: leaf[0], path), BayesParams((), prior(2)))


def test_the_meta_gradient_through_bayes_rule_equals_finite_differences(float64):
    body = Network(lambda key: numbers(8, 1, FEATURES), lambda params, x: jnp.tanh(x @ params))
    network = bayes_network(body, FEATURES, 1)
    theta = network.init(KEY)
    theta = theta._replace(belief=prior()._replace(log_weight=theta.belief.log_weight))
    bayes = Learner(negative_log_likelihood(body), remember_prior, 1, adaptation_step=bayes_step(body))
    episode = Episode(examples(), examples(20))
    flat, restore = jax.flatten_util.ravel_pytree(theta)
    loss = jax.jit(lambda flat: task_loss(bayes, MetaParams(restore(flat)), episode, KEY, 0))
    gradient = jax.grad(loss)(flat)
    for i in range(0, flat.size, 5):
        step = 1e-6 * jnp.zeros_like(flat).at[i].set(1.0)
        np.testing.assert_allclose((loss(flat + step) - loss(flat - step)) / 2e-6, gradient[i], rtol=1e-5, atol=1e-7)


def test_an_empirical_prior_recognizes_a_known_task(float64):
    """With a center for each task and little room around it, a few rows pick the task they are of, and predict its others."""
    theta = BayesParams((), prior()._replace(root=1e4 * jnp.eye(FEATURES + 1), log_noise=jnp.full(1, np.log(0.01))))
    weights = numbers(30, 20, FEATURES + 1)
    x = jnp.linspace(-1, 1, 30)[:, None]
    tasks = Examples(
        jnp.broadcast_to(x, (20, 30, 1)), jnp.einsum("xf,nf->nx", design(x), weights)[..., None], jnp.ones((20, 30))
    )
    known = shrunk(empirical_prior(POLYNOMIALS, theta, tasks), 1e-6)
    np.testing.assert_allclose(known.belief.centers[..., 0], weights, atol=1e-2)
    rows = jnp.array([3, 12, 25])
    support = Examples(x[rows], tasks.targets[11, rows], jnp.ones(3))
    adapted = adapt(learner(), MetaParams(known), support, KEY)
    assert int(jnp.argmax(adapted.belief.log_weight)) == 11
    np.testing.assert_allclose(predict(POLYNOMIALS, adapted, x).mean, tasks.targets[11], atol=0.02)
