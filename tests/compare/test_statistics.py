"""Differences of methods: closed forms, what must not matter, coverage. Place: fewstep/compare/statistics.py,
intervals.py."""

import numpy as np
import pytest
from scipy import stats

from fewstep.compare.results import Scores
from fewstep.compare.statistics import beside, compared, interval, layout, more_tasks, upper
from fewstep.errors import InputError


def mirrored(random, count):
    """Numbers without skewness: each with its negative."""
    half = random.normal(size=count // 2)
    return np.concatenate([half, -half])


def methods(random, levels, seeds=3, tasks=45, seed_spread=0.1, chance=0.1):
    hardness = random.exponential(size=tasks)
    return [
        Scores(
            f"method {number}",
            level
            + hardness
            + 0.2 * random.normal(size=tasks)
            + seed_spread * random.normal(size=(seeds, 1))
            + chance * random.normal(size=(seeds, tasks)),
            1.0 + number,
        )
        for number, level in enumerate(levels)
    ]


def test_of_one_seed_and_errors_without_skewness_the_interval_is_students():
    errors = mirrored(np.random.default_rng(0), 30) + 2.0
    found = interval(layout(errors[None]), 0.05)
    expected = stats.ttest_1samp(errors, 0).confidence_interval(0.95)
    np.testing.assert_allclose(found, (2.0, expected.low, expected.high), rtol=1e-12)
    assert upper(layout(errors[None]), 0.05) == pytest.approx(stats.ttest_1samp(errors, 0).confidence_interval(0.9).high)


def test_where_tasks_do_not_differ_the_interval_is_students_over_seeds():
    by_seed = np.array([1.0, 1.5, 1.1, 0.9])
    found = interval(layout(np.repeat(by_seed[:, None], 20, 1)), 0.05)
    expected = stats.ttest_1samp(by_seed, 0).confidence_interval(0.95)
    np.testing.assert_allclose(found, (by_seed.mean(), expected.low, expected.high), rtol=1e-9)


def test_the_variance_of_a_mean_is_the_sum_of_its_parts():
    random = np.random.default_rng(1)
    seeds, tasks = random.normal(size=4), random.normal(size=50)
    found = layout(seeds[:, None] + tasks)
    assert found.variance == pytest.approx(seeds.var(ddof=1) / 4 + tasks.var(ddof=1) / 50)
    assert found.third == pytest.approx(stats.skew(tasks, bias=False) * tasks.std(ddof=1) ** 3 / 50**2)


def test_variance_components_are_unbiased():
    random = np.random.default_rng(2)
    draws = [
        layout(0.3 * random.normal(size=(3, 1)) + random.exponential(size=(1, 20)) + 0.5 * random.normal(size=(3, 20)))
        for _ in range(4000)
    ]
    between = np.mean([found.between_seeds - found.within for found in draws])
    assert between == pytest.approx(0.3**2 / 3, rel=0.1)
    assert np.mean([found.between_tasks for found in draws]) == pytest.approx((1 + 0.5**2 / 3) / 20, rel=0.05)
    assert np.mean([found.within for found in draws]) == pytest.approx(0.5**2 / 60, rel=0.05)


def test_the_order_of_tasks_and_of_seeds_and_what_all_methods_share_do_not_matter():
    random = np.random.default_rng(3)
    scores = methods(random, [0.0, 0.1, 0.5])
    found = compared(scores, "method 0", 0.3)
    tasks, seeds, shared = random.permutation(45), random.permutation(3), random.normal(size=(3, 45))
    other = [method._replace(errors=(method.errors + shared)[seeds][:, tasks]) for method in scores]
    again = compared(other, "method 0", 0.3)
    for name, one in found.differences.items():
        assert again.differences[name].outcome == one.outcome
        np.testing.assert_allclose(again.differences[name][:3], one[:3], atol=1e-12)
    assert again.regret == pytest.approx(found.regret)


def test_in_other_units_the_same_is_said():
    scores = methods(np.random.default_rng(4), [0.0, 0.05, 0.5])
    found = compared(scores, "method 0", 0.3)
    times = compared([method._replace(errors=1000 * method.errors) for method in scores], "method 0", 300)
    for name, one in found.differences.items():
        assert times.differences[name].outcome == one.outcome
        np.testing.assert_allclose(times.differences[name][:3], 1000 * np.array(one[:3]), rtol=1e-9)
        assert times.differences[name].more_tasks == one.more_tasks


def test_seen_from_the_other_method_a_difference_turns_its_sign():
    scores = methods(np.random.default_rng(5), [0.0, 0.4])
    forward, back = (
        compared(scores, "method 0", 0.1).differences["method 1"],
        compared(scores, "method 1", 0.1).differences["method 0"],
    )
    assert (back.mean, back.low, back.high) == pytest.approx((-forward.mean, -forward.high, -forward.low))
    assert (forward.outcome, back.outcome) == ("worse", "better")


def test_a_method_without_seeds_is_the_same_one_for_all_seeds():
    scores = methods(np.random.default_rng(6), [0.0, 0.1])
    single = scores[1].errors[:1]
    once = compared([scores[0], Scores("prior", single, 0.0)], "method 0", 0.1)
    repeated = compared([scores[0], Scores("prior", np.repeat(single, 3, 0), 0.0)], "method 0", 0.1)
    assert once.differences == repeated.differences


def test_of_saved_models_the_spread_between_seeds_is_no_matter():
    scores = methods(np.random.default_rng(7), [0.0, 0.1], seed_spread=5.0)
    means = [method._replace(errors=method.errors.mean(0, keepdims=True)) for method in scores]
    found = compared(scores, "method 0", 0.1, question="models").differences["method 1"]
    assert found[:3] == pytest.approx(compared(means, "method 0", 0.1).differences["method 1"][:3])
    seeds = compared(scores, "method 0", 0.1).differences["method 1"]
    assert seeds.high - seeds.low > 5 * (found.high - found.low)


def test_methods_that_are_the_same_are_equivalent_and_methods_beyond_the_margin_never_are():
    scores = methods(np.random.default_rng(8), [0.0])
    same, close, far = (Scores(name, scores[0].errors + more, 1.0) for name, more in (("a", 0), ("b", 0.09), ("c", 0.11)))
    found = compared([*scores, same, close, far], "method 0", 0.1)
    assert [one.outcome for one in found.differences.values()] == ["equivalent", "equivalent", "worse"]
    assert found.regret == 0.0


def test_methods_that_are_told_at_once_do_not_blur_the_others_and_undecided_ones_do():
    random = np.random.default_rng(9)
    pair = methods(random, [0.0, 0.12])
    far = [Scores(f"far {number}", pair[0].errors + 9 + 0.1 * random.normal(size=(3, 45)), 1.0) for number in range(14)]
    noisy = [Scores(f"noise {number}", pair[0].errors + 9 * random.normal(size=(3, 45)), 1.0) for number in range(14)]
    same = [Scores(f"same {number}", pair[0].errors, 1.0) for number in range(14)]
    alone, told, blurred, beside_equivalent = (
        compared([*pair, *more], "method 0", 0.05).differences["method 1"] for more in ([], far, noisy, same)
    )
    assert (told.low, told.high) == pytest.approx((alone.low, alone.high))
    assert blurred.high - blurred.low > 1.3 * (alone.high - alone.low)
    # Of fifteen methods that do not differ, the oddest would be called different too often, were the others no longer counted.
    assert (beside_equivalent.low, beside_equivalent.high) == pytest.approx((blurred.low, blurred.high))
    assert blurred.behind == alone.behind  # about the best method one can be wrong in one way only


def test_intervals_of_three_seeds_and_skewed_tasks_hold_what_they_promise():
    random, held = np.random.default_rng(10), 0
    for _ in range(400):
        tasks = random.exponential(size=45) - 1
        errors = tasks + 0.3 * random.normal(size=(3, 1)) + 0.3 * random.normal(size=(3, 45))
        found = compared([Scores("a", np.zeros((1, 45)), 1.0), Scores("b", errors, 1.0)], "a", 0.1).differences["b"]
        held += found.low <= 0 <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_bounds_of_skewed_errors_are_missed_less_often_than_those_of_student():
    random, missed, students = np.random.default_rng(11), 0, 0
    for _ in range(2000):
        errors = random.exponential(size=20)
        missed += upper(layout(errors[None]), 0.05) < 1
        students += errors.mean() + stats.t.isf(0.05, 19) * errors.std(ddof=1) / 20**0.5 < 1
    assert missed / 2000 < 0.07 < 0.09 < students / 2000


def test_methods_two_margins_apart_are_hardly_ever_called_equivalent_and_equal_ones_are():
    random = np.random.default_rng(12)
    said = {0.0: [], 0.2: []}
    for _ in range(150):
        for apart, outcomes in said.items():
            found = compared(methods(random, [0.0, apart], tasks=200, seed_spread=0.01), "method 0", 0.1)
            outcomes.append(found.differences["method 1"].outcome)
    assert said[0.2].count("equivalent") <= 2
    assert said[0.0].count("equivalent") >= 75
    assert said[0.2].count("better") + said[0.0].count("better") <= 8


def test_so_many_more_tasks_are_what_a_power_calculation_says():
    errors = mirrored(np.random.default_rng(13), 100)
    target = 0.05
    expected = ((stats.norm.isf(0.025) + stats.norm.ppf(0.8)) * errors.std(ddof=1) / target) ** 2 - 100
    assert more_tasks(layout(errors[None]), target, 0.025) == pytest.approx(expected, rel=0.06)


def test_no_number_of_tasks_makes_up_for_seeds():
    scores = methods(np.random.default_rng(14), [0.0, 0.0], seed_spread=1.0)
    found = compared(scores, "method 0", 0.05)
    assert found.differences["method 1"].outcome == "inconclusive"
    assert found.differences["method 1"].more_tasks is None
    assert found.more_tasks is None


def test_what_is_said_to_be_the_largest_regret_is_exceeded_in_no_more_than_one_of_twenty():
    random, exceeded = np.random.default_rng(15), 0
    for _ in range(300):
        found = compared(methods(random, [0.1, 0.0, 0.3], seed_spread=0.05), "method 0", 0.1)
        exceeded += found.regret < 0.1
    assert 0.005 < exceeded / 300 < 0.09


def test_a_method_that_diverged_is_reported_and_leaves_the_others_alone():
    scores = methods(np.random.default_rng(16), [0.0, 0.1, 0.2])
    broken = scores[2].errors.copy()
    broken[[0, 1], 3] = np.nan, np.inf
    found = compared([*scores[:2], scores[2]._replace(errors=broken)], "method 0", 0.1)
    assert found.diverged == {"method 2": 2}
    assert found.differences["method 2"].outcome == "diverged"
    assert found.differences["method 1"] == compared(scores[:2], "method 0", 0.1).differences["method 1"]


def test_errors_that_are_never_negative_have_no_interval_below_nothing():
    errors = np.array([[0.0, 0.0, 0.0, 9.0]])
    assert compared([Scores("a", errors, 1.0)], "a", 0.1).errors["a"].low == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scores: (scores, "other", 0.1), "one of those that did not diverge"),
        (lambda scores: (scores, "method 0", 0.0), "--margin"),
        (lambda scores: ([scores[0], scores[0]], "method 0", 0.1), "different names"),
        (lambda scores: ([scores[0], scores[1]._replace(errors=scores[1].errors[:, 1:])], "method 0", 0.1), "the same tasks"),
        (lambda scores: ([scores[0]._replace(errors=scores[0].errors[:, :1])], "method 0", 0.1), "at least 2"),
        (lambda scores: ([scores[0]._replace(errors=scores[0].errors[0])], "method 0", 0.1), "seeds, tasks"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, message):
    given = change(methods(np.random.default_rng(17), [0.0, 0.1]))
    with pytest.raises(InputError, match=message):
        compared(*given)


