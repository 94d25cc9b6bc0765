"""Files of every kind where a table is expected, by each command that reads one. Place: fewstep/storage/tables.py and above."""

import os
import resource

import odd_tables
import pytest
from odd_parquet import bombs
from odd_tables import OPTIONS

TRAIN = ["train", "table", *OPTIONS, "--shots", "3", "--hidden", "4", "--adapter", "gradient", "--out", "out"]
COMMANDS = {
    "train": lambda shelf, file: [*TRAIN, "--data", file],
    "adapt": lambda shelf, file: ["adapt", str(shelf / "run"), "--support", file, "--out", "out"],
    "predict": lambda shelf, file: ["predict", str(shelf / "adapted"), "--inputs", file, "--out", "out.csv"],
    "update": lambda shelf, file: ["update", str(shelf / "adapted"), "--support", file, "--out", "out"],
}
TABLES = {
    "encoding": odd_tables.unique(odd_tables.encodings()),
    "layout": odd_tables.unique(odd_tables.layouts(), odd_tables.squeezed()),
    "values": odd_tables.unique(odd_tables.values()),
    "cell": odd_tables.unique(odd_tables.cells()),
    "header": odd_tables.unique(odd_tables.headers()),
    "binary": odd_tables.unique(odd_tables.binary()),
    "mixture": odd_tables.unique(odd_tables.mixtures(100)),
}
CASES = [(kind, name, command) for kind, tables in TABLES.items() for name in tables for command in COMMANDS]


def in_the_fast_slice(number, kind, command):
    return command == "train" and kind != "mixture" and number % 10 < 3


@pytest.mark.parametrize(
    ("kind", "name", "command"),
    [
        pytest.param(*case, marks=() if in_the_fast_slice(number, case[0], case[2]) else pytest.mark.slow)
        for number, case in enumerate(CASES)
    ],
)
def test_a_table_is_used_or_refused_in_words(fuzz, shelf, record_property, kind, name, command):
    file = "table.parquet" if kind == "binary" else "table.csv"
    (fuzz.work / file).write_bytes(TABLES[kind][name])
    record_property("kind", f"tables: {kind}")
    record_property("outcome", fuzz.check(COMMANDS[command](shelf, file), ["out", "out.csv"]))


GAPS = odd_tables.unique(odd_tables.gaps())
SEVERAL = ["train", "table", "--task", "unit", "--inputs", "day", "--target", "depth", "flow", *TRAIN[TRAIN.index("--shots") :]]


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if n == 1 else pytest.mark.slow) for n, name in enumerate(GAPS)])
def test_several_targets_with_gaps_are_used_or_refused_in_words(fuzz, record_property, name):
    (fuzz.work / "table.csv").write_bytes(GAPS[name])
    record_property("kind", "tables: gaps in several targets")
    record_property("outcome", fuzz.check([*SEVERAL, "--data", "table.csv"], ["out"]))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.slow
def test_files_of_other_kinds_are_used_or_refused_in_words(fuzz, shelf, record_property, command):
    record_property("kind", "tables: files of other kinds")
    for ending, _, content in odd_tables.other_files():
        (fuzz.work / f"table.{ending}").write_bytes(content)
        record_property("outcome", fuzz.check(COMMANDS[command](shelf, f"table.{ending}"), ["out", "out.csv"]))
        (fuzz.work / f"table.{ending}").unlink()


@pytest.mark.parametrize("command", COMMANDS)
def test_parquet_that_unpacks_without_end_takes_little_memory(fuzz, shelf, record_property, command):
    record_property("kind", "tables: parquet that unpacks without end")
    for name, content in bombs():
        (fuzz.work / "table.parquet").write_bytes(content)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        record_property("outcome", fuzz.check(COMMANDS[command](shelf, "table.parquet"), ["out", "out.csv"]))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000, name  # kilobytes


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "kind", ["a pipe", "a folder", "a link in circles", "a link to an endless device", "a link to nothing"]
)
def test_what_is_no_file_is_not_read(fuzz, shelf, record_property, kind, command):
    path = fuzz.work / "table.csv"
    {
        "a pipe": lambda: os.mkfifo(path),
        "a folder": path.mkdir,
        "a link in circles": lambda: path.symlink_to(path),
        "a link to an endless device": lambda: path.symlink_to("/dev/zero"),
        "a link to nothing": lambda: path.symlink_to("nowhere"),
    }[kind]()
    record_property("kind", "tables: no file")
    record_property("outcome", outcome := fuzz.check(COMMANDS[command](shelf, "table.csv"), ["out", "out.csv"]))
    assert outcome == "refused"


LARGE = {
    "a million rows": lambda: odd_tables.rows(1_000, 1_000),
    "a thousand columns": lambda: odd_tables.wide(odd_tables.rows(), 1_000),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_a_large_table_is_read(fuzz, record_property, name):
    (fuzz.work / "table.csv").write_text(odd_tables.text(LARGE[name]()))
    record_property("kind", f"tables: {name}")
    record_property("outcome", outcome := fuzz.check(COMMANDS["train"](None, "table.csv"), ["out"]))
    assert outcome != "refused"
