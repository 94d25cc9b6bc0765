"""The interquartile mean over seeds. Place: fewstep/supervised/evaluate.py. Oracles: SciPy, coverage, invariances."""

import numpy as np
import pytest
from scipy import stats

from fewstep.supervised.evaluate import interquartile_mean, over_seeds

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("count", [10, 11, 13, 20, 40])
def test_the_interquartile_mean_is_scipys_trimmed_mean(count):
    scores = RANDOM.normal(size=(3, count))
    np.testing.assert_allclose(interquartile_mean(scores), stats.trim_mean(scores, 0.25, axis=-1))
    table = RANDOM.normal(size=(count, 4))
    found = over_seeds(table)
    assert found is not None and found.mean == pytest.approx(stats.trim_mean(table.ravel(), 0.25))


def test_the_interval_is_that_of_scipys_bootstrap():
    scores = RANDOM.gamma(2.0, size=14)
    found = over_seeds(scores)
    assert found is not None
    expected = stats.bootstrap(
        (scores,), lambda values, axis: stats.trim_mean(values, 0.25, axis=axis), method="percentile", rng=1
    ).confidence_interval
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.03 * width)
    assert found.high == pytest.approx(expected.high, abs=0.03 * width)


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    hits = 0
    for trial in range(100):
        found = over_seeds(np.random.default_rng(trial).normal(size=30))
        hits += found is not None and found.low <= 0 <= found.high
    assert 85 <= hits <= 99  # percentiles of a bootstrap are a little narrow


def test_tasks_are_resampled_apart():
    """Of seeds that agree within each task nothing is uncertain, however far the tasks are apart."""
    found = over_seeds(np.tile([1.0, 5.0, 100.0], (10, 1)))
    assert found is not None and found.low == found.high == found.mean


def test_another_scale_and_one_mad_seed_change_what_they_should():
    scores = RANDOM.normal(size=12)
    found, moved = over_seeds(scores), over_seeds(3 * scores - 7)
    assert found is not None and moved is not None
    np.testing.assert_allclose(np.array(found) * 3 - 7, moved)
    mad = over_seeds(np.where(scores == scores.max(), 1e6, scores))
    assert mad is not None and mad.mean == found.mean


def test_below_ten_seeds_there_is_none():
    assert over_seeds(RANDOM.normal(size=9)) is None and over_seeds(RANDOM.normal(size=(10, 1))) is not None
