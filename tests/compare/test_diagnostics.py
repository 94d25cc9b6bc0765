"""Probes of tasks and of adaptation, against closed forms and planted truths. Place: fewstep/compare/probes/."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from fewstep import nn
from fewstep.apps.sine.settings import Sine
from fewstep.compare.diagnostics import measure, probe_all
from fewstep.compare.diagnostics.adaptation import dimension, gains, ladder, layers, shuffled
from fewstep.compare.diagnostics.gradients import coherence, diversity, information, second_order
from fewstep.compare.diagnostics.measure import by_task, effective_rank, flat, jackknife, of_two_tasks, spread_beyond_chance
from fewstep.compare.page import page
from fewstep.core import losses
from fewstep.core.maml import Learner
from fewstep.core.types import Episode, Examples, MetaParams
from fewstep.gradients import first_order, stored

KEY = jax.random.key(0)


def examples(inputs, targets, weight=None):
    """[tasks, rows, ...] of NumPy as examples; one feature and one output where there is no axis for them."""
    inputs, targets = (jnp.asarray(each[..., None] if np.ndim(each) == 2 else each, jnp.float32) for each in (inputs, targets))
    return Examples(inputs, targets, jnp.ones(inputs.shape[:2]) if weight is None else jnp.asarray(weight, jnp.float32))


def linear(params, inputs):
    return inputs @ params["kernel"]


LINEAR = Learner(losses.mean_squared_error(linear), optax.sgd(0.5))


def level_tasks(levels, rows=6):
    """Tasks whose every target is a number of their own: support and query sets are the same."""
    targets = np.broadcast_to(np.asarray(levels)[:, None], (len(levels), rows))
    both = examples(np.ones_like(targets), targets)
    return Episode(both, both)


def noisy_lines(slopes, rows, noise, features=1):
    """y = slope (x₁ + x₂ + …) + noise, of other rows in support and query sets."""
    draw = np.random.default_rng(0)

    def half():
        x = draw.normal(size=(len(slopes), rows, features))
        y = np.asarray(slopes)[:, None, None] * x.sum(axis=2, keepdims=True)
        return examples(x, y + noise * draw.normal(size=y.shape))

    return Episode(half(), half())


def start(value=0.0):
    return MetaParams({"kernel": jnp.full((1, 1), value)})


def test_the_jackknife_of_a_mean_is_students_interval():
    values = np.random.default_rng(0).normal(size=20)
    low, high = stats.t.interval(0.95, 19, values.mean(), values.std(ddof=1) / np.sqrt(20))
    assert jackknife(lambda keep: values[keep].mean(), 20) == pytest.approx((values.mean(), low, high))


def test_the_jackknife_of_a_mean_over_pairs_covers_what_it_is_of():
    """Pairs share tasks: products of independent normals with mean 0.5 have mean 0.25."""
    covered = 0
    for seed in range(200):
        values = np.random.default_rng(seed).normal(0.5, 1.0, size=40)
        products = np.outer(values, values)
        _, low, high = jackknife(lambda keep, products=products: of_two_tasks(products, keep), 40)
        covered += low <= 0.25 <= high
    assert 0.88 <= covered / 200 <= 0.995


def test_tasks_that_are_the_same_to_the_row_are_not_diverse():
    episodes = jax.tree.map(lambda leaf: jnp.repeat(leaf, 8, axis=0), noisy_lines([1.0], 5, 0.3))
    for probe in diversity(LINEAR, start(), episodes, KEY).values():
        assert probe.value == pytest.approx(0, abs=1e-5)


def test_tasks_that_are_the_same_but_for_their_rows_are_not_diverse():
    """At the joint solution gradients of the same task are chance alone, and point in any direction."""
    episodes = noisy_lines([1.0] * 64, rows=10, noise=1.0, features=5)
    for probe in diversity(LINEAR, MetaParams({"kernel": jnp.ones((5, 1))}), episodes, KEY).values():
        assert probe.low is not None and probe.high is not None
        assert probe.low <= 0 <= probe.high


def test_tasks_that_pull_in_opposite_directions_are_as_diverse_as_can_be():
    """Half of the gradients are the others' negatives: of n (n − 1) pairs n (n / 2 − 1) agree and n² / 2 do not."""
    episodes, count = level_tasks([1.0, -1.0] * 5), 10
    found = diversity(LINEAR, start(), episodes, KEY)
    assert found["diversity"].value == pytest.approx(1 + 1 / (count - 1), abs=1e-5)
    pull = coherence(LINEAR, start(), episodes, KEY)
    assert pull["coherence"].value == pytest.approx(-1 / (count - 1), abs=1e-5)
    assert pull["agreement"].value == pytest.approx(1, abs=1e-5)
    assert found["fisher_diversity"].value == pytest.approx(0, abs=1e-5)  # squares know no direction


