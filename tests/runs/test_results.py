"""Figures of several runs side by side: what was got in the same way shares a column. Place: fewstep/runs, cli/results.py."""

import json

import pytest

from fewstep import cli
from fewstep.runs.results import METHOD, Result, columns_of, differences

PROTOCOL = {
    "data": "Omniglot",
    "split": "Vinyals",
    "ways": 5,
    "shots": 1,
    "queries_per_class": 15,
    "trained_adaptation_steps": 2,
    "chosen_adaptation_steps": 2,
    "classes_turned_at_test": False,
    "normalization": "each image by itself",
    "models": "single",
    "tasks": 1000,
    "classes": 423,
    "network": "conv4",
}


def of(name, **changed):
    conditions = {key: value for key, value in {**PROTOCOL, **changed}.items() if key not in METHOD}
    return Result(name, 2, 0.9, 0.01, 0.02, conditions)


@pytest.mark.parametrize("name", [name for name in PROTOCOL if name not in METHOD])
def test_results_that_differ_in_any_condition_never_share_a_column(name):
    columns = columns_of([of("one"), of("other", **{name: "else"}), of("third")])
    assert [[result.name for result in column.results] for column in columns] == [["one", "third"], ["other"]]
    assert differences(columns) == {name: [PROTOCOL[name], "else"]}


def test_another_network_is_another_row_not_another_column():
    assert len(columns_of([of("one"), of("other", network="resnet12")])) == 1


def test_a_condition_that_only_one_of_them_has_keeps_them_apart():
    lacking = of("other")._replace(conditions={name: value for name, value in of("").conditions.items() if name != "ways"})
    assert differences(columns_of([of("one"), lacking])) == {"ways": [5, None]}


@pytest.fixture
def runs(tmp_path):
    """Two runs as they lie on disk, whose evaluations differ in their queries."""
    from fewstep.application import presets
    from fewstep.runs.config import write_config

    settings = presets()["sine"]["tutorial"][0]
    for name, queries in (("first", 15), ("second", 1)):
        (tmp_path / name).mkdir()
        write_config(settings, settings.build(0), tmp_path / name, 0, "tutorial")
        figures = {"steps": [0, 2], "mean": [0.2, 0.9], "ci95": [0.0, 0.01], "ci95_by_class": [0.01, 0.02]}
        found = {"problem": "sine", "preset": "tutorial", "metric": "accuracy", "tasks": 1000, **figures}
        protocol = {**PROTOCOL, "queries_per_class": queries}
        (tmp_path / name / "evaluation.json").write_text(json.dumps({**found, "protocol": protocol}))
    return tmp_path


def test_the_table_says_why_it_splits_results(runs, capsys):
    assert cli.main(["results", str(runs / "first"), str(runs / "second"), "--markdown"]) == 0
    out = capsys.readouterr().out
    assert "| first (tutorial) | 0.9 ± 0.01 (0.02) |  |" in out and "| second (tutorial) |  | 0.9 ± 0.01 (0.02) |" in out
    assert "queries per class: A 15, B 1" in out and "classes 423" in out
    assert cli.main(["results", str(runs / "first"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"] == {}
    assert cli.main(["results", str(runs / "first"), str(runs / "second")]) == 0
    assert "2 columns, since these differ" in capsys.readouterr().out


def test_a_run_without_figures_or_with_damaged_ones_is_named(runs, capsys):
    (runs / "first" / "evaluation.json").write_text('{"steps": []}')
    (runs / "second" / "evaluation.json").unlink()
    for name, said in (("first", "damaged"), ("second", "fewstep evaluate")):
        assert cli.main(["results", str(runs / name)]) == 2
        assert said in capsys.readouterr().err
    assert cli.main(["results", str(runs / "first"), str(runs / "second")]) == 2
    assert cli.main(["results"]) == 2 and cli.main(["results", str(runs / "none")]) == 2


def test_a_run_that_has_no_figures_yet_does_not_hide_those_of_the_others(runs, capsys):
    (runs / "second" / "evaluation.json").unlink()
    assert cli.main(["results", str(runs / "first"), str(runs / "second"), "--markdown"]) == 0
    out, err = capsys.readouterr()
    assert "| first (tutorial) | 0.9 ± 0.01 (0.02) |" in out and "second" not in out
    assert "left out:" in err and "fewstep evaluate" in err
