"""Policies whose environment is a simulator outside JAX. Place: fewstep/tasks/simulation.py, locomotion.py, gym_tasks.py and
as_gymnasium.py, fewstep/rl/simulated.py, fewstep/nn/normalized.py, fewstep/problems/locomotion.py and own_environment.py.

Oracles: gymnasium's own half-cheetah, stepped by hand; 2D navigation as a pure function; moments by NumPy.
"""

import json
import sys
import warnings
from dataclasses import replace
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import gym_family
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from fewstep import cli, runs
from fewstep.errors import BadInput, RunFailed
from fewstep.nn.normalized import SEEN, having_seen, normalizing
from fewstep.nn.policies import policy_for
from fewstep.problems import PRESETS, CheetahDir, OwnEnvironment
from fewstep.rl.meta_step import PolicySearch
from fewstep.rl.simulated import collect_outside, evaluate_outside, simulated_meta_step
from fewstep.rl.trust_region import TrustRegion
from fewstep.tasks.as_gymnasium import as_gymnasium
from fewstep.tasks.gym_tasks import factory_of, gym_tasks
from fewstep.tasks.locomotion import FAMILIES, directions, locomotion, velocities_of
from fewstep.tasks.navigation import navigation
from fewstep.tasks.robots import imported_mujoco, warnings_of
from fewstep.types import MetaParams

SMALL = [
    "--meta-batch-size",
    "2",
    "--rollouts",
    "2",
    "--hidden",
    "8",
    "--meta-steps",
    "2",
    "--log-every",
    "1",
    "--horizon",
    "5",
]
KEY = jax.random.key(0)
ALL = np.ones


def policy_of(simulation, hidden=(8,)):
    return policy_for(simulation.observed, simulation.actions, simulation.discrete, hidden)


def thetas_of(policy, tasks, key=KEY):
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (tasks, *leaf.shape)), policy.init(key))


def params_of(policy):
    return MetaParams(policy.init(KEY))


def collected(simulation, tasks, rollouts=3, key=KEY):
    policy = policy_of(simulation)
    return collect_outside(simulation, policy, thetas_of(policy, len(tasks)), tasks, rollouts, key)


