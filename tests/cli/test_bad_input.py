"""Every way to give the command what it cannot use: exit 2, a few lines on stderr, nothing else. Place: fewstep/cli."""

import json
import os
import shutil
import subprocess
import sys

import jax
import polars as pl
import pytest
from known import unit_rows, untrained

from fewstep import init, runs
from fewstep.apps.sine.settings import Sine
from fewstep.apps.tables.settings import Table
from fewstep.runs.config import write_config
from fewstep.supervised.adapted import adapt
from fewstep.training.checkpoint import Checkpoints

COLUMNS = ["--task", "unit", "--inputs", "day", "depth", "--target", "flow"]
TABLE = ["train", "table", "--data", "units.csv", *COLUMNS]
SMALL = {"hidden": (4,), "meta_steps": 4, "log_every": 2, "meta_batch_size": 2, "shots": 5, "queries": 5}
SMALL |= {"adaptation_steps": 1, "inner_optimizer": "sgd", "multi_step": 0.0, "clip": 0.0}  # soon compiled


def with_checkpoint(run):
    """An untrained run, with a checkpoint of what it begins with."""
    problem, folder = run.problem(), run.directory
    state = init(problem.outer_optimizer, problem.init(jax.random.key(0)))
    record = {"validation": 1.0, "seconds": 1.0, "log_position": 0, "sums": [1.0, 1.0, 1, 0]}
    with runs.run_lock(folder), Checkpoints(folder / "checkpoints", "new") as checkpoints:
        checkpoints.save(state, record)
    return run


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with good and bad files, two runs and an adapted model."""
    folder = tmp_path_factory.mktemp("workplace")
    rows = unit_rows()
    rows.write_csv(folder / "units.csv")
    columns = {"task": "unit", "inputs": ("day", "depth"), "target": ("flow",)}
    settings = Table(data=str(folder / "units.csv"), adapter="gradient", **columns, **SMALL)
    table = with_checkpoint(untrained(settings, folder / "table"))
    with_checkpoint(untrained(Sine(**SMALL), folder / "sine"))
    rows.head(5).write_csv(folder / "support.csv")
    adapt(table, rows.head(5)).save(folder / "adapted")

    (folder / "junk.csv").write_bytes(bytes(range(256)) * 20)
    (folder / "file").write_text("mine")
    (folder / "full").mkdir()
    (folder / "full" / "note.txt").write_text("mine")
    (folder / "bare").mkdir()
    rows.with_columns(flow=pl.lit("high")).write_csv(folder / "words.csv")
    depth = rows["depth"].cast(pl.String)
    rows.with_columns(depth=pl.Series(["deep", "shallow", *depth[2:]])).write_csv(folder / "mixed.csv")
    day = rows["day"].cast(pl.String)
    rows.with_columns(day=pl.Series(["17/01/2016", *day[1:]])).write_csv(folder / "formats.csv")
    header, *lines = (folder / "units.csv").read_text().splitlines()
    (folder / "twice.csv").write_text("\n".join([f"{header},depth", *(f"{line},1" for line in lines)]))
    rows.with_columns(depth=pl.lit(1.0)).write_csv(folder / "still.csv")
    rows.head(5).with_columns(flow=pl.lit(None, pl.Float64)).write_csv(folder / "untold.csv")
    rows.head(5).drop("unit").write_csv(folder / "without_unit.csv")
    rows.with_columns(pl.Series("depth", [float("inf")] * 2 + rows["depth"].to_list()[2:])).write_csv(folder / "inf.csv")
    rows.filter(pl.col("unit") == "unit-00").write_csv(folder / "lonely.csv")
    rows.filter(pl.col("unit") < "unit-02").write_csv(folder / "pair.csv")
    rows.group_by("unit", maintain_order=True).head(3).write_csv(folder / "short.csv")
    rows.head(5).drop("depth").write_csv(folder / "without_depth.csv")
    rows.head(5).drop("flow").write_csv(folder / "without_flow.csv")
    rows.head(5).with_columns(day=pl.lit("soon")).write_csv(folder / "without_dates.csv")
    rows.head(0).write_csv(folder / "header.csv")
    rows.head(5).with_columns(prediction=1.0).write_csv(folder / "predicted.csv")

    choice = Table(data=str(folder / "units.csv"), task="unit", inputs=("day",), target=("flow",), **SMALL)
    (folder / "begun").mkdir()
    write_config(choice, choice.build(0), folder / "begun", 0, "default")
    shutil.copytree(folder / "table", folder / "miscalibrated")
    (folder / "miscalibrated" / "calibration.json").write_text('{"tasks": 4')
    shutil.copytree(folder / "sine", folder / "unsaved")
    shutil.rmtree(folder / "unsaved" / "checkpoints")
    (folder / "unsaved" / "parameters.npz").unlink()
    shutil.copytree(folder / "sine", folder / "strange")
    config = json.loads((folder / "strange" / "config.json").read_text())
    config["settings"]["warp"] = 9
    (folder / "strange" / "config.json").write_text(json.dumps(config))
    shutil.copytree(folder / "sine", folder / "resized")
    config = json.loads((folder / "resized" / "config.json").read_text())
    config["settings"]["hidden"] = [5]
    (folder / "resized" / "config.json").write_text(json.dumps(config))
    shutil.copytree(folder / "sine", folder / "truncated")
    for path in [folder / "truncated" / "parameters.npz", *(folder / "truncated" / "checkpoints").rglob("*")]:
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return folder


def snapshot(folder):
    """Every path below a folder, and what the files hold."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def assert_refused(code, out, err, words):
    assert (code, out) == (2, ""), err
    assert 1 <= len(err.splitlines()) <= 3, err
    assert "Traceback" not in err
    assert words in err


