"""Columns of a table as inputs and targets, and every way in which a table can be no use. Place: fewstep/tasks/columns.py."""

import datetime
import json
import math

import numpy as np
import polars as pl
import pytest

from fewstep import BadInput
from fewstep.tasks.columns import TableFormat, fit_format, read_table, visible_periods

START = datetime.datetime(2016, 1, 3)


def dates(count, **spacing):
    return [START + number * datetime.timedelta(**spacing) for number in range(count)]


def seconds(moments):
    return np.array([moment.replace(tzinfo=datetime.UTC).timestamp() for moment in moments])


def a_table(rows=60, seed=0):
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "unit": [f"u{row % 4}" for row in range(rows)],
            "day": [moment.date() for moment in dates(rows, days=7)],
            "height": rng.normal(100, 20, rows),
            "flow": rng.normal(-3, 0.5, rows),
        }
    )


def fitted(table, inputs=("day", "height"), in_train=None):
    in_train = np.ones(table.height, bool) if in_train is None else in_train
    return fit_format(table, inputs, "flow", "unit", in_train, "a table")


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
    encoded = fitted(table).encode_inputs(table, "a table")
    when = seconds([datetime.datetime.combine(day, datetime.time()) for day in table["day"]])
    angle = 2 * np.pi * when / (365.2425 * 86400)
    expected = [(when - when.mean()) / when.std()]
    for order in (1, 2):
        expected += [np.sin(order * angle), np.cos(order * angle)]
    height = table["height"].to_numpy()
    expected.append((height - height.mean()) / height.std())
    assert encoded.dtype == np.float32
    np.testing.assert_allclose(encoded, np.stack(expected, 1), atol=1e-6)


def test_weekly_harmonics_repeat_after_a_week_and_not_after_three_days():
    hourly = pl.DataFrame({"unit": ["u"] * 744, "t": dates(744, hours=1), "flow": np.arange(744.0)})
    encoded = fitted(hourly, ("t",)).encode_inputs(hourly, "a table")
    assert encoded.shape == (744, 9)
    np.testing.assert_allclose(encoded[168:, 1:], encoded[:-168, 1:], atol=1e-5)
    assert np.abs(encoded[72:, 1:5] - encoded[:-72, 1:5]).max() > 1  # the week
    np.testing.assert_allclose(encoded[72:, 5:], encoded[:-72, 5:], atol=1e-5)  # the day


def test_the_format_survives_its_trip_through_json():
    table = a_table()
    format = fitted(table)
    again = TableFormat.from_json(json.loads(json.dumps(format.to_json())))
    assert again == format
    np.testing.assert_array_equal(again.encode_inputs(table, "t"), format.encode_inputs(table, "t"))
    np.testing.assert_array_equal(again.encode_target(table, "t"), format.encode_target(table, "t"))


def test_standardization_looks_at_meta_train_rows_alone():
    table, in_train = a_table(), np.arange(60) % 3 > 0
    wild = table.with_columns(
        pl.when(pl.Series(in_train)).then(pl.col(name)).otherwise(pl.col(name) * 1e6).alias(name) for name in ("height", "flow")
    )
    assert fitted(wild, in_train=in_train) == fitted(table, in_train=in_train)
    assert fitted(table, in_train=~in_train) != fitted(table, in_train=in_train)
    format = fitted(table, in_train=in_train)
    for values in (format.encode_inputs(table, "t")[in_train, -1], format.encode_target(table, "t")[in_train, 0]):
        np.testing.assert_allclose([values.mean(), values.std()], [0, 1], atol=1e-6)


def test_restoring_a_target_inverts_encoding_it():
    table = a_table()
    format = fitted(table)
    restored = format.restore_target(format.encode_target(table, "t")[:, 0])
    np.testing.assert_allclose(restored, table["flow"], rtol=1e-6)
    assert restored.dtype == np.float64


def test_a_constant_column_is_centered_and_left_at_that():
    table = a_table().with_columns(height=pl.lit(5.0))
    assert fitted(table).encode_inputs(table, "t")[:, -1].tolist() == [0.0] * 60


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_a_table_reads_the_same_from_every_kind_of_file(tmp_path, suffix):
    table, path = a_table(), tmp_path / f"table{suffix}"
    if suffix == ".parquet":
        table.write_parquet(path)
    else:
        table.write_csv(path, separator="\t" if suffix == ".tsv" else ",")
    read = read_table(path)
    assert read.columns == table.columns
    format = fitted(table)
    np.testing.assert_array_equal(format.encode_inputs(read, "t"), format.encode_inputs(table, "t"))
    np.testing.assert_array_equal(format.encode_target(read, "t"), format.encode_target(table, "t"))


