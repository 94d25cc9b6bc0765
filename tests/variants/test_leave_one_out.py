"""Leaving out each support row, in closed form and by adapting anew, and the steps chosen so. Place: variants/leave_one_out."""

import importlib
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from known import KEY, assert_close, fast_adapt, mlp_apply, mlp_params, one, plain, waves
from polynomials import FEATURES, POLYNOMIALS, examples, learner, numbers, prior

from fewstep import Examples, Learner, MetaParams, adapt
from fewstep.core.losses import mean_squared_error
from fewstep.variants import bayes_leave_one_out, class_log_probabilities, leave_one_out, safe_steps
from fewstep.variants.bayes_head import BayesParams, predict
from fewstep.variants.leave_one_out import left_out

MODULE = importlib.import_module("fewstep.variants.leave_one_out")  # its name in the package is that of a function
MARGIN = inspect.signature(safe_steps).parameters["margin"].default
choose = jax.jit(safe_steps)


def without(support, row):
    """The support set with this row gone altogether."""
    return Examples(*(np.delete(leaf, row, axis=0) for leaf in support))


@jax.jit
def refit(belief, rest, x):
    return predict(POLYNOMIALS, adapt(learner(), MetaParams(BayesParams((), belief)), rest, KEY), x)


def refitted(belief, support):
    """(means, deviations) [rows, outputs] of each row, by Bayes' rule on the rows that are left when it is gone."""
    rows = range(support.weight.shape[0])
    found = [refit(belief, without(support, row), np.asarray(support.inputs[row : row + 1])) for row in rows]
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))


def closed(belief, support):
    """The closed form, compiled."""
    return jax.jit(lambda *both: left_out(POLYNOMIALS, MetaParams(BayesParams((), both[0])), both[1]))(belief, support)


def padded(support, rows=3):
    """With absurd rows of weight 0 behind the others."""
    more = jax.tree.map(lambda leaf: jnp.concatenate([leaf, jnp.full_like(leaf[:rows], 1e3)]), support)
    return more._replace(weight=jnp.concatenate([support.weight, jnp.zeros(rows, support.weight.dtype)]))


@pytest.mark.parametrize(("centers", "outputs", "few"), [(1, 1, 256), (1, 3, 0), (4, 1, 0), (4, 2, 256)])
def test_the_closed_form_equals_refitting_without_each_row(float64, monkeypatch, centers, outputs, few):
    """By whitening the rows of small sets, and by the leverage of rows of large ones."""
    monkeypatch.setattr(MODULE, "FEW_ROWS", few)
    belief, support = prior(centers, outputs), examples(outputs=outputs)
    found = closed(belief, support)
    mean, deviation = refitted(belief, support)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.deviation, deviation, rtol=1e-7)
    told = refit(belief, support, support.inputs)
    assert np.abs(told.mean - mean).max() > 0.1  # a row that is told is another matter


@pytest.mark.parametrize(("centers", "few"), [(1, 0), (3, 0), (3, 256)])
def test_the_closed_form_equals_refitting_where_rows_lack_targets(float64, monkeypatch, centers, few):
    monkeypatch.setattr(MODULE, "FEW_ROWS", few)
    weight = jnp.array([[1, 0], [1, 1], [0, 1], [1, 1], [1, 0], [0, 1], [1, 1.0]])
    belief, support = prior(centers, 2), examples(outputs=2)._replace(weight=weight)
    found, (mean, deviation), known = closed(belief, support), refitted(belief, support), np.asarray(weight) > 0
    np.testing.assert_allclose(np.asarray(found.mean)[known], mean[known], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(np.asarray(found.deviation)[known], deviation[known], rtol=1e-7)


@pytest.mark.parametrize("rows", [4, 9, 20])
def test_the_closed_form_holds_in_float32_where_a_row_says_nearly_all_that_is_known_of_it(rows):
    """A noise of 0.01 beside a prior of 1: where rows are few, 1 − h is of the size of a rounding error of 1."""
    with jax.enable_x64(True):
        belief = prior(3)._replace(log_noise=jnp.full(1, np.log(0.01)), root=300 * jnp.eye(FEATURES + 1))
        x = jnp.linspace(-1, 1, rows)[:, None]
        support = Examples(x, jnp.sin(2 * x) + 0.01 * numbers(4, rows, 1), jnp.ones(rows))
        mean, deviation = refitted(belief, support)
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (belief, support))
    found = closed(*single)
    assert found.mean.dtype == jnp.float32
    assert float(np.max(np.abs(found.mean - mean) / deviation)) < 1e-3
    np.testing.assert_allclose(found.deviation, deviation, rtol=1e-3)


def test_the_closed_form_gives_the_prior_first_and_bayes_rule_after_any_number_of_steps(float64):
    belief, support = prior(2, 2), examples(outputs=2)
    params = MetaParams(BayesParams((), belief))
    by_steps = bayes_leave_one_out(POLYNOMIALS, lambda found: found.mean)
    predictions = jax.jit(by_steps, static_argnums=3)(params, support, KEY, 3)
    assert predictions.shape == (4, 7, 2)
    np.testing.assert_allclose(predictions[0], predict(POLYNOMIALS, params.theta, support.inputs).mean)
    for step in (1, 2, 3):
        np.testing.assert_allclose(predictions[step], refitted(belief, support)[0], rtol=1e-7, atol=1e-9)


