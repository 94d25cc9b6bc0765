"""Units adapted to a few rows: one or a fleet, updated, asked, saved. Place: fewstep/adapted, fewstep/trained.py."""

import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from known import assert_close, assert_same_bits, fast_adapt, slow_but, unit_rows
from msgspec import structs
from scipy.special import softmax

from fewstep import Examples, InputError, runs
from fewstep.application import open_adapted
from fewstep.apps.sine.settings import Sine
from fewstep.apps.tables.settings import Table
from fewstep.storage.tables import read_table
from fewstep.supervised.adapted import Adapted, adapt
from fewstep.supervised.adapted_rows import significant
from fewstep.supervised.conformal import LEVELS
from fewstep.supervised.trained import Trained

TINY = {"hidden": (4,), "meta_steps": 4, "log_every": 2, "meta_batch_size": 2, "shots": 5, "queries": 5}
PLAIN = {"adapter": "gradient", "adaptation_steps": 2, "inner_optimizer": "sgd", "multi_step": 0.0, "clip": 0.0}
BAYES = {"adapter": "bayes-head"}


def many_rows(units, rows, seed):
    """`unit_rows` with a second number to predict, of other units than the first, and with a class."""
    table = unit_rows(units=units, rows=rows, seed=seed)
    return table.with_columns(
        level=2.0 + pl.col("depth") * 1e-3 + pl.col("flow") * 1e-5,
        state=pl.when(pl.col("flow") > 10_500).then(pl.lit("high")).when(pl.col("flow") > 9_500).then(pl.lit("mid"))
        .otherwise(pl.lit("low")),
    )  # fmt: skip


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Trains a tiny run on 40 units, of which four calibrate: enough for an interval at 80 %, and not for one at 90 %."""
    folder = tmp_path_factory.mktemp("runs")
    many_rows(40, [8 + unit % 5 for unit in range(40)], 0).write_csv(folder / "units.csv")
    data = {"data": str(folder / "units.csv"), "task": "unit", "inputs": ("day", "depth")}

    def train(name, **settings):
        run = runs.train(Table(**{**data, "target": ("flow",), **TINY, **settings}), folder / name, seed=3, quiet=True)
        return Trained.of(run)

    return train


@pytest.fixture(scope="module")
def bayes(train):
    return train("bayes", **BAYES)


@pytest.fixture(scope="module")
def gradient(train):
    return train("gradient", **PLAIN)


@pytest.fixture(scope="module")
def both(train):
    """Two targets."""
    return train("both", target=("flow", "level"), inputs=("day",), **BAYES)


@pytest.fixture(scope="module")
def classes(train):
    return train("classes", target=("state",), **BAYES)


@pytest.fixture(scope="module")
def sine(tmp_path_factory):
    """Waves as in training, a little trained: 500 of them calibrate."""
    settings = Sine(**{**TINY, **PLAIN, "hidden": (16, 16), "meta_steps": 300, "log_every": 300, "meta_batch_size": 8})
    return runs.train(settings, tmp_path_factory.mktemp("sine") / "run", quiet=True)


@pytest.fixture(scope="module")
def waves(sine):
    return Trained.of(sine)


LENGTHS = [5, 1, 9, 5]
FLEET = many_rows(4, LENGTHS, seed=9)
ASKED = many_rows(4, 11, seed=9)  # other days of the same units


def of_unit(table, number):
    return table.filter(pl.col("unit") == f"unit-{number:02}")


def examples(trained, table):
    """The rows without any padding."""
    format = trained.problem.format
    targets, known = format.encode_targets(table, "rows")
    assert known.all()
    return Examples(jnp.asarray(format.encode_inputs(table, "rows")), jnp.asarray(targets), jnp.ones(table.height))


def by_hand(trained, table, steps=None):
    """θ′ of one unit by Algorithm 1 itself."""
    return fast_adapt(trained.problem.learner, trained.params, examples(trained, table), jax.random.key(0), steps)


def outputs_by_hand(trained, table, asked, steps=None):
    inputs = jnp.asarray(trained.problem.format.encode_inputs(asked, "asked"))
    return np.asarray(trained.problem.predict(by_hand(trained, table, steps), inputs))


BOTH = [("bayes", None), ("bayes", "auto"), ("gradient", None), ("gradient", "auto")]


@pytest.mark.parametrize(("name", "steps"), slow_but(BOTH, ("gradient", None)))
def test_a_fleet_is_adapted_and_asked_as_each_of_its_units_alone(request, name, steps):
    trained = request.getfixturevalue(name)
    fleet = adapt(trained, FLEET, steps=steps)
    assert fleet.units == ("unit-00", "unit-01", "unit-02", "unit-03")
    assert fleet.rows.tolist() == LENGTHS
    found, lower = fleet.predict(ASKED), fleet.predict_interval(ASKED)[0]
    for number in range(4):
        rows, own = of_unit(FLEET, number), (ASKED["unit"] == f"unit-{number:02}").to_numpy()
        alone = adapt(trained, rows, steps=steps)
        assert alone.report.steps[0] == fleet.report.steps[number]
        np.testing.assert_allclose(found[own], alone.predict(of_unit(ASKED, number)), rtol=1e-5)
        np.testing.assert_allclose(lower[own], alone.predict_interval(of_unit(ASKED, number))[0], rtol=1e-4)
        if steps is None and number == 2:  # nine rows in a room for sixteen, and here without any padding
            plain = outputs_by_hand(trained, rows, of_unit(ASKED, number))
            np.testing.assert_allclose(found[own], trained.problem.format.restore(plain)[:, 0], rtol=1e-5)


def test_predictions_stand_in_the_order_of_the_file(bayes):
    fleet = adapt(bayes, FLEET)
    expected = fleet.predict(ASKED)
    order = np.random.default_rng(0).permutation(ASKED.height)
    np.testing.assert_allclose(fleet.predict(ASKED[order]), expected[order], rtol=1e-6)
    shuffled = adapt(bayes, FLEET.sample(fraction=1.0, shuffle=True, seed=1))  # Bayes' rule does not care for order either
    np.testing.assert_allclose(shuffled.predict(ASKED), expected, rtol=1e-4)


def test_a_prediction_does_not_depend_on_the_rows_around_it(bayes):
    model = adapt(bayes, of_unit(FLEET, 0))
    asked = many_rows(1, 30, seed=9)  # more than one padded size
    parts = np.concatenate([model.predict(asked.head(1)), model.predict(asked.slice(1, 12)), model.predict(asked.slice(13))])
    np.testing.assert_allclose(parts, model.predict(asked), rtol=1e-5)
    assert model.predict(asked.head(0)).size == 0


def test_rows_that_name_no_unit_are_refused(bayes):
    fleet = adapt(bayes, FLEET)
    for asked, words in (
        (ASKED.drop("unit"), "'unit', which says of which of the 4 units a row is"),
        (ASKED.with_columns(unit=pl.lit(None, pl.String)), "asked.csv: column 'unit' names no unit in 44 rows"),
    ):
        with pytest.raises(InputError, match=words):
            fleet.predict(asked, "asked.csv")


def test_units_are_named_as_their_label_is_written_in_every_file(bayes, tmp_path):
    labels = {"unit-00": "001", "unit-01": "1", "unit-02": "1.0", "unit-03": "7"}

    def in_a_file(table, name):
        table.with_columns(pl.col("unit").replace(labels)).write_csv(tmp_path / name)
        return read_table(tmp_path / name, labels=bayes.problem.format.labels)

    fleet = adapt(bayes, in_a_file(FLEET, "support.csv"))
    assert fleet.units == tuple(labels.values())
    assert any('unit: labels "001" and "1" are different units' in note for note in fleet.notes), fleet.notes
    np.testing.assert_allclose(fleet.predict(in_a_file(ASKED, "asked.csv")), adapt(bayes, FLEET).predict(ASKED), rtol=1e-6)
    fleet.save(tmp_path / "adapted")
    reopened = open_adapted(tmp_path / "adapted")
    assert reopened.units == fleet.units
    whole = of_unit(FLEET, 3).with_columns(unit=pl.lit(7), depth=pl.col("depth") + 0.5)  # as Parquet has whole numbers
    for number in (pl.Int64, pl.Float64):
        updated = reopened.update(whole.with_columns(pl.col("unit").cast(number)))
        assert updated.units == fleet.units
        assert updated.rows.tolist() == [*LENGTHS[:3], 2 * LENGTHS[3]]
    notes = []
    fleet.predict(ASKED.with_columns(unit=pl.lit("07")), notes=notes)
    assert 'did you mean "7"' in " ".join(notes)


@pytest.mark.parametrize("name", slow_but(["bayes", "gradient", "classes"], "bayes"))
def test_units_without_support_rows_are_answered_before_adaptation_and_said(request, name):
    trained, notes = request.getfixturevalue(name), []
    known = FLEET.filter(pl.col("unit") != "unit-02")
    fleet, prior, whole = adapt(trained, known), Adapted.without_rows(trained), adapt(trained, FLEET)
    columns, own = fleet.columns(ASKED, "asked", None, notes), (ASKED["unit"] == "unit-02").to_numpy()
    assert "11 of 44 rows are of 1 units without support rows ('unit-02')" in " ".join(notes)
    assert columns["support_rows"].tolist() == np.where(own, 0, np.repeat(LENGTHS, 11)).tolist()
    alone, others = prior.columns(of_unit(ASKED, 2), "asked", None, []), whole.columns(ASKED, "asked", None, [])
    for column, values in columns.items():
        expected = others[column][~own]
        if values.dtype.kind == "f":
            np.testing.assert_allclose(values[own], alone[column], rtol=1e-4)
            np.testing.assert_allclose(values[~own], expected, rtol=1e-4)
        else:
            assert (values[own] == alone[column]).all()
            assert (values[~own] == expected).all()
    assert not columns["unlike_training"][own].any()


def test_the_interval_of_a_unit_without_rows_is_calibrated_without_rows_or_empty(bayes):
    asked, place = of_unit(ASKED, 2), LEVELS.index(80)
    fleet = adapt(bayes, FLEET.filter(pl.col("unit") != "unit-02"))
    lower, upper = fleet.predict_interval(asked, 0.8)
    prior = bayes.calibration["by_shots"][0]
    assert prior["shots"] == 0
    inputs = jnp.asarray(bayes.problem.format.encode_inputs(asked, "asked"))
    half = prior["trained"]["factors"][0][place] * np.asarray(bayes.problem.deviation(bayes.params.theta, inputs))[:, 0]
    np.testing.assert_allclose(upper - lower, 2 * half * bayes.problem.format.units, rtol=1e-4)
    older = replace(bayes, calibration={**bayes.calibration, "by_shots": bayes.calibration["by_shots"][1:]})
    fleet, notes = adapt(older, FLEET.filter(pl.col("unit") != "unit-02")), []
    columns = fleet.columns(ASKED, "asked", None, notes)
    own = (ASKED["unit"] == "unit-02").to_numpy()
    np.testing.assert_array_equal(np.isnan(columns["lower"]), own)
    assert np.isfinite(columns["prediction"]).all()
    assert "11 of 44 rows have no lower and upper" in " ".join(notes)


def test_intervals_without_support_rows_cover_new_waves_as_often_as_they_promise(waves):
    """500 waves calibrate, 400 others are asked; each covers by chance, with a deviation of about 0.15 from wave to wave."""
    rng, x = np.random.default_rng(5), np.linspace(-5, 5, 41)
    amplitude, phase = rng.uniform(0.1, 5.0, 400), rng.uniform(0, np.pi, 400)
    truth = amplitude[:, None] * np.sin(x + phase[:, None])
    prior = Adapted.without_rows(waves)
    for level in (0.95, 0.8):
        lower, upper = prior.predict_interval(pl.DataFrame({"x": x}), level)
        assert abs(np.mean((lower <= truth) & (truth <= upper)) - level) < 0.03


def test_one_unit_needs_no_name(bayes):
    named, nameless = adapt(bayes, of_unit(FLEET, 0)), adapt(bayes, of_unit(FLEET, 0).drop("unit"))
    assert (named.units, nameless.units) == (("unit-00",), None)
    asked = of_unit(ASKED, 0)
    expected = named.predict(asked)
    for model, rows in ((named, asked.drop("unit")), (nameless, asked), (nameless, asked.drop("unit"))):
        np.testing.assert_array_equal(model.predict(rows), expected)
    with pytest.raises(InputError, match="rows of the one adapted unit, found 4 values of 'unit'"):
        nameless.predict(ASKED)
    assert named.protocol == {"support_rows": 5, "adaptation_steps": 1, "trained_shots": 5}
    fleet = adapt(bayes, FLEET)
    assert fleet.protocol["support_rows"] == dict(zip(fleet.units, LENGTHS, strict=True))
    with pytest.raises(ValueError, match="there are 4"):
        _ = fleet.params


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_the_adapted_parameters_are_those_of_algorithm_1(gradient, steps):
    model = adapt(gradient, of_unit(FLEET, 2), steps=steps)
    assert_close(model.params, by_hand(gradient, of_unit(FLEET, 2), steps), rtol=1e-4, atol=1e-5)
    if steps == 2:
        assert_same_bits(adapt(gradient, of_unit(FLEET, 2)).params, model.params)  # the trained number, unless told


def test_nobody_adapts_to_one_row_by_leaving_it_out(gradient):
    model = adapt(gradient, of_unit(FLEET, 1), steps="auto")
    assert model.report.steps.tolist() == [0]
    before = adapt(gradient, of_unit(FLEET, 1), steps=0)
    np.testing.assert_allclose(model.predict(ASKED.drop("unit")), before.predict(ASKED.drop("unit")), rtol=1e-6)


def test_a_unit_without_rows_is_predicted_from_the_prior(bayes):
    asked = of_unit(ASKED, 0)
    inputs = jnp.asarray(bayes.problem.format.encode_inputs(asked, "asked"))
    standardized = np.asarray(bayes.problem.predict(bayes.params.theta, inputs))
    expected = bayes.problem.format.restore(standardized)[:, 0]
    np.testing.assert_allclose(Adapted.without_rows(bayes).predict(asked), expected, rtol=1e-5)
    unmoved = adapt(bayes, of_unit(FLEET, 3), steps=0)
    np.testing.assert_allclose(unmoved.predict(asked.drop("unit")), expected, rtol=1e-5)


def written_otherwise(rows, how):
    """The same rows as another program would write them."""
    if how == "dates as text":
        return rows.with_columns(pl.col("day").cast(pl.String))
    if how == "dates in another order":
        return rows.with_columns(pl.col("day").dt.strftime("%d.%m.%Y"))
    if how == "moments":
        return rows.with_columns(pl.col("day").cast(pl.Datetime("ms")))
    if how == "numbers as text":
        return rows.with_columns(pl.col("depth").cast(pl.String))
    if how == "columns in another order":
        return rows.select(sorted(rows.columns))
    return rows


WRITTEN = ["alike", "dates as text", "dates in another order", "moments", "numbers as text", "columns in another order"]


@pytest.mark.parametrize("how", WRITTEN)
def test_an_update_is_adapting_to_old_and_new_rows_at_once_and_new_units_join(bayes, how):
    old, new = FLEET.filter(pl.col("unit") != "unit-03").gather_every(2), FLEET.gather_every(2, offset=1)
    new = pl.concat([new, of_unit(FLEET, 3)]).unique(maintain_order=True)
    updated = adapt(bayes, old).update(written_otherwise(new, how))
    union = adapt(bayes, pl.concat([old, new]))
    assert updated.units == union.units
    assert updated.rows.tolist() == union.rows.tolist()
    np.testing.assert_allclose(updated.predict(ASKED), union.predict(ASKED), rtol=1e-6)
    backwards = adapt(bayes, written_otherwise(old, how)).update(new)
    np.testing.assert_allclose(backwards.predict(ASKED), union.predict(ASKED), rtol=1e-4)
    again = updated.update(new)
    assert again.notes[-1] == f"{new.height} of {new.height} rows were known already and count once"
    assert_same_bits(again.support, updated.support)


def test_a_measurement_that_was_made_twice_counts_twice_also_after_an_update(bayes):
    rows = of_unit(FLEET, 0)
    twice, more = pl.concat([rows, rows.head(2)]), of_unit(ASKED, 0).tail(2)
    updated = adapt(bayes, twice).update(more)
    assert updated.rows.tolist() == [9]
    expected = adapt(bayes, pl.concat([twice, more]))
    np.testing.assert_allclose(updated.predict(ASKED.drop("unit")), expected.predict(ASKED.drop("unit")), rtol=1e-6)


def test_an_update_keeps_the_choice_of_steps(gradient):
    for steps in (5, "auto"):
        assert adapt(gradient, of_unit(FLEET, 2).head(5), steps=steps).update(of_unit(FLEET, 2)).steps == steps


def test_an_update_whose_columns_differ_is_refused(bayes):
    model, nameless = adapt(bayes, FLEET), adapt(bayes, of_unit(FLEET, 0).drop("unit"))
    for act, words in (
        (lambda: model.update(FLEET.drop("unit")), "they differ in 'unit'"),
        (lambda: nameless.update(FLEET), "they differ in 'unit'"),
        (lambda: model.update(FLEET.drop("flow")), "no column 'flow'"),
        (lambda: model.update(FLEET.drop("depth")), "no column 'depth'"),
        (lambda: model.update(FLEET.with_columns(day=pl.lit("soon"))), "should hold dates"),
    ):
        with pytest.raises(InputError, match=words):
            act()


@pytest.mark.parametrize(("name", "steps"), slow_but([("bayes", "auto"), ("classes", 1)], ("bayes", "auto")))
def test_a_saved_fleet_comes_back_is_updated_in_place_and_needs_neither_its_run_nor_its_place(request, tmp_path, name, steps):
    fleet = adapt(request.getfixturevalue(name), FLEET, steps=steps)
    fleet.save(tmp_path / "fleet")
    shutil.move(tmp_path / "fleet", tmp_path / "elsewhere")
    again = open_adapted(tmp_path / "elsewhere")
    assert (again.units, again.steps, again.protocol) == (fleet.units, steps, fleet.protocol)
    assert again.ood_reasons == fleet.ood_reasons
    for left, right in zip(
        again.columns(ASKED, "asked", None, []).values(), fleet.columns(ASKED, "asked", None, []).values(), strict=True
    ):
        np.testing.assert_array_equal(left, right)
    with pytest.raises(InputError, match="not empty"):
        fleet.save(tmp_path / "elsewhere")
    updated = again.update(ASKED)
    updated.save_update(tmp_path / "elsewhere")
    assert open_adapted(tmp_path / "elsewhere").rows.tolist() == updated.rows.tolist()
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == [
        "adapted.json",
        "parameters.npz",
        "support.parquet",
    ]


def test_a_saved_unit_without_a_name_comes_back_without_one(waves, tmp_path):
    model, asked = adapt(waves, wave(2.0, 1.0)), pl.DataFrame({"x": np.linspace(-5, 5, 9)})
    model.save(tmp_path / "one")
    again = open_adapted(tmp_path / "one")
    assert (again.units, again.protocol) == (None, model.protocol)
    np.testing.assert_array_equal(again.predict(asked), model.predict(asked))
    assert_same_bits(again.params, model.params)


def test_a_damaged_adapted_model_is_refused(bayes, tmp_path):
    adapt(bayes, of_unit(FLEET, 0)).save(tmp_path / "good")
    for name in ("adapted.json", "parameters.npz", "support.parquet"):
        for keep in (0, 40):
            folder = tmp_path / f"{name}-{keep}"
            shutil.copytree(tmp_path / "good", folder)
            (folder / name).write_bytes((folder / name).read_bytes()[:keep])
            with pytest.raises(InputError, match="damaged"):
                open_adapted(folder)
    with pytest.raises(InputError, match="expected the folder of an adapted model"):
        open_adapted(tmp_path)


def test_intervals_hold_the_prediction_in_their_middle_and_widen_with_the_level(bayes):
    fleet = adapt(bayes, FLEET)
    widths = []
    for level in (None, 0.5, 0.6, 0.75, 0.8):
        lower, upper = fleet.predict_interval(ASKED, level)
        np.testing.assert_allclose((lower + upper) / 2, fleet.predict(ASKED), rtol=1e-6)
        widths.append(upper - lower)
    assert np.all(np.diff(np.stack(widths[1:]), axis=0) >= 0)
    assert np.all(widths[-1] > widths[1])
    np.testing.assert_array_equal(widths[0], widths[-1])  # 80 % is the highest of the usual levels that 4 units allow


def test_an_interval_reaches_so_many_deviations_as_were_calibrated_for_as_many_rows(bayes):
    asked, theta = of_unit(ASKED, 2), by_hand(bayes, of_unit(FLEET, 2))
    inputs = jnp.asarray(bayes.problem.format.encode_inputs(asked, "asked"))
    deviation = np.asarray(bayes.problem.deviation(theta, inputs))[:, 0] * bayes.problem.format.units[0]
    by_shots = bayes.calibration["by_shots"]
    nearest = min(by_shots, key=lambda entry: abs(np.log((entry["shots"] + 1) / (9 + 1))))
    factor = nearest["trained"]["factors"][0][LEVELS.index(70)]
    lower, upper = adapt(bayes, of_unit(FLEET, 2)).predict_interval(asked, 0.7)
    np.testing.assert_allclose(upper - lower, 2 * factor * deviation, rtol=1e-3)


def test_without_a_calibration_the_run_is_said_to_be_unfinished(bayes):
    early = replace(bayes, calibration={"tasks": 0, "trained_steps": None, "by_shots": []})
    with pytest.raises(InputError, match="not trained to its end"):
        adapt(early, FLEET).predict_interval(ASKED, 0.7)


def test_a_level_that_cannot_be_promised_is_refused_and_by_default_it_is_said(bayes, gradient):
    fleet = adapt(bayes, FLEET)
    for level, words in (
        (0.9, "No intervals at 90 %: expected at least 9 calibration units, found 4"),
        (0.3, "--level should be between"),
        (1.0, "--level should be between"),
        (0.955, "in whole per cent"),
    ):
        with pytest.raises(InputError, match=words):
            fleet.predict_interval(ASKED, level)
        with pytest.raises(InputError, match=words):
            fleet.columns(ASKED, "asked", level, [])
    notes: list[str] = []
    other = adapt(gradient, FLEET, steps=5)  # calibrated for two steps, and for auto
    assert list(other.columns(ASKED, "asked", None, notes)) == ["prediction", "unlike_training", "support_rows"]
    assert "calibrated for 2 adaptation steps and for auto, not for 5" in " ".join(notes)
    with pytest.raises(InputError, match="not for 5"):
        other.predict_interval(ASKED)
    unknown = replace(bayes, calibration={"tasks": 0, "by_shots": []})
    with pytest.raises(InputError, match=r"found 0 with enough rows\. Train on"):
        adapt(unknown, FLEET).predict_interval(ASKED)


def test_several_targets_are_each_predicted_in_their_own_units(both):
    fleet = adapt(both, FLEET)
    found, (lower, upper) = fleet.predict(ASKED), fleet.predict_interval(ASKED)
    assert found.shape == lower.shape == upper.shape == (44, 2)
    for number in range(4):
        own = (ASKED["unit"] == f"unit-{number:02}").to_numpy()
        expected = outputs_by_hand(both, of_unit(FLEET, number), of_unit(ASKED, number))
        for place, target in enumerate(both.problem.format.targets):
            np.testing.assert_allclose(found[own, place], expected[:, place] * target.scale + target.center, rtol=1e-4)
    assert [target.name for target in both.problem.format.targets] == ["flow", "level"]
    assert np.abs(found - ASKED.select("flow", "level").mean().to_numpy()).max(0)[1] < 1  # metres, not litres
    columns = fleet.columns(ASKED, "asked", None, [])
    each = [f"{what}_{name}" for name in ("flow", "level") for what in ("prediction", "lower", "upper")]
    assert list(columns) == [*each, "unlike_training", "support_rows"]
    np.testing.assert_allclose(columns["upper_level"], upper[:, 1], rtol=1e-6)


def test_probabilities_sum_to_one_and_the_likeliest_class_is_predicted(classes):
    fleet = adapt(classes, FLEET)
    probabilities, found = fleet.predict_proba(ASKED), fleet.predict(ASKED)
    names = np.array(classes.problem.format.classes)
    assert names.tolist() == ["high", "low", "mid"]
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    assert np.array_equal(found, names[probabilities.argmax(1)])
    assert len(set(found)) > 1
    columns = fleet.columns(ASKED, "asked", None, [])
    probable = ["probability_high", "probability_low", "probability_mid"]
    assert list(columns) == ["prediction", *probable, "unlike_training", "support_rows"]
    assert np.array_equal(columns["prediction"], found)
    np.testing.assert_allclose(np.stack([columns[name] for name in probable], axis=1).astype(float), probabilities, rtol=1e-6)
    with pytest.raises(InputError, match="no intervals of classes"):
        fleet.columns(ASKED, "asked", 0.8, [])


def test_probabilities_are_at_the_temperature_calibrated_for_as_many_rows(classes):
    log_probabilities = outputs_by_hand(classes, of_unit(FLEET, 2), of_unit(ASKED, 2))
    nearest = min(classes.calibration["by_shots"], key=lambda entry: abs(np.log((entry["shots"] + 1) / (9 + 1))))
    expected = softmax(log_probabilities / nearest["trained"]["temperature"], axis=1)
    np.testing.assert_allclose(adapt(classes, of_unit(FLEET, 2)).predict_proba(of_unit(ASKED, 2)), expected, rtol=1e-4)


def test_rows_without_a_target_are_left_out_and_said(bayes, classes):
    for trained, target in ((bayes, "flow"), (classes, "state")):
        gap = pl.when(pl.int_range(pl.len()).is_in([1, 6])).then(None).otherwise(pl.col(target)).alias(target)
        model = adapt(trained, FLEET.with_columns(gap))
        assert model.notes[0] == "2 of 20 rows lack the target and are left out"
        kept = FLEET.filter(~pl.int_range(pl.len()).is_in([1, 6]))
        assert np.array_equal(model.predict(ASKED), adapt(trained, kept).predict(ASKED))
        with pytest.raises(InputError, match=f"expected rows with a value of '{target}', found none"):
            adapt(trained, FLEET.with_columns(pl.lit(None, FLEET.schema[target]).alias(target)))


def test_a_gap_in_the_inputs_stands_for_the_mean_and_is_said(bayes):
    gap = pl.lit(None, pl.Float64).alias("depth")
    center = bayes.problem.format.inputs[1].center
    model, asked = adapt(bayes, FLEET.with_columns(gap)), ASKED.with_columns(gap)
    assert any("depth: 20 of 20 values are missing and become the mean" in note for note in model.notes)
    notes: list[str] = []
    found = model.predict(asked, "asked", notes)
    assert any("depth: 44 of 44 values are missing" in note for note in notes)
    at_mean = pl.lit(center).alias("depth")
    expected = adapt(bayes, FLEET.with_columns(at_mean)).predict(ASKED.with_columns(at_mean))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_rows_whose_answer_was_given_are_counted(bayes):
    fleet = adapt(bayes, FLEET)
    notes: list[str] = []
    fleet.predict(pl.concat([ASKED, FLEET.head(3)]), "asked", notes)
    known = {(row["unit"], row["day"], row["depth"]) for row in FLEET.iter_rows(named=True)}
    shared = 3 + sum((row["unit"], row["day"], row["depth"]) in known for row in ASKED.iter_rows(named=True))
    assert any(note.startswith(f"{shared} of 47 rows have the inputs of a support row") for note in notes)
    fresh: list[str] = []
    fleet.predict(ASKED.with_columns(depth=pl.col("depth") + 0.01), "asked", fresh)
    assert not fresh


def test_the_support_rows_have_the_columns_of_the_training(bayes, classes):
    for trained, support, words in (
        (bayes, FLEET.drop("flow"), "'flow'"),
        (bayes, FLEET.drop("day"), "'day'"),
        (bayes, FLEET.with_columns(flow=pl.lit("strong")), "numbers"),
        (bayes, FLEET.with_columns(unit=pl.lit(None, pl.String)), "names no unit in 20 rows"),
        (bayes, FLEET.with_columns(depth=pl.lit(float("inf"))), "infinite"),
        (classes, FLEET.with_columns(state=pl.lit("dry")), "the class 'dry'; expected one of 'high', 'low', 'mid'"),
    ):
        with pytest.raises(InputError, match=words):
            adapt(trained, support, "new.csv")


def scaled(factor):
    """The fleet, with one unit whose targets are on another scale."""
    return FLEET.with_columns(flow=pl.when(pl.col("unit") == "unit-02").then(pl.col("flow") * factor).otherwise(pl.col("flow")))


@pytest.mark.parametrize(("factor", "steps"), [(1e3, 5), (1e10, None)])
def test_no_step_that_makes_a_unit_worse_is_taken_in_silence_and_it_stops_no_other(gradient, factor, steps):
    """By the error on its support rows along the path of Algorithm 1."""
    gradient = replace(
        gradient, params=gradient.params._replace(theta=jax.tree.map(lambda leaf: 3 * leaf, gradient.params.theta))
    )
    fleet, sound = adapt(gradient, scaled(factor), steps=steps), adapt(gradient, FLEET, steps=steps)
    rows, most = of_unit(scaled(factor), 2), gradient.trained_steps if steps is None else steps
    support = examples(gradient, rows)
    errors = []
    for step in range(most + 1):
        with np.errstate(over="ignore", invalid="ignore"):
            errors.append(np.mean(np.square(outputs_by_hand(gradient, rows, rows, step) - support.targets), dtype=np.float64))
    errors = np.nan_to_num(np.array(errors), nan=np.inf)
    assert not errors[most] <= errors[0]  # steeper than the learned rate bears
    assert fleet.report.steps[2] == np.argmin(errors) < most
    assert (
        list(fleet.held_back) == ["unit-02"]
        and f"after {most} adaptation steps its support rows would be missed more" in fleet.held_back["unit-02"]
    )
    assert np.isfinite(fleet.predict(ASKED)).all()
    others = (ASKED["unit"] != "unit-02").to_numpy()
    assert sound.held_back == {} and (sound.report.steps == most).all()
    np.testing.assert_array_equal(fleet.predict(ASKED)[others], sound.predict(ASKED)[others])


def test_support_values_far_outside_the_trained_range_are_said_and_no_interval_is_claimed(bayes):
    """Whatever the number of calibration units; the other units keep theirs."""
    unmeasured = replace(bayes, calibration={**bayes.calibration, "by_shots": [
        {**entry, **{way: {**entry[way], "likeness": {**entry[way]["likeness"], "limit": None}} for way in ("trained", "auto")}}
        for entry in bayes.calibration["by_shots"]
    ]})  # fmt: skip
    fleet, own = adapt(unmeasured, scaled(1e3)), (ASKED["unit"] == "unit-02").to_numpy()
    assert adapt(unmeasured, FLEET).ood_reasons == {} and not fleet.can_detect_ood
    assert list(fleet.ood_reasons) == ["unit-02"]
    assert "9 of 9 values of 'flow' lie far outside the trained range" in fleet.ood_reasons["unit-02"]
    columns = fleet.columns(ASKED, "asked", None, [])
    np.testing.assert_array_equal(columns["unlike_training"], own)
    for name in ("lower", "upper"):
        np.testing.assert_array_equal(np.isnan(columns[name]), own)
        np.testing.assert_array_equal(columns[name][~own], adapt(unmeasured, FLEET).columns(ASKED, "a", None, [])[name][~own])
    deep = FLEET.with_columns(depth=pl.when(pl.col("unit") == "unit-00").then(1e4).otherwise(pl.col("depth")))
    assert "5 of 5 values of 'depth' lie far outside the trained range" in adapt(unmeasured, deep).ood_reasons["unit-00"]


def test_rows_whose_inputs_lie_far_outside_the_trained_range_have_no_interval(bayes):
    row, notes = pl.int_range(pl.len()), []
    asked = ASKED.with_columns(depth=pl.when(row == 7).then(1e4).otherwise(pl.col("depth")))
    columns = adapt(bayes, FLEET).columns(asked, "asked", None, notes)
    assert np.flatnonzero(columns["unlike_training"]).tolist() == np.flatnonzero(np.isnan(columns["lower"])).tolist() == [7]
    assert "1 of 44 rows have inputs far outside the trained range" in notes


@pytest.mark.parametrize(
    ("name", "column", "value"), [("bayes", "flow", "1e30"), ("bayes", "depth", "deep"), ("classes", "state", "dry")]
)
def test_a_unit_whose_rows_cannot_be_read_is_left_out_and_named_and_stops_no_other(request, tmp_path, name, column, value):
    trained = request.getfixturevalue(name)
    cell = pl.when(pl.int_range(pl.len()) == 7).then(pl.lit(value)).otherwise(pl.col(column).cast(pl.String))
    fleet, rest = adapt(trained, FLEET.with_columns(cell.alias(column)), "new.csv"), FLEET.filter(pl.col("unit") != "unit-02")
    assert list(fleet.left_out) == ["unit-02"]
    assert f"new.csv, the rows of 'unit-02': column '{column}'" in fleet.left_out["unit-02"]
    assert fleet.units == ("unit-00", "unit-01", "unit-03")
    asked = ASKED.filter(pl.col("unit") != "unit-02")
    np.testing.assert_array_equal(fleet.predict(asked), adapt(trained, rest).predict(asked))
    fleet.save(tmp_path / "fleet")
    for model in (fleet, open_adapted(tmp_path / "fleet")):  # its prediction is there, and claims nothing
        columns = model.columns(ASKED, "asked", None, [])
        assert columns["unlike_training"].tolist() == (ASKED["unit"] == "unit-02").to_list()
        assert columns["support_rows"][columns["unlike_training"]].tolist() == [0] * 11
        if "lower" in columns:
            np.testing.assert_array_equal(np.isnan(columns["lower"]), columns["unlike_training"])
    more = FLEET.filter(pl.col("unit").is_in(["unit-01", "unit-02"])).with_columns(day=pl.col("day") + pl.duration(days=400))
    odd = more.with_columns(
        pl.when(pl.col("unit") == "unit-01").then(pl.lit(value)).otherwise(pl.col(column).cast(pl.String)).alias(column)
    )
    updated = open_adapted(tmp_path / "fleet").update(odd, "more.csv")
    assert updated.units == (*fleet.units, "unit-02") and updated.rows.tolist() == [5, 1, 5, 9]  # old rows are kept
    assert list(updated.left_out) == ["unit-01"]
    alone = FLEET.filter(pl.col("unit") == "unit-02").with_columns(pl.lit(value).alias(column))
    with pytest.raises(InputError, match=f"new.csv: column '{column}'"):
        adapt(trained, alone, "new.csv")


@pytest.mark.parametrize("name", slow_but(["both", "both by gradients"], "both"))
def test_support_rows_that_lack_a_target_count_for_the_others(request, train, name):
    """A target that all rows have is predicted as from these rows by the core, with each cell's own weight."""
    trained = request.getfixturevalue("both") if name == "both" else train("both-g", target=("flow", "level"), **PLAIN)
    row = pl.int_range(pl.len()).over("unit")
    gaps = FLEET.with_columns(flow=pl.when(row % 2 == 0).then(pl.col("flow")), level=pl.when(row != 2).then(pl.col("level")))
    fleet = adapt(trained, gaps)
    assert "flow: 8 of 20 rows lack this target; their other targets count" in fleet.notes
    assert "level: 3 of 20 rows lack this target; their other targets count" in fleet.notes
    assert fleet.rows.tolist() == LENGTHS
    found, (lower, upper) = fleet.predict(ASKED), fleet.predict_interval(ASKED)
    assert (lower < found).all() and (found < upper).all()
    format = trained.problem.format
    for number in (0, 2):
        rows, own = of_unit(gaps, number), (ASKED["unit"] == f"unit-{number:02}").to_numpy()
        targets, known = format.encode_targets(rows, "rows")
        support = Examples(
            jnp.asarray(format.encode_inputs(rows, "rows")), jnp.asarray(targets), jnp.asarray(known, jnp.float32)
        )
        theta = fast_adapt(trained.problem.learner, trained.params, support, jax.random.key(0), None)
        expected = trained.problem.predict(theta, jnp.asarray(format.encode_inputs(ASKED.filter(pl.Series(own)), "asked")))
        np.testing.assert_allclose(found[own], format.restore(np.asarray(expected)), rtol=1e-4)
    auto = adapt(trained, gaps, steps="auto")
    assert np.isfinite(auto.predict(ASKED)).all()
    every = adapt(trained, FLEET.with_columns(flow=pl.lit(None, pl.Float64)))  # one target alone
    assert np.isfinite(every.predict(ASKED)).all() and every.rows.tolist() == LENGTHS


