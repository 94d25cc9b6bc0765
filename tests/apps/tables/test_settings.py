"""A user's table as a Problem: who is meta-train, -validation, -calibration and -test, what is counted, and what is refused.
Place: fewstep/apps/tables/settings.py."""

import datetime

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from known import KEY, unit_rows
from msgspec import structs

from fewstep import InputError
from fewstep.apps.tables.settings import Table, report_counts
from fewstep.apps.tables.tasks import split_tasks
from fewstep.storage.tables import FILE
from fewstep.supervised.columns import TableFormat
from fewstep.supervised.evaluate import evaluate, task_errors

SPLITS = ("train", "validation", "calibration", "test")


def numbered(lengths, seed=0):
    """A table in which the target of every row is the number of its unit."""
    rng = np.random.default_rng(seed)
    rows = [(f"u{unit:02}", float(rng.normal()), float(unit)) for unit, length in enumerate(lengths) for _ in range(length)]
    return pl.DataFrame(rows, schema=["unit", "x", "y"], orient="row")


def settings(**changes):
    given = {"data": "memory", "task": "unit", "inputs": ("x",), "target": ("y",), "adapter": "bayes-head"}
    return Table(**{**given, "shots": 3, "queries": 4, "hidden": (2,), **changes})


def problem_of(table, seed=0, **changes):
    return settings(**changes).build_from(table, "a table", seed)


def names(problem, split):
    family = getattr(problem.splits, split)
    return [] if family is None else list(family.names)


def all_names(problem):
    return {split: names(problem, split) for split in SPLITS}


def everyone(problem):
    return sorted(name for split in SPLITS for name in names(problem, split))


def rows_of(problem, split, task):
    """(inputs, targets) of all rows of a task."""
    examples = getattr(problem.splits, split).examples(jnp.asarray(task))
    real = np.asarray(examples.weight) > 0
    return np.asarray(examples.inputs)[real], np.asarray(examples.targets)[real]


def refused(act, *words):
    with pytest.raises(InputError) as caught:
        act()
    message = str(caught.value)
    assert not [word for word in words if word not in message], message
    assert 1 <= len(message.splitlines()) <= 3


