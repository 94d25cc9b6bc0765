"""What steadies a training: rates by layer and step, annealed derivatives, averaged parameters.

Place: fewstep/variants/lslr.py, fewstep/gradients/first_order.py, fewstep.variants.outer.py.
"""

import math
import shutil
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
    bowl_problem,
    bowls,
    farthest,
    fast_adapt,
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

from fewstep import Episode, Learner, MetaParams, init, meta_step
from fewstep.application import application
from fewstep.apps.sine.settings import Sine
from fewstep.core.jaxpr import programs_in
from fewstep.core.maml import task_gradients, task_loss
from fewstep.gradients import annealed, clipped, exact, first_order, stored, truncated
from fewstep.runs.run import Run
from fewstep.supervised.evaluate import compiled_validation
from fewstep.training import loop
from fewstep.training.checkpoint import Checkpoints
from fewstep.training.chunk import compiled_chunk
from fewstep.training.devices import replicate, task_mesh
from fewstep.training.progress import read_metrics
from fewstep.variants import layer_step_rates, lslr
from fewstep.variants.outer import Averaged, averaged, evaluated

WAYS = {"exact": exact, "stored": stored, "first order": first_order, "truncated": truncated(1)}


def uneven(rates, seed=1):
    """Starting rates moved apart: other ones for every array and step."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + 0.5 * rng.normal(size=leaf.shape), rates)


# Rates by layer and step


@pytest.mark.parametrize("way", [stored, first_order])
def test_equal_rates_for_all_layers_and_steps_are_plain_descent(float64, way):
    theta, episodes = mlp_params(), waves(3)
    descent = Learner(mlp_loss, optax.sgd(0.07), 3, task_gradient=way)
    learned = replace(descent, inner_optimizer=lslr)
    params = MetaParams(theta, layer_step_rates(theta, 0.07, 3))
    loss, gradient = fast_meta_gradient(learned, params, episodes, keys(3), STEP)
    expected = fast_meta_gradient(descent, plain(theta), episodes, keys(3), STEP)
    assert_close((loss, gradient.theta), (expected[0], expected[1].theta))


def test_there_is_one_rate_for_each_array_and_step_and_at_least_one():
    theta = mlp_params()
    for steps, size in ((4, 4), (0, 1)):
        expected = jax.tree.map(lambda leaf, size=size: np.full(size, math.log(0.01)), theta)
        assert_close(layer_step_rates(theta, 0.01, steps), expected, rtol=1e-6)


def hills(theta, centers, key):
    """½ Σ h |θ − c|² over the arrays of θ, each of a curvature h of its own: 2 and 0.5."""
    return sum(0.5 * h * jnp.sum(jnp.square(theta[name] - centers[name])) for name, h in (("a", 2.0), ("b", 0.5)))


@pytest.mark.parametrize("steps", [0, 1, 3, 5])
def test_each_step_shrinks_the_way_to_a_minimum_by_its_own_rate_and_steps_beyond_those_trained_by_the_last(float64, steps):
    """c + Π (1 − a_k h) (θ − c) on a quadratic, with 3 trained steps."""
    theta, centers = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[0.5]])}, {"a": jnp.zeros(2) + 0.3, "b": -jnp.ones((1, 1))}
    rates = {"a": np.array([0.1, 0.2, 0.3]), "b": np.array([0.5, 0.4, 0.7])}
    params = MetaParams(theta, jax.tree.map(jnp.log, rates))
    adapted = fast_adapt(Learner(hills, lslr, 3), params, centers, KEY, steps)
    for name, h in (("a", 2.0), ("b", 0.5)):
        taken = [rates[name][min(k, 2)] for k in range(steps)]
        away = np.asarray(theta[name] - centers[name])
        np.testing.assert_allclose(adapted[name], centers[name] + math.prod(1 - a * h for a in taken) * away, rtol=1e-12)


def test_the_gradient_of_rates_is_that_of_finite_differences(float64):
    theta, episode = mlp_params((1, 3, 1)), one(waves(1), 0)
    learner, rates = Learner(mlp_loss, lslr, 3), uneven(layer_step_rates(theta, 0.1, 3))
    gradient = jax.jit(lambda rates: exact(learner, MetaParams(theta, rates), episode, KEY, STEP)[1].inner)(rates)
    expected = finite_differences(lambda rates: task_loss(learner, MetaParams(theta, rates), episode, KEY, STEP), rates)
    assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_on_slopes_the_gradient_of_a_rate_is_minus_the_rate_times_the_product_of_both_slopes(float64, way):
    """θ′ = θ − Σ_k a_k s and L = q·θ′, so ∂L/∂log a_k = −a_k q·s: there are no second derivatives to differ in."""
    rng = np.random.default_rng(4)
    theta, slopes = mlp_params(), [jax.tree.map(lambda leaf: rng.normal(size=(2, *leaf.shape)), mlp_params()) for _ in "sq"]

    def slope(theta, batch, key):
        return sum(jnp.sum(a * b) for a, b in zip(jax.tree.leaves(theta), jax.tree.leaves(batch), strict=True))

    rates = uneven(layer_step_rates(theta, 0.1, 3))
    learner = Learner(slope, lslr, 3, task_gradient=way)
    _, gradient = fast_gradients(learner, MetaParams(theta, rates), Episode(*slopes), keys(2), STEP)
    products = jax.tree.map(lambda s, q: np.sum(s * q, axis=tuple(range(1, s.ndim))), *slopes)
    expected = jax.tree.map(lambda rate, product: -product[:, None] * np.exp(rate)[None], rates, products)
    assert_close(gradient.inner, expected)


@pytest.mark.parametrize("way", [exact, truncated(4)])
def test_ways_to_the_exact_meta_gradient_agree_where_steps_have_rates_of_their_own(float64, way):
    theta, episodes = mlp_params(), waves(3)
    params = MetaParams(theta, uneven(layer_step_rates(theta, 0.1, 4)))
    learner = Learner(mlp_loss, lslr, 4)
    expected = fast_meta_gradient(learner, params, episodes, keys(3), STEP)
    assert_close(fast_meta_gradient(replace(learner, task_gradient=way), params, episodes, keys(3), STEP), expected)


def test_an_array_wider_than_the_one_its_rate_was_made_for_has_that_rate(float64):
    """As the head of a task with more classes than θ has columns."""
    rng = np.random.default_rng(6)
    narrow = {"head": jnp.asarray(rng.normal(size=(4, 1)))}
    wide = {"head": jnp.broadcast_to(narrow["head"], (4, 5)) + 0.0}
    rates = uneven(layer_step_rates(narrow, 0.1, 2))
    centers = {"head": jnp.asarray(rng.normal(size=(4, 5)))}
    loss = lambda theta, centers, key: 0.5 * jnp.sum(jnp.square(theta["head"] - centers["head"]))  # noqa: E731
    path = fast_path(Learner(loss, lslr, 2), MetaParams(wide, rates), centers, KEY)
    shrink = np.cumprod([1.0, *(1 - np.exp(rates["head"]))])
    away = np.asarray(wide["head"] - centers["head"])
    np.testing.assert_allclose(path["head"], centers["head"][None] + shrink[:, None, None] * away[None], rtol=1e-12)


# Annealed derivatives


@pytest.mark.parametrize("way", [exact, stored])
def test_annealed_is_first_order_before_and_the_other_way_from_its_meta_step_on(float64, way):
    learner, params, episodes = Learner(steep_loss, optax.sgd(0.1), 3), plain(jnp.array([0.3, -1.2, 0.7])), bowls(3)
    rough, fine = (
        fast_meta_gradient(replace(learner, task_gradient=each), params, episodes, keys(3), STEP) for each in (first_order, way)
    )
    assert farthest(rough[1], fine[1]) > 1e-2
    learner = replace(learner, task_gradient=annealed(way, until=10))
    for step, expected in ((0, rough), (9, rough), (10, fine), (500, fine)):
        assert_close(fast_meta_gradient(learner, params, episodes, keys(3), jnp.asarray(step)), expected)


def kinds_of_lines(jaxpr):
    """The names of all primitives of a program, of programs inside it too."""
    inner = [name for eqn in jaxpr.eqns for part in programs_in(eqn) for name in kinds_of_lines(part)]
    return [eqn.primitive.name for eqn in jaxpr.eqns] + inner


@pytest.mark.parametrize("wrap", [lambda way: way, lambda way: clipped(way, 1.0)], ids=["alone", "clipped"])
def test_side_by_side_tasks_still_choose_one_branch_and_nothing_is_computed_outside_it(wrap):
    learner = Learner(mlp_loss, optax.sgd(0.1), 3, task_gradient=wrap(annealed(stored, until=10)))
    arguments = plain(mlp_params()), waves(4), keys(4), STEP
    program = jax.make_jaxpr(lambda *arguments: task_gradients(learner, *arguments))(*arguments).jaxpr
    choices = [eqn for eqn in program.eqns if eqn.primitive.name == "cond"]
    assert len(choices) == 1
    assert choices[0].invars[0].aval.shape == ()  # one choice for all tasks
    outside = [eqn for eqn in program.eqns if eqn not in choices]
    assert "dot_general" not in {name for eqn in outside for part in programs_in(eqn) for name in kinds_of_lines(part)}
    assert "dot_general" not in {eqn.primitive.name for eqn in outside}
    second, first = (kinds_of_lines(branch).count("dot_general") for branch in programs_in(choices[0]))
    assert second > first > 0


# Averaged parameters

DECAY = 0.6
"""reached after 13 updates, so that 40 meta-steps see both parts of the weight"""


def averaged_problem():
    problem = bowl_problem()
    return replace(problem, outer_optimizer=averaged(problem.outer_optimizer, DECAY))


def average_of(points, decay):
    """The recursion in plain NumPy over θ before the first update, after it, after the second …"""
    average = np.asarray(points[0], np.float64)
    for n, point in enumerate(points[1:]):
        weight = min(decay, (1 + n) / (10 + n))
        average = weight * average + (1 - weight) * np.asarray(point, np.float64)
    return average


def state_of(problem):
    return init(problem.outer_optimizer, problem.init(jax.random.key(0)))


def restored(directory, which="last"):
    with Checkpoints(directory / "checkpoints", "read") as checkpoints:
        return checkpoints.restore(state_of(averaged_problem()), which)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """40 meta-steps without a stop, averaged."""
    directory = tmp_path_factory.mktemp("averaged")
    loop.train(averaged_problem(), directory, seed=3, quiet=True)
    return directory


def test_parameters_that_do_not_move_average_to_themselves():
    params = MetaParams(mlp_params(), layer_step_rates(mlp_params(), 0.1, 2))
    optimizer = averaged(optax.sgd(0.1), 0.999)
    state = init(optimizer, params)
    assert_same_bits(evaluated(state), params)
    step = jax.jit(lambda state: meta_step(optimizer, state, jax.tree.map(jnp.zeros_like, params)))
    for _ in range(5):
        state = step(state)
    assert_same_bits(evaluated(state), params)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_the_average_follows_its_recursion_and_leaves_the_updates_alone(float64, decay):
    rng = np.random.default_rng(5)
    alone, optimizer = optax.adam(0.1), averaged(optax.adam(0.1), decay)
    state, expected = (init(each, plain(jnp.array([1.0, -2.0, 0.5]))) for each in (optimizer, alone))
    one_step = jax.jit(lambda state, slope: meta_step(optimizer, state, plain(slope)))
    same_step = jax.jit(lambda state, slope: meta_step(alone, state, plain(slope)))
    points = [expected.params.theta]
    for slope in rng.normal(size=(20, 3)):
        state, expected = one_step(state, slope), same_step(expected, slope)
        points.append(expected.params.theta)
        assert_close(state.params, expected.params)
        np.testing.assert_allclose(evaluated(state).theta, average_of(points, decay), rtol=1e-10)


def test_what_is_evaluated_without_an_average_are_the_parameters_themselves():
    state = init(optax.chain(optax.clip(1.0), optax.adam(0.1)), plain(jnp.ones(3)))
    assert evaluated(state) is state.params


def test_an_average_is_found_inside_other_optimizers_too():
    optimizer = optax.MultiSteps(averaged(optax.sgd(1.0), 0.0), every_k_schedule=2).gradient_transformation()
    state = init(optimizer, plain(jnp.zeros(3)))
    for expected in (0.0, -1.0, -1.0, -2.0):
        state = meta_step(optimizer, state, plain(jnp.ones(3)))
        np.testing.assert_allclose(evaluated(state).theta, np.full(3, expected))


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_a_decay_that_would_forget_nothing_or_less_is_refused(decay):
    with pytest.raises(ValueError, match="decay"):
        averaged(optax.sgd(0.1), decay)


def test_training_in_memory_returns_the_average_over_its_meta_steps():
    problem = averaged_problem()
    init_key, train_key, _ = jax.random.split(jax.random.key(3), 3)
    run = compiled_chunk(problem, task_mesh())
    state = replicate(init(problem.outer_optimizer, problem.init(init_key)), task_mesh())
    points = [state.params.theta]
    for _ in range(problem.meta_steps):
        state, _ = run(state, train_key, 1)
        points.append(state.params.theta)
    found = loop.train_in_memory(problem, seed=3)
    np.testing.assert_allclose(found.theta, average_of(points, DECAY), rtol=1e-4, atol=1e-6)
    assert farthest(found.theta, state.params.theta) > 1e-4


def test_a_resumed_run_goes_on_with_its_average_bit_for_bit(whole, tmp_path):
    loop.train(averaged_problem(), tmp_path / "half", seed=3, meta_steps=20, quiet=True)
    shutil.copytree(tmp_path / "half", tmp_path / "run")
    loop.train(averaged_problem(), tmp_path / "run", seed=3, resume=True, quiet=True)
    (state, record), (expected, expected_record) = restored(tmp_path / "run"), restored(whole)
    assert isinstance(state.opt_state, Averaged)
    assert int(state.opt_state.updates) == 40
    assert_same_bits(state, expected)
    assert record["validation"] == expected_record["validation"]


def test_checkpoints_are_validated_by_their_average_and_a_run_is_opened_with_it(whole, monkeypatch):
    problem, validation_key = averaged_problem(), jax.random.split(jax.random.key(3), 3)[2]
    validate = compiled_validation(problem)
    state, record = restored(whole)
    assert farthest(evaluated(state), state.params) > 1e-4
    assert record["validation"] == float(validate(evaluated(state), validation_key))
    assert record["validation"] != float(validate(state.params, validation_key))
    np.testing.assert_allclose(read_metrics(whole / "metrics.jsonl")[-1]["validation"], record["validation"], rtol=1e-5)
    monkeypatch.setattr(Run, "problem", lambda self, with_data=True: problem)
    run = Run(whole, {}, Sine(), application("sine"))
    for which in ("last", "best"):
        assert_same_bits(run.checkpoint(which), evaluated(restored(whole, which)[0]))
