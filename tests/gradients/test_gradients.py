"""Ways to the meta-gradient against each other, algebra and compiled memory. Place: fewstep/gradients, fewstep/check.py."""

import warnings
from dataclasses import replace
from itertools import product

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
    bowl_loss,
    bowls,
    farthest,
    fast_meta_gradient,
    keys,
    mlp_loss,
    mlp_params,
    one,
    plain,
    slow_but,
    waves,
)

from fewstep import Episode, Examples, Learner, MetaParams, adapt, check_meta_gradient, meta_gradient, nn
from fewstep.core import losses
from fewstep.core.maml import sum_over_tasks
from fewstep.errors import InputError
from fewstep.gradients import auto, clipped, exact, first_order, half_precision, implicit, reptile, stored, truncated
from fewstep.gradients.implicit import remainder, solved
from fewstep.variants import (
    adapt_only,
    bootstrapped,
    curvature,
    log_rates,
    meta_curvature,
    meta_sgd,
    multi_step_loss,
    proximal,
)

OPTIMIZERS = {
    "sgd": (optax.sgd(0.1), lambda theta: ()),
    "momentum": (optax.sgd(0.05, momentum=0.9), lambda theta: ()),
    "adam": (optax.adam(0.05, eps_root=1e-8), lambda theta: ()),
    "meta-sgd": (meta_sgd, lambda theta: log_rates(theta, 0.05)),
    "meta-curvature": (meta_curvature, lambda theta: curvature(theta, 0.05)),
}
EACH = list(product((0, 1, 4), OPTIMIZERS))


def by(way, learner, params, episodes, count):
    return fast_meta_gradient(replace(learner, task_gradient=way), params, episodes, keys(count), STEP)


@pytest.mark.parametrize(("steps", "name"), slow_but(EACH, (0, "sgd"), (4, "adam"), (4, "meta-curvature")))
def test_exact_equals_stored_for_every_inner_optimizer(float64, steps, name):
    optimizer, inner = OPTIMIZERS[name]
    theta, episodes = mlp_params(), waves(3)
    learner, params = Learner(mlp_loss, optimizer, steps), MetaParams(theta, inner(theta))
    expected = by(stored, learner, params, episodes, 3)
    assert_close(by(exact, learner, params, episodes, 3), expected)
    assert_close(by(auto, learner, params, episodes, 3), expected)
    assert_close(by(truncated(steps), learner, params, episodes, 3), expected)


def test_exact_differentiates_objectives_that_look_at_every_step(float64):
    theta, episodes = mlp_params(), waves(2)
    learner = Learner(mlp_loss, optax.sgd(0.1), 3, objective=multi_step_loss(10))
    assert_close(by(exact, learner, plain(theta), episodes, 2), by(stored, learner, plain(theta), episodes, 2))


def test_exact_differentiates_what_the_loss_closes_over(float64):
    """A learned temperature of the loss stands outside the parameters that are adapted."""
    theta, episode = mlp_params(), one(waves(1), 0)

    def objective(way):
        def of(temperature):
            def loss(params, batch, key):
                return temperature * mlp_loss(params, batch, key)

            return way(Learner(loss, optax.sgd(0.1), 3), plain(theta), episode, KEY, STEP)[0]

        return jax.jit(jax.grad(of))(jnp.asarray(1.3))

    np.testing.assert_allclose(objective(exact), objective(stored), rtol=1e-10)


def test_exact_differentiates_the_support_set_itself(float64):
    theta, episode = mlp_params(), one(waves(1), 0)

    def objective(way):
        def of(shift):
            support = episode.support._replace(targets=episode.support.targets + shift)
            learner = Learner(mlp_loss, optax.sgd(0.1), 3)
            return way(learner, plain(theta), episode._replace(support=support), KEY, STEP)[0]

        return jax.jit(jax.grad(of))(jnp.asarray(0.2))

    np.testing.assert_allclose(objective(exact), objective(stored), rtol=1e-10)