@pytest.mark.parametrize("tasks", [3, 4, 5, 7, 20, 39, 40, 45, 41, 300])
@pytest.mark.parametrize("test_fraction", [0.1, 0.2, 0.25, 1 / 3])
def test_tasks_are_split_into_disjoint_parts_of_which_half_of_what_would_validate_calibrates(tasks, test_fraction):
    folds = round(1 / test_fraction)
    everyone, tested, held = list(range(tasks)), [], []
    for fold in range(min(folds, tasks)):
        parts = split_tasks(tasks, 0, test_fraction, fold)
        assert set(parts) == set(SPLITS)
        assert sorted(np.concatenate(list(parts.values())).tolist()) == everyone
        assert all(parts[name].size for name in ("train", "validation", "test"))
        validating = parts["validation"].size + parts["calibration"].size
        half = validating // 2
        assert parts["calibration"].size == (half if half >= 4 else 0)
        for size in (parts["test"].size, validating):
            assert size in (tasks // folds, tasks // folds + 1) or tasks < folds
        tested += parts["test"].tolist()
        held += [*parts["validation"].tolist(), *parts["calibration"].tolist()]
    assert sorted(tested) == everyone  # over all folds, every task is tested once
    assert sorted(held) == everyone  # and held out for validation and calibration once


def test_the_number_of_tasks_that_calibrate_is_half_of_a_fifth_or_none():
    sizes = {tasks: split_tasks(tasks, 0, 0.2, 0)["calibration"].size for tasks in (20, 35, 40, 100)}
    assert sizes == {20: 0, 35: 0, 40: 4, 100: 10}


def test_families_of_a_problem_are_the_parts_of_its_split():
    problem = problem_of(numbered([6] * 40), seed=3)
    parts = split_tasks(40, 3, 0.2, 0)
    assert all_names(problem) == {name: [f"u{task:02}" for task in part] for name, part in parts.items()}
    assert problem.splits.left_out == 0
    assert problem_of(numbered([6] * 20)).splits.calibration is None


def test_episodes_of_a_family_hold_the_rows_of_its_named_task_alone():
    table = numbered([6, 8, 7, 9, 5] * 8)
    problem = problem_of(table)
    for split in SPLITS:
        family = getattr(problem.splits, split)
        episodes = jax.jit(jax.vmap(family.episode, (0, None)))(family.tasks(100), KEY)
        for task, name in enumerate(family.names):
            unit = table.filter(pl.col("unit") == name)
            found = np.concatenate([np.asarray(part.inputs)[task][np.asarray(part.weight)[task] > 0, 0] for part in episodes])
            column = problem.format.inputs[0]
            apart = np.abs(found[:, None] * column.scale + column.center - unit["x"].to_numpy()[None])
            np.testing.assert_allclose(apart.min(1), 0, atol=1e-5)
            assert found.size == (unit.height if split != "train" else min(unit.height, 3 + 4))  # all but training use all


def test_the_split_depends_on_the_seed_and_on_the_names_of_the_tasks_alone():
    table = numbered([6] * 20)
    first = all_names(problem_of(table))
    assert all_names(problem_of(table.sample(fraction=1, shuffle=True, seed=5))) == first
    assert all_names(problem_of(table, shots=(1, 4))) == first
    assert all_names(problem_of(table, seed=1)) != first


def test_another_split_can_be_given():
    chosen = {"train": np.array([5, 6]), "validation": np.array([1]), "calibration": np.zeros(0, int), "test": np.array([2])}
    problem = settings().build_from(
        numbered([6] * 8), "a table", 7, lambda tasks, seed: {**chosen, "test": np.array([tasks - seed])}
    )
    assert all_names(problem) == {"train": ["u05", "u06"], "validation": ["u01"], "calibration": [], "test": ["u01"]}
    assert problem.splits.left_out == 5  # a task in two parts counts once


def test_rows_are_put_in_the_order_of_their_time():
    table = unit_rows().sample(fraction=1, shuffle=True, seed=3)
    changes = {"inputs": ("day",), "target": ("flow",), "time": "day", "shots": 4}
    problem, unsorted = problem_of(table, **changes), problem_of(table, **{**changes, "time": ""})
    for task in range(problem.splits.test.size):
        days, _ = rows_of(problem, "test", task)
        assert np.all(np.diff(days[:, 0]) > 0)
        shown = problem.illustrate(task)
        assert shown.support_x.max() < np.setdiff1d(shown.x, shown.support_x).min()
    assert not all(np.all(np.diff(rows_of(unsorted, "test", task)[0][:, 0]) > 0) for task in range(unsorted.splits.test.size))
    assert "just before" in problem.protocol["support"]
    assert "at random" in unsorted.protocol["support"]


@pytest.mark.parametrize(
    ("time", "kinds"),
    [
        (pl.col("day"), ()),
        (pl.col("day").dt.strftime("%d.%m.%Y"), ()),
        (pl.col("day").dt.strftime("%m/%d/%Y"), ()),
        (pl.col("day").dt.strftime("%Y%m%d").cast(pl.Int64), ()),
        (pl.col("day").dt.strftime("%Y%m%d").cast(pl.Int64), ("when=date:%Y%m%d",)),
        (pl.col("day").dt.strftime("%d|%m|%y"), ("when=date:%d|%m|%y",)),
        (pl.col("day").dt.epoch("s") / 7, ()),
    ],
)
def test_time_may_be_a_date_of_any_format_or_a_number_and_need_be_no_input(time, kinds):
    table = unit_rows().with_columns(when=time).sample(fraction=1, shuffle=True, seed=3)
    problem = problem_of(table, inputs=("depth",), target=("flow",), time="when", kinds=kinds)
    ordered = table.sort("unit", "day")
    for task, name in enumerate(names(problem, "train")):
        flow = problem.format.restore(rows_of(problem, "train", task)[1])[:, 0]
        np.testing.assert_allclose(flow, ordered.filter(pl.col("unit") == name)["flow"], rtol=1e-6)


def test_how_an_ambiguous_time_was_read_is_said():
    table = unit_rows().with_columns(when=pl.lit("02/03/2016"))
    problem = problem_of(table, inputs=("depth",), target=("flow",), time="when")
    assert (
        "--time when: read as day/month/year (not as month/day/year: then declare --kinds when=date:%m/%d/%Y)" in problem.notes
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"time": "dya"}, ["did you mean 'day'"]),
        ({"time": "word"}, ["--time 'word'", "category"]),
        ({"time": "holed"}, ["--time 'holed'", "12 gaps (data rows 1, 16, 31, 46, 61, ...)"]),
        ({"kinds": ("unit=category",)}, ["--kinds names 'unit'"]),
        ({"kinds": ("dya=date",), "time": "day"}, ["--kinds names 'dya'"]),
        ({"kinds": ("depth=words",)}, ["COLUMN=KIND"]),
        ({"kinds": ("depth=date",)}, ["'depth'", "declared a date"]),
    ],
)
def test_times_and_kinds_that_cannot_be_used_are_refused(changes, words):
    first = pl.int_range(pl.len()).over("unit") == 0
    table = unit_rows().with_columns(word=pl.lit("noon"), holed=pl.when(~first).then(pl.col("day")))
    refused(lambda: problem_of(table, inputs=("depth",), target=("flow",), **changes), *words)


