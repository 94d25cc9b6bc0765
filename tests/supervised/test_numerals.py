"""Numbers as people write them: their values, what is ambiguous, and later files. Place: fewstep/tasks/numerals."""

import json

import numpy as np
import polars as pl
import pytest

from fewstep import InputError
from fewstep.apps.tables.data import Fitting, fit_format
from fewstep.storage.numerals import COMMA, POINT, split_example
from fewstep.supervised.columns import TableFormat
from fewstep.supervised.infer_kinds import declared_kinds, infer_kind
from fewstep.supervised.kinds import read_values

NUMBERS = [1234.5, -0.25, 0.0, 1234567.0, 999.0, -1054.125]


def english(value, mark=","):
    return f"{value:,}".replace(",", mark)


def german(value, mark="."):
    return f"{value:,}".replace(",", "_").replace(".", ",").replace("_", mark)


WAYS = {
    "thousands": english,
    "thousands and decimal commas": german,
    "blanks": lambda value: english(value, " "),
    "blanks and decimal commas": lambda value: german(value, " "),
    "no-break blanks": lambda value: german(value, "\u00a0"),
    "thin blanks": lambda value: german(value, "\u2009"),
    "narrow no-break blanks": lambda value: german(value, "\u202f"),
    "apostrophes": lambda value: english(value, "'"),
    "typographic apostrophes": lambda value: english(value, "’"),
    "per cent": lambda value: f"{value}%",
    "per cent after a blank": lambda value: f"{german(value)} %",
    "dollars": lambda value: f"${english(value)}".replace("$-", "-$"),
    "euros": lambda value: f"{german(value)} €",
    "a unit": lambda value: f"{value} kg",
    "a unit without a blank": lambda value: f"{value}kWh",
    "a plus sign": lambda value: f"{value:+}",
    "a true minus sign": lambda value: f"{value}".replace("-", "−"),
    "parentheses for negatives": lambda value: f"({-value:,})" if value < 0 else f"{value:,}",
    "powers of ten": lambda value: f"{value:e}",
    "powers of ten and decimal commas": lambda value: f"{value:e}".replace(".", ","),
    "blanks around": lambda value: f"  {value} ",
}


def table_of(**columns):
    return pl.DataFrame({name: pl.Series(values, dtype=pl.String) for name, values in columns.items()})


def read(table, written=None):
    kinds = declared_kinds((f"c=number:{written}",)) if written else {}
    how = infer_kind(table, "c", "t.csv", kinds.get("c"))
    return how, read_values(table, "c", how, "t.csv")


def refused(act, *words):
    with pytest.raises(InputError) as caught:
        act()
    assert not [word for word in words if word not in str(caught.value)], caught.value


@pytest.mark.parametrize("way", WAYS)
def test_numbers_are_read_as_what_was_written_and_so_are_those_of_a_later_file_by_the_saved_format(way):
    texts = [WAYS[way](value) for value in NUMBERS]
    table = table_of(c=[*texts, None], y=[*texts, None])
    how, values = read(table)
    assert how.kind == "number"
    np.testing.assert_allclose(values, [*NUMBERS, np.nan], rtol=1e-6)
    format = fit_format(Fitting(table[:6], ("c",), ("y",), np.ones(6, bool)), [])
    later = TableFormat.from_json(json.loads(json.dumps(format.to_json())))
    assert later == format
    for described, written in zip(later.describe(), (later.inputs[0].written, later.targets[0].written), strict=True):
        assert (f"written as {written}" in described) == bool(written)
    expected = (np.array(NUMBERS) - np.mean(NUMBERS)) / np.std(NUMBERS)
    np.testing.assert_allclose(later.encode_inputs(table[:6], "new.csv")[:, 0], expected, atol=1e-5)
    np.testing.assert_allclose(later.restore(later.encode_targets(table[3:4], "new.csv")[0]), [[NUMBERS[3]]], rtol=1e-6)


def test_one_and_the_same_text_is_read_by_what_the_rest_of_its_column_and_of_its_table_tell():
    for texts, expected in (
        (["1,234", "1,5"], [1.234, 1.5]),
        (["1,234", "1.5"], [1234, 1.5]),
        (["1.234", "1,5"], [1234, 1.5]),
        (["1.234", "2.5"], [1.234, 2.5]),
        (["1.234", "0.123", "3"], [1.234, 0.123, 3]),
        (["1.234", "5.678", "3"], [1.234, 5.678, 3]),  # as programs write
    ):
        assert read(table_of(c=texts))[1].tolist() == expected
    for text, readings in (("1,234", {"0.5": 1234, "0,5": 1.234}), ("1.234", {"0,5": 1234, "0.5": 1.234})):
        for other, value in readings.items():
            assert read(table_of(c=[text], other=[other]))[1].tolist() == [value]