def test_truncated_to_nothing_is_first_order_and_lies_between_it_and_exact_otherwise(float64):
    theta, episodes = mlp_params(), waves(3)
    learner = Learner(mlp_loss, optax.sgd(0.1), 5)
    whole, rough = (by(way, learner, plain(theta), episodes, 3) for way in (exact, first_order))
    assert_close(by(truncated(0), learner, plain(theta), episodes, 3), rough)
    away = [farthest(by(truncated(last), learner, plain(theta), episodes, 3)[1], whole[1]) for last in range(6)]
    assert away[5] < 1e-12 < away[4] < away[2] < away[0]


def test_truncated_refuses_steps_that_are_not_of_the_inner_optimizer():
    learner = Learner(mlp_loss, optax.sgd(0.1), 2, adaptation_step=lambda learner, optimizer, state, support, key: state)
    with pytest.raises(ValueError, match="adaptation steps of the inner optimizer"):
        truncated(1)(learner, plain(mlp_params()), one(waves(1), 0), KEY, STEP)


def test_reptile_with_one_step_is_the_gradient_of_joint_training(float64):
    theta, episodes, rate = mlp_params(), waves(3), 0.1
    found = by(reptile, Learner(mlp_loss, optax.sgd(rate), 1), plain(theta), episodes, 3)[1]

    def joint(theta):
        everything = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), episodes.support, episodes.query)
        return jnp.mean(jax.vmap(lambda batch: mlp_loss(theta, batch, KEY))(everything))

    assert_close(jax.tree.map(lambda leaf: leaf / rate, found.theta), jax.grad(joint)(theta))


@pytest.mark.parametrize("way", [reptile, implicit(2.0, accuracy=1e-12)], ids=["reptile", "implicit"])
def test_what_adaptation_moves_is_brought_back_through_the_start_of_a_task(way, float64):
    """With a linear start B θ the gradient is Bᵀ times that of a θ that is B θ itself."""
    matrix, theta, episode = jnp.array([[1.0, 2.0], [0.0, -1.0], [0.5, 3.0]]), jnp.array([0.3, -1.2]), one(bowls(1), 0)
    if way is reptile:
        episode = jax.tree.map(lambda leaf: leaf[None], episode)
    loss = bowl_loss if way is not reptile else lambda x, batch, key: jnp.mean(jax.vmap(lambda b: bowl_loss(x, b, key))(batch))
    learner = Learner(loss, proximal(optax.sgd(0.2), 2.0), 400, start=lambda theta, support, key: matrix @ theta)
    whole = replace(learner, start=None)
    found, expected = (
        jax.jit(lambda params, learner=learner: way(learner, params, episode, KEY, STEP)[1].theta)(plain(point))
        for learner, point in ((learner, theta), (whole, matrix @ theta))
    )
    assert float(jnp.max(jnp.abs(expected))) > 0.01
    assert_close(found, matrix.T @ expected)


def test_reptile_says_where_support_and_query_cannot_be_joined():
    episode = one(waves(1), 0)
    odd = episode._replace(query=episode.query._replace(inputs=jnp.zeros((5, 3))))
    with pytest.raises(ValueError, match="number of examples alone"):
        reptile(Learner(mlp_loss, optax.sgd(0.1), 1), plain(mlp_params()), odd, KEY, STEP)