OUT = ["--out", "new"]
TRAIN = {
    "unknown command": (["trane", "sine"], "no command 'trane'"),
    "unknown problem": (["train", "sinus"], "no problem 'sinus'"),
    "unknown preset": (["train", "sine", "--preset", "papyrus"], "no preset 'papyrus'"),
    "preset without a name": (["train", "sine", "--preset"], "--preset needs a name"),
    "variant without a name": (["train", "sine", "--variant"], "--variant needs a name"),
    "unknown variant": (["train", "sine", "--variant", "best", *OUT], "there is no variant 'best'"),
    "variants that contradict": (["train", "sine", "--variant", "anil,boil", *OUT], "choose one of them"),
    "unknown option": (["train", "sine", "--inner-rat", "1", *OUT], "--inner-rat"),
    "a word too many": (["train", "sine", "now", *OUT], "now"),
    "not a number": (["train", "sine", "--shots", "many", *OUT], "many"),
    "option given twice": ([*TABLE, "--shots", "3", "--shots=4", *OUT], "--shots is given twice"),
    "inputs with a comma": (
        ["train", "table", "--data", "units.csv", *COLUMNS[:3], "day,depth", *COLUMNS[-2:], *OUT],
        "spaces",
    ),
    "unknown time column": ([*TABLE, "--time", "dya", *OUT], "did you mean 'day'"),
    "fold that is none": ([*TABLE, "--fold", "5", *OUT], "--fold"),
    "option without a value": (["train", "sine", "--shots"], "--shots"),
    "no shots": (["train", "sine", "--shots", "0", *OUT], "--shots"),
    "no queries": (["train", "sine", "--queries", "0", *OUT], "--queries"),
    "no tasks": (["train", "sine", "--meta-batch-size", "0", *OUT], "--meta-batch-size"),
    "no meta-steps": (["train", "sine", "--meta-steps", "0", *OUT], "--meta-steps"),
    "no log": (["train", "sine", "--log-every", "0", *OUT], "--log-every"),
    "negative steps": (["train", "sine", "--adaptation-steps", "-1", *OUT], "--adaptation-steps"),
    "zero inner rate": (["train", "sine", "--inner-rate", "0", *OUT], "--inner-rate"),
    "inner rate that is no number": (["train", "sine", "--inner-rate", "nan", *OUT], "--inner-rate"),
    "infinite outer rate": (["train", "sine", "--outer-rate", "inf", *OUT], "--outer-rate"),
    "multi-step beyond the run": (["train", "sine", "--multi-step", "1.5", *OUT], "--multi-step"),
    "negative clip": (["train", "sine", "--clip", "-1", *OUT], "--clip"),
    "layer without units": (["train", "sine", "--hidden", "8", "0", *OUT], "--hidden"),
    "unknown inner optimizer": (["train", "sine", "--inner-optimizer", "magic", *OUT], "--inner-optimizer"),
    "unknown initialization": (["train", "sine", "--initialization", "magic", *OUT], "--initialization"),
    "unknown schedule": (["train", "sine", "--outer-schedule", "magic", *OUT], "--outer-schedule"),
    "seed too large": (["train", "sine", "--seed", str(2**70), *OUT], "--seed"),
    "negative seed": ([*TABLE, "--seed", "-1", *OUT], "--seed"),
    "out holds a run": (["train", "sine", "--out", "sine"], "already holds a run"),
    "out holds something else": (["train", "sine", "--out", "full"], "is not empty"),
    "out is a file": (["train", "sine", "--out", "file"], "--out file"),
    "out below a file": (["train", "sine", "--out", "file/run"], "--out file/run"),
    "no data": (["train", "table", *COLUMNS, *OUT], "--data is missing"),
    "no target": ([*TABLE[:-2], *OUT], "--target is missing"),
    "missing file": (["train", "table", "--data", "none.csv", *COLUMNS, *OUT], "no such file"),
    "a folder for a file": (["train", "table", "--data", "full", *COLUMNS, *OUT], "a folder"),
    "not a table": (["train", "table", "--data", "junk.csv", *COLUMNS, *OUT], "junk.csv"),
    "a header alone": (["train", "table", "--data", "header.csv", *COLUMNS, *OUT], "expected rows"),
    "unknown column": ([*TABLE[:-1], "flwo", *OUT], "did you mean 'flow'"),
    "unknown task column": ([*TABLE[:5], "units", *TABLE[6:], *OUT], "did you mean 'unit'"),
    "target of one class": (["train", "table", "--data", "words.csv", *COLUMNS, *OUT], "the one class 'high'"),
    "numbers mixed with words": (["train", "table", "--data", "mixed.csv", *COLUMNS, *OUT], "mixes 178 numbers with 2 values"),
    "dates in two formats": (["train", "table", "--data", "formats.csv", *COLUMNS, *OUT], "dates in two formats"),
    "a column named twice": (["train", "table", "--data", "twice.csv", *COLUMNS, *OUT], "'depth' twice"),
    "inputs of one value": (
        ["train", "table", "--data", "still.csv", *COLUMNS[:2], "--inputs", "depth", "--target", "flow", *OUT],
        "one value",
    ),
    "unknown kind": ([*TABLE, "--kinds", "depth=length", *OUT], "--kinds 'depth=length'"),
    "a kind of no column in use": ([*TABLE, "--kinds", "width=number", *OUT], "'width'"),
    "files of a pattern that fits none": (
        ["train", "table", "--data", "none/*.csv", *COLUMNS, *OUT],
        "none that fit the pattern",
    ),
    "shots from more to fewer": ([*TABLE, "--shots", "9:3", *OUT], "--shots"),
    "shots beyond every unit": ([*TABLE, "--shots", "40:50", *OUT], "no task has more than --shots 40"),
    "infinity": (["train", "table", "--data", "inf.csv", *COLUMNS, *OUT], "2 infinite values of 180 (data rows 1, 2)"),
    "one task": (["train", "table", "--data", "lonely.csv", *COLUMNS, *OUT], "one value 'unit-00'"),
    "two tasks": (["train", "table", "--data", "pair.csv", *COLUMNS, *OUT], "at least 3"),
    "too few rows everywhere": (["train", "table", "--data", "short.csv", *COLUMNS, "--shots", "3", *OUT], "--shots 3"),
    "target among the inputs": ([*TABLE[:7], "flow", *TABLE[8:], *OUT], "different columns"),
    "all tasks held out": ([*TABLE, "--test-fraction", "0.9", *OUT], "--test-fraction"),
}
LATER = {
    "resume nothing": (["resume", "none"], "nothing there"),
    "resume a bare folder": (["resume", "bare"], "a folder without config.json"),
    "resume strange settings": (["resume", "strange"], "warp"),
    "resume without words": (["resume"], "fewstep resume --help"),
    "resume an unknown option": (["resume", "sine", "--fast"], "--fast"),
    "evaluate nothing": (["evaluate", "none"], "nothing there"),
    "evaluate a file": (["evaluate", "file"], "a file"),
    "evaluate without a checkpoint": (["evaluate", "unsaved"], "no checkpoint"),
    "steps of words": (["evaluate", "sine", "--steps", "few"], "--steps"),
    "negative steps": (["evaluate", "sine", "--steps", "0,-1"], "--steps"),
    "no tasks": (["evaluate", "sine", "--tasks", "0"], "--tasks"),
    "no shots": (["evaluate", "sine", "--shots", "0"], "--shots"),
    "more shots than rows": (["evaluate", "table", "--shots", "15"], "--shots 15"),
    "unknown checkpoint": (["evaluate", "sine", "--checkpoint", "first"], "--checkpoint"),
    "evaluate an unknown option": (["evaluate", "sine", "--step", "1"], "--step"),
    "adapt nothing": (["adapt", "none", "--support", "support.csv", *OUT], "nothing there"),
    "no support": (["adapt", "table", *OUT], "--support"),
    "missing support": (["adapt", "table", "--support", "none.csv", *OUT], "no such file"),
    "support that is no table": (["adapt", "table", "--support", "junk.csv", *OUT], "junk.csv"),
    "support without an input": (["adapt", "table", "--support", "without_depth.csv", *OUT], "'depth'"),
    "support without the target": (["adapt", "table", "--support", "without_flow.csv", *OUT], "'flow'"),
    "support without dates": (["adapt", "table", "--support", "without_dates.csv", *OUT], "'day' should hold dates"),
    "support without a target anywhere": (["adapt", "table", "--support", "untold.csv", *OUT], "expected rows with a value"),
    "update nothing": (["update", "none", "--support", "support.csv"], "found none"),
    "update a run": (["update", "table", "--support", "support.csv"], "adapt it first"),
    "update without support": (["update", "adapted"], "--support"),
    "update with what is no number": (["update", "adapted", "--support", "words.csv"], "should hold numbers"),
    "update into something else": (["update", "adapted", "--support", "units.csv", "--out", "full"], "is not empty"),
    "update below a file": (["update", "adapted", "--support", "units.csv", "--out", "file/a"], "--out file/a"),
    "update without a column": (["update", "adapted", "--support", "without_depth.csv"], "'depth'"),
    "update without the unit": (["update", "adapted", "--support", "without_unit.csv"], "differ in 'unit'"),
    "a level that is none": (["predict", "adapted", "--inputs", "support.csv", "--out", "p.csv", "--level", "1.5"], "--level"),
    "a level of words": (["predict", "adapted", "--inputs", "support.csv", "--out", "p.csv", "--level", "high"], "--level"),
    "a level beyond the calibration": (
        ["predict", "adapted", "--inputs", "support.csv", "--out", "p.csv", "--level", "0.9"],
        "stopped before it was calibrated",
    ),
    "support without rows": (["adapt", "table", "--support", "header.csv", *OUT], "expected rows"),
    "support of another problem": (["adapt", "sine", "--support", "support.csv", *OUT], "'x'"),
    "adapt in negative steps": (["adapt", "table", "--support", "support.csv", "--steps", "-1", *OUT], "--steps"),
    "adapt in steps of words": (["adapt", "table", "--support", "support.csv", "--steps", "some", *OUT], "or auto"),
    "adapt in several numbers of steps": (
        ["adapt", "table", "--support", "support.csv", "--steps", "1,auto", *OUT],
        "one number of adaptation steps, or auto",
    ),
    "adapt what is still trained": (["adapt", "begun", "--support", "support.csv", *OUT], "fewstep resume begun"),
    "evaluate what is still trained": (["evaluate", "begun"], "candidates are not all trained"),
    "adapt with a damaged calibration": (
        ["adapt", "miscalibrated", "--support", "support.csv", *OUT],
        "miscalibrated/calibration.json is damaged",
    ),
    "adapt into a run": (["adapt", "table", "--support", "support.csv", "--out", "sine"], "already holds a run"),
    "adapt below a file": (["adapt", "table", "--support", "support.csv", "--out", "file/a"], "--out file/a"),
    "predict with a run": (["predict", "table", "--inputs", "support.csv", "--out", "p.csv"], "adapt it first"),
    "predict with nothing": (["predict", "none", "--inputs", "support.csv", "--out", "p.csv"], "found none"),
    "missing inputs": (["predict", "adapted", "--inputs", "none.csv", "--out", "p.csv"], "no such file"),
    "inputs without a column": (["predict", "adapted", "--inputs", "without_depth.csv", "--out", "p.csv"], "'depth'"),
    "inputs with predictions": (["predict", "adapted", "--inputs", "predicted.csv", "--out", "p.csv"], "'prediction' already"),
    "unknown kind of output": (["predict", "adapted", "--inputs", "support.csv", "--out", "p.doc"], ".csv, .tsv, .parquet"),
    "output that exists": (["predict", "adapted", "--inputs", "support.csv", "--out", "units.csv"], "already exists"),
    "output in no folder": (
        ["predict", "adapted", "--inputs", "support.csv", "--out", "no/p.csv"],
        "cannot be written: No such",
    ),
    "output below a file": (
        ["predict", "adapted", "--inputs", "support.csv", "--out", "file/p.csv"],
        "written: Not a directory",
    ),
    "parquet in no folder": (
        ["predict", "adapted", "--inputs", "support.csv", "--out", "no/p.parquet"],
        "cannot be written: No",
    ),
    "plot nothing": (["plot", "none"], "expected the folder of a trained run, found nothing there"),
    "plot an unknown option": (["plot", "sine", "--all"], "--all"),
    "list an unknown option": (["list", "--all"], "--all"),
}


