"""A comparison from beginning to end: what it writes, that it repeats nothing, how it keeps its budget and what it refuses.

Place: fewstep/compare/run.py, runner.py, kept.py, plan.py, leaks.py, recommended.py, cli/compare.py.
"""

import json
import shutil
from dataclasses import asdict, replace
from types import SimpleNamespace

import jax
import numpy as np
import polars as pl
import pytest
from known import unit_rows

from fewstep import InputError, compare, runs
from fewstep.application import problem_of
from fewstep.apps.images.compare import refuse_known_photos
from fewstep.apps.images.data import ImageSet
from fewstep.apps.images.problem import Images
from fewstep.apps.sine.settings import Sine
from fewstep.apps.tables.settings import Table
from fewstep.compare import budget as plan
from fewstep.compare import runner as runner
from fewstep.compare.budget import LEFT_OUT
from fewstep.compare.content import copy_run
from fewstep.compare.episodes import make_benchmark
from fewstep.compare.leaks import check_leaks
from fewstep.compare.report import more_sentences
from fewstep.compare.runner import DamagedRecord
from fewstep.compare.session import QUICK, QUICK_PART, Session
from fewstep.storage.json import validate
from fewstep.supervised.adapted import adapt

TINY = {"hidden": (8,), "meta_steps": 8, "meta_batch_size": 3, "adaptation_steps": 2, "shots": 5, "queries": 5}
COLUMNS = {"task": "unit", "inputs": ("day", "depth"), "target": ("flow",)}
TRIED = ("prior", "ridge", "joint", "joint-ridge", "maml")
TIMES = ("train_seconds", "adapt_milliseconds", "spent_s", "seconds")


def only(wanted):
    """The methods of the benchmark's application that are `wanted`."""
    return lambda benchmark: [method for method in problem_of(benchmark.settings)[0].methods if wanted(method)]


