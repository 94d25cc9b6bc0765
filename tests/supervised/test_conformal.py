"""Intervals that keep their promise, probabilities that mean what they say, limits of likeness. Place: training/calibrate."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known import fast_adapt, unit_rows
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import norm

from fewstep import Examples
from fewstep.apps.sine.settings import Sine
from fewstep.apps.tables.settings import Table
from fewstep.supervised import fit
from fewstep.supervised.conformal import (
    LEVELS,
    TEMPERATURES,
    best_temperature,
    calibrate,
    interval_quantiles,
    nearest_entry,
    quantile,
    quantiles,
    summary,
)
from fewstep.supervised.fit import EpisodePredictions, EpisodePredictor

TINY = {"shots": 5, "queries": 5, "hidden": (4,), "adaptation_steps": 1, "inner_optimizer": "sgd", "multi_step": 0.0}


def uniform(scores):
    """Weights of rows that all count, tasks the same."""
    return np.full(scores.shape, 1.0 / scores.size)


def rank(level, tasks):
    """⌈level (n + 1)⌉, in whole numbers."""
    return -(-level * (tasks + 1) // 100)


@pytest.mark.parametrize("tasks", [1, 4, 9, 18, 19, 50, 99, 100])
def test_with_one_row_a_task_it_is_the_order_statistic_of_split_conformal_prediction(tasks):
    scores = np.random.default_rng(tasks).gamma(1.0, size=(tasks, 1))
    ordered = np.sort(scores[:, 0])
    for level, found in zip(LEVELS, quantiles(scores, uniform(scores), LEVELS, tasks), strict=True):
        k = rank(level, tasks)
        assert found == (None if k > tasks else ordered[k - 1])
        assert found == quantile(scores, uniform(scores), level, tasks)


def test_a_level_is_refused_exactly_where_so_many_tasks_cannot_promise_it():
    for tasks in range(1, 120):
        scores = np.random.default_rng(tasks).gamma(1.0, size=(tasks, 2))
        found = quantiles(scores, uniform(scores), LEVELS, tasks)
        assert [value is None for value in found] == [100 * tasks < level * (tasks + 1) for level in LEVELS]
    eighteen, nineteen = (np.random.default_rng(0).random((tasks, 3)) for tasks in (18, 19))
    assert quantile(eighteen, uniform(eighteen), 95, 18) is None
    assert quantile(nineteen, uniform(nineteen), 95, 19) is not None


def brute_force(scores, weight, level):
    """The expected share of all rows below the k-th of one score a task, over every way of drawing them."""
    tasks = len(scores)
    mass = weight / weight.sum(1, keepdims=True)
    share = 0.0
    for rows in itertools.product(range(scores.shape[1]), repeat=tasks):
        drawn = sorted(scores[task, row] for task, row in enumerate(rows))
        probability = math.prod(mass[task, row] for task, row in enumerate(rows))
        share += probability * (mass * (scores <= drawn[rank(level, tasks) - 1])).sum() / tasks
    return share


@pytest.mark.parametrize("level", [50, 66, 75, 80])
def test_the_score_has_as_much_below_it_as_the_conformal_one_has_on_average_over_all_draws(level):
    rng = np.random.default_rng(level)
    scores, weight = rng.gamma(1.0, size=(4, 5)), rng.uniform(0.2, 1.0, size=(4, 5))
    found, expected = quantile(scores, weight, level, 4), brute_force(scores, weight, level)
    mass = weight / weight.sum(1, keepdims=True) / 4
    # 500 of the 625 draws: the mean share is known up to two of its standard errors, shares being spread by at most ½.
    luck = 2 * 0.5 / math.sqrt(500)
    assert mass[scores <= found].sum() >= expected - luck
    assert mass[scores < found].sum() <= expected + luck


def test_rows_that_do_not_count_and_the_order_of_rows_and_of_draws_change_nothing():
    rng = np.random.default_rng(3)
    scores = rng.gamma(1.0, size=(30, 4, 6))
    weight = np.where(np.arange(6) < 4, 1.0, 0.0) * np.ones((30, 4, 1))
    wild = np.where(weight > 0, scores, 1e9)
    found = quantiles(wild, weight, LEVELS, 30)
    assert found == quantiles(scores[..., :4], weight[..., :4], LEVELS, 30)
    assert found == quantiles(wild.reshape(30, 24), 7.0 * weight.reshape(30, 24), LEVELS, 30)
    known = [value for value in found if value is not None]
    assert known == sorted(known)


@pytest.mark.parametrize(("level", "tasks"), [(95, 19), (90, 40), (80, 12)])
def test_intervals_of_simulated_tasks_cover_a_new_task_as_often_as_they_promise(level, tasks):
    """Rows of a task are N(0, s²) with a scale s of its own, so that how much of a new task is covered is known exactly."""
    rng, rows, draws = np.random.default_rng(level), 8, 500
    scales = np.exp(rng.normal(size=4000))
    coverage = []
    for _ in range(draws):
        own = np.exp(rng.normal(size=(tasks, 1)))
        counts = rng.integers(1, rows + 1, size=(tasks, 1))
        weight = np.where(np.arange(rows) < counts, 1.0 / counts / tasks, 0.0)
        scores = np.abs(own * rng.normal(size=(tasks, rows)))
        limit = quantile(scores, weight, level, tasks)
        coverage.append(2 * norm.cdf(limit / scales).mean() - 1)
    luck = 3 * np.std(coverage) / math.sqrt(draws) + 3 * 0.3 / math.sqrt(scales.size)
    assert level / 100 - luck <= np.mean(coverage) <= level / 100 + 2 / (tasks + 1) + luck
    assert luck < 0.03


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_of_overconfident_or_timid_probabilities_is_found(true):
    rng = np.random.default_rng(5)
    logits = 2.0 * rng.normal(size=(100, 2, 20, 3))
    chosen = (softmax(logits, axis=-1).cumsum(-1) > rng.random((100, 2, 20, 1))).argmax(-1)
    targets, stated = np.eye(3)[chosen], log_softmax(true * logits, axis=-1)
    weight = np.full(chosen.shape, 1 / chosen.size)
    found = best_temperature(stated, targets, weight)
    assert abs(math.log(found / true)) < 0.1

    def log_loss(power):
        return -(weight * (log_softmax(stated / math.exp(power), axis=-1) * targets).sum(-1)).sum()

    best = minimize_scalar(log_loss, bounds=(math.log(TEMPERATURES[0]), math.log(TEMPERATURES[-1])), method="bounded").x
    assert abs(math.log(found) - best) <= math.log(TEMPERATURES[1] / TEMPERATURES[0])


def test_a_task_of_many_rows_has_no_more_say_in_the_temperature_than_one_of_few():
    """The first task is always right, the second always wrong: together they know nothing, and no temperature is too high."""
    stated = np.broadcast_to(log_softmax([2.0, 0.0]), (2, 1, 50, 2))
    targets = np.broadcast_to(np.eye(2)[:, None, None], (2, 1, 50, 2))
    real = (np.arange(50) < np.array([50, 2]).reshape(2, 1, 1)).astype(float)
    weight = EpisodePredictions(Examples(None, None, real), np.zeros((2, 1, 50, 2)), {}, {}, {}, {}).weights
    assert best_temperature(stated, targets, weight) == TEMPERATURES[-1]
    assert best_temperature(stated, targets, real / real.sum()) < 1  # by rows, the first would be believed


def test_the_entry_is_that_of_the_nearest_number_of_shots_counted_in_factors():
    calibration = {"by_shots": [{"shots": shots, "trained": {}} for shots in (2, 5, 10, 40)]}
    for rows, shots in ((1, 2), (2, 2), (3, 2), (4, 5), (7, 5), (8, 10), (20, 10), (21, 40), (10_000, 40)):
        assert nearest_entry(calibration, rows)["shots"] == shots
    assert nearest_entry({"by_shots": []}, 5) is None
    assert nearest_entry(calibration, 0) is None  # what a unit without rows is like is calibrated by itself, or not at all
    calibration["by_shots"].insert(0, {"shots": 0, "trained": {}})
    assert [nearest_entry(calibration, rows)["shots"] for rows in (0, 1)] == [0, 2]


def test_weights_of_probed_rows_sum_to_one_and_for_each_task_to_the_same():
    weight = (np.random.default_rng(0).random((7, 3, 11)) < 0.6).astype(np.float32)
    weights = EpisodePredictions(Examples(None, None, weight), np.zeros((7, 3, 11, 1)), {}, {}, {}, {}).weights
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(weights.sum((1, 2)), np.full(7, 1 / 7), rtol=1e-12)
    assert np.array_equal(weights > 0, weight > 0)
    for task in range(7):
        assert np.ptp(weights[task][weight[task] > 0]) == 0  # its rows count the same, whichever draw they are of


@pytest.fixture(scope="module", params=["bayes-head", "gradient"])
def problem(request, tmp_path_factory):
    """60 units of six rows: five are support rows, and one is asked for. Not trained: calibration does not care."""
    path = tmp_path_factory.mktemp("units") / "units.csv"
    unit_rows(units=60, rows=6).write_csv(path)
    columns = {"task": "unit", "inputs": ("day", "depth"), "target": ("flow",)}
    return Table(data=str(path), adapter=request.param, **columns, **TINY).build(0)


def test_the_factors_are_order_statistics_of_the_errors_of_calibration_tasks_in_deviations(problem, monkeypatch):
    """One row of each task is asked for, one episode each: what is left is the textbook's split conformal prediction."""
    monkeypatch.setattr(fit, "MOST_DRAWS", 1)
    params, family = problem.init(jax.random.key(1)), problem.splits.calibration
    found = calibrate(problem, params)
    assert found["tasks"] == family.size == 6
    assert found["trained_steps"] == 1
    entry = next(entry for entry in found["by_shots"] if entry["shots"] == 5)
    scores = []
    for task in range(6):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(1), task), (1, 2))[0]
        support, query = family.episode(jnp.asarray(task), keys[0], 5)
        adapted = fast_adapt(problem.learner, params, support, keys[1])
        real = int(np.flatnonzero(query.weight)[0])
        assert query.weight.sum() == 1
        miss = np.abs(problem.predict(adapted, query.inputs) - query.targets)[real, 0]
        if problem.deviation is not None:
            scores.append(miss / problem.deviation(adapted, query.inputs)[real, 0])
        else:  # the root mean square error of support rows that were left out, one row in a hundred missing by 1
            squares = []
            for row in range(5):
                rest = Examples(*(jnp.delete(leaf, row, axis=0) for leaf in support))
                theta = fast_adapt(problem.learner, params, rest, keys[1])
                squares.append((problem.predict(theta, support.inputs)[row, 0] - support.targets[row, 0]) ** 2)
            scores.append(miss / np.sqrt((sum(squares) + 0.01) / 5.01))
    ordered = np.sort(scores)
    expected = [None if rank(level, 6) > 6 else ordered[rank(level, 6) - 1] for level in LEVELS]
    allowed = expected.index(None)
    assert LEVELS[allowed - 1] == 85  # 6 / 7
    factors = entry["trained"]["factors"][0]
    assert factors[allowed:] == [None] * (len(LEVELS) - allowed)
    np.testing.assert_allclose(factors[:allowed], expected[:allowed], rtol=1e-3)


