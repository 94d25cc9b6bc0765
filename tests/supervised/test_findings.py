"""What a training ends with: does adaptation help, is a cheap classic as good? Place: training/gain, classics, findings."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from fewstep import Episode, Examples
from fewstep.apps.sine.settings import Sine
from fewstep.command import quiet_libraries
from fewstep.supervised import classical
from fewstep.supervised.baselines import compare_baselines, drawn
from fewstep.supervised.findings import bad_findings, by, findings
from fewstep.supervised.gain import gain_of_adaptation, paired_gain
from fewstep.training.progress import risen


def errors(seed, tasks=30, ratio=0.8):
    """Errors [tasks] before and after, paired, whose means have this ratio."""
    rng = np.random.default_rng(seed)
    shared = rng.gamma(4.0, 0.25, tasks)
    return shared * rng.gamma(20.0, 1 / 20, tasks), ratio * shared * rng.gamma(20.0, 1 / 20, tasks)


def test_the_interval_of_a_relative_gain_holds_the_ratios_that_a_t_test_does_not_reject():
    before, after = errors(0)
    found = paired_gain(before, after)["relative"]
    ratios = np.linspace(0.5, 1.2, 701)
    kept = [ratio for ratio in ratios if scipy.stats.ttest_1samp(after - ratio * before, 0.0).pvalue >= 0.05]
    np.testing.assert_allclose([1 - found["high"], 1 - found["low"]], [min(kept), max(kept)], atol=1.1e-3)
    assert found["mean"] == pytest.approx(1 - after.mean() / before.mean())


def test_signs_tell_what_a_few_great_errors_hide():
    """Lower in 7 of 7 tasks: p = 2 / 2⁷ by a two-sided sign test, though the interval of the mean difference holds 0."""
    before = np.array([16.0, 14, 18, 15, 14, 400, 17])
    found = paired_gain(before, before / 10)
    assert found["difference"]["low"] < 0 < found["difference"]["high"]
    assert (found["outcome"], found["lower_in"]) == ("better", 7)
    assert "(less in 7 of 7 unseen tasks)" in by(found)
    assert paired_gain(before / 10, before)["outcome"] == "worse"
    assert paired_gain(before[:5], before[:5] * 0.999 + np.array([0, 0, 0, 0.5, 0]))["outcome"] == "not shown"


@pytest.mark.parametrize("ratio", [0.8, 0.97, 1.0, 1.3])
@pytest.mark.parametrize("seed", range(5))
def test_the_outcome_is_that_of_a_paired_t_test_and_the_relative_interval_agrees(seed, ratio):
    before, after = errors(seed, ratio=ratio)
    found, test = paired_gain(before, after), scipy.stats.ttest_rel(before, after)
    expected = "not shown" if test.pvalue > 0.05 else "better" if test.statistic > 0 else "worse"
    assert found["outcome"] == expected
    apart = found["relative"]["low"] > 0 or found["relative"]["high"] < 0
    assert apart == (expected != "not shown")
    low, high = test.confidence_interval(0.95)
    np.testing.assert_allclose([found["difference"]["low"], found["difference"]["high"]], [low, high])


def test_the_interval_covers_the_true_gain_about_as_often_as_it_says():
    covered = []
    for seed in range(400):
        found = paired_gain(*errors(seed))["relative"]
        covered.append(found["low"] <= 0.2 <= found["high"])
    assert 0.92 < np.mean(covered) < 0.98


def test_what_cannot_be_told_is_not_told():
    assert paired_gain(np.array([2.0]), np.array([1.0]))["outcome"] == "not shown"
    wild = paired_gain(np.ones(5), np.array([0.1, 0.1, np.inf, 0.1, 0.1]))
    assert (wild["outcome"], wild["diverged"], wild["after"]) == ("worse", 1, None)
    assert paired_gain(np.array([1e-9, 5.0, 0.0, 0.0]), np.array([1.0, 0.0, 0.0, 1.0]))["relative"] is None
    assert paired_gain(np.ones(9), np.ones(9) * (1 - 1e-8))["outcome"] == "not shown"
    assert gain_of_adaptation(np.ones((3, 2)), (0, 5), 1, "mse") == gain_of_adaptation(np.ones((3, 1)), (0,), 0, "mse") == {}


def told(before, after, **more):
    gain = {"metric": "mse", "steps": 5, **paired_gain(np.asarray(before), np.asarray(after))}
    return findings({"adaptation_gain": gain, **more})[0]


def test_each_answer_is_a_sentence_and_a_bad_one_is_known_as_such():
    before, after = errors(1, ratio=0.4)
    good = told(before, after)
    assert good.good and good.text.startswith("Adaptation lowers the mse by 6") and good.text.endswith("%, 30 unseen tasks).")
    worse = told(after, before)
    assert not worse.good and worse.text.startswith("Adaptation makes it worse: it raises the mse by 1")
    same = told(before, before * np.where(np.arange(30) % 2, 0.9, 1.1))
    assert not same.good and same.text.endswith("not shown to help.")
    wild = told(before, np.where(np.arange(30) < 2, np.nan, after))
    assert wild == ("Adaptation diverges on 2 of 30 unseen tasks.", False)
    returns = gain_of_adaptation(np.stack([-before, before], 1), range(2), 1, "return", rising=True)
    assert findings(returns)[0].good and f"raises the return by {2 * before.mean():.3g} (" in findings(returns)[0].text
    assert findings({}) == [] and bad_findings("damaged") == bad_findings({"adaptation_gain": {"tasks": 3}}) == ()


def beside(theirs, ours, **left_out):
    found = {"a": paired_gain(theirs, ours, 2), "nearest": paired_gain(np.asarray(theirs) * 0.99, ours, 2)}
    return findings({"classics": {"metric": "mse", "best": "nearest", "by_classic": found, "left_out": left_out}})[0]


def test_the_best_of_the_cheap_classics_is_named_with_both_errors():
    before, after = errors(2, ratio=0.4)
    better = beside(before, after, boosting="needs scikit-learn")
    assert better.good and better.text.startswith("Of cheap classics the mean of the 3 nearest support rows is best (mse ")
    assert better.text.endswith("Not tried: gradient boosting on statistics of the support rows: needs scikit-learn.")
    worse = beside(after, before)
    assert not worse.good and worse.text.startswith("A cheap classic does better, the mean of the 3 nearest support rows: mse ")
    assert "fewstep compare" in worse.text
    same = beside(before, before * np.where(np.arange(30) % 2, 0.9, 1.1))
    assert not same.good and same.text.startswith("Not shown to be better than a cheap classic")


def episodes_of_rows(classes=False, episodes=4, shots=7, queries=5):
    rng = np.random.default_rng(3)
    weight = (np.arange(shots) < 5 + np.arange(episodes)[:, None] % 3).astype(np.float32)
    x, asked = rng.normal(size=(episodes, shots, 3)), rng.normal(size=(episodes, queries, 3))
    y = np.eye(3)[rng.integers(3, size=(episodes, shots))] if classes else rng.normal(size=(episodes, shots, 2))
    return Episode(
        Examples(x, y, weight), Examples(asked, np.zeros((episodes, queries, y.shape[-1])), np.ones((episodes, queries)))
    )


def test_nearest_rows_ridge_and_the_mean_are_those_of_scikit_learn_on_the_rows_that_count():
    linear_model, neighbors = pytest.importorskip("sklearn.linear_model"), pytest.importorskip("sklearn.neighbors")
    found = episodes_of_rows()
    near, straight, middle = classical.nearest_rows(found), classical.ridge(found), classical.support_mean(found)
    for number in range(4):
        known = found.support.weight[number] > 0
        x, y, asked = found.support.inputs[number][known], found.support.targets[number][known], found.query.inputs[number]
        expected = neighbors.KNeighborsRegressor(3).fit(x, y).predict(asked)
        np.testing.assert_allclose(near[number], expected, atol=1e-7)
        np.testing.assert_allclose(straight[number], linear_model.Ridge(alpha=1.0).fit(x, y).predict(asked), atol=1e-9)
        np.testing.assert_allclose(middle[number], np.tile(y.mean(0), (5, 1)), atol=1e-12)


def test_the_nearest_row_decides_between_classes_with_equal_votes_and_no_row_says_nothing():
    support = Examples(np.array([[[0.0], [1.0], [2.0]]]), np.eye(3)[None], np.ones((1, 3)))
    found = Episode(support, Examples(np.array([[[0.1], [0.9], [2.2]]]), np.zeros((1, 3, 3)), np.ones((1, 3))))
    np.testing.assert_array_equal(classical.nearest_rows(found).argmax(-1), [[0, 1, 2]])
    empty = Episode(support._replace(weight=np.zeros((1, 3))), found.query)
    np.testing.assert_array_equal(classical.nearest_rows(empty), np.zeros((1, 3, 3)))
    np.testing.assert_array_equal(classical.support_mean(empty), np.zeros((1, 3, 3)))


def by_loops(image):
    """Histograms of oriented gradients of [height, width] in plain Python."""
    height, width = image.shape
    cell = max(2, min(height, width) // 8)
    cells = np.zeros((height // cell, width // cell, 9))
    padded = np.pad(image.astype(float), 1, mode="edge")
    for row in range(height // cell * cell):
        for column in range(width // cell * cell):
            down = padded[row + 2, column + 1] - padded[row, column + 1]
            across = padded[row + 1, column + 2] - padded[row + 1, column]
            place = (np.degrees(np.arctan2(down, across)) % 180) / 20
            lower = int(place)
            for number, share in ((lower, 1 - (place - lower)), (lower + 1, place - lower)):
                cells[row // cell, column // cell, number % 9] += share * np.hypot(down, across)
    blocks = []
    for row in range(cells.shape[0] - 1):
        for column in range(cells.shape[1] - 1):
            block = np.concatenate([cells[row + i, column + j] for i in (0, 1) for j in (0, 1)])
            blocks.append(block / np.sqrt(np.sum(block**2) + 1e-6))
    return np.concatenate(blocks)


def test_histograms_of_oriented_gradients_are_those_of_a_loop_over_pixels_and_know_no_brightness_nor_contrast():
    image = np.random.default_rng(0).normal(size=(19, 17)).astype(np.float32)
    found = np.asarray(classical.oriented_gradients(jnp.asarray(image)[None, ..., None]))[0]
    np.testing.assert_allclose(found, by_loops(image), atol=2e-5)
    brighter = np.asarray(classical.oriented_gradients(jnp.asarray(3 * image + 5)[None, ..., None]))[0]
    np.testing.assert_allclose(brighter, found, atol=2e-4)
    colored = jnp.stack([jnp.zeros_like(image), jnp.asarray(image), 0.1 * jnp.asarray(image)], -1)[None]
    np.testing.assert_allclose(np.asarray(classical.oriented_gradients(colored))[0], found, atol=2e-5)


def test_the_class_whose_mean_is_nearest_is_found_among_the_images_that_count():
    rng = np.random.default_rng(1)
    means = rng.normal(size=(3, 8, 8, 1)) * 3
    support = np.repeat(means, 2, 0) + rng.normal(size=(6, 8, 8, 1)) * 0.1
    support[1] += 100  # weighs nothing
    weight = np.array([1.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    part = Examples(*map(jnp.asarray, (support[None], np.repeat(np.eye(3), 2, 0)[None], weight[None])))
    query = Examples(jnp.asarray(means[None]), jnp.eye(3)[None], jnp.ones((1, 3)))
    for features in (classical.flat, classical.oriented_gradients):
        np.testing.assert_array_equal(classical.nearest_mean(features)(Episode(part, query)).argmax(-1), [[0, 1, 2]])


def test_classics_are_asked_on_the_very_episodes_that_the_model_is_evaluated_on():
    problem = Sine(shots=8, hidden=(4,)).build(0)
    family, draws = problem.splits.test, 2
    ours = np.ones(1000)
    found = compare_baselines(problem, ours, "mse", draws, seed=0)
    by_hand = []
    for task in range(5):
        for key in jax.random.split(jax.random.fold_in(jax.random.key(0), task), draws):
            episode = family.episode(jnp.asarray(task), jax.random.split(key)[0])
            support = np.asarray(episode.support.targets)
            by_hand.append(np.mean(np.square(np.asarray(episode.query.targets) - support.mean(0))))
    (part,) = drawn(family, np.arange(5), draws, 0)
    np.testing.assert_allclose(np.square(part.query.targets - classical.support_mean(part)).mean((1, 2)), by_hand, rtol=1e-5)
    assert found["by_classic"]["nearest"]["before"] < found["by_classic"]["mean"]["before"]
    assert found["best"] == "nearest" and found["tasks"] == 200 and found["left_out"] == {}


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        (lambda at: np.exp(-4 * at), ""),
        (lambda at: 0 * at, ""),
        (lambda at: 0.5 * at, "has risen over the training"),
        (lambda at: np.exp(-6 * at) + np.maximum(at - 0.5, 0), "and has risen to"),
    ],
)
def test_a_meta_loss_that_rises_is_remarked_and_noise_is_not(curve, words):
    steps = np.arange(1, 41)
    said = [risen(1 + curve(steps / 40) + 0.02 * np.random.default_rng(seed).normal(size=40), steps) for seed in range(100)]
    assert sum(bool(each) for each in said) >= 95 if words else sum(bool(each) for each in said) <= 2
    assert all(words in each for each in said if each)


def test_few_records_and_losses_that_are_no_numbers_are_not_remarked():
    assert risen([1.0, 2.0, 3.0], [1, 2, 3]) == "" and risen([1.0] * 20 + [float("nan")], range(21)) == ""


@pytest.mark.parametrize(
    ("words", "level"),
    [
        (["python", "/usr/bin/fewstep", "train", "sine"], "3"),
        (["python", "-u", "C:/venv/fewstep.exe", "list"], "3"),
        (["python", "-m", "fewstep.cli", "list"], "3"),
        (["python", "-m", "pytest", "fewstep"], None),
        (["python", "mine.py", "fewstep"], None),
        (["python"], None),
    ],
)
def test_xla_is_told_to_be_quiet_by_the_command_alone_and_what_the_user_has_set_stands(words, level):
    environ: dict[str, str] = {}
    quiet_libraries(words, environ)
    assert environ.get("TF_CPP_MIN_LOG_LEVEL") == level
    quiet_libraries(words, own := {"TF_CPP_MIN_LOG_LEVEL": "0"})
    assert own == {"TF_CPP_MIN_LOG_LEVEL": "0"}


SLOW_TO_FOLD = """
import sys
sys.orig_argv[:] = {words}
import fewstep, jax, jax.numpy as jnp
def summed(x):
    return x + jax.lax.reduce_window(jnp.ones((80, 80)), 0.0, jax.lax.add, (55, 55), (1, 1), "SAME")[0, 0]
jax.jit(summed)(jnp.ones(3))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("words", "silent"), [(["python", "fewstep"], True), (["python", "mine.py"], False)])
def test_a_slow_compilation_asks_nobody_to_file_a_bug(words, silent):
    """XLA complains of a program that takes long to compile at the same level, by the same alarm."""
    ours = ("XLA_FLAGS", "TF_CPP_MIN_LOG_LEVEL", "JAX_COMPILATION_CACHE_DIR")  # what is in the cache is not compiled
    alone = {name: value for name, value in os.environ.items() if name not in ours}
    code = SLOW_TO_FOLD.format(words=words)
    done = subprocess.run([sys.executable, "-c", code], env=alone, capture_output=True, text=True, check=True)
    assert ("file a bug" not in done.stderr) == silent
