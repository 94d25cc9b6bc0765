"""Algorithm 1 against algebra, Python loops and finite differences. Place: fewstep/maml.py, fewstep/gradients."""

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
    assert_same_bits,
    bowl_closed_form,
    bowl_loss,
    bowls,
    farthest,
    fast_adapt,
    fast_first_order,
    fast_gradient,
    fast_gradients,
    fast_meta_gradient,
    fast_path,
    finite_differences,
    keys,
    mlp_loss,
    mlp_params,
    one,
    plain,
    steep_loss,
    waves,
)

from fewstep import (
    Episode,
    Learner,
    MetaParams,
    MetaState,
    TrainingError,
    finite_meta_gradient,
    init,
    meta_gradient,
    meta_step,
    task_loss,
)
from fewstep.gradients import first_order
from fewstep.variants import curvature, log_rates, meta_curvature, meta_sgd

STATEFUL = {
    "momentum": optax.sgd(0.05, momentum=0.9),
    "nesterov": optax.sgd(0.05, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.05, eps_root=1e-8),
}


def start():
    return jnp.array([0.3, -1.2, 0.7])


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 11])
def test_adaptation_and_meta_gradients_equal_their_closed_forms_on_quadratic_tasks(float64, steps):
    rate, theta, episodes = 0.1, start(), bowls(4)
    learner = Learner(bowl_loss, optax.sgd(rate), steps)
    forms = [bowl_closed_form(theta, one(episodes, task), rate, steps) for task in range(4)]
    for task in range(4):
        assert_close(fast_adapt(learner, plain(theta), one(episodes, task).support, KEY), forms[task][0])
    _, exact = fast_meta_gradient(learner, plain(theta), episodes, keys(4), STEP)
    assert_close(exact, plain(np.mean([form[1] for form in forms], axis=0)))
    _, short = fast_meta_gradient(replace(learner, task_gradient=first_order), plain(theta), episodes, keys(4), STEP)
    assert_close(short, plain(np.mean([form[2] for form in forms], axis=0)))


def test_meta_loss_is_the_mean_query_loss_after_adaptation_in_closed_form(float64):
    rate, theta, episodes = 0.2, start(), bowls(3)
    expected = []
    for task in range(3):
        adapted, _, gradient = bowl_closed_form(theta, one(episodes, task), rate, 2)
        expected.append(0.5 * (adapted - np.asarray(episodes.query.center[task])) @ gradient)
    loss, _ = fast_meta_gradient(Learner(bowl_loss, optax.sgd(rate), 2), plain(theta), episodes, keys(3), STEP)
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-12)


def test_second_order_meta_gradient_equals_finite_differences_on_a_small_network(float64):
    learner, episodes, theta = Learner(mlp_loss, optax.sgd(0.1), 3), waves(2), mlp_params()

    def meta_loss(theta):
        return jnp.mean(jax.vmap(lambda e, k: task_loss(learner, plain(theta), e, k, STEP))(episodes, keys(2)))

    _, gradient = fast_meta_gradient(learner, plain(theta), episodes, keys(2), STEP)
    assert_close(gradient.theta, finite_differences(meta_loss, theta), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("inner_optimizer", "begin"), [(meta_sgd, log_rates), (meta_curvature, curvature)])
def test_gradients_for_what_the_inner_loop_learns_equal_finite_differences(float64, inner_optimizer, begin):
    learner, episode, theta = Learner(mlp_loss, inner_optimizer, 2), one(waves(1), 0), mlp_params((1, 3, 1))
    rng = np.random.default_rng(1)  # away from the start, where rates are equal and matrices are the identity
    inner = jax.tree.map(lambda leaf: leaf + 0.2 * rng.normal(size=leaf.shape), begin(theta, 0.1))
    params = MetaParams(theta, inner)
    _, gradient = fast_gradient(learner, params, episode, KEY, STEP)
    expected = finite_differences(lambda params: task_loss(learner, params, episode, KEY, STEP), params)
    assert_close(gradient, expected, rtol=1e-6, atol=1e-8)


