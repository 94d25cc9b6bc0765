"""What kind of values a column holds, on edge cases, and the values as numbers or words. Place: fewstep/supervised/kinds.py."""

import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest

from fewstep import InputError
from fewstep.supervised.infer_kinds import declared_kinds, infer_kind
from fewstep.supervised.kinds import ColumnKind, read_values, read_words

NAN, DATE = float("nan"), datetime.date


def table_of(values, dtype=None):
    return pl.DataFrame({"c": pl.Series(values, dtype=dtype, strict=False)})


def seconds(*moments):
    return [moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp() for moment in moments]


def refused(act, *words):
    with pytest.raises(InputError) as caught:
        act()
    message = str(caught.value)
    assert not [word for word in words if word not in message], message
    assert 1 <= len(message.splitlines()) <= 3


def infer(values, dtype=None, declared=None):
    return infer_kind(table_of(values, dtype), "c", "a table", declared)


JANUARY, FEBRUARY = datetime.datetime(2016, 1, 31), datetime.datetime(2016, 2, 13)
TOKYO = ZoneInfo("Asia/Tokyo")
NUMERIC = {
    # what it is: (values, kind of polars, kind of column, what is read)
    "whole numbers": ([3, -1, None], None, "number", [3, -1, NAN]),
    "small whole numbers": ([3, 255], pl.UInt8, "number", [3, 255]),
    "numbers": ([0.5, NAN, None], None, "number", [0.5, NAN, NAN]),
    "decimals": ([Decimal("1.25"), None], None, "number", [1.25, NAN]),
    "zeros and ones": ([0, 1, 1], None, "number", [0, 1, 1]),
    "years": ([2016, 2017], None, "number", [2016, 2017]),
    "numbers as text": (["3", " 1.5 ", "-2e3", None], None, "number", [3, 1.5, -2000, NAN]),
    "numbers as categories": (["3", "1"], pl.Categorical, "number", [3, 1]),
    "booleans": ([True, None, False], None, "boolean", [1, NAN, 0]),
    "yes and no": (["Yes", " no", "NO", None], None, "boolean", [1, 0, 0, NAN]),
    "true and false": (["True", "FALSE", "true"], None, "boolean", [1, 0, 1]),
    "letters": (["y", "N", "t", "f"], None, "boolean", [1, 0, 1, 0]),
    "yes alone": (["yes", "yes"], None, "boolean", [1, 1]),
    "yes and no as categories": (["yes", "no"], pl.Categorical, "boolean", [1, 0]),
    "dates": ([DATE(2016, 1, 31), None, DATE(1960, 1, 1)], None, "date", [*seconds(JANUARY), NAN, -3653 * 86400]),
    "moments": ([JANUARY, FEBRUARY], pl.Datetime("ns"), "date", seconds(JANUARY, FEBRUARY)),
    "moments of a zone": (
        [JANUARY.replace(tzinfo=TOKYO)],
        pl.Datetime("ms", "Asia/Tokyo"),
        "date",
        seconds(JANUARY.replace(tzinfo=TOKYO)),
    ),
    "dates as text": (["2016-01-31", None, "2016-02-13"], None, "date", [*seconds(JANUARY), NAN, *seconds(FEBRUARY)]),
    "dates as categories": (["31.01.2016", "13.02.2016"], pl.Categorical, "date", seconds(JANUARY, FEBRUARY)),
    "day first": (["31/01/2016", "13/2/2016"], None, "date", seconds(JANUARY, FEBRUARY)),
    "month first": (["01/31/2016", "2/13/2016"], None, "date", seconds(JANUARY, FEBRUARY)),
    "years of two digits": (["31/01/16", "13/02/16"], None, "date", seconds(JANUARY, FEBRUARY)),
    "a clock": (["2016-01-31 12:30", "2016-02-13 00:00"], None, "date", [seconds(JANUARY)[0] + 45_000, *seconds(FEBRUARY)]),
    "a zone": (
        ["2016-01-31T02:00:00.5+02:00", "2016-02-13T00:00:00Z"],
        None,
        "date",
        [seconds(JANUARY)[0] + 0.5, *seconds(FEBRUARY)],
    ),
}
WORDED = {
    "words": ([" red", "blue ", None], None, ["red", "blue", None]),
    "categories": (["red", "blue"], pl.Categorical, ["red", "blue"]),
    "enumerations": (["red", "blue"], pl.Enum(["blue", "red"]), ["red", "blue"]),
    "versions": (["1.2.3", "1.2.4"], None, ["1.2.3", "1.2.4"]),
    "a few numbers among words": (["A", "B", "7"], None, ["A", "B", "7"]),
    "yes, no and else": (["yes", "no", "perhaps"], None, ["yes", "no", "perhaps"]),
    "a few dates among words": (["A", "B", "C", "2016-01-31"], None, ["A", "B", "C", "2016-01-31"]),
}


