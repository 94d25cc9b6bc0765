"""Figures on held-out tasks, their intervals, and what pictures are drawn from. Place: training/evaluate, report; plots."""

import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from known import KEY, bowl_closed_form, bowl_loss, bowl_problem, draw_bowls, fast_path, plain, unit_rows
from PIL import Image

from fewstep import Examples, InputError, Learner, plots
from fewstep.application import LAYOUT
from fewstep.apps.tables.settings import Table
from fewstep.core.problem import Splits
from fewstep.core.tasks import TaskFamily
from fewstep.supervised import fit
from fewstep.supervised.conformal import LEVELS
from fewstep.supervised.evaluate import evaluate, task_errors
from fewstep.supervised.report import illustrations, report_by_shots
from fewstep.variants import safe_steps

THETA = jnp.array([1.0, -2.0, 0.5])


def still_problem(count=20):
    """Bowls whose episodes do not depend on the key: every draw of a task is the same."""
    family = TaskFamily(lambda task, key: draw_bowls(task, KEY), count)
    return bowl_problem(splits=Splits(family, family, family))


def by_hand(problem, tasks, steps):
    """Query losses [tasks, steps] in closed form."""
    errors = np.zeros((tasks, len(steps)))
    for task in range(tasks):
        episode = problem.splits.test.episode(task, KEY)
        for column, count in enumerate(steps):
            adapted, _, _ = bowl_closed_form(THETA, episode, 0.1, count)
            away = adapted - np.asarray(episode.query.center)
            errors[task, column] = 0.5 * away @ np.asarray(episode.query.matrix) @ away
    return errors


@pytest.mark.parametrize("draws", [1, 3])
def test_an_evaluation_equals_a_python_loop_and_its_interval_is_over_tasks_and_not_over_draws(draws):
    steps, problem = [0, 1, 5, 10], still_problem()
    result = evaluate(problem, plain(THETA), steps=steps, tasks=20, draws=draws)
    errors = by_hand(problem, 20, steps)
    np.testing.assert_allclose(result["mean"], errors.mean(0), rtol=1e-5)
    np.testing.assert_allclose(result["query_loss"]["mean"], errors.mean(0), rtol=1e-5)
    low, high = scipy.stats.t.interval(0.95, df=19, loc=errors.mean(0), scale=scipy.stats.sem(errors))
    np.testing.assert_allclose(result["ci95"], (high - low) / 2, rtol=1e-4)
    assert (result["tasks"], result["steps"], result["metric"], result["split"]) == (20, steps, "height", "test")
    assert result["protocol"]["episodes_per_task"] == draws
    assert result["diverged"] == [0, 0, 0, 0]


def test_draws_are_averaged_within_a_task_before_tasks_are_compared():
    problem, steps = bowl_problem(), [0, 2]
    compiled = jax.jit(lambda draws_key: task_errors(problem, plain(THETA), problem.splits.test, jnp.arange(4), steps, KEY, 6))
    errors = compiled(KEY)
    for task in range(4):
        figures = []
        for key in jax.random.split(jax.random.fold_in(KEY, task), 6):
            episode = problem.splits.test.episode(jnp.asarray(task), jax.random.split(key)[0])
            for count in steps:
                adapted, _, _ = bowl_closed_form(THETA, episode, 0.1, count)
                figures.append(float(bowl_loss(jnp.asarray(adapted, jnp.float32), episode.query, KEY)))
        expected = np.reshape(figures, (6, 2)).mean(0)
        np.testing.assert_allclose(errors.query_loss[task], expected, rtol=1e-5)


def test_the_figure_of_a_task_does_not_depend_on_how_many_tasks_are_asked_for():
    problem = bowl_problem()
    family = TaskFamily(draw_bowls)
    few, many = (
        jax.jit(lambda count=count: task_errors(problem, plain(THETA), family, jnp.arange(count), [0, 2], KEY))()
        for count in (3, 300)
    )
    np.testing.assert_allclose(few.query_loss, many.query_loss[:3], rtol=1e-5)
    np.testing.assert_allclose(few.metrics["height"], many.metrics["height"][:3], rtol=1e-5)
    assert np.unique(many.query_loss[:, 1]).size == 300