def test_tasks_without_a_row_to_query_are_left_out_and_counted():
    problem = problem_of(numbered([6, 3, 4, 2, 9, 5, 3]))
    assert everyone(problem) == ["u00", "u02", "u04", "u05"]
    assert problem.splits.left_out == 3
    ranged = problem_of(numbered([6, 3, 4, 2, 9, 5, 3, 1]), shots=(1, 4))  # of a range, the least counts
    assert everyone(ranged) == [f"u0{unit}" for unit in range(7)]
    none = problem_of(numbered([6, 3, 4, 2, 9, 5, 3, 1]), shots=(0, 4))  # one row cannot adapt and be asked for
    assert everyone(none) == everyone(ranged)


def test_where_all_tasks_that_would_calibrate_are_too_short_nothing_is_calibrated():
    table = numbered([6] * 40)
    short = names(problem_of(table), "calibration")
    few = table.filter(~pl.col("unit").is_in(short) | (pl.int_range(pl.len()).over("unit") < 2))
    problem = problem_of(few)
    assert problem.splits.calibration is None
    assert problem.splits.left_out == len(short) == 4


def test_the_format_is_fitted_on_meta_train_tasks_alone():
    table = numbered([6] * 20)
    problem = problem_of(table)
    seen = table.filter(pl.col("unit").is_in(names(problem, "train")))
    target, column = problem.format.targets[0], problem.format.inputs[0]
    np.testing.assert_allclose([target.center, target.scale], [seen["y"].mean(), seen["y"].std(ddof=0)])
    np.testing.assert_allclose([column.center, column.scale], [seen["x"].mean(), seen["x"].std(ddof=0)])
    assert column.span == (seen["x"].min(), seen["x"].max())


