"""Task families: sine waves and rows of a table, padding and units included. Place: fewstep/tasks, fewstep/losses.py."""

from dataclasses import replace
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from known import KEY, assert_close, assert_same_bits, fast_adapt, keys, mlp_apply, mlp_params, one, plain, waves

from fewstep import Examples, Learner
from fewstep.apps.sine.settings import Sine
from fewstep.apps.sine.tasks import Ranges, sine_waves
from fewstep.apps.tables.tasks import MOST_ROWS, SORTED_UP_TO, Rows, shuffled, table_tasks
from fewstep.core import losses
from fewstep.core.tasks import Shots, TaskFamily
from fewstep.supervised.padding import bucket, pad, pad_units, stack_units, within_units


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


def test_frequencies_are_drawn_where_a_range_of_them_is_given():
    family = sine_waves(jax.random.key(3), 10, 5, ranges=Ranges(frequencies=(0.8, 1.2)))
    episodes = jax.jit(jax.vmap(family.episode))(family.tasks(300), keys(300))

    def left(examples, frequency):
        """What a wave of this frequency cannot explain."""
        x, y = (np.asarray(values, np.float64)[:, 0] for values in examples[:2])
        both = np.stack([np.sin(frequency * x), np.cos(frequency * x)], 1)
        return np.square(y - both @ np.linalg.lstsq(both, y, rcond=None)[0]).sum()

    grid = np.linspace(0.75, 1.25, 501)
    support = jax.device_get(episodes.support)
    found = [grid[np.argmin([left(one(support, task), each) for each in grid])] for task in range(100)]
    assert min(found) >= 0.795 and max(found) <= 1.205
    assert scipy.stats.kstest(found, scipy.stats.uniform(0.8, 0.4).cdf).pvalue > 1e-4


def test_support_and_query_share_no_input_and_every_row_counts():
    support, query = many_waves()
    points = np.concatenate([support.inputs, query.inputs], 1)[:, :, 0]
    assert all(np.unique(row).size == row.size for row in points)
    assert np.all(support.weight == 1)
    assert np.all(query.weight == 1)
    assert support.weight.shape == (300, 10)
    assert query.weight.shape == (300, 5)


def test_an_oracle_is_told_amplitude_and_phase_beside_x():
    family = sine_waves(jax.random.key(3), 6, 4, oracle=True)
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


@pytest.mark.parametrize("shots", [Shots(0, 10), Shots(3, 50), Shots(5, 5), Shots(0, 1), Shots(0, 0), Shots(1000, 1001)])
def test_a_number_of_shots_is_drawn_evenly_on_a_logarithmic_scale_from_the_least_to_the_most(shots):
    drawn = np.asarray(jax.jit(jax.vmap(shots.draw))(keys(20_000)))
    numbers = np.arange(shots.least, shots.most + 1)
    # P(k) = log((k + 2) / (k + 1)) / log((most + 2) / (least + 1))
    expected = np.log((numbers + 2) / (numbers + 1)) / np.log((shots.most + 2) / (shots.least + 1))
    counts = np.bincount(drawn, minlength=shots.most + 1)
    assert counts.size == shots.most + 1
    assert not counts[: shots.least].any()
    assert (counts[shots.least :] > 0).all()
    if numbers.size > 1:
        assert scipy.stats.chisquare(counts[shots.least :], expected * drawn.size).pvalue > 1e-4


def real(examples):
    """(number of the row, its task) of the rows that count."""
    weight = np.asarray(examples.weight)
    assert set(np.unique(weight)) <= {0.0, 1.0}
    return np.asarray(examples.inputs)[weight > 0, 0], np.asarray(examples.targets)[weight > 0, 0]