@pytest.mark.parametrize("case", [*TRAIN, *(f"later: {case}" for case in LATER)])
def test_what_cannot_be_used_is_refused_in_a_few_lines_and_nothing_is_touched(workplace, command, monkeypatch, case):
    words, expected = LATER[case.removeprefix("later: ")] if case.startswith("later: ") else TRAIN[case]
    monkeypatch.chdir(workplace)
    before = snapshot(workplace)
    assert_refused(*command(*words), expected)
    assert snapshot(workplace) == before


LAST = ["--checkpoint", "last"]


@pytest.mark.parametrize("run", ["truncated", "resized"])
@pytest.mark.parametrize("words", [["resume"], ["evaluate", *LAST], ["evaluate"]])
def test_parameters_that_are_damaged_or_of_another_model_are_refused_in_a_few_lines(workplace, words, run):
    before = snapshot(workplace)
    result = subprocess.run(  # a process of its own: here what libraries log goes to stderr too
        [sys.executable, "-m", "fewstep.cli", words[0], run, *words[1:]],
        cwd=workplace,
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert_refused(
        result.returncode, result.stdout, result.stderr, f"{run}/{'parameters.npz' if words == ['evaluate'] else 'checkpoints'}"
    )
    assert snapshot(workplace) == before


@pytest.mark.parametrize("words", [[], ["train"]])
def test_the_bare_command_explains_itself_on_stderr_and_exits_with_2(command, words):
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert "usage: fewstep" in err


def test_a_message_neither_steers_the_terminal_nor_fills_it(workplace, command):
    code, out, err = command("train", "sine", "--initialization", "\x1b[31m" + "x" * 10_000, *OUT)
    assert (code, out) == (2, "")
    assert "\x1b" not in err and len(err) < 2_000


@pytest.mark.parametrize("words", [["resume"], ["evaluate"], ["plot"], ["results"]])
def test_a_path_that_is_too_long_for_the_system_is_refused(command, words):
    assert_refused(*command(*words, "x" * 5_000), "File name too long")


def test_settings_of_another_type_are_refused_when_a_run_is_opened(workplace, command, tmp_path):
    shutil.copytree(workplace / "sine", tmp_path / "sine")
    for name, value in (("hidden", "x"), ("inner_rate", True), ("queries", 2.5), ("inner_optimizer", "magic"), ("shots", None)):
        config = json.loads((workplace / "sine" / "config.json").read_text())
        config["settings"][name] = value
        (tmp_path / "sine" / "config.json").write_text(json.dumps(config))
        assert_refused(*command("resume", "sine"), name)


def test_a_number_that_is_none_in_a_file_of_a_run_is_refused(workplace, command, tmp_path):
    shutil.copytree(workplace / "sine", tmp_path / "sine")
    text = (tmp_path / "sine" / "config.json").read_text().replace('"seed": 0', '"seed": NaN')
    (tmp_path / "sine" / "config.json").write_text(text)
    assert_refused(*command("resume", "sine"), "NaN is no number")


def test_a_calibration_of_another_shape_is_refused(workplace, command, tmp_path):
    shutil.copytree(workplace / "table", tmp_path / "table")
    (tmp_path / "table" / "calibration.json").write_text('{"tasks": 4, "by_shots": [{"shots": 3}]}')
    assert_refused(*command("adapt", "table", "--support", workplace / "support.csv", *OUT), "calibration.json is damaged")


def test_figures_of_another_shape_are_refused_and_the_pictures_stay(workplace, command, tmp_path):
    shutil.copytree(workplace / "sine", tmp_path / "sine")
    (tmp_path / "sine" / "evaluation.json").write_text('{"steps": [0], "mean": "none"}')
    before = snapshot(tmp_path)
    assert_refused(*command("plot", "sine"), "damaged or of another version")
    assert_refused(*command("results", "sine"), "evaluation.json is damaged")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["train", "sine", "--shot", "6"], "--shots"),
        (["train", "table", "--tsak", "unit"], "--task"),
        (["evaluate", "run", "--taks", "3"], "--tasks"),
        (["evalute", "run"], "evaluate"),
    ],
)
def test_what_is_misspelled_is_told_the_nearest_name(command, words, near):
    code, out, error = command(*words)
    assert (code, out) == (2, "")
    assert f"id you mean {near}?" in error