@pytest.mark.parametrize(
    "texts", [["1,234"], ["1,234", "950"], ["950", "1.000"], ["1.234 €"], ["1.230", "2"], ["$1,234", "$5"]]
)
def test_what_may_be_thousands_or_decimals_is_refused_with_both_readings_and_how_to_choose(texts):
    table = table_of(c=texts)
    refused(lambda: read(table), "t.csv", "'c'", "--kinds c=number:1,234.5", "c=number:1.234,5")
    both = table.with_columns(d=pl.lit("0,5"), e=pl.lit("0.5"))  # the other columns disagree
    refused(lambda: read(both), "which is")
    bare = table_of(c=[text.strip("$ €") for text in texts])
    point, comma = (read(bare, way)[1] for way in (POINT, COMMA))
    assert set((np.maximum(point, comma) / np.minimum(point, comma)).round(6).tolist()) in ({1.0, 1000.0}, {1000.0})


@pytest.mark.parametrize("texts", [["1,5", "1.5"], ["12%", "13"] * 2, ["$1", "$2", "€3"], ["1.234.567", "0.5", "0.25"]])
def test_two_ways_of_writing_or_two_units_in_one_column_are_never_mixed(texts):
    refused(lambda: read(table_of(c=texts)), "t.csv", "'c'", "mixes", "--kinds c=category")


@pytest.mark.parametrize("words", [["5a", "6a"], ["1.2.3", "1.2.4"], ["3 kg", "400 g"], ["(1)", "(2)"], ["1st", "2nd", "3rd"]])
def test_labels_that_hold_digits_stay_labels(words):
    assert infer_kind(table_of(c=words), "c", "t").kind == "category"


def test_a_later_file_keeps_the_decimal_mark_that_training_had_where_it_tells_of_none_itself():
    train = table_of(c=["1.000", "950", "0,5"], y=["1,5", "2", "3"])
    column = fit_format(Fitting(train, ("c",), ("y",), np.ones(3, bool)), []).inputs[0]

    def later(**columns):
        return read_values(table_of(**columns), "c", column.how, "new.csv").tolist()

    assert later(c=["1.000"]) == [1000]
    assert later(c=["1,234"]) == [1.234]
    assert later(c=["1.000"], other=["0.5"]) == [1]  # this file has decimal points
    assert later(c=["1.000,5"]) == [1000.5]
    assert read_values(pl.DataFrame({"c": [1.25]}), "c", column.how, "new.parquet").tolist() == [1.25]


def test_whole_numbers_beside_decimal_commas_are_remembered_as_such():
    how = infer_kind(pl.DataFrame({"c": [1, 2, 3], "y": ["0,5", "1,5", "2"]}), "c", "t")
    assert read_values(table_of(c=["1.000"]), "c", how, "new.csv").tolist() == [1000]


def test_a_unit_may_be_left_out_later_and_no_other_may_stand_in_its_place():
    how, _ = read(table_of(c=["3 kg", "4.5 kg"]))
    assert how.written == "1,234.5 kg"
    assert read_values(table_of(c=["5", "6kg"]), "c", how, "new.csv").tolist() == [5, 6]
    refused(lambda: read_values(table_of(c=["5 kg", "6 g"]), "c", how, "new.csv"), "new.csv", "'1,234.5 kg'", "'6 g'")
    plain, _ = read(table_of(c=["3", "4.5"]))
    for text in ("5 kg", "5%", "$5"):
        refused(lambda text=text: read_values(table_of(c=[text]), "c", plain, "new.csv"), "should hold numbers", repr(text))


def test_many_categories_that_look_like_numbers_are_refused_unless_they_are_declared():
    texts = [f"{number} {'kg' if number % 2 else 'g'}" for number in range(70)]
    fitting = {"table": table_of(c=texts).with_columns(y=np.arange(70.0)), "inputs": ("c",), "targets": ("y",)}
    fitting |= {"in_train": np.ones(70, bool), "source": "t.csv"}
    told = ("t.csv", "'c'", "70 values that look like numbers", "--kinds c=category")
    refused(lambda: fit_format(Fitting(**fitting), []), *told)
    declared = fit_format(Fitting(**fitting, kinds=declared_kinds(("c=category",))), [])
    assert len(declared.inputs[0].categories) == 64


@pytest.mark.parametrize("example", ["kg", "1,234", "12.5", "1,234.5 1,234.5", "a 1 b"])
def test_an_example_that_shows_no_way_of_writing_is_refused(example):
    with pytest.raises(ValueError, match="shows no way to write a number"):
        split_example(example)
    refused(lambda: declared_kinds((f"c=number:{example}",)), "--kinds", example)
