"""Task families: sine waves and rows of a table, padding included. Place: fewstep/tasks, fewstep/losses.py."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from known import KEY, assert_close, assert_same_bits, fast_adapt, keys, mlp_apply, mlp_params, one, plain, waves

from fewstep import Examples, Learner, losses
from fewstep.problems import Sine
from fewstep.tasks.family import TaskFamily
from fewstep.tasks.sine import sine_waves
from fewstep.tasks.table import Rows, bucket, pad, table_tasks


def wave_of(examples):
    """(A, φ) by least squares: A sin(x + φ) = (A cos φ) sin x + (A sin φ) cos x."""
    x, y = (np.asarray(values, np.float64)[:, 0] for values in examples[:2])
    a, b = np.linalg.lstsq(np.stack([np.sin(x), np.cos(x)], 1), y, rcond=None)[0]
    return np.hypot(a, b), np.arctan2(b, a)


def many_waves(count=300, shots=10):
    family = sine_waves(jax.random.key(3), shots, 5)
    return jax.jit(jax.vmap(family.episode))(family.tasks(count), keys(count))


def test_support_and_query_of_an_episode_lie_on_one_and_the_same_wave():
    episodes = many_waves(50)
    for task in range(50):
        support, query = one(episodes, task)
        amplitude, phase = wave_of(support)
        np.testing.assert_allclose(query.targets, amplitude * np.sin(np.asarray(query.inputs) + phase), atol=1e-4)


def test_amplitudes_phases_and_inputs_are_uniform_over_the_ranges_of_the_paper():
    episodes = many_waves()
    amplitude, phase = np.transpose([wave_of(one(episodes.support, task)) for task in range(300)])
    for values, low, high in ((amplitude, 0.1, 5), (phase, 0, np.pi), (np.ravel(episodes.query.inputs), -5, 5)):
        assert values.min() >= low - 1e-4
        assert values.max() <= high + 1e-4
        assert scipy.stats.kstest(values, scipy.stats.uniform(low, high - low).cdf).pvalue > 1e-4
    assert abs(scipy.stats.spearmanr(amplitude, phase).statistic) < 0.25  # drawn from keys of their own


def test_support_and_query_share_no_input_and_every_row_counts():
    support, query = many_waves()
    points = np.concatenate([support.inputs, query.inputs], 1)[:, :, 0]
    assert all(np.unique(row).size == row.size for row in points)
    assert np.all(support.weight == 1)
    assert np.all(query.weight == 1)
    assert support.weight.shape == (300, 10)
    assert query.weight.shape == (300, 5)


def test_an_oracle_is_told_amplitude_and_phase_beside_x():
    family = sine_waves(jax.random.key(3), 6, 4, told=True)
    support, query = family.episode(jnp.asarray(5), KEY)
    blind = sine_waves(jax.random.key(3), 6, 4).episode(jnp.asarray(5), KEY)
    assert_same_bits(query.targets, blind.query.targets)
    x, amplitude, phase = np.asarray(query.inputs, np.float64).T
    np.testing.assert_allclose(query.targets[:, 0], amplitude * np.sin(x + phase), atol=1e-5)
    assert np.unique(support.inputs[:, 1]).size == 1


def test_the_same_key_gives_the_same_episode_and_other_keys_other_tasks():
    family = sine_waves(jax.random.key(3), 10, 5)
    sample = jax.jit(jax.vmap(family.sample_episode))
    assert_same_bits(sample(keys(200)), sample(keys(200)))
    amplitudes = [wave_of(one(sample(keys(200)).support, task))[0] for task in range(200)]
    assert np.unique(np.round(amplitudes, 3)).size > 180
    other = sample(keys(200, seed=8))
    assert not np.isin(np.ravel(other.support.targets), np.ravel(sample(keys(200)).support.targets)).any()


def test_a_numbered_task_is_the_same_task_whichever_key_draws_its_examples():
    family = sine_waves(jax.random.key(3), 10, 5)
    episodes = [family.episode(jnp.asarray(17), key) for key in keys(3)]
    found = np.array([wave_of(episode.support) for episode in episodes])
    np.testing.assert_allclose(found, np.broadcast_to(found[0], (3, 2)), atol=1e-4)
    assert np.unique(np.concatenate([episode.support.inputs for episode in episodes])).size == 30


def test_meta_train_validation_and_test_tasks_share_no_wave():
    splits = Sine(hidden=(2,), shots=5, queries=5).build().splits
    # One key for all: where two waves are the same, so are all of their points.
    points = [
        np.asarray(jax.vmap(lambda task, family=family: family.episode(task, KEY).support.targets)(jnp.arange(300)))
        for family in (splits.train, splits.validation, splits.test)
    ]
    known = [{task.tobytes() for task in family} for family in points]
    assert [len(family) for family in known] == [300, 300, 300]
    assert not known[0] & known[1]
    assert not known[0] & known[2]
    assert not known[1] & known[2]


def test_a_family_with_a_size_never_leaves_its_tasks_and_visits_all():
    family = TaskFamily(lambda task, key: task, size=7)
    drawn = np.asarray(jax.vmap(family.sample_episode)(keys(400)))
    assert set(drawn.tolist()) == set(range(7))
    assert scipy.stats.chisquare(np.bincount(drawn)).pvalue > 1e-4
    assert family.tasks(100).tolist() == list(range(7))
    assert family.tasks(3).tolist() == [0, 1, 2]


LENGTHS = np.array([4, 9, 2, 14])


def numbered_rows():
    """Rows whose input is their own number and whose target is that of their task."""
    total = int(LENGTHS.sum())
    targets = np.repeat(np.arange(4), LENGTHS).astype(np.float32)[:, None]
    start = np.concatenate([[0], np.cumsum(LENGTHS)[:-1]])
    return Rows(np.arange(total, dtype=np.float32)[:, None], targets, start, LENGTHS, tuple("abcd"))


@pytest.mark.parametrize("task", range(4))
def test_support_and_query_rows_are_disjoint_rows_of_one_task_with_weight_0_exactly_where_rows_lack(task):
    rows, shots, queries = numbered_rows(), 3, 6
    family = table_tasks(rows, np.arange(4), shots, queries)
    episodes = jax.jit(jax.vmap(lambda key: family.episode(jnp.asarray(task), key)))(keys(60))
    seen = set()
    for draw in range(60):
        support, query = one(episodes, draw)
        assert support.weight.shape == (shots,)
        assert query.weight.shape == (queries,)
        weight = np.concatenate([support.weight, query.weight])
        number = np.concatenate([support.inputs, query.inputs])[:, 0].astype(int)
        owner = np.concatenate([support.targets, query.targets])[:, 0]
        present = min(LENGTHS[task], shots + queries)
        np.testing.assert_array_equal(weight, (np.arange(shots + queries) < present).astype(float))
        assert np.unique(number[weight > 0]).size == present
        assert (owner == task).all()  # padding included: nothing outside the task is read
        assert ((number >= rows.start[task]) & (number < rows.start[task] + LENGTHS[task])).all()
        seen |= set(number[:shots][weight[:shots] > 0].tolist())
    assert len(seen) == LENGTHS[task]


def test_a_table_family_numbers_the_chosen_tasks_alone():
    family = table_tasks(numbered_rows(), np.array([3, 1]), 2, 2)
    assert family.size == 2
    owners = [float(family.episode(jnp.asarray(task), KEY).support.targets[0, 0]) for task in family.tasks(10)]
    assert owners == [3.0, 1.0]
    drawn = jax.vmap(family.sample_episode)(keys(50)).query.targets
    assert set(np.ravel(drawn).tolist()) == {1.0, 3.0}


def test_in_time_the_support_set_lies_just_before_the_query_set_and_each_moment_comes_up():
    family = table_tasks(numbered_rows(), np.array([0, 1, 3]), 3, 4, in_time=True)
    episodes = jax.vmap(lambda key: family.episode(jnp.asarray(1), key))(keys(300))  # the task of 9 rows: numbers 4 to 12
    support, query, real = (
        np.asarray(part) for part in (episodes.support.inputs, episodes.query.inputs, episodes.query.weight)
    )
    assert np.all(np.diff(support[..., 0], axis=1) == 1)
    assert np.all(query[:, 0, 0] == support[:, -1, 0] + 1)
    for row, weight in zip(query[..., 0], real, strict=True):
        shown = row[weight > 0]
        np.testing.assert_array_equal(shown, shown[0] + np.arange(min(4, 13 - int(shown[0]))))
    assert set(query[:, 0, 0]) == set(range(7, 13))
    assert np.all(np.asarray(episodes.support.weight) == 1)


def test_what_lies_ahead_changes_no_support_set():
    rows = numbered_rows()
    for key in keys(20):
        episode = table_tasks(rows, np.array([3]), 3, 4, in_time=True).episode(jnp.asarray(0), key)
        first = int(episode.query.inputs[0, 0])
        ahead = np.arange(first, len(rows.inputs))  # the last task: all that follows is its future
        shuffled = replace(rows, inputs=rows.inputs.copy(), targets=rows.targets.copy())
        shuffled.inputs[ahead] = rows.inputs[np.random.default_rng(0).permutation(ahead)]
        again = table_tasks(shuffled, np.array([3]), 3, 4, in_time=True).episode(jnp.asarray(0), key)
        assert_same_bits(again.support, episode.support)


def test_all_examples_of_a_task_are_its_rows():
    rows = numbered_rows()
    family = table_tasks(rows, np.array([0, 2, 3]), 1, 1)
    for task, unit in enumerate((0, 2, 3)):
        examples = family.examples(jnp.asarray(task))
        real = np.asarray(examples.weight) > 0
        expected = rows.start[unit] + np.arange(LENGTHS[unit])
        np.testing.assert_array_equal(np.asarray(examples.inputs)[real, 0], expected)


def test_padding_changes_neither_loss_nor_gradient_nor_adaptation(float64):
    loss, theta, support = losses.mean_squared_error(mlp_apply), mlp_params(), one(waves(1), 0).support
    padded = pad(support, 16)
    assert padded.inputs.shape == (16, 1)
    assert padded.weight.tolist() == [1.0] * 5 + [0.0] * 11
    junk = padded._replace(inputs=padded.inputs.at[5:].set(1e3), targets=padded.targets.at[5:].set(-1e6))
    value_and_gradient = jax.jit(jax.value_and_grad(loss))
    learner = Learner(loss, optax.sgd(0.1), 3)
    for other in (padded, junk):
        assert_close(value_and_gradient(theta, other, KEY), value_and_gradient(theta, support, KEY))
        assert_close(fast_adapt(learner, plain(theta), other, KEY), fast_adapt(learner, plain(theta), support, KEY))


def test_a_short_task_of_a_table_is_learned_as_its_rows_alone(float64):
    rows = numbered_rows()
    rows = replace(rows, inputs=np.sin(rows.inputs.astype(float)), targets=np.cos(rows.inputs.astype(float)))
    support, query = table_tasks(rows, np.arange(4), 3, 6).episode(jnp.asarray(0), KEY)
    alone = Examples(query.inputs[:1], query.targets[:1], jnp.ones(1))
    loss, theta = losses.mean_squared_error(mlp_apply), mlp_params()
    assert_close(jax.value_and_grad(loss)(theta, query, KEY), jax.value_and_grad(loss)(theta, alone, KEY))
    assert np.asarray(support.weight).tolist() == [1.0, 1.0, 1.0]


def test_an_empty_set_gives_zero_loss_and_zero_gradient_and_no_nan():
    loss, theta, support = losses.mean_squared_error(mlp_apply), mlp_params(), one(waves(1), 0).support
    empty = support._replace(weight=jnp.zeros(5))
    value, gradient = jax.value_and_grad(loss)(theta, empty, KEY)
    assert float(value) == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_the_mean_squared_error_equals_numpy_and_its_metric_is_in_target_units(float64):
    examples, theta = one(waves(1), 0).query, mlp_params()
    weight = np.array([1.0, 0, 1, 1, 0, 1])
    errors = np.square(np.asarray(mlp_apply(theta, examples.inputs) - examples.targets))[:, 0]
    expected = (errors * weight).sum() / weight.sum()
    examples = examples._replace(weight=jnp.asarray(weight))
    np.testing.assert_allclose(losses.mean_squared_error(mlp_apply)(theta, examples, KEY), expected, rtol=1e-12)
    metric = losses.mean_squared_error_metric(mlp_apply, 2.5)(theta, examples)
    np.testing.assert_allclose(metric, 2.5**2 * expected, rtol=1e-12)


def test_buckets_are_powers_of_two_that_hold_the_count_without_doubling_it():
    for count in range(1, 300):
        size = bucket(count)
        assert size >= max(count, 8)
        assert size & (size - 1) == 0
        assert size == 8 or size < 2 * count