def test_waves_of_a_range_of_shots_mask_the_support_set_and_leave_the_queries_alone():
    family = sine_waves(jax.random.key(3), Shots(2, 6), 5)
    episodes = jax.jit(jax.vmap(family.episode))(family.tasks(200), keys(200))
    counts = np.asarray(episodes.support.weight).sum(1).astype(int)
    assert episodes.support.weight.shape == (200, 6)
    np.testing.assert_array_equal(episodes.support.weight, np.arange(6)[None] < counts[:, None])
    assert set(counts) == set(range(2, 7))
    assert np.all(np.asarray(episodes.query.weight) == 1)
    told = family.episode(jnp.asarray(3), KEY, 4)
    alone = sine_waves(jax.random.key(3), 4, 5).episode(jnp.asarray(3), KEY)
    np.testing.assert_array_equal(real(told.support), real(alone.support))


def test_a_family_of_waves_with_more_room_gives_the_same_support_points():
    family = sine_waves(jax.random.key(3), 5, 4)
    roomy = family.resized(20)
    sample = jax.jit(roomy.episode)
    for shots in (0, 1, 5, 20):
        episode = sample(jnp.asarray(17), KEY, shots)
        assert episode.support.weight.shape == (20,)
        alone = jax.jit(sine_waves(jax.random.key(3), shots, 4).episode)(jnp.asarray(17), KEY)
        np.testing.assert_array_equal(real(episode.support), real(alone.support))
        assert real(episode.support)[0].size == shots
        assert not np.isin(real(episode.query)[0], real(episode.support)[0]).any()


def test_tasks_are_listed_once_each_and_only_those_with_more_examples_than_shots():
    lengths = np.array([5, 2, 9, 1, 4])
    family = TaskFamily(lambda task, key, shots=None: task, size=5, lengths=lengths)
    assert family.tasks(10).tolist() == [0, 1, 2, 3, 4]
    for shots in range(10):
        assert family.tasks(10, shots).tolist() == [task for task in range(5) if lengths[task] > shots]
    assert family.tasks(2, 3).tolist() == [0, 2]
    assert TaskFamily(lambda task, key, shots=None: task).tasks(3).tolist() == [0, 1, 2]


LENGTHS = np.array([4, 9, 2, 14])
LONG = np.array([4, 1500, 2, 14])
"""One task is longer than those whose rows are sorted."""


def numbered_rows(lengths=LENGTHS):
    """Rows whose input is their own number and whose target is that of their task."""
    total = int(lengths.sum())
    targets = np.repeat(np.arange(4), lengths).astype(np.float32)[:, None]
    start = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return Rows(np.arange(total, dtype=np.float32)[:, None], targets, start, lengths, tuple("abcd"))


def sampler(family, count):
    """`sample(task, shots=None)`: `count` episodes of a task as NumPy arrays that lead with them; one program for all tasks."""
    program = jax.jit(jax.vmap(family.episode, (None, 0, None)))
    return lambda task, shots=None: jax.device_get(program(jnp.asarray(task), keys(count), shots))


@pytest.mark.parametrize("in_time", [False, True])
@pytest.mark.parametrize("lengths", [LENGTHS, LONG])
@pytest.mark.parametrize("shots", [3, Shots(1, 5), Shots(0, 20)])
def test_support_and_query_rows_are_disjoint_rows_of_one_task_with_weight_0_exactly_where_rows_lack(shots, lengths, in_time):
    rows, queries, most = numbered_rows(lengths), 6, shots if isinstance(shots, int) else shots.most
    sample = sampler(table_tasks(rows, np.arange(4), shots, queries, in_time), 60)
    for task in range(4):
        length, episodes, seen = int(lengths[task]), sample(task), set()
        assert episodes.support.weight.shape == (60, most)
        assert episodes.query.weight.shape == (60, queries)
        for draw in range(60):
            support, query = one(episodes, draw)
            (first, _), (second, _) = real(support), real(query)
            known = first.size
            np.testing.assert_array_equal(support.weight, np.arange(most) < known)
            np.testing.assert_array_equal(query.weight, np.arange(queries) < second.size)
            if isinstance(shots, int):
                assert known == min(shots, length - 1)  # at least one row is asked for
            else:
                assert min(shots.least, length - 1) <= known <= min(shots.most, length - 1)
            both = np.concatenate([first, second])
            assert np.unique(both).size == both.size
            if in_time:
                end = rows.start[task] + length
                assert second.size == min(queries, end - second[0])
                np.testing.assert_array_equal(both, second[0] - known + np.arange(both.size))
            else:
                assert second.size == min(queries, length - known)
            # Padding included: nothing outside the task is read.
            everything = np.concatenate([support.inputs, query.inputs])[:, 0]
            assert ((everything >= rows.start[task]) & (everything < rows.start[task] + length)).all()
            assert (np.concatenate([support.targets, query.targets])[:, 0] == task).all()
            seen |= set(both.tolist())
        if length < 15:
            assert seen == set(range(rows.start[task], rows.start[task] + length))