def test_dates_with_a_time_zone_are_the_same_moments():
    hourly = pl.DataFrame({"unit": ["u"] * 99, "t": dates(99, hours=1), "flow": np.arange(99.0)})
    abroad = hourly.with_columns(pl.col("t").dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo"))
    format = fitted(hourly, ("t",))
    np.testing.assert_array_equal(format.encode_inputs(abroad, "t"), format.encode_inputs(hourly, "t"))


def refused(act, *words):
    with pytest.raises(BadInput) as caught:
        act()
    message = str(caught.value)
    assert not [word for word in words if word not in message], message
    assert 1 <= len(message.splitlines()) <= 3
    return message


def test_a_file_that_cannot_be_read_as_a_table_is_refused(tmp_path):
    refused(lambda: read_table(tmp_path / "none.csv"), "none.csv", "no such file")
    refused(lambda: read_table(tmp_path), str(tmp_path), "a folder")
    for name, content in {
        "junk.csv": bytes(range(256)) * 40,
        "junk.parquet": b"PAR1 this is none PAR1",
        "ragged.csv": b"a,b\n1,2\n3,4,5,6\n",
        "empty.csv": b"",
        "latin.csv": "a,b\nZürich,2\n".encode("latin-1"),
    }.items():
        (tmp_path / name).write_bytes(content)
        refused(lambda path=tmp_path / name: read_table(path), name, "expected")
    (tmp_path / "header.csv").write_text("a,b\n")
    refused(lambda: read_table(tmp_path / "header.csv"), "expected rows")


def test_an_unknown_column_is_refused_with_the_nearest_name():
    refused(lambda: fitted(a_table(), ("heigth",)), "'heigth'", "did you mean 'height'?")
    refused(lambda: fitted(a_table(), ("zzz",)), "'zzz'", "'unit', 'day', 'height', 'flow'")
    format = fitted(a_table())
    refused(lambda: format.encode_inputs(a_table().drop("day"), "new.csv"), "new.csv", "'day'")


def test_a_column_of_another_kind_is_refused_with_examples_of_what_it_holds():
    table = a_table()
    words = table.with_columns(flow=pl.lit("high"), height=pl.lit(True))
    refused(lambda: fitted(words), "'height'", "numbers", "Boolean")
    refused(lambda: fitted(words, ("day",)), "'flow'", "numbers", "'high'")
    refused(lambda: fitted(table.with_columns(flow=pl.col("day")), ("height",)), "'flow'", "numbers", "Date")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
@pytest.mark.parametrize("name", ["height", "flow"])
def test_gaps_and_infinities_are_refused_with_their_number_and_rows(bad, name):
    table = a_table()
    values = table[name].to_list()
    for row in (4, 9, 11):
        values[row] = bad
    table = table.with_columns(pl.Series(name, values))
    refused(lambda: fitted(table), repr(name), "3 missing or infinite values of 60", "rows 5, 10, 12)")
    if name == "height":
        refused(lambda: fitted(a_table()).encode_inputs(table, "new.csv"), "new.csv", "rows 5, 10, 12)")


def test_many_gaps_are_told_by_their_first_rows_and_gaps_in_dates_are_found_too():
    table = a_table().with_columns(height=pl.lit(None, pl.Float64))
    refused(lambda: fitted(table), "60 missing", "1, 2, 3, 4, 5, ...")
    table = a_table()
    table = table.with_columns(pl.Series("day", [None, *table["day"][1:]]))
    refused(lambda: fitted(table), "'day'", "1 missing", "rows 1)")


def test_a_date_column_that_comes_as_text_or_number_later_is_refused():
    format = fitted(a_table())
    for later in (pl.lit("3rd of January"), pl.lit(42)):
        table = a_table().with_columns(day=later)
        refused(lambda table=table: format.encode_inputs(table, "new.csv"), "new.csv", "'day' was a date in training")


def test_real_weather_by_week_shows_the_year_alone(real_data):
    path = real_data / "weather_us_2016"
    files = sorted(path.glob("*.csv"))
    if not files:
        pytest.skip(f"needs a CSV file in {path.name}")
    table = read_table(files[0])
    everywhere = np.ones(table.height, bool)
    format = fit_format(table, ("Date.Full",), "Data.Temperature.Avg Temp", "Station.Code", everywhere, "weather")
    assert (format.inputs[0].periods, format.inputs[0].harmonics) == (("annual",), (2,))
    temperature = table["Data.Temperature.Avg Temp"].cast(pl.Float64).to_numpy()
    np.testing.assert_allclose(
        format.restore_target(format.encode_target(table, "weather")[:, 0]), temperature, rtol=1e-4, atol=1e-3
    )
