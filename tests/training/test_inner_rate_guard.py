"""Adaptation that overshoots is seen by its curvature, and learned rates are lowered until it does not. Place:
fewstep/supervised/inner_rate_guard.py, `rates_lowered` in fewstep/recipe/build.py."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from known import (
    KEY,
    Bowl,
    assert_close,
    assert_same_bits,
    bowl_loss,
    bowl_problem,
    mlp_loss,
    mlp_params,
    one,
    plain,
    slow_but,
    waves,
)

from fewstep import Episode, Learner, MetaParams, TrainingError
from fewstep.apps.sine.settings import Sine
from fewstep.core.problem import Splits
from fewstep.core.tasks import TaskFamily
from fewstep.recipe.build import gradient_params, inner_optimizer, shrink_inner_rates
from fewstep.supervised.evaluate import evaluate
from fewstep.supervised.inner_rate_guard import (
    LEAST,
    MOST,
    AdaptationEffect,
    adaptation_effect,
    guard_factor,
    shrink_factor,
    step_curvature,
)
from fewstep.training import loop
from fewstep.training.progress import read_metrics
from fewstep.variants import adapt_only, evaluated, log_rates, lslr, meta_sgd

TINY = Sine(
    hidden=(8,),
    adaptation_steps=3,
    meta_batch_size=4,
    meta_steps=20,
    log_every=10,
    multi_step=0.0,
)


def narrow(steepest=4.0):
    """A bowl whose axes are turned, with curvatures 0.5, 1 and `steepest`."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    return Bowl(jnp.asarray(turn @ np.diag([0.5, 1.0, steepest]) @ turn.T), jnp.zeros(3))


def test_of_gradient_descent_it_is_the_rate_times_the_largest_curvature(float64):
    learner, theta = Learner(bowl_loss, optax.sgd(0.3), 1), jnp.array([1.0, 2.0, 3.0])
    found = step_curvature(learner, plain(theta), theta, narrow(), KEY)
    assert float(found) == pytest.approx(0.3 * 4.0, rel=1e-6)


def test_of_learned_rates_it_is_the_largest_eigenvalue_of_rates_times_hessian(float64):
    rates, theta = jnp.log(jnp.array([0.1, 0.2, 0.7])), jnp.array([1.0, 2.0, 3.0])
    found = step_curvature(Learner(bowl_loss, meta_sgd, 1), MetaParams(theta, rates), theta, narrow(9.0), KEY)
    expected = max(np.linalg.eigvals(np.diag(np.exp(rates)) @ narrow(9.0).matrix).real)
    assert float(found) == pytest.approx(expected, rel=1e-3)


def test_of_a_network_it_is_that_of_the_hessian_of_what_adapts(float64):
    support, params = one(waves(1), 0).support, mlp_params()
    learner = Learner(mlp_loss, optax.sgd(0.2), 1, adaptation_step=adapt_only(("1",)))
    found = step_curvature(learner, plain(params), params, support, KEY)
    last = lambda layer: mlp_loss([params[0], layer], support, KEY)  # noqa: E731
    flat, restore = jax.flatten_util.ravel_pytree(params[1])
    hessian = jax.hessian(lambda flat: last(restore(flat)))(flat)
    assert float(found) == pytest.approx(0.2 * np.linalg.eigvalsh(hessian)[-1], rel=1e-2)


def test_the_factor_solves_the_steepest_direction_in_one_step_within_its_bounds():
    def of(before, after, curvature):
        return float(shrink_factor(AdaptationEffect(*map(jnp.asarray, (before, after, curvature)))))

    assert of(1.0, 2.0, 5.0) == of(1.0, jnp.nan, 5.0) == pytest.approx(0.2)
    assert of(1.0, jnp.inf, 1e6) == pytest.approx(LEAST)
    assert of(1.0, 1.0, 1.2) == of(1.0, 2.0, -3.0) == of(1.0, 2.0, jnp.nan) == pytest.approx(MOST)
    assert of(2.0, 1.0, 9.0) == 1.0


def bowl_family(rate, steps=4):
    """The same narrow bowl around other centers, adapted to at a learned rate."""

    def draw(task, key):
        bowl = narrow()._replace(center=jax.random.normal(jax.random.fold_in(key, task), (3,)))
        return Episode(bowl, bowl)

    return bowl_problem(
        init=lambda key: MetaParams(jnp.zeros(3), log_rates(jnp.zeros(3), rate)),
        learner=Learner(bowl_loss, meta_sgd, steps),
        splits=Splits(*(TaskFamily(draw, size) for size in (None, 30, 20))),
        lower_rates=lambda rates, factor: rates + jnp.log(factor),
    )