def test_rows_without_a_target_are_dropped_and_counted():
    table = numbered([6] * 20).with_columns(z=pl.col("x") ** 2)
    row = pl.int_range(pl.len())
    holed = table.with_columns(y=pl.when(row % 6 != 2).then(pl.col("y")), z=pl.when(row % 6 > 2).then(pl.col("z")))
    problem = problem_of(holed, target=("y", "z"), shots=2)
    assert "y: 20 of 120 rows lack this target; their other targets count" in problem.notes
    assert "z: 60 of 120 rows lack this target; their other targets count" in problem.notes
    assert "20 of 120 rows lack every target and are left out" in problem.notes
    whole = problem_of(holed, target=("y", "z"), shots=2, adapter="in-context", hidden=(4,))  # reads whole rows
    assert "y: 20 of 120 rows lack this target and are left out" in whole.notes
    kept = problem_of(table.filter(row % 6 > 2), target=("y", "z"), shots=2)
    assert whole.format == kept.format
    for one, other in zip(rows_of(whole, "test", 0), rows_of(kept, "test", 0), strict=True):
        np.testing.assert_array_equal(one, other)
    nan = table.with_columns(y=pl.when(row % 6 != 2).then(pl.col("y")).otherwise(float("nan")))
    assert "y: 20 of 120 rows lack this target and are left out" in problem_of(nan).notes


def test_a_row_that_lacks_a_target_keeps_its_others_and_gaps_cost_no_unit():
    """Of three targets each row has two: all units stay, and the cells of episodes are those of the table."""
    table = numbered([6] * 20).with_columns(row=pl.int_range(pl.len()) * 1.0)
    lacks = pl.int_range(pl.len()) % 3
    targets = {name: pl.when(lacks != place).then(pl.col("row") + 1000 * place) for place, name in enumerate("pqr")}
    holed = table.with_columns(**targets)
    problem = problem_of(holed, inputs=("row",), target=("p", "q", "r"))
    assert len(everyone(problem)) == 20 and problem.splits.left_out == 0
    train = holed.filter(pl.col("unit").is_in(names(problem, "train")))
    for column in problem.format.targets:  # fitted to the known cells
        known = train[column.name].drop_nulls()
        np.testing.assert_allclose([column.center, column.scale], [known.mean(), known.std(ddof=0)])
    episode = problem.splits.test.episode(jnp.asarray(0), jax.random.key(0))
    for part in episode:
        inputs, targets, weight = (np.asarray(leaf) for leaf in part)
        assert weight.shape == targets.shape
        real = weight.any(1)
        column = problem.format.inputs[0]
        rows = np.round(inputs[real, 0] * column.scale + column.center).astype(int)
        expected = np.stack([rows % 3 != place for place in range(3)], 1)
        np.testing.assert_array_equal(weight[real] > 0, expected)
        truth = problem.format.restore(targets[real])
        np.testing.assert_allclose(truth[expected], (rows[:, None] + 1000 * np.arange(3))[expected], rtol=1e-4)
        assert not targets[weight == 0].any()


def test_scores_of_several_targets_with_gaps_are_means_over_known_values():
    """Of an untrained model, before adaptation: by numpy over all query cells of a unit."""
    table = numbered([9] * 12).with_columns(z=1000 * pl.col("x") ** 2 + pl.col("y"))
    row, odd = pl.int_range(pl.len()), names(problem_of(table, shots=2), "train")[1]
    holed = table.with_columns(y=pl.when(row % 3 != 0).then(pl.col("y")), z=pl.when(pl.col("unit") != odd).then(pl.col("z")))
    problem = problem_of(holed, target=("y", "z"), shots=2, adapter="gradient")
    params = problem.init(jax.random.key(1))
    family = problem.splits.train
    tasks = jnp.arange(len(family.names))
    found = jax.jit(lambda params: task_errors(problem, params, family, tasks, (0,), jax.random.key(0)))(params)
    for task in range(len(family.names)):
        keys = jax.random.split(jax.random.split(jax.random.fold_in(jax.random.key(0), task), 1)[0])
        query = family.episode(jnp.asarray(task), keys[0]).query
        known = np.asarray(query.weight) > 0
        squares = np.square(np.asarray(problem.predict(params.theta, query.inputs)) - np.asarray(query.targets))
        np.testing.assert_allclose(found.metrics["standardized_mse"][task, 0], squares[known].mean(), rtol=1e-4)
        for place, target in enumerate(problem.format.targets):
            own = squares[known[:, place], place] * target.scale**2
            expected = own.mean() if own.size else np.nan
            np.testing.assert_allclose(found.metrics[f"mse {target.name}"][task, 0], expected, rtol=1e-4)
    assert np.isnan(found.metrics["mse z"][family.names.index(odd), 0])
    result = evaluate(problem, params, steps=(0,), tasks=20, split="train")
    of_z = np.asarray(found.metrics["mse z"][:, 0])
    assert result["metrics"]["mse z"]["diverged"] == [0]
    np.testing.assert_allclose(result["metrics"]["mse z"]["mean"][0], np.nanmean(of_z), rtol=1e-5)


