"""The inner rate that is found before training: where adaptation diverges, where it is best, how that is told. Place:
fewstep/supervised/rate_search.py, fewstep/cli/dry_run.py, fewstep/plots/curves.py."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import pytest
from known import (
    Bowl,
    assert_close,
    assert_legible,
    bowl_closed_form,
    bowl_loss,
    bowl_problem,
    fast_path,
    one,
    plain,
    slow_but,
    unit_rows,
    write_photos,
)
from PIL import Image

from fewstep import Episode, Learner
from fewstep.apps.images.problem import Images
from fewstep.apps.sine.settings import Sine
from fewstep.core.problem import Splits, WarmStart
from fewstep.core.tasks import TaskFamily
from fewstep.plots.curves import rates as rates_picture
from fewstep.supervised.rate_search import RATES, choose, find_rate, try_rates

TINY = ["--hidden", "8", "--adaptation-steps", "2"]
TABLE = ["--data", "units.csv", "--task", "unit", "--inputs", "day", "depth", "--target", "flow", *TINY]
SMALL = {"adaptation_steps": 2, "hidden": (8,)}
PHOTOS = {
    "size": 12,
    "network": "conv4-strided",
    "filters": 4,
    "ways": 3,
    "queries": 2,
    "test_queries": 2,
    "parts": (0.4, 0.3, 0.3),
}
SEED = 3


def bowls_of(draw, steps=2, **changes):
    """The Problem of quadratic tasks that `draw` draws, met after so many steps."""
    splits = Splits(*(TaskFamily(draw, size) for size in (None, 30, 20)))
    return bowl_problem(splits=splits, learner=Learner(bowl_loss, optax.sgd(0.1), steps), **changes)


def round_bowl(task, key, curvature=2.0):
    """The same curvature everywhere, and one center for support and query set."""
    center = jax.random.normal(jax.random.fold_in(key, 1), (3,))
    bowl = Bowl(curvature * jnp.eye(3), center)
    return Episode(bowl, bowl)


def episode_keys(tasks, key):
    """Of each task's first episode: the key that draws it, and that of adaptation."""
    return [jax.random.split(jax.random.fold_in(jax.random.fold_in(key, task), 0)) for task in tasks]


def test_losses_and_divergence_at_every_rate_are_those_of_the_closed_form(float64):
    problem, key, steps = bowl_problem(), jax.random.key(5), 2
    theta, tasks = jnp.array([1.0, -2.0, 0.5]), jnp.arange(4)
    rates = (0.01, 0.3, 1.2, 3.0)
    trials = try_rates(problem, plain(theta), tasks, jnp.zeros(4, int), jnp.asarray(rates), key)
    for task, (episode_key, _) in enumerate(episode_keys(range(4), key)):
        episode = problem.splits.validation.episode(jnp.asarray(task), episode_key)
        assert_close(trials.before[task], bowl_loss(theta, episode.query, key), 1e-6)
        for place, rate in enumerate(rates):
            adapted = bowl_closed_form(theta, episode, rate, steps)[0]
            assert_close(trials.after[task, place], bowl_loss(adapted, episode.query, key), 1e-6)
            grown = bowl_loss(adapted, episode.support, key) > bowl_loss(theta, episode.support, key)
            assert trials.diverged[task, place] == grown
    assert 0 < np.sum(trials.diverged) < trials.diverged.size


def test_it_diverges_from_two_over_the_greatest_curvature_of_any_task_on():
    problem = bowl_problem(learner=Learner(bowl_loss, optax.sgd(0.1), 300))
    episodes = [problem.splits.validation.episode(jnp.asarray(task), jax.random.key(0)) for task in range(30)]
    greatest = max(float(jnp.linalg.eigvalsh(episode.support.matrix)[-1]) for episode in episodes)
    assert find_rate(problem, SEED)["diverges_from"] == min(rate for rate in RATES if rate > 2 / greatest)


@pytest.mark.parametrize("curvature", [0.25, 10.0, 1 / 0.0032])
def test_the_recommended_rate_of_round_bowls_is_the_tried_one_nearest_to_one_over_their_curvature(curvature):
    problem = bowls_of(lambda task, key: round_bowl(task, key, curvature))
    found = find_rate(problem, SEED)
    best = min(RATES, key=lambda rate: abs(1 - rate * curvature))  # what is left of the way is (1 - rate * curvature)^2
    assert found["recommended"] == best
    shrunk = np.array([(1 - rate * curvature) ** 4 for rate in RATES])
    np.testing.assert_allclose(
        np.array(found["median"], float)[shrunk < 1], found["before"]["median"] * shrunk[shrunk < 1], rtol=1e-3, atol=1e-6
    )
    assert found["diverges_from"] == min(rate for rate in RATES if rate > 2 / curvature)
    assert found["diverges_on"] == [float(rate > 2 / curvature) for rate in RATES]


