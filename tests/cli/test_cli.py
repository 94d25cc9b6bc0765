"""The command from end to end on tiny budgets: what it writes, prints and returns. Place: fewstep/cli."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from known import TINY, assert_same_bits, unit_rows
from PIL import Image

from fewstep import __version__, cli, runs
from fewstep.application import open_adapted
from fewstep.apps.tables.settings import Table
from fewstep.training.progress import read_metrics

COMMAND = [sys.executable, "-m", "fewstep.cli"]


def start(*words, **options):
    words = [*COMMAND, *map(str, words)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def finish(process):
    out, err = process.communicate(timeout=1200)  # so long only where it hangs: the machine may be loaded
    assert "Traceback" not in err, err
    return process.returncode, out, err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny run on sine waves: (its folder, stdout, stderr)."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    code, out, err = finish(start("train", "sine", *TINY, "--out", folder, "--json"))
    assert code == 0, err
    return folder, out, err


@pytest.fixture(scope="module")
def support(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "support.csv"
    x = np.linspace(-4, 4, 6)
    pl.DataFrame({"x": x, "y": 2 * np.sin(x + 1)}).write_csv(path)
    return path


def only_json(out):
    """The one JSON object on stdout, in one line."""
    assert out.count("\n") == 1
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_training_writes_a_whole_run_and_prints_exactly_one_json_object(trained):
    folder, out, err = trained
    result = only_json(out)
    assert result["run"] == str(folder)
    assert result["evaluation"] == json.loads((folder / "evaluation.json").read_text())
    assert [record["meta_step"] for record in read_metrics(folder / "metrics.jsonl")] == [20, 40, 60]
    for step in (20, 40, 60):
        assert f"meta-step {step}/60" in err
    validation = {record["meta_step"]: record["validation"] for record in read_metrics(folder / "metrics.jsonl")}
    best = min(validation, key=lambda step: (validation[step], -step))
    told = f"the best checkpoint on meta-validation tasks: meta-step {best}, mse {validation[best]:.4g} while training\n"
    assert told in err
    following = ("finishing the best checkpoint", "calibrating", "evaluating on unseen tasks", "drawing pictures")
    places = [err.index(f"\n{words}") for words in following]
    assert places == sorted(places) and err.index(told) < places[0], "what follows the last meta-step is said as it begins"
    evaluation = result["evaluation"]
    assert evaluation["classics"]["best"] == "nearest" and evaluation["classics"]["tasks"] == 200
    gain = evaluation["adaptation_gain"]
    assert (gain["metric"], gain["steps"], gain["tasks"]) == ("mse", 2, 1000), "though 2 steps are not in the table"
    assert gain["before"] == pytest.approx(evaluation["mean"][0]) and gain["after"] not in evaluation["mean"]
    for name in ("training", "adaptation", "shots", "unseen_tasks"):
        with Image.open(folder / "plots" / f"{name}.png") as picture:
            picture.verify()


def test_a_run_stopped_by_ctrl_c_is_saved_told_how_to_go_on_and_ends_as_if_never_stopped(trained, tmp_path):
    folder = tmp_path / "run"
    process = start("train", "sine", *TINY, "--out", folder)
    while not (folder / "metrics.jsonl").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert (code, out) == (130, "")
    assert err.splitlines()[-1].endswith(f"fewstep resume {folder}")
    saved = [int(path.stem) for path in (folder / "checkpoints").iterdir()]
    assert saved
    assert max(saved) < 60
    assert not (folder / "evaluation.json").exists()
    code, out, err = finish(start("resume", folder, "--json"))
    assert code == 0, err
    assert "done already" not in err
    assert_same_bits(runs.open_run(folder).params("last"), runs.open_run(trained[0]).params("last"))
    ours, theirs = only_json(out)["evaluation"], only_json(trained[1])["evaluation"]
    assert ours["mean"] == theirs["mean"]
    for name in ("meta_step", "validation"):
        assert [r[name] for r in read_metrics(folder / "metrics.jsonl")] == [
            r[name] for r in read_metrics(trained[0] / "metrics.jsonl")
        ]


def test_a_run_whose_words_nobody_reads_any_more_is_trained_to_its_end(trained, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        [*COMMAND, "train", "sine", *map(str, TINY), "--out", tmp_path / "run"], stderr=writing, stdout=-3
    )
    os.close(writing)
    assert process.wait(240) == 0
    assert_same_bits(runs.open_run(tmp_path / "run").params(), runs.open_run(trained[0]).params())
    assert (tmp_path / "run" / "evaluation.json").exists()


def test_evaluate_prints_one_json_object_with_an_entry_for_every_step(trained, command):
    code, out, _ = command("evaluate", trained[0], "--steps", "0,2,3", "--tasks", "40", "--json")
    assert code == 0
    result = only_json(out)
    assert (result["steps"], result["tasks"], result["split"]) == ([0, 2, 3], 40, "test")
    assert [len(result[name]) for name in ("mean", "ci95", "diverged")] == [3, 3, 3]
    again = only_json(command("evaluate", trained[0], "--steps", "0,2,3", "--tasks", "40", "--json")[1])
    assert again["mean"] == result["mean"]
    expected = runs.open_run(trained[0]).evaluate((0, 2, 3), 40)
    np.testing.assert_allclose(result["mean"], expected["mean"], rtol=1e-5)


def test_evaluate_prints_a_table_for_people_and_keeps_special_figures_out_of_the_run(trained, command):
    before = (trained[0] / "evaluation.json").read_bytes()
    code, out, _ = command("evaluate", trained[0], "--steps", "0,2", "--shots", "3", "--tasks", "30")
    assert code == 0
    assert "30 unseen tasks" in out
    assert re.search(r"^Adaptation .*95 % interval", out, re.MULTILINE)
    assert "shots 3" in out
    assert "trained shots 10" in out
    assert (trained[0] / "evaluation.json").read_bytes() == before


def test_adapt_and_predict_give_what_python_gives(trained, support, command, tmp_path):
    code, out, err = command("adapt", trained[0], "--support", support, "--out", "adapted", "--json")
    assert code == 0
    told = only_json(out)
    assert told.items() >= {"adapted": "adapted", "support_rows": 6, "adaptation_steps": 2, "trained_shots": 10}.items()
    assert "6 support rows, trained with 10" in err
    pl.DataFrame({"note": ["a", "b", "c"], "x": [-1.0, 0.0, 2.5]}).write_csv("inputs.csv")
    expected = open_adapted("adapted").predict(pl.DataFrame({"x": [-1.0, 0.0, 2.5]}))
    for suffix, read in ((".csv", pl.read_csv), (".parquet", pl.read_parquet)):
        code, out, _ = command("predict", "adapted", "--inputs", "inputs.csv", "--out", f"predictions{suffix}", "--json")
        assert code == 0
        assert only_json(out).items() >= {"predictions": f"predictions{suffix}", "rows": 3}.items()
        written = read(f"predictions{suffix}")
        assert written.columns == ["note", "x", "prediction", "lower", "upper", "unlike_training", "support_rows"]
        assert (written["lower"] < written["prediction"]).all() and (written["prediction"] < written["upper"]).all()
        assert written["note"].to_list() == ["a", "b", "c"]
        np.testing.assert_allclose(written["prediction"], expected, rtol=1e-6)
    assert not list(tmp_path.rglob("*.partial"))


def test_adapt_and_predict_repeat_a_bad_answer_of_the_evaluation_in_one_line_and_no_good_one(trained, support, command):
    shutil.copytree(trained[0], "run")
    path = Path("run", "evaluation.json")
    result = json.loads(path.read_text())
    for outcome in ("better", "not shown"):
        result["adaptation_gain"]["outcome"] = result["classics"]["by_classic"]["nearest"]["outcome"] = outcome
        path.write_text(json.dumps(result))
        assert ("not shown" in command("results", "run")[1].lower()) == (outcome == "not shown")
        said = command("adapt", "run", "--support", support, "--out", outcome)[2]
        said += command("predict", outcome, "--inputs", support, "--out", f"{outcome}.csv")[2]
        lines = [line for line in said.splitlines() if "of this run's evaluation:" in line]
        assert len(lines) == 2 * (outcome == "not shown")
        assert all("not shown to help" in line and "Not shown to be better than a cheap classic" in line for line in lines)
    path.unlink()
    assert "evaluation" not in command("adapt", "run", "--support", support, "--out", "unknown")[2]


def test_a_table_is_trained_adapted_and_predicted_from_the_command(command):
    unit_rows().write_csv("units.csv")
    columns = ["--data", "units.csv", "--task", "unit", "--inputs", "day", "depth", "--target", "flow"]
    plain = ["--adapter", "gradient", "--shots", "3:5", "--meta-batch-size", "4"]
    code, out, err = command("train", "table", *columns, *TINY, *plain, "--out", "run", "--json")
    assert code == 0, err
    assert only_json(out)["evaluation"]["tasks"] == 2
    assert "day: date -> trend + 26 annual harmonics" in err
    assert "8 meta-train, 2 meta-validation, 2 meta-test" in err
    new = unit_rows(units=1, seed=9)
    new.head(5).write_csv("support.csv")
    new.drop("flow").write_csv("inputs.csv")
    assert command("adapt", "run", "--support", "support.csv", "--out", "adapted")[0] == 0
    code, out, _ = command("predict", "adapted", "--inputs", "inputs.csv", "--out", "predictions.csv")
    assert code == 0
    assert "15 predictions of 'flow'" in out
    predictions = pl.read_csv("predictions.csv")["prediction"]
    assert predictions.is_between(5_000, 15_000).all()
    assert command("evaluate", "run", "--steps", "0,2,auto", "--shots", "4", "--json")[0] == 0
    code, out, _ = command("update", "adapted", "--support", "support.csv", "--json")
    assert code == 0
    assert only_json(out)["support_rows"] == 5  # the very rows that it knows
    new.slice(5, 4).write_csv("more.csv")
    assert (
        only_json(command("update", "adapted", "--support", "more.csv", "--out", "updated", "--json")[1])["support_rows"] == 9
    )
    new.head(9).write_csv("union.csv")
    assert command("adapt", "run", "--support", "union.csv", "--out", "at_once")[0] == 0
    both = [open_adapted(folder).predict(new.drop("flow")) for folder in ("updated", "at_once")]
    np.testing.assert_array_equal(*both)
    assert only_json(command("adapt", "run", "--support", "units.csv", "--out", "fleet", "--json")[1])["support_rows"] == {
        f"unit-{unit:02}": 15 for unit in range(12)
    }


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """A folder with a run on 200 units, of which 20 calibrate: enough to tell what is unlike, and for intervals at 95 %."""
    folder = tmp_path_factory.mktemp("fleet")
    unit_rows(units=200, rows=6).write_csv(folder / "units.csv")
    settings = Table(
        data=str(folder / "units.csv"),
        task="unit",
        inputs=("day", "depth"),
        target=("flow",),
        adapter="bayes-head",
        shots=(3, 5),
        queries=3,
        hidden=(4,),
        meta_steps=4,
        log_every=2,
        meta_batch_size=4,
    )
    runs.train(settings, folder / "run", quiet=True)
    return folder


def rows_of_three_units():
    """Three units as many others, and one whose flow is another river's."""
    rows = unit_rows(units=4, rows=[5, 3, 5, 5], seed=9)
    return rows.with_columns(flow=pl.when(pl.col("unit") == "unit-02").then(pl.col("flow") * 30).otherwise(pl.col("flow")))


