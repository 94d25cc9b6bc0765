"""Train, choose, open, resume, evaluate, adapt: the same from Python as by hand. Place: fewstep/runs, fewstep/trained.py."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from filelock import FileLock
from known import assert_same_bits, unit_rows

from fewstep import InputError, TrainingError, runs
from fewstep.application import open_adapted
from fewstep.apps.policies.cli import say_going_on
from fewstep.apps.sine.settings import Sine
from fewstep.apps.tables.settings import Table
from fewstep.runs.candidates import promote
from fewstep.runs.config import write_config
from fewstep.runs.lock import lock_owner, run_lock
from fewstep.supervised import report
from fewstep.supervised.adapted import adapt
from fewstep.supervised.adapted_rows import UNFINISHED, uncalibrated
from fewstep.supervised.evaluate import TaskErrors
from fewstep.supervised.trained import Trained
from fewstep.supervised.training import finalize
from fewstep.training import loop
from fewstep.training.progress import read_metrics

TINY = {"hidden": (8,), "meta_steps": 6, "log_every": 3, "meta_batch_size": 3, "adaptation_steps": 2, "shots": 5, "queries": 5}
COLUMNS = {"task": "unit", "inputs": ("day", "depth"), "target": ("flow",)}


def uneven_rows():
    """Units of 6 to 17 rows: at more shots, fewer of them are tasks."""
    return unit_rows(rows=list(range(6, 18)))


@pytest.fixture(scope="module")
def sine(tmp_path_factory):
    return runs.train(Sine(**TINY), tmp_path_factory.mktemp("sine") / "run", seed=4, quiet=True)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    uneven_rows().write_csv(folder / "units.csv")
    settings = Table(data=str(folder / "units.csv"), adapter="bayes-head", **COLUMNS, **TINY)
    return runs.train(settings, folder / "run", seed=4, quiet=True)


def points(count=7):
    x = np.linspace(-4, 4, count)
    return pl.DataFrame({"x": x, "y": 2 * np.sin(x + 1)})


def test_a_run_directory_holds_all_that_is_needed_to_open_it(sine):
    again = runs.open_run(sine.directory)
    assert again.settings == sine.settings == Sine(**TINY)
    assert again.seed == 4
    config = json.loads((sine.directory / "config.json").read_text())
    assert {"problem", "preset", "settings", "seed", "format", "versions", "device"} <= set(config)
    assert [record["meta_step"] for record in read_metrics(sine.directory / "metrics.jsonl")] == [3, 6]
    assert_same_bits(again.params("last"), sine.params("last"))
    assert not list(sine.directory.rglob("*.partial"))


def test_reading_a_run_that_is_still_training_leaves_its_unfinished_checkpoint_alone(sine, tmp_path):
    shutil.copytree(sine.directory, tmp_path / "run")
    unfinished = tmp_path / "run" / "checkpoints" / "9.partial"  # as it is named while it is written
    unfinished.write_bytes(b"half of it")
    assert_same_bits(runs.open_run(tmp_path / "run").params("last"), sine.params("last"))
    assert unfinished.read_bytes() == b"half of it"


def test_a_run_trained_on_two_devices_opens_on_one(sine, tmp_path):
    assert sine.config["device"].startswith("2 x")
    program = """
