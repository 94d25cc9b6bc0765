"""Likely mistakes in a table are said before training, and nothing is said of sound ones. Place: apps/tables/advice.py."""

import numpy as np
import polars as pl
import pytest

from fewstep import InputError, runs
from fewstep.apps.tables.advice import ranks, sentinel
from fewstep.apps.tables.settings import Table

UNITS, ROWS = 12, 30


def table(seed=0, **changed):
    """Units with a time, two inputs and a target that none of them tells; `changed` columns are made by `(rng, columns)`."""
    rng = np.random.default_rng(seed)
    columns = {
        "unit": np.repeat([f"u{number:02}" for number in range(UNITS)], ROWS),
        "day": np.tile(np.arange(ROWS), UNITS),
        "a": rng.normal(size=UNITS * ROWS),
        "b": rng.uniform(size=UNITS * ROWS),
    }
    columns["y"] = 3 * columns["a"] + np.repeat(rng.normal(size=UNITS), ROWS) + 0.5 * rng.normal(size=UNITS * ROWS)
    for name, make in changed.items():
        columns[name] = make(rng, columns)
    return pl.DataFrame(columns)


def problem_of(rows, inputs=("a", "b"), **settings):
    settings = {"task": "unit", "inputs": inputs, "target": ("y",), "adapter": "bayes-head", "shots": 5, **settings}
    return Table(**settings).build_from(rows, "t.csv")


def said(rows, *words, **settings):
    """The notes that hold all words."""
    return [note for note in problem_of(rows, **settings).notes if all(word in note for word in words)]


def lagged(by, noise=0.0):
    def make(rng, columns):
        target = columns["y"].reshape(UNITS, ROWS)
        moved = np.roll(target, by, axis=1)
        moved[:, slice(by) if by > 0 else slice(by, None)] = np.nan
        return (1.8 * moved + 32).ravel() + noise * rng.normal(size=UNITS * ROWS)

    return make