def same_bits(one, other):
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("name", "reward"), [("cheetah-vel", lambda v: -abs(v - 1.2)), ("cheetah-dir", lambda v: 1.2 * v)])
def test_observations_and_rewards_are_those_of_gymnasiums_half_cheetah(name, reward, monkeypatch):
    if find_spec("imageio") is None:  # which gymnasium draws with, and nothing is drawn here
        monkeypatch.setitem(sys.modules, "imageio", ModuleType("imageio"))
    simulation = locomotion(name)
    seen = simulation.begin([1.2], [7]).observations
    with warnings_of(imported_mujoco()):  # gymnasium's file is written in an older way, which would be logged
        theirs: Any = gymnasium.make("HalfCheetah-v5", ctrl_cost_weight=0.05).unwrapped
    theirs.reset(seed=0)
    theirs.set_state(np.concatenate([[0.0], seen[0, :8]]), seen[0, 8:].astype(float))
    random = np.random.default_rng(0)
    for _ in range(20):
        asked = random.normal(size=6)
        ours = simulation.step(asked[None], ALL(1, bool))
        expected, _, _, _, info = theirs.step(np.clip(0.1 * asked, -1, 1))
        np.testing.assert_allclose(ours.observations[0], expected, atol=2e-3)
        np.testing.assert_allclose(ours.rewards[0], reward(info["x_velocity"]) + info["reward_ctrl"], atol=2e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_many_step_as_one_does_alone_whatever_stands_still_beside_it(name):
    simulation, alone = locomotion(name, threads=1), locomotion(name, threads=1)
    random = np.random.default_rng(1)
    tasks, seeds = simulation.sample_tasks(random, 5), [3, 1, 4, 1, 5]
    together = simulation.begin(tasks, seeds).observations
    first = alone.begin(tasks[2:3], seeds[2:3]).observations
    same_bits(first[0], together[2])
    same_bits(together[1], together[3])  # the same seed
    for number in range(4):
        actions = random.normal(size=(5, simulation.actions))
        alive = np.array([True, number < 2, True, True, number < 1])
        many, one = simulation.step(actions, alive), alone.step(actions[2:3], ALL(1, bool))
        same_bits(
            (one.observations[0], one.rewards[0], one.terminated[0]),
            (many.observations[2], many.rewards[2], many.terminated[2]),
        )


def test_an_ant_that_has_fallen_ends_and_is_paid_for_as_long_as_it_stood():
    simulation = locomotion("ant-dir", horizon=80, action_scale=1.0)
    policy = policy_for(simulation.observed, simulation.actions, hidden=(8,), deviation=3.0)
    found = collect_outside(simulation, policy, thetas_of(policy, 2), [1.0, -1.0], 6, KEY).trajectories
    ended = np.asarray(found.terminated)
    assert np.all(ended.sum(-1) <= 1)
    np.testing.assert_array_equal(np.asarray(found.weight)[ended > 0], 1)
    after = np.cumsum(ended, -1) - ended
    np.testing.assert_array_equal(np.asarray(found.weight), 1 - after)
    np.testing.assert_array_equal(np.asarray(found.rewards)[after > 0], 0)


def test_velocities_that_are_held_out_are_all_that_is_tested_and_nothing_that_is_trained():
    for family in (FAMILIES["cheetah-vel"], FAMILIES["ant-vel"]):
        trained, tested = (velocities_of(family, np.random.default_rng(0), 4000, unseen) for unseen in (False, True))

        def held_out(velocities, family=family):
            return np.any([(low <= velocities) & (velocities < high) for low, high in family.held_out], axis=0)

        assert not held_out(trained).any() and held_out(tested).all()
        assert trained.min() < 0.01 and trained.max() > family.most - 0.01
        kept = family.most - sum(high - low for low, high in family.held_out)
        below = family.held_out[0][0]
        assert np.mean(trained < below) == pytest.approx(below / kept, abs=0.03)  # uniform
        assert np.mean(tested < family.held_out[0][1]) == pytest.approx(0.5, abs=0.03)
    assert sorted(directions(np.random.default_rng(0), 4)) == [-1, -1, 1, 1]


def test_navigation_as_a_gymnasium_environment_goes_the_ways_of_the_pure_function():
    tasks = list(np.random.default_rng(0).uniform(-0.2, 0.2, (3, 2)))
    found = collected(gym_tasks(gym_family.Point, horizon=30), tasks, rollouts=4).trajectories
    pure = navigation()
    for number, task in enumerate(tasks):
        for rollout in range(4):
            state, over = pure.reset(jnp.asarray(task, jnp.float32), KEY), False
            for step in range(30):
                weight = float(found.weight[number, rollout, step])
                assert weight == (not over)
                if over:
                    break
                np.testing.assert_allclose(found.observations[number, rollout, step], state, atol=1e-5)
                after = pure.step(state, found.actions[number, rollout, step], jnp.asarray(task, jnp.float32), KEY)
                np.testing.assert_allclose(found.rewards[number, rollout, step], after.reward, atol=1e-5)
                state, over = after.state, bool(after.terminated)
                assert bool(found.terminated[number, rollout, step]) == over
    assert np.asarray(found.terminated).any() or np.asarray(found.weight).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_gymnasium_finds_nothing_wrong_with_the_environments(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unbounded observations, a range of actions other than 1
        check_env(as_gymnasium(locomotion(name)), skip_render_check=True)


@pytest.mark.parametrize("make", [gym_family.Point, gym_family.Buttons])
def test_gymnasium_finds_nothing_wrong_with_the_environments_of_these_tests(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(make(), skip_render_check=True)


def test_what_is_offered_to_gymnasium_comes_back_as_the_same_simulation():
    tasks = [1.0, -1.0]
    direct = locomotion("cheetah-dir", horizon=4)
    around = gym_tasks(lambda: as_gymnasium(locomotion("cheetah-dir")), horizon=4, action_scale=direct.action_limit**-1)
    assert (around.observed, around.actions, around.action_limit) == (direct.observed, direct.actions, direct.action_limit)
    assert around.begin(tasks, [0, 0]).observations.shape == direct.begin(tasks, [0, 0]).observations.shape


def test_the_same_key_gives_the_same_bits_and_so_does_any_number_side_by_side():
    simulation = locomotion("cheetah-vel", horizon=6)
    tasks = np.array([0.1, 0.9, 1.9])
    found = collected(simulation, tasks)
    same_bits(found, collected(simulation, tasks))
    in_turns = collected(replace(simulation, at_once=3), tasks)
    for one, other in zip(jax.tree.leaves(found.trajectories), jax.tree.leaves(in_turns.trajectories), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    other = collected(simulation, tasks, key=jax.random.key(1))
    assert not np.array_equal(found.trajectories.actions, other.trajectories.actions)


def test_log_probabilities_are_those_of_the_actions_under_each_tasks_own_parameters():
    simulation = gym_tasks(gym_family.Point, horizon=4)
    policy = policy_of(simulation)
    thetas = jax.vmap(policy.init)(jax.random.split(KEY, 2))
    found = collect_outside(simulation, policy, thetas, [np.ones(2), -np.ones(2)], 3, KEY).trajectories
    for number in range(2):
        theta = jax.tree.map(lambda leaf, number=number: leaf[number], thetas)
        expected = policy.log_probability(policy.distribution(theta, found.observations[number]), found.actions[number])
        np.testing.assert_allclose(found.log_probability[number], expected, rtol=1e-5, atol=1e-5)


def test_discrete_actions_get_a_categorical_policy_and_a_horizon_of_one_is_learned_in():
    simulation = gym_tasks(gym_family.Buttons, horizon=1)
    assert simulation.discrete and simulation.actions == 3 and simulation.observed == 2
    policy = policy_of(simulation)
    search = PolicySearch(tasks=12, rollouts=30, inner_rate=2.0, outer=TrustRegion(kl_limit=0.1))
    state = search.outer.init(params_of(policy))
    state, info = simulated_meta_step(search, simulation, policy, state, KEY)
    assert int(info.environment_steps) == 12 * 30 * 2 and bool(info.outer.finite) and not info.dropped
    tasks = simulation.sample_tasks(np.random.default_rng(0), 20)
    returns = evaluate_outside(search, simulation, policy, state.params, tasks, KEY, steps=2, rollouts=40, later_rate=1.0)
    assert returns.shape == (20, 3)
    by_update = returns.mean(0)
    assert by_update[0] == pytest.approx(1 / 3, abs=0.1) and by_update[2] > by_update[0] + 0.2


def test_a_trajectory_that_breaks_counts_for_nothing_from_there_on_and_is_told_of():
    simulation = gym_tasks(gym_family.Breaking, horizon=6)
    tasks = [np.array(goal) for goal in ([0.4, 0.4], [0.4, -0.4], [-0.4, 0.4])]
    found = collected(simulation, tasks, rollouts=2)
    np.testing.assert_array_equal(found.broken, [[True] * 2, [True] * 2, [False] * 2])
    weight = np.asarray(found.trajectories.weight)
    np.testing.assert_array_equal(weight.sum(-1), [[2, 2], [2, 2], [6, 6]])
    assert len(found.said) == 4
    raised, unnumbered = found.said[0], found.said[2]
    assert raised.startswith("task 1 (") and "at step 3: ValueError: the motor is gone" in raised
    assert unnumbered.startswith("task 2 (") and "at step 3: what came back is not a number" in unnumbered
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.trajectories))
    policy = policy_of(simulation)
    search = PolicySearch(tasks=4, rollouts=3)
    state, info = simulated_meta_step(search, simulation, policy, search.outer.init(params_of(policy)), KEY)
    assert bool(info.outer.finite) and info.dropped
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    returns = evaluate_outside(search, simulation, policy, state.params, tasks, KEY, steps=1, rollouts=2)
    assert np.isnan(returns[:2]).all() and np.isfinite(returns[2]).all()


def test_where_all_trajectories_break_it_ends_and_says_where():
    with pytest.raises(RunFailed, match=r"All 6 trajectories broke, the first in task 1 .* at step 1: ValueError: no motor"):
        collected(gym_tasks(gym_family.AlwaysBreaking), [np.zeros(2)] * 2)
    with pytest.raises(RunFailed, match=r"ValueError: not enough values to unpack \(expected 5, got 4\)"):
        collected(gym_tasks(gym_family.OldStyle), [np.zeros(2)] * 2)


def test_a_simulation_that_runs_away_breaks_its_own_trajectory_alone(monkeypatch):
    simulation = locomotion("cheetah-vel", horizon=3)
    monkeypatch.setattr("fewstep.tasks.locomotion.AWAY", 2.0)  # some joint is faster before long
    found = collected(simulation, [0.0, 1.0], rollouts=8)
    assert found.broken.any() and "the simulation ran away" in found.said[0]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.trajectories))


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("gym_family", "expected module:factory"),
        ("no_such_module:make", "cannot be imported: ModuleNotFoundError"),
        ("gym_family:no_such", "expected a function no_such in gym_family, found none"),
        ("gym_family:not_an_environment", "a gymnasium.Env, got int"),
        ("gym_family:failing", "failed: OSError: no such simulator"),
        ("gym_family:WithoutTasks", r"WithoutTasks has no method sample_tasks\(rng, n\)"),
        ("gym_family:WithoutTelling", r"no method set_task\(task\), and its reset takes no options"),
        ("gym_family:TooFew", r"TooFew.sample_tasks\(rng, 8\) should return 8 tasks, returned 1"),
        ("gym_family:NoneToday", "should return 8 tasks, raised KeyError: 'goals'"),
        ("gym_family:ManySwitches", "expected a Box or a Discrete, got MultiBinary"),
    ],
)
def test_an_environment_without_the_protocol_is_told_what_it_lacks(name, complaint):
    with pytest.raises(BadInput, match=complaint):
        OwnEnvironment(env=name).build()