def test_the_order_and_choice_of_steps_does_not_change_their_figures():
    problem = still_problem()
    straight = evaluate(problem, plain(THETA), steps=[0, 1, 5], tasks=5)
    mixed = evaluate(problem, plain(THETA), steps=[5, 0], tasks=5)
    np.testing.assert_allclose(mixed["mean"], [straight["mean"][2], straight["mean"][0]], rtol=1e-6)
    zero = evaluate(problem, plain(THETA), steps=[0], tasks=5)
    np.testing.assert_allclose(zero["mean"], straight["mean"][:1], rtol=1e-6)


def test_no_more_tasks_are_counted_than_there_are_and_one_task_has_no_interval():
    problem = still_problem(3)
    assert evaluate(problem, plain(THETA), steps=[0], tasks=1000)["tasks"] == 3
    single = evaluate(problem, plain(THETA), steps=[0], tasks=1)
    assert single["ci95"] == [None]
    np.testing.assert_allclose(single["mean"], by_hand(problem, 1, [0]).mean(0), rtol=1e-5)


def test_tasks_that_diverge_are_counted_and_leave_no_number_that_json_lacks():
    problem = bowl_problem(learner=Learner(bowl_loss, optax.sgd(1e25), 1))
    result = evaluate(problem, plain(THETA), steps=[0, 3], tasks=7)
    assert result["diverged"] == [0, 7]
    assert result["mean"][1] is None
    assert result["mean"][0] > 0
    json.dumps(result, allow_nan=False)


STEPS = 2


@pytest.fixture(scope="module", params=["gradient", "bayes-head"])
def table(request, tmp_path_factory):
    """30 units of 8 to 12 rows, not trained, and meta-parameters: (problem, params)."""
    path = tmp_path_factory.mktemp("units") / "units.csv"
    unit_rows(units=30, rows=[8 + unit % 5 for unit in range(30)]).write_csv(path)
    problem = Table(
        data=str(path),
        task="unit",
        inputs=("day", "depth"),
        target=("flow",),
        adapter=request.param,
        shots=4,
        queries=4,
        hidden=(4,),
        adaptation_steps=STEPS,
        inner_optimizer="sgd",
        inner_rate=0.1,
        multi_step=0.0,
    ).build(0)
    return problem, problem.init(jax.random.key(1))


def squared_error(problem, theta, examples):
    """Mean over the rows that count, in the squared units of the target."""
    miss = np.asarray(problem.predict(theta, examples.inputs) - examples.targets, np.float64)[:, 0] * problem.format.units[0]
    return float(np.average(miss**2, weights=examples.weight))


def measured_by_hand(problem, params, episode, key):
    """Errors on the query set before adaptation, after the trained steps, and after the steps that NumPy chooses."""
    trained = problem.learner.adaptation_steps
    rows = np.flatnonzero(episode.support.weight)
    support = Examples(*(leaf[rows] for leaf in episode.support))
    left_out = np.zeros((trained + 1, rows.size))
    for row in range(rows.size):
        rest = Examples(*(np.delete(leaf, row, axis=0) for leaf in support))
        alone = Examples(*(leaf[row : row + 1] for leaf in support))
        path = fast_path(problem.learner, params, rest, key, trained)
        for step in range(trained + 1):
            left_out[step, row] = squared_error(problem, jax.tree.map(lambda leaf, step=step: leaf[step], path), alone)
    best = int(left_out.mean(1).argmin())
    gain = left_out[0] - left_out[best]
    margin = inspect.signature(safe_steps).parameters["margin"].default
    chosen = best if gain.mean() > margin * gain.std(ddof=1) / np.sqrt(rows.size) else 0
    path = fast_path(problem.learner, params, support, key, trained)
    points = [jax.tree.map(lambda leaf, step=step: leaf[step], path) for step in (0, trained, chosen)]
    return [squared_error(problem, theta, episode.query) for theta in points]


