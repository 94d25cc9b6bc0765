"""MetaRegressor and MetaClassifier: scikit-learn's own battery, and fewstep's promises beside it. Place: fewstep/estimators.

Checks of the battery that fit a table of a shape that few others have compile programs for it: they are slow.
"""

import datetime
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.utils.estimator_checks import estimator_checks_generator

import fewstep
from fewstep import MetaClassifier, MetaRegressor
from fewstep.apps.tables.data import columns_of
from fewstep.apps.tables.estimators import base
from fewstep.apps.tables.estimators.fitted import blocks, first_rows, split_groups
from fewstep.apps.tables.settings import Table
from fewstep.supervised.adapted import Adapted, adapt
from fewstep.supervised.infer_kinds import infer_kind
from fewstep.supervised.kinds import read_values
from fewstep.supervised.trained import Trained
from fewstep.supervised.training import finalize
from fewstep.training.loop import train_in_memory

SMALL = {"meta_steps": 100, "hidden": (8,), "meta_batch_size": 8, "queries": 10, "outer_rate": 2e-2}
UNIT = np.repeat(np.arange(40), 12)
FEW = UNIT < 9
"""rows of so few units that none of them is kept from training: the fastest fit"""
EXPECTED_FAILED_CHECKS: dict[str, str] = {}
"""name of a check -> why it cannot hold: there is none"""
OWN_SHAPES = {
    "check_classifier_data_not_an_array",
    "check_classifiers_classes",
    "check_classifiers_train",
    "check_dtype_object",
    "check_estimators_dtypes",
    "check_estimators_fit_returns_self",
    "check_estimators_overwrite_params",
    "check_estimators_pickle",
    "check_fit2d_1feature",
    "check_fit_check_is_fitted",
    "check_fit_idempotent",
    "check_n_features_in",
    "check_n_features_in_after_fitting",
    "check_pipeline_consistency",
    "check_positive_only_tag_during_fit",
    "check_readonly_memmap_input",
    "check_regressor_data_not_an_array",
    "check_regressor_multioutput",
    "check_regressors_int",
    "check_regressors_no_decision_function",
    "check_regressors_train",
}


ALIKE = {"check_fit_score_takes_y", "check_dont_overwrite_parameters"}
"""fit a model of the same shape for regression and for classes"""


def battery():
    for kind in (MetaRegressor, MetaClassifier):
        checks = estimator_checks_generator(kind(**SMALL), expected_failed_checks=EXPECTED_FAILED_CHECKS)
        for number, (estimator, check) in enumerate(checks):
            name = check.func.__name__
            twice = kind is MetaClassifier and name in ALIKE
            marks = [pytest.mark.slow] if name in OWN_SHAPES or twice else []
            yield pytest.param(estimator, check, id=f"{kind.__name__}-{number}-{name}", marks=marks)


@pytest.mark.filterwarnings("ignore")  # its own checks look at what is warned of
@pytest.mark.parametrize(("estimator", "check"), list(battery()))
def test_scikit_learns_battery_passes(estimator, check):
    check(estimator)