def test_gaps_and_strange_values_of_inputs_are_counted_over_the_whole_table():
    table = numbered([6] * 20)
    known = problem_of(table)
    row, held = pl.int_range(pl.len()), pl.col("unit").is_in(names(known, "test"))
    strange = table.with_columns(
        x=pl.when(row % 60 == 0).then(None).when(held & (row % 6 == 1)).then(1e3).otherwise(pl.col("x")),
        color=pl.when(held).then(pl.lit("pink")).otherwise(pl.when(row % 2 == 0).then(pl.lit("red")).otherwise(pl.lit("blue"))),
    )
    notes = problem_of(strange, inputs=("x", "color")).notes
    train = strange.filter(pl.col("unit").is_in(names(known, "train")))["x"]
    beyond = strange.filter((pl.col("x") < train.min()) | (pl.col("x") > train.max())).height
    assert beyond >= 4
    assert any(note.startswith("x: 2 of 120 values are missing and become the mean") for note in notes)
    assert any(note.startswith(f"x: {beyond} of 120 values lie outside the trained range") for note in notes)
    assert "color: 24 of 120 values are of no category that is kept ('pink'): 'other'" in notes


def test_units_of_one_row_and_units_whose_target_never_changes_are_counted_by_name():
    table = numbered([6, 1, 6, 1, 6, 6, 6, 6]).with_columns(
        y=pl.when(pl.col("unit").is_in(["u04", "u06"])).then(2.0).otherwise(pl.col("x"))
    )
    notes = problem_of(table).notes
    assert "2 of 8 units have one row (u01, u03)" in notes
    assert "2 of 8 units have one target value in all their rows (u04, u06)" in notes
    assert not any("units" in note for note in problem_of(numbered([6] * 8).with_columns(y=pl.col("x") ** 2)).notes)
    assert "8 of 8 units have one target value in all their rows (u00, u01, u02, ...)" in problem_of(numbered([6] * 8)).notes


def test_a_leak_is_warned_of():
    problem = problem_of(unit_rows().with_columns(copy=5 - 2 * pl.col("flow")), inputs=("depth", "copy"), target=("flow",))
    assert [note for note in problem.notes if "copy" in note] == [
        "warning: input 'copy' says exactly what target 'flow' is; will you know it when you ask?"
    ]


@pytest.mark.parametrize(
    ("target", "kinds", "classes"),
    [
        (pl.col("x") > 0, (), ("false", "true")),
        (pl.when(pl.col("x") > 0).then(pl.lit("up")).otherwise(pl.lit("down")), (), ("down", "up")),
        (pl.col("x").sign().cast(pl.Int64) + 1, ("y=category",), ("0", "2")),
        (pl.col("x").round().clip(-1, 1).cast(pl.Int64).cast(pl.String) + "!", (), ("-1!", "0!", "1!")),
    ],
)
def test_a_target_of_classes_makes_a_classification(target, kinds, classes):
    table = numbered([9] * 20).with_columns(y=target)
    problem = problem_of(table, kinds=kinds)
    assert problem.format.classes == classes
    assert list(problem.metrics) == ["log_loss", "error_rate"]
    for task, name in enumerate(names(problem, "test")):
        expected = table.filter(pl.col("unit") == name)["y"].cast(pl.String).to_list()
        assert [classes[hot] for hot in rows_of(problem, "test", task)[1].argmax(1)] == expected


