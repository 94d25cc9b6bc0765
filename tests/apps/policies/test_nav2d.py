"""A policy as a run: trained, watched, stopped, resumed, judged and drawn by the command. Place: fewstep/problems/nav2d.py,
fewstep/apps/policies/training.py, fewstep/apps/policies/report.py, fewstep/apps/policies/plots.py."""

import json
from pathlib import Path
from typing import get_args, get_type_hints

import jax
import numpy as np
import pytest

from fewstep import cli, runs
from fewstep.application import presets
from fewstep.apps.policies.model import returns_program
from fewstep.apps.policies.problems import AntDir, CheetahVel, Nav2d, OwnEnvironment
from fewstep.apps.policies.run import adapt_policy, best_update
from fewstep.apps.policies.settings import FASTER, learned_rates
from fewstep.apps.policies.surrogates import INNER
from fewstep.errors import InputError
from fewstep.training import loop
from fewstep.training.loop import Interrupted
from fewstep.training.progress import read_metrics

SMALL = ["--meta-batch-size", "6", "--rollouts", "6", "--hidden", "16", "--meta-steps", "6", "--log-every", "2"]
SETTINGS = Nav2d(meta_batch_size=6, rollouts=6, hidden=(16,), meta_steps=6, log_every=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return runs.train(SETTINGS, tmp_path_factory.mktemp("nav2d") / "run", quiet=True)


def leaves(run, which):
    return jax.tree.leaves(run.params(which))


@pytest.mark.slow
def test_the_command_trains_judges_and_draws(tmp_path, capsys):
    folder = tmp_path / "run"
    assert cli.main(["train", "nav2d", "--out", str(folder), "--json", *SMALL]) == 0
    told = json.loads(capsys.readouterr().out)["evaluation"]
    assert told["metric"] == "return" and told["steps"] == [0, 1, 2, 3] and told["tasks"] == 40
    assert all(value < 0 for value in told["mean"]) and told["protocol"]["reward"] == "minus the distance"
    assert told == json.loads((folder / "evaluation.json").read_text())
    records = read_metrics(folder / "metrics.jsonl")
    kept = min(records, key=lambda record: record["validation"])
    counted = told["environment_steps"]
    assert counted["training"] == kept["environment_steps"] and counted["by_update"][0] == pytest.approx(40 * 100, rel=0.2)
    assert len(counted["by_update"]) == 4 and list(folder.glob("events.out.tfevents.*")) and (folder / "metrics.csv").is_file()
    assert sorted(path.name for path in (folder / "plots").iterdir()) == ["returns.png", "updates.png", "ways.png"]
    assert cli.main(["evaluate", str(folder), "--steps", "0,1", "--tasks", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == [0, 1]
    assert cli.main(["evaluate", str(folder), "--steps", "0,1", "--tasks", "5"]) == 0
    assert f"environment steps: {counted['training']:,} to train it" in capsys.readouterr().out
    assert cli.main(["plot", str(folder)]) == 0


def test_the_log_counts_the_steps_of_the_environment_and_the_best_checkpoint_is_that_of_the_best_returns(run):
    records = read_metrics(run.directory / "metrics.jsonl")
    assert [record["meta_step"] for record in records] == [2, 4, 6]
    most = 6 * 6 * 100 * 2  # tasks, rollouts, steps, support and query
    taken = np.diff([0, *(record["environment_steps"] for record in records)])
    assert np.all((taken > 0.5 * 2 * most) & (taken <= 2 * most))
    for record in records:
        assert record["validation"] == pytest.approx(-np.mean(record["validation_returns"][1:]), abs=1e-3)


def test_a_stopped_run_goes_on_bit_for_bit(run, tmp_path, monkeypatch):
    """The request to stop comes after three meta-steps, between two checkpoints."""
    calls = iter(range(100))

    class Stopped(loop.StopSignals):
        @property
        def requested(self):
            return next(calls) >= 2

        @requested.setter
        def requested(self, value):
            pass

    monkeypatch.setattr(loop, "StopSignals", Stopped)
    with pytest.raises(Interrupted):
        runs.train(SETTINGS, tmp_path / "stopped", quiet=True)
    monkeypatch.undo()
    again = runs.resume(runs.open_run(tmp_path / "stopped"), quiet=True)
    for one, other in zip(leaves(run, "last"), leaves(again, "last"), strict=True):
        np.testing.assert_array_equal(one, other)
    told = [read_metrics(each.directory / "metrics.jsonl") for each in (run, again)]
    for one, other in zip(*told, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_the_kept_policy_is_measured_once_more_on_tasks_that_did_not_choose_it(run):
    last = read_metrics(run.directory / "metrics.jsonl")[-1]
    problem, params, record = run.problem(), run.checkpoint(), run.record()
    kept = min(read_metrics(run.directory / "metrics.jsonl"), key=lambda each: each["validation"])
    assert last["chosen_meta_step"] == kept["meta_step"] and record["validation"] == pytest.approx(kept["validation"], rel=1e-5)
    key = jax.random.split(jax.random.key(0), 3)[2]
    anew = returns_program(problem, 40, 3, jax.random.fold_in(key, 1))(params)[0].returns
    np.testing.assert_allclose(last["chosen_returns"], np.mean(anew, 0), rtol=1e-4, atol=1e-3)
    assert last["chosen_returns"] != kept["validation_returns"]


def test_the_best_of_the_policies_on_the_way_is_kept_by_its_own_trajectories(run, monkeypatch):
    policy, found = adapt_policy(run, np.array([0.3, 0.2], np.float32), updates=3, rollouts=4)
    best = int(np.argmax(found.judged.returns))
    for kept, returns in ((best, found.judged.returns), (1, np.array([1.0, 5.0, 3.0, 2.0])), (0, np.array([5.0, 1, 3, 2]))):
        known = found._replace(judged=found.judged._replace(returns=returns))
        monkeypatch.setattr("fewstep.apps.policies.run.adapt_to_task", lambda *given, known=known: known)
        policy = run.adapt(np.array([0.3, 0.2], np.float32), updates=3)
        assert policy.about["kept"] == kept and policy.about["updates"] == 3
        for left, right in zip(jax.tree.leaves(policy.theta), jax.tree.leaves(found.path[kept]), strict=True):
            np.testing.assert_array_equal(left, right)
    assert best_update(np.array([2.0, 2.0, np.nan])) == 1 and best_update(np.full(3, np.nan)) == 2


def test_the_page_says_of_each_family_whether_deviations_are_learned():
    page = " ".join((Path(cli.__file__).parents[2] / "docs" / "policies.md").read_text().split())
    assert ("not learned by default in `nav2d`" in page) == (not Nav2d().learn_deviation)
    learned = all(each().learn_deviation for each in (CheetahVel, AntDir, OwnEnvironment))
    assert ("In simulators (`cheetah-vel`, …, `rl`) it is learned by default" in page) == learned


def test_a_run_builds_its_problem_once(run, monkeypatch):
    """It may be a simulator, or the code of another."""
    built, build = [], Nav2d.build
    monkeypatch.setattr(Nav2d, "build", lambda self, *given: built.append(given) or build(self, *given))
    opened = runs.open_run(run.directory)
    opened.write_evaluation([0, 1])
    opened.params("last"), opened.adapt(updates=1)
    assert len(built) == 1


def test_returns_on_the_same_tasks_are_the_same_whenever_they_are_measured(run):
    first, second = run.evaluate([0, 1], tasks=4), run.evaluate([0, 1], tasks=4)
    assert first["mean"] == second["mean"]


def test_learned_rates_start_at_the_inner_rate_and_the_outer_loop_leaves_the_deviations_alone(run):
    problem = SETTINGS.build()
    params = problem.init(jax.random.key(0))
    optimizer = learned_rates(params.inner)
    ones = jax.tree.map(np.ones_like, params.theta)
    updates, _ = optimizer.update(ones, optimizer.init(params.theta), params.theta)
    for leaf in jax.tree.leaves(updates):
        np.testing.assert_allclose(leaf, -SETTINGS.inner_rate, rtol=1e-5)
    trained = run.params("last")
    np.testing.assert_array_equal(trained.theta["log_deviation"], params.theta["log_deviation"])
    rates = jax.tree.leaves(trained.inner["mean"])
    assert FASTER > 1 and not np.allclose([float(np.ravel(rate)[0]) for rate in rates], np.log(0.5) / FASTER)


def test_what_is_offered_is_what_there_is():
    assert set(get_args(get_type_hints(Nav2d)["estimator"])) <= set(INNER)
    for name, (settings, _) in presets()["nav2d"].items():
        assert settings.build().meta_steps == settings.meta_steps, name


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--rollouts", "0"], "--rollouts should be at least 1, got 0"),
        (["--discount", "1.5"], "--discount should be between 0 and 1"),
        (["--inner-rate", "-1"], "--inner-rate should be a positive number"),
        (["--hidden", "0"], "numbers of units from 1"),
        (["--seed", "-1"], "--seed should lie between"),
        (["--variant", "anil"], "not for policies"),
        (["--find-rate"], "--find-rate: nav2d knows no such thing"),
    ],
)
def test_bad_settings_are_said(tmp_path, capsys, arguments, complaint):
    assert cli.main(["train", "nav2d", "--out", str(tmp_path / "run"), *arguments]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_would_predict_refuses_a_policy(run, tmp_path, capsys):
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    adapt = ["adapt", str(run.directory), "--support", str(tmp_path / "rows.csv"), "--out", str(tmp_path / "adapted")]
    assert cli.main(adapt) == 2
    assert "--support is for images, " in capsys.readouterr().err
    assert cli.main(["gather", str(run.directory), "--out", str(tmp_path / "lived.npz")]) == 2
    assert "gather is for robot-faults; this is a model of nav2d" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--draws", "3"], "--draws is for robot-faults, "),
        (["--shots", "3"], "--shots is for "),
    ],
)
def test_options_of_an_evaluation_that_policies_do_not_know_are_refused(run, capsys, words, complaint):
    assert cli.main(["evaluate", str(run.directory), *words]) == 2
    assert complaint in capsys.readouterr().err


def test_what_an_evaluation_cannot_honor_is_refused_in_python(run):
    with pytest.raises(InputError, match="--draws is for robot-faults"):
        run.evaluate(draws=3)
    with pytest.raises(InputError, match="--hidden is for no problem"):
        run.evaluate(hidden=(3,))
    with pytest.raises(InputError, match="numbers of updates"):
        run.evaluate(["auto"])
