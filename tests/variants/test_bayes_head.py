"""The Bayesian last layer against textbook formulas, a Gaussian process and plain enumeration. Place: variants/bayes_head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known import assert_close, fast_adapt, fast_path, finite_differences
from polynomials import FEATURES, POLYNOMIALS, ROWS, examples, learner, numbers, prior
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

from fewstep import Episode, Examples, Learner, MetaParams, Network, adapt, adaptation_path, task_loss
from fewstep.core.maml import task_gradients
from fewstep.variants import (
    bayes_network,
    bayes_step,
    body_and_bayes_step,
    carry_prior,
    class_log_probabilities,
    empirical_prior,
    move_body,
    negative_log_likelihood,
    shrunk,
    start_by_output,
)
from fewstep.variants.bayes_head import BayesParams, Prediction, condition, posterior, predict

KEY = jax.random.key(3)


def design(x):
    return np.column_stack([*(np.asarray(x) ** power for power in range(1, FEATURES + 1)), np.ones(len(x))])


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


GAPS = np.array([[1, 0], [1, 0], [0, 1], [1, 1], [0, 1], [0, 0], [1, 0.0]])


@pytest.mark.parametrize("rows", [slice(None), slice(4)], ids=["many rows", "few rows"])
def test_a_target_that_a_row_lacks_is_conditioned_on_the_other_rows_alone(float64, rows):
    belief = prior(outputs=2)
    support = jax.tree.map(lambda leaf: leaf[rows], examples(outputs=2)._replace(weight=jnp.asarray(GAPS)))
    found = predict(POLYNOMIALS, BayesParams((), posterior_of(belief, support)), numbers(9, 6, 1))
    for output in range(2):
        own = np.asarray(support.weight[:, output]) > 0
        alone = belief._replace(
            centers=belief.centers[..., output : output + 1], log_noise=belief.log_noise[output : output + 1]
        )
        rest = Examples(support.inputs[own], support.targets[own][:, output : output + 1], jnp.ones(own.sum()))
        expected = predict(POLYNOMIALS, BayesParams((), posterior_of(alone, rest)), numbers(9, 6, 1))
        np.testing.assert_allclose(found.mean[:, output], expected.mean[:, 0], rtol=1e-9)
        np.testing.assert_allclose(found.deviation[:, output], expected.deviation[:, 0], rtol=1e-9)


@pytest.mark.parametrize("rows", [ROWS, FEATURES])  # centers move together on few rows
def test_the_evidence_of_rows_with_gaps_is_the_density_of_their_known_targets(float64, rows):
    belief = prior(3, outputs=2)
    support = jax.tree.map(lambda leaf: leaf[:rows], examples(outputs=2)._replace(weight=jnp.asarray(GAPS)))
    phi, own_part = design(support.inputs), []
    for output in range(2):
        own = np.asarray(support.weight[:, output]) > 0
        noise = np.exp(2 * float(belief.log_noise[output]))
        covariance = noise * (np.eye(own.sum()) + phi[own] @ np.asarray(belief.root @ belief.root.T) @ phi[own].T)
        y = np.asarray(support.targets)[own, output]
        means = [phi[own] @ np.asarray(center[:, output]) for center in belief.centers]
        constant = 0.5 * own.sum() * np.log(2 * np.pi)
        own_part.append([multivariate_normal.logpdf(y, mean, covariance) + constant for mean in means])
    expected = np.asarray(belief.log_weight) + np.sum(own_part, 0)
    found, evidence = condition(belief, jnp.asarray(phi), support.targets, support.weight)
    np.testing.assert_allclose(evidence, logsumexp(expected), rtol=1e-9)
    np.testing.assert_allclose(found.log_weight, expected - logsumexp(expected), rtol=1e-7, atol=1e-9)
    whole, plain = support._replace(weight=jnp.ones((rows, 2))), support._replace(weight=jnp.ones(rows))
    np.testing.assert_allclose(posterior_of(belief, whole).centers, posterior_of(belief, plain).centers, rtol=1e-7, atol=1e-9)


def test_the_meta_gradient_through_bayes_rule_with_gaps_equals_finite_differences(float64):
    support = examples(outputs=2)._replace(weight=jnp.asarray(GAPS))
    episode = Episode(support, examples(8, outputs=2)._replace(weight=jnp.asarray(GAPS[::-1].copy())))
    with_gaps, params = learner(start=start_by_output), MetaParams(BayesParams((), prior(2, outputs=2)))
    loss = jax.jit(lambda params: task_loss(with_gaps, params, episode, KEY, jnp.zeros((), jnp.int32)))
    assert_close(jax.jit(jax.grad(loss))(params), finite_differences(loss, params), rtol=1e-5, atol=1e-7)
    path = adaptation_path(with_gaps, params, support, KEY)
    assert path.belief.root.shape == (2, 2, FEATURES + 1, FEATURES + 1)  # from θ on, a root for each output


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
    bayes = Learner(negative_log_likelihood(body), carry_prior, 1, adaptation_step=bayes_step(body))
    episode = Episode(examples(), examples(20))
    flat, restore = jax.flatten_util.ravel_pytree(theta)
    loss = jax.jit(lambda flat: task_loss(bayes, MetaParams(restore(flat)), episode, KEY, 0))
    gradient = jax.jit(jax.grad(loss))(flat)
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


@pytest.mark.parametrize(("centers", "rows"), [(1, ROWS), (3, ROWS), (3, FEATURES)])  # centers move together on few rows
def test_the_evidence_of_rows_is_their_density_under_the_mixture_less_the_constant_of_a_normal(float64, centers, rows):
    belief, support = prior(centers, outputs=2), examples(rows=rows, outputs=2)
    belief = belief._replace(log_weight=jax.nn.log_softmax(belief.log_weight))
    support = support._replace(weight=jnp.array([1.0, 1, 0, 1, 1, 1, 0])[:rows])
    evidence = condition(belief, jnp.asarray(design(support.inputs)), support.targets, support.weight)[1]
    kept = np.asarray(support.weight) > 0
    phi, y = design(support.inputs)[kept], np.asarray(support.targets)[kept]
    relative = np.eye(kept.sum()) + phi @ np.asarray(belief.root @ belief.root.T) @ phi.T
    variance = np.exp(2 * np.asarray(belief.log_noise))

    def log_density(center):
        means = phi @ np.asarray(center)
        each = [multivariate_normal(means[:, o], variance[o] * relative).logpdf(y[:, o]) for o in range(2)]
        return sum(each) + y.size / 2 * np.log(2 * np.pi)

    expected = logsumexp([log_density(center) for center in belief.centers], b=np.exp(belief.log_weight))
    np.testing.assert_allclose(evidence, expected, rtol=1e-9)


def test_probabilities_of_classes_are_the_densities_at_their_unit_vectors_made_to_sum_to_one(float64):
    found = Prediction(numbers(1, 6, 4), jnp.exp(numbers(2, 6, 4) / 2))
    densities = [norm(found.mean, found.deviation).pdf(unit).prod(1) for unit in np.eye(4)]
    expected = np.stack(densities, axis=1) / np.sum(densities, axis=0)[:, None]
    np.testing.assert_allclose(np.exp(class_log_probabilities(found)), expected, rtol=1e-9)


TANH = Network(lambda key: numbers(8, 1, FEATURES) / 2, lambda params, x: jnp.tanh(x @ params))
RATES = np.log([[0.1, 0.2, 0.3, 0.4]])


def moving_body(steps):
    loss = negative_log_likelihood(TANH)
    return Learner(loss, move_body, steps, adaptation_step=body_and_bayes_step(TANH))


def tanh_params(centers=2):
    return MetaParams(BayesParams(TANH.init(KEY), prior(centers)), jnp.asarray(RATES))


def test_one_step_of_body_and_bayes_is_bayes_rule_alone(float64):
    params, support = tanh_params(), examples()
    bayes = Learner(negative_log_likelihood(TANH), carry_prior, 1, adaptation_step=bayes_step(TANH))
    assert_close(fast_adapt(moving_body(1), params, support, KEY), fast_adapt(bayes, params, support, KEY))


def test_further_steps_move_the_features_up_the_evidence_of_the_support_set_and_start_from_the_prior_again(float64):
    """Against a loop with the textbook density of the targets, features and all, and a library's solver."""
    params, support = tanh_params(1), examples()
    belief, y = params.theta.belief, support.targets[:, 0]

    def surprise(weights):
        phi = jnp.concatenate([jnp.tanh(support.inputs @ weights), jnp.ones((ROWS, 1))], axis=1)
        covariance = jnp.exp(2 * belief.log_noise[0]) * (jnp.eye(ROWS) + phi @ belief.root @ belief.root.T @ phi.T)
        density = jax.scipy.stats.multivariate_normal.logpdf(y, phi @ belief.centers[0, :, 0], covariance)
        return -density / ROWS

    gradient, weights, path = jax.jit(jax.grad(surprise)), params.theta.body, []
    for step in range(4):
        weights = weights - (step > 0) * np.exp(RATES) * gradient(weights)
        path.append(weights)
    found = fast_path(moving_body(4), params, support, KEY, 4)
    np.testing.assert_allclose(found.body[1:], np.stack(path), rtol=1e-7)
    assert np.abs(path[3] - path[0]).max() > 0.01
    phi = jnp.concatenate([jnp.tanh(support.inputs @ weights), jnp.ones((ROWS, 1))], axis=1)
    last = jax.tree.map(lambda leaf: leaf[-1], found.belief)
    assert_close(last, posterior(belief, phi, support.targets, support.weight), rtol=1e-7)