def test_first_order_gradient_is_the_query_gradient_at_the_adapted_parameters_and_differs_from_the_exact_one(float64):
    learner, episode, params = Learner(mlp_loss, optax.sgd(0.1), 3), one(waves(1), 0), plain(mlp_params())
    _, short = fast_first_order(learner, params, episode, KEY, STEP)
    adapted = fast_adapt(learner, params, episode.support, jax.random.split(KEY)[0])
    assert_close(short, plain(jax.jit(jax.grad(mlp_loss))(adapted, episode.query, KEY)))
    _, exact = fast_gradient(learner, params, episode, KEY, STEP)
    assert farthest(short, exact) > 0.01


def test_first_order_equals_exact_where_the_loss_is_linear_in_the_parameters(float64):
    def linear(theta, bowl, key):
        return jnp.dot(theta, bowl.center)

    learner, episode = Learner(linear, optax.adam(0.1, eps_root=1e-8), 3), one(bowls(1), 0)
    exact = fast_gradient(learner, plain(start()), episode, KEY, STEP)
    assert_close(fast_first_order(learner, plain(start()), episode, KEY, STEP), exact)
    assert_close(exact[1], plain(episode.query.center))


def test_first_order_gives_learned_rates_the_gradient_of_the_linearized_path(float64):
    theta, episode = start(), one(bowls(1), 0)
    rates = jnp.log(jnp.array([0.05, 0.1, 0.2]))
    _, gradient = fast_first_order(Learner(steep_loss, meta_sgd, 3), MetaParams(theta, rates), episode, KEY, STEP)
    here, total, slope_at = theta, jnp.zeros(3), jax.jit(jax.grad(steep_loss))
    for _ in range(3):
        slope = slope_at(here, episode.support, KEY)
        here, total = here - jnp.exp(rates) * slope, total + slope
    outer = slope_at(here, episode.query, KEY)
    assert_close(gradient, MetaParams(outer, -jnp.exp(rates) * total * outer))


def test_a_meta_batch_equals_a_python_loop_over_its_tasks(float64):
    learner, episodes, params = Learner(steep_loss, STATEFUL["adam"], 2), bowls(5), plain(start())
    loss, gradient = fast_meta_gradient(learner, params, episodes, keys(5), STEP)
    single = [fast_gradient(learner, params, one(episodes, task), keys(5)[task], STEP) for task in range(5)]
    np.testing.assert_allclose(loss, np.mean([value for value, _ in single]), rtol=1e-12)
    assert_close(gradient, jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *(g for _, g in single)))


def test_compiled_and_uncompiled_meta_gradients_agree(float64):
    learner, episodes, params = Learner(steep_loss, optax.sgd(0.1), 3), bowls(2), plain(start())
    with jax.disable_jit():
        slow = meta_gradient(learner, params, episodes, keys(2), STEP)
    assert_close(fast_meta_gradient(learner, params, episodes, keys(2), STEP), slow)


def test_without_adaptation_the_meta_gradient_is_ordinary_training_on_the_query_sets(float64):
    learner, episodes, theta = Learner(mlp_loss, optax.sgd(0.1), 0), waves(3), mlp_params()

    def ordinary(theta):
        return jnp.mean(jax.vmap(lambda query: mlp_loss(theta, query, KEY))(episodes.query))

    loss, gradient = fast_meta_gradient(learner, plain(theta), episodes, keys(3), STEP)
    assert_close((loss, gradient.theta), jax.jit(jax.value_and_grad(ordinary))(theta))
    assert_same_bits(fast_adapt(learner, plain(theta), one(episodes, 0).support, KEY), theta)


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_the_adaptation_path_starts_at_theta_and_passes_what_adapt_reaches(float64, name):
    learner, support, theta = Learner(steep_loss, STATEFUL[name], 4), one(bowls(1), 0).support, {"θ": start()}
    learner = replace(learner, loss=lambda theta, bowl, key: steep_loss(theta["θ"], bowl, key))
    path = fast_path(learner, plain(theta), support, KEY)
    assert path["θ"].shape == (5, 3)
    assert_same_bits(one(path, 0), theta)
    # A loss without randomness: the first k of K steps are the same whatever K is.
    for steps in range(1, 5):
        assert_close(one(path, steps), fast_adapt(learner, plain(theta), support, KEY, steps))
    assert_same_bits(fast_path(learner, plain(theta), support, KEY, 0), {"θ": start()[None]})


