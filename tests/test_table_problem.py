"""A user's table as a Problem: who is meta-train, -validation and -test, and what is refused. Place: fewstep/problems."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from known import KEY, unit_rows

from fewstep import BadInput
from fewstep.problems import Table
from fewstep.tasks.columns import TableFormat


def numbered(lengths, seed=0):
    """A table in which the target of every row is the number of its unit."""
    rng = np.random.default_rng(seed)
    rows = [(f"u{unit:02}", float(rng.normal()), float(unit)) for unit, length in enumerate(lengths) for _ in range(length)]
    return pl.DataFrame(rows, schema=["unit", "x", "y"], orient="row")


def settings_for(table, path, **changes):
    table.write_csv(path)
    given = {"task": "unit", "inputs": ("x",), "target": "y", "shots": 3, "queries": 4, "hidden": (2,)}
    return Table(data=str(path), **{**given, **changes})


def owners(problem, split):
    """The units of a split, told from the targets of its episodes."""
    family = getattr(problem.splits, split)
    found = []
    for task in family.tasks(1000):
        support, query = family.episode(task, KEY)
        mine = np.concatenate([support.targets, query.targets])[:, 0]
        units = np.unique(np.round(problem.format.restore_target(mine), 3))
        assert units.size == 1, "an episode mixes units"
        found.append(round(float(units[0])))
    return found


def all_owners(problem):
    return [owners(problem, split) for split in ("train", "validation", "test")]


def everyone(problem):
    return [owner for split in all_owners(problem) for owner in split]


def test_every_task_is_in_exactly_one_split_and_a_fifth_is_held_out_twice(tmp_path):
    train, validation, test = all_owners(settings_for(numbered([6] * 20), tmp_path / "t.csv").build(0))
    assert sorted(train + validation + test) == list(range(20))
    assert [len(train), len(validation), len(test)] == [12, 4, 4]
    assert len(all_owners(settings_for(numbered([6] * 20), tmp_path / "t.csv", test_fraction=0.25).build(0))[2]) == 5


def test_rows_are_put_in_the_order_of_their_time(tmp_path):
    table = unit_rows().sample(fraction=1, shuffle=True, seed=3)
    table.write_csv(tmp_path / "t.csv")
    settings = Table(data=str(tmp_path / "t.csv"), task="unit", inputs=("day",), target="flow", time="day", shots=4, queries=3)
    problem = settings.build(0)
    for number in range(problem.splits.test.size):
        rows = problem.splits.test.examples(jnp.asarray(number))
        days = np.asarray(rows.inputs[:, 0])[np.asarray(rows.weight) > 0]
        assert np.all(np.diff(days) > 0)
        shown = problem.illustrate(number)
        assert shown.support_x.max() < np.setdiff1d(shown.x, shown.support_x).min()
    assert "just before" in problem.protocol["support"]


def test_over_all_folds_every_task_is_tested_and_validated_once(tmp_path):
    settings = settings_for(numbered([6] * 23), tmp_path / "t.csv")
    splits = [all_owners(replace(settings, fold=fold).build(0)) for fold in range(5)]
    assert sorted(task for _, _, test in splits for task in test) == list(range(23))
    assert sorted(task for _, validation, _ in splits for task in validation) == list(range(23))
    assert all(sorted(train + validation + test) == list(range(23)) for train, validation, test in splits)


def test_the_split_depends_on_the_seed_and_on_the_names_of_the_tasks_alone(tmp_path):
    table = numbered([6] * 20)
    first = all_owners(settings_for(table, tmp_path / "a.csv").build(0))
    shuffled = table.sample(fraction=1, shuffle=True, seed=5)
    assert all_owners(settings_for(shuffled, tmp_path / "b.csv").build(0)) == first
    assert all_owners(settings_for(table, tmp_path / "c.csv").build(1)) != first


def test_tasks_without_a_row_to_query_are_left_out(tmp_path):
    problem = settings_for(numbered([6, 3, 4, 2, 9, 5, 3]), tmp_path / "t.csv").build(0)
    assert sorted(everyone(problem)) == [0, 2, 4, 5]


def test_the_format_is_fitted_on_meta_train_tasks_alone(tmp_path):
    table = numbered([6] * 20)
    problem = settings_for(table, tmp_path / "t.csv").build(0)
    train = [f"u{unit:02}" for unit in owners(problem, "train")]
    seen = table.filter(pl.col("unit").is_in(train))
    np.testing.assert_allclose(problem.format.target_center, seen["y"].mean())
    np.testing.assert_allclose(problem.format.target_scale, seen["y"].to_numpy().std())
    np.testing.assert_allclose(problem.format.inputs[0].center, seen["x"].mean())


def test_episodes_hold_the_rows_of_the_file(tmp_path):
    table = numbered([6, 8, 7, 9])
    problem = settings_for(table, tmp_path / "t.csv").build(0)
    support, query = problem.splits.test.episode(jnp.asarray(0), KEY)
    unit = table.filter(pl.col("y") == owners(problem, "test")[0])
    column = problem.format.inputs[0]
    for part in (support, query):
        x = np.asarray(part.inputs[:, 0], np.float64)[np.asarray(part.weight) > 0] * column.scale + column.center
        apart = np.abs(x[:, None] - unit["x"].to_numpy()[None])
        np.testing.assert_allclose(apart.min(1), 0, atol=1e-5)
    assert int(support.weight.sum() + query.weight.sum()) == unit.height  # all of a test task is used


def test_an_illustration_shows_the_rows_of_its_task_in_the_units_of_the_file(tmp_path):
    table = unit_rows()
    problem = settings_for(table, tmp_path / "t.csv", inputs=("day", "depth"), target="flow").build(0)
    shown = problem.illustrate(1)
    unit = table.filter(pl.col("unit") == shown.title)
    when = unit["day"].cast(pl.Datetime("us")).dt.epoch("s").to_numpy()
    np.testing.assert_array_equal(shown.x, when)
    np.testing.assert_allclose(shown.truth, unit["flow"], rtol=1e-6)
    assert np.isin(shown.support_x, when).all()
    assert shown.support_x.size == 3
    flow = dict(zip(when.tolist(), unit["flow"].to_list(), strict=True))
    restored = problem.format.restore_target(np.asarray(shown.support.targets)[:, 0])
    np.testing.assert_allclose(restored, [flow[moment] for moment in shown.support_x.tolist()], rtol=1e-6)


def test_a_saved_format_opens_the_model_without_its_data(tmp_path):
    settings = settings_for(numbered([6] * 5), tmp_path / "t.csv")
    problem = settings.build(0)
    (tmp_path / "t.csv").unlink()
    again = settings.build(0, TableFormat.from_json(problem.format.to_json()))
    shapes = [jax.tree.map(jnp.shape, p.init(jax.random.key(0))) for p in (problem, again)]
    assert shapes[0] == shapes[1]
    assert again.splits is None


@pytest.mark.parametrize("changes", [{"data": ""}, {"task": ""}, {"inputs": ()}, {"target": ""}])
def test_a_setting_that_is_missing_is_named(tmp_path, changes):
    settings = replace(settings_for(numbered([6] * 5), tmp_path / "t.csv"), **changes)
    with pytest.raises(BadInput, match=f"--{next(iter(changes))} is missing"):
        settings.build(0)


@pytest.mark.parametrize(
    ("lengths", "changes", "words"),
    [
        ([6], {}, "one value 'u00'"),
        ([6, 6], {}, "at least 3"),
        ([3, 2, 3, 1], {}, "no task has more than --shots 3 rows"),
        ([6, 6, 2, 2], {}, "tasks have more than --shots 3 rows"),
        ([6] * 5, {"inputs": ("x", "unit")}, "different columns"),
        ([6] * 5, {"inputs": ("x", "y")}, "different columns"),
        ([6] * 5, {"target": "unit"}, "different columns"),
        ([6] * 5, {"target": "yy"}, "did you mean 'y'"),
        ([6] * 5, {"task": "units"}, "did you mean 'unit'"),
        ([6] * 5, {"test_fraction": 0.0}, "--test-fraction"),
        ([6] * 5, {"test_fraction": 0.5}, "--test-fraction"),
        ([6] * 5, {"shots": 0}, "--shots"),
    ],
)
def test_a_table_that_makes_no_tasks_is_refused(tmp_path, lengths, changes, words):
    with pytest.raises(BadInput) as caught:
        settings_for(numbered(lengths), tmp_path / "t.csv", **changes).build(0)
    assert words in str(caught.value)


def test_rows_without_a_task_are_refused_with_their_number(tmp_path):
    table = numbered([6] * 5).with_columns(unit=pl.when(pl.col("y") == 2).then(None).otherwise(pl.col("unit")))
    with pytest.raises(BadInput, match="names no task in 6 rows"):
        settings_for(table, tmp_path / "t.csv").build(0)


@pytest.mark.parametrize("seed", [-1, 2**70])
def test_a_seed_that_cannot_be_used_is_bad_input_and_no_crash(tmp_path, seed):
    with pytest.raises(BadInput, match="seed"):
        settings_for(numbered([6] * 5), tmp_path / "t.csv").build(seed)


def test_tasks_may_be_named_by_numbers_or_dates(tmp_path):
    table = numbered([6] * 5)
    by_number = settings_for(table.with_columns(unit=pl.col("y").cast(pl.Int64)), tmp_path / "n.csv").build(0)
    assert sorted(everyone(by_number)) == [0, 1, 2, 3, 4]
    by_date = table.with_columns(unit=pl.date(2020, 1, 1) + pl.duration(days=pl.col("y").cast(pl.Int64)))
    assert sorted(everyone(settings_for(by_date, tmp_path / "d.csv").build(0))) == [0, 1, 2, 3, 4]