def test_a_dry_run_says_what_a_meta_step_takes_and_writes_nothing(command, tmp_path):
    code, out, _ = command("train", "sine", *TINY, "--dry-run")
    assert code == 0
    for words in ("exact", "stored (taken)", "first-order", "1.00 x", "GFLOP"):
        assert words in out
    assert list(tmp_path.iterdir()) == []
    code, out, _ = command("train", "sine", *TINY, "--meta-gradient", "exact", "--dry-run", "--json")
    found = json.loads(out)["gradient"]
    assert code == 0 and found["chosen"] == "exact"
    assert found["ways"]["exact"]["operations"] > found["ways"]["first-order"]["operations"] > 0


def test_a_dry_run_that_does_not_fit_names_the_settings_that_would(command, monkeypatch):
    monkeypatch.setattr("fewstep.training.cost.device_memory", lambda: 1000)
    code, _, err = command("train", "sine", *TINY, "--dry-run")
    assert code == 2
    assert "1000 bytes" in err and "--tasks-at-once 1" in err and "--meta-batch-size" in err


def test_a_support_file_without_the_task_column_is_one_unit_and_that_is_said(fleet, command, tmp_path):
    rows_of_three_units().rename({"unit": "Unit"}).write_csv(tmp_path / "odd.csv")
    code, _, err = command("adapt", fleet / "run", "--support", "odd.csv", "--out", "odd")
    assert code == 0
    assert "no column 'unit', so all rows are taken for those of one unit. If 'Unit' is that column, rename it." in err


