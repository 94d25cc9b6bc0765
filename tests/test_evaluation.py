"""Figures on held-out tasks, their intervals, and the pictures drawn from them. Place: training/evaluate.py, plots.py."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from known import KEY, bowl_closed_form, bowl_loss, bowl_problem, draw_bowls, plain
from PIL import Image

from fewstep import BadInput, Learner, plots
from fewstep.problem import Splits
from fewstep.tasks.family import TaskFamily
from fewstep.training.evaluate import evaluate, task_errors

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


def write_run(directory, records, evaluation=None):
    (directory / "config.json").write_text("{}")
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
    with pytest.raises(BadInput, match=r"no config\.json"):
        plots.draw(tmp_path)
    assert not (tmp_path / "plots").exists()
    write_run(tmp_path, [{"meta_step": 10, "meta_loss": 1.0}])
    (tmp_path / "evaluation.json").write_text('{"steps": [0, 1')
    with pytest.raises(BadInput, match=r"evaluation\.json"):
        plots.draw(tmp_path)
