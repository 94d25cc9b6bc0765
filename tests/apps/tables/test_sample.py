"""The generated table: its form and gaps, and that meta-learning helps on it. Place: fewstep/apps/tables/sample.py."""

import datetime
import json
import shlex

import numpy as np
import polars as pl
import pytest

from fewstep import cli
from fewstep.apps.tables.sample import DAYS, ENERGY, FIRST_DAY, KNOWN_ROWS, STORED_AT, cold_rooms, unmetered
from fewstep.storage.tables import read_table
from fewstep.supervised.infer_kinds import infer_kind

KINDS = {"day": "date", "outside_temperature": "number", "product": "category", "delivery": "boolean", ENERGY: "number"}


def test_json_is_one_object_that_names_the_file_and_what_to_try_next(command):
    code, out, _ = command("sample-table", "--out", "t.csv", "--units", 12, "--json")
    assert code == 0
    assert out.count("\n") == 1
    told = json.loads(out)
    assert (told["table"], told["units"], told["rows"]) == ("t.csv", 12, read_table("t.csv").height)
    assert [words.split()[1] for words in told["next"]] == ["train", "adapt", "predict"]


def by_rooms(table):
    return {str(name): rows for (name,), rows in table.group_by("room", maintain_order=True)}


def test_a_seed_gives_one_table_to_the_last_byte_and_another_seed_another(command, tmp_path):
    for name, seed in (("a.csv", 3), ("b.csv", 3), ("c.csv", 4)):
        assert command("sample-table", "--out", name, "--units", 12, "--seed", seed)[0] == 0
    first, again, other = ((tmp_path / name).read_bytes() for name in ("a.csv", "b.csv", "c.csv"))
    assert first == again
    assert first != other


def test_all_kinds_of_files_hold_the_same_table(command, tmp_path):
    for suffix in ("csv", "tsv", "parquet"):
        assert command("sample-table", "--out", f"t.{suffix}", "--units", 12)[0] == 0
    expected = cold_rooms(12, 0)
    assert pl.read_parquet("t.parquet").equals(expected)
    for name in ("t.csv", "t.tsv"):
        table = read_table(name).with_columns(pl.col("day").str.to_date())
        assert table.equals(expected)
    assert not list(tmp_path.glob("*.partial"))


def test_every_room_has_30_to_60_different_days_in_their_order_and_the_columns_are_of_the_kinds_that_tables_have():
    table = cold_rooms(60, 0)
    assert {name: infer_kind(table, name, "table").kind for name in KINDS} == KINDS
    rooms = by_rooms(table)
    assert len(rooms) == 60
    last_day = FIRST_DAY + datetime.timedelta(days=DAYS - 1)
    for rows in rooms.values():
        assert 30 <= rows.height <= 60
        assert rows["day"].is_sorted()
        assert rows["day"].n_unique() == rows.height
        assert FIRST_DAY <= rows["day"].min() <= rows["day"].max() <= last_day


def test_a_few_inputs_and_targets_are_missing_and_rooms_without_a_meter_have_ten_targets_each():
    table = cold_rooms(60, 0)
    rooms = list(by_rooms(table).values())
    for name in ("outside_temperature", "product"):
        assert 0 < table[name].null_count() < 0.04 * table.height
    metered, others = rooms[: -unmetered(60)], rooms[-unmetered(60) :]
    missing = sum(rows[ENERGY].null_count() for rows in metered)
    assert 0 < missing < 0.03 * sum(rows.height for rows in metered)
    assert len(others) == 3
    assert [rows.height - rows[ENERGY].null_count() for rows in others] == [KNOWN_ROWS] * 3
    assert table.select("room", "day", "delivery").null_count().sum_horizontal().item() == 0