def test_a_fleet_is_adapted_updated_and_asked_and_what_is_unlike_training_is_named(fleet, command):
    rows = rows_of_three_units()
    rows.write_csv("support.csv")
    code, out, err = command("adapt", fleet / "run", "--support", "support.csv", "--out", "adapted", "--json")
    assert code == 0
    told = only_json(out)
    assert told["support_rows"] == {"unit-00": 5, "unit-01": 3, "unit-02": 5, "unit-03": 5}
    assert told["adaptation_steps"] == dict.fromkeys(told["support_rows"], 1)
    assert told["trained_shots"] == "3 to 5"
    assert "unit-02" in told["unlike"]
    assert f"unlike anything trained on: unit-02: {told['unlike']['unit-02']}" in err
    asked = unit_rows(units=4, rows=4, seed=10).sample(fraction=1.0, shuffle=True, seed=0).with_row_index("ticket")
    asked.drop("flow").write_parquet("asked.parquet")
    found = {}
    for level in ("0.5", "0.9"):
        code, out, err = command(
            "predict", "adapted", "--inputs", "asked.parquet", "--out", f"{level}.csv", "--level", level, "--json"
        )
        assert code == 0
        told = only_json(out)
        assert told["columns"] == ["prediction", "lower", "upper", "unlike_training", "support_rows"]
        assert f"lower and upper enclose {float(level):.0%} of rows".replace("%", " %") in " ".join(told["notes"])
        assert "unlike anything trained on: unit-02" in err
        found[level] = pl.read_csv(f"{level}.csv")
        assert found[level].columns == ["ticket", "unit", "day", "depth", *told["columns"]]
        odd = found[level]["unit"] == "unit-02"
        for name in ("lower", "upper"):
            assert (found[level][name].is_null() == odd).all()  # beside a flag no interval claims a level
        assert (found[level]["unlike_training"] == odd).all()
        for name in ("ticket", "unit"):
            assert found[level][name].to_list() == asked[name].to_list()
        expected = open_adapted("adapted").predict(asked.drop("flow"))
        np.testing.assert_allclose(found[level]["prediction"], expected, rtol=1e-6)
    assert (found["0.9"]["upper"] > found["0.5"]["upper"]).all()
    assert (found["0.9"]["lower"] < found["0.5"]["lower"]).all()