def test_likeness_is_measured_in_deviations_of_validation_tasks_and_limited_by_calibration_tasks(problem):
    params = problem.init(jax.random.key(1))
    prober = EpisodePredictor(problem, params)
    usual, ours, learned = (
        prober.predict(family, 5, 5, 320, 500, seed)
        for family, seed in ((problem.splits.validation, 2), (problem.splits.calibration, 1), (problem.splits.train, 4))
    )
    many = jax.tree.map(lambda leaf: np.concatenate([leaf] * 4), ours)  # as if 24 tasks calibrated
    found = summary(problem, many, usual, None, "trained")["likeness"]
    theirs, own = (each.ood_features["trained"].astype(np.float64).reshape(-1, 3) for each in (usual, many))
    np.testing.assert_allclose(found["center"], theirs.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["scale"], theirs.std(0) + 1e-3, rtol=1e-5)
    np.testing.assert_allclose(found["usual"], np.exp(np.quantile(own, 0.96, axis=0)), rtol=1e-5)
    assert found["limit"] is not None and "known_tasks" not in found
    # Six tasks say nothing of 95 %: then the most deviant meta-train or meta-validation task counts, and it is said.
    found = calibrate(problem, params)["by_shots"][-1]["trained"]["likeness"]
    every = np.concatenate([each.ood_features["trained"].astype(np.float64).reshape(-1, 3) for each in (usual, learned)])
    away = (every - every.mean(0)) / (every.std(0) + 1e-3)
    np.testing.assert_allclose(found["limit"], 2 * away.max(), rtol=1e-4)
    np.testing.assert_allclose(found["usual"], np.exp(every.max(0)), rtol=1e-4)
    assert found["known_tasks"] == usual.tasks + learned.tasks