@pytest.mark.parametrize(("name", "steps"), [("momentum", 10), ("nesterov", 3), ("adam", 1), ("adam", 4)])
def test_the_inner_loop_and_its_derivative_equal_a_hand_written_loop(float64, name, steps):
    learner, episode, theta = Learner(steep_loss, STATEFUL[name], steps), one(bowls(1), 0), start()

    def by_hand(theta):
        here, state = theta, STATEFUL[name].init(theta)
        for _ in range(steps):
            updates, state = STATEFUL[name].update(jax.grad(steep_loss)(here, episode.support, KEY), state, here)
            here = optax.apply_updates(here, updates)
        return steep_loss(here, episode.query, KEY), here

    (loss, adapted), slope = jax.jit(jax.value_and_grad(by_hand, has_aux=True))(theta)
    assert_close(fast_adapt(learner, plain(theta), episode.support, KEY), adapted)
    assert_close(fast_gradient(learner, plain(theta), episode, KEY, STEP), (loss, plain(slope)), rtol=1e-8)


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_a_task_is_untouched_by_its_neighbors_in_the_meta_batch(name):
    learner, params, episodes, others = Learner(steep_loss, STATEFUL[name], 3), plain(start()), bowls(3), bowls(3, seed=5)
    mixed = jax.tree.map(lambda mine, theirs: theirs.at[1].set(mine[1]), episodes, others)
    here = fast_gradients(learner, params, episodes, keys(3), STEP)
    there = fast_gradients(learner, params, mixed, keys(3), STEP)
    assert_same_bits(one(here, 1), one(there, 1))
    assert farthest(one(here, 0), one(there, 0)) > 1e-3  # the neighbors did change


def test_the_order_of_tasks_changes_nothing_when_their_keys_move_along(float64):
    def noisy(theta, bowl, key):
        return steep_loss(theta, bowl, key) * jax.random.uniform(key)

    learner, params, episodes, order = Learner(noisy, optax.sgd(0.1), 2), plain(start()), bowls(4), np.array([2, 0, 3, 1])
    straight = fast_meta_gradient(learner, params, episodes, keys(4), STEP)
    assert_close(fast_meta_gradient(learner, params, one(episodes, order), keys(4)[order], STEP), straight)
    assert farthest(fast_meta_gradient(learner, params, one(episodes, order), keys(4), STEP), straight) > 1e-3


def test_every_adaptation_step_and_the_query_get_keys_of_their_own(float64):
    def drawn(theta, batch, key):  # its gradient is the noise that the key draws
        return jnp.dot(theta, jax.random.normal(key, (3,)))

    learner, params, episode = Learner(drawn, optax.sgd(1.0), 12), plain(jnp.zeros(3)), one(bowls(1), 0)
    path = fast_path(learner, params, episode.support, jax.random.split(KEY)[0])
    _, at_query = fast_gradient(learner, params, episode, KEY, STEP)
    noises = np.concatenate([-np.diff(path, axis=0), at_query.theta[None]])
    apart = np.abs(noises[:, None] - noises[None]).max(-1)
    assert apart[~np.eye(13, dtype=bool)].min() > 1e-3
    other = fast_path(learner, params, episode.support, jax.random.key(1))
    assert np.abs(other[1:] - path[1:]).max(-1).min() > 1e-3