def test_implicit_gradient_is_that_of_the_proximal_problem_on_quadratic_tasks(float64):
    """φ* = (A + λ)⁻¹ (A c + λ θ) for ½ (φ − c)ᵀ A (φ − c), so that dφ*/dθ = λ (A + λ)⁻¹."""
    strength, theta, episode = 2.0, jnp.array([0.3, -1.2, 0.7]), one(bowls(1), 0)
    learner = Learner(bowl_loss, proximal(optax.sgd(0.2), strength), 400, task_gradient=implicit(strength, accuracy=1e-12))
    _, found = jax.jit(lambda params: learner.task_gradient(learner, params, episode, KEY, STEP))(plain(theta))
    matrix = np.asarray(jax.hessian(lambda x: bowl_loss(x, episode.support, KEY))(theta))
    query = np.asarray(jax.hessian(lambda x: bowl_loss(x, episode.query, KEY))(theta))
    solve = np.linalg.inv(matrix + strength * np.eye(3))
    best = solve @ (matrix @ np.asarray(episode.support.center) + strength * np.asarray(theta))
    expected = strength * solve.T @ query @ (best - np.asarray(episode.query.center))
    np.testing.assert_allclose(found.theta, expected, rtol=1e-8)
    assert float(remainder(bowl_loss, theta, jnp.asarray(best), strength, episode.support, KEY)) < 1e-8


def test_implicit_warns_where_adaptation_has_not_come_to_the_minimum(float64):
    learner = Learner(bowl_loss, proximal(optax.sgd(0.001), 1.0), 2, task_gradient=implicit(1.0))
    with pytest.warns(UserWarning, match="implicit: adaptation ends"):
        jax.block_until_ready(learner.task_gradient(learner, plain(jnp.ones(3)), one(bowls(1), 0), KEY, STEP))
        jax.effects_barrier()


def test_implicit_names_the_parameters_that_adaptation_leaves_alone(float64):
    frozen = optax.partition({"a": optax.sgd(0.3), "b": optax.set_to_zero()}, {"a": "a", "b": "b"})
    loss = lambda theta, bowl, key: bowl_loss(jnp.concatenate([theta["a"], theta["b"]]), bowl, key)  # noqa: E731
    learner = Learner(loss, proximal(frozen, 1.0), 30, task_gradient=implicit(1.0))
    with pytest.warns(UserWarning, match=r"leaves parameters where they start \(\['b'\]\).*gradients.exact"):
        jax.block_until_ready(
            learner.task_gradient(learner, plain({"a": jnp.ones(2), "b": jnp.ones(1)}), one(bowls(1), 0), KEY, STEP)
        )
        jax.effects_barrier()


SIZE = 40