def test_several_targets_are_measured_together_in_standard_deviations_and_each_in_its_own_units():
    table = numbered([9] * 20).with_columns(z=1000 * pl.col("x") ** 2)
    problem = problem_of(table, target=("y", "z"))
    assert list(problem.metrics) == ["standardized_mse", "mse y", "mse z"]
    assert problem.format.outputs == 2
    truth = problem.format.restore(rows_of(problem, "test", 0)[1])
    unit = table.filter(pl.col("unit") == names(problem, "test")[0])
    np.testing.assert_allclose(truth, unit.select("y", "z").to_numpy(), rtol=1e-5, atol=1e-4)


def test_an_illustration_shows_the_rows_of_its_task_in_the_units_of_the_file():
    table = unit_rows()
    problem = problem_of(table, inputs=("depth", "day"), target=("flow",))
    shown = problem.illustrate(1)
    unit = table.filter(pl.col("unit") == shown.title)
    assert shown.title == problem.splits.test.names[1]
    when = unit["day"].cast(pl.Datetime("us")).dt.epoch("s").to_numpy()
    np.testing.assert_array_equal(shown.x, when)
    np.testing.assert_allclose(shown.truth, unit["flow"], rtol=1e-6)
    assert np.isin(shown.support_x, when).all()
    assert shown.support_x.size == 3
    flow = dict(zip(when.tolist(), unit["flow"].to_list(), strict=True))
    restored = problem.format.restore(np.asarray(shown.support.targets))[:, 0]
    np.testing.assert_allclose(restored, [flow[moment] for moment in shown.support_x.tolist()], rtol=1e-6)
    by_category = problem_of(table.with_columns(deep=pl.col("depth") > 5), inputs=("deep",), target=("flow",)).illustrate(1)
    assert by_category.x.size == unit.height  # along the number of the row, where nothing else orders them
    assert np.all(np.diff(by_category.x) > 0)


def test_results_are_given_from_a_fourth_to_four_times_the_shots_or_over_their_range_where_rows_allow():
    lengths = np.array([30, 40, 50])
    assert report_counts((10, 10), np.array([100])) == (2, 5, 10, 20, 40)
    assert report_counts((10, 10), lengths) == (2, 5, 10, 20)  # half of the tasks have 40 rows or more
    assert report_counts((1, 1), lengths) == (1, 2, 4)
    assert report_counts((60, 60), lengths)[-1] == 60  # the trained number always
    counts = report_counts((3, 30), lengths)
    assert (counts[0], counts[-1]) == (3, 30)
    ratios = np.array(counts[1:]) / counts[:-1]
    assert ratios.max() < 2 * ratios.min()  # about evenly on a logarithmic scale
    assert report_counts((0, 4), lengths)[0] == 1


def test_a_saved_format_opens_the_model_without_its_data(tmp_path):
    table, path = numbered([6] * 5), tmp_path / "t.csv"
    table.write_csv(path)
    for adapter in ("auto", "bayes-head", "gradient"):
        chosen = settings(data=str(path), adapter=adapter)
        problem = chosen.build(0)
        again = chosen.build(0, TableFormat.from_json(problem.format.to_json()))
        shapes = [jax.tree.map(jnp.shape, jax.eval_shape(p.init, jax.random.key(0))) for p in (problem, again)]
        assert shapes[0] == shapes[1]
        assert again.splits is None


