"""CAVIA, ALFA, evolution strategies and bootstrapped meta-gradients against formulas written out here. Place:
fewstep/variants/cavia.py, alfa.py and bootstrapped.py, fewstep/gradients/evolution.py."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from known import (
    KEY,
    STEP,
    Bowl,
    assert_close,
    assert_same_bits,
    bowl_loss,
    bowls,
    farthest,
    fast_adapt,
    fast_gradient,
    fast_gradients,
    fast_meta_gradient,
    fast_path,
    finite_differences,
    keys,
    mlp_apply,
    mlp_loss,
    mlp_params,
    one,
    plain,
    steep_loss,
    waves,
)

from fewstep import Episode, Learner, MetaParams, adapt, init, meta_gradient, meta_step
from fewstep.core import losses
from fewstep.core.types import Network
from fewstep.errors import InputError
from fewstep.gradients import exact, first_order, stored
from fewstep.gradients.evolution import evolution
from fewstep.variants import curvature, log_rates, lslr, meta_curvature, meta_sgd
from fewstep.variants.alfa import alfa, alfa_start
from fewstep.variants.bootstrapped import bootstrapped
from fewstep.variants.cavia import fresh_context, with_context
from fewstep.variants.partial import adapt_only

SIZE, RATE, STEPS = 3, 0.8, 3
CONTEXTUAL = with_context(Network(lambda key: mlp_params((1 + SIZE, 4, 1)), mlp_apply), SIZE)
CAVIA = Learner(
    losses.mean_squared_error(CONTEXTUAL.apply),
    optax.sgd(RATE),
    STEPS,
    adaptation_step=adapt_only("context"),
    start=fresh_context,
)


def trained(learner, params, episodes, steps, rate):
    """The meta-parameters after so many outer steps of Adam on the same meta-batch."""
    outer, count = optax.adam(rate), jax.tree.leaves(episodes)[0].shape[0]

    def one_step(state, key):
        gradient = meta_gradient(learner, state.params, episodes, jax.random.split(key, count), state.step)[1]
        return meta_step(outer, state, gradient), None

    return jax.jit(lambda: jax.lax.scan(one_step, init(outer, params), keys(steps)))()[0].params


fast_slope = jax.jit(jax.grad(mlp_loss))


@partial(jax.jit, static_argnums=(0, 3))
def query_loss(learner, params, episodes, steps=None):
    """Mean loss of the query sets after adaptation."""

    def of_task(episode):
        return learner.loss(adapt(learner, params, episode.support, KEY, steps), episode.query, KEY)

    return jnp.mean(jax.vmap(of_task)(episodes))


def assert_learns(learner, params, episodes, steps, rate):
    """Training lowers the loss after adaptation, also below the loss of the trained parameters before it."""
    learned = trained(learner, params, episodes, steps, rate)
    after = float(query_loss(learner, learned, episodes))
    assert after < 0.9 * query_loss(learner, params, episodes)
    assert after < 0.9 * query_loss(learner, learned, episodes, 0)
    return learned.theta


def each(episodes):
    return [one(episodes, task) for task in range(jax.tree.leaves(episodes)[0].shape[0])]


def theta_of_context():
    """θ of the contextual network whose context is not 0, as no task should find it."""
    return {**CONTEXTUAL.init(KEY), "context": jnp.array([0.5, -0.7, 0.2])}


def in_parts(theta):
    """The same network with W_x and W_c in place of the first kernel [1 + size, units]."""
    first, *others = theta["network"]
    return {"features": first["w"][:1], "context": first["w"][1:], "bias": first["b"], "others": others}


def shifted_loss(parts, context, examples):
    """The mean squared error of the network whose first layer has the bias b + c W_c."""
    hidden = jnp.tanh(examples.inputs @ parts["features"] + (parts["bias"] + context @ parts["context"])[None])
    return jnp.mean(jnp.square(mlp_apply(parts["others"], hidden) - examples.targets))


@jax.jit
def shifted_adapt(parts, support):
    context = jnp.zeros(SIZE)
    for _ in range(STEPS):
        context = context - RATE * jax.grad(shifted_loss, argnums=1)(parts, context, support)
    return context


def test_a_context_beside_the_inputs_is_a_bias_of_the_first_layer(float64):
    theta, episodes = theta_of_context(), waves(3)
    for episode in each(episodes):
        context = shifted_adapt(in_parts(theta), episode.support)
        adapted = fast_adapt(CAVIA, plain(theta), episode.support, KEY)
        assert_close(adapted["context"], context)
        assert_same_bits(adapted["network"], theta["network"])
        assert float(jnp.linalg.norm(context)) > 0.1

    def meta_loss(parts):
        return jnp.mean(jax.vmap(lambda e: shifted_loss(parts, shifted_adapt(parts, e.support), e.query))(episodes))

    expected = jax.jit(jax.value_and_grad(meta_loss))(in_parts(theta))
    gradients = {}
    for way in (stored, exact, first_order):
        learner = replace(CAVIA, task_gradient=way)
        loss, gradient = fast_meta_gradient(learner, plain(theta), episodes, keys(3), STEP)
        np.testing.assert_array_equal(gradient.theta["context"], np.zeros(SIZE))
        gradients[way] = loss, in_parts(gradient.theta)
    assert_close(gradients[stored], expected)
    assert_close(gradients[exact], expected)
    assert farthest(gradients[first_order], expected) > 0.1


@pytest.mark.parametrize(
    ("optimizer", "inner"),
    [
        (optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(RATE, momentum=0.5)), lambda theta: ()),
        (meta_sgd, lambda theta: log_rates(theta, RATE)),
        (meta_curvature, lambda theta: curvature(theta, RATE)),
    ],
    ids=["chain", "meta-sgd", "meta-curvature"],
)
def test_the_meta_gradient_of_cavia_is_the_slope_of_its_objective_for_every_inner_optimizer(float64, optimizer, inner):
    theta, episode = theta_of_context(), one(waves(1, seed=3), 0)
    rng = np.random.default_rng(4)
    params = MetaParams(theta, jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape), inner(theta)))
    learner = replace(CAVIA, inner_optimizer=optimizer)
    gradient = jax.jit(lambda: exact(learner, params, episode, KEY, STEP)[1])()
    slope = finite_differences(lambda params: learner.objective(learner, params, episode, KEY, STEP), params)
    assert_close(gradient, slope, rtol=1e-6, atol=1e-9)


def test_a_context_needs_a_size_and_flat_inputs():
    with pytest.raises(ValueError, match="at least one number"):
        with_context(CONTEXTUAL, 0)
    with pytest.raises(InputError, match="Flatten"):
        CONTEXTUAL.apply(theta_of_context(), jnp.zeros((5, 2, 2)))


def test_training_with_a_context_lowers_the_loss_after_adaptation_and_leaves_the_context_at_zero():
    episodes, params = waves(12), plain(CONTEXTUAL.init(KEY))
    learned = assert_learns(CAVIA, params, episodes, 50, 0.02)
    np.testing.assert_array_equal(learned["context"], np.zeros(SIZE))


def some_inner(theta, steps, seed=5):
    """Hyperparameters of ALFA away from where they start."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape), alfa_start(theta, 0.1, steps))


