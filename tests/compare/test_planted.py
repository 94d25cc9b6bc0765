"""Planted families: Bayes errors by other formulas, what is said of methods on fresh tasks. Place:
benchmarks.accuracy.compare."""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known import slow_but

ROOT = Path(__file__).parents[2]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not part of this distribution", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy.compare.families import PLANTED, Planted, bayes_error  # noqa: E402
from benchmarks.accuracy.compare.planted import judged, on_fresh_tasks, reported, summary, watched  # noqa: E402


def an_episode(family, task=5):
    settings = Planted(family=family)
    return PLANTED[family], settings.fresh().episode(jnp.asarray(task), jax.random.key(1))


@pytest.mark.parametrize("family", slow_but(["latent", "clustered", "mixture", "identical"], "latent", "mixture"))
def test_the_best_prediction_is_the_mean_over_all_tasks_by_how_well_they_fit(family):
    truth, (support, query) = an_episode(family)
    latents = np.asarray(truth.latents)[:: 1 + len(truth.latents) // 300]
    truth = truth._replace(latents=latents)
    likely, mean = 0.0, np.zeros(len(query.targets))
    for latent in latents:
        residual = np.asarray(support.targets[:, 0] - truth.value(support.inputs, jnp.asarray(latent)), np.float64)
        probability = np.exp(-0.5 * np.sum(residual**2) / truth.noise**2)
        likely += probability
        mean += probability * np.asarray(truth.value(query.inputs, jnp.asarray(latent)))
    np.testing.assert_allclose(truth.best(support, query.inputs), mean / likely, atol=2e-4)


@pytest.mark.parametrize("family", ["features", "independent"])
def test_of_linear_families_the_best_prediction_is_that_of_a_gaussian_process(family):
    truth, (support, query) = an_episode(family)
    origin, units = jnp.zeros(truth.features), jnp.eye(truth.features)

    def features(x):
        middle = truth.value(x, origin)
        return np.stack([truth.value(x, unit) - middle for unit in units], 1), np.asarray(middle)

    (seen, middle), (asked, start) = features(support.inputs), features(query.inputs)
    kernel = seen @ seen.T + truth.noise**2 * np.eye(len(seen))
    expected = start + asked @ seen.T @ np.linalg.solve(kernel, np.asarray(support.targets[:, 0]) - middle)
    np.testing.assert_allclose(truth.best(support, query.inputs), expected, atol=1e-4)


def test_support_rows_of_weight_0_tell_nothing():
    for family in ("latent", "features"):
        truth, (support, query) = an_episode(family)
        fewer = support._replace(weight=support.weight.at[4:].set(0))
        cut = jax.tree.map(lambda leaf: leaf[:4], support)
        np.testing.assert_allclose(truth.best(fewer, query.inputs), truth.best(cut, query.inputs), atol=1e-4)


def test_where_nothing_is_to_be_learned_of_a_task_the_bayes_error_is_the_noise():
    for family in ("identical", "noise"):
        assert bayes_error(Planted(family=family), 50)[0] == pytest.approx(PLANTED[family].noise ** 2, abs=1e-6)
    least, variance = bayes_error(Planted(family="noise"), 50)
    assert least == pytest.approx(variance)


def test_the_bayes_error_of_planes_falls_as_regression_theory_says():
    many = bayes_error(Planted(family="independent", shots=200), 300)[0]
    assert many - 0.09 == pytest.approx(0.09 * 4 / 200, rel=0.1)  # noise variance × inputs / rows


def test_tasks_of_all_splits_and_fresh_ones_differ_and_samples_do_too():
    def targets(family):
        return np.asarray(family.episode(jnp.asarray(0), jax.random.key(0)).query.targets)

    first, other = Planted(family="features").build().splits, Planted(family="features", sample=1).build().splits
    fresh = Planted(family="features").fresh()
    drawn = [targets(each) for each in (first.train, first.validation, first.test, other.train, fresh)]
    assert all(not np.allclose(a, b) for number, a in enumerate(drawn) for b in drawn[:number])
    assert (first.train.size, first.validation.size, first.test.size) == PLANTED["features"].counts


@partial(jax.jit, static_argnums=0)
def best_of(family, episodes):
    return jax.vmap(lambda episode: PLANTED[family].best(episode.support, episode.query.inputs))(episodes)[..., None]


def nothing(episodes):
    return np.zeros(episodes.query.targets.shape)


def a_little_off(family, episodes):
    return np.asarray(best_of(family, episodes)) + 0.1


@pytest.mark.parametrize("family", slow_but(["mixture", "features"]))
def test_fresh_tasks_say_what_a_recommended_method_loses_beside_the_best(family):
    settings = Planted(family=family)
    best, off = partial(best_of, family), partial(a_little_off, family)
    methods = {"prior": [nothing], "best": [best], "off": [off, off]}
    found = on_fresh_tasks(settings, methods, "off", 2000)
    least, variance = bayes_error(settings)
    assert found.best == "best"
    # A constant error of 0.1 is its square, and what the posterior mean misses does not go with it.
    assert found.regret == pytest.approx(0.01 / variance, abs=4 * found.deviation)
    assert found.errors["best"] == pytest.approx((least - PLANTED[family].noise ** 2) / variance, rel=0.2)
    assert found.tasks["prior"] < found.tasks["best"] == found.tasks["off"] == 2000  # what is far behind is not asked for long
    assert on_fresh_tasks(settings, methods, "best", 100).regret == 0.0


class Fitted(NamedTuple):
    predict: Any


class Work(NamedTuple):
    choice: dict[str, Any]
    seed: int
    folder: Path


@dataclass(frozen=True)
class Method:
    name: str
    fit: Any


def test_of_all_fittings_of_a_method_the_reported_ones_are_asked():
    fitted = {"maml": {}}
    (method,) = watched([Method("maml", lambda work: Fitted((work.seed, str(work.folder))))], fitted)
    out = Path("out") / "methods" / "maml"
    for folder in ("search0/with", "seed0", "equal-compute/seed0", "seed1", "seed0"):
        method.fit(Work({}, int(folder[-1]) if folder[-1].isdigit() else 0, out / folder))
    found = {
        "methods": [{"name": "maml", "error": {"mean": 1.0}, "diverged": False, "seeds": 2}, {"name": "gp", "error": None}]
    }
    assert reported(found, fitted) == {"maml": [(0, str(out / "seed0")), (1, str(out / "seed1"))]}


def verdict_of(method, outcome="method", **said):
    methods = [{"name": name, "difference": {"outcome": one}} for name, one in said.items()]
    return {
        "margin": 0.05,
        "verdict": {"method": method, "outcome": outcome},
        "methods": [{"name": method, "difference": None}, *methods],
    }


@pytest.mark.slow
def test_what_a_comparison_said_is_held_against_the_truth():
    settings = Planted(family="clustered")
    methods = {"prior": [nothing], "best": [partial(best_of, "clustered")]}
    good = judged(settings, verdict_of("best", prior="worse"), on_fresh_tasks(settings, methods, "best", 200))
    bad = judged(settings, verdict_of("prior", best="equivalent"), on_fresh_tasks(settings, methods, "prior", 200))
    assert (good["right"], bad["right"]) == (True, False)
    assert (good["far"], good["far_called_equivalent"], bad["far_called_equivalent"]) == (1, 0, 1)
    few = Planted(family="few")
    fresh = on_fresh_tasks(few, {"prior": [nothing], "best": [partial(best_of, "few")]}, "prior", 200)
    assert judged(few, verdict_of("prior", "inconclusive", best="inconclusive"), fresh)["right"]
    assert not judged(few, verdict_of("prior", "method", best="worse"), fresh)["right"]
    told = summary([good, bad])
    assert (told["right"], told["far_called_equivalent"], told["cannot_tell_where_data_suffice"]) == (1, 0.5, 0.0)
