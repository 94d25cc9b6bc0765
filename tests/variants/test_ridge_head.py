"""A last layer by ridge regression, and a network that reads the support set.

Place: fewstep/variants/ridge_head.py, fewstep/nn/set_network.py, the adapters of fewstep/supervised/model.py.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from known import KEY, slow_but

from fewstep import Examples, InputError, adapt, nn, runs
from fewstep.apps.sine.settings import Sine
from fewstep.core.types import MetaParams
from fewstep.supervised.adapted import adapt as adapt_units
from fewstep.supervised.columns import InputColumn, TableFormat, TargetColumn
from fewstep.supervised.model import supervised

TINY = Sine(hidden=(8,), meta_steps=4, log_every=2, meta_batch_size=3, shots=6, queries=5)


def rows(count=9, features=3, outputs=2, padding=3):
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(count + padding, features)), rng.normal(size=(count + padding, outputs))
    return Examples(jnp.asarray(inputs), jnp.asarray(targets), jnp.asarray([1.0] * count + [0.0] * padding))


def model(hidden, ridge=0.7):
    """The problem of three inputs and two targets, as a table would give it."""
    format = TableFormat(tuple(InputColumn(n, "number") for n in "abc"), (TargetColumn("y"), TargetColumn("z")))
    return supervised(replace(TINY, adapter="ridge-head", hidden=hidden, ridge=ridge), format, name="t", protocol={})


@pytest.mark.parametrize("hidden", [(), (8,), (8, 5)])
def test_the_step_solves_ridge_regression_around_the_last_layer_and_leaves_the_features(float64, hidden):
    problem, support = model(hidden), rows()
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), problem.init(KEY))
    adapted = adapt(problem.learner, params, support, KEY)
    last = len(hidden)
    features = support.inputs
    for layer in range(last):
        held = params.theta["layers"][layer]
        assert jnp.array_equal(adapted["layers"][layer]["kernel"], held["kernel"])
        features = jax.nn.relu(features @ held["kernel"] + held["bias"][None])
    known = np.concatenate([features, np.ones((len(features), 1))], 1)[:9]
    start = np.concatenate([params.theta["layers"][last]["kernel"], params.theta["layers"][last]["bias"][None]])
    away = np.asarray(support.targets)[:9] - known @ start
    expected = start + np.linalg.solve(known.T @ known + 0.7 * np.eye(known.shape[1]), known.T @ away)
    actual = np.concatenate([adapted["layers"][last]["kernel"], adapted["layers"][last]["bias"][None]])
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)  # log λ starts in float32


def test_the_strength_of_the_pull_is_learned_by_the_outer_loop():
    problem, support = model((8,)), rows()

    def after(params):
        return problem.learner.loss(adapt(problem.learner, params, support, KEY), rows(4), KEY)

    params = problem.init(KEY)
    step = 1e-2
    slope = [after(params._replace(inner=params.inner + sign * step)) for sign in (-1, 1)]
    np.testing.assert_allclose(jax.grad(after)(params).inner, (slope[1] - slope[0]) / (2 * step), rtol=2e-2)


def test_a_set_network_sees_no_padding_and_no_order_of_rows():
    network, support = nn.set_network(3, 2, (8, 8)), rows()
    theta = network.init(KEY)
    asked = support.inputs[:4] + 0.3
    predict = lambda support: network.apply(nn.read(theta, support, KEY), asked)  # noqa: E731
    expected = predict(jax.tree.map(lambda leaf: leaf[:9], support))
    np.testing.assert_allclose(predict(support), expected, atol=1e-6)
    order = np.random.default_rng(1).permutation(12)
    np.testing.assert_allclose(predict(jax.tree.map(lambda leaf: leaf[order], support)), expected, atol=1e-6)
    alone = [network.apply(nn.read(theta, support, KEY), asked[n][None])[0] for n in range(4)]
    np.testing.assert_allclose(jnp.stack(alone), expected, atol=1e-6)
    assert not np.allclose(predict(support._replace(targets=support.targets + 1.0)), expected, atol=1e-3)


def test_without_any_support_row_a_set_network_still_answers():
    network, support = nn.set_network(3, 2, (8,)), rows()
    nothing = support._replace(weight=jnp.zeros(12))
    theta = network.init(KEY)
    answers = network.apply(nn.read(theta, nothing, KEY), support.inputs)
    np.testing.assert_allclose(answers, network.apply(theta, support.inputs), atol=1e-6)


@pytest.mark.parametrize("adapter", slow_but(["ridge-head", "in-context"]))
def test_runs_of_these_adapters_are_trained_opened_and_adapted(adapter, tmp_path):
    run = runs.train(replace(TINY, adapter=adapter), tmp_path / "run", quiet=True)
    again = runs.open_run(run.directory)
    assert isinstance(again.params(), MetaParams)
    result = again.evaluate(tasks=8)
    assert all(np.isfinite(result["mean"]))
    x = np.linspace(-4, 4, 7)
    adapted = adapt_units(again, pl.DataFrame({"x": x, "y": np.sin(x)}), "rows")
    assert np.all(np.isfinite(adapted.predict(pl.DataFrame({"x": x}), "rows")))


def test_what_needs_a_hidden_layer_says_so():
    with pytest.raises(InputError, match="--adapter in-context needs at least one layer"):
        replace(TINY, adapter="in-context", hidden=()).build(0)