def test_auto_is_the_number_of_steps_that_leaving_out_rows_calls_for(table):
    problem, params = table
    trained = problem.learner.adaptation_steps
    result = evaluate(problem, params, steps=[0, trained, "auto"], tasks=5, seed=0)
    expected = []
    for task in range(5):
        episode_key, adapt_key = jax.random.split(jax.random.split(jax.random.fold_in(jax.random.key(0), task), 1)[0])
        episode = problem.splits.test.episode(jnp.asarray(task), episode_key)
        expected.append(measured_by_hand(problem, params, episode, adapt_key))
    assert result["steps"] == [0, trained, "auto"]
    np.testing.assert_allclose(result["mean"], np.mean(expected, axis=0), rtol=1e-4)
    by_task = list(result["by_task"].values())
    np.testing.assert_allclose(by_task, expected, rtol=1e-4)


def by_level(factor):
    """A calibration that knows one number of shots, and an interval for each level up to 90 %."""
    factors = [factor * level / 90 if level <= 90 else None for level in LEVELS]
    return {"tasks": 17, "by_shots": [{"shots": 4, "trained": {"factors": [factors]}, "auto": {"factors": [factors]}}]}


def test_figures_by_number_of_shots_equal_adapting_to_one_episode_after_the_other(table, monkeypatch):
    monkeypatch.setattr(fit, "MOST_DRAWS", 1)
    problem, params = table
    result = report_by_shots(problem, params, by_level(2.0), 90)
    assert result["shots"] == list(problem.shot_counts) == [1, 2, 4, 8]
    family = problem.splits.test
    for place, shots in enumerate(result["shots"]):
        long_enough = [task for task in range(family.size) if family.lengths[task] > shots]
        assert result["tasks"][place] == len(long_enough) >= 3
        if shots not in (4, 8):  # one within the room of the trained number, one beyond it
            continue
        roomy, errors, covered, width = family.resized(shots), [], [], []
        for task in long_enough:
            keys = jax.random.split(jax.random.fold_in(jax.random.key(3), task), (1, 2))[0]
            episode = roomy.episode(jnp.asarray(task), keys[0], shots)
            assert episode.support.weight.sum() == shots
            errors.append(measured_by_hand(problem, params, episode, keys[1]))
            if problem.deviation is not None:
                adapted = jax.tree.map(lambda leaf: leaf[-1], fast_path(problem.learner, params, episode.support, keys[1]))
                real = np.asarray(episode.query.weight) > 0
                half = 2.0 * np.asarray(problem.deviation(adapted, episode.query.inputs))[real, 0]
                miss = np.abs(problem.predict(adapted, episode.query.inputs) - episode.query.targets)[real, 0]
                covered.append(np.mean(miss <= half))
                width.append(np.mean(2 * half) * problem.format.units[0])
        found = [result[name][place] for name in ("before", "mean", "auto")]
        np.testing.assert_allclose(found, np.mean(errors, axis=0), rtol=1e-3)
        spread = scipy.stats.sem(np.array(errors)[:, 1]) * scipy.stats.t.ppf(0.975, len(errors) - 1)
        np.testing.assert_allclose(result["ci95"][place], spread, rtol=1e-3)
        if covered:
            intervals = result["intervals"][place]
            assert (intervals["level"], intervals["calibrated_on"]) == (90, 17)
            np.testing.assert_allclose(intervals["coverage"], [np.mean(covered)], rtol=1e-6)
            np.testing.assert_allclose(intervals["width"], [np.mean(width)], rtol=1e-4)


def test_without_a_level_that_the_calibration_allows_no_coverage_is_claimed(table):
    problem, params = table
    for calibration, level in (({"tasks": 0, "by_shots": []}, None), (by_level(1.0), 95), ({"tasks": 0, "by_shots": []}, 90)):
        assert report_by_shots(problem, params, calibration, level)["intervals"] == [None] * 4