def test_alfa_starts_as_plain_descent(float64):
    theta, episodes = mlp_params(), waves(3)
    descent = Learner(mlp_loss, optax.sgd(0.07), 2)
    learned, params = replace(descent, inner_optimizer=alfa), MetaParams(theta, alfa_start(theta, 0.07, 2))
    support = one(episodes, 0).support
    assert_close(fast_adapt(learned, params, support, KEY), fast_adapt(descent, plain(theta), support, KEY))
    loss, gradient = fast_meta_gradient(learned, params, episodes, keys(3), STEP)
    expected = fast_meta_gradient(descent, plain(theta), episodes, keys(3), STEP)
    assert_close((loss, gradient.theta), (expected[0], expected[1].theta))
    assert all(float(jnp.max(jnp.abs(leaf))) > 0 for leaf in jax.tree.leaves(gradient.inner["network"][-1]))


def test_alfa_steps_with_the_rates_and_decays_that_its_network_makes_of_means(float64):
    theta, support = mlp_params(), one(waves(1), 0).support
    inner = some_inner(theta, 2)
    path = fast_path(Learner(mlp_loss, alfa, 2), MetaParams(theta, inner), support, KEY)
    for step in range(2):
        before = [np.asarray(leaf[step]) for leaf in jax.tree.leaves(path)]
        slopes = [np.asarray(leaf) for leaf in jax.tree.leaves(fast_slope(one(path, step), support, KEY))]
        seen = np.array([slope.sum() / slope.size for slope in slopes] + [leaf.sum() / leaf.size for leaf in before])
        first, second, third = [[np.asarray(layer[name]) for name in ("kernel", "bias")] for layer in inner["network"]]
        hidden = np.maximum(seen @ first[0] + first[1], 0)
        hidden = np.maximum(hidden @ second[0] + second[1], 0)
        made = hidden @ third[0] + third[1]
        assert made.shape == (8,) and hidden.max() > 0
        for array in range(4):
            rate = np.exp(inner["rate"][step, array]) * made[array]
            decay = inner["decay"][step, array] * made[4 + array]
            expected = decay * before[array] - rate * slopes[array]
            np.testing.assert_allclose(jax.tree.leaves(path)[array][step + 1], expected, rtol=1e-10)