@pytest.mark.parametrize("case", NUMERIC)
def test_a_column_is_of_the_kind_that_all_its_values_are_of_and_is_read_as_numbers(case):
    values, dtype, kind, expected = NUMERIC[case]
    table = table_of(values, dtype)
    how = infer_kind(table, "c", "a table")
    assert (how.kind, how.remark) == (kind, "")
    np.testing.assert_array_equal(read_values(table, "c", how, "a table"), np.array(expected, float))


@pytest.mark.parametrize("case", WORDED)
def test_what_is_neither_number_nor_date_nor_yes_or_no_is_a_category(case):
    values, dtype, expected = WORDED[case]
    assert infer(values, dtype) == ColumnKind("category")
    assert read_words(table_of(values, dtype), "c", "a table").to_list() == expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([None, None], ["'c'", "no values at all", "Leave it out"]),
        (["1", "2", "3", "high", "n.a."], ["3 numbers", "2 values", "'high', 'n.a.'", "--kinds c=category"]),
        (["2016-01-31", "13.02.2016"], ["two formats", "'2016-01-31' and '13.02.2016'"]),
        (["2016-01-31", "2016-02-13 10:00"], ["two formats", "'2016-01-31' and '2016-02-13 10:00'"]),
        (["31/01/2016", "30/01/2016", "02/13/2016"], ["two formats", "'31/01/2016' and '02/13/2016'"]),
        (["2016-01-31", "2016-02-13", "unknown"], ["'2016-01-31' beside 'unknown'", "--kinds c=category"]),
        (["2016-01-31", "2016-02-30"], ["'2016-01-31' beside '2016-02-30'"]),
        ([[1], [2]], ["List(Int64) such as [1], [2]", "expected numbers, dates, yes or no, or words"]),
        ([datetime.time(1)], ["Time"]),
        ([datetime.timedelta(1)], ["Duration"]),
    ],
)
def test_a_column_that_is_empty_or_mixed_or_of_no_known_kind_is_refused_with_examples(values, words):
    refused(lambda: infer(values), "a table", "'c'", *words)


def test_a_date_that_can_be_read_in_two_ways_is_read_in_the_first_and_said_with_how_to_choose_the_other():
    values = ["05/01/2016", "06/02/2016"]
    how = infer(values)
    assert how.date_format == "%d/%m/%Y"
    assert "day/month/year" in how.remark
    assert "--kinds c=date:%m/%d/%Y" in how.remark
    other = infer(values, declared=declared_kinds(("c=date:%m/%d/%Y",))["c"])
    days = [read_values(table_of(values), "c", kind, "t").tolist() for kind in (how, other)]
    assert days[0] == seconds(datetime.datetime(2016, 1, 5), datetime.datetime(2016, 2, 6))
    assert days[1] == seconds(datetime.datetime(2016, 5, 1), datetime.datetime(2016, 6, 2))
    assert infer(["05/05/2016", "06/06/2016"]).remark == ""  # both ways say the same
    assert "hour:minute:second" in infer(["05/01/2016 10:11:12"]).remark


def test_kinds_are_declared_as_column_equals_kind():
    words = ("month=category", "a=b=number", "day=date", "when=date:%H:%M=%d/%m/%Y", "open=boolean")
    assert declared_kinds(words) == {
        "month": ColumnKind("category"),
        "a=b": ColumnKind("number"),
        "day": ColumnKind("date"),
        "when": ColumnKind("date", "%H:%M=%d/%m/%Y"),
        "open": ColumnKind("boolean"),
    }
    for word in ("month", "month=", "month=word", "month=category:3", "=", "number"):
        refused(lambda word=word: declared_kinds((word,)), repr(word), "COLUMN=KIND", "number, date, boolean, category")