def test_tasks_that_are_all_the_same_are_noted():
    assert "all the same" in gym_tasks(factory_of("gym_family:AlwaysTheSame")).notes[0]
    assert gym_tasks(gym_family.Point).notes == ()


def test_normalized_observations_are_counted_over_the_steps_that_were_taken_and_no_gradient_reaches_them():
    policy = normalizing(policy_for(3, 2, hidden=(4,)), 3)
    theta = policy.init(KEY)
    random = np.random.default_rng(0)
    batches = [5 * random.normal(size=(4, 6, 3)) + 2 for _ in range(2)]
    weights = [(random.random((4, 6)) < 0.7).astype(float) for _ in range(2)]
    for rows, weight in zip(batches, weights, strict=True):
        theta = having_seen(theta, jnp.asarray(rows, jnp.float32), jnp.asarray(weight, jnp.float32))
    seen = np.concatenate([rows[weight > 0] for rows, weight in zip(batches, weights, strict=True)])
    np.testing.assert_allclose(theta[SEEN]["mean"], seen.mean(0), rtol=1e-4)
    np.testing.assert_allclose(theta[SEEN]["variance"], seen.var(0), rtol=1e-4)
    gradient = jax.grad(lambda theta: jnp.sum(policy.distribution(theta, jnp.ones((5, 3))).mean))(theta)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(gradient[SEEN]))
    plain = policy_for(3, 2, hidden=(4,))
    near = jnp.asarray((seen - seen.mean(0)) / seen.std(0), jnp.float32)
    rest = {name: leaf for name, leaf in theta.items() if name != SEEN}
    np.testing.assert_allclose(
        policy.distribution(theta, jnp.asarray(seen, jnp.float32)).mean, plain.distribution(rest, near).mean, atol=1e-5
    )