def test_few_tasks_are_met_several_times_and_many_once_and_never_more_than_a_hundred():
    for size, episodes in ((3, 30), (30, 90), (70, 70), (None, 100)):
        splits = replace(bowl_problem().splits, validation=TaskFamily(round_bowl, size))
        found = find_rate(bowl_problem(splits=splits), SEED, rates=(0.1,))
        assert (found["tasks"], found["episodes"]) == (min(size or 100, 100), episodes)


def test_a_beginning_that_would_be_trained_first_is_left_out():
    begun = bowl_problem(warm_start=WarmStart(bowl_problem(), lambda key, solution: solution))
    assert find_rate(begun, SEED) == find_rate(bowl_problem(), SEED)


def test_a_loss_that_is_not_finite_is_none_and_counts_as_divergence():
    found = find_rate(bowls_of(round_bowl, steps=200), SEED, rates=(0.5, 10.0))
    assert found["mean"][1] is None and found["median"][1] is None
    assert found["diverges_on"] == [0.0, 1.0]
    json.dumps(found, allow_nan=False)


def test_of_rates_that_diverge_on_more_than_one_task_in_a_hundred_none_is_chosen():
    rates, medians = (0.1, 0.2, 0.3, 0.4), np.array([3.0, 2.0, 1.0, np.inf])
    assert choose(rates, medians, np.array([0, 0.01, 0.02, 1.0])) == (0.2, 0.3)
    assert choose(rates, medians, np.zeros(4)) == (0.3, None)
    assert choose(rates, medians, np.array([0.5, 0, 0, 0.5])) == (0.3, 0.4)
    assert choose(rates, medians, np.ones(4)) == (None, 0.1)


MODELS = {
    "head": lambda folder: Sine(adapt=("head",), **SMALL),
    "lora": lambda folder: Sine(lora=2, **SMALL),
    "context": lambda folder: Sine(context=3, **SMALL),
    "images": lambda folder: Images(data=str(write_photos(folder, range(12))), head="prototype", **PHOTOS, **SMALL),
}


@pytest.mark.parametrize("name", slow_but(MODELS, "head", "lora"))
def test_what_adaptation_moves_and_what_it_starts_from_are_those_of_training(name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    problem, key, rates = MODELS[name](tmp_path / "photos").build(), jax.random.key(5), (0.01, 0.2)
    params, tasks = problem.init(jax.random.key(1)), jnp.arange(3)
    trials = jax.jit(partial(try_rates, problem))(params, tasks, jnp.zeros(3, int), jnp.asarray(rates), key)
    for place, rate in enumerate(rates):
        trained = MODELS[name](tmp_path / "photos")
        learner = replace(trained, inner_optimizer="sgd", inner_rate=rate).build().learner
        for task, (episode_key, adapt_key) in enumerate(episode_keys(range(3), key)):
            episode = problem.splits.validation.episode(jnp.asarray(task), episode_key)
            path = fast_path(learner, plain(params.theta), episode.support, adapt_key, 2)
            losses = [learner.loss(one(path, step), episode.query, adapt_key) for step in (0, 2)]
            assert_close([trials.before[task], trials.after[task, place]], losses, 1e-4)


def test_the_command_prints_a_table_or_one_json_object_draws_and_trains_nothing(command, tmp_path):
    code, out, err = command("train", "sine", *TINY, "--preset", "paper", "--find-rate", "--seed", "1")
    assert code == 0, err
    assert "trying 21 inner rates on 100 meta-validation tasks" in err
    assert [path.name for path in tmp_path.iterdir()] == ["rates.png"]
    code, printed, _ = command(
        "train", "sine", *TINY, "--preset", "paper", "--find-rate", "--seed", "1", "--json", "--out", "a/b"
    )
    found = json.loads(printed, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert code == 0 and printed.count("\n") == 1
    best = found["recommended"]
    command_line = f"train sine --preset paper --seed 1 --adaptation-steps 2 --hidden 8 --inner-rate {best:g}"
    assert found["command"].endswith(command_line) and f"go on with: {found['command']}\n" in out
    assert f"recommended: --inner-rate {best:g}" in out
    assert all(f"{rate:g} │" in out for rate in RATES) and max(map(len, out.splitlines())) <= 128
    assert found["picture"] == "a/b/rates.png"
    for path in ("rates.png", "a/b/rates.png"):
        with Image.open(path) as picture:
            picture.verify()


def test_of_a_table_whose_adapter_is_chosen_the_gradient_steps_are_tried(command):
    unit_rows().write_csv("units.csv")
    code, out, err = command("train", "table", *TABLE, "--shots", "5", "--find-rate", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["tasks"], found["episodes"]) == (2, 20)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sine", "--dry-run"], "does not go with --dry-run"),
        (["sine", "--adapter", "bayes-head"], "no inner rate"),
        (["sine", "--adaptation-steps", "0"], "no inner rate"),
        (["sine", "--adapt", "nonsense"], "nonsense"),
        (["sine", "--out", "file"], "--out file cannot be written to"),
        (["sine", "--out", "file/folder"], "--out file/folder cannot be written to"),
        (["table", "--data", "absent.csv", "--task", "unit", "--inputs", "day", "--target", "flow"], "absent.csv"),
    ],
)
def test_bad_input_exits_with_2_and_writes_nothing(command, tmp_path, words, expected):
    (tmp_path / "file").write_text("mine")
    out = [] if "--out" in words else ["--out", "new"]
    code, printed, err = command("train", words[0], "--find-rate", *words[1:], *out)
    assert (code, printed) == (2, "")
    assert expected in err and "trying" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "mine"