def test_factors_of_a_target_are_those_of_the_tasks_that_have_it():
    rng = np.random.default_rng(0)
    scores, known = rng.random((12, 2, 5)), (rng.random((12, 2, 5)) < 0.5).astype(float)
    known[4:6] = 0  # two tasks without a value
    has = np.delete(np.arange(12), [4, 5])
    weights = known[has] / known[has].sum((1, 2), keepdims=True) / 10
    assert interval_quantiles(scores, known) == quantiles(scores[has], weights, LEVELS, 10)
    found = interval_quantiles(scores, known)
    assert found[LEVELS.index(90)] is not None and found[LEVELS.index(91)] is None
    assert interval_quantiles(scores, np.zeros_like(known)) == [None] * len(LEVELS)
    weight = np.stack([known, 1 - known], -1)
    probed = EpisodePredictions(Examples(None, None, weight), np.zeros((12, 2, 5, 2)), {}, {}, {}, {})
    np.testing.assert_array_equal(probed.known, weight)
    np.testing.assert_allclose(probed.weights, np.full((12, 2, 5), 1 / 120))  # each row knows one of its two targets


def test_a_probe_of_a_task_does_not_depend_on_the_tasks_beside_it():
    problem = Sine(**{**TINY, "adapter": "bayes-head"}).build(0)
    prober = EpisodePredictor(problem, problem.init(jax.random.key(1)))
    few, many = (prober.predict(problem.splits.test, 3, 5, count, count, seed=4) for count in (5, 70))
    assert (few.tasks, many.tasks) == (5, 70)
    for policy in fit.POLICIES:
        np.testing.assert_allclose(few.outputs[policy], many.outputs[policy][:5], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(few.ood_features[policy], many.ood_features[policy][:5], rtol=1e-4, atol=1e-5)
    assert set(np.unique(many.steps["auto"])) <= {0, 1}
    assert np.all(many.steps["trained"] == 1)