def test_auto_stands_for_two_recipes_that_keep_what_was_asked_for():
    plain, asked = Table(data="t.csv"), Table(data="t.csv", meta_steps=7, hidden=(5,))
    assert list(plain.candidates()) == ["bayes-head", "gradient"]
    assert plain.candidates()["gradient"].hidden != plain.candidates()["bayes-head"].hidden == plain.hidden
    for adapter, candidate in asked.candidates().items():
        assert (candidate.adapter, candidate.meta_steps, candidate.hidden) == (adapter, 7, (5,))
    single = settings(adapter="gradient")
    assert single.candidates() == {"gradient": single}


def test_a_file_for_each_unit_needs_no_task_column(tmp_path):
    table = numbered([6, 7, 8, 9, 6])
    for (name,), unit in table.group_by("unit"):
        unit.drop("unit").write_csv(tmp_path / f"{name}.csv")
    table.write_csv(tmp_path / "whole.parquet.txt")
    by_files = settings(data=str(tmp_path / "*.csv"), task="").build(0)
    assert by_files.format.task == FILE
    by_column = settings(data=str(tmp_path / "whole.parquet.txt")).build(0)
    assert all_names(by_files) == all_names(by_column)
    assert structs.replace(by_files.format, task="unit") == by_column.format
    for one, other in zip(rows_of(by_files, "test", 0), rows_of(by_column, "test", 0), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(InputError, match="--task is missing"):
        settings(data=str(tmp_path / "whole.parquet.txt"), task="").build(0)


@pytest.mark.parametrize("changes", [{"data": ""}, {"task": ""}, {"inputs": ()}, {"target": ()}])
def test_a_setting_that_is_missing_is_named(tmp_path, changes):
    numbered([6] * 5).write_csv(tmp_path / "t.csv")
    with pytest.raises(InputError, match=f"--{next(iter(changes))} is missing"):
        settings(**{"data": str(tmp_path / "t.csv"), **changes}).build(0)


@pytest.mark.parametrize(
    ("lengths", "changes", "words"),
    [
        ([6], {}, ["one value 'u00'"]),
        ([6, 6], {}, ["at least 3"]),
        ([3, 2, 3, 1], {}, ["no task has more than --shots 3 rows (the longest has 3)", "Try --shots 1"]),
        ([6, 6, 2, 2], {}, ["2 of 4 tasks have more than --shots 3 rows, none of them a meta-"]),
        ([1, 1, 1], {"shots": (0, 3)}, ["0 of 3 tasks have more than --shots 1 rows"]),
        ([6] * 5, {"inputs": ("x", "unit")}, ["different columns"]),
        ([6] * 5, {"inputs": ("x", "y")}, ["different columns"]),
        ([6] * 5, {"target": ("unit",)}, ["different columns"]),
        ([6] * 5, {"inputs": ("x", "x")}, ["--inputs names a column twice"]),
        ([6] * 5, {"target": ("y", "y")}, ["--target names a column twice"]),
        ([6] * 5, {"target": ("yy",)}, ["did you mean 'y'"]),
        ([6] * 5, {"task": "units"}, ["did you mean 'unit'"]),
        ([6] * 5, {"test_fraction": 0.0}, ["--test-fraction"]),
        ([6] * 5, {"test_fraction": 0.5}, ["--test-fraction"]),
        ([6] * 5, {"fold": 5}, ["--fold should lie between 0 and 4"]),
        ([6] * 5, {"fold": -1}, ["--fold"]),
        ([6] * 5, {"shots": 0}, ["--shots"]),
        ([6] * 5, {"shots": (5, 3)}, ["--shots"]),
        ([6] * 5, {"shots": (-1, 3)}, ["--shots"]),
    ],
)
def test_a_table_that_makes_no_tasks_is_refused(lengths, changes, words):
    refused(lambda: problem_of(numbered(lengths), **changes), *words)


@pytest.mark.parametrize("adapter", ["auto", "bayes-head", "gradient"])
@pytest.mark.parametrize("seed", [-1, 2**70])
def test_a_seed_that_cannot_be_used_is_bad_input_and_no_crash(seed, adapter):
    refused(lambda: problem_of(numbered([6] * 5), seed=seed, adapter=adapter), "seed")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unit": pl.when(pl.col("y") != 2).then(pl.col("unit"))}, ["names no task in 6 rows"]),
        ({"y": pl.lit(None, pl.Float64)}, ["no row has a value in 'y'"]),
        ({"y": pl.lit(3.0)}, ["'y'", "the one value 3", "nothing to predict"]),
        ({"x": pl.lit(3.0)}, ["every input column has one value"]),
        ({"x": pl.lit(None, pl.String)}, ["'x'", "no values at all"]),
    ],
)
def test_columns_that_say_nothing_are_refused(changes, words):
    refused(lambda: problem_of(numbered([6] * 5).with_columns(**changes)), "a table", *words)