def test_the_closed_form_and_adapting_anew_agree_on_classes(float64):
    support = examples(outputs=3)._replace(targets=jnp.eye(3)[jnp.array([0, 1, 2, 2, 1, 0, 0])])
    params = MetaParams(BayesParams((), prior(2, 3)))
    in_closed_form = bayes_leave_one_out(POLYNOMIALS, class_log_probabilities)
    anew = leave_one_out(learner(), lambda theta, x: class_log_probabilities(predict(POLYNOMIALS, theta, x)))
    found, expected = (jax.jit(way, static_argnums=3)(params, support, KEY, 1) for way in (in_closed_form, anew))
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(np.exp(found).sum(-1), 1, rtol=1e-9)


@pytest.mark.parametrize("at_once", [2, 64])
def test_leaving_out_equals_a_python_loop_of_adapting_to_the_rest(float64, monkeypatch, at_once):
    monkeypatch.setattr(MODULE, "AT_ONCE", at_once)
    gradient = Learner(mean_squared_error(mlp_apply), optax.sgd(0.1), 2)
    theta, support = mlp_params(), one(waves(1), 0).support
    found = jax.jit(leave_one_out(gradient, mlp_apply), static_argnums=3)(plain(theta), support, KEY, 2)
    assert found.shape == (3, 5, 1)
    for step in range(3):
        for row in range(5):
            adapted = fast_adapt(gradient, plain(theta), without(support, row), KEY, step)
            np.testing.assert_allclose(found[step, row], mlp_apply(adapted, support.inputs[row : row + 1])[0], rtol=1e-9)


def test_padding_is_left_out_of_everything(float64):
    gradient = Learner(mean_squared_error(mlp_apply), optax.sgd(0.1), 2)
    support, params = one(waves(1), 0).support, plain(mlp_params())
    by_steps = jax.jit(leave_one_out(gradient, mlp_apply), static_argnums=3)
    whole = by_steps(params, padded(support), KEY, 2)
    assert_close(whole[:, :5], by_steps(params, support, KEY, 2))
    errors = jnp.square(whole - padded(support).targets[None])[..., 0]
    weight = padded(support).weight
    assert int(choose(errors, weight)) == int(choose(errors[:, :5], weight[:5]))
    rows, belief = examples(), prior(3)
    assert_close(jax.tree.map(lambda leaf: leaf[:7], closed(belief, padded(rows))), closed(belief, rows))


def chosen_by_hand(errors, weight):
    """The documented choice: the least mean, taken where it gains more than the margin of standard errors, else 0."""
    errors = errors[:, weight > 0]
    best = int(np.argmin(errors.mean(1)))
    gain = errors[0] - errors[best]
    if gain.size < 2 or gain.mean() <= MARGIN * gain.std(ddof=1) / np.sqrt(gain.size):
        return 0
    return best


def test_safe_steps_equal_their_definition_in_numpy(float64):
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        errors = rng.gamma(2.0, size=(4, 8)) * rng.uniform(0.7, 1.1, size=(4, 1))
        weight = np.zeros(8)
        weight[: rng.integers(1, 9)] = 1.0
        found.append(int(choose(jnp.asarray(errors), jnp.asarray(weight))))
        assert found[-1] == chosen_by_hand(errors, weight)
    counts = np.bincount(found, minlength=4)
    assert counts.min() > 10, counts  # both answers, and every number of steps, are met


@pytest.mark.parametrize("rows", [0, 1])
def test_nobody_adapts_to_one_row_since_nothing_vouches_for_it(rows):
    errors, weight = jnp.array([[9.0, 9.0], [0.0, 0.0]]), (jnp.arange(2) < rows).astype(float)
    assert int(choose(errors, weight)) == 0
    assert int(choose(errors, jnp.ones(2))) == 1


def test_where_steps_make_no_difference_the_fewest_are_taken(float64):
    same = jnp.array([3.0, 1.0, 2.0])
    assert int(choose(jnp.stack([same] * 4), jnp.ones(3))) == 0
    assert int(choose(jnp.stack([same, same - 0.5, same - 0.5]), jnp.ones(3))) == 1


def test_a_gain_that_may_be_luck_is_not_taken(float64):
    """Gains of mean 1 whose standard error is just above, or just below, what the margin allows."""
    swing = jnp.array([1.0, -1.0, 1.0, -1.0]) / jnp.sqrt(4 / 3)  # a standard deviation of 1, a standard error of ½
    for factor, taken in ((1.01, 0), (0.99, 1)):
        gain = 1.0 + factor * 2.0 / MARGIN * swing
        assert int(choose(jnp.stack([gain + 50.0, jnp.full(4, 50.0)]), jnp.ones(4))) == taken


def test_steps_that_diverge_are_never_chosen_and_padding_may_diverge():
    nan = float("nan")
    diverged = jnp.array([[5.0, 6.0, nan], [1.0, 1.0, nan], [0.0, nan, nan], [0.0, float("inf"), 0.0]])
    assert int(choose(diverged, jnp.array([1.0, 1.0, 0.0]))) == 1
