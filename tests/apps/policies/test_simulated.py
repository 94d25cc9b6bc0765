"""Policies whose environment is a simulator outside JAX. Place: fewstep/apps/policies/environment.py, locomotion.py and
as_gymnasium.py, fewstep/apps/policies/simulated.py, fewstep/apps/policies/networks.py, fewstep/apps/policies/problems.py.
Users' environments: test_gym_tasks.py.

Oracles: gymnasium's own half-cheetah, stepped by hand; moments by NumPy.
"""

import json
import warnings
from dataclasses import replace
from typing import Any

import gym_family
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gym_family import KEY, SMALL, collected, policy_of, thetas_of
from gymnasium.utils.env_checker import check_env

from fewstep import cli, runs
from fewstep.application import presets
from fewstep.apps.policies.gymnasium import as_gymnasium, gym_tasks
from fewstep.apps.policies.locomotion import FAMILIES, directions, locomotion, velocities_of
from fewstep.apps.policies.networks import STATISTICS, normalize_observations, policy_for, update_statistics
from fewstep.apps.policies.problems import CheetahDir
from fewstep.apps.policies.simulated import collect_simulated
from fewstep.simulators.mujoco import capture_warnings, import_mujoco
from fewstep.training import loop
from fewstep.training.loop import Interrupted
from fewstep.training.progress import read_metrics

ALL = np.ones


def same_bits(one, other):
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("name", "reward"), [("cheetah-vel", lambda v: -abs(v - 1.2)), ("cheetah-dir", lambda v: 1.2 * v)])
def test_observations_and_rewards_are_those_of_gymnasiums_half_cheetah(name, reward):
    simulation = locomotion(name)
    seen = simulation.begin([1.2], [7]).observations
    with capture_warnings(import_mujoco()):  # gymnasium's file is written in an older way, which would be logged
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
        actions = random.normal(size=(5, simulation.action_size))
        active = np.array([True, number < 2, True, True, number < 1])
        many, one = simulation.step(actions, active), alone.step(actions[2:3], ALL(1, bool))
        same_bits(
            (one.observations[0], one.rewards[0], one.terminated[0]),
            (many.observations[2], many.rewards[2], many.terminated[2]),
        )


def test_an_ant_that_has_fallen_ends_and_is_paid_for_as_long_as_it_stood():
    simulation = locomotion("ant-dir", horizon=80, action_scale=1.0)
    policy = policy_for(simulation.observation_size, simulation.action_size, hidden=(8,), deviation=3.0)
    found = collect_simulated(simulation, policy, thetas_of(policy, 2), [1.0, -1.0], 6, KEY).trajectories
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


@pytest.mark.parametrize("name", FAMILIES)
def test_gymnasium_finds_nothing_wrong_with_the_environments(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unbounded observations, a range of actions other than 1
        check_env(as_gymnasium(locomotion(name)), skip_render_check=True)


def test_what_is_offered_to_gymnasium_comes_back_as_the_same_simulation():
    tasks = [1.0, -1.0]
    direct = locomotion("cheetah-dir", horizon=4)
    around = gym_tasks(lambda: as_gymnasium(locomotion("cheetah-dir")), horizon=4, action_scale=direct.action_limit**-1)
    assert (around.observation_size, around.action_size, around.action_limit) == (
        direct.observation_size,
        direct.action_size,
        direct.action_limit,
    )
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
    found = collect_simulated(simulation, policy, thetas, [np.ones(2), -np.ones(2)], 3, KEY).trajectories
    for number in range(2):
        theta = jax.tree.map(lambda leaf, number=number: leaf[number], thetas)
        expected = policy.log_probability(policy.distribution(theta, found.observations[number]), found.actions[number])
        np.testing.assert_allclose(found.log_probability[number], expected, rtol=1e-5, atol=1e-5)


def test_a_simulation_that_runs_away_breaks_its_own_trajectory_alone(monkeypatch):
    simulation = locomotion("cheetah-vel", horizon=3)
    monkeypatch.setattr("fewstep.apps.policies.locomotion.DIVERGENCE_LIMIT", 2.0)  # some joint is faster before long
    found = collected(simulation, [0.0, 1.0], rollouts=8)
    assert found.broken.any() and "the simulation ran away" in found.messages[0]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.trajectories))