def test_the_gradient_of_all_that_alfa_learns_is_the_slope_of_its_objective(float64):
    theta, episode = mlp_params(), one(waves(1), 0)
    learner, params = Learner(mlp_loss, alfa, 2), MetaParams(theta, some_inner(theta, 2))
    gradient = jax.jit(lambda: exact(learner, params, episode, KEY, STEP)[1])()
    slope = finite_differences(lambda params: learner.objective(learner, params, episode, KEY, STEP), params)
    assert_close(gradient, slope, rtol=1e-5, atol=1e-8)
    assert min(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(gradient)) > 1e-6


def test_alfa_takes_the_last_factors_in_steps_beyond_its_own(float64):
    theta, support = mlp_params(), one(waves(1), 0).support
    short = some_inner(theta, 2)
    long = {**short, **{name: short[name][jnp.array([0, 1, 1, 1])] for name in ("rate", "decay")}}
    learner = Learner(mlp_loss, alfa, 2)
    found, expected = (fast_path(learner, MetaParams(theta, inner), support, KEY, 4) for inner in (short, long))
    assert_close(found, expected)
    assert alfa_start(theta, 0.1, 0)["rate"].shape == (1, 4)


def test_alfa_draws_its_network_by_the_key_and_needs_parameters_to_decay():
    theta = mlp_params()
    assert_same_bits(alfa_start(theta, 0.1, 2), alfa_start(theta, 0.1, 2, jax.random.key(0)))
    assert farthest(alfa_start(theta, 0.1, 2, jax.random.key(1)), alfa_start(theta, 0.1, 2)) > 0.01
    optimizer = alfa(alfa_start(theta, 0.1, 2))
    with pytest.raises(ValueError, match="they decay"):
        optimizer.update(theta, optimizer.init(theta))


def test_training_alfa_lowers_the_loss_after_adaptation():
    theta = mlp_params((1, 8, 1))
    assert_learns(Learner(mlp_loss, alfa, 2), MetaParams(theta, alfa_start(theta, 0.05, 2)), waves(12), 40, 0.02)


def bowl_params():
    """θ and learned rates of quadratic tasks, 6 numbers."""
    return MetaParams(jnp.array([0.3, -1.2, 0.7]), jnp.log(jnp.array([0.1, 0.2, 0.3])))


