"""Published variants against explicit formulas. Place: fewstep/variants, fewstep/gradients/transforms.py."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from known import (
    KEY,
    STEP,
    assert_close,
    bowl_loss,
    bowls,
    farthest,
    fast_adapt,
    fast_gradient,
    fast_gradients,
    fast_meta_gradient,
    fast_path,
    keys,
    mlp_loss,
    mlp_params,
    one,
    plain,
    steep_loss,
    waves,
)

from fewstep import Learner, MetaParams
from fewstep.core.maml import task_gradient
from fewstep.gradients import clipped
from fewstep.variants import curvature, log_rates, meta_curvature, meta_sgd, multi_step_loss
from fewstep.variants.multi_step_loss import step_weights


@pytest.mark.parametrize(("inner_optimizer", "start"), [(meta_sgd, log_rates), (meta_curvature, curvature)])
def test_learned_inner_optimizers_start_as_plain_descent(float64, inner_optimizer, start):
    episodes, theta = waves(3), mlp_params()
    descent = Learner(mlp_loss, optax.sgd(0.07), 3)
    learned = replace(descent, inner_optimizer=inner_optimizer)
    loss, gradient = fast_meta_gradient(learned, MetaParams(theta, start(theta, 0.07)), episodes, keys(3), STEP)
    expected = fast_meta_gradient(descent, plain(theta), episodes, keys(3), STEP)
    assert_close((loss, gradient.theta), (expected[0], expected[1].theta))


def test_log_rates_are_the_logarithm_of_the_rate_for_every_parameter():
    theta = mlp_params()
    assert_close(log_rates(theta, 0.01), jax.tree.map(lambda leaf: np.full(leaf.shape, math.log(0.01)), theta), rtol=1e-6)


def test_meta_sgd_takes_each_parameter_at_its_own_rate(float64):
    theta, support, rates = jnp.array([1.0, -2.0, 0.5]), one(bowls(1), 0).support, jnp.array([0.0, 0.1, 0.3])
    adapted = fast_adapt(Learner(bowl_loss, meta_sgd, 1), MetaParams(theta, jnp.log(rates)), support, KEY)
    assert_close(adapted, theta - rates * (support.matrix @ (theta - support.center)))


def test_meta_curvature_turns_kernels_on_both_sides_and_biases_on_one(float64):
    rng = np.random.default_rng(2)
    theta = {"kernel": jnp.asarray(rng.normal(size=(2, 3))), "bias": jnp.asarray(rng.normal(size=3))}
    slopes = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), theta)
    inner = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape), curvature(theta, 0.1))

    def linear(theta, slopes, key):
        return sum(jnp.sum(a * b) for a, b in zip(jax.tree.leaves(theta), jax.tree.leaves(slopes), strict=True))

    adapted = fast_adapt(Learner(linear, meta_curvature, 1), MetaParams(theta, inner), slopes, KEY)
    kernel, bias = inner["kernel"], inner["bias"]
    assert_close(
        adapted,
        {
            "kernel": theta["kernel"] - np.exp(kernel.rates) * (kernel.rows @ slopes["kernel"] @ kernel.columns),
            "bias": theta["bias"] - np.exp(bias.rates) * (bias.rows @ slopes["bias"]),
        },
    )


def test_meta_curvature_takes_kernels_of_four_axes_as_matrices(float64):
    rng = np.random.default_rng(3)
    theta = jnp.asarray(rng.normal(size=(2, 2, 3, 4)))
    inner = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape), curvature(theta, 1.0))
    slope = rng.normal(size=theta.shape)
    adapted = fast_adapt(
        Learner(lambda t, s, k: jnp.sum(t * s), meta_curvature, 1), MetaParams(theta, inner), jnp.asarray(slope), KEY
    )
    turned = np.einsum("ij,jo,op->ip", inner.rows, slope.reshape(12, 4), inner.columns).reshape(slope.shape)
    assert_close(adapted, theta - np.exp(inner.rates) * turned)


@pytest.mark.parametrize(("steps", "until"), [(1, 10), (5, 10), (5, 1), (3, 0)])
def test_weights_of_the_steps_sum_to_one_and_move_from_uniform_to_the_last(float64, steps, until):
    weights = np.stack([step_weights(steps, jnp.asarray(step), until) for step in range(until + 3)])
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-12)
    assert weights.min() >= 0
    last = np.eye(steps)[-1]
    if until:
        np.testing.assert_allclose(weights[0], np.full(steps, 1 / steps), rtol=1e-12)
        half = 0.5 * (weights[0] + last)
        if until % 2 == 0:
            np.testing.assert_allclose(weights[until // 2], half, rtol=1e-12)
    np.testing.assert_array_equal(weights[max(until, 1) :], np.broadcast_to(last, (until + 3 - max(until, 1), steps)))


@pytest.mark.parametrize("step", [0, 4, 10, 500])
def test_the_multi_step_objective_equals_an_explicit_loop_over_the_path(float64, step):
    learner = Learner(steep_loss, optax.sgd(0.1), 3, objective=multi_step_loss(until=10))
    params, episode = plain(jnp.array([0.3, -1.2, 0.7])), one(bowls(1), 0)
    adapt_key, query_key = jax.random.split(KEY)
    path = fast_path(learner, params, episode.support, adapt_key)
    losses = [float(steep_loss(one(path, k), episode.query, query_key)) for k in (1, 2, 3)]
    toward = min(step / 10, 1.0)
    expected = sum((1 - toward) / 3 * loss for loss in losses) + toward * losses[-1]
    np.testing.assert_allclose(fast_gradient(learner, params, episode, KEY, jnp.asarray(step))[0], expected, rtol=1e-12)


def test_the_multi_step_objective_is_the_plain_one_from_its_end_on(float64):
    plain_learner = Learner(steep_loss, optax.sgd(0.1), 3)
    learner = replace(plain_learner, objective=multi_step_loss(until=10))
    params, episode = plain(jnp.array([0.3, -1.2, 0.7])), one(bowls(1), 0)
    late = jnp.asarray(10)
    assert_close(fast_gradient(learner, params, episode, KEY, late), fast_gradient(plain_learner, params, episode, KEY, late))
    early = fast_gradient(learner, params, episode, KEY, STEP)
    assert farthest(early, fast_gradient(plain_learner, params, episode, KEY, STEP)) > 1e-3


def test_clipping_leaves_small_gradients_alone_and_caps_large_ones_in_their_direction(float64):
    learner, params, episodes = Learner(bowl_loss, optax.sgd(0.1), 1), plain(jnp.array([1.0, -1.0, 2.0])), bowls(6)
    losses, free = fast_gradients(learner, params, episodes, keys(6), STEP)
    norms = np.linalg.norm(free.theta, axis=1)
    limit = float(np.median(norms))
    learner = replace(learner, task_gradient=clipped(task_gradient, limit))
    kept, capped = fast_gradients(learner, params, episodes, keys(6), STEP)
    assert_close(kept, losses)
    assert (norms < limit).any() and (norms > limit).any()
    expected = np.where((norms > limit)[:, None], free.theta / norms[:, None] * limit, free.theta)
    assert_close(capped.theta, expected)
    _, mean = fast_meta_gradient(learner, params, episodes, keys(6), STEP)
    assert_close(mean.theta, expected.mean(0))


def test_clipping_measures_theta_and_learned_rates_together(float64):
    theta = jnp.array([1.0, -1.0, 2.0])
    params, episode = MetaParams(theta, log_rates(theta, 0.1)), one(bowls(1), 0)
    learner = Learner(bowl_loss, meta_sgd, 1)
    _, gradient = clipped(fast_gradient, 1e-3)(learner, params, episode, KEY, STEP)
    np.testing.assert_allclose(np.linalg.norm(np.concatenate(gradient)), 1e-3, rtol=1e-12)


def test_clipping_a_task_that_is_already_solved_gives_zero_and_no_nan(float64):
    episode = one(bowls(1), 0)
    solved = type(episode)(episode.support, episode.support)
    params = plain(episode.support.center)
    learner = Learner(bowl_loss, optax.sgd(0.1), 2)
    loss, gradient = clipped(fast_gradient, 1.0)(learner, params, solved, KEY, STEP)
    assert float(loss) == 0
    np.testing.assert_array_equal(gradient.theta, np.zeros(3))


def test_meta_curvature_of_a_head_of_one_column_is_the_same_for_every_class_of_a_task():
    """θ has one column, a task several: each turns as that one would, whatever the matrices are."""
    rng = np.random.default_rng(0)
    one_column = {"kernel": jnp.zeros((3, 1)), "bias": jnp.zeros(1)}
    inner = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape), curvature(one_column, 0.1))
    gradient = {"kernel": jnp.asarray(rng.normal(size=(3, 4))), "bias": jnp.asarray(rng.normal(size=4))}
    optimizer = meta_curvature(inner)
    whole, _ = optimizer.update(gradient, optimizer.init(gradient))
    for number in range(4):
        column = jax.tree.map(lambda leaf, number=number: leaf[..., number : number + 1], gradient)
        alone, _ = optimizer.update(column, optimizer.init(column))
        assert_close(jax.tree.map(lambda leaf, number=number: leaf[..., number : number + 1], whole), alone, rtol=1e-5)