@pytest.mark.parametrize("lengths", [LENGTHS, LONG])
def test_with_fewer_shots_what_was_support_is_asked_for_next(lengths):
    sample = sampler(table_tasks(numbered_rows(lengths), np.arange(4), Shots(0, 6), 4), 1)
    for task in (1, 3):
        whole = np.concatenate([real(part)[0] for part in one(sample(task, 6), 0)])
        for shots in range(7):
            support, query = one(sample(task, shots), 0)
            np.testing.assert_array_equal(real(support)[0], whole[:shots])
            np.testing.assert_array_equal(real(query)[0], whole[shots : shots + 4])


@pytest.mark.parametrize("in_time", [False, True])
def test_a_range_of_shots_comes_up_as_it_is_drawn_where_rows_do_not_lack(in_time):
    shots = Shots(1, 8)
    counts = sampler(table_tasks(numbered_rows(), np.arange(4), shots, 4, in_time), 4000)(3).support.weight.sum(1)
    numbers = np.arange(1, 9)
    expected = np.log((numbers + 2) / (numbers + 1)) / np.log(10 / 2) * 4000
    assert scipy.stats.chisquare(np.bincount(counts.astype(int), minlength=9)[1:], expected).pvalue > 1e-4


@pytest.mark.parametrize("in_time", [False, True])
@pytest.mark.parametrize(
    ("lengths", "room"), [(LENGTHS, 6), (LENGTHS, SORTED_UP_TO), pytest.param(LENGTHS, 40, marks=pytest.mark.slow), (LONG, 40)]
)
def test_a_family_with_more_room_gives_the_same_rows_as_one_made_for_that_number_of_shots(lengths, room, in_time):
    rows, tasks = numbered_rows(lengths), np.array([3, 1, 0])
    roomy = sampler(table_tasks(rows, tasks, Shots(1, 3), 4, in_time).resized(room), 50)
    for shots in (0, 3, 6):
        alone = sampler(table_tasks(rows, tasks, shots, 4, in_time), 50)
        for task in range(3):
            episodes, expected = roomy(task, shots), alone(task)
            assert episodes.support.weight.shape == (50, room)
            for found, wanted in zip(episodes, expected, strict=True):
                for draw in range(50):
                    np.testing.assert_array_equal(real(one(found, draw)), real(one(wanted, draw)))
    assert set(roomy(0).support.weight.sum(1)) == {1, 2, 3}  # without a number, the family still draws its own


def test_numbers_of_shots_are_run_time_values_of_one_program():
    family = table_tasks(numbered_rows(), np.arange(4), Shots(0, 6), 4)
    episode = jax.jit(family.episode)
    for shots in range(7):
        found = episode(jnp.asarray(3), KEY, jnp.asarray(shots))
        assert_same_bits(found, family.episode(jnp.asarray(3), KEY, shots))
    assert episode._cache_size() == 1


def test_each_row_is_support_equally_often_and_so_is_each_moment():
    for lengths in (LENGTHS, LONG):
        episodes = sampler(table_tasks(numbered_rows(lengths), np.arange(4), 3, 4), 3000)(3)
        drawn = episodes.support.inputs[..., 0].astype(int) - int(lengths[:3].sum())
        for place in range(3):
            assert scipy.stats.chisquare(np.bincount(drawn[:, place], minlength=14)).pvalue > 1e-4
    episodes = sampler(table_tasks(numbered_rows(), np.arange(4), 3, 4, in_time=True), 3000)(3)
    moments = episodes.query.inputs[:, 0, 0].astype(int) - int(LENGTHS[:3].sum())
    assert scipy.stats.chisquare(np.bincount(moments)[3:]).pvalue > 1e-4
    assert set(moments) == set(range(3, 14))