def test_energy_is_what_the_formula_says_up_to_its_noise():
    """Given the formula's terms, least squares for each room leaves the noise of 2 per cent and no more."""
    relative, freedom = 0.0, 0
    for rows in by_rooms(cold_rooms(40, 1).drop_nulls()).values():
        if rows.height < 20:
            continue
        outside, energy = rows["outside_temperature"].to_numpy(), rows[ENERGY].to_numpy()
        inside = rows["product"].replace_strict(STORED_AT, return_dtype=pl.Float64).to_numpy()
        angle = 2 * np.pi * (rows["day"].dt.weekday().to_numpy() - 1) / 7
        terms = [
            np.ones(rows.height),
            np.maximum(outside - inside, 0.0),
            np.maximum(outside - 16.0, 0.0),
            np.cos(angle),
            np.sin(angle),
            (rows["delivery"] == "yes").to_numpy().astype(float),
        ]
        terms = [term for number, term in enumerate(terms) if number == 0 or np.ptp(term) > 0]
        design = np.stack(terms, axis=1) / energy[:, None]
        residuals = np.linalg.lstsq(design, np.ones(rows.height), rcond=None)[1]
        relative += float(residuals[0])
        freedom += rows.height - len(terms)
    assert freedom > 500
    assert np.sqrt(relative / freedom) == pytest.approx(0.02, rel=0.15)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--out", "taken.csv"], "already exists"),
        (["--out", "table.xlsx"], r".csv, .tsv, .parquet"),
        (["--out", "nowhere/table.csv"], "cannot be written"),
        (["--out", "t.csv", "--units", "9"], "--units"),
        (["--out", "t.csv", "--units", "many"], "--units"),
        (["--out", "t.csv", "--seed", "-1"], "--seed"),
        (["--units", "60"], "--out"),
        (["--out", "t.csv", "--rooms", "60"], "--rooms"),
    ],
)
def test_what_cannot_be_written_is_refused_in_a_line_and_nothing_is_touched(command, tmp_path, words, expected):
    (tmp_path / "taken.csv").write_text("mine")
    code, out, err = command("sample-table", *words)
    assert (code, out) == (2, "")
    assert err.startswith("fewstep sample-table: ")
    assert expected in err
    assert err.count("\n") <= 3
    assert [path.name for path in tmp_path.iterdir()] == ["taken.csv"]
    assert (tmp_path / "taken.csv").read_text() == "mine"


def printed_commands(monkeypatch, out, units=60):
    """The words of the three commands that are printed after the table in `out` is written."""
    printed = []
    monkeypatch.setattr("fewstep.apps.tables.sample.say", lambda text="", json=False: printed.append(text))
    assert cli.main(["sample-table", "--out", str(out), "--units", str(units)]) == 0
    return [shlex.split(line)[1:] for line in printed[-1].splitlines()[-3:]]


def test_the_training_that_it_prints_reads_the_table_and_leaves_out_the_rooms_without_a_meter_alone(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("fewstep.cli.train.train", lambda arguments, name, *_: asked.append((arguments, name)) or 0)
    (tmp_path / "a folder with blanks").mkdir()
    train, adapt, predict = printed_commands(monkeypatch, tmp_path / "a folder with blanks" / "demo.csv")
    assert cli.main(train) == 0
    ((arguments, name),) = asked
    problem = arguments.settings.build(0)
    assert name == "table"
    assert {column.name: column.kind for column in (*problem.format.inputs,)} == {k: KINDS[k] for k in KINDS if k != ENERGY}
    assert problem.splits.left_out == unmetered(60)
    assert arguments.out in adapt
    assert adapt[-1] == predict[1]


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """The folder after the command and all commands that it prints."""
    folder = tmp_path_factory.mktemp("followed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fewstep.training.devices.use_cpu_cores", lambda: None)  # this process has its two devices already
        for words in printed_commands(patch, folder / "demo.csv"):
            assert cli.main(words) == 0
    return folder


@pytest.mark.slow
def test_the_commands_that_it_prints_lead_from_the_table_to_predictions_of_all_its_rows(followed):
    table, predicted = read_table(followed / "demo.csv"), read_table(followed / "demo_predictions.csv")
    assert predicted.select(table.columns).equals(table)
    assert predicted.columns[len(table.columns) :] == ["prediction", "lower", "upper"]
    assert predicted.select("prediction", "lower", "upper").null_count().sum_horizontal().item() == 0


@pytest.mark.slow
def test_meta_learning_helps_on_it_more_than_the_mean_of_a_room(followed):
    """The error after adaptation to ten rows is far below that before, and below that of the mean of ten rows."""
    result = json.loads((followed / "demo_run" / "evaluation.json").read_text())
    table = read_table(followed / "demo.csv").drop_nulls(ENERGY)
    rng, errors = np.random.default_rng(0), []
    for name in result["by_task"]:
        energy = table.filter(pl.col("room") == name)[ENERGY].to_numpy()
        for _ in range(20):
            order = rng.permutation(energy)
            errors.append(np.mean((order[10:] - order[:10].mean()) ** 2))
    before, after = (result["mean"][result["steps"].index(steps)] for steps in (0, 1))
    assert after < 0.2 * before
    assert after < 0.5 * np.mean(errors)