def wave(amplitude, phase, points=5, seed=0):
    x = np.random.default_rng(seed).uniform(-5, 5, points)
    return pl.DataFrame({"x": x, "y": amplitude * np.sin(x + phase)})


def test_waves_unlike_those_of_training_are_flagged_with_the_reason_and_others_rarely(waves):
    rng = np.random.default_rng(1)
    high = [adapt(waves, wave(30.0, rng.uniform(0, np.pi), seed=seed)).ood_reasons for seed in range(40)]
    assert sum(map(bool, high)) >= 36
    reason = next(filter(None, high))["it"]
    assert "on 96 % of comparable units it is at most" in reason
    assert any(words in reason for words in ("before adaptation", "after adaptation", "change of its predictions"))
    usual = [adapt(waves, wave(rng.uniform(0.1, 5), rng.uniform(0, np.pi), seed=seed)).ood_reasons for seed in range(100)]
    assert sum(map(bool, usual)) <= 12  # 5 expected


def test_where_too_few_units_calibrate_meta_train_units_say_what_is_unlike(bayes):
    assert bayes.calibration["tasks"] == 4
    assert adapt(bayes, FLEET).ood_reasons == {} and adapt(bayes, FLEET).can_detect_ood
    targets = tuple(structs.replace(each, span=(-np.inf, np.inf)) for each in bayes.problem.format.targets)
    boundless = replace(bayes, problem=replace(bayes.problem, format=structs.replace(bayes.problem.format, targets=targets)))
    reason = adapt(boundless, FLEET.with_columns(flow=pl.col("flow") * 1e3)).ood_reasons["unit-02"]
    assert "on all 28 meta-train and meta-validation units it is at most" in reason  # those of more than five rows