def test_an_update_writes_over_the_adapted_folder_or_into_another_and_takes_new_units(fleet, command):
    rows = rows_of_three_units()
    old, new = rows.filter(pl.col("unit") != "unit-03").head(9), rows.tail(12)
    old.write_csv("old.csv")
    new.write_parquet("new.parquet")  # dates, where the other file had their text
    assert command("adapt", fleet / "run", "--support", "old.csv", "--out", "adapted")[0] == 0
    assert command("update", "adapted", "--support", "new.parquet", "--out", "other")[0] == 0
    before = open_adapted("adapted")
    assert before.rows.tolist() == [5, 3, 1]
    for _ in range(2):
        code, out, err = command("update", "adapted", "--support", "new.parquet", "--json")
        assert code == 0
        assert only_json(out)["support_rows"] == {"unit-00": 5, "unit-01": 3, "unit-02": 5, "unit-03": 5}
    assert "12 of 12 rows were known already and count once" in err
    rows.write_csv("union.csv")
    assert command("adapt", fleet / "run", "--support", "union.csv", "--out", "union")[0] == 0
    models = [open_adapted(name) for name in ("adapted", "other", "union")]
    for model in models[:2]:
        np.testing.assert_allclose(model.predict(rows), models[2].predict(rows), rtol=1e-6)