def test_a_method_that_breaks_in_a_few_tasks_is_worse_and_does_not_blur_the_choice():
    random = np.random.default_rng(5)
    chosen, rival, broken = methods(random, [0.1, 0.4, 0.3])
    broken.errors[:, :2] += 1e5
    found = compared([chosen, rival, broken], chosen.name, 0.2)
    assert found.differences[broken.name].outcome == "worse" and found.differences[broken.name].high > 1e3
    assert found.regret == compared([chosen, rival], chosen.name, 0.2).regret == 0


def test_what_is_cut_off_is_told_of_the_least_that_a_mean_may_be_and_of_nothing_else():
    random = np.random.default_rng(6)
    usual, heavy = random.normal(1.0, 0.3, (1, 50)), random.normal(1.0, 0.3, (1, 50))
    heavy[0, 0] = 1e6
    assert beside(usual, 0.1).interval(0.05) == interval(layout(usual), 0.05)
    found = beside(heavy, 0.1).interval(0.05)
    assert found.mean == heavy.mean() and found.high == interval(layout(heavy), 0.05).high
    assert 0.5 < found.low < np.median(heavy) and interval(layout(heavy), 0.05).low < 0


def test_the_least_that_a_mean_may_be_is_above_the_mean_hardly_ever_where_tasks_are_heavy():
    random = np.random.default_rng(7)
    errors = random.pareto(1.5, (2000, 1, 45)) - 2.0  # mean 0, no variance at all
    missed = np.mean([beside(each, 0.1).interval(0.05).low > 0 for each in errors])
    assert missed <= 0.035