def test_tasks_may_be_named_by_numbers_dates_or_categories():
    table = numbered([6] * 5)
    expected = rows_of(problem_of(table), "test", 0)
    for unit in (
        pl.col("y").cast(pl.Int64),
        pl.date(2020, 1, 1) + pl.duration(days=pl.col("y").cast(pl.Int64)),
        pl.col("unit").cast(pl.Categorical),
        datetime.datetime(2020, 1, 1) + pl.duration(days=pl.col("y").cast(pl.Int64)),
    ):
        found = rows_of(problem_of(table.with_columns(unit=unit)), "test", 0)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_table_written_with_decimal_commas_and_thousands_is_the_same_problem_as_one_written_plainly(tmp_path):
    draw = np.random.default_rng(0)
    plain = pl.DataFrame(
        {
            "unit": [f"u{row // 9}" for row in range(180)],
            "a": np.arange(950, 1130),
            "price": draw.uniform(0.5, 3000, 180).round(2),
            "y": draw.normal(size=180).round(3),
        }
    )

    def german(name, unit=""):
        return [f"{value:,}".replace(",", "_").replace(".", ",").replace("_", ".") + unit for value in plain[name]]

    odd = plain.with_columns(a=pl.Series(german("a")), price=pl.Series(german("price", " €")), y=pl.Series(german("y")))
    plain.write_csv(tmp_path / "plain.csv")
    odd.write_csv(tmp_path / "odd.csv", separator=";")
    settings = {"task": "unit", "inputs": ("a", "price"), "target": ("y",), "shots": 3, "adapter": "gradient"}
    found, expected = (Table(data=str(tmp_path / f"{name}.csv"), **settings).build() for name in ("odd", "plain"))
    assert "written as 1.234,5 €" in found.format.describe()[1]
    assert found.notes == expected.notes
    for part in ("train", "test"):
        one, other = (getattr(problem.splits, part).episode(1, jax.random.key(0)) for problem in (found, expected))
        jax.tree.map(np.testing.assert_array_equal, one, other)
    assert found.format.inputs[0].span == expected.format.inputs[0].span


def test_units_are_split_by_their_labels_as_written_and_standard_input_is_no_table_to_train_on(tmp_path):
    labels = ["001", "1", "1.0", "01", "Shop 1", "shop 1", *"23456789"]
    rows = "".join(f"{label},{row}.5,0{row % 2}\n" for label in labels for row in range(5))
    (tmp_path / "t.csv").write_text("unit,x,y\n" + rows)
    settings = {"task": "unit", "inputs": ("x",), "target": ("y",), "shots": 2, "kinds": ("y=category",)}
    problem = Table(data=str(tmp_path / "t.csv"), **settings).build()
    assert problem.format.classes == ("00", "01")
    assert any("different units" in note and "1 more" in note for note in problem.notes), problem.notes
    parts = [getattr(problem.splits, part) for part in ("train", "validation", "test")]
    assert sorted(name for part in parts for name in part.names) == sorted(labels)
    with pytest.raises(InputError, match="standard input"):
        Table(data="-", **settings).build()
