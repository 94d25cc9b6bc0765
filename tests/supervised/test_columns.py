"""Columns of a table as inputs and targets, and every way in which they can be no use. Place: fewstep/supervised/columns.py."""

import datetime
import json
from collections import Counter

import numpy as np
import polars as pl
import pytest

from fewstep import InputError
from fewstep.apps.tables.data import MOST_CATEGORIES, Fitting, fit_format, order_of_time, visible_periods
from fewstep.storage.tables import read_table
from fewstep.supervised.columns import InputColumn, TableFormat, TargetColumn
from fewstep.supervised.infer_kinds import declared_kinds
from fewstep.supervised.kinds import ColumnKind, read_values

START = datetime.datetime(2016, 1, 3)
YEAR = 365.2425 * 86_400


def dates(count, start=START, **spacing):
    return [start + number * datetime.timedelta(**spacing) for number in range(count)]


def seconds(moments):
    return np.array([moment.replace(tzinfo=datetime.UTC).timestamp() for moment in moments])


def a_table(rows=60, seed=0):
    """One column of each kind, and targets of each kind."""
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "unit": [f"u{row % 4}" for row in range(rows)],
            "day": [moment.date() for moment in dates(rows, days=7)],
            "height": rng.normal(100, 20, rows),
            "open": rng.random(rows) < 0.3,
            "color": rng.choice(["red", "green", "blue"], rows),
            "month": rng.integers(1, 13, rows),
            "flow": rng.normal(-3, 0.5, rows),
            "mass": rng.normal(1e6, 10, rows),
            "grade": rng.choice(["good", "bad"], rows),
            "stage": rng.integers(0, 3, rows),
        }
    )


INPUTS = ("day", "height", "open", "color", "month")


def fitted(table, inputs=("day", "height"), targets=("flow",), in_train=None, notes=None, kinds=(), harmonics=2):
    in_train = np.ones(table.height, bool) if in_train is None else in_train
    fitting = Fitting(table, inputs, targets, in_train, "a table", "unit", declared_kinds(kinds), harmonics)
    return fit_format(fitting, [] if notes is None else notes)


def encoded(format, table):
    """(inputs, what is said of them)."""
    notes = []
    return format.encode_inputs(table, "new.csv", notes), notes


def with_gaps(table, name, rows):
    return table.with_columns(pl.Series(name, [None if row in rows else value for row, value in enumerate(table[name])]))


def refused(act, *words):
    with pytest.raises(InputError) as caught:
        act()
    message = str(caught.value)
    assert not [word for word in words if word not in message], message
    assert 1 <= len(message.splitlines()) <= 3
    return message


@pytest.mark.parametrize(
    ("moments", "expected"),
    [
        # How many: the shortest period that a sampling shows is two of its steps.
        (dates(53, weeks=1), {"annual": 26}),
        (dates(31 * 24, hours=1), {"weekly": 84, "daily": 12}),
        (dates(730, days=1), {"annual": 182, "weekly": 3}),
        (dates(366 * 4, hours=6), {"annual": 730, "weekly": 14, "daily": 2}),
        (dates(30, days=1), {"weekly": 3}),
        (dates(48, minutes=30), {"daily": 24}),
        (dates(20, days=365), {}),
        (dates(2, days=200), {}),
        ([START] * 50, {}),
    ],
)
def test_dates_get_the_harmonics_that_their_span_and_spacing_can_show(moments, expected):
    assert visible_periods(seconds(moments)) == expected


def test_dates_of_many_units_in_one_column_are_judged_by_their_distinct_values():
    assert visible_periods(np.repeat(seconds(dates(53, weeks=1)), 12)) == {"annual": 26}


def test_a_date_is_encoded_as_its_trend_and_the_sines_and_cosines_of_its_periods():
    table = a_table()
    format = fitted(table)
    when = seconds([datetime.datetime.combine(day, datetime.time()) for day in table["day"]])
    angle = 2 * np.pi * when / YEAR
    expected = [(when - when.mean()) / when.std()]
    for order in (1, 2):
        expected += [np.sin(order * angle), np.cos(order * angle)]
    height = table["height"].to_numpy()
    expected.append((height - height.mean()) / height.std())
    inputs, notes = encoded(format, table)
    assert inputs.dtype == np.float32
    assert notes == []
    np.testing.assert_allclose(inputs, np.stack(expected, 1), atol=1e-6)