def test_a_table_family_numbers_the_chosen_tasks_alone():
    family = table_tasks(numbered_rows(), np.array([3, 1]), 2, 2)
    assert family.size == 2
    assert family.names == ("d", "b")
    assert family.lengths.tolist() == [14, 9]
    episode = jax.jit(family.episode)
    owners = [float(episode(task, KEY).support.targets[0, 0]) for task in family.tasks(10)]
    assert owners == [3.0, 1.0]
    drawn = jax.jit(jax.vmap(family.sample_episode))(keys(50)).query.targets
    assert set(np.ravel(drawn).tolist()) == {1.0, 3.0}


def test_what_lies_ahead_changes_no_support_set():
    rows, cut = numbered_rows(), int(LENGTHS[:3].sum()) + 8  # the last task: all that follows is its future
    future = np.arange(cut, len(rows.inputs))
    order = np.random.default_rng(0).permutation(future)
    changed = replace(rows, inputs=rows.inputs.copy(), targets=rows.targets.copy())
    changed.inputs[future], changed.targets[future] = rows.inputs[order] + 0.5, rows.targets[order] + 5
    before, after = (
        sampler(table_tasks(table, np.array([3]), Shots(1, 5), 4, in_time=True), 300)(0) for table in (rows, changed)
    )
    # The moment at which the queries begin. Up to the cut, only what was ahead has changed.
    unchanged = before.query.inputs[:, 0, 0] <= cut
    assert 50 < unchanged.sum() < 250
    assert_same_bits(*(jax.tree.map(lambda leaf: leaf[unchanged], episodes.support) for episodes in (after, before)))
    assert (after.query.targets[unchanged] != before.query.targets[unchanged]).any()
    later = jax.tree.map(lambda old, new: (old[~unchanged] != new[~unchanged]).any(), before.support, after.support)
    assert later.inputs
    assert later.targets


@pytest.mark.parametrize("lengths", [LENGTHS, LONG])
def test_all_examples_of_a_task_are_its_rows_and_of_a_very_long_one_a_part_of_them(lengths):
    rows = numbered_rows(lengths)
    family = table_tasks(rows, np.array([0, 1, 3]), 1, 1)
    for task, unit in enumerate((0, 1, 3)):
        numbers, owners = real(family.examples(jnp.asarray(task)))
        expected = rows.start[unit] + np.arange(lengths[unit])
        assert np.isin(numbers, expected).all()
        assert np.unique(numbers).size == numbers.size == min(lengths[unit], MOST_ROWS)
        assert (owners == unit).all()


@pytest.mark.parametrize(
    ("length", "count"), [(1, 4), (2, 2), (3, 8), (5, 5), (6, 3), (16, 20), (17, 17), (1500, 40), (300, 1000)]
)
def test_shuffled_places_are_distinct_and_end_where_there_are_no_more(length, count):
    places = np.asarray(jax.jit(jax.vmap(lambda key: shuffled(key, jnp.asarray(length), count)))(keys(100)))
    assert places.shape == (100, count)
    wanted = min(length, count)
    assert all(np.unique(row[:wanted]).size == wanted for row in places)
    assert (places[:, :wanted] < length).all()
    assert (places[:, :wanted] >= 0).all()
    assert (places[:, wanted:] == length).all()