def test_rows_whose_answer_was_given_are_said_and_predicted_all_the_same(fleet, command):
    rows = rows_of_three_units()
    rows.write_csv("support.csv")
    assert command("adapt", fleet / "run", "--support", "support.csv", "--out", "adapted")[0] == 0
    code, out, err = command("predict", "adapted", "--inputs", "support.csv", "--out", "predictions.csv")
    assert code == 0
    assert "18 of 18 rows have the inputs of a support row" in err
    assert "18 predictions of 'flow' -> predictions.csv" in out
    assert pl.read_csv("predictions.csv")["flow"].to_list() == rows["flow"].to_list()


def test_steps_may_be_left_to_the_rows_themselves(fleet, command):
    rows_of_three_units().write_csv("support.csv")
    code, out, _ = command("adapt", fleet / "run", "--support", "support.csv", "--out", "adapted", "--steps", "auto", "--json")
    assert code == 0
    assert set(only_json(out)["adaptation_steps"].values()) <= {0, 1}
    assert open_adapted("adapted").steps == "auto"
    code, out, _ = command("evaluate", fleet / "run", "--steps", "auto", "--tasks", "9", "--json")
    assert code == 0
    result = only_json(out)
    assert (result["steps"], len(result["mean"])) == (["auto"], 1)


def test_evaluate_writes_the_figures_of_the_run_where_nothing_else_is_asked_for_and_only_then(fleet, command):
    path = fleet / "run" / "evaluation.json"
    for words in (["--steps", "0"], ["--draws", "2"]):
        assert command("evaluate", fleet / "run", *words)[0] == 0
        assert not path.exists()
    code, out, _ = command("evaluate", fleet / "run", "--json")
    assert code == 0
    written = json.loads(path.read_text())
    assert only_json(out) == written
    assert written["steps"] == [0, 1, "auto"]
    assert written["by_shots"]["intervals"][-1]["level"] == 95


def test_columns_that_a_file_cannot_hold_leave_no_file_behind(fleet, command, tmp_path):
    rows_of_three_units().write_csv("support.csv")
    assert command("adapt", fleet / "run", "--support", "support.csv", "--out", "adapted")[0] == 0
    nested = rows_of_three_units().drop("flow").with_columns(tags=pl.lit(["a", "b"], pl.List(pl.String)))
    nested.write_parquet("nested.parquet")
    code, out, err = command("predict", "adapted", "--inputs", "nested.parquet", "--out", "predictions.csv")
    assert (code, out) == (2, "")
    assert "--out predictions.csv cannot hold the columns: " in err
    assert not list(tmp_path.glob("predictions*"))
    assert command("predict", "adapted", "--inputs", "nested.parquet", "--out", "predictions.parquet")[0] == 0
    assert pl.read_parquet("predictions.parquet")["tags"].to_list() == [["a", "b"]] * 18