def test_a_picture_that_cannot_be_written_is_said(command, tmp_path):
    (tmp_path / "rates.png").mkdir()
    code, _, err = command("train", "sine", *TINY, "--find-rate")
    assert code == 2 and "rates.png cannot be written" in err


def found_on(medians, diverges_on, before=4.0):
    """What would have been found, with a mean of twice the median; None is a loss without end."""
    fine = [loss for loss, share in zip(medians, diverges_on, strict=True) if share <= 0.01]
    return {
        "problem": "bowls",
        "tasks": 30,
        "adaptation_steps": 5,
        "before": {"median": before, "mean": 2 * before},
        "rates": list(RATES[-len(medians) :]),
        "median": medians,
        "mean": [loss and 2 * loss for loss in medians],
        "diverges_on": diverges_on,
        "recommended": RATES[medians.index(min(fine)) - len(medians)] if fine else None,
        "diverges_from": next((r for r, s in zip(RATES[-len(medians) :], diverges_on, strict=True) if s > 0.01), None),
    }


@pytest.mark.parametrize(
    ("medians", "diverges_on", "before"),
    [
        ([3.9, 3.0, 1.0, 0.2, 50.0, 1e30, None], [0, 0, 0, 0, 0.3, 1, 1], 4.0),
        ([3.9, 3.5, 3.0, 2.5, 1.0], [0] * 5, 4.0),
        ([3.0, 3.9, 3.95], [0] * 3, 4.0),
        ([None, None], [1, 1], 4.0),
        ([-1.0, -2.0, -3.0, 100.0], [0, 0, 0, 1], -0.9),
    ],
)
def test_the_picture_shows_what_does_not_diverge_and_the_loss_before_legibly(medians, diverges_on, before):
    matplotlib.use("agg")
    found = found_on(medians, diverges_on, before)
    figure = rates_picture(found)
    figure.canvas.draw()
    axis = figure.axes[0]
    low, high = axis.get_ylim()
    shown = [loss for loss, share in zip(medians, diverges_on, strict=True) if share <= 0.01] + [before]
    assert low < min(shown) and max(shown) < high < 10 * max(4, abs(before))
    drawn = {line.get_label(): line.get_ydata() for line in axis.lines}
    np.testing.assert_allclose([drawn["after (median)"][medians.index(loss)] for loss in shown[:-1]], shown[:-1])
    assert all(np.isfinite(values).all() for values in drawn.values())
    shaded = [patch.get_x() for patch in axis.patches]
    assert shaded == ([] if found["diverges_from"] is None else [found["diverges_from"]])
    texts = [*axis.texts, axis.title, axis.xaxis.label, *axis.get_xticklabels(), *figure.legends[0].get_texts()]
    low_x, high_x = axis.get_xlim()
    ticks = [label for label in axis.get_xticklabels() if not low_x <= label.get_position()[0] <= high_x]
    texts = [text for text in texts if text.get_text() and text not in ticks]
    assert_legible(figure, [(text.get_text(), text.get_window_extent()) for text in texts])
    matplotlib.pyplot.close(figure)