@pytest.mark.parametrize(
    ("values", "declared", "expected"),
    [
        ([12, 1, None], "category", ["12", "1", None]),
        ([12.0, 1.0, NAN], "category", ["12", "1", None]),  # whole numbers, whatever gaps made of them
        ([38.0, 38.5, None], "category", ["38", "38.5", None]),
        (["12", "1"], "category", ["12", "1"]),
        ([True, False], "category", ["true", "false"]),
        ([DATE(2016, 1, 31)], "category", ["2016-01-31"]),
        ([1e20], "category", ["1e20"]),
        ([0, 1, None], "boolean", [0, 1, NAN]),
        ([0.0, 1.0], "boolean", [0, 1]),
        (["0", "1"], "boolean", [0, 1]),
        ([True, False], "number", [1, 0]),
        ([20160131, None, 20160213], "date:%Y%m%d", [*seconds(JANUARY), NAN, *seconds(FEBRUARY)]),
        (["31|01|16"], "date:%d|%m|%y", seconds(JANUARY)),
        (["2016-01"], "date:%Y-%m", seconds(datetime.datetime(2016, 1, 1))),
        (["2016-01-31", "2016-02-13"], "date", seconds(JANUARY, FEBRUARY)),
        ([JANUARY], "date", seconds(JANUARY)),
        (["2016-01-31 02:00 +0200"], "date:%Y-%m-%d %H:%M %z", seconds(JANUARY)),
    ],
)
def test_a_declared_kind_is_how_the_column_is_read(values, declared, expected):
    how = infer(values, declared=declared_kinds((f"c={declared}",))["c"])
    assert how.kind == declared.partition(":")[0]
    if how.kind == "category":
        assert [word.replace("+", "") if word else word for word in read_words(table_of(values), "c", "t")] == expected
    else:
        np.testing.assert_array_equal(read_values(table_of(values), "c", how, "t"), np.array(expected, float))


@pytest.mark.parametrize(
    ("values", "declared", "words"),
    [
        ([2016, 2017], "date", ["declared a date", "2016, 2017"]),
        (["yes", "no"], "date", ["declared a date", "'yes', 'no'"]),
        ([True], "date", ["declared a date", "True"]),
        ([1.5], "date:%Y", ["declared a date", "1.5"]),
        (["red", "blue"], "date", ["declared a date", "'red', 'blue'", "Name its format"]),
        (["31/01/2016"], "date:%m/%d/%Y", ["date:%m/%d/%Y", "'31/01/2016'"]),
        (["2016-01-31"], "date:nonsense", ["date:nonsense", "'2016-01-31'"]),
        ([20160131, 7], "date:%Y%m%d", ["date:%Y%m%d", "7"]),
        (["red", "blue"], "number", ["should hold numbers", "'red', 'blue'"]),
        ([DATE(2016, 1, 31)], "number", ["should hold numbers", "Date"]),
        ([0, 2], "boolean", ["should hold booleans", "0, 2"]),
        (["yes", "perhaps"], "boolean", ["should hold booleans", "'yes', 'perhaps'"]),
        ([None], "category", ["no values at all"]),
    ],
)
def test_values_that_are_not_of_the_declared_kind_are_refused_with_examples(values, declared, words):
    def read():
        read_values(table_of(values), "c", infer(values, declared=declared_kinds((f"c={declared}",))["c"]), "a table")

    refused(read, "a table", "'c'", *words)


@pytest.mark.parametrize("bad", [float("inf"), -float("inf")])
def test_infinities_are_refused_with_their_number_and_rows(bad):
    values = [1.0, bad, 2.0, bad, *[bad] * 5]
    refused(
        lambda: read_values(table_of(values), "c", ColumnKind("number"), "new.csv"),
        "new.csv",
        "7 infinite values of 9 (data rows 2, 4, 5, 6, 7, ...)",
    )


@pytest.mark.parametrize("kind", ["number", "date", "boolean"])
@pytest.mark.parametrize("dtype", [pl.Null, pl.String, pl.Float64, pl.Date, pl.Boolean, pl.Int64])
def test_a_column_of_gaps_alone_can_later_stand_for_any_kind(kind, dtype):
    read = read_values(table_of([None, None], dtype), "c", ColumnKind(kind), "new.csv")
    assert np.isnan(read).all()
    assert read.dtype == np.float64


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        (["2016-01-31"], JANUARY),
        ([DATE(2016, 1, 31)], JANUARY),
        (["01/31/2016 00:00"], JANUARY),
        (["05/06/2016"], datetime.datetime(2016, 5, 6)),  # in the known format
        (["05/06/2016 00:00"], datetime.datetime(2016, 5, 6)),  # in another one of the same order
        (["05/06/16"], datetime.datetime(2016, 5, 6)),
    ],
)
def test_dates_of_a_later_file_may_be_written_otherwise_and_months_stay_before_days(later, expected):
    how = infer(["01/31/2016", "02/13/2016"])
    assert read_values(table_of(later), "c", how, "new.csv").tolist() == seconds(expected)


@pytest.mark.parametrize("later", [["3rd of January"], [42], [True], ["2016-01-31", "31.01.2016"]])
def test_what_is_no_date_later_is_refused(later):
    how = infer(["2016-01-31"])
    refused(lambda: read_values(table_of(later), "c", how, "new.csv"), "new.csv", "'c' should hold dates", repr(later[0]))
