"""Policies are compared: judged alike, saved as what was judged, told of in costs. Place: fewstep/apps/policies/compare.py,
methods/policies.py."""

import sys

import jax
import numpy as np
import pytest

from fewstep import cli, runs
from fewstep.apps.policies.compare import RATES, make_policy_benchmark
from fewstep.apps.policies.model import returns_program
from fewstep.apps.policies.problems import Nav2d, OwnEnvironment
from fewstep.compare import compare, resume
from fewstep.compare.request import REQUEST, make_request
from fewstep.compare.results import Metric, Scores
from fewstep.compare.verdict import verdict
from fewstep.errors import InputError
from fewstep.runs import write_json

SMALL = Nav2d(meta_batch_size=2, rollouts=3, hidden=(8,), meta_steps=4)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies") / "compared"
    return folder, compare(SMALL, folder, budget_seconds=600, seeds=1, quiet=True)


def returns_in(run, problem=None):
    """[tasks, updates + 1] of the test tasks of the comparison, by the program that judges any policy."""
    held = make_policy_benchmark(SMALL, 0).test
    key, problem = jax.random.key(held.key), problem or run.problem()
    return np.asarray(returns_program(problem, held.count, 3, key, held.draws, held.unseen)(run.params())[0].returns)


def test_every_method_is_told_of_by_its_costs_on_the_same_tasks(compared):
    folder, found = compared
    methods = {method["name"]: method for method in found["methods"]}
    assert set(methods) == {"prior", "scratch", "joint", "joint-finetuned", "maml"}
    assert found["metric"]["name"] == "cost" and found["unit_of_work"] == "environment steps"
    assert found["protocol"]["test_tasks"] == len(found["tasks"]) == 40
    for name, errors in found["by_task"].items():
        assert np.isfinite(errors).all() and methods[name]["error"]["mean"] == pytest.approx(np.mean(errors)), name
    steps = 2 * 3 * 2 * SMALL.build(0).environment.horizon * found["protocol"]["meta_steps"]
    assert {methods[name]["train_operations"] for name in ("joint", "joint-finetuned", "maml")} == {steps}
    assert {methods[name]["train_operations"] for name in ("prior", "scratch")} == {0.0}
    assert methods["joint-finetuned"]["settings"]["rate"] in RATES
    assert "cost" in (folder / "compare.html").read_text()


@pytest.mark.parametrize(("method", "updates"), [("joint", 0), ("joint-finetuned", 3), ("maml", 3)])
def test_the_run_of_a_method_brings_what_the_method_did(method, updates, compared):
    folder, found = compared
    run = runs.open_run(folder / "methods" / method / "seed0")
    costs = np.array(found["by_task"][method])
    np.testing.assert_allclose(-returns_in(run)[:, updates], costs, rtol=2e-3, atol=1e-2)


def test_no_learning_is_the_untrained_policy_and_one_policy_for_all_is_judged_without_updates(compared):
    found = compared[1]
    problem = SMALL.build(0)
    held = make_policy_benchmark(SMALL, 0).test
    program = returns_program(problem, held.count, 3, jax.random.key(held.key), held.draws, held.unseen)
    untrained = np.asarray(program(problem.init(jax.random.key(0)))[0].returns)
    # The learned rates update it after the first collection, which is not judged here: only what θ itself brings there.
    assert found["by_task"]["prior"] != found["by_task"]["joint"]
    assert np.mean(found["by_task"]["prior"]) == pytest.approx(-untrained[:, 0].mean(), rel=0.1)


def test_the_recommended_run_adapts_by_acting(compared, tmp_path, capsys):
    folder = compared[0]
    assert cli.main(["adapt", str(folder / "run"), "--out", str(tmp_path / "adapted"), "--json"]) == 0
    assert (folder / "run" / "config.json").is_file() and not (folder / "run" / "calibration.json").exists()


def test_a_comparison_that_is_done_goes_on_without_training_anything_again(compared, monkeypatch):
    folder, found = compared
    monkeypatch.setattr("fewstep.training.loop.train", lambda *given, **more: pytest.fail("trained again"))
    monkeypatch.setattr("fewstep.compare.report.curves", lambda *given: {})
    again = compare(SMALL, folder, budget_seconds=600, seeds=1, quiet=True)
    assert again["by_task"] == found["by_task"] and again["verdict"]["method"] == found["verdict"]["method"]


def test_costs_below_zero_are_told_as_differences_and_never_as_shares():
    draw = np.random.default_rng(0)
    level = {"prior": -10.0, "maml": -500.0}
    scores = [Scores(name, mean + draw.normal(0, 1, (3, 60)), 1.0) for name, mean in level.items()]
    told = " ".join(verdict(scores, scores, 5.0, metric=Metric("cost", "minus the return", from_zero=False)).sentences)
    assert "its cost is about -500.1 " in told and "prior has -10.0, so it takes 490.1 of that cost away" in told


def test_methods_of_one_cost_cost_no_less():
    draw = np.random.default_rng(1)
    scores = [
        Scores(name, mean + draw.normal(0, 0.001, (3, 60)), 1.0) for name, mean in (("a", 1.0), ("b", 1.001), ("prior", 9.0))
    ]
    told = " ".join(verdict(scores, scores, 0.1).sentences)
    assert "b does as well, within the margin of 0.10, and takes no fewer operations." in told


def test_the_code_that_a_comparison_names_runs_only_where_it_is_named_again(tmp_path):
    folder = tmp_path / "compared"
    folder.mkdir()
    write_json(folder / REQUEST, make_request(OwnEnvironment(env="no_such_module:Env"), 60.0, 1, None, 0, ""))
    with pytest.raises(InputError, match="would run that code"):
        resume(folder)
    assert "no_such_module" not in sys.modules