def test_weekly_harmonics_repeat_after_a_week_and_not_after_three_days():
    hourly = pl.DataFrame({"unit": ["u"] * 744, "t": dates(744, hours=1), "flow": np.arange(744.0) ** 2})
    inputs = fitted(hourly, ("t",)).encode_inputs(hourly, "a table")
    assert inputs.shape == (744, 9)
    np.testing.assert_allclose(inputs[168:, 1:], inputs[:-168, 1:], atol=1e-5)
    assert np.abs(inputs[72:, 1:5] - inputs[:-72, 1:5]).max() > 1  # the week
    np.testing.assert_allclose(inputs[72:, 5:], inputs[:-72, 5:], atol=1e-5)  # the day


def test_no_more_harmonics_than_asked_for_are_taken():
    assert [fitted(a_table(), harmonics=most).inputs[0].harmonics for most in (1, 5, 100)] == [(1,), (5,), (26,)]


def test_yes_or_no_and_categories_become_numbers_that_tell_them_apart():
    table = a_table()
    format = fitted(table, ("open", "color", "month"), kinds=("month=category",))
    inputs, notes = encoded(format, table)
    is_open = table["open"].to_numpy().astype(float)
    months = sorted({str(month) for month in table["month"]})
    expected = [(is_open - is_open.mean()) / is_open.std()]
    expected += [table["color"].to_numpy() == color for color in ("blue", "green", "red")]
    expected += [table["month"].cast(pl.String).to_numpy() == month for month in months]
    np.testing.assert_allclose(inputs, np.stack(expected, 1), atol=1e-6)
    assert notes == []
    assert format.features == inputs.shape[1] == 4 + len(months)
    # Without the declaration, the number of a month is a number.
    assert fitted(table, ("month",)).inputs[0].kind == "number"