def with_value(value, count, column="a"):
    def make(rng, columns):
        return np.where(np.arange(UNITS * ROWS) % (UNITS * ROWS // count) == 0, value, columns[column])

    return make


ALARMS = {
    "a sentinel below": ({"a": with_value(-9999.0, 6)}, {}, ("a: ", "are exactly -9999", "gap")),
    "a sentinel above": ({"b": with_value(999.0, 6, "b")}, {}, ("b: ", "are exactly 999", "gap")),
    "a sentinel in the target": ({"y": with_value(-999.0, 6, "y")}, {}, ("y: ", "are exactly -999", "gap")),
    "a long tail": ({"b": lambda rng, _: rng.lognormal(3, 1.8, UNITS * ROWS)}, {}, ("b: a long tail", "Its logarithm")),
    "a long tail from 0": (
        {"y": lambda rng, _: np.floor(rng.lognormal(2, 2.0, UNITS * ROWS))},
        {},
        ("y: a long tail", "logarithm of 1 + this"),
    ),
    "a value far away": ({"a": with_value(5000.0, 1)}, {}, ("a: 1 of 360 values lie more than 50", "5000")),
    "the target and noise": (
        {"b": lambda rng, c: 2 * c["y"] + 0.1 * rng.normal(size=UNITS * ROWS)},
        {},
        ("warning: input 'b' is nearly the target 'y'",),
    ),
    "a function of the target": (
        {"b": lambda rng, c: np.exp(1.5 * c["y"])},
        {},
        ("warning: input 'b' is nearly the target 'y'",),
    ),
    "the target of the row before": (
        {"b": lagged(1)},
        {},
        ("input 'b' is the target 'y' of 1 row before, in the order of the file", "--time COLUMN"),
    ),
    "the same in time": (
        {"b": lagged(1)},
        {"time": "day"},
        ("input 'b' is the target 'y' of 1 row before, in the order of day", "forecasts 1 row ahead"),
    ),
    "a week before": ({"b": lagged(7)}, {"time": "day"}, ("of 7 rows before",)),
    "the target of the row after": ({"b": lagged(-1)}, {"time": "day"}, ("of 1 row after", "will you know it")),
}


@pytest.mark.parametrize("case", ALARMS)
def test_a_likely_mistake_is_said_in_one_line(case):
    changed, settings, words = ALARMS[case]
    assert len(said(table(**changed), *words, **settings)) == 1


SOUND = {
    "normal numbers": {},
    "exponential numbers": {"b": lambda rng, _: rng.exponential(size=UNITS * ROWS)},
    "t with 3 degrees of freedom": {"y": lambda rng, _: rng.standard_t(3, UNITS * ROWS)},
    "few values": {"a": lambda rng, _: rng.integers(0, 2, UNITS * ROWS) * 1.0},
    "many zeros": {"a": lambda rng, _: np.maximum(rng.normal(size=UNITS * ROWS), 0)},
    "a bound that is met": {"b": lambda rng, _: np.minimum(rng.exponential(size=UNITS * ROWS), 3.0)},
    "a strong input": {"b": lambda rng, c: c["y"] + 0.5 * rng.normal(size=UNITS * ROWS)},
    "a noisy lag": {"b": lagged(1, noise=0.5)},
    "a trend": {"b": lambda rng, c: c["day"] + 0.0},
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", SOUND)
def test_nothing_is_said_of_sound_columns(case, seed):
    problem = problem_of(table(seed, **SOUND[case]))
    assert [note for note in problem.notes if "trained range" not in note and "missing" not in note] == []
    assert problem.questions == ()


def codes(*values):
    return lambda rng, _: rng.choice(np.array(values, float), UNITS * ROWS)


@pytest.mark.parametrize("values", [(0, 1), (1, 2, 3), (-1, 1), (10, 20, 30), tuple(range(10))])
def test_a_target_of_few_whole_numbers_is_asked_about_and_a_declared_one_is_not(values):
    rows = table(y=codes(*values))
    (question,) = problem_of(rows).questions
    assert f"'y' holds only {', '.join(map(str, sorted(values)))}:" in question
    assert "--kinds y=number" in question and "--kinds y=category" in question
    assert problem_of(rows, kinds=("y=number",)).questions == problem_of(rows, kinds=("y=category",)).questions == ()
    assert problem_of(rows, kinds=("y=category",)).format.classes == tuple(sorted(map(str, values)))


@pytest.mark.parametrize("make", [codes(*range(11)), codes(0, 0.5, 1), lambda rng, _: rng.poisson(40, UNITS * ROWS)])
def test_other_numbers_are_not_asked_about(make):
    assert problem_of(table(y=make)).questions == ()


def test_of_several_targets_each_coded_one_is_asked_about_and_cannot_be_a_class_here():
    rows = table(z=codes(1, 2, 3))
    (question,) = problem_of(rows, target=("y", "z")).questions
    assert "'z' holds only 1, 2, 3" in question and "--kinds z=number" in question and "z=category" not in question


def test_the_command_asks_before_anything_is_written(command, tmp_path):
    table(y=codes(1, 2, 3)).write_csv("t.csv")
    words = ["--data", "t.csv", "--task", "unit", "--inputs", "a", "--target", "y", "--out", "run"]
    for verb in ("train", "compare"):
        code, _, err = command(verb, "table", *words)
        assert code == 2 and "say --kinds y=number to predict its size, or --kinds y=category" in err
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_a_run_that_was_trained_before_anyone_asked_still_has_its_data(tmp_path):
    table(y=codes(1, 2, 3)).write_csv(tmp_path / "t.csv")
    asked = Table(data=str(tmp_path / "t.csv"), task="unit", inputs=("a",), target=("y",), adapter="bayes-head", shots=5)
    with pytest.raises(InputError, match="--kinds y=number"):
        runs.train(asked, tmp_path / "run", quiet=True)
    problem = asked.build(0)
    (tmp_path / "run").mkdir()
    runs.config.write_config(asked, problem, tmp_path / "run", 0, "default")
    assert runs.open_run(tmp_path / "run").problem().splits.train.names == problem.splits.train.names


@pytest.mark.slow
def test_estimators_have_said_by_their_class_what_a_target_is():
    pytest.importorskip("sklearn")
    from fewstep import MetaRegressor

    rows = table(y=codes(1, 2, 3))
    found = MetaRegressor(meta_steps=1, hidden=(2,)).fit(rows[["a"]].to_numpy(), rows["y"].to_numpy(), rows["unit"].to_numpy())
    assert found.predict(rows[["a"]].to_numpy()).shape == (UNITS * ROWS,)


def test_dates_that_are_not_used_are_named_where_no_time_is_given(tmp_path):
    dated = table().with_columns(when=pl.date(2024, 1, 1) + pl.duration(days=pl.col("day")), odd=pl.lit("x 1"))
    dated.write_csv(tmp_path / "t.csv")
    settings = {"data": str(tmp_path / "t.csv"), "task": "unit", "target": ("y",), "adapter": "bayes-head", "shots": 5}
    told = "column 'when' holds dates and is not used. With --time when"
    assert any(told in note for note in Table(inputs=("a",), **settings).build(0).notes)
    assert not any("is not used" in note for note in Table(inputs=("a",), time="when", **settings).build(0).notes)
    assert not any("is not used" in note for note in Table(inputs=("a", "when"), **settings).build(0).notes)


def test_several_sentinels_are_found_one_after_the_other_and_codes_are_none():
    assert sentinel(np.r_[np.arange(20.0), -999, -999]) == -999 and sentinel(np.r_[np.arange(20.0), 999, 999, 999]) == 999
    assert sentinel(np.r_[np.arange(20.0), 999]) is None, "met once it may be a value"
    assert sentinel(np.r_[np.arange(20.0), 30, 30]) is None, "not far"
    assert sentinel(np.repeat(np.arange(10.0), 5)) is None
    both = table(a=lambda rng, c: np.where(c["day"] == 3, -9999.0, np.where(c["day"] == 9, 9999.0, c["a"])))
    assert len(said(both, "a: 12 of ", "exactly")) == 2


def test_ranks_are_those_of_scipy():
    scipy_stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(0).integers(0, 9, 50).astype(float)
    np.testing.assert_array_equal(ranks(values), scipy_stats.rankdata(values) - 1)


def test_of_real_tables_only_true_things_are_said(real_data):
    weather = {"data": str(real_data / "weather_us_2016" / "weather.csv"), "task": "Station.Code", "adapter": "bayes-head"}
    temperatures = tuple(f"Data.Temperature.{which} Temp" for which in ("Max", "Min", "Avg"))
    inputs = ("Date.Full", "Data.Wind.Speed", "Data.Wind.Direction", *temperatures[:2])
    notes = Table(**weather, inputs=inputs, target=temperatures[2:]).build(0).notes
    assert all("one target value" in note or "trained range" in note for note in notes)
    gapminder = {"data": str(real_data / "gapminder" / "gapminder.tsv"), "task": "country", "adapter": "bayes-head", "shots": 4}
    notes = Table(**gapminder, inputs=("year", "pop", "gdpPercap"), target=("lifeExp",)).build(0).notes
    assert [note.split(":")[0] for note in notes if "long tail" in note] == ["pop", "gdpPercap"]
    assert all("long tail" in note or "trained range" in note for note in notes)
