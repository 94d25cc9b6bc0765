"""A model in a control loop, against the learner itself. Place: fewstep/runtime."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fewstep import adapt
from fewstep.apps.robots.adapted import SURPRISES, Follower, Memory, open_follower
from fewstep.apps.robots.settings import RobotFaults
from fewstep.core.types import Examples
from fewstep.errors import InputError
from fewstep.supervised.columns import InputColumn, TableFormat, TargetColumn

FORMAT = TableFormat(
    (InputColumn("x", "number", 1.0, 2.0), InputColumn("v", "number", 0.0, 0.5), InputColumn("push", "number", 0.0, 1.0)),
    (TargetColumn("change of x", 0.1, 0.2), TargetColumn("change of v", 0.0, 0.3)),
    "robot",
)
SETTINGS = RobotFaults(shots=4, hidden=(8,), adaptation_steps=2, inner_rate=0.1)
CONFIG = {"application": "robots", "problem": "robot-faults", "settings": vars(SETTINGS), "seed": 0, "format": FORMAT.to_json()}


@pytest.fixture
def follower():
    problem = SETTINGS.build(0, FORMAT)
    return Follower(problem, problem.init(jax.random.key(1)), CONFIG).warm_up()


def lived_through(follower, count, seed=0):
    """So many transitions of a cart, told to the follower: [count, observation, action, next observation]."""
    random, state, told = np.random.default_rng(seed), np.array([1.0, 0.0], np.float32), []
    for _ in range(count):
        push = random.uniform(-1, 1, 1).astype(np.float32)
        after = np.array([state[0] + 0.1 * state[1], state[1] + 0.2 * push[0]], np.float32)
        assert follower.observe(state, push, after)
        told.append((state, push, after))
        state = after
    return told


def test_it_adapts_to_its_last_transitions_as_the_learner_does(follower):
    told = lived_through(follower, 7)
    assert follower.adapt()
    inputs = np.array([np.concatenate(each[:2]) for each in told[-4:]])
    changes = np.array([after - before for before, _, after in told[-4:]])
    support = Examples(
        jnp.asarray((inputs - np.array([[1.0, 0.0, 0.0]])) / np.array([[2.0, 0.5, 1.0]]), jnp.float32),
        jnp.asarray((changes - np.array([[0.1, 0.0]])) / np.array([[0.2, 0.3]]), jnp.float32),
        jnp.ones(4),
    )
    expected = adapt(follower.problem.learner, follower.meta_params, support, jax.random.key(0), 2)
    for one, other in zip(jax.tree.leaves(follower.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_prediction_is_the_observation_and_the_change_that_the_model_says(follower):
    lived_through(follower, 4)
    follower.adapt()
    observation, action = np.array([1.5, -0.2], np.float32), np.array([0.3], np.float32)
    inputs = (np.concatenate([observation, action]) - np.array([1.0, 0.0, 0.0])) / np.array([2.0, 0.5, 1.0])
    outputs = follower.problem.predict(follower.params, jnp.asarray(inputs, jnp.float32)[None])[0]
    expected = observation + np.asarray(outputs) * np.array([0.2, 0.3]) + np.array([0.1, 0.0])
    np.testing.assert_allclose(follower.predict(observation, action), expected, rtol=1e-5)


def test_before_the_first_transition_it_is_the_starting_point(follower):
    for one, other in zip(jax.tree.leaves(follower.params), jax.tree.leaves(follower.meta_params.theta), strict=True):
        np.testing.assert_array_equal(one, other)
    lived_through(follower, 4)
    follower.adapt()
    follower.forget()
    for one, other in zip(jax.tree.leaves(follower.params), jax.tree.leaves(follower.meta_params.theta), strict=True):
        np.testing.assert_array_equal(one, other)


def test_memory_holds_the_newest_in_order():
    memory = Memory.empty(3, 1, 1)
    for number in range(5):
        memory.add(np.array([number]), np.array([-number]))
    assert memory.inputs[:, 0].tolist() == [2, 3, 4] and memory.targets[:, 0].tolist() == [-2, -3, -4]
    assert memory.weight.tolist() == [1, 1, 1]


def test_nothing_is_compiled_in_the_loop(follower):
    with jax.log_compiles(False), jax.transfer_guard("allow"):
        sizes = follower._adapt._cache_size(), follower._next._cache_size()
        for seed in range(3):
            for observation, action, _ in lived_through(follower, 2, seed):
                follower.adapt()
                follower.predict(observation, action)
    assert (follower._adapt._cache_size(), follower._next._cache_size()) == sizes == (1, 1)


def test_a_sensor_that_says_nonsense_is_passed_over_and_control_goes_on(follower):
    lived_through(follower, 4)
    follower.adapt()
    before = jax.tree.leaves(follower.params)
    assert not follower.observe([np.nan, 0.0], [0.0], [0.0, 0.0]) and follower.skipped == 1
    assert follower.adapt()
    assert all(np.array_equal(*pair) for pair in zip(before, jax.tree.leaves(follower.params), strict=True))
    follower.memory.targets[:] = 1e30  # finite, but the adapted parameters are not
    assert not follower.adapt() and follower.skipped == 2
    assert all(np.array_equal(*pair) for pair in zip(before, jax.tree.leaves(follower.params), strict=True))


def test_where_the_model_errs_again_and_again_all_that_was_before_is_forgotten(follower):
    """A bump is not: only so many mistakes in a row."""
    still = [0.1, 0.0], [0.0]
    for number in range(8):
        follower.observe(*still, follower.predict(*still) + (1e3 if number == 3 else 0.0))
    assert follower.resets == 0 and follower.memory.weight.sum() == 4
    for _ in range(SURPRISES):
        follower.observe(*still, [1e3, -1e3])
    assert follower.resets == 1 and follower.memory.weight.sum() == SURPRISES
    np.testing.assert_array_equal(follower.memory.weight[-SURPRISES:], 1)
    follower.surprise_limit = np.inf
    for _ in range(SURPRISES):
        follower.observe(*still, [-1e3, 1e3])
    assert follower.resets == 1 and follower.memory.weight.sum() == 4


def test_of_the_points_that_adaptation_passes_the_one_that_fits_best_is_taken(follower):
    """Steps a thousand times too long make it worse at once: then it stays at θ."""
    lived_through(follower, 4)
    learner = follower.problem.learner
    wild = dataclasses.replace(learner, inner_optimizer=optax.sgd(1e3))
    follower.problem = dataclasses.replace(follower.problem, learner=wild)
    found, sound = follower.adapted(follower.meta_params, follower.memory.examples())
    assert sound
    for leaf, theta in zip(jax.tree.leaves(found), jax.tree.leaves(follower.meta_params.theta), strict=True):
        np.testing.assert_array_equal(leaf, theta)


def test_an_observation_of_the_wrong_size_is_said(follower):
    with pytest.raises(InputError, match=r"observation: expected 2 numbers.*\(3,\)"):
        follower.observe([0.0, 0.0, 0.0], [0.0], [0.0, 0.0])
    with pytest.raises(InputError, match="action: expected 1 numbers"):
        follower.observe([0.0, 0.0], [0.0, 1.0], [0.0, 0.0])
    with pytest.raises(
        InputError, match=r"predict: expected observations \[..., 2\] and as many actions \[..., 1\], got \[3\]"
    ):
        follower.predict([0.0, 0.0, 0.0], [0.0])
    with pytest.raises(InputError, match="observation: expected numbers, got"):
        follower.observe(["left", "right"], [0.0], [0.0, 0.0])


def test_a_saved_one_says_the_same_and_opens_without_what_trains(follower, tmp_path):
    follower.save(tmp_path / "saved")
    with pytest.raises(InputError, match="already exists"):
        follower.save(tmp_path / "saved")
    again = open_follower(tmp_path / "saved")
    for each in (follower, again):
        lived_through(each, 4)
        each.adapt()
    np.testing.assert_array_equal(*(each.predict([1.0, 0.5], [0.2]) for each in (follower, again)))
    code = "import sys; from fewstep.apps.robots.adapted import open_follower; open_follower(sys.argv[1]).warm_up(); "
    code += "print([name for name in sys.modules if name.split('.')[:2] == ['fewstep', 'training'] or name == 'mujoco'])"
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path / "saved")], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_damaged_folder_is_said(follower, tmp_path):
    with pytest.raises(InputError, match="none or damaged"):
        open_follower(tmp_path / "nothing")
    follower.save(tmp_path / "saved")
    (tmp_path / "saved" / "parameters.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="none or damaged"):
        open_follower(tmp_path / "saved")