KINDS = {
    "number": (("height",), ("flow",), ()),
    "date": (("day",), ("flow",), ()),
    "date as text": (("written",), ("flow",), ()),
    "boolean": (("open",), ("flow",), ()),
    "category": (("color",), ("flow",), ()),
    "declared category": (("month", "height"), ("flow",), ("month=category",)),
    "all of them": (INPUTS, ("flow", "mass"), ("month=category",)),
    "binary target": (INPUTS, ("grade",), ()),
    "boolean target": (("height",), ("open",), ()),
    "class of numbers": (("height",), ("stage",), ("stage=category",)),
}


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("case", KINDS)
def test_the_format_survives_its_trip_through_json_and_reads_a_new_table_the_same(case, gaps):
    inputs, targets, kinds = KINDS[case]
    table = a_table().with_columns(written=pl.col("day").dt.strftime("%d/%m/%Y"))
    if gaps:
        for name in inputs:
            table = with_gaps(table, name, {3, 7})
    format = fitted(table, inputs, targets, kinds=kinds)
    again = TableFormat.from_json(json.loads(json.dumps(format.to_json(), allow_nan=False)))
    assert again == format
    new = a_table(seed=1).with_columns(written=pl.col("day").dt.strftime("%d/%m/%Y"))
    for one, other in zip(encoded(again, new), encoded(format, new), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(again.encode_targets(new, "t"), format.encode_targets(new, "t"), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.describe() == format.describe()


def test_columns_without_a_known_span_survive_json_too():
    format = TableFormat((InputColumn("x", "number"),), (TargetColumn("y"),))
    saved = json.loads(json.dumps(format.to_json(), allow_nan=False))
    assert TableFormat.from_json(saved) == format
    assert TableFormat.from_json(format.to_json()) == format
    saved["inputs"][0]["warp"] = 9
    with pytest.raises(ValueError, match=r"unknown field `warp` - at `\$\.inputs\[0\]`"):
        TableFormat.from_json(saved)


def test_what_is_learned_of_columns_looks_at_meta_train_rows_alone():
    table, in_train = a_table(), np.arange(60) % 3 > 0
    inputs, notes = ("day", "height", "open", "color"), []
    elsewhere = ~pl.Series(in_train)
    wild = table.with_columns(
        *(pl.when(elsewhere).then(pl.col(name) * 1e6).otherwise(pl.col(name)).alias(name) for name in ("height", "flow")),
        color=pl.when(elsewhere).then(pl.lit("black")).otherwise(pl.col("color")),
        day=pl.when(elsewhere).then(pl.date(1990, 1, 1)).otherwise(pl.col("day")),
        open=pl.when(elsewhere).then(None).otherwise(pl.col("open")),
    )
    assert fitted(wild, inputs, in_train=in_train, notes=notes) == fitted(table, inputs, in_train=in_train)
    assert fitted(table, inputs, in_train=~in_train) != fitted(table, inputs, in_train=in_train)
    format = fitted(table, in_train=in_train)
    for values in (format.encode_inputs(table, "t")[in_train, -1], format.encode_targets(table, "t")[0][in_train, 0]):
        np.testing.assert_allclose([values.mean(), values.std()], [0, 1], atol=1e-6)


@pytest.mark.parametrize("name", ["day", "height", "open"])
def test_a_gap_becomes_the_mean_and_is_told_by_a_feature_where_meta_train_rows_had_gaps(name):
    table, gaps = a_table(), {2, 30, 59}
    holed = with_gaps(table, name, gaps)
    known = np.array([row not in gaps for row in range(60)])
    whole, format = fitted(table.filter(pl.Series(known)), (name,)), fitted(holed, (name,))
    assert format.inputs[0].gaps
    assert format.features == whole.features + 1
    inputs, notes = encoded(format, holed)
    np.testing.assert_array_equal(inputs[:, -1], ~known)
    assert not inputs[~known, 0].any()  # the mean is 0
    np.testing.assert_array_equal(inputs[known, :-1], whole.encode_inputs(table.filter(pl.Series(known)), "t"))
    assert notes == [f"{name}: 3 of 60 values are missing and become the mean (with a feature that says so)"]
    mean = [format.inputs[0].center]
    if name == "day":
        angle = 2 * np.pi * mean[0] / YEAR
        np.testing.assert_allclose(inputs[~known, 1:3], np.tile([np.sin(angle), np.cos(angle)], (3, 1)), atol=1e-5)


@pytest.mark.parametrize("name", ["day", "height", "open", "color"])
def test_a_gap_that_comes_up_only_later_is_counted_and_changes_no_other_row(name):
    table = a_table()
    format = fitted(table, (name,))
    holed = with_gaps(table, name, {4, 5})
    inputs, notes = encoded(format, holed)
    known = np.array([row not in (4, 5) for row in range(60)])
    np.testing.assert_array_equal(inputs[known], format.encode_inputs(table, "t")[known])
    assert not inputs[~known, 0].any()
    becomes = "no category" if name == "color" else "the mean"
    assert notes == [f"{name}: 2 of 60 values are missing and become {becomes} (the training table had none)"]


def test_gaps_outside_the_meta_train_rows_bring_no_feature():
    in_train = np.arange(60) >= 10
    assert not fitted(with_gaps(a_table(), "height", {0, 9}), ("height",), in_train=in_train).inputs[0].gaps
    assert fitted(with_gaps(a_table(), "height", {0, 10}), ("height",), in_train=in_train).inputs[0].gaps


def test_a_gap_among_categories_is_no_category_and_is_told_by_a_feature():
    holed = with_gaps(a_table(), "color", {0, 8})
    inputs, notes = encoded(fitted(holed, ("color",)), holed)
    np.testing.assert_array_equal(inputs.sum(1), np.ones(60))  # one category, or the gap
    assert np.flatnonzero(inputs[:, -1]).tolist() == [0, 8]
    assert "2 of 60 values are missing and become no category" in notes[0]


def test_a_category_that_training_did_not_know_is_other_and_is_counted():
    table = a_table()
    format = fitted(table, ("color", "height"))
    new = table.with_columns(color=pl.Series(["pink", "red", "gold", "pink", *["blue"] * 56]))
    inputs, notes = encoded(format, new)
    np.testing.assert_array_equal(inputs[:4, :3], [[0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]])
    assert notes == ["color: 3 of 60 values are of no category that is kept ('pink', 'gold'): 'other'"]


def test_of_very_many_categories_the_most_frequent_are_kept():
    rng, notes = np.random.default_rng(0), []
    words = [f"w{number:03}" for number in np.minimum(rng.geometric(0.03, 4000), 150)]
    table = pl.DataFrame({"unit": ["u"] * 4000, "word": words, "flow": rng.normal(size=4000)})
    format = fitted(table, ("word",), notes=notes)
    ranked = sorted(Counter(words).items(), key=lambda item: (-item[1], item[0]))
    assert format.inputs[0].categories == tuple(sorted(word for word, _ in ranked[:MOST_CATEGORIES]))
    assert f"{len(ranked)} categories; the 64 most frequent are kept" in notes[0]
    inputs, said = encoded(format, table)
    other = sum(count for _, count in ranked[MOST_CATEGORIES:])
    assert int((inputs.sum(1) == 0).sum()) == other
    assert f"{other} of 4000 values are of no category" in said[0]


def test_values_beyond_the_span_of_training_are_read_as_they_are_and_counted():
    table = a_table()
    format = fitted(table)
    low, high = table["height"].min(), table["height"].max()
    heights = [low - 1, high + 1, high, low, *table["height"][4:]]
    days = [datetime.date(2030, 5, 6), *table["day"][1:]]
    inputs, notes = encoded(format, table.with_columns(pl.Series("height", heights), pl.Series("day", days)))
    np.testing.assert_allclose(
        inputs[:, -1], (np.array(heights) - table["height"].mean()) / table["height"].std(ddof=0), rtol=1e-5, atol=1e-6
    )
    assert notes == [
        f"day: 1 of 60 values lie outside the trained range, 2016-01-03 to {table['day'].max()}",
        f"height: 2 of 60 values lie outside the trained range, {low:.4g} to {high:.4g}",
    ]


def test_restoring_targets_inverts_encoding_them():
    table = a_table()
    format = fitted(table, targets=("flow", "mass"))
    values, known = format.encode_targets(table, "t")
    assert values.shape == (60, 2)
    assert values.dtype == np.float32
    assert known.all()
    np.testing.assert_allclose([values.mean(0), values.std(0)], [[0, 0], [1, 1]], atol=1e-5)
    restored = format.restore(values)
    assert restored.dtype == np.float64
    np.testing.assert_allclose(restored, table.select("flow", "mass").to_numpy(), rtol=1e-6)
    np.testing.assert_allclose(format.units, [table[name].std(ddof=0) for name in ("flow", "mass")])
    np.testing.assert_array_equal(format.shown(values), restored[:, 0])  # a picture shows the first
    # Batches of any shape, and a restored difference of one standardized unit is one unit.
    np.testing.assert_allclose(
        format.restore(np.ones((5, 3, 2))) - format.restore(np.zeros((5, 3, 2))), np.tile(format.units, (5, 3, 1))
    )


def test_each_target_of_a_row_is_known_or_not():
    table = with_gaps(with_gaps(a_table(), "flow", {1, 2}), "mass", {2, 3})
    values, known = fitted(table, targets=("flow", "mass")).encode_targets(table, "t")
    assert [np.flatnonzero(~column).tolist() for column in known.T] == [[1, 2], [2, 3]]
    assert np.isfinite(values).all()


def test_numbers_far_outside_the_trained_range_are_found_also_after_the_format_was_saved():
    table = pl.DataFrame({"a": [0.0, 1.0, 4.0], "b": [5.0, 5.0, 5.0], "y": [-1.0, 2.0, 1.0]})
    format = fitted(table, inputs=("a", "b"), targets=("y",))
    rows = pl.DataFrame({"a": [8.0, 8.1, -4.1, None], "b": [6.0, 6.1, 3.9, 5.0], "y": [5.0, -4.1, None, 5.1]})
    for each in (format, TableFormat.from_json(json.loads(json.dumps(format.to_json())))):
        found = each.far_outside(rows, "t", targets=True)
        assert {name: far.tolist() for name, far in found.items()} == {
            "a": [False, True, True, False],  # 0 to 4, and as much again to both sides
            "b": [False, True, True, False],  # one value: a range of 1
            "y": [False, True, False, True],
        }
        assert set(each.far_outside(rows, "t", targets=False)) == {"a", "b"}
        assert each.range_of("y") == "-1 to 2"
    saved = format.to_json()
    del saved["targets"][0]["span"]  # as earlier versions saved it: nothing is known of the range
    assert not TableFormat.from_json(saved).far_outside(rows, "t", targets=True)["y"].any()


@pytest.mark.parametrize(
    ("target", "kinds", "classes"),
    [
        ("grade", (), ("bad", "good")),
        ("open", (), ("false", "true")),
        ("color", (), ("blue", "green", "red")),
        ("stage", ("stage=category",), ("0", "1", "2")),
        ("half", ("half=boolean",), ("0", "1")),
        ("answer", (), ("No", "Yes")),
    ],
)
def test_a_target_of_classes_becomes_one_output_for_each(target, kinds, classes):
    table = a_table().with_columns(half=pl.col("stage") % 2, answer=pl.Series(["Yes", "No", "No"] * 20))
    format = fitted(table, ("height",), (target,), kinds=kinds)
    assert format.classes == classes
    assert format.outputs == len(classes)
    values, known = format.encode_targets(table, "t")
    words = table[target].cast(pl.String).to_list()
    np.testing.assert_array_equal(values, [[word == name for name in classes] for word in words])
    assert known.all()
    np.testing.assert_array_equal(format.restore(values), values)  # probabilities are in no unit
    np.testing.assert_array_equal(format.shown(values), values[:, -1])
    assert format.y_label == f"probability of {classes[-1]!r}"


def test_a_class_that_training_did_not_know_is_refused_and_a_gap_is_an_unknown_target():
    table = a_table()
    format = fitted(table, ("height",), ("grade",))
    new = with_gaps(table, "grade", {5})
    values, known = format.encode_targets(new, "t")
    assert np.flatnonzero(~known).tolist() == [5]
    assert not values[5].any()
    strange = table.with_columns(grade=pl.Series(["fair", *table["grade"][1:]]))
    refused(lambda: format.encode_targets(strange, "new.csv"), "new.csv", "'grade'", "the class 'fair'", "'bad', 'good'")


def test_whole_numbers_as_classes_are_the_same_whatever_a_file_makes_of_them():
    table = a_table()
    format = fitted(table, ("height",), ("stage",), kinds=("stage=category",))
    expected = format.encode_targets(table, "t")[0]
    for dtype in (pl.Float64, pl.String, pl.UInt8):
        np.testing.assert_array_equal(format.encode_targets(table.with_columns(pl.col("stage").cast(dtype)), "t")[0], expected)


@pytest.mark.parametrize(
    ("changes", "targets", "words"),
    [
        ({}, ("day",), ["'day'", "it holds dates"]),
        ({}, ("flow", "grade"), ["several targets", "'grade' holds classes"]),
        ({"grade": pl.lit("good")}, ("grade",), ["'grade'", "the one class 'good'"]),
        ({"grade": pl.int_range(pl.len()).cast(pl.String) + "x"}, ("grade",), ["300 classes", "at most 64"]),
        ({"flow": pl.lit(2.5)}, ("flow",), ["'flow'", "the one value 2.5", "nothing to predict"]),
        ({"flow": pl.lit(None, pl.Float64)}, ("flow",), ["'flow'", "no values"]),
        ({"flow": pl.lit([1])}, ("flow",), ["'flow'", "List"]),
        ({"flow": pl.lit(float("inf"))}, ("flow",), ["'flow'", "infinite"]),
    ],
)
def test_targets_from_which_nothing_can_be_learned_are_refused(changes, targets, words):
    refused(lambda: fitted(a_table(300).with_columns(**changes), ("height",), targets), "a table", *words)


def test_a_target_or_an_input_that_is_constant_or_unknown_in_the_meta_train_rows_is_refused():
    in_train = np.arange(60) < 50
    constant = a_table().with_columns(flow=pl.Series([1.0] * 50 + list(range(10))))
    refused(lambda: fitted(constant, in_train=in_train), "'flow'", "the one value 1 in the meta-train rows")
    for name in INPUTS:
        unknown = with_gaps(a_table(), name, set(range(50)))
        refused(
            lambda name=name, unknown=unknown: fitted(unknown, (name,), in_train=in_train), repr(name), "no values in the meta"
        )


def test_inputs_that_never_change_are_refused_unless_another_one_does():
    table = a_table().with_columns(height=pl.lit(5.0), open=pl.lit(True), color=pl.lit("red"), day=pl.lit(START.date()))
    for inputs in (("height",), ("open",), ("color",), ("day",), ("day", "height", "open", "color")):
        refused(lambda inputs=inputs: fitted(table, inputs), "every input column has one value")
    inputs, _ = encoded(fitted(table, ("height", "month")), table)
    assert inputs[:, 0].tolist() == [0.0] * 60  # centered, and left at that


LEAKS = {
    "itself": (pl.col("flow"), "flow", ()),
    "in another unit": (32 - 1.8 * pl.col("flow"), "flow", ()),
    "with gaps": (pl.when(pl.int_range(pl.len()) > 5).then(pl.col("flow")), "flow", ()),
    "as text": (pl.col("flow").cast(pl.String), "flow", ()),
    "a class": (pl.col("grade"), "grade", ()),
    "a class of two, as yes or no": (pl.col("grade") == "bad", "grade", ()),
    "a boolean": (pl.col("open"), "open", ()),
    "a boolean in words": (pl.when(pl.col("open")).then(pl.lit("no")).otherwise(pl.lit("yes")), "open", ()),
    "a class, as a number": (pl.col("stage"), "stage", ("stage=category",)),
    "a number, as a category": (pl.col("stage"), "stage", ("copy=category",)),
}
NO_LEAKS = {
    "noise": (pl.col("flow") + 0.001 * pl.col("height"), "flow", ()),
    "a square": (pl.col("flow") ** 2, "flow", ()),
    "half of the classes": (pl.col("stage") == 1, "stage", ("stage=category",)),
    "another class": (pl.col("color"), "grade", ()),
    "a date": (pl.col("day"), "flow", ()),
    "the date of a trend": (pl.col("day"), "trend", ()),
}


@pytest.mark.parametrize("case", [*LEAKS, *NO_LEAKS])
def test_an_input_that_says_what_the_target_is_is_warned_of_and_no_other(case):
    copy, target, kinds = {**LEAKS, **NO_LEAKS}[case]
    notes = []
    fitted(
        a_table().with_columns(copy=copy, trend=pl.int_range(pl.len())), ("height", "copy"), (target,), kinds=kinds, notes=notes
    )
    warnings = [note for note in notes if note.startswith("warning")]
    expected = f"warning: input 'copy' says exactly what target '{target}' is; will you know it when you ask?"
    assert warnings == ([expected] if case in LEAKS else [])


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_a_table_is_encoded_the_same_from_every_kind_of_file(tmp_path, suffix):
    table, path = a_table(), tmp_path / f"table{suffix}"
    if suffix == ".parquet":
        table.with_columns(pl.col("color").cast(pl.Categorical)).write_parquet(path)
    else:
        table.write_csv(path, separator="\t" if suffix == ".tsv" else ",")
    read = read_table(path)
    format, again = fitted(table, INPUTS), fitted(read, INPUTS)
    for one in (format, again):
        np.testing.assert_array_equal(one.encode_inputs(read, "t"), format.encode_inputs(table, "t"))
        np.testing.assert_array_equal(one.encode_targets(read, "t")[0], format.encode_targets(table, "t")[0])


BERLIN = "Europe/Berlin"


def hours_around_a_change_of_clocks(days=12):
    """Every hour around 31 March 2024 by the clock of Berlin, with a target that only the hour on that clock decides."""
    utc = pl.Series("t", dates(24 * days, hours=1, start=datetime.datetime(2024, 3, 25)))
    local = utc.dt.replace_time_zone("UTC").dt.convert_time_zone(BERLIN)
    flow = (2 * np.pi * local.dt.hour().cast(pl.Float64) / 24).sin()
    return pl.DataFrame({"unit": ["u"] * local.len(), "t": local, "flow": flow})


def as_text(table):
    return table.with_columns(pl.col("t").dt.strftime("%Y-%m-%dT%H:%M:%S%:z"))


def as_utc(table):
    return table.with_columns(pl.col("t").dt.convert_time_zone("UTC"))


@pytest.mark.parametrize("write", [lambda table: table, as_text], ids=["named zone", "texts that end in +01:00 and +02:00"])
def test_a_daily_cycle_by_a_local_clock_is_a_linear_function_of_the_waves_across_a_change_of_clocks(write):
    table = write(hours_around_a_change_of_clocks())
    format = fitted(table, ("t",))
    features = format.encode_inputs(table, "t").astype(np.float64)
    flow = table["flow"].to_numpy()
    design = np.column_stack([features, np.ones(len(flow))])
    left = flow - design @ np.linalg.lstsq(design, flow, rcond=None)[0]
    assert np.abs(left).max() < 1e-3  # by the clock of UTC it is 0.1 or more
    assert (
        "by the clock of Europe/Berlin" if write is not as_text else "by local clocks (+01:00 +02:00)"
    ) in format.describe()[0]


def test_the_trend_of_zoned_moments_is_that_of_utc_and_their_order_survives_the_hour_that_comes_twice():
    utc = pl.Series("t", dates(9, hours=1, start=datetime.datetime(2024, 10, 26, 20)))
    table = pl.DataFrame(
        {"unit": ["u"] * 9, "t": utc.dt.replace_time_zone("UTC").dt.convert_time_zone(BERLIN), "flow": np.arange(9.0)}
    )
    for written in (table, as_text(table)):
        trend = fitted(written, ("t",)).encode_inputs(written, "t")[:, 0]
        np.testing.assert_allclose(np.diff(trend), np.diff(trend)[0], rtol=1e-4)


def test_moments_of_a_named_zone_mean_the_same_in_whatever_zone_a_later_file_writes_them():
    table = hours_around_a_change_of_clocks()
    format = TableFormat.from_json(json.loads(json.dumps(fitted(table, ("t",)).to_json())))
    expected = format.encode_inputs(table, "t")
    for later in (
        as_text(table),
        as_utc(table),
        as_text(as_utc(table)),
        table.with_columns(pl.col("t").dt.convert_time_zone("Asia/Tokyo")),
    ):
        np.testing.assert_array_equal(format.encode_inputs(later, "t"), expected)


def test_moments_that_lose_or_gain_a_zone_later_are_refused_and_clocks_that_training_did_not_have_are_said():
    zoned = as_text(hours_around_a_change_of_clocks())
    naive = zoned.with_columns(pl.col("t").str.slice(0, 19))
    refused(lambda: fitted(zoned, ("t",)).encode_inputs(naive, "new.csv"), "new.csv", "'t'", "with a time zone (+01:00 +02:00)")
    refused(lambda: fitted(naive, ("t",)).encode_inputs(zoned, "new.csv"), "new.csv", "'t'", "without a time zone")
    refused(
        lambda: fitted(naive, ("t",)).encode_inputs(as_utc(hours_around_a_change_of_clocks()), "new.csv"), "without a time zone"
    )
    notes = []
    fitted(zoned, ("t",)).encode_inputs(zoned.with_columns(pl.col("t").str.replace(r".\d\d:00$", "Z")), "new.csv", notes)
    assert any("clocks +00:00 from UTC, in training +01:00 +02:00" in note for note in notes), notes
    utc = zoned.with_columns(pl.col("t").str.replace(r".\d\d:00$", "Z"))
    assert "by the clock of UTC" in fitted(utc, ("t",)).describe()[0]


def test_a_column_that_is_absent_or_of_another_kind_later_is_refused():
    format = fitted(a_table(), INPUTS)
    refused(lambda: format.encode_inputs(a_table().drop("day"), "new.csv"), "new.csv", "'day'")
    refused(lambda: format.encode_targets(a_table().drop("flow"), "new.csv"), "new.csv", "'flow'")
    for name, other, expected in (("day", "soon", "dates"), ("height", "tall", "numbers"), ("open", "ajar", "booleans")):
        later = a_table().with_columns(pl.lit(other).alias(name))
        refused(lambda later=later: format.encode_inputs(later, "new.csv"), "new.csv", repr(name), expected, repr(other))
    refused(
        lambda: format.encode_targets(a_table().with_columns(flow=pl.lit("high")), "new.csv"), "'flow'", "numbers", "'high'"
    )


def test_pictures_have_the_first_date_else_the_first_number_along_their_x_axis():
    table = a_table()
    labels = [fitted(table, inputs).x_label for inputs in (("height", "day"), ("color", "month", "height"), ("color", "open"))]
    assert labels == ["day", "month", "row"]
    assert [fitted(table, inputs).x_is_date for inputs in (("height", "day"), ("height",), ("color",))] == [True, False, False]
    assert fitted(table).y_label == "flow"


def test_what_is_said_of_a_column_tells_its_kind_range_and_how_it_is_used():
    table = with_gaps(a_table(), "height", {1}).with_columns(day=pl.col("day").dt.strftime("%m/%d/%Y"))
    table = table.with_columns(day=pl.Series(["01/02/2016", "03/02/2016"] * 30))
    day, height, is_open, color, flow = fitted(table, ("day", "height", "open", "color")).describe()
    assert day.startswith("day: date -> trend")
    assert "read as day/month/year (not as month/day/year: then declare --kinds day=date:%m/%d/%Y)" in day
    assert "2016-02-01 to 2016-02-03" in day
    assert height.startswith("height: number, ")
    assert "a feature for gaps" in height
    assert f"{100 * table['open'].mean():.0f} % yes" in is_open
    assert "category of 3 values (blue, green, red)" in color
    assert f"mean {table['flow'].mean():.4g}" in flow


def test_rows_are_ordered_by_moments_or_numbers_and_by_nothing_else():
    table, notes = a_table().with_columns(text=pl.Series(["02/03/2016", "01/04/2016"] * 30)), []
    ordered = lambda name, table=table, kinds=(): order_of_time(table, name, "a table", declared_kinds(kinds), notes)  # noqa: E731
    np.testing.assert_array_equal(np.argsort(ordered("day")), np.arange(60))
    np.testing.assert_array_equal(ordered("month"), table["month"].to_numpy())
    assert notes == []
    assert ordered("text")[0] < ordered("text")[1]  # the 2nd of March, the 1st of April
    assert "--kinds text=date:%m/%d/%Y" in notes[0]
    assert ordered("text", kinds=("text=date:%m/%d/%Y",))[0] > ordered("text", kinds=("text=date:%m/%d/%Y",))[1]
    refused(lambda: ordered("color"), "--time 'color'", "category")
    refused(lambda: ordered("open"), "--time 'open'", "boolean")
    refused(lambda: ordered("day", with_gaps(table, "day", {4, 8})), "--time 'day'", "2 gaps (data rows 5, 9)")
    refused(lambda: ordered("dya"), "did you mean 'day'?")


def test_real_weather_by_week_shows_the_year_alone(real_data):
    path = real_data / "weather_us_2016"
    files = sorted(path.glob("*.csv"))
    if not files:
        pytest.skip(f"needs a CSV file in {path.name}")
    table = read_table(files[0])
    target = "Data.Temperature.Avg Temp"
    everywhere = np.ones(table.height, bool)
    format = fit_format(Fitting(table, ("Date.Full",), (target,), everywhere, "weather", "Station.Code"), [])
    assert (format.inputs[0].periods, format.inputs[0].harmonics) == (("annual",), (2,))
    restored = format.restore(format.encode_targets(table, "weather")[0])[:, 0]
    np.testing.assert_allclose(restored, table[target].cast(pl.Float64).to_numpy(), rtol=1e-4, atol=1e-3)


def test_numbers_whose_squares_are_infinite_are_refused():
    with pytest.raises(InputError, match="1 values beyond 1e\\+150 of 2"):
        read_values(pl.DataFrame({"x": [1.0, 1e200]}), "x", ColumnKind("number"), "t")


def test_inputs_absurdly_far_from_training_are_refused():
    format = TableFormat((InputColumn("x", "number", 0.0, 1.0),), (TargetColumn("y"),))
    with pytest.raises(InputError, match=r"'x' has 1 values \(data rows 2\) more than 1e\+15 standard deviations"):
        format.encode_inputs(pl.DataFrame({"x": [1.0, 1e20]}), "t")


@pytest.mark.parametrize("name, value", [("scale", 0.0), ("scale", "wide"), ("kind", "color"), ("periods", ["annual"])])
def test_a_saved_format_of_another_shape_is_refused(name, value):
    saved = TableFormat((InputColumn("x", "number"),), (TargetColumn("y"),)).to_json()
    saved["inputs"][0][name] = value
    with pytest.raises((ValueError, TypeError)):
        TableFormat.from_json(saved)


def test_whole_numbers_beyond_int64_in_a_saved_format_are_numbers():
    saved = TableFormat((InputColumn("x", "number"),), (TargetColumn("y"),)).to_json()
    saved["inputs"][0].update(span=[-(10**30), 10**30], scale=10**30)
    saved["targets"][0]["scale"] = 10**30
    format = TableFormat.from_json(saved)
    assert TableFormat.from_json(format.to_json()) == format
    assert format.units.tolist() == [1e30]
    saved["inputs"][0]["kind"] = "date"
    with pytest.raises(OverflowError):
        TableFormat.from_json(saved)


def test_classes_and_categories_are_text_as_written_and_near_twins_are_said():
    codes = ["01", "1", "02", "Shop 1", "shop  1"]
    table = a_table(60).with_columns(grade=pl.Series([codes[row % 5] for row in range(60)]))
    kinds = declared_kinds(("grade=category",))

    def fit(inputs, target, notes):
        return fit_format(Fitting(table, inputs, target, np.ones(60, bool), "t.csv", kinds=kinds), notes)

    classed = fit(("height",), ("grade",), notes=(notes := []))
    assert classed.classes == tuple(sorted(codes))
    assert any('grade: labels "01" and "1" are different classes' in note and "1 more" in note for note in notes), notes
    assert fit(("grade",), ("flow",), notes=(notes := [])).inputs[0].categories == tuple(sorted(codes))
    assert any("different categories" in note for note in notes), notes
    later = table.with_columns(grade=pl.lit("2"))
    refused(lambda: classed.encode_targets(later, "new.csv"), "the class '2'", 'did you mean "02"?')
    fit(("grade",), ("flow",), notes=[]).encode_inputs(later, "new.csv", notes := [])
    assert any('did you mean "02"?' in note for note in notes), notes