def test_evolution_of_a_quadratic_objective_is_that_of_its_tangent_however_wide(float64):
    """Pairs of directions cancel what is even: (F(θ + σ ε) − F(θ − σ ε)) / 2 σ = ∇F·ε for every σ."""
    params, episode = plain(bowl_params().theta), one(bowls(1), 0)
    learner, way = Learner(bowl_loss, optax.sgd(0.2), 2), evolution(0.7, 5)
    loss, slope = fast_gradient(learner, params, episode, KEY, STEP)

    def tangent(learner, params, episode, key, step):
        return jnp.dot(slope.theta, params.theta)

    found, expected = (
        jax.jit(lambda each=each: way(each, params, episode, KEY, STEP))()
        for each in (learner, replace(learner, objective=tangent))
    )
    np.testing.assert_allclose(found[0], loss, rtol=1e-12)
    assert_close(found[1], expected[1])
    assert farthest(found[1], slope) > 1e-3


def many(learner, params, episode, deviation, directions, samples):
    """[samples] gradients of one task by as many keys, one vector each."""
    episodes = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (samples, *leaf.shape)), episode)
    evolving = replace(learner, task_gradient=evolution(deviation, directions))
    gradients = fast_gradients(evolving, params, episodes, keys(samples), STEP)[1]
    return np.concatenate([np.asarray(leaf).reshape(samples, -1) for leaf in jax.tree.leaves(gradients)], axis=1)


def assert_within_errors(samples, expected, errors=4.0):
    """The mean of independent samples [samples, entries] lies within so many of its own standard errors of what is expected."""
    error = samples.std(0, ddof=1) / np.sqrt(len(samples))
    assert np.all(np.abs(samples.mean(0) - expected) < errors * error), (samples.mean(0), expected, error)
    return error


def test_evolution_comes_to_the_exact_gradient_of_theta_and_rates_with_many_directions(float64):
    """The variance of one direction's ε (ε·g) is |g|² + g_j² in entry j, by the moments of a normal."""
    learner, params, episode = Learner(bowl_loss, meta_sgd, 2), bowl_params(), one(bowls(1), 0)
    gradient = np.concatenate(jax.tree.leaves(fast_gradient(learner, params, episode, KEY, STEP)[1]))
    expected = np.sqrt(gradient @ gradient + gradient**2)
    single = many(learner, params, episode, 1e-3, 1, 4000)
    error = assert_within_errors(single, gradient)
    np.testing.assert_allclose(error * np.sqrt(4000), expected, rtol=0.15)
    assert np.all(error < 0.05 * np.linalg.norm(gradient))
    eight = many(learner, params, episode, 1e-3, 8, 500)
    np.testing.assert_allclose(assert_within_errors(eight, gradient), error, rtol=0.25)


def test_evolution_comes_to_the_exact_gradient_of_a_network(float64):
    learner, params, episode = Learner(mlp_loss, optax.sgd(0.1), 2), plain(mlp_params()), one(waves(1), 0)
    gradient = fast_gradient(learner, params, episode, KEY, STEP)[1]
    gradient = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])
    assert_within_errors(many(learner, params, episode, 1e-3, 4, 250), gradient)


def test_evolution_finds_the_slope_of_a_step_by_the_normal_density(float64):
    """1[θ′ > 0] smoothed is Φ(θ′ / s σ), with s = dθ′/dθ after two steps down a parabola; its slope is φ(θ′ / s σ) / σ."""
    rate, curve, center, theta, deviation = 0.3, 0.8, 1.0, -1.7, 0.6

    def floor(learner, params, episode, key, step):
        adapted = adapt(learner, params, episode.support, key)
        return jnp.round(0.5 * (1 + jnp.tanh(50 * adapted[0])))

    bowl = Bowl(jnp.array([[curve]]), jnp.array([center]))
    learner = Learner(bowl_loss, optax.sgd(rate), 2, objective=floor)
    params, episode = plain(jnp.array([theta])), Episode(bowl, bowl)
    np.testing.assert_array_equal(fast_gradient(learner, params, episode, KEY, STEP)[1].theta, 0)
    shrink = (1 - rate * curve) ** 2
    at = (center + shrink * (theta - center)) / (shrink * deviation)
    expected = np.exp(-(at**2) / 2) / np.sqrt(2 * np.pi) / deviation
    error = assert_within_errors(many(learner, params, episode, deviation, 2, 3000), expected)
    assert np.all(error < 0.05 * expected)