def test_an_illustration_shows_what_adapting_to_its_rows_predicts_and_a_band_of_so_many_deviations(table):
    problem, params = table
    drawn = illustrations(problem, params, [0, "auto", 1], count=2, half_width=lambda rows: [3.0 + rows])
    assert drawn["steps"] == [0, 1]  # auto is no one number of steps
    for number, shown in enumerate(drawn["tasks"]):
        known = problem.illustrate(number)
        path = fast_path(problem.learner, params, known.support, jax.random.key(0), 1)
        predictions = [problem.predict(jax.tree.map(lambda leaf, k=k: leaf[k], path), known.inputs)[:, 0] for k in (0, 1)]
        for found, standardized in zip(shown["predictions"], predictions, strict=True):
            np.testing.assert_allclose(found, problem.format.restore(np.asarray(standardized)[:, None])[:, 0], rtol=1e-5)
        if problem.learner.adaptation_steps == 1:
            theta = jax.tree.map(lambda leaf: leaf[1], path)
            half = 7.0 * np.asarray(problem.deviation(theta, known.inputs))[:, 0] * problem.format.units[0]
            np.testing.assert_allclose(np.subtract(shown["upper"], shown["lower"]), 2 * half, rtol=1e-3)
        else:  # the trained steps are not among those shown
            assert "upper" not in shown


def test_auto_alone_is_drawn_as_the_steps_it_chooses_among(table):
    problem, params = table
    drawn = illustrations(problem, params, ["auto"], count=1)
    assert drawn["steps"] == [0, problem.learner.adaptation_steps]


def write_run(directory, records, evaluation=None):
    config = {"layout": LAYOUT, "application": "sine", "problem": "sine", "preset": "default", "settings": {}, "seed": 0}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if evaluation is not None:
        (directory / "evaluation.json").write_text(json.dumps(evaluation))


def test_pictures_are_drawn_from_whatever_files_a_run_has(tmp_path):
    records = [{"meta_step": 10 * n, "meta_loss": 3 / n, "gradient_norm": 1.0, "outer_rate": 0.1} for n in (1, 2, 3)]
    write_run(tmp_path, records)
    assert [path.name for path in plots.draw(tmp_path)] == ["training.png"]
    records[1]["validation"] = 0.5
    write_run(tmp_path, records, evaluate(bowl_problem(), plain(THETA), steps=[0, 1, 5], tasks=6))
    assert [path.name for path in plots.draw(tmp_path)] == ["training.png", "adaptation.png"]
    for path in (tmp_path / "plots").iterdir():
        with Image.open(path) as picture:
            picture.verify()
            assert min(picture.size) > 300
    assert len(np.unique(np.asarray(Image.open(tmp_path / "plots" / "adaptation.png").convert("L")))) > 10


def test_pictures_survive_figures_that_diverged_or_are_constant(tmp_path):
    problem = bowl_problem(learner=Learner(bowl_loss, optax.sgd(1e25), 1))
    flat = [{"meta_step": n, "meta_loss": 0.0, "validation": 0.0, "gradient_norm": 0.0, "outer_rate": 0.0} for n in (1, 2)]
    for steps in ([0, 3], [3]):
        write_run(tmp_path, flat, evaluate(problem, plain(THETA), steps=steps, tasks=3))
        assert (tmp_path / "plots" / "training.png") in plots.draw(tmp_path)


def test_a_log_cut_short_by_a_crash_is_still_drawn(tmp_path):
    write_run(tmp_path, [{"meta_step": 10, "meta_loss": 1.0}, {"meta_step": 20, "meta_loss": 0.5}])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"meta_step": 30, "meta')
    assert [path.name for path in plots.draw(tmp_path)] == ["training.png"]


def test_pictures_of_no_run_or_of_damaged_figures_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"without config\.json"):
        plots.draw(tmp_path)
    assert not (tmp_path / "plots").exists()
    write_run(tmp_path, [{"meta_step": 10, "meta_loss": 1.0}])
    (tmp_path / "evaluation.json").write_text('{"steps": [0, 1')
    with pytest.raises(InputError, match=r"evaluation\.json"):
        plots.draw(tmp_path)