def test_the_command_trains_a_cheetah_and_the_same_seed_gives_the_same_run(tmp_path, capsys):
    assert cli.main(["train", "cheetah-dir", "--out", str(tmp_path / "one"), "--json", *SMALL]) == 0
    told = json.loads(capsys.readouterr().out)["evaluation"]
    assert told["metric"] == "return" and told["steps"] == [0, 1, 2, 3] and told["protocol"]["distinct_tasks"] == 2
    one = runs.open_run(tmp_path / "one")
    other = runs.train(one.settings, tmp_path / "other", quiet=True)
    same_bits(one.params("last"), other.params("last"))
    assert float(one.params("last").theta[SEEN]["count"]) == 2 * 2 * 2 * 2 * 5  # steps, tasks, rollouts, support and query
    assert told["mean"] == other.evaluate()["mean"]


def test_the_command_trains_in_a_users_own_environment(tmp_path, capsys):
    words = ["train", "rl", "--env", "gym_family:Buttons", "--outer", "ppo", "--inner-optimizer", "lslr", *SMALL]
    assert cli.main([*words, "--out", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluation"]["protocol"]["env"] == "gym_family:Buttons"
    assert cli.main(["train", "rl", "--out", str(tmp_path / "none")]) == 2
    assert "expected module:factory" in capsys.readouterr().err
    assert cli.main(["train", "cheetah-vel", "--action-scale", "2", "--out", str(tmp_path / "none")]) == 2
    assert "--action-scale should lie above 0" in capsys.readouterr().err


def test_every_preset_builds():
    for name in FAMILIES:
        for settings, _ in PRESETS[name].values():
            assert settings.build().name == name
    assert CheetahDir(horizon=7).build().protocol["horizon"] == 7