@pytest.mark.parametrize(
    ("words", "shots"),
    [
        (["--shots", "3:6"], (3, 6)),
        (["--shots=3:6"], (3, 6)),
        (["--shots", "7"], 7),
        (["--shots=7"], 7),
        (["--shots", "0:4", "--seed", "3"], (0, 4)),
    ],
)
def test_the_number_of_support_rows_may_be_a_range(command, words, shots):
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        patch.setattr("fewstep.cli.train.train", lambda arguments, *names: seen.append(arguments.settings) or 0)
        assert command("train", "table", *words)[0] == 0
    assert seen[0].shots == shots


def test_plot_draws_again_from_files_alone(trained, command):
    picture = trained[0] / "plots" / "training.png"
    picture.unlink()
    code, out, _ = command("plot", trained[0], "--json")
    assert code == 0
    assert str(picture) in only_json(out)["pictures"]
    with Image.open(picture) as image:
        image.verify()


def test_list_names_every_problem_preset_and_variant(command):
    from fewstep.application import presets

    code, out, _ = command("list", "--json")
    assert code == 0
    listed = only_json(out)
    assert {name: set(known) for name, known in listed["problems"].items()} == {k: set(v) for k, v in presets().items()}
    code, out, _ = command("list")
    assert code == 0
    for word in [*presets(), *presets()["sine"], *listed["variants"]]:
        assert word in out


@pytest.mark.parametrize("name", [None, *cli.COMMANDS, "train sine", "train table"])
def test_help_is_on_stdout_and_exits_with_0(command, name):
    code, out, err = command(*(name or "").split(), "--help")
    assert (code, err) == (0, "")
    assert "usage" in out
    if name == "train sine":
        assert "--inner-rate" in out
        assert "--meta-batch-size" in out


def test_the_version_is_that_of_the_package(command):
    assert command("--version") == (0, f"fewstep {__version__}\n", "")


def test_a_preset_sets_the_defaults_that_words_overrule(command):
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        patch.setattr("fewstep.cli.train.train", lambda arguments, *names: seen.append((arguments, *names[:2])) or 0)
        assert command("train", "sine", "--preset", "tutorial", "--shots", "7", "--seed", "3")[0] == 0
        assert command("train", "sine", "--shots=7", "--preset=paper")[0] == 0
    from fewstep.apps.sine.settings import PRESETS

    (first, name, preset), (second, _, other) = seen
    assert (name, preset, other, first.seed, first.settings.shots, second.settings.shots) == (
        "sine",
        "tutorial",
        "paper",
        3,
        7,
        7,
    )
    assert first.settings.meta_steps == PRESETS["tutorial"][0].meta_steps
    assert second.settings.initialization == PRESETS["paper"][0].initialization


def test_without_out_a_run_takes_the_next_free_folder(command, monkeypatch):
    taken = []

    def stop(settings, directory, **options):
        taken.append(directory)
        Path(directory).mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "train", stop)
    for _ in range(2):
        assert command("train", "sine")[0] == 130
    assert command("train", "sine", "--preset", "paper")[0] == 130
    assert [str(path) for path in taken] == ["runs/sine", "runs/sine-2", "runs/sine-paper"]


def test_a_run_that_blows_up_exits_with_1_and_names_the_cause(command):
    wild = ["--inner-optimizer", "sgd", "--inner-rate", "1e30", "--adaptation-steps", "1", "--clip", "0", "--out", "run"]
    code, out, err = command("train", "sine", *wild, "--meta-batch-size", "2", "--hidden", "4", "--log-every", "1")
    assert (code, out) == (1, "")
    message = err.splitlines()[-1]
    assert "meta-step 0" in message
    assert "--inner-rate 1e+29" in message
    assert "Traceback" not in err
