"""Train, open, evaluate, adapt, save, open again, predict: the same from Python as by hand. Place: runs.py, adapted.py."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from known import assert_close, assert_same_bits, fast_adapt, unit_rows

from fewstep import BadInput, Examples, runs
from fewstep.adapted import adapt, open_adapted
from fewstep.problems import Sine, Table
from fewstep.training.log import read_metrics

TINY = {"hidden": (8,), "meta_steps": 6, "log_every": 3, "meta_batch_size": 3, "adaptation_steps": 2, "shots": 5, "queries": 5}


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
    columns = {"task": "unit", "inputs": ("day", "depth"), "target": "flow"}
    return runs.train(Table(data=str(folder / "units.csv"), **columns, **TINY), folder / "run", seed=4, quiet=True)


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
    unfinished = tmp_path / "run" / "checkpoints" / "9.orbax-checkpoint-tmp"  # as orbax names it while it writes
    (unfinished / "state").mkdir(parents=True)
    assert_same_bits(runs.open_run(tmp_path / "run").params("last"), sine.params("last"))
    assert unfinished.is_dir()


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


@pytest.mark.parametrize("steps", [0, 2, 6])
def test_adapting_through_files_equals_adapting_by_hand(sine, tmp_path, steps):
    problem, params, support = sine.problem(), sine.params(), points()
    examples = Examples(
        jnp.asarray(support["x"], jnp.float32)[:, None], jnp.asarray(support["y"], jnp.float32)[:, None], jnp.ones(7)
    )
    by_hand = fast_adapt(problem.learner, params, examples, jax.random.key(0), steps)
    model = adapt(sine, support, steps=steps)
    assert_close(model.params, by_hand, rtol=1e-4, atol=1e-5)
    model.save(tmp_path / "adapted")
    again = open_adapted(tmp_path / "adapted")
    assert_same_bits(again.params, jax.tree.map(jnp.asarray, model.params))
    x = np.linspace(-5, 5, 11, dtype=np.float32)
    expected = np.asarray(problem.predict(by_hand, jnp.asarray(x)[:, None]))[:, 0]
    np.testing.assert_allclose(again.predict(pl.DataFrame({"x": x})), expected, rtol=1e-4, atol=1e-5)
    assert again.protocol == {"support_rows": 7, "adaptation_steps": steps, "trained_shots": 5}


def test_adaptation_takes_the_trained_number_of_steps_unless_told(sine):
    assert_same_bits(adapt(sine, points()).params, adapt(sine, points(), steps=2).params)


def test_predictions_of_a_table_are_in_the_units_of_its_target(table, tmp_path):
    new = unit_rows(units=1, seed=9)
    support, rest = new.head(6), new.tail(9)
    model = adapt(table, support)
    problem, format = table.problem(), table.problem().format
    inputs = jnp.asarray(format.encode_inputs(rest, "rest"))
    standardized = np.asarray(problem.predict(model.params, inputs))[:, 0].astype(np.float64)
    expected = standardized * format.target_scale + format.target_center
    np.testing.assert_allclose(model.predict(rest), expected, rtol=1e-5)
    assert np.abs(expected - 10_000).max() < 10_000  # near the flows of the table, far from standardized numbers
    assert np.abs(expected).min() > 100
    model.save(tmp_path / "adapted")
    shutil.copytree(tmp_path / "adapted", tmp_path / "elsewhere")
    np.testing.assert_array_equal(open_adapted(tmp_path / "elsewhere").predict(rest), model.predict(rest))


def test_a_prediction_does_not_depend_on_the_rows_around_it(table):
    new = unit_rows(units=1, rows=30, seed=9)  # 30 rows: more than one padded size
    model = adapt(table, new.head(6))
    whole = model.predict(new)
    parts = np.concatenate([model.predict(new.head(1)), model.predict(new.slice(1, 12)), model.predict(new.slice(13))])
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_the_figures_of_a_table_are_in_the_squared_units_of_its_target(table, tmp_path):
    table = runs.train(replace(table.settings, adapter="gradient"), tmp_path / "run", quiet=True)
    result = table.evaluate(steps=(0, 2))
    scale = table.problem().format.target_scale
    np.testing.assert_allclose(result["mean"], np.array(result["query_loss"]["mean"]) * scale**2, rtol=1e-4)
    assert result["tasks"] == table.problem().splits.test.size
    assert result["protocol"]["episodes_per_task"] > 1
    assert result["protocol"]["trained_shots"] == 5


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
        return {"problem": "table", "protocol": {}}

    monkeypatch.setattr(runs, "evaluate", spy)
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


def changed(table, tmp_path, change):
    """The run `table`, with its data replaced by what `change` makes of it."""
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
    for act in (run.problem, run.evaluate, run.resume):
        with pytest.raises(BadInput, match="has changed since"):
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
    with pytest.raises(BadInput, match="has changed since"):
        run.evaluate()


def test_changed_data_is_noticed_when_evaluating_at_other_shots_too(table, tmp_path):
    run = changed(table, tmp_path, lambda rows: rows.with_columns(flow=pl.col("flow") + pl.col("depth")))
    with pytest.raises(BadInput, match="has changed since"):
        run.evaluate(shots=3)


def test_a_trained_table_adapts_and_predicts_without_its_data(table, tmp_path):
    run = changed(table, tmp_path, lambda rows: rows)
    (tmp_path / "units.csv").unlink()
    model = adapt(run, unit_rows(units=1, seed=9).head(6))
    assert np.isfinite(model.predict(unit_rows(units=1, seed=9))).all()
    with pytest.raises(BadInput, match="no such file"):
        run.problem()


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
    with pytest.raises(BadInput, match=r"config\.json"):
        runs.open_run(tmp_path / "run").problem()


@pytest.mark.parametrize("content", [b"", b'{"problem": "si', b"\xff\xfe\x00", b"[1, 2]", b"3"])
def test_a_damaged_config_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(BadInput, match=r"config\.json"):
        runs.open_run(tmp_path)


def test_what_is_no_run_is_refused_in_words_that_fit(sine, tmp_path):
    (tmp_path / "file").write_text("")
    for path, words in ((tmp_path, "a folder without"), (tmp_path / "file", "a file"), (tmp_path / "none", "nothing there")):
        with pytest.raises(BadInput, match=words):
            runs.open_run(path)
    with pytest.raises(BadInput, match="adapt it first"):
        open_adapted(sine.directory)


def test_a_damaged_adapted_model_is_refused(sine, tmp_path):
    adapt(sine, points()).save(tmp_path / "good")
    for name in ("adapted.json", "parameters.npz"):
        for keep in (0, 40):
            folder = tmp_path / f"{name}-{keep}"
            shutil.copytree(tmp_path / "good", folder)
            (folder / name).write_bytes((folder / name).read_bytes()[:keep])
            with pytest.raises(BadInput, match="damaged"):
                open_adapted(folder)


def test_the_support_set_is_one_task_with_the_columns_of_the_training(table):
    new = unit_rows(units=2, seed=9)
    for support, words in (
        (new, "the rows of one task"),
        (new.head(6).drop("flow"), "'flow'"),
        (new.head(6).drop("day"), "'day'"),
        (new.head(6).with_columns(depth=pl.lit(None, pl.Float64)), "6 missing"),
        (new.head(6).with_columns(flow=pl.lit("high")), "numbers"),
    ):
        with pytest.raises(BadInput, match=words):
            adapt(table, support, "new.csv")
    without_names = adapt(table, new.head(6).drop("unit"))
    assert_same_bits(without_names.params, adapt(table, new.head(6)).params)


def test_an_adaptation_that_does_not_stay_finite_is_refused(sine):
    wild = points().with_columns(y=pl.col("y") * 1e30)
    with pytest.raises(BadInput, match="does not stay finite"):
        adapt(sine, wild, steps=5)


def test_a_folder_that_holds_something_is_never_written_into(sine, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "full", sine.directory, tmp_path / "file", tmp_path / "file" / "below"):
        for act in (lambda path=path: runs.train(Sine(**TINY), path), lambda path=path: adapt(sine, points()).save(path)):
            with pytest.raises(BadInput, match="--out"):
                act()
    assert (tmp_path / "full" / "note.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "note.txt"]


def test_settings_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(BadInput, match="--shots"):
        runs.train(replace(Sine(**TINY), shots=0), tmp_path / "run")
    assert not (tmp_path / "run").exists()