import sys, jax
from fewstep import runs
assert jax.device_count() == 1
run = runs.open_run(sys.argv[1])
print(sum(abs(leaf).sum() for leaf in jax.tree.leaves(run.params("last"))), run.evaluate((0,), tasks=2)["tasks"])
"""
    alone = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    output = subprocess.check_output([sys.executable, "-c", program, str(sine.directory)], env=alone, text=True)
    total = float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(sine.params("last"))))
    np.testing.assert_allclose(float(output.split()[0]), total, rtol=1e-5)


def test_the_same_seed_gives_the_same_run(sine, tmp_path):
    twin = runs.train(Sine(**TINY), tmp_path / "twin", seed=4, quiet=True)
    assert_same_bits(twin.params("last"), sine.params("last"))


def test_the_units_are_named_with_what_they_were_for_and_how_they_did(table):
    result = table.evaluate((0, 1))
    split = table.config["tasks"]
    assert sorted(name for names in split.values() for name in names) == sorted(uneven_rows()["unit"].unique())
    assert sorted(result["by_task"]) == sorted(split["test"])
    np.testing.assert_allclose(np.mean(list(result["by_task"].values()), axis=0), result["mean"], rtol=1e-6)


def test_an_evaluation_at_other_shots_keeps_the_split_and_the_reading_of_the_training(table, monkeypatch):
    seen = []

    def spy(problem, params, **options):
        seen.append(problem)
        nothing = np.zeros((problem.splits.test.size, len(options["steps"])))
        return TaskErrors(dict.fromkeys(problem.metrics, nothing), nothing)

    monkeypatch.setattr(report, "measured_errors", spy)
    table.evaluate()
    table.evaluate(shots=6)
    before, after = seen
    assert after.format == before.format
    tested, at_more_shots = ({p.illustrate(n).title for n in range(p.splits.test.size)} for p in (before, after))
    assert at_more_shots <= tested, "a task that was trained on is now tested on"


def test_written_figures_and_illustrations_are_those_of_the_run(sine):
    result = sine.write_evaluation((0, 2))
    assert json.loads((sine.directory / "evaluation.json").read_text()) == result
    shown = json.loads((sine.directory / "illustrations.json").read_text())
    assert shown["steps"] == [0, 2]
    first = shown["tasks"][0]
    support = pl.DataFrame({"x": first["support_x"], "y": first["support_y"]})
    predicted = adapt(sine, support).predict(pl.DataFrame({"x": first["x"]}))
    np.testing.assert_allclose(first["predictions"][1], predicted, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_worst_units_are_drawn_by_name_and_what_was_measured_by_shots_is_written(table):
    result = table.write_evaluation()
    assert json.loads((table.directory / "evaluation.json").read_text()) == result
    after = {name: values[result["steps"].index(1)] for name, values in result["by_task"].items()}
    worst = json.loads((table.directory / "illustrations.json").read_text())["worst"]
    assert [task["title"] for task in worst] == sorted(after, key=lambda name: -after[name])
    by_shots, problem = result["by_shots"], table.problem()
    assert by_shots["shots"] == list(problem.shot_counts)
    assert by_shots["tasks"] == [int((problem.splits.test.lengths > shots).sum()) for shots in problem.shot_counts]


def changed(table, tmp_path, change):
    """The run `table`, with its data replaced by what `change` makes of it."""
    tmp_path.mkdir(exist_ok=True)
    change(uneven_rows()).write_csv(tmp_path / "units.csv")
    shutil.copytree(table.directory, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["settings"]["data"] = str(tmp_path / "units.csv")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    return runs.open_run(tmp_path / "run")


def test_data_that_stayed_the_same_is_accepted_wherever_it_lies(table, tmp_path):
    assert changed(table, tmp_path, lambda rows: rows).problem().format == table.problem().format


def test_data_that_changed_since_the_training_is_noticed(table, tmp_path):
    run = changed(table, tmp_path, lambda rows: rows.with_columns(flow=pl.col("flow") + pl.col("depth")))
    for act in (run.problem, run.evaluate, lambda: runs.resume(run)):
        with pytest.raises(InputError, match="has changed since"):
            act()


@pytest.mark.parametrize("change", ["values", "rows"])
def test_a_change_of_test_tasks_alone_is_noticed(table, tmp_path, change):
    victim = pl.col("unit") == table.problem().illustrate(0).title
    run = changed(
        table,
        tmp_path,
        lambda rows: (
            rows.with_columns(flow=pl.when(victim).then(pl.col("flow") * 2).otherwise(pl.col("flow")))
            if change == "values"
            else rows.filter(~victim | (pl.col("day").dt.month() < 9))
        ),
    )
    with pytest.raises(InputError, match="has changed since"):
        run.evaluate()


def test_changed_data_is_noticed_when_evaluating_at_other_shots_too(table, tmp_path):
    run = changed(table, tmp_path, lambda rows: rows.with_columns(flow=pl.col("flow") + pl.col("depth")))
    with pytest.raises(InputError, match="has changed since"):
        run.evaluate(shots=3)


def test_a_trained_table_adapts_and_predicts_without_its_data(table, tmp_path):
    run = changed(table, tmp_path, lambda rows: rows)
    (tmp_path / "units.csv").unlink()
    model = adapt(run, unit_rows(units=1, seed=9).head(6))
    assert np.isfinite(model.predict(unit_rows(units=1, seed=9))).all()
    with pytest.raises(InputError, match=r"its data is not at .*units\.csv any more"):
        run.problem()


def test_a_trained_run_without_its_checkpoints_is_completed_and_not_trained_again(sine, tmp_path, monkeypatch):
    shutil.copytree(sine.directory, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "calibration.json").unlink()
    monkeypatch.setattr("fewstep.training.loop.train", None)
    assert runs.is_trained(tmp_path / "run")
    run = runs.resume(runs.open_run(tmp_path / "run"), quiet=True)
    assert run.calibration() == sine.calibration()


def test_a_run_is_trained_when_all_its_meta_steps_are_made(sine, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert not runs.is_trained(tmp_path / "run")
    shutil.copy(sine.directory / "config.json", tmp_path / "run")
    for step, done in ((1, False), (sine.settings.meta_steps - 1, False), (sine.settings.meta_steps, True)):
        (tmp_path / "run" / "checkpoints" / f"{step}.safetensors").touch()
        assert runs.is_trained(tmp_path / "run") is done


def test_checkpoints_without_their_settings_are_not_taken_for_an_empty_folder(sine, tmp_path):
    shutil.copytree(sine.directory / "checkpoints", tmp_path / "run" / "checkpoints")
    with pytest.raises(InputError, match=r"expected config\.json beside its checkpoints"):
        runs.open_run(tmp_path / "run")


@pytest.mark.parametrize(
    "damage",
    [
        lambda config: config["settings"].update(warp=9),
        lambda config: config.update(problem="poker"),
        lambda config: config.pop("settings"),
        lambda config: config.pop("seed"),
        lambda config: config.pop("format"),
        lambda config: config["settings"].update(shots="many"),
        lambda config: config["settings"].update(inner_optimizer="magic"),
    ],
)
def test_a_config_that_this_version_does_not_know_is_refused(sine, tmp_path, damage):
    shutil.copytree(sine.directory, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    damage(config)
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json"):
        runs.open_run(tmp_path / "run").problem()


@pytest.mark.parametrize("content", [b"", b'{"problem": "si', b"\xff\xfe\x00", b"[1, 2]", b"3"])
def test_a_damaged_config_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json"):
        runs.open_run(tmp_path)


def test_what_is_no_run_is_refused_in_words_that_fit(sine, tmp_path):
    (tmp_path / "file").write_text("")
    for path, words in ((tmp_path, "a folder without"), (tmp_path / "file", "a file"), (tmp_path / "none", "nothing there")):
        with pytest.raises(InputError, match=words):
            runs.open_run(path)
    with pytest.raises(InputError, match="adapt it first"):
        open_adapted(sine.directory)


def test_a_folder_that_holds_something_is_never_written_into(sine, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "full", sine.directory, tmp_path / "file", tmp_path / "file" / "below"):
        for act in (lambda path=path: runs.train(Sine(**TINY), path), lambda path=path: adapt(sine, points()).save(path)):
            with pytest.raises(InputError, match="--out"):
                act()
    assert (tmp_path / "full" / "note.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "note.txt"]


def test_settings_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="--shots"):
        runs.train(replace(Sine(**TINY), shots=0), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Several candidates: `--adapter auto` trains both adapters and keeps the better.


@pytest.fixture(scope="module")
def auto(tmp_path_factory):
    """(settings, seed) of a choice between two candidates."""
    path = tmp_path_factory.mktemp("auto") / "units.csv"
    uneven_rows().write_csv(path)
    small = {**TINY, "hidden": (4,), "inner_optimizer": "sgd", "multi_step": 0.0, "clip": 0.0}
    return Table(data=str(path), adapter="auto", **COLUMNS, **small), 5


@pytest.fixture(scope="module")
def chosen(auto, tmp_path_factory):
    settings, seed = auto
    return runs.train(settings, tmp_path_factory.mktemp("chosen") / "run", seed=seed, quiet=True)


def other(name):
    return {"bayes-head": "gradient", "gradient": "bayes-head"}[name]


def candidate(chosen, name):
    """The run of this candidate, wherever it is now."""
    return chosen if chosen.settings.adapter == name else runs.open_run(chosen.directory / "candidates" / name)


def error_of(run):
    """On meta-validation tasks, of the best that can be made of the best checkpoint."""
    return finalize(run.problem(), run.checkpoint())[1]


def test_of_two_candidates_the_better_on_validation_tasks_becomes_the_run_and_the_other_is_kept(auto, chosen, tmp_path):
    best, errors = chosen.settings.adapter, chosen.config["chosen_from"]
    assert set(errors) == {"bayes-head", "gradient"}
    assert errors[best] == min(errors.values()) < errors[other(best)]
    assert [path.name for path in (chosen.directory / "candidates").iterdir()] == [other(best)]
    loser = candidate(chosen, other(best))
    assert loser.settings.adapter == other(best)
    for name, run in ((best, chosen), (other(best), loser)):
        np.testing.assert_allclose(error_of(run), errors[name], rtol=1e-5)
    settings, seed = auto
    alone = runs.train(settings.candidates()[best], tmp_path / "alone", seed=seed, quiet=True)
    assert_same_bits(chosen.params(), alone.params())
    assert chosen.calibration() == alone.calibration()
    assert not list(chosen.directory.rglob("*.partial"))


def test_the_figures_of_a_table_are_in_the_squared_units_of_its_target(chosen):
    table = candidate(chosen, "gradient")
    result = table.evaluate(steps=(0, 2))
    scale = table.problem().format.targets[0].scale
    np.testing.assert_allclose(result["mean"], np.array(result["query_loss"]["mean"]) * scale**2, rtol=1e-4)
    assert result["tasks"] == table.problem().splits.test.size
    assert result["protocol"]["episodes_per_task"] > 1
    assert result["protocol"]["trained_shots"] == 5


def test_each_candidate_has_its_own_recipe_where_nothing_else_was_asked_for(auto):
    settings, _ = auto
    bayes, gradient = settings.candidates().values()
    assert (bayes.harmonics, gradient.harmonics) == (26, 12)
    assert bayes.hidden == gradient.hidden == (4,)  # asked for
    assert settings.candidates().keys() == {"bayes-head", "gradient"}
    assert gradient.candidates() == {"gradient": gradient}


def half_done(auto, chosen, folder, state):
    """The folder of the run `chosen` as a kill at this moment would have left it."""
    settings, seed = auto
    best = chosen.settings.adapter
    finished = {best: chosen.directory, other(best): chosen.directory / "candidates" / other(best)}
    folder.mkdir()
    write_config(settings, settings.build(seed), folder, seed, "default")

    def finish(name):
        target = folder / "candidates" / name
        shutil.copytree(finished[name], target, ignore=shutil.ignore_patterns("candidates", "calibration.json"))
        write_config(settings.candidates()[name], settings.candidates()[name].build(seed), target, seed, "default")
        return target

    if state == "before the first checkpoint":
        (folder / "candidates" / "bayes-head" / "checkpoints").mkdir(parents=True)
        (folder / "candidates" / "bayes-head" / "checkpoints" / "3.partial").write_bytes(b"half of it")
    if state in ("between two candidates", "in the middle of the second", "before the choice", "in the middle of the choice"):
        finish("bayes-head")
    if state == "in the middle of the second":
        second = folder / "candidates" / "gradient"
        second.mkdir()
        problem = settings.candidates()["gradient"].build(seed)
        write_config(problem.settings, problem, second, seed, "default")
        loop.train(problem, second, seed=seed, meta_steps=3, quiet=True)
    if state in ("before the choice", "in the middle of the choice"):
        finish("gradient")
    if state == "in the middle of the choice":
        shutil.copytree(finished[best] / "checkpoints", folder / "checkpoints")
        (folder / "metrics.jsonl").write_text("")
    if state == "before the calibration":
        shutil.rmtree(folder)
        shutil.copytree(chosen.directory, folder)
        (folder / "calibration.json").unlink()
    return runs.open_run(folder)


@pytest.mark.parametrize(
    "state",
    [
        "before the first checkpoint",
        "between two candidates",
        "in the middle of the second",
        "before the choice",
        "in the middle of the choice",
        "before the calibration",
    ],
)
def test_a_choice_that_was_interrupted_is_made_by_resume_as_if_never_stopped(auto, chosen, tmp_path, state):
    run = runs.resume(half_done(auto, chosen, tmp_path / "run", state), quiet=True)
    assert run.settings == chosen.settings
    assert run.config["chosen_from"] == pytest.approx(chosen.config["chosen_from"], rel=1e-5)
    assert_same_bits(run.params(), chosen.params())
    assert_same_bits(run.params("last"), chosen.params("last"))
    assert run.calibration() == chosen.calibration()
    for place in (".", "checkpoints", "candidates", f"candidates/{other(run.settings.adapter)}"):
        names = [{path.name for path in (each.directory / place).iterdir()} for each in (run, chosen)]
        events = re.compile(r"tfevents\.\d+")  # TensorBoard wants to know when a file was begun
        assert {events.sub("", name) for name in names[0]} == {events.sub("", name) for name in names[1]}


def test_until_the_choice_is_made_there_is_nothing_to_adapt_and_changed_data_is_noticed(auto, chosen, tmp_path):
    run = half_done(auto, chosen, tmp_path / "run", "between two candidates")
    for act in (lambda: adapt(run, uneven_rows().head(6)), run.evaluate, lambda: run.params("last")):
        with pytest.raises(InputError, match=r"its candidates are not all trained\. `fewstep resume"):
            act()
    run = changed(run, tmp_path / "changed", lambda rows: rows.with_columns(flow=pl.col("flow") + pl.col("depth")))
    with pytest.raises(InputError, match="has changed since"):
        runs.resume(run)


@pytest.mark.slow
def test_a_candidate_that_diverges_at_once_leaves_the_run_to_the_other(auto, tmp_path, capsys):
    settings, seed = auto
    run = runs.train(replace(settings, inner_rate=1e30), tmp_path / "run", seed=seed, quiet=True)
    assert run.settings.adapter == "bayes-head"
    assert set(run.config["chosen_from"]) == {"bayes-head"}
    assert "candidate gradient stopped: Meta-loss or meta-gradient is not finite at meta-step 0" in capsys.readouterr().err


def test_where_all_candidates_diverge_the_run_fails(auto, tmp_path, monkeypatch):
    def diverge(*arguments):
        raise TrainingError("not finite")

    monkeypatch.setattr("fewstep.runs.candidates.train_candidate", diverge)
    with pytest.raises(TrainingError, match="not finite"):
        runs.train(auto[0], tmp_path / "run", quiet=True)


def test_an_error_that_is_no_number_never_wins_and_is_written_as_none(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / "candidates" / name).mkdir(parents=True)
        (tmp_path / "candidates" / name / "config.json").write_text(json.dumps({"name": name}))
    assert promote(tmp_path, {"a": float("nan"), "b": 2.0, "c": float("inf")}, "default") == "b"
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {"name": "b", "preset": "default", "chosen_from": {"a": None, "b": 2.0, "c": None}}


def test_tasks_that_are_not_finite_are_dropped_and_counted_and_a_model_that_diverges_is_no_result(tmp_path):
    settings = Sine(hidden=(40, 40), meta_steps=40, log_every=20, inner_optimizer="sgd", inner_rate=0.8, multi_step=0.0)
    with pytest.raises(TrainingError, match="not finite at meta-step"):
        runs.train(settings, tmp_path / "stops", quiet=True)
    with pytest.raises(TrainingError, match="error on meta-validation tasks is not finite"):
        runs.train(replace(settings, bad_tasks="drop"), tmp_path / "goes-on", quiet=True)
    log = read_metrics(tmp_path / "goes-on" / "metrics.jsonl")
    assert [record["meta_step"] for record in log] == [20, 40]
    assert sum(record.get("dropped_tasks", 0) for record in log) > 0


def copied(run, folder, *without):
    """A copy of a run's folder that lacks these files."""
    shutil.copytree(run.directory, folder)
    for name in without:
        (folder / name).unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize(
    ("without", "held", "free"),
    [
        (["calibration.json"], ("calibrating", "was being calibrated by another process"), ("uncalibrated", "stopped before")),
        (["calibration.json", "parameters.npz"], ("training", "in training by another"), ("stopped", "not trained to its end")),
    ],
)
def test_who_adapts_a_run_that_is_trained_or_calibrated_just_now_is_told_to_wait(table, tmp_path, command, without, held, free):
    folder, support = copied(table, tmp_path / "run", *without), str(tmp_path / "support.csv")
    uneven_rows().write_csv(support)
    with run_lock(folder):
        assert runs.open_run(folder).calibration()["unfinished"] == held[0]
        code, _, err = command("adapt", folder, "--support", support, "--out", "early")
        assert code == 0 and held[1] in err and "wait until that ends" in err
    assert uncalibrated(open_adapted(tmp_path / "early").trained) == UNFINISHED[held[0]]  # as it was when it was adapted
    run = runs.open_run(folder)
    assert run.calibration()["unfinished"] == free[0] and free[1] in uncalibrated(Trained.of(run))