def waves(seed=0):
    """(X, y): every unit has its own amplitude; the second feature says nothing."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, (UNIT.size, 2))
    return x, rng.uniform(0.5, 3, 40)[UNIT] * np.sin(x[:, 0])


def new_unit(rows=6, amplitude=2.5):
    x = np.stack([np.linspace(-1.8, 1.8, rows), np.zeros(rows)], 1)
    return x, amplitude * np.sin(x[:, 0])


@pytest.fixture(scope="module")
def fitted():
    return MetaRegressor(**SMALL).fit(*waves(), groups=UNIT)


@pytest.fixture(scope="module")
def classified():
    x, y = waves()
    return MetaClassifier(**SMALL).fit(x, np.where(y > 0.5, 7, -3), groups=UNIT)


def test_fitting_and_adapting_are_those_of_a_table_in_memory(fitted):
    x, y = waves()
    table = pl.DataFrame({"x0": x[:, 0], "x1": x[:, 1], "target": y, "unit": UNIT}).with_columns(pl.col("unit").cast(pl.String))
    settings = Table(
        task="unit", inputs=("x0", "x1"), target=("target",), adapter="bayes-head", shots=(0, 10), **SMALL
    )  # fmt: skip
    lengths = np.full(40, 12)
    problem = settings.build_from(table, "memory", 0, lambda tasks, seed: split_groups(lengths, seed))
    params, _ = finalize(problem, train_in_memory(problem, 0))
    trained = Trained(problem, params, fitted.model_.calibration, {})
    support, (asked, _) = new_unit(), new_unit(9)
    rows = pl.DataFrame({"x0": support[0][:, 0], "x1": support[0][:, 1], "target": support[1]})
    table = pl.DataFrame({"x0": asked[:, 0], "x1": asked[:, 1]})
    np.testing.assert_allclose(fitted.adapt(*support).predict(asked), adapt(trained, rows).predict(table), rtol=1e-5)
    np.testing.assert_allclose(fitted.predict(asked), Adapted.without_rows(trained).predict(table), rtol=1e-5, atol=1e-6)


def test_a_few_rows_of_a_new_unit_make_its_predictions_better_and_leave_the_estimator_as_it_was(fitted):
    asked, truth = new_unit(50)
    before = fitted.predict(asked)
    adapted = fitted.adapt(*new_unit())
    assert np.mean((adapted.predict(asked) - truth) ** 2) < 0.2 * np.mean((before - truth) ** 2)
    np.testing.assert_array_equal(fitted.predict(asked), before)
    assert adapted is not fitted


def test_before_adaptation_it_predicts_the_mean_over_units(fitted):
    asked, wave = new_unit(50, amplitude=1.0)
    x, y = waves()
    mean_amplitude = np.sum(y * np.sin(x[:, 0])) / np.sum(np.sin(x[:, 0]) ** 2)  # least squares
    assert r2_score(mean_amplitude * wave, fitted.predict(asked)) > 0.9


def test_no_adaptation_steps_leave_what_is_known_of_a_unit_without_rows(fitted):
    asked, _ = new_unit(9)
    np.testing.assert_allclose(fitted.adapt(*new_unit(), steps=0).predict(asked), fitted.predict(asked), rtol=1e-5, atol=1e-6)


def test_an_interval_encloses_the_prediction_widens_with_its_level_and_narrows_with_rows(fitted):
    adapted, (asked, _) = fitted.adapt(*new_unit()), new_unit(9)
    narrow, wide, before = (
        each.predict_interval(asked, level) for each, level in ((adapted, 0.5), (adapted, 0.8), (fitted, 0.8))
    )
    middle = adapted.predict(asked)
    assert (wide[0] <= narrow[0]).all() and (narrow[0] < middle).all()
    assert (middle < narrow[1]).all() and (narrow[1] <= wide[1]).all()
    assert np.mean(before[1] - before[0]) > np.mean(wide[1] - wide[0])
    np.testing.assert_array_equal(adapted.predict_interval(asked), wide)  # eight calibration groups allow 80 %, not 90
    with pytest.raises(ValueError, match="expected at least 99 calibration units"):
        adapted.predict_interval(asked, 0.99)


def test_a_unit_on_another_scale_is_warned_of_and_has_no_interval(fitted):
    x, y = new_unit()
    with pytest.warns(
        UserWarning, match="unlike anything trained on: 6 of 6 values of '<y>' lie far outside the trained range"
    ):
        far = fitted.adapt(x, 1e4 + 1e3 * y)
    assert "far outside" in far.unlike_ and np.isfinite(far.predict(x)).all()
    assert all(np.isnan(bound).all() for bound in far.predict_interval(x, 0.8))


@pytest.mark.slow
def test_targets_may_have_gaps_where_there_are_several():
    x, y = waves()
    targets = np.stack([y, 10 * y], 1)
    targets[::2, 0], targets[1::3, 1] = np.nan, np.nan
    estimator = MetaRegressor(meta_steps=4, hidden=(4,), shots=3, queries=4).fit(x, targets, groups=UNIT)
    assert (
        f"<y 0>: {np.isnan(targets[:, 0]).sum()} of {len(x)} rows lack this target; their other targets count"
        in estimator.notes_
    )
    assert np.isfinite(estimator.adapt(x[:6], targets[:6]).predict(x)).all()
    with pytest.raises(ValueError, match="NaN"):
        MetaRegressor(meta_steps=4).fit(x, targets[:, 0], groups=UNIT)


def test_intervals_of_a_unit_without_rows_have_a_calibration_of_their_own(fitted):
    assert next(entry["shots"] for entry in fitted.model_.calibration["by_shots"]) == 0
    x, y = waves(seed=1)  # other amplitudes
    lower, upper = fitted.predict_interval(x, 0.8)
    assert np.mean((lower <= y) & (y <= upper)) > 0.6  # eight calibration groups leave a deviation of a tenth


@pytest.mark.parametrize("adapted", [False, True])
def test_a_pickled_estimator_predicts_the_same_and_holds_no_program(fitted, adapted):
    estimator = fitted.adapt(*new_unit()) if adapted else fitted
    asked, _ = new_unit(9)
    expected = estimator.predict(asked)
    written = pickle.dumps(estimator)
    assert b"jax" not in written and b"flax" not in written
    np.testing.assert_array_equal(pickle.loads(written).predict(asked), expected)


def test_parameters_are_those_of_the_constructor_and_survive_a_clone(fitted):
    assert clone(fitted).get_params() == fitted.get_params() == MetaRegressor(**SMALL).get_params()
    assert MetaRegressor().set_params(shots=3).shots == 3
    assert not hasattr(clone(fitted), "model_")


def as_frame(kind, x):
    return kind({"a": x[:, 0], "b": x[:, 1]})


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame])
def test_a_frame_of_numbers_is_the_array_of_its_numbers(fitted, kind):
    x, y = waves()
    framed = MetaRegressor(**SMALL).fit(as_frame(kind, x), pd.Series(y), groups=pl.Series(UNIT))
    support, (asked, _) = new_unit(), new_unit(9)
    expected = fitted.adapt(*support).predict(asked)
    adapted = framed.adapt(as_frame(kind, support[0]), support[1])
    np.testing.assert_array_equal(adapted.predict(as_frame(kind, asked)), expected)
    with pytest.warns(UserWarning, match="valid feature names"):
        np.testing.assert_array_equal(adapted.predict(asked), expected)
    with pytest.raises(ValueError, match="feature names should match"):
        adapted.predict(as_frame(kind, asked)[["b", "a"]])


def test_words_dates_yes_or_no_and_gaps_are_the_same_in_pandas_and_polars():
    rng = np.random.default_rng(0)
    x, y = (values[FEW] for values in waves())
    rows = FEW.sum()
    columns = {
        "x": np.where(rng.random(rows) < 0.05, None, x[:, 0]),
        "word": np.where(rng.random(rows) < 0.1, None, rng.choice(["old", "new"], rows)),
        "day": np.datetime64("2024-01-01", "us") + np.timedelta64(1, "D") * (np.arange(rows) % 12),
        "valve": rng.choice([True, False], rows),
        "code": rng.choice([3, 5, 8], rows),
    }
    pandas = pd.DataFrame(columns).astype({"x": float, "code": "category"})
    polars = pl.DataFrame(
        {
            "x": pl.Series(columns["x"].tolist()),
            "word": pl.Series(columns["word"].tolist()),
            "day": columns["day"],
            "valve": columns["valve"],
            "code": pl.Series(columns["code"].astype(str), dtype=pl.Categorical),
        }
    )
    models = [MetaRegressor(**SMALL).fit(frame, y, groups=UNIT[FEW]) for frame in (pandas, polars)]
    kinds = [column["kind"] for column in models[0].model_.format["inputs"]]
    assert kinds == ["number", "category", "date", "boolean", "category"]
    assert any(note.startswith("word: ") and "missing" in note for note in models[0].notes_)
    assert models[0].model_.format == models[1].model_.format
    first, second = (
        model.adapt(frame[:8], y[:8]).predict(frame[8:20]) for model, frame in zip(models, (pandas, polars), strict=True)
    )
    np.testing.assert_array_equal(first, second)


def test_nullable_and_zoned_pandas_columns_are_read_as_plain_ones():
    moments = pd.date_range("2024-03-30", periods=4, freq="12h", tz="Europe/Paris")
    frame = pd.DataFrame(
        {
            "count": pd.array([1, None, 3, 4], "Int64"),
            "yes": pd.array([True, None, False, True], "boolean"),
            "word": pd.array(["a", None, "b", "a"], "string"),
            "moment": moments,
        }
    )
    table, categories = columns_of(frame, ("count", "yes", "word", "moment"))
    assert categories == ()
    assert table["count"].to_list() == [1, None, 3, 4]
    assert table["yes"].to_list() == [True, None, False, True]
    assert table["word"].to_list() == ["a", None, "b", "a"]
    assert table["moment"].dt.epoch("s").to_list() == [int(moment.timestamp()) for moment in moments]
    assert table.schema["moment"] == pl.Datetime("us", "Europe/Paris")  # its clock counts too
    fixed = pd.DataFrame({"moment": moments.tz_convert(datetime.timezone(datetime.timedelta(hours=5, minutes=30)))})
    texts = columns_of(fixed, ("moment",))[0]
    how = infer_kind(texts, "moment", "X")
    assert how.zone == "+05:30"
    assert read_values(texts, "moment", how, "X").tolist() == [moment.timestamp() for moment in moments]


@pytest.mark.slow
def test_several_targets_are_predicted_each_in_its_own_units():
    x, y = (values[FEW] for values in waves())
    both, units = np.stack([y, 2 * y + 5], 1), np.array([1_000, 1])
    adapted = MetaRegressor(**SMALL).fit(x, both, groups=UNIT[FEW]).adapt(x[:6], both[:6])
    found = adapted.predict(x[:12])
    assert found.shape == (12, 2)
    assert r2_score(both[:12], found) > 0.8
    scaled = MetaRegressor(**SMALL).fit(x, both * units, groups=UNIT[FEW]).adapt(x[:6], both[:6] * units)
    np.testing.assert_allclose(scaled.predict(x[:12]) / units, found, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_without_groups_contiguous_blocks_are_the_units():
    x, y = (values[:64] for values in waves())
    found = [MetaRegressor(**SMALL).fit(x, y, **given).predict(x[:9]) for given in ({}, {"groups": blocks(len(x))})]
    np.testing.assert_array_equal(*found)
    for rows in (4, 10, 150, 1_000):
        names, lengths = np.unique(blocks(rows).cast(pl.Int64).to_numpy(), return_counts=True)
        assert names.size == int(np.sqrt(rows)) and lengths.min() >= names.size and lengths.max() - lengths.min() <= 1
        assert (np.diff(blocks(rows).cast(pl.Int64).to_numpy()) >= 0).all()


@pytest.mark.parametrize("groups", [2, 9, 10, 19, 20, 40, 94, 95, 318])
def test_each_group_of_several_rows_serves_for_one_thing_where_they_are_enough(groups):
    lengths = np.concatenate([np.full(groups, 5), [1, 1]])
    parts = split_groups(lengths, seed=3)
    train = parts["train"]
    assert {groups, groups + 1} <= set(train)  # of one row
    if groups < 10:
        assert parts["calibration"].size == 0
        assert set(train) - {groups, groups + 1} == set(parts["validation"]) == set(range(groups))
        return
    used = np.concatenate([train, parts["validation"], parts["calibration"]])
    assert sorted(used.tolist()) == list(range(groups + 2))
    assert train.size >= 0.7 * groups
    assert (parts["calibration"].size >= 19) == (groups >= 95)  # 19 / 20 = 95 %
    assert parts["calibration"].size == 0 or parts["calibration"].size >= 4
    assert parts["test"] is parts["validation"]


def one_by_one(estimator, x, y, unit, shots):
    """(truth, predictions) of the rows that each unit was not told, unit by unit."""
    truth, found = [], []
    for name in np.unique(unit):
        rows = np.flatnonzero(unit == name)
        known, asked = np.split(rows, [min(shots, rows.size // 2)])
        adapted = estimator.adapt(x[known], y[known]) if known.size else estimator
        truth.append(y[asked])
        found.append(adapted.predict(x[asked]))
    return np.concatenate(truth), np.concatenate(found)


def test_the_score_of_groups_is_that_of_their_later_rows_after_adapting_to_the_first(fitted, classified):
    x, y = waves(seed=2)
    some = np.flatnonzero(UNIT < 3)[:-11]  # two units of 12 rows, one of one
    mixed = np.random.default_rng(0).permutation(some)
    for rows in (some, mixed):
        truth, found = one_by_one(fitted, x[rows], y[rows], UNIT[rows], shots=10)
        assert fitted.score(x[rows], y[rows], groups=UNIT[rows]) == pytest.approx(r2_score(truth, found), rel=1e-5)
        classes = np.where(y > 0.5, 7, -3)
        truth, found = one_by_one(classified, x[rows], classes[rows], UNIT[rows], shots=10)
        assert classified.score(x[rows], classes[rows], groups=UNIT[rows]) == pytest.approx(np.mean(truth == found))
    assert fitted.score(x, y) == pytest.approx(r2_score(y, fitted.predict(x)))
    heavy = np.where(UNIT[some] == 0, 1.0, 0.0)
    alone = some[UNIT[some] == 0]
    assert fitted.score(x[some], y[some], UNIT[some], sample_weight=heavy) == pytest.approx(
        fitted.score(x[alone], y[alone], UNIT[alone]), rel=1e-5
    )


def test_first_rows_are_the_first_in_time():
    unit, order = pl.Series(["a", "b", "a", "a", "b", "c", "a"]), np.array([9, 5, 2, 7, 6, 1, 3])
    np.testing.assert_array_equal(first_rows(unit, 10, order), [0, 1, 1, 0, 0, 0, 1])  # a at 2, 3 of 2, 3, 7, 9; b at 5
    np.testing.assert_array_equal(first_rows(unit, 1, order), [0, 1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(first_rows(unit, 10, np.arange(7)), [1, 1, 1, 0, 0, 0, 0])


def test_with_a_time_column_the_order_of_rows_in_a_table_does_not_matter():
    (x, y), unit = (values[FEW] for values in waves()), UNIT[FEW]
    x[:, 1] = np.arange(unit.size) % 12
    model = MetaRegressor(time=1, **SMALL).fit(x, y, groups=unit)
    assert model.model_.settings.time == "x1"
    order = np.random.default_rng(0).permutation(unit.size)
    assert model.score(x[order], y[order], groups=unit[order]) == pytest.approx(model.score(x, y, groups=unit), rel=1e-5)


@pytest.mark.slow
def test_cross_validation_over_groups_is_fitting_and_scoring_each_fold_by_hand():
    some = UNIT < 16
    (x, y), unit = (values[some] for values in waves()), UNIT[some]
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = MetaRegressor(**SMALL).set_fit_request(groups=True).set_score_request(groups=True)
        found = cross_validate(estimator, x, y, params={"groups": unit}, cv=GroupKFold(2), error_score="raise")["test_score"]
    assert (found > 0.7).all()
    for score, (train, test) in zip(found, GroupKFold(2).split(x, y, unit), strict=True):
        by_hand = MetaRegressor(**SMALL).fit(x[train], y[train], groups=unit[train])
        assert score == pytest.approx(by_hand.score(x[test], y[test], groups=unit[test]))


@pytest.mark.parametrize("names", [("no", "yes"), (False, True), pytest.param((0.0, 1.0), marks=pytest.mark.slow)])
def test_classes_of_any_type_come_back_as_they_went_in(classified, names):
    x, y = waves()
    classes = np.array(names)[(y > 0.5).astype(int)]
    model = MetaClassifier(**SMALL).fit(x, classes, groups=UNIT)
    np.testing.assert_array_equal(model.classes_, np.array(names))
    adapted = model.adapt(x[:6], classes[:6])
    plain = classified.adapt(x[:6], np.where(y > 0.5, 7, -3)[:6])
    np.testing.assert_array_equal(adapted.predict_proba(x), plain.predict_proba(x))
    np.testing.assert_allclose(adapted.predict_proba(x).sum(1), 1, rtol=1e-6)
    assert adapted.predict(x).dtype == classes.dtype
    np.testing.assert_array_equal(adapted.predict(x), model.classes_[adapted.predict_proba(x).argmax(1)])
    assert np.mean(adapted.predict(x[UNIT == 0]) == classes[UNIT == 0]) > 0.8


def test_of_both_adapters_the_better_on_held_out_groups_is_kept(monkeypatch):
    errors = {"bayes-head": 2.0, "gradient": 1.0}
    monkeypatch.setattr(base, "train_in_memory", lambda problem, seed: problem.init(jax.random.key(0)))
    monkeypatch.setattr(base, "finalize", lambda problem, params: (params, errors[problem.settings.adapter]))
    monkeypatch.setattr("fewstep.apps.tables.estimators.fitted.calibrate", lambda problem, params: {"tasks": 0, "by_shots": []})
    model = MetaRegressor(**{**SMALL, "adapter": "auto"})
    assert model.fit(*waves(), groups=UNIT).model_.settings.adapter == "gradient"
    errors["bayes-head"] = 0.5
    assert model.fit(*waves(), groups=UNIT).model_.settings.adapter == "bayes-head"
    errors["bayes-head"] = float("nan")
    assert model.fit(*waves(), groups=UNIT).model_.settings.adapter == "gradient"


def test_a_generator_as_random_state_draws_another_seed_each_time():
    assert base.draw_seed(7) == base.draw_seed(np.int64(7)) == 7
    twins = [np.random.RandomState(3) for _ in range(2)]
    first = [base.draw_seed(twin) for twin in twins]
    assert first[0] == first[1] != base.draw_seed(twins[0])


@pytest.mark.parametrize(
    ("changes", "given", "words"),
    [
        ({"adapter": "knn"}, {}, "adapter should be one of bayes-head, gradient, auto"),
        ({"time": "day"}, {}, "time should be a column of X"),
        ({"time": 2}, {}, "time should be a column of X"),
        ({"meta_steps": 0}, {}, "meta-steps should be at least 1"),
        ({}, {"groups": UNIT[1:]}, "each of the 480 rows, got 479"),
        ({}, {"groups": np.where(UNIT == 3, np.nan, UNIT)}, "groups names no unit in 12 of 480 rows"),
        ({}, {"groups": pd.Series(UNIT.astype(str)).where(UNIT != 3)}, "groups names no unit in 12 of 480 rows"),
        ({}, {"groups": np.zeros(UNIT.size)}, "at least 2 groups of 2 rows or more, got 1"),
        ({}, {"groups": np.arange(UNIT.size)}, "at least 2 groups of 2 rows or more, got 0"),
        ({}, {"y": np.zeros(UNIT.size)}, "nothing to predict"),
        ({}, {"X": pd.DataFrame(np.ones((UNIT.size, 2)), columns=["a", "a"])}, "found 'a' twice"),
        ({}, {"X": pl.DataFrame({"a": []}), "y": []}, "0 sample"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_words(changes, given, words):
    x, y = waves()
    with pytest.raises(ValueError, match=words):
        MetaRegressor(**{**SMALL, **changes}).fit(**{"X": x, "y": y, "groups": UNIT, **given})


def test_support_rows_that_do_not_fit_are_refused_in_words(fitted, classified):
    x, y = new_unit()
    with pytest.raises(ValueError, match="y should have 1 targets, as in fit, got 2"):
        fitted.adapt(x, np.stack([y, y], 1))
    with pytest.raises(ValueError, match="steps should be a number"):
        fitted.adapt(x, y, steps="many")
    with pytest.raises(ValueError, match=r"holds the class 5; expected one of \[-3, 7\]"):
        classified.adapt(x, [5, 7, 7, -3, 7, 7])
    with pytest.raises(ValueError, match="at least 4 rows"):
        MetaRegressor(**SMALL).fit(x[:3], y[:3])


def test_importing_needs_no_scikit_learn_and_making_one_says_what_to_install():
    code = """
import sys
sys.modules["sklearn"] = None
from fewstep import InputError, MetaRegressor
try:
    MetaRegressor()
except InputError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'fewstep[sklearn]'" in said


def test_the_package_knows_both_and_nothing_else():
    assert fewstep.MetaRegressor is MetaRegressor
    with pytest.raises(AttributeError, match="MetaRanker"):
        fewstep.MetaRanker  # noqa: B018


@pytest.mark.slow
def test_the_example_of_the_documentation_runs_and_tells_a_strange_unit():
    text = (Path(__file__).parents[3] / "docs" / "estimators.md").read_text(encoding="utf-8")
    names: dict = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    X, y, model = names["X"], names["y"], names["model"]
    assert names["new"].unlike_ is None
    assert model.score(X, y, groups=names["unit"]) > model.score(X, y)
    lower, upper = names["new"].predict_interval(X)
    np.testing.assert_array_equal([lower, upper], names["new"].predict_interval(X, level=0.95))
    strange = model.adapt(X[:5], 40 * np.cos(3 * X[:5, 0]))
    assert "rows are" in strange.unlike_ or "adaptation changed" in strange.unlike_