def test_evolution_differentiates_no_objective_but_the_loss_of_each_step():
    """A meta-gradient by differentiation needs a derivative of the inner gradient; this loss has none."""

    @jax.custom_vjp
    def square(x):
        return x**2

    @jax.custom_vjp
    def double(x, slope):
        return 2 * x * slope

    def refuse(*_):
        raise AssertionError("differentiated twice")

    square.defvjp(lambda x: (x**2, x), lambda x, slope: (double(x, slope),))
    double.defvjp(refuse, refuse)
    learner = Learner(lambda theta, center, key: 0.5 * square(theta - center), optax.sgd(0.5), 2)
    params, episode = plain(jnp.asarray(1.0)), Episode(jnp.asarray(0.0), jnp.asarray(0.0))
    with pytest.raises(AssertionError, match="differentiated twice"):
        stored(learner, params, episode, KEY, STEP)
    loss, gradient = jax.jit(lambda: evolution(0.1, 3)(learner, params, episode, KEY, STEP))()
    np.testing.assert_allclose(loss, 0.5 * 0.25**2, rtol=1e-6)
    assert float(gradient.theta) > 0


def test_evolution_compares_sides_by_the_same_draw_of_the_objective():
    def noise(learner, params, episode, key, step):
        return jax.random.normal(key) + 0 * jnp.sum(params.theta)

    learner, params, episode = Learner(bowl_loss, optax.sgd(0.1), 1, objective=noise), bowl_params(), one(bowls(1), 0)
    loss, gradient = jax.jit(lambda: evolution(0.1, 3)(learner, params, episode, KEY, STEP))()
    np.testing.assert_allclose(loss, jax.random.normal(KEY), rtol=1e-6)
    assert_close(gradient, jax.tree.map(jnp.zeros_like, params))


@pytest.mark.parametrize(("deviation", "directions", "match"), [(0.0, 3, "deviation"), (-1.0, 3, "deviation"), (0.1, 0, "one")])
def test_evolution_refuses_widths_and_numbers_of_directions_that_mean_nothing(deviation, directions, match):
    with pytest.raises(ValueError, match=match):
        evolution(deviation, directions)


def test_evolution_of_a_meta_batch_is_the_mean_over_its_tasks(float64):
    learner = Learner(steep_loss, meta_sgd, 2, task_gradient=evolution(0.1, 3), tasks_at_once=2)
    params, episodes = bowl_params(), bowls(3)
    of_task = jax.jit(lambda episode, key: learner.task_gradient(learner, params, episode, key, STEP))
    tasks = [of_task(one(episodes, i), keys(3)[i]) for i in range(3)]
    expected = jax.tree.map(lambda *leaves: jnp.mean(jnp.stack(leaves), 0), *tasks)
    assert_close(fast_meta_gradient(learner, params, episodes, keys(3), STEP), expected)
    assert farthest(tasks[0][1], tasks[1][1]) > 1e-3


def test_training_by_evolution_lowers_the_loss_after_adaptation():
    learner = Learner(mlp_loss, optax.sgd(0.1), 2, task_gradient=evolution(0.05, 10))
    assert_learns(learner, plain(mlp_params((1, 8, 1))), waves(12), 40, 0.03)


@pytest.mark.parametrize(("way", "momentum"), [(stored, 0.9), (exact, None), (first_order, None)])
def test_matching_one_step_on_the_query_set_is_the_rate_times_the_gradient_after_adaptation(float64, way, momentum):
    """∂/∂θ ½ |θ_K − constant|² = Jᵀ (θ_K − (θ_K − α ∇L(θ_K, query))) = α Jᵀ ∇L(θ_K, query)."""
    rate, theta, episodes = 0.2, mlp_params(), waves(3)
    learner = Learner(mlp_loss, optax.sgd(rate, momentum), 2, task_gradient=way)
    _, gradient = fast_meta_gradient(learner, plain(theta), episodes, keys(3), STEP)
    matching = replace(learner, objective=bootstrapped(0))
    distance, found = fast_meta_gradient(matching, plain(theta), episodes, keys(3), STEP)
    assert_close(found, jax.tree.map(lambda leaf: rate * leaf, gradient))
    slopes = [fast_slope(fast_adapt(learner, plain(theta), e.support, KEY), e.query, KEY) for e in each(episodes)]
    np.testing.assert_allclose(distance, np.mean([0.5 * rate**2 * optax.tree.norm(s) ** 2 for s in slopes]), rtol=1e-10)


