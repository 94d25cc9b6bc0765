"""Each method of a comparison is what it says: against scikit-learn, loops, closed forms and finite differences.

Place: fewstep/compare/methods, fewstep/compare/episodes.py.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known import KEY
from PIL import Image

from fewstep import Episode, Examples, InputError, adapt
from fewstep.application import applications
from fewstep.apps.images.compare import make_image_benchmark
from fewstep.apps.images.problem import Images
from fewstep.apps.sine.settings import Sine
from fewstep.compare.episodes import Benchmark, episode_errors, make_benchmark
from fewstep.compare.methods import Work, classical, gaussian_process, learned, mixed_effects, networks
from fewstep.supervised.classical import described, with_gaps

TINY = Sine(hidden=(8,), meta_steps=6, log_every=3, meta_batch_size=3, adaptation_steps=2, shots=5, queries=6)


@pytest.fixture(scope="module")
def sine() -> Benchmark:
    found = make_benchmark(TINY, seed=3)
    few = {split: replace(getattr(found, split), names=("a", "b", "c"), draws=2, _cache=[]) for split in ("validation", "test")}
    return replace(found, **few)


def work(benchmark, **choice):
    return Work(benchmark, choice, 0, Path("nowhere"))


def some_episodes(tasks=4, rows=7, padding=2, asked=5, features=2, outputs=1, seed=0):
    rng = np.random.default_rng(seed)
    weight = np.ones((tasks, rows + padding))
    weight[:, rows:] = 0
    support = Examples(
        rng.normal(size=(tasks, rows + padding, features)), rng.normal(size=(tasks, rows + padding, outputs)), weight
    )
    query = Examples(
        rng.normal(size=(tasks, asked, features)), rng.normal(size=(tasks, asked, outputs)), np.ones((tasks, asked))
    )
    return Episode(support, query)


def test_images_are_compared_by_as_many_shots_as_their_episodes_have_room_for(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for name in range(12):
        (tmp_path / "data" / str(name)).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / "data" / str(name) / f"{number}.png")
    found = make_image_benchmark(Images(data=str(tmp_path / "data"), size=8, ways=2, shots=5, queries=1), 0)
    assert found.shot_counts == (1, 2, 5)
    one_task = {"names": ("a",), "_cache": []}
    usual, two = (next(iter(replace(held, **one_task).parts())) for held in (found.test, found.at_shots(2)))
    np.testing.assert_array_equal(two.support.weight, [[1, 1, 0, 0, 0] * 2])
    np.testing.assert_array_equal(two.query.inputs, usual.query.inputs)


def test_the_ridge_method_is_that_of_scikit_learn_around_the_mean_of_all_tasks(sine):
    linear_model = pytest.importorskip("sklearn.linear_model")
    episodes = next(iter(sine.test.parts()))
    outputs = networks.fit_ridge(work(sine, ridge=0.7)).predict(episodes)
    mean = np.asarray(sine.rows.targets, np.float64).mean()
    for number in range(len(outputs)):
        support, query = (jax.tree.map(lambda leaf, n=number: np.asarray(leaf[n], np.float64), part) for part in episodes)
        known = support.weight > 0
        x = np.concatenate([support.inputs, np.ones((len(known), 1))], 1)[known]
        ridge = linear_model.Ridge(alpha=0.7, fit_intercept=False).fit(x, support.targets[known, 0] - mean)
        expected = mean + ridge.predict(np.concatenate([query.inputs, np.ones((len(query.inputs), 1))], 1))
        np.testing.assert_allclose(outputs[number, :, 0], expected, atol=2e-4)


def test_the_prior_method_says_the_mean_of_all_tasks_and_errs_by_one_variance(sine):
    outputs = learned.PRIOR.fit(work(sine)).predict(next(iter(sine.test.parts())))
    rows = np.asarray(sine.rows.targets, np.float64)
    np.testing.assert_allclose(outputs, rows.mean(), rtol=1e-5)
    flat = Examples(rows[None], rows[None], np.ones((1, len(rows))))
    np.testing.assert_allclose(episode_errors(np.full((1, *rows.shape), rows.mean()), flat, sine.unit, False), 1.0)


@pytest.mark.parametrize("moved", [("all",), ("head",)], ids=["all of it", "its head"])
def test_a_network_is_adapted_as_by_the_core_whatever_the_number_of_steps(sine, moved):
    problem = replace(TINY, adapt=moved).build(3)
    params = problem.init(KEY)
    ask, episodes = networks.predictor(problem), next(iter(sine.test.parts()))
    for steps in (0, 1, 3):
        outputs = ask(params, episodes, steps)
        for number in (0, 4):
            support, query = (jax.tree.map(lambda leaf, n=number: leaf[n], part) for part in episodes)
            adapted = adapt(problem.learner, params, support, KEY, steps)
            np.testing.assert_allclose(outputs[number], problem.predict(adapted, query.inputs), atol=1e-5)


def test_held_out_episodes_are_the_same_for_whoever_asks(sine):
    again = replace(sine.test, _cache=[])
    once, twice, anew = (list(held.parts()) for held in (sine.test, sine.test, again))
    for left, right in ((once, twice), (once, anew)):
        assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), left, right))
    different = next(iter(replace(sine.test, seed=99, _cache=[]).parts()))
    assert not jnp.array_equal(different.support.inputs, once[0].support.inputs)


def test_a_task_is_the_mean_over_its_episodes_and_not_a_number_where_one_diverged(sine):
    errors = np.array([1.0, 3.0, 2.0, np.inf, 5.0, 7.0, 100.0])  # the last fills up
    np.testing.assert_array_equal(sine.test.by_task(errors), [2.0, np.nan, 6.0])


def test_errors_count_rows_by_weight_and_classes_by_the_likeliest():
    outputs = np.array([[[0.2, 0.8], [0.9, 0.1], [0.3, 0.7], [0.0, 1.0]]])
    targets = np.array([[[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]])
    query = Examples(None, targets, np.array([[1.0, 1.0, 1.0, 0.0]]))
    np.testing.assert_allclose(episode_errors(outputs, query, np.ones(2), classes=True), [1 / 3])
    unit = np.array([2.0, 4.0])
    squares = np.mean(np.square(outputs - targets)[0, :3] / unit)
    np.testing.assert_allclose(episode_errors(outputs, query, unit, classes=False), [squares])


def episodes_with_gaps(outputs=2, **sizes):
    """Rows that lack some of their targets: the gaps hold absurd numbers."""
    found = some_episodes(outputs=outputs, **sizes)
    rng, parts = np.random.default_rng(7), []
    for part in found:
        weight = np.asarray(part.weight)[..., None] * (rng.random(part.targets.shape) < 0.7)
        weight[:, :2] = [[1, 0], [0, 1]]
        parts.append(Examples(part.inputs, np.where(weight > 0, part.targets, 1e3), weight))
    return Episode(*parts)


def of_target(part, task, output):
    """(inputs, targets) of the rows of a task that have this target."""
    own = part.weight[task, :, output] > 0
    return part.inputs[task][own], part.targets[task][own, output]


def test_errors_are_means_over_known_targets():
    query = episodes_with_gaps().query
    outputs, unit = np.random.default_rng(3).normal(size=query.targets.shape), np.array([2.0, 4.0])
    for task, found in enumerate(episode_errors(outputs, query, unit, classes=False)):
        squares = np.square(outputs[task] - query.targets[task]) / unit
        np.testing.assert_allclose(found, squares[query.weight[task] > 0].mean())


def test_per_task_estimators_and_trees_know_of_each_target_the_rows_that_have_it():
    linear_model = pytest.importorskip("sklearn.linear_model")
    episodes = episodes_with_gaps()
    answers = classical.per_task(lambda: linear_model.Ridge(alpha=0.3), classes=False).predict(episodes)
    described = classical.described(episodes)
    for output in range(2):
        for task in range(4):
            expected = linear_model.Ridge(alpha=0.3).fit(*of_target(episodes.support, task, output))
            np.testing.assert_allclose(answers[task, :, output], expected.predict(episodes.query.inputs[task]))
            x, y = (leaf[None] for leaf in of_target(episodes.support, task, output))
            alone = Examples(x, y[..., None], np.ones(y.shape))
            own = classical.described(Episode(alone, jax.tree.map(lambda leaf, task=task: leaf[[task]], episodes.query)))
            width = own.shape[-1] - 2  # what is said beside the two inputs
            np.testing.assert_allclose(described[task, :, 2 + output * width :][:, :width], own[0, :, 2:], atol=1e-9)


def test_a_process_and_a_mixed_model_know_of_each_target_the_rows_that_have_it():
    episodes, rng = episodes_with_gaps(tasks=3), np.random.default_rng(4)
    support, numbers = episodes.support, np.array([-0.3, 0.2, -0.7, 0.1, 0.5])
    value, slope = gaussian_process.surprise(numbers, support.inputs, support.targets, support.weight)
    each = [
        gaussian_process.surprise(numbers, x[None], y[None, :, None], np.ones((1, len(y))))
        for x, y in (of_target(support, task, output) for task in range(3) for output in range(2))
    ]
    np.testing.assert_allclose(value, sum(one for one, _ in each), rtol=1e-9)
    np.testing.assert_allclose(slope, np.sum([one for _, one in each], 0), rtol=1e-7)
    benchmark = SimpleNamespace(
        rows=Examples(support.inputs.reshape(-1, 2), None, None),
        targets=with_gaps(support.targets, support.weight).reshape(-1, 2),
        settings=Sine(),
        episodes=lambda count, draw: episodes,
    )
    found = gaussian_process.linear_mean(benchmark, linear=True)  # type: ignore[arg-type]
    for output in range(2):
        known = ~np.isnan(benchmark.targets[:, output])
        design = gaussian_process.with_one(benchmark.rows.inputs[known])
        expected = np.linalg.lstsq(design, benchmark.targets[known, output], rcond=None)[0]
        np.testing.assert_allclose(found[:, output], expected, rtol=1e-4)
    method = gaussian_process.fit_gaussian(work(benchmark, mean="constant"))  # type: ignore[arg-type]
    other = np.where(support.weight > 0, support.targets, rng.normal(size=support.targets.shape))
    wild = Examples(support.inputs, other, support.weight)
    np.testing.assert_allclose(method.predict(Episode(wild, episodes.query)), method.predict(episodes), rtol=1e-9)


def test_per_task_estimators_are_fitted_to_the_rows_that_count():
    linear_model = pytest.importorskip("sklearn.linear_model")
    episodes = some_episodes(outputs=2)
    answers = classical.per_task(lambda: linear_model.Ridge(alpha=0.3), classes=False).predict(episodes)
    for number in range(4):
        x, y = (np.asarray(leaf[number])[:7] for leaf in episodes.support[:2])
        expected = linear_model.Ridge(alpha=0.3).fit(x, y).predict(episodes.query.inputs[number])
        np.testing.assert_allclose(answers[number], expected)


def test_per_task_classifiers_know_classes_that_a_task_does_not_show():
    neighbors = pytest.importorskip("sklearn.neighbors")
    episodes = some_episodes(tasks=2, outputs=3)
    label = np.array([[0, 2, 2, 0, 2, 0, 0, 1, 1], [1] * 9])
    support = episodes.support._replace(targets=np.eye(3)[label])
    make = lambda: neighbors.KNeighborsClassifier(n_neighbors=1)  # noqa: E731
    answers = classical.per_task(make, classes=True).predict(Episode(support, episodes.query))
    away = np.square(episodes.query.inputs[0][:, None] - episodes.support.inputs[0][None, :7]).sum(-1)
    np.testing.assert_array_equal(answers[0].argmax(-1), label[0][away.argmin(1)])
    np.testing.assert_array_equal(answers[1], np.tile([0.0, 1.0, 0.0], (5, 1)))


def test_the_nearest_image_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    images, asked = rng.normal(size=(2, 6, 3, 3, 1)).astype(np.float32), rng.normal(size=(2, 4, 3, 3, 1)).astype(np.float32)
    targets = np.eye(3)[np.tile([0, 1, 2], (2, 2))]
    weight = np.array([[1, 1, 1, 0, 1, 1.0]] * 2)
    episodes = Episode(Examples(images, targets, weight), Examples(asked, np.zeros((2, 4, 3)), np.ones((2, 4))))
    predict = classical.fit_nearest(work(make_benchmark(TINY, 0), none=0)).predict
    answers = predict(episodes)
    for task in range(2):
        for question in range(4):
            away = [
                np.sum((asked[task, question] - image) ** 2) if weight[task, i] else np.inf
                for i, image in enumerate(images[task])
            ]
            np.testing.assert_array_equal(answers[task, question], targets[task, int(np.argmin(away))])


def test_the_gradient_of_a_process_is_that_of_finite_differences():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(3, 6, 2)), rng.normal(size=(3, 6, 2))
    weight = np.array([[1] * 6, [1] * 4 + [0] * 2, [1] * 6])
    numbers = np.array([-0.3, 0.2, -0.7, 0.1, 0.5])
    gradient = gaussian_process.surprise(numbers, x, y, weight)[1]
    step = 1e-5
    for place in range(numbers.size):
        shift = step * np.eye(numbers.size)[place]
        slope = (
            (
                gaussian_process.surprise(numbers + shift, x, y, weight)[0]
                - gaussian_process.surprise(numbers - shift, x, y, weight)[0]
            )
            / 2
            / step
        )
        np.testing.assert_allclose(gradient[place], slope, rtol=1e-5, atol=1e-6)


def test_the_likelihood_of_a_process_is_that_of_scikit_learn_and_padding_says_nothing():
    process = pytest.importorskip("sklearn.gaussian_process")
    kernels = process.kernels
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 6, 2)), rng.normal(size=(2, 6, 1))
    weight = np.array([[1] * 6, [1] * 4 + [0] * 2])
    numbers = np.array([-0.3, 0.2, -0.7, 0.1, 0.5])
    a, b, noise = np.exp(2 * numbers[:3])
    kernel = (
        kernels.ConstantKernel(a)
        + b * kernels.RBF(np.exp(numbers[3:]))
        + kernels.WhiteKernel(noise + gaussian_process.LEAST_NOISE)
    )
    expected = 0.0
    for task, rows in enumerate((6, 4)):
        fitted = process.GaussianProcessRegressor(kernel, alpha=0, optimizer=None).fit(x[task, :rows], y[task, :rows, 0])
        expected -= fitted.log_marginal_likelihood_value_ + 0.5 * rows * np.log(2 * np.pi)
    np.testing.assert_allclose(gaussian_process.surprise(numbers, x, y, weight)[0], expected, rtol=1e-9)


def test_a_process_fitted_on_waves_predicts_waves(sine):
    error = sine.errors(gaussian_process.fit_gaussian(work(sine, mean="constant")).predict, "test").mean()
    assert error < 0.3 * sine.errors(learned.PRIOR.fit(work(sine)).predict, "test").mean()


def test_random_effects_are_those_of_hendersons_equations():
    rng = np.random.default_rng(2)
    spread = np.array([[0.5, 0.1], [0.1, 0.3]])
    model = mixed_effects.Mixed(np.array([0.4, -0.2, 1.0]), spread, 0.25, np.array([0, 2]))
    x, y, asked = rng.normal(size=(5, 2)), rng.normal(size=5), rng.normal(size=(3, 2))
    known, wanted = (np.concatenate([each, np.ones((len(each), 1))], 1) for each in (x, asked))
    z = known[:, [0, 2]]
    own = np.linalg.solve(z.T @ z / 0.25 + np.linalg.inv(spread), z.T @ (y - known @ model.shared) / 0.25)
    np.testing.assert_allclose(model.predict(x, y, asked), wanted @ model.shared + wanted[:, [0, 2]] @ own)


def test_a_mixed_model_finds_the_effects_that_made_the_tasks():
    pytest.importorskip("statsmodels")
    rng = np.random.default_rng(3)
    tasks, rows = 80, 20
    own = rng.normal(size=(tasks, 2)) * [0.8, 0.5]
    x = rng.normal(size=(tasks, rows, 3))
    y = 1.0 + 0.7 * x[..., 2] + own[:, :1] + own[:, 1:] * x[..., 1] + 0.3 * rng.normal(size=(tasks, rows))
    task = np.repeat(np.arange(tasks), rows)
    found = mixed_effects.fit_mixed_model(x.reshape(-1, 3), y.ravel(), task, slopes=1)
    np.testing.assert_array_equal(found.effects, [1, 3])
    np.testing.assert_allclose(np.diag(found.spread), [0.25, 0.64], rtol=0.35)
    np.testing.assert_allclose(found.noise, 0.09, rtol=0.1)
    np.testing.assert_allclose(found.shared[2], 0.7, atol=0.03)


def test_what_trees_see_of_a_support_set_knows_no_padding():
    episodes = some_episodes(features=3)
    cut = jax.tree.map(lambda leaf: leaf[:, :7], episodes.support)
    np.testing.assert_allclose(described(episodes), described(Episode(cut, episodes.query)), atol=1e-9)


def test_boosting_learns_what_the_support_set_says(sine):
    pytest.importorskip("sklearn")
    error = sine.errors(classical.fit_boosting(work(sine, leaves=31)).predict, "test").mean()
    assert error < 0.7 * sine.errors(learned.PRIOR.fit(work(sine)).predict, "test").mean()


def test_joint_training_and_what_follows_it_share_one_network(sine):
    settings, problem = learned.JOINT.problem(sine, {}, 6)
    assert settings.adaptation_steps == problem.learner.adaptation_steps == 0
    base = problem.init(KEY)
    episodes = next(iter(sine.test.parts()))
    joint = networks.predictor(problem)(base, episodes, 0)
    for method, choice in ((learned.JOINT_FINETUNED, {"rate": 0.01, "steps": 0}), (learned.JOINT_RIDGE, {"ridge": 1e9})):
        follower = method.fit(work(sine, **choice)._replace(base=base))
        np.testing.assert_allclose(follower.predict(episodes), joint, atol=1e-4)
    begun = networks.initialized_from(learned.MAML.problem(sine, {}, 6)[1], base).init(jax.random.key(1))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), begun.theta, base.theta))


def test_names_of_methods_are_unique_among_those_of_one_kind():
    for found in applications():
        names = [method.name for method in found.methods]
        assert len(names) == len(set(names))
        assert "prior" in names and "maml" in names
    assert all(method.what.endswith(".") and len(method.title) < 30 for found in applications() for method in found.methods)


def test_a_missing_library_is_said_with_how_to_install_it(sine):
    absent = replace(classical.BOOSTING, needs=("no_such_library", "pip install it"))
    assert absent.absent(sine) == "not installed: pip install it"
    assert classical.few_outputs(sine) == "" == learned.MAML.absent(sine)


def test_settings_of_adaptation_are_refused():
    with pytest.raises(InputError, match="leave --adapt head out"):
        make_benchmark(replace(TINY, adapt=("head",)), 0)


def test_pooled_trees_answer_by_the_question_alone_and_learn_what_all_tasks_share(sine):
    """Of sine waves, whose mean over amplitudes and phases is 0 for every input, there is little that tasks share."""
    pooled = classical.POOLED.fit(work(sine, leaves=8))
    episodes = some_episodes(features=1)
    other = episodes._replace(support=jax.tree.map(lambda leaf: -3.0 * leaf, episodes.support))
    np.testing.assert_array_equal(pooled.predict(episodes), pooled.predict(other))
    assert np.abs(pooled.predict(episodes)).max() < 0.5 * np.abs(np.asarray(sine.rows.targets)).max()