def test_the_meta_gradient_through_moving_features_equals_finite_differences(float64):
    episode = Episode(examples(), examples(20))
    loss = jax.jit(lambda params: task_loss(moving_body(2), params, episode, KEY, 0))
    gradient = jax.jit(jax.grad(loss))(tanh_params())
    assert_close(gradient, finite_differences(loss, tanh_params()), rtol=1e-5, atol=1e-8)
    assert np.abs(gradient.inner).min() > 1e-6  # the rates of the features are learned too


def test_bayes_rule_and_its_gradient_call_no_library_for_linear_algebra():
    """Two batched calls of LAPACK at a time may wait for each other for ever on two CPU cores."""
    calls = ("lapack", "cholesky", "triangular_solve", "custom_call")
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tanh_params())
    episodes = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), Episode(examples(), examples(20)))
    for learn in (moving_body(2), Learner(moving_body(1).loss, carry_prior, 1, adaptation_step=bayes_step(TANH))):
        gradients = jax.jit(task_gradients, static_argnums=0).lower(learn, params, episodes, jax.random.split(KEY, 2), 0)
        assert not [call for call in calls if call in gradients.as_text()]
    solver = jax.jit(jax.vmap(jnp.linalg.cholesky)).lower(jnp.stack([jnp.eye(3)] * 2)).as_text()
    assert [call for call in calls if call in solver]  # what is looked for would be found