@pytest.mark.parametrize("length", [2, 3, 5, 16, 17, 60, 1500, 100_000])
def test_every_place_comes_at_every_turn_equally_often(length):
    count, bins = min(length, 3), min(length, 60)
    places = np.asarray(jax.jit(jax.vmap(lambda key: shuffled(key, jnp.asarray(length), count)))(keys(6000)))
    for turn in range(count):
        counts = np.bincount(places[:, turn] * bins // length, minlength=bins)
        share = np.bincount(np.arange(length) * bins // length, minlength=bins) / length
        assert scipy.stats.chisquare(counts, 6000 * share).pvalue > 1e-4


@pytest.mark.parametrize("length", [2, 3, 4, 6])
def test_every_order_of_the_first_places_comes_equally_often(length):
    count = min(length, 3)
    places = np.asarray(jax.jit(jax.vmap(lambda key: shuffled(key, jnp.asarray(length), count)))(keys(9000)))
    orders = {order: 0 for order in permutations(range(length), count)}
    for order in places.tolist():
        orders[tuple(order)] += 1
    assert scipy.stats.chisquare(list(orders.values())).pvalue > 1e-4


def largest(jaxpr):
    """The size of the largest array that a program makes, whatever program is inside it."""
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [int(np.prod(variable.aval.shape)) for variable in equation.outvars]
        inner = jax.tree.leaves(equation.params, is_leaf=lambda value: hasattr(value, "eqns") or hasattr(value, "jaxpr"))
        sizes += [
            largest(getattr(value, "jaxpr", value)) for value in inner if hasattr(value, "eqns") or hasattr(value, "jaxpr")
        ]
    return max(sizes)


def test_one_very_long_task_among_short_ones_does_not_make_episodes_slow():
    lengths = np.array([20, 100_000, 5, 8])
    for in_time in (False, True):
        family = table_tasks(numbered_rows(lengths), np.arange(4), Shots(3, 10), 40, in_time)
        for program in (family.episode, family.resized(50).episode):
            made = largest(jax.make_jaxpr(program)(jnp.asarray(0), KEY).jaxpr)
            assert 40 <= made <= 2 * (50 + 40)
        assert largest(jax.make_jaxpr(family.examples)(jnp.asarray(0)).jaxpr) == MOST_ROWS
    # The measure sees what it should: a task of a thousand rows is sorted.
    sorted_rows = table_tasks(numbered_rows(np.array([20, 1000, 5, 8])), np.arange(4), 3, 4)
    assert largest(jax.make_jaxpr(sorted_rows.episode)(jnp.asarray(0), KEY).jaxpr) >= 1000


def test_the_place_of_a_row_among_those_of_its_unit_is_counted_in_order():
    rng = np.random.default_rng(0)
    for owner in (rng.integers(0, 7, 200), np.array([3, 3, 0, 3, 0]), np.array([5]), np.zeros(0, int)):
        expected = [int(np.sum(owner[:row] == owner[row])) for row in range(owner.size)]
        assert within_units(owner).tolist() == expected


def test_stacked_units_hold_their_rows_in_order_and_padding_of_weight_0():
    rng = np.random.default_rng(1)
    owner = rng.permutation(np.repeat([0, 1, 3], [11, 1, 4]))  # unit 2 has no rows
    inputs, targets = rng.normal(size=(16, 3)).astype(np.float32), rng.normal(size=(16, 2)).astype(np.float32)
    stacked = stack_units(inputs, targets, owner, 4)
    assert stacked.inputs.shape == (4, bucket(11), 3)
    assert stacked.targets.shape == (4, bucket(11), 2)
    for unit in range(4):
        mine = owner == unit
        rows = int(mine.sum())
        np.testing.assert_array_equal(stacked.inputs[unit, :rows], inputs[mine])
        np.testing.assert_array_equal(stacked.targets[unit, :rows], targets[mine])
        np.testing.assert_array_equal(stacked.weight[unit], np.arange(bucket(11)) < rows)
    assert not stack_units(np.zeros((0, 3)), np.zeros((0, 2)), np.zeros(0, int), 2).weight.any()


def test_units_are_padded_by_units_without_rows():
    stacked = stack_units(np.ones((3, 2)), np.ones((3, 1)), np.array([0, 1, 1]), 2)
    padded = pad_units(stacked, 8)
    assert_same_bits(jax.tree.map(lambda leaf: leaf[:2], padded), stacked)
    assert padded.inputs.shape == (8, 8, 2)
    assert not padded.weight[2:].any()
    assert_same_bits(pad_units(stacked, 2), stacked)


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
    support, query = jax.jit(table_tasks(rows, np.arange(4), 3, 6).episode)(jnp.asarray(0), KEY)
    alone = Examples(query.inputs[:1], query.targets[:1], jnp.ones(1))
    loss, theta = jax.jit(jax.value_and_grad(losses.mean_squared_error(mlp_apply))), mlp_params()
    assert_close(loss(theta, query, KEY), loss(theta, alone, KEY))
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
    metric = losses.mean_over_examples(mlp_apply, losses.squared_errors_in(jnp.array([2.5])))(theta, examples)
    np.testing.assert_allclose(metric, 2.5**2 * expected, rtol=1e-12)


def test_targets_that_are_not_known_have_no_part_in_losses_metrics_and_their_gradients(float64):
    """Each output's mean over its own rows, then the mean over outputs; metrics are means over known values."""
    rng = np.random.default_rng(0)
    examples = Examples(*(jnp.asarray(rng.normal(size=(6, size))) for size in (2, 3)), jnp.ones(6))
    weight = np.array([[1, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0.0]])
    masked = examples._replace(weight=jnp.asarray(weight))
    apply = lambda theta, x: jnp.tanh(x @ theta)  # noqa: E731
    theta, loss = jnp.asarray(rng.normal(size=(2, 3))), losses.mean_squared_error(apply)
    squares = np.square(np.asarray(apply(theta, examples.inputs) - examples.targets))
    by_output = [squares[weight[:, place] > 0, place].mean() for place in range(3)]
    value, gradient = jax.value_and_grad(loss)(theta, masked, KEY)
    np.testing.assert_allclose(value, np.mean(by_output), rtol=1e-12)
    for place in range(3):  # an output's own weights learn as from its own rows alone, whatever the others lack
        own = weight[:, place] > 0
        alone = Examples(examples.inputs[own], examples.targets[own][:, [place]], jnp.ones(own.sum()))
        expected = jax.grad(loss)(theta[:, [place]], alone, KEY)[:, 0] / 3
        np.testing.assert_allclose(gradient[:, place], expected, rtol=1e-12)
    units = jnp.array([1.0, 10.0, 0.1])
    both = losses.mean_over_examples(apply, losses.squared_errors_in(units))(theta, masked)
    np.testing.assert_allclose(both, (squares * np.asarray(units) ** 2)[weight > 0].mean(), rtol=1e-12)
    whole = masked._replace(weight=jnp.ones((6, 3)))
    np.testing.assert_allclose(loss(theta, whole, KEY), loss(theta, examples, KEY), rtol=1e-12)
    wild = masked._replace(targets=jnp.where(masked.weight > 0, masked.targets, 1e6))
    np.testing.assert_array_equal(jax.grad(loss)(theta, wild, KEY), gradient)


def test_squared_errors_of_several_outputs_are_averaged_each_in_its_own_units(float64):
    outputs, targets = np.random.default_rng(0).normal(size=(2, 7, 3))
    expected = np.mean((np.array([1.0, 10.0, 0.1]) * (outputs - targets)) ** 2, axis=1)
    found = losses.squared_errors_in(jnp.array([1.0, 10.0, 0.1]))(jnp.asarray(outputs), jnp.asarray(targets))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_loss_of_classes_is_the_mean_of_minus_the_logarithm_of_the_probability_of_the_right_one(float64):
    rng = np.random.default_rng(0)
    logits, classes, weight = rng.normal(size=(6, 3)), rng.integers(0, 3, 6), np.array([1.0, 0, 1, 1, 1, 0])
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    examples = Examples(jnp.asarray(logits), jnp.asarray(np.eye(3)[classes]), jnp.asarray(weight))
    loss = losses.cross_entropy(lambda _, inputs: jax.nn.log_softmax(inputs))(None, examples, KEY)
    np.testing.assert_allclose(loss, -(np.log(probabilities[np.arange(6), classes]) * weight).sum() / 4, rtol=1e-12)
    wrong = losses.wrong(jnp.asarray(logits), examples.targets)
    np.testing.assert_array_equal(wrong, logits.argmax(1) != classes)


def test_buckets_are_powers_of_two_that_hold_the_count_without_doubling_it():
    for count in range(1, 300):
        size = bucket(count)
        assert size >= max(count, 8)
        assert size & (size - 1) == 0
        assert size == 8 or size < 2 * count