def test_the_target_is_where_more_steps_and_one_on_the_query_set_lead(float64):
    """Written out on a bowl, with momentum, which goes on from θ_K and does not enter the step on the query set."""
    rate, keep, steps, more = 0.15, 0.8, 2, 3
    theta, episode = jnp.array([0.3, -1.2, 0.7]), one(bowls(1), 0)

    def descend(theta, trace, count):
        for _ in range(count):
            trace = keep * trace + jax.grad(steep_loss)(theta, episode.support, KEY)
            theta = theta - rate * trace
        return theta, trace

    def reached(theta):
        return descend(theta, jnp.zeros(3), steps)[0]

    after = descend(*descend(theta, jnp.zeros(3), steps), more)[0]
    target = after - rate * jax.grad(steep_loss)(after, episode.query, KEY)
    away = reached(theta) - target
    learner = Learner(steep_loss, optax.sgd(rate, keep), steps, objective=bootstrapped(more))
    expected = 0.5 * jnp.dot(away, away), plain(jax.jacobian(reached)(theta).T @ away)
    assert_close(fast_gradient(learner, plain(theta), episode, KEY, STEP), expected)
    assert_close(jax.jit(lambda: exact(learner, plain(theta), episode, KEY, STEP))(), expected)


@pytest.mark.parametrize("steps", [0, 2])
def test_learned_rates_go_on_with_their_step_and_have_no_part_in_the_target(float64, steps):
    """One parameter down a parabola around 0: θ_K = Π (1 − α_k) θ, and further steps take the last rate."""
    rates, more = jnp.array([0.3, 0.2]), 2
    learner = Learner(lambda theta, center, key: 0.5 * (theta - center) ** 2, lslr, steps, objective=bootstrapped(more))
    params, episode = MetaParams(jnp.asarray(1.5), jnp.log(rates)), Episode(jnp.asarray(0.0), jnp.asarray(0.5))

    def reached(params):
        return params.theta * jnp.prod(1 - jnp.exp(params.inner)[:steps])

    base = float(reached(params))
    after = base * (0.8**2 if steps else 0.7 * 0.8)
    target = after - 0.3 * (after - 0.5)  # a first step of the inner optimizer
    away = base - target
    expected = 0.5 * away**2, jax.tree.map(lambda leaf: leaf * away, jax.grad(reached)(params))
    assert_close(fast_gradient(learner, params, episode, KEY, STEP), expected)


def test_bootstrapping_matches_what_adaptation_leaves_alone_too(float64):
    """A context moves in the adaptation steps alone; the target's step on the query set is one of all parameters."""
    theta, episodes = theta_of_context(), waves(2)
    learner = replace(CAVIA, inner_optimizer=optax.sgd(0.3))
    _, gradient = fast_meta_gradient(learner, plain(theta), episodes, keys(2), STEP)
    _, found = fast_meta_gradient(replace(learner, objective=bootstrapped(0)), plain(theta), episodes, keys(2), STEP)
    assert_close(found, jax.tree.map(lambda leaf: 0.3 * leaf, gradient))


def test_bootstrapping_refuses_fewer_than_no_further_steps():
    with pytest.raises(ValueError, match="from 0 on"):
        bootstrapped(-1)


@pytest.mark.parametrize("more", [0, 3])
def test_training_by_bootstrapping_lowers_the_loss_after_adaptation(more):
    learner = Learner(mlp_loss, optax.sgd(0.1), 2, objective=bootstrapped(more))
    assert_learns(learner, plain(mlp_params((1, 8, 1))), waves(12), 40, 0.03)