def test_a_meta_step_with_plain_descent_subtracts_rate_times_gradient(float64):
    params = MetaParams(mlp_params(), jnp.array([1.0, 2.0]))
    gradient = jax.tree.map(np.sin, params)
    state = meta_step(optax.sgd(0.5), init(optax.sgd(0.5), params), gradient)
    assert isinstance(state, MetaState)
    assert_close(state.params, jax.tree.map(lambda here, slope: here - 0.5 * slope, params, gradient))
    assert int(state.step) == 1


def test_the_adaptation_steps_of_a_call_overrule_those_of_the_learner(float64):
    learner, episode = Learner(bowl_loss, optax.sgd(0.1), 2), one(bowls(1), 0)
    adapted = fast_adapt(learner, plain(start()), episode.support, KEY, 7)
    assert_close(adapted, bowl_closed_form(start(), episode, 0.1, 7)[0])


@pytest.mark.parametrize("at_once", [None, 2])
def test_the_finite_meta_gradient_is_that_of_the_other_tasks_and_says_which_were_left_out(at_once):
    params, episodes, others = plain(start()), bowls(5), jnp.array([0, 2, 4])
    learner = Learner(bowl_loss, optax.sgd(0.1), 2, tasks_at_once=at_once)
    center = episodes.support.center.at[1, 0].set(jnp.nan).at[3].set(1e30)  # the square of the latter is infinite
    wild = episodes._replace(support=episodes.support._replace(center=center))
    loss, gradient, finite = jax.jit(lambda: finite_meta_gradient(learner, params, wild, keys(5), STEP))()
    assert finite.tolist() == [True, False, True, False, True]
    expected = fast_meta_gradient(learner, params, one(episodes, others), keys(5)[others], STEP)
    assert_close((loss, gradient), expected, rtol=1e-4, atol=1e-6)
    assert np.isnan(fast_meta_gradient(learner, params, wild, keys(5), STEP)[0])


def test_where_no_task_is_finite_the_meta_loss_is_nan_and_the_gradient_moves_nothing():
    episodes = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), bowls(3))
    learner = Learner(bowl_loss, optax.sgd(0.1), 1)
    loss, gradient, finite = jax.jit(lambda: finite_meta_gradient(learner, plain(start()), episodes, keys(3), STEP))()
    assert np.isnan(loss) and not finite.any()
    assert not np.any(gradient.theta)


def test_outside_a_compiled_program_tasks_that_are_not_finite_are_named_by_number_with_what_is_wrong_in_them():
    learner, episodes = Learner(lambda theta, bowl, key: bowl_loss(theta["a"], bowl, key), optax.sgd(0.1), 0), bowls(5)
    center = episodes.query.center.at[1, 0].set(jnp.nan).at[3, 2].set(jnp.inf)
    wild = episodes._replace(query=episodes.query._replace(center=center))
    with pytest.raises(
        TrainingError, match=r"2 of 5 tasks is not finite: task 1, 3, .*Not finite: episodes\.query\.center of task 1\."
    ):
        meta_gradient(learner, plain({"a": start()}), wild, keys(5), STEP)
    with pytest.raises(TrainingError, match=r"5 of 5 tasks.*Not finite: parameters\.theta\['a'\]"):
        meta_gradient(learner, plain({"a": start() * jnp.nan}), episodes, keys(5), STEP)


def test_the_mean_over_tasks_of_float16_numbers_is_finite_where_their_sum_is_not():
    theta, query = {"w": jnp.ones(2, jnp.float16)}, jnp.full(4, 30_000.0, jnp.float16)
    learner = Learner(lambda theta, batch, key: batch * theta["w"][0], optax.sgd(0.0), 1)
    loss, gradient = fast_meta_gradient(learner, plain(theta), Episode(query, query), keys(4), STEP)
    assert gradient.theta["w"].dtype == jnp.float16
    np.testing.assert_allclose(loss, 30_000, rtol=1e-3)
    np.testing.assert_allclose(gradient.theta["w"], [30_000, 0], rtol=1e-3)