def system_of(condition, dtype):
    """An episode of a quadratic loss whose I + H has eigenvalues from 1 to `condition`, evenly spread by their logarithm."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0]
    matrix = turn @ np.diag(np.logspace(0, np.log10(condition), SIZE) - 1) @ turn.T
    support, query = (Bowl(jnp.asarray(matrix, dtype), jnp.asarray(rng.normal(size=SIZE), dtype)) for _ in range(2))
    return Episode(support, query._replace(matrix=jnp.eye(SIZE, dtype=dtype)))


@pytest.mark.parametrize(("dtype", "error"), [(jnp.float64, 2e-3), (jnp.float32, 1e-2)])
def test_the_implicit_system_is_solved_whatever_its_condition_and_too_few_iterations_are_said(float64, dtype, error):
    learner, theta = Learner(bowl_loss, proximal(optax.sgd(1e-4), 1.0), 1), jnp.linspace(-1, 1, SIZE, dtype=dtype)
    adapted = jax.jit(lambda episode: adapt(learner, plain(theta), episode.support, KEY))

    def by(**given):
        way = implicit(1.0, tolerance=2.0, **given)
        return jax.jit(lambda episode: way(learner, plain(theta), episode, KEY, STEP)[1].theta)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = by()
        for condition in (1.0, 1e2, 1e4):
            episode = system_of(condition, dtype)
            matrix = np.eye(SIZE) + np.asarray(episode.support.matrix, np.float64)
            expected = np.linalg.solve(matrix, np.asarray(adapted(episode) - episode.query.center, np.float64))
            away = np.linalg.norm(np.asarray(found(episode), np.float64) - expected) / np.linalg.norm(expected)
            jax.effects_barrier()
            assert away <= error, condition
    with pytest.warns(UserWarning, match=r"relative residual of up to 1.*iterations=…\) more"):
        jax.block_until_ready(by(iterations=10)(system_of(1e4, dtype)))
        jax.effects_barrier()


def test_the_implicit_solver_returns_when_nothing_is_to_be_done_and_when_the_system_is_not_convex():
    found, error = solved(lambda v: v, jnp.zeros(3), 1e-3, 10)
    assert_close((found, error), (jnp.zeros(3), jnp.zeros(())))
    found, error = solved(lambda v: -v, jnp.ones(3), 1e-3, 10)  # as steep as it is at the start, and said to be wrong
    assert_close(found, jnp.ones(3))
    assert float(error) == 2.0
    tiny = 1e-25 * jnp.arange(1.0, 4.0)  # its square is 0 in float32
    assert_close(solved(lambda v: 2 * v, tiny, 1e-3, 10)[0], tiny / 2, rtol=1e-6, atol=0)


@pytest.mark.parametrize("way", [reptile, implicit(1.0)], ids=["reptile", "implicit"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"objective": multi_step_loss(10)}, "objective is the query loss.*multi_step_loss.*gradients.exact"),
        ({"objective": bootstrapped(1)}, "objective is the query loss.*bootstrapped.*gradients.exact"),
        ({"adaptation_step": adapt_only(["1"])}, "moves all parameters.*gradients.exact"),
    ],
)
def test_ways_that_look_at_the_end_of_adaptation_alone_refuse_what_they_would_ignore(way, change, named):
    learner = replace(Learner(mlp_loss, proximal(optax.sgd(0.1), 1.0), 2, task_gradient=way), **change)
    with pytest.raises(InputError, match=named):
        jax.eval_shape(lambda: meta_gradient(learner, plain(mlp_params()), waves(2), keys(2), STEP))


@pytest.mark.parametrize("at_once", slow_but([1, 2, 3, 4, 7], 1, 3, 7))
@pytest.mark.parametrize("way", [stored, exact, clipped(first_order, 0.5)])
def test_tasks_in_chunks_give_the_meta_gradient_of_all_at_once(float64, at_once, way):
    theta, episodes = mlp_params(), waves(5)
    learner = Learner(mlp_loss, optax.sgd(0.1), 2, task_gradient=way)
    expected = fast_meta_gradient(learner, plain(theta), episodes, keys(5), STEP)
    chunked = replace(learner, tasks_at_once=at_once)
    assert_close(fast_meta_gradient(chunked, plain(theta), episodes, keys(5), STEP), expected)


@pytest.mark.parametrize("at_once", [None, 2])
def test_a_task_that_is_not_finite_is_dropped_from_the_sum_and_counted(at_once):
    theta, episodes = mlp_params(), waves(5)
    learner = Learner(mlp_loss, optax.sgd(0.1), 2, tasks_at_once=at_once)
    wild = episodes._replace(support=episodes.support._replace(targets=episodes.support.targets.at[3].set(jnp.nan)))
    found = jax.jit(lambda: sum_over_tasks(learner, plain(theta), wild, keys(5), STEP, jnp.ones(5), drop=True))()
    others = jnp.array([0, 1, 2, 4])
    expected = sum_over_tasks(learner, plain(theta), one(episodes, others), keys(5)[others], STEP, jnp.ones(4))
    assert found[2].tolist() == [1, 1, 1, 0, 1]
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for leaf, other in zip(jax.tree.leaves(found[1]), jax.tree.leaves(expected[1]), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-4, atol=1e-6)


def test_auto_stores_where_there_is_room_and_else_does_not(monkeypatch):
    used = []
    for name in ("stored", "exact"):
        monkeypatch.setattr(auto_module(), name, lambda *_, name=name: used.append(name))
    learner, episode = Learner(mlp_loss, optax.sgd(0.1), 3), one(waves(1), 0)
    for memory in (2**40, 1):
        monkeypatch.setattr(auto_module(), "device_memory", lambda memory=memory: memory)
        auto(learner, plain(mlp_params()), episode, KEY, STEP)
    assert used == ["stored", "exact"]


def auto_module():
    import sys

    return sys.modules["fewstep.gradients.exact"]


@jax.custom_vjp
def reverse(x):
    return x


reverse.defvjp(lambda x: (x, None), lambda _, slope: (-slope,))


def deep(steps, way, part=lambda x: x):
    """Temporary bytes of one meta-gradient of a six-layer network, compiled, not run."""
    network = nn.mlp([32] * 7, jnp.tanh)
    batch = Examples(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((256, 32), (256, 32), (256,))))
    params = MetaParams(jax.eval_shape(network.init, KEY))
    learner = Learner(losses.mean_squared_error(lambda params, x: part(network.apply(params, x))), optax.sgd(0.01), steps)
    program = jax.jit(lambda params, episode: way(learner, params, episode, KEY, STEP))
    compiled = program.lower(params, Episode(batch, batch)).compile()
    return compiled.memory_analysis().temp_size_in_bytes, sum(4 * leaf.size for leaf in jax.tree.leaves(params))


def test_memory_of_exact_grows_by_the_parameters_of_each_step_alone_and_that_of_stored_by_activations():
    (few, size), (many, _) = deep(5, exact), deep(50, exact)
    assert many - 50 * size <= 1.15 * (few - 5 * size)
    assert deep(20, stored)[0] >= 20 * deep(20, exact)[0]


def test_memory_of_exact_grows_by_the_parameters_of_each_step_alone_for_a_loss_with_a_derivative_rule_of_its_own():
    (few, size), (many, _) = deep(5, exact, reverse), deep(50, exact, reverse)
    assert many - 50 * size <= 1.15 * (few - 5 * size)


def test_a_meta_gradient_checks_right_and_a_wrong_backward_pass_is_found():
    learner, params, episode = Learner(mlp_loss, optax.sgd(0.1), 3), plain(mlp_params()), one(waves(1), 0)
    right = check_meta_gradient(learner, params, episode, KEY)
    assert right.passed and "is right" in str(right) and right.float32_error < 1e-4
    assert 0 < right.cosine_to_first_order < 1

    @jax.custom_jvp
    def wrong(x):
        return jnp.sin(x)

    wrong.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), 1.1 * jnp.cos(primals[0]) * tangents[0]))
    bent = lambda params, batch, key: mlp_loss(params, batch, key) + jnp.sum(wrong(params[0]["w"]))  # noqa: E731
    found = check_meta_gradient(replace(learner, loss=bent), params, episode, KEY)
    assert not found.passed and "<- wrong" in str(found) and "NOT" in str(found)


def test_the_check_refuses_an_objective_that_is_not_finite():
    episode = one(waves(1), 0)
    wild = episode._replace(support=episode.support._replace(targets=episode.support.targets * jnp.nan))
    with pytest.raises(InputError, match="finite objective"):
        check_meta_gradient(Learner(mlp_loss, optax.sgd(0.1), 1), plain(mlp_params()), wild, KEY)


def test_half_precision_rounds_factors_of_products_and_keeps_sums_in_float32():
    a, b = jax.random.normal(KEY, (64, 512)), jax.random.normal(jax.random.key(1), (512, 8))
    found = jax.jit(half_precision(lambda a, b: jnp.tanh(a @ b)))(a, b)
    rounded = [np.asarray(x.astype(jnp.bfloat16), np.float64) for x in (a, b)]
    np.testing.assert_allclose(found, np.tanh(rounded[0] @ rounded[1]), atol=1e-4)
    assert found.dtype == jnp.float32
    assert float(jnp.max(jnp.abs(found - jnp.tanh(a @ b)))) > 1e-3