def test_commands_on_a_run_in_training_say_so_and_leave_its_files_alone(sine, tmp_path, command):
    folder = copied(sine, tmp_path / "run", "calibration.json", "parameters.npz", "evaluation.json")
    with run_lock(folder):
        says = f"process {os.getpid()} on {socket.gethostname()} is training this run"
        code, _, err = command("evaluate", folder)
        assert code == 0 and says in err and not (folder / "evaluation.json").exists()
        code, _, err = command("plot", folder)
        assert code == 0 and says in err
        code, _, err = command("results", folder)
        assert code == 2 and says in err and "fewstep evaluate" not in err
        code, _, err = command("resume", folder)
        assert code == 2 and "is in use by" in err
        shutil.rmtree(folder / "checkpoints")
        with pytest.raises(InputError, match=r"holds no checkpoint yet: process .* Wait until"):
            runs.open_run(folder).params()


def test_a_candidate_is_in_use_while_its_run_is(tmp_path):
    (tmp_path / "candidates" / "one").mkdir(parents=True)
    with run_lock(tmp_path):
        assert lock_owner(tmp_path / "candidates" / "one") == lock_owner(tmp_path) != ""
    assert lock_owner(tmp_path) == lock_owner(tmp_path / "nowhere") == ""


def test_who_asks_whether_a_run_is_in_use_keeps_nobody_from_training(tmp_path, monkeypatch):
    asking = FileLock(tmp_path / ".lock")
    asking.acquire()
    with monkeypatch.context() as patch:
        patch.setattr("time.sleep", lambda seconds: asking.release())  # it has its answer meanwhile
        with run_lock(tmp_path):
            assert lock_owner(tmp_path)


def test_a_policy_that_is_not_trained_to_its_end_is_adapted_with_a_word(sine, tmp_path, capsys):
    folder = copied(sine, tmp_path / "run", "parameters.npz")
    shutil.rmtree(folder / "checkpoints")
    say_going_on(replace(sine, directory=folder))
    assert "was not trained to its end" in capsys.readouterr().err
    with run_lock(folder):
        say_going_on(replace(sine, directory=folder))
    assert "is training this run; its best checkpoint so far" in capsys.readouterr().err
    say_going_on(sine)
    assert capsys.readouterr().err == ""