def test_fisher_information_is_the_mean_square_of_the_gradients_of_rows_that_count():
    draw = np.random.default_rng(0)
    x, y, weight = draw.normal(size=(5, 3)), draw.normal(size=(5, 1)), np.array([1.0, 1.0, 0.0, 1.0, 0.0])
    rows = Examples(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), jnp.asarray(weight, jnp.float32))
    theta = {"kernel": jnp.asarray(draw.normal(size=(3, 1)), jnp.float32)}
    found = information(lambda row: jax.grad(LINEAR.loss)(theta, row, KEY), rows)["kernel"]
    gradients = 2 * (x @ np.asarray(theta["kernel"]) - y) * x
    np.testing.assert_allclose(found[:, 0], np.mean(np.square(gradients[weight > 0]), axis=0), rtol=1e-5)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (3.0, 1.0)])
def test_adaptation_planted_in_two_directions_has_rank_two(a, b):
    """θ′ = θ + (ȳ − θ) / 2 per coordinate; the corners of a rectangle in a plane of six dimensions have eigenvalues a², b²."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0][:2]
    corners = np.array([[a, b], [a, -b], [-a, b], [-a, -b]] * 4) @ basis
    both = examples(np.ones((16, 3, 1)), np.broadcast_to(corners[:, None], (16, 3, 6)))
    learner = replace(LINEAR, inner_optimizer=optax.sgd(1.5))
    found = dimension(learner, MetaParams({"kernel": jnp.zeros((1, 6))}), Episode(both, both), KEY)["dimension"]
    assert found.value == pytest.approx((a**2 + b**2) ** 2 / (a**4 + b**4), rel=1e-4)
    assert dict(found.points)["directions for 99 %"] == 2


def test_models_that_all_adapt_alike_have_no_dimension():
    assert np.isnan(effective_rank(np.ones((4, 4)), np.arange(4)))


def test_what_adaptation_gains_is_the_closed_form_of_a_quadratic():
    """One step of rate α on (θ − y)² leaves (1 − 2 α)² of it. Constant targets are shuffled to themselves."""
    learner = replace(LINEAR, inner_optimizer=optax.sgd(0.25))
    found = gains(learner, start(), level_tasks([1.0, 2.0, -1.0, 3.0]), KEY)
    assert found["gain"].value == pytest.approx(1 - 0.5**2, abs=1e-5)
    assert dict(found["gain"].points)["before adapting"] == pytest.approx(np.mean([1, 4, 1, 9]), rel=1e-5)
    assert found["shuffled_gain"].value == pytest.approx(0.75, abs=1e-5)
    assert "level of a task" in found["shuffled_gain"].says


def test_nothing_is_gained_with_shuffled_targets_where_slopes_are_all_there_is():
    """With inputs of ±1 one step of rate ½ gives θ′ = mean of x y: the slope itself, and after shuffling slope times chance."""
    draw = np.random.default_rng(1)
    x = np.broadcast_to(np.repeat([1.0, -1.0], 8), (64, 16))
    both = examples(x, draw.normal(size=(64, 1)) * x)
    found = gains(LINEAR, start(), Episode(both, both), KEY)
    assert found["gain"].value == pytest.approx(1, abs=1e-5)
    assert -0.3 < found["shuffled_gain"].value < 0.05
    assert found["shuffled_gain"].says.startswith("Nothing")


def test_shuffling_moves_rows_that_count_to_places_of_rows_that_count():
    weight = jnp.asarray([0.0, 1, 1, 0, 1, 1, 1, 1, 1, 0])
    seen = set()
    for seed in range(20):
        order = np.asarray(shuffled(weight, jax.random.key(seed)))
        assert sorted(order) == list(range(10))
        assert all((weight[place] > 0) == (weight[order[place]] > 0) for place in range(10))
        seen.add(tuple(order))
    assert len(seen) > 15


def test_how_hard_tasks_are_leaves_chance_out():
    draw = np.random.default_rng(0)
    scale = draw.lognormal(0, 0.5, 4000)
    one, two = (scale * draw.gamma(4, 1 / 4, 4000) for _ in range(2))
    everyone = np.arange(4000)
    assert spread_beyond_chance(one, two, everyone) == pytest.approx(np.sqrt(np.exp(0.25) - 1), rel=0.08)
    one, two = (draw.gamma(4, 1 / 4, 4000) for _ in range(2))
    assert spread_beyond_chance(one, two, everyone) < 0.1
    assert spread_beyond_chance(scale, scale, everyone) == pytest.approx(scale.std(ddof=1) / scale.mean())


def test_tasks_that_are_fitted_exactly_are_equally_hard_and_such_that_were_before_gain_nothing():
    """One step of rate ½ on inputs of 1 ends at the level of a task, that of a start at the level stays there."""
    assert sorted(gains(LINEAR, start(), level_tasks([1.0, 2.0, 4.0, 8.0]), KEY)) == ["gain", "shuffled_gain"]
    assert gains(LINEAR, start(2.0), level_tasks([2.0] * 4), KEY) == {}


def test_a_task_with_a_single_query_row_cannot_be_split():
    episodes = noisy_lines([1.0, 2.0, 3.0, 4.0], 2, 0.1)
    single = episodes._replace(query=jax.tree.map(lambda leaf: leaf[:, :1], episodes.query))
    assert "difficulty" not in gains(LINEAR, start(), single, KEY)
    assert "difficulty" in gains(LINEAR, start(), episodes, KEY)


def two_layers(params, inputs):
    return inputs @ params["layers"][0]["kernel"] @ params["layers"][1]["kernel"]


def test_the_ladder_is_flat_where_the_last_layer_is_all_that_adapts():
    """The first layer takes no part in the loss, so every rung but the lowest is the same."""
    learner = replace(LINEAR, loss=losses.mean_squared_error(lambda params, inputs: inputs @ params["layers"][1]["kernel"]))
    params = MetaParams({"layers": [{"kernel": jnp.ones((1, 1))}, {"kernel": jnp.zeros((1, 1))}]})
    found = ladder(learner, params, level_tasks([1.0, 2.0, -1.0]), KEY)["ladder"]
    assert found.value == pytest.approx(1)
    none, last, whole = (value for _, value in found.points)
    assert none == pytest.approx(2.0) and last == whole


def test_rungs_of_the_ladder_are_gradient_steps_by_hand():
    draw = np.random.default_rng(0)
    first, second, rate, steps = draw.normal(size=(2, 3)), draw.normal(size=(3, 1)), 0.02, 3
    x, y = draw.normal(size=(5, 8, 2)), draw.normal(size=(5, 8, 1))
    both = examples(x, y)
    theta = {"layers": [{"kernel": jnp.asarray(first, jnp.float32)}, {"kernel": jnp.asarray(second, jnp.float32)}]}
    learner = Learner(losses.mean_squared_error(two_layers), optax.sgd(rate), steps)
    found = dict(ladder(learner, MetaParams(theta), Episode(both, both), KEY)["ladder"].points)

    def by_hand(task, moving):
        one, two = first, second
        for _ in range(moving and steps):
            missed = 2 * (x[task] @ one @ two - y[task]) / 8
            gradients = x[task].T @ missed @ two.T, (x[task] @ one).T @ missed
            one, two = one - rate * gradients[0] * (moving == 2), two - rate * gradients[1]
        return np.mean(np.square(x[task] @ one @ two - y[task]))

    for moving, name in enumerate(("none adapts", "the last layer", "all layers")):
        assert found[name] == pytest.approx(np.mean([by_hand(task, moving) for task in range(5)]), rel=1e-4)


def test_layers_are_told_apart_by_their_numbers_and_stand_in_their_order():
    deep = {"body": {"layers": {number: {"kernel": 0.0, "bias": 0.0} for number in (0, 2, 10)}}, "head": {"kernel": 0.0}}
    found = [names[0].rpartition(".")[0] for names in layers(deep)]
    assert found == ["body.layers.0", "body.layers.2", "body.layers.10", "head"]
    network = nn.mlp([1, 4, 4, 1])
    assert [len(names) for names in layers(network.init(KEY))] == [2, 2, 2]


def test_first_order_is_exact_where_the_loss_is_linear():
    learner = Learner(lambda params, batch, key: jnp.sum(params["kernel"] * jnp.mean(batch.targets)), optax.sgd(0.1), 3)
    found = second_order(learner, start(), level_tasks([1.0, 2.0, 3.0]), KEY)
    assert found["first_order"].value == pytest.approx(1)


def test_first_order_and_exact_gradients_differ_as_the_closed_form_says():
    """Of ½ Σ a (θ − c)² after one step of rate α: first order a (θ′ − c), exact that times 1 − α a."""
    a, alpha = np.array([0.5, 1.0, 4.0]), 0.4
    c = np.random.default_rng(0).normal(size=(6, 3))
    curvature = jnp.asarray(a, jnp.float32)
    learner = Learner(lambda params, batch, key: jnp.sum(curvature * jnp.square(params - batch)) / 2, optax.sgd(alpha))
    targets = jnp.asarray(c, jnp.float32)
    found = second_order(learner, MetaParams(jnp.zeros(3)), Episode(targets, targets), KEY)["first_order"]
    cheap = a * (alpha * a * c - c)
    exact = (1 - alpha * a) * cheap
    cosine = np.sum(cheap * exact, axis=1) / np.linalg.norm(cheap, axis=1) / np.linalg.norm(exact, axis=1)
    assert found.value == pytest.approx(cosine.mean(), abs=1e-5)


@pytest.mark.slow
def test_the_price_of_second_order_is_nothing_without_steps_and_near_three_with_many():
    """A step costs three forward passes of the support set by first order and nine by the exact way (docs/gradients.md)."""
    network = nn.mlp([8, 32, 32, 8])
    learner = Learner(losses.mean_squared_error(network.apply), optax.sgd(0.01), 0)
    draw = np.random.default_rng(0)
    both = examples(draw.normal(size=(3, 16, 8)), draw.normal(size=(3, 16, 8)))
    params = MetaParams(network.init(KEY))
    deep = lambda steps: second_order(replace(learner, adaptation_steps=steps), params, Episode(both, both), KEY)  # noqa: E731
    price = [deep(steps)["price"] for steps in (0, 1, 12)]
    assert price[0].value == 1
    assert 1 < price[1].value < price[2].value <= 3
    assert price[2].value > 2
    assert all(each.seconds is not None and each.seconds > 0 for each in price)


def test_a_sketch_keeps_angles(monkeypatch):
    monkeypatch.setattr(measure, "MOST_NUMBERS", 4096)
    one, other = jax.random.normal(KEY, (2, 50_000))
    other = one + other  # at 45°
    short = [np.asarray(flat({"a": each[:20_000], "b": each[20_000:]}), np.float64) for each in (one, other)]
    assert short[0].shape == (4096,)
    cosine = short[0] @ short[1] / np.linalg.norm(short[0]) / np.linalg.norm(short[1])
    assert cosine == pytest.approx(np.sqrt(0.5), abs=5 / np.sqrt(4096))


def test_what_is_measured_of_tasks_does_not_depend_on_the_others():
    episodes = noisy_lines([1.0, 2.0, 3.0], 4, 0.1)
    loss = lambda episode, key: LINEAR.loss(start().theta, episode.query, key)  # noqa: E731
    alone = [by_task(loss, jax.tree.map(lambda leaf, task=task: leaf[task : task + 1], episodes), KEY)[0] for task in range(3)]
    np.testing.assert_allclose(by_task(loss, episodes, KEY), alone, rtol=1e-6)


@pytest.fixture(scope="module")
def waves():
    """Sine waves at a random start, with a learned rate for each parameter."""
    problem = Sine(adaptation_steps=2, hidden=(8, 8), shots=6).build()
    assert problem.splits is not None
    family = problem.splits.validation
    episodes = jax.vmap(lambda task: family.episode(task, jax.random.fold_in(KEY, task)))(jnp.arange(10))
    return problem, problem.init(KEY), episodes


def test_all_probes_of_a_problem_are_plain_numbers_and_the_same_each_time(waves):
    problem, params, episodes = waves
    once, again = (probe_all(problem, params, episodes) for _ in range(2))
    names = "diversity fisher_diversity coherence agreement gain shuffled_gain difficulty dimension first_order price"
    assert set(names.split()) <= set(once) <= {*names.split(), "ladder"}
    timeless = lambda found: json.dumps({name: {**probe, "seconds": None} for name, probe in found.items()})  # noqa: E731
    assert timeless(once) == timeless(again)
    shown = page({"probes": json.loads(json.dumps(once))})
    for probe in once.values():
        assert f'value="{probe["value"]!r}"' in shown
        assert probe["says"].endswith(".") and "nan" not in probe["says"]


def test_diversity_is_measured_at_the_joint_solution_where_it_is_given(waves):
    problem, params, episodes = waves
    joint = problem.init(jax.random.key(7))
    here, there = probe_all(problem, params, episodes), probe_all(problem, params, episodes, joint=joint)
    assert here["diversity"]["value"] != there["diversity"]["value"]
    assert here["coherence"] == there["coherence"]


def test_a_last_layer_that_is_solved_has_the_probes_that_apply():
    problem = Sine(adapter="bayes-head", adaptation_steps=1, hidden=(8,), shots=6).build()
    assert problem.splits is not None
    family = problem.splits.validation
    episodes = jax.vmap(lambda task: family.episode(task, jax.random.fold_in(KEY, task)))(jnp.arange(6))
    found = probe_all(problem, problem.init(KEY), episodes)
    assert {"diversity", "gain"} <= set(found)
    assert not {"ladder", "first_order", "price"} & set(found)


def test_the_two_ways_that_are_compared_are_the_two_of_the_gradients_folder():
    """The probe's exact gradient is that of central differences of the objective; first order is not."""
    learner = replace(LINEAR, inner_optimizer=optax.sgd(0.2))
    episode = jax.tree.map(lambda leaf: leaf[0], level_tasks([2.0]))
    value = lambda theta: float(learner.objective(learner, start(theta), episode, KEY, jnp.asarray(0)))  # noqa: E731
    slope = (value(0.5) - value(-0.5)) / 1.0  # exact for a quadratic
    gradients = [
        float(way(learner, start(), episode, KEY, jnp.asarray(0))[1].theta["kernel"][0, 0]) for way in (stored, first_order)
    ]
    assert gradients[0] == pytest.approx(slope, rel=1e-4)
    assert gradients[1] == pytest.approx(slope / (1 - 2 * 0.2), rel=1e-4)