@pytest.fixture(scope="module", autouse=True)
def few_methods():
    """Those that differ in how they are fitted: without training, trained, following another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "methods_of", only(lambda method: method.name in TRIED))
        patch.setattr(plan, "TIMED_SECONDS", 0.01)
        patch.setattr("fewstep.compare.episodes.TASKS", 12)
        yield


@pytest.fixture(scope="module")
def sine(tmp_path_factory):
    """(content, folder) of a comparison that had all the time it wanted."""
    folder = tmp_path_factory.mktemp("compare") / "out"
    return compare.compare(Sine(**TINY), folder, budget_seconds=3600, seeds=2, quiet=True), folder


@pytest.fixture
def no_probes(monkeypatch):
    """They take as long as all of a tiny comparison; `sine` has them."""
    monkeypatch.setattr("fewstep.compare.report.probes", lambda session, plan, known: {})


def without_times(content):
    if isinstance(content, dict):
        return {name: without_times(value) for name, value in content.items() if name not in TIMES}
    if isinstance(content, list):  # what a verdict says of costs is times, too
        return [without_times(value) for value in content if not str(value).startswith("It costs ")]
    return content


def test_a_comparison_says_what_was_found_of_every_method(sine):
    found, folder = sine
    assert json.loads((folder / "compare.json").read_text()) == json.loads(json.dumps(found))
    assert {method["name"] for method in found["methods"]} == set(TRIED)
    by_name = {method["name"]: method for method in found["methods"]}
    for name, method in by_name.items():
        np.testing.assert_allclose(np.mean(found["by_task"][name]), method["error"]["mean"])
        assert method["meta_steps"] == (8 if name in ("joint", "maml") else 0)
        assert len(found["by_task"][name]) == len(found["tasks"]) == found["protocol"]["test_tasks"]
    assert by_name["prior"]["seeds"] == 1 and by_name["maml"]["seeds"] == 2
    assert found["methods"][0]["name"] == found["verdict"]["method"]
    assert by_name["maml"]["train_operations"] > by_name["joint"]["train_operations"] > by_name["prior"]["train_operations"]
    np.testing.assert_allclose(found["margin"], 0.05 * by_name["prior"]["validation"])
    assert found["probes"] and (folder / "compare.html").read_text().startswith("<!DOCTYPE html>")
    assert found["by_steps"]["steps"][0] == 0 and set(found["by_steps"]["methods"]) <= set(TRIED)


def test_the_chosen_settings_are_the_first_that_are_hardly_worse_than_the_best(sine):
    for method in sine[0]["methods"]:
        if method["searched"]:
            errors = [one["validation"] for one in method["searched"]]
            least = min(error for error in errors if error is not None)
            first = next(n for n, error in enumerate(errors) if error is not None and error <= runner.HARDLY_MORE * least)
            assert method["settings"] == method["searched"][first]["settings"]


def test_the_method_is_chosen_on_validation_tasks(sine):
    found = sine[0]
    chosen = next(method for method in found["methods"] if method["name"] == found["verdict"]["method"])
    assert chosen["validation"] <= min(method["validation"] for method in found["methods"]) + found["margin"]


def test_the_recommended_run_adapts_and_predicts(sine):
    found, folder = sine
    run = runs.open_run(folder / "run")
    x = np.linspace(-4, 4, 6)
    adapted = adapt(run, pl.DataFrame({"x": x, "y": np.sin(x)}), "rows")
    assert np.all(np.isfinite(adapted.predict(pl.DataFrame({"x": x}), "rows")))
    kept = folder / "methods" / found["run"]["method"] / f"seed{found['run']['seed']}" / "parameters.npz"
    with np.load(kept) as left, np.load(folder / "run" / "parameters.npz") as right:
        assert all(np.array_equal(left[name], right[name]) for name in left.files)


def test_going_on_repeats_no_fitting(sine, monkeypatch):
    found, folder = sine
    fitted = []

    def watched(method):
        def fit(work):
            fitted.append((method.name, work.folder))
            return method.fit(work)

        return replace(method, fit=fit)

    known = runner.methods_of
    monkeypatch.setattr(runner, "methods_of", lambda benchmark: [watched(method) for method in known(benchmark)])
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("scores.json")}
    again = compare.resume(folder, quiet=True)
    assert without_times(again) == without_times(found)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("scores.json")} == written
    asked_more = set(found["by_steps"]["methods"]) | {found["verdict"]["method"], found["verdict"]["runner_up"], "maml"}
    assert {name for name, _ in fitted} <= asked_more  # for curves, from parameters that are there


@pytest.mark.slow
def test_interrupted_and_resumed_it_finds_the_same(sine, tmp_path, monkeypatch, no_probes):
    found, _ = sine
    methods = runner.methods_of

    def stopping(method):
        def fit(work):
            if method.name == "maml" and work.seed == 1:
                raise KeyboardInterrupt
            return method.fit(work)

        return replace(method, fit=fit)

    monkeypatch.setattr(runner, "methods_of", lambda benchmark: [stopping(method) for method in methods(benchmark)])
    with pytest.raises(KeyboardInterrupt):
        compare.compare(Sine(**TINY), tmp_path / "out", budget_seconds=3600, seeds=2, quiet=True)
    assert not (tmp_path / "out" / "compare.json").exists()
    monkeypatch.setattr(runner, "methods_of", methods)
    again = compare.compare(Sine(**TINY), tmp_path / "out", budget_seconds=3600, seeds=2, quiet=True)
    assert without_times(again) == without_times(found) | {"probes": {}}


@pytest.mark.parametrize("name", ["plan.json", "scores.json", "scores.npz", "searched0.json"])
def test_what_is_kept_and_damaged_is_named_with_what_to_remove(sine, tmp_path, no_probes, name):
    folder = tmp_path / "out"
    shutil.copytree(sine[1], folder)
    path = next(folder.rglob(name))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"{name} is damaged .* Remove "):
        compare.resume(folder, quiet=True)


def test_another_comparison_in_the_same_folder_is_refused(sine):
    folder = sine[1]
    with pytest.raises(InputError, match="holds another comparison"):
        compare.compare(Sine(**TINY), folder, budget_seconds=3600, seeds=3, quiet=True)


def test_a_budget_of_seconds_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(InputError, match=r"--budget should be at least 30s here, got 5s"):
        compare.compare(Sine(**TINY), tmp_path / "out", budget_seconds=5, quiet=True)
    with pytest.raises(InputError, match=r"--budget should be at least 120s here"):
        compare.compare(Images(data="nowhere"), tmp_path / "out", budget_seconds=60, quiet=True)
    assert not (tmp_path / "out").exists()


def test_what_a_budget_had_time_for_is_kept_and_a_greater_one_goes_on_from_there(tmp_path, monkeypatch, no_probes):
    monkeypatch.setattr("fewstep.compare.request.LEAST_BUDGET", 0.0)
    monkeypatch.setattr("fewstep.compare.report.curves", lambda *given: {})
    out = tmp_path / "out"
    with pytest.raises(
        InputError, match=r"after \d[\w ]* there is no method to compare with no learning.*--resume .*out --budget \d"
    ):
        compare.compare(Sine(**TINY), out, budget_seconds=0.01, seeds=1, quiet=True)
    kept = out / "methods" / "prior" / "seed0" / "scores.json"
    written = kept.stat().st_mtime_ns
    found = compare.resume(out, quiet=True, budget_seconds=3600)
    assert kept.stat().st_mtime_ns == written
    assert {method["name"] for method in found["methods"] if not method.get("left_out")} == set(TRIED)
    assert found["protocol"]["budget_s"] == 3600 and json.loads((out / "comparison.json").read_text())["budget_seconds"] == 3600


def test_fewer_tasks_than_an_interval_needs_are_refused_before_anything_is_fitted(tmp_path):
    unit_rows(units=3, rows=12).write_csv(tmp_path / "units.csv")
    settings = Table(data=str(tmp_path / "units.csv"), adapter="gradient", **COLUMNS, **TINY)
    with pytest.raises(InputError, match=r"at least 7 tasks to judge methods on, got 3: .* Give more tasks"):
        compare.compare(settings, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [{"budget_seconds": 0.0}, {"seeds": 0}, {"margin": -0.1}])
def test_numbers_out_of_range_are_refused(wrong, tmp_path):
    with pytest.raises(InputError, match="should be"):
        compare.compare(Sine(**TINY), tmp_path / "out", quiet=True, **wrong)


@pytest.mark.slow
def test_of_few_tasks_every_one_is_tested_once(tmp_path, monkeypatch, no_probes):
    monkeypatch.setattr(runner, "methods_of", only(lambda method: method.name in ("prior", "ridge", "joint", "maml")))
    monkeypatch.setattr("fewstep.compare.run.FEW_TASKS", 13)
    rows = unit_rows(units=12, rows=12)
    rows.write_csv(tmp_path / "units.csv")
    settings = Table(data=str(tmp_path / "units.csv"), adapter="gradient", test_fraction=1 / 3, **COLUMNS, **TINY)
    found = compare.compare(settings, tmp_path / "out", budget_seconds=3600, seeds=1, quiet=True)
    assert found["protocol"]["cross_fitted"] and found["protocol"]["folds"] == 3
    assert sorted(found["tasks"]) == rows["unit"].unique().sort().to_list()
    assert any("12 tasks say little" in sentence for sentence in found["verdict"]["sentences"])
    assert all(len(errors) == 12 for errors in found["by_task"].values())


def units():
    return unit_rows(units=30, rows=12)


def test_a_task_that_is_there_twice_is_refused_with_its_rows(tmp_path):
    rows = units()
    names = rows["unit"].unique().sort()
    settings = Table(data=str(tmp_path / "units.csv"), adapter="gradient", **COLUMNS, **TINY)
    rows.write_csv(settings.data)
    first = make_benchmark(settings, 0)
    check_leaks(first)
    held, trained = first.test.names[0], first.family.names[0]
    twice = pl.concat(
        [rows.filter(pl.col("unit") != held), rows.filter(pl.col("unit") == trained).with_columns(unit=pl.lit(held))]
    )
    twice.cast({"unit": rows["unit"].dtype}).write_csv(settings.data)
    with pytest.raises(InputError, match=f"all rows of '{held}' \\(rows 349 to 360\\) are those of '{trained}'"):
        check_leaks(make_benchmark(settings, 0))
    assert len(names) == 30


def test_a_photo_that_lies_in_a_held_out_class_too_is_refused_by_its_file_and_one_of_a_single_color_is_not():
    photos = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
    photos[1] = photos[5] = 255
    files = tuple(f"{name}/{number}.jpg" for name in "abc" for number in (1, 2))
    found = ImageSet(photos, np.array([2, 2, 2]), ("a", "b", "c"), files)
    parts = {"train": np.array([0]), "validation": np.array([1]), "test": np.array([2])}
    refuse_known_photos(found, parts)
    photos[4] = photos[0]
    with pytest.raises(InputError, match=r"1 photo of meta-test classes would be known from training: c/1\.jpg is a/1\.jpg\."):
        refuse_known_photos(found, parts)
    refuse_known_photos(found, {**parts, "train": np.array([1]), "validation": np.array([0])})


def paces(**seconds):
    return {name: plan.Pace(1.0, each, 1e6 * each) for name, each in seconds.items()}


def costs(**seconds):
    return plan.Costs(
        paces(**seconds), dict.fromkeys(seconds, 2), dependents=("joint-ridge",), folds=1, extra=0.5, compiling=1.0
    )


def test_a_plan_takes_the_time_that_there_is_and_no_more():
    found = costs(maml=0.01, joint=0.002)
    for left in (30.0, 60.0, 120.0):
        made = plan.planned(found, left, recipe=5_000, seeds=2)
        assert 0.97 * left <= found.seconds(made) <= left or made.meta_steps == 5_000


def test_where_time_is_plenty_every_method_has_its_whole_recipe():
    made = plan.planned(costs(maml=0.01, joint=0.002), 1e5, recipe=5_000, seeds=3)
    assert (made.meta_steps, made.seeds, made.search, made.left_out, made.notes) == (5_000, 3, True, {}, ())
    assert made.equal_compute == {"joint": 25_000}


def test_where_time_lacks_extras_go_first_then_seeds_then_methods():
    found, given_up = costs(maml=0.01, joint=0.002, reptile=0.008, anil=0.01), []
    for left in np.geomspace(400, 16, 12):
        made = plan.planned(found, float(left), recipe=5_000, seeds=3)
        given_up.append((not made.equal_compute, not made.search, 3 - made.seeds, len(made.left_out)))
        assert not {"maml", "joint"} & set(made.left_out)
    assert given_up == sorted(given_up)
    assert given_up[0] == (False, False, 0, 0) and given_up[-1][2] == 2 and given_up[-1][3] > 0
    for left, out in ((3.3, {"maml", "reptile", "anil"}), (0.1, {"maml", "joint", "joint-ridge", "reptile", "anil"})):
        made = plan.planned(found, left, recipe=5_000, seeds=3)
        assert set(made.left_out) == out and found.seconds(made) <= left if made.meta_steps else set(made.left_out) >= out
    assert not made.meta_steps


def test_the_verdict_names_the_methods_that_the_budget_left_out():
    runner = SimpleNamespace(method=lambda name: SimpleNamespace(title=name.upper()))
    left_out = {"anil": LEFT_OUT, "reptile": LEFT_OUT, "tabpfn": "not installed"}
    runner.directory = "out"
    made = SimpleNamespace(runner=runner, folds=[0], left_out=left_out, budget=100.0)
    known = SimpleNamespace(tasks=lambda: range(40))
    whole = plan.planned(costs(maml=0.01), 1e5, recipe=5_000, seeds=3)
    (said,) = more_sentences(made, whole, SimpleNamespace(method="maml"), "maml", known)
    assert "left out: ANIL; REPTILE." in said and said.endswith("fewstep compare --resume out --budget 5m")
    made.left_out = {"tabpfn": "not installed", "anil": "failed: ValueError: odd"}
    assert more_sentences(made, whole, SimpleNamespace(method="maml"), "maml", known) == ["ANIL failed: ValueError: odd."]
    made.left_out = {"tabpfn": "not installed"}
    assert more_sentences(made, whole, SimpleNamespace(method="maml"), "maml", known) == []


def test_a_plan_is_the_same_when_it_is_read_again():
    made = plan.planned(costs(maml=0.01, joint=0.002), 40.0, recipe=5_000, seeds=3)
    assert validate(json.loads(json.dumps(asdict(made))), plan.Plan) == made


def test_the_command_tells_what_it_needs(command):
    code, out, _ = command("compare", "--help")
    assert code == 0 and "robot-faults" in out and "--budget" in out
    for words, said in (
        (("compare", "cosine"), "no problem 'cosine'; expected one of"),
        (("compare", "sine", "--budget", "soon"), "--budget should be a time such as 90s"),
        (("compare", "--resume", "nowhere"), "found no comparison.json"),
        (("compare", "table"), "--data is missing"),
        (("compare", "sine", "--preset", "none"), "there is no preset 'none'"),
    ):
        code, _, err = command(*words)
        assert code == 2 and said in err and "Traceback" not in err


def test_the_command_prints_the_verdict_and_the_table(command, tmp_path, no_probes):
    words = ["--budget", "1h", "--seeds", "1", "--out", "out", "--hidden", "8", "--meta-steps", "8", "--meta-batch-size", "3"]
    code, out, err = command("compare", "sine", *words, "--adaptation-steps", "2", "--shots", "5", "--queries", "5")
    assert code == 0, err
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert found["verdict"]["sentences"][0] in " ".join(out.split())
    assert "MAML, exact" in out and "compare.json" in out and "fewstep adapt out/run" in out
    assert "first, without training" in err
    code, out, _ = command("compare", "--resume", "out", "--json")
    assert code == 0 and without_times(json.loads(out)) == without_times(found)


class Clock:
    """A display whose seconds pass by what is done alone."""

    def __init__(self):
        self.spent, self.done = 0.0, 0

    def step(self):
        self.done += 1

    def say(self, text):
        pass

    def note(self, text):
        pass


class Timed(runner.Runner):
    """A runner on which every fitting takes known seconds, `slower` times what was planned, and leaves its record alone."""

    def scored(self, method, seed, fold, lengths):
        folder = self.folder(method, seed, fold, lengths)
        if not (folder / runner.RECORD).is_file():
            steps = lengths.meta_steps.get(method.name, 0)
            each = steps * 0.01 + 1.0
            searched = len(method.grid(self.benchmarks[0])) - 1 if lengths.search and not seed and steps else 0
            self.clock.spent += self.slower * (each + searched * (runner.SEARCH_PART * steps * 0.01 + 1.0))
            folder.mkdir(parents=True)
            (folder / runner.RECORD).write_text("{}")


@pytest.mark.parametrize("slower", [0.7, 1.0, 2.0, 4.0])
def test_trainings_keep_the_budget_where_they_take_longer_than_planned(slower, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "methods_of", only(lambda method: True))
    timed, clock, budget = Timed(tmp_path, (make_benchmark(Sine(**TINY), 0),), lambda text: None), Clock(), 300.0
    timed.clock, timed.slower = clock, slower
    comparing = Session(timed, clock, budget, 3)
    trained = {method.name: 0.01 for method in comparing.trained()}
    found = plan.Costs(
        paces(**trained),
        {method.name: len(method.grid(timed.benchmarks[0])) for method in comparing.trained()},
        ("joint-ridge", "joint-finetuned"),
        1,
        1.0,
        0.0,
    )
    made = plan.planned(found, (1 - plan.LAST_PART) * budget, 5_000, 3)
    done = comparing.train(made)
    assert 1 <= done <= 3 and clock.spent <= 1.1 * budget
    assert done == 3 and not comparing.left_out if slower <= 1 else done < 3 or comparing.left_out
    taking_part = [method for method in comparing.taking_part() if method.problem is not None]
    assert {"maml", "joint"} <= {method.name for method in taking_part}
    assert all(comparing.is_done([method], seed, made.lengths()) for method in taking_part for seed in range(done))


def quick_ones(tmp_path, monkeypatch, budget=300.0, **fails):
    """A comparison of quick methods, each of which takes a second; those of `fails` raise."""

    class Failing(Timed):
        def scored(self, method, seed, fold, lengths):
            if method.name in fails:
                raise fails[method.name]
            super().scored(method, seed, fold, lengths)

    monkeypatch.setattr(runner, "methods_of", only(lambda method: method.problem is None))
    timed, clock = Failing(tmp_path, (make_benchmark(Sine(**TINY), 0),), lambda text: None), Clock()
    timed.clock, timed.slower = clock, 1.0
    comparing = Session(timed, clock, budget, 3)
    comparing.score_quick(None)
    return comparing


def test_a_method_that_raises_is_left_out_by_its_reason_and_the_others_go_on(tmp_path, monkeypatch):
    comparing = quick_ones(tmp_path, monkeypatch, gp=ValueError("odd"))
    assert comparing.left_out["gp"] == "failed: ValueError: odd"
    others = [method.name for method in comparing.quick_methods()]
    assert "gp" not in others and {"prior", "ridge", "pooled", "boosting"} <= set(others)
    assert all(comparing.is_done([comparing.runner.method(name)], 0, QUICK) for name in others)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), DamagedRecord("scores.json is damaged")])
def test_what_is_no_fault_of_a_method_ends_the_comparison(tmp_path, monkeypatch, error):
    with pytest.raises(type(error)):
        quick_ones(tmp_path, monkeypatch, gp=error)


def test_quick_methods_leave_time_for_the_others_and_the_first_takes_part_always(tmp_path, monkeypatch):
    comparing = quick_ones(tmp_path, monkeypatch, budget=5.0)
    taken = comparing.quick_methods()
    assert [method.name for method in taken] == ["prior", "ridge", "pooled"] and comparing.display.spent <= QUICK_PART * 5.0 + 1
    assert {why for name, why in comparing.left_out.items() if name in ("gp", "mixed", "boosting", "scratch")} == {LEFT_OUT}
    assert json.loads((tmp_path / "state.json").read_text())["spent"] == comparing.display.spent
    comparing.until = 60.0
    comparing.retry_quick()
    assert {"gp", "boosting", "scratch"} <= {method.name for method in comparing.taking_part()}


def test_a_method_that_starts_from_one_that_was_left_out_is_left_out(tmp_path, monkeypatch):
    comparing = quick_ones(tmp_path, monkeypatch)
    monkeypatch.setattr(runner, "methods_of", only(lambda method: True))
    comparing.left_out["joint"] = LEFT_OUT
    comparing.train_one(comparing.runner.method("joint-finetuned"), 0, plan.Plan(8, 1, False, {}, {}))
    assert comparing.left_out["joint-finetuned"] == LEFT_OUT


def test_a_recommended_run_of_another_method_takes_the_place_of_the_one_before(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
    for name, seed in (("one", 0), ("one", 0), ("other", 0)):
        copy_run(tmp_path / name, tmp_path / "run", {"method": name, "seed": seed})
        assert (tmp_path / "run" / "config.json").read_text() == name


def test_compiling_is_timed_as_if_the_cache_were_empty():
    with plan.seconds_saved() as saved:
        jax.monitoring.record_event_duration_secs("/jax/compilation_cache/compile_time_saved_sec", 4.0)
        jax.monitoring.record_event_duration_secs("/jax/compilation_cache/compile_time_saved_sec", -1.0)
        jax.monitoring.record_event_duration_secs("/jax/compilation_cache/cache_retrieval_time_sec", 9.0)
    jax.monitoring.record_event_duration_secs("/jax/compilation_cache/compile_time_saved_sec", 7.0)
    assert sum(saved) == 4.0