@pytest.mark.parametrize("rate", [0.05, 0.6, 3.0, 1e3])
def test_rates_are_lowered_just_where_they_are_beyond_the_limit(rate):
    problem = bowl_family(rate)
    params = problem.init(KEY)
    factor, seen = jax.jit(lambda params: guard_factor(problem, params, KEY))(params)
    np.testing.assert_allclose(seen.curvature, 4 * rate, rtol=1e-3)
    assert (seen.after < seen.before) == (4 * rate < 2)
    assert (factor == 1) == (4 * rate < 2)
    if factor < 1:
        assert 0.1 < 4 * rate * factor < 2
        after = adaptation_effect(problem, params._replace(inner=params.inner + jnp.log(factor)), KEY)
        assert after.after < after.before


def test_where_smaller_rates_do_not_help_they_stay():
    problem = bowl_family(0.1)
    broken = lambda theta, bowl, key: jnp.nan * bowl_loss(theta, bowl, key)  # noqa: E731
    problem = replace(problem, learner=replace(problem.learner, loss=broken))
    factor, seen = guard_factor(problem, problem.init(KEY), KEY)
    assert np.isnan(seen.after) and factor == 1


@pytest.mark.parametrize("per_step", [(), ("biases",)])
@pytest.mark.parametrize("name", ["meta-sgd", "lslr", "meta-curvature", "alfa"])
def test_lowered_rates_of_any_kind_make_smaller_steps(name, per_step):
    settings = replace(TINY, inner_optimizer=name, per_step=per_step)
    theta = mlp_params()
    if per_step:
        theta = [{"kernel": layer["w"], "biases": layer["b"]} for layer in theta]
    inner = gradient_params(settings, theta).inner

    def step(inner, gradient):
        optimizer = inner_optimizer(settings)(inner)
        return optimizer.update(gradient, optimizer.init(theta), theta)[0]

    lower = shrink_inner_rates(settings)
    whole, less = (step(each, theta) for each in (inner, lower(inner, jnp.asarray(0.2))))
    if per_step:  # these take learned values, not steps
        whole, less = ([{"kernel": layer["kernel"]} for layer in layers] for layers in (whole, less))
    assert_close(less, jax.tree.map(lambda leaf: 0.2 * leaf, whole), 1e-4, 1e-6)


def test_no_rate_is_lowered_where_none_is_learned_or_it_is_not_wanted():
    assert shrink_inner_rates(replace(TINY, inner_optimizer="sgd")) is None
    assert shrink_inner_rates(replace(TINY, lower_rates=False)) is None
    assert TINY.build(0).lower_rates is not None


@pytest.mark.slow
def test_a_run_whose_rates_are_too_large_says_so_and_ends_better_than_without_adaptation(tmp_path, capsys):
    settings = replace(TINY, inner_rate=30.0)
    problem = settings.build(0)
    params = evaluated(loop.train(problem, tmp_path, seed=0))
    message = [line for record in read_metrics(tmp_path / "metrics.jsonl") for line in record.get("warnings", ())]
    assert "do not gain by adaptation" in message[0] and "lowered to 0.0" in message[0]
    assert "--no-lower-rates" in capsys.readouterr().err.replace("\n", " ")
    before, after = evaluate(problem, jax.device_get(params), steps=(0, 3), tasks=50)["mean"]
    assert after < before
    with pytest.raises(TrainingError, match="The inner rate is probably too large"):
        loop.train(replace(settings, lower_rates=False).build(0), tmp_path / "alone", seed=0, quiet=True)


@pytest.mark.parametrize("optimizer", slow_but(["sgd", "meta-sgd", "lslr", "meta-curvature", "alfa"]))
def test_whatever_makes_the_step_a_run_that_stops_names_the_task_at_which_its_numbers_went(optimizer):
    settings = replace(TINY, inner_optimizer=optimizer, inner_rate=1e6, lower_rates=False, rollbacks=0)
    with pytest.raises(TrainingError, match=r"meta-step \d+ \(task \d+ of the meta-batch\)"):
        loop.train_in_memory(settings.build(0), seed=0)


def test_a_run_that_lowered_its_rates_and_is_resumed_ends_in_the_same_bits(tmp_path):
    problem = replace(TINY, inner_rate=30.0).build(0)
    whole = loop.train(problem, tmp_path / "whole", quiet=True)
    loop.train(problem, tmp_path / "half", meta_steps=10, quiet=True)
    resumed = loop.train(problem, tmp_path / "half", resume=True, quiet=True)
    assert_same_bits(jax.device_get(resumed), jax.device_get(whole))


def test_an_average_of_the_parameters_is_lowered_too(tmp_path):
    state = loop.train(replace(TINY, inner_rate=30.0, average=0.9, meta_steps=1).build(0), tmp_path, quiet=True)
    for rates in (state.params.inner, evaluated(state).inner):
        assert all((np.exp(leaf) < 5).all() for leaf in jax.tree.leaves(jax.device_get(rates)))


def test_lslr_keeps_its_ratio_of_steps():
    rates = {"w": jnp.log(jnp.array([0.4, 0.1]))}
    lower = shrink_inner_rates(replace(TINY, inner_optimizer="lslr"))
    np.testing.assert_allclose(jnp.exp(lower(rates, jnp.asarray(0.5))["w"]), [0.2, 0.05], rtol=1e-6)
    assert lslr(rates).init(None) == 0