def test_normalized_observations_are_counted_over_the_steps_that_were_taken_and_no_gradient_reaches_them():
    policy = normalize_observations(policy_for(3, 2, hidden=(4,)), 3)
    theta = policy.init(KEY)
    random = np.random.default_rng(0)
    batches = [5 * random.normal(size=(4, 6, 3)) + 2 for _ in range(2)]
    weights = [(random.random((4, 6)) < 0.7).astype(float) for _ in range(2)]
    for rows, weight in zip(batches, weights, strict=True):
        theta = update_statistics(theta, jnp.asarray(rows, jnp.float32), jnp.asarray(weight, jnp.float32))
    seen = np.concatenate([rows[weight > 0] for rows, weight in zip(batches, weights, strict=True)])
    np.testing.assert_allclose(theta[STATISTICS]["mean"], seen.mean(0), rtol=1e-4)
    np.testing.assert_allclose(theta[STATISTICS]["variance"], seen.var(0), rtol=1e-4)
    gradient = jax.grad(lambda theta: jnp.sum(policy.distribution(theta, jnp.ones((5, 3))).mean))(theta)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(gradient[STATISTICS]))
    plain = policy_for(3, 2, hidden=(4,))
    near = jnp.asarray((seen - seen.mean(0)) / seen.std(0), jnp.float32)
    rest = {name: leaf for name, leaf in theta.items() if name != STATISTICS}
    np.testing.assert_allclose(
        policy.distribution(theta, jnp.asarray(seen, jnp.float32)).mean, plain.distribution(rest, near).mean, atol=1e-5
    )


@pytest.mark.slow
def test_the_command_trains_a_cheetah_and_the_same_seed_gives_the_same_run(tmp_path, capsys):
    assert cli.main(["train", "cheetah-dir", "--out", str(tmp_path / "one"), "--json", *SMALL]) == 0
    told = json.loads(capsys.readouterr().out)["evaluation"]
    assert told["metric"] == "return" and told["steps"] == [0, 1, 2, 3] and told["protocol"]["distinct_tasks"] == 2
    one = runs.open_run(tmp_path / "one")
    other = runs.train(one.settings, tmp_path / "other", quiet=True)
    same_bits(one.params("last"), other.params("last"))
    assert (
        float(one.params("last").theta[STATISTICS]["count"]) == 2 * 2 * 2 * 2 * 5
    )  # steps, tasks, rollouts, support and query
    assert told["mean"] == other.evaluate()["mean"]


@pytest.mark.slow
def test_a_stopped_run_in_a_simulator_goes_on_bit_for_bit(tmp_path, monkeypatch):
    settings = CheetahDir(meta_batch_size=2, rollouts=2, hidden=(8,), meta_steps=4, log_every=2, horizon=5)
    whole = runs.train(settings, tmp_path / "whole", quiet=True)
    asked = iter([False, False, True])  # to stop after three meta-steps, between two lines of the log

    class Stopped(loop.StopSignals):
        requested = property(lambda self: next(asked), lambda self, value: None)

    monkeypatch.setattr(loop, "StopSignals", Stopped)
    with pytest.raises(Interrupted):
        runs.train(settings, tmp_path / "parted", quiet=True)
    monkeypatch.undo()
    parted = runs.resume(runs.open_run(tmp_path / "parted"), quiet=True)
    same_bits(parted.params("last"), whole.params("last"))
    logs = [read_metrics(run.directory / "metrics.jsonl") for run in (whole, parted)]
    assert [{**record, "seconds": 0} for record in logs[0]] == [{**record, "seconds": 0} for record in logs[1]]
    assert [record["environment_steps"] for record in logs[1]] == [2 * 2 * 2 * 2 * 5, 4 * 2 * 2 * 2 * 5]
    tables = [(run.directory / "metrics.csv").read_text().splitlines() for run in (whole, parted)]
    assert [line.rpartition(",")[0] for line in tables[0]] == [line.rpartition(",")[0] for line in tables[1]]  # but seconds


def test_every_preset_builds():
    for name in FAMILIES:
        for settings, _ in presets()[name].values():
            assert settings.build().name == name
    assert CheetahDir(horizon=7).build().protocol["horizon"] == 7
