"""MetaRegressor and MetaClassifier in scikit-learn's conventions. Place: fewstep/estimators.py. The whole battery is slow."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.utils.estimator_checks import check_estimator

from fewstep import MetaClassifier, MetaRegressor

SMALL = {"meta_steps": 300, "hidden": (16,), "meta_batch_size": 8, "queries": 10}
UNIT = np.repeat(np.arange(40), 12)


def waves(seed=0):
    """(X, y): every unit has its own amplitude."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, (UNIT.size, 1))
    return x, rng.uniform(0.5, 3, 40)[UNIT] * np.sin(x[:, 0])


@pytest.fixture(scope="module")
def fitted():
    return MetaRegressor(**SMALL).fit(*waves(), groups=UNIT)


def new_unit(rows=6, amplitude=2.5):
    x = np.linspace(-1.8, 1.8, rows)[:, None]
    return x, amplitude * np.sin(x[:, 0])


def test_a_few_rows_of_a_new_unit_make_its_predictions_better_and_leave_the_estimator_as_it_was(fitted):
    asked, truth = new_unit(50)
    before = fitted.predict(asked)
    adapted = fitted.adapt(*new_unit())
    after = adapted.predict(asked)
    assert np.mean((after - truth) ** 2) < 0.2 * np.mean((before - truth) ** 2)
    np.testing.assert_array_equal(fitted.predict(asked), before)
    assert adapted is not fitted


def test_an_interval_encloses_the_prediction_and_widens_with_its_level(fitted):
    adapted, (asked, _) = fitted.adapt(*new_unit()), new_unit(9)
    narrow, wide = (adapted.predict_interval(asked, level) for level in (0.5, 0.8))
    middle = adapted.predict(asked)
    assert (wide[0] <= narrow[0]).all() and (narrow[0] < middle).all()
    assert (middle < narrow[1]).all() and (narrow[1] <= wide[1]).all()
    with pytest.raises(ValueError, match="expected at least 99 units"):
        adapted.predict_interval(asked, 0.99)


@pytest.mark.parametrize("adapted", [False, True])
def test_a_pickled_estimator_predicts_the_same(fitted, adapted):
    estimator = fitted.adapt(*new_unit()) if adapted else fitted
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.predict(new_unit(9)[0]), estimator.predict(new_unit(9)[0]))


def test_parameters_are_those_of_the_constructor_and_survive_a_clone(fitted):
    assert clone(fitted).get_params() == fitted.get_params() == MetaRegressor(**SMALL).get_params()
    assert MetaRegressor().set_params(shots=3).shots == 3
    assert not hasattr(clone(fitted), "model_")


def test_cross_validation_over_groups_adapts_to_each_unit_of_a_fold():
    x, y = waves()
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = MetaRegressor(**SMALL).set_fit_request(groups=True).set_score_request(groups=True)
        found = cross_validate(estimator, x, y, params={"groups": UNIT}, cv=GroupKFold(2), error_score="raise")
    assert (found["test_score"] > 0.8).all()


def test_a_frame_with_words_dates_and_gaps_is_read_as_a_table_and_classes_keep_their_type():
    rng = np.random.default_rng(0)
    x, y = waves()
    kind = rng.choice(["old", "new"], UNIT.size)
    frame = pd.DataFrame(
        {
            "x": np.where(rng.random(UNIT.size) < 0.05, np.nan, x[:, 0]),
            "kind": pd.Categorical(kind),
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(UNIT.size) % 12, unit="D"),
        }
    )
    classes = np.where(y + 0.5 * (kind == "new") > 0.2, 7, -3)
    model = MetaClassifier(**SMALL).fit(frame, classes, groups=UNIT)
    assert model.classes_.tolist() == [-3, 7]
    adapted = model.adapt(frame[:8], classes[:8])
    probabilities = adapted.predict_proba(frame[:20])
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(adapted.predict(frame[:20]), model.classes_[probabilities.argmax(1)])
    assert model.score(frame, classes, groups=UNIT) > 0.8
    with pytest.raises(ValueError, match="holds the class 5"):
        model.adapt(frame[:3], [5, 7, 7])


def test_importing_needs_no_scikit_learn_and_making_one_says_what_to_install():
    code = """
import sys
sys.modules["sklearn"] = None
from fewstep.estimators import MetaRegressor
try:
    MetaRegressor()
except ValueError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'fewstep[sklearn]'" in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MetaRegressor, MetaClassifier])
def test_scikit_learns_battery_passes(kind):
    """Without groups: contiguous blocks of rows are the units."""
    results = check_estimator(kind(**SMALL), on_fail=None, on_skip=None)
    assert {result["check_name"]: repr(result["exception"]) for result in results if result["status"] == "failed"} == {}