def test_500_waves_are_enough_to_tell_what_is_unlike(waves):
    assert adapt(waves, wave(2.0, 1.0)).can_detect_ood


def test_a_model_trained_to_forecast_says_of_how_many_rows_it_is_asked_for_the_past(train):
    forecast = adapt(train("forecast", time="day", **BAYES), FLEET)
    known = {name: rows["day"].max() for (name,), rows in FLEET.group_by("unit")}
    past = sum(day < known[name] for name, day in ASKED.select("unit", "day").rows())
    assert 0 < past < ASKED.height
    notes = []
    forecast.predict(ASKED, notes=notes)
    assert any(note.startswith(f"{past} of {ASKED.height} rows precede known rows of their unit") for note in notes)


def test_what_was_calibrated_for_one_choice_of_parameters_is_not_believed_of_another(sine, waves):
    asked = pl.DataFrame({"x": np.linspace(-5, 5, 9)})
    assert adapt(waves, wave(2.0, 1.0)).conformal.level(None) == 95  # 500 waves allow it
    last = adapt(sine, wave(2.0, 1.0), which="last")
    with pytest.raises(InputError, match="No intervals at 95 %"):
        last.predict_interval(asked)
    assert last.ood_reasons == {}


@pytest.mark.parametrize("dtype, within", [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_numbers_are_written_with_the_digits_that_are_known_and_the_infinite_as_they_are(dtype, within):
    found = significant(np.array([1234567.891, -0.00012345678912, 0.0, np.inf, -np.inf, np.nan], dtype))
    np.testing.assert_allclose(found, [1234568.0, -0.0001234568, 0.0, np.inf, -np.inf, np.nan], rtol=within)
    assert [str(abs(number)).strip("0.") for number in found[:2]] == ["1234568", "1234568"]
