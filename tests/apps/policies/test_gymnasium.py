"""Users' own Gymnasium environments, good and bad. Place: fewstep/apps/policies/gymnasium.py,
fewstep/apps/policies/problems.py and what fewstep/apps/policies/simulated.py does where a trajectory breaks. Oracle: 2D
navigation as a pure function."""

import json
import os
import shlex
import signal
import sys
import warnings
from typing import ClassVar

import gym_family
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gym_family import KEY, SMALL, collected, params_of, policy_of
from gymnasium.utils.env_checker import check_env

from fewstep import cli, runs
from fewstep.apps.policies.gymnasium import factory_of, gym_tasks
from fewstep.apps.policies.meta_step import PolicySearch
from fewstep.apps.policies.nav2d import navigation
from fewstep.apps.policies.problems import OwnEnvironment
from fewstep.apps.policies.simulated import evaluate_simulated, simulated_meta_step
from fewstep.apps.policies.trpo import TrustRegion
from fewstep.errors import InputError, NotTrusted, TrainingError
from fewstep.training.loop import Interrupted
from fewstep.training.progress import read_metrics


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


@pytest.mark.parametrize("make", [gym_family.Point, gym_family.Buttons])
def test_gymnasium_finds_nothing_wrong_with_the_environments_of_these_tests(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(make(), skip_render_check=True)


def test_discrete_actions_get_a_categorical_policy_and_a_horizon_of_one_is_learned_in():
    simulation = gym_tasks(gym_family.Buttons, horizon=1)
    assert simulation.discrete and simulation.action_size == 3 and simulation.observation_size == 2
    policy = policy_of(simulation)
    search = PolicySearch(tasks=12, rollouts=30, inner_rate=2.0, outer=TrustRegion(kl_limit=0.1))
    state = search.outer.init(params_of(policy))
    state, info = simulated_meta_step(search, simulation, policy, state, KEY)
    assert int(info.environment_steps) == 12 * 30 * 2 and bool(info.outer.finite) and not info.dropped
    tasks = simulation.sample_tasks(np.random.default_rng(0), 20)
    returns = evaluate_simulated(
        search, simulation, policy, state.params, tasks, KEY, steps=2, rollouts=40, later_rate=1.0
    ).returns
    assert returns.shape == (20, 3)
    by_update = returns.mean(0)
    assert by_update[0] == pytest.approx(1 / 3, abs=0.1) and by_update[2] > by_update[0] + 0.2


def test_a_trajectory_that_breaks_counts_for_nothing_and_is_told_of():
    simulation = gym_tasks(gym_family.Breaking, horizon=6)
    tasks = [np.array(goal) for goal in ([0.4, 0.4], [0.4, -0.4], [-0.4, 0.4])]
    found = collected(simulation, tasks, rollouts=2)
    np.testing.assert_array_equal(found.broken, [[True] * 2, [True] * 2, [False] * 2])
    weight = np.asarray(found.trajectories.weight)
    np.testing.assert_array_equal(weight.sum(-1), [[0, 0], [0, 0], [6, 6]])  # the whole of it is left out
    assert len(found.messages) == 4
    raised, unnumbered = found.messages[0], found.messages[2]
    assert raised.startswith("task 1 (") and "at step 3: ValueError: the motor is gone" in raised
    assert unnumbered.startswith("task 2 (") and "at step 3: what came back is not a number" in unnumbered
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.trajectories))
    policy = policy_of(simulation)
    search = PolicySearch(tasks=4, rollouts=3)
    state, info = simulated_meta_step(search, simulation, policy, search.outer.init(params_of(policy)), KEY)
    assert bool(info.outer.finite) and info.dropped
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    returns = evaluate_simulated(search, simulation, policy, state.params, tasks, KEY, steps=1, rollouts=2).returns
    assert np.isnan(returns[:2]).all() and np.isfinite(returns[2]).all()


def test_where_all_trajectories_break_it_ends_and_says_where():
    with pytest.raises(
        TrainingError, match=r"All 6 trajectories broke, the first in task 1 .* at step 1: ValueError: no motor"
    ):
        collected(gym_tasks(gym_family.AlwaysBreaking), [np.zeros(2)] * 2)
    with pytest.raises(TrainingError, match=r"ValueError: not enough values to unpack \(expected 5, got 4\)"):
        collected(gym_tasks(gym_family.OldStyle), [np.zeros(2)] * 2)


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
    with pytest.raises(InputError, match=complaint):
        OwnEnvironment(env=name).build()


def test_tasks_that_are_all_the_same_are_noted():
    assert "all the same" in gym_tasks(factory_of("gym_family:AlwaysTheSame")).notes[0]
    assert gym_tasks(gym_family.Point).notes == ()


def test_the_command_trains_in_a_users_own_environment(tmp_path, capsys):
    words = ["train", "rl", "--env", "gym_family:Buttons", "--outer", "ppo", "--inner-optimizer", "lslr", *SMALL]
    assert cli.main([*words, "--out", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluation"]["protocol"]["env"] == "gym_family:Buttons"
    assert cli.main(["train", "rl", "--out", str(tmp_path / "none")]) == 2
    assert "expected module:factory" in capsys.readouterr().err
    assert cli.main(["train", "cheetah-vel", "--action-scale", "2", "--out", str(tmp_path / "none")]) == 2
    assert "--action-scale should lie above 0" in capsys.readouterr().err


class Asked(gym_family.Point):
    """A slow environment in which the run is asked to stop, by `signals` at so many steps of all environments."""

    at: ClassVar[dict[int, int]] = {}
    steps: ClassVar[int] = 0

    def step(self, action):
        Asked.steps += 1
        if number := Asked.at.get(Asked.steps):
            os.kill(os.getpid(), number)
        return super().step(action)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_answered_between_two_steps_of_an_environment_and_the_run_goes_on_bit_for_bit(
    number, tmp_path, monkeypatch
):
    monkeypatch.setattr(gym_family, "Asked", Asked, raising=False)
    settings = OwnEnvironment(
        env="gym_family:Asked", horizon=4, meta_batch_size=2, rollouts=2, hidden=(4,), meta_steps=2, log_every=2
    )
    monkeypatch.setattr(Asked, "steps", 0)
    whole = runs.train(settings, tmp_path / "whole", quiet=True)
    made, one = Asked.steps, 2 * 2 * 2 * 4  # steps in all, and of a meta-step: tasks, rollouts, collections, horizon
    for name, asked, number in (("meta-step", one + 5, signal.SIGTERM), ("validation", 2 * one + 7, signal.SIGINT)):
        monkeypatch.setattr(Asked, "steps", 0)
        monkeypatch.setattr(Asked, "at", {asked: number})
        with pytest.raises(Interrupted):
            runs.train(settings, tmp_path / name, quiet=True)
        assert Asked.steps == asked < made
        monkeypatch.setattr(Asked, "at", {})
        parted = runs.resume(runs.open_run(tmp_path / name, env="gym_family:Asked"), quiet=True)
        for left, right in zip(jax.tree.leaves(parted.params("last")), jax.tree.leaves(whole.params("last")), strict=True):
            np.testing.assert_array_equal(left, right)
        logs = [read_metrics(run.directory / "metrics.jsonl") for run in (whole, parted)]
        assert [{**record, "seconds": 0} for record in logs[0]] == [{**record, "seconds": 0} for record in logs[1]]


def test_validation_takes_at_most_a_fifth_of_all_trajectories_and_as_many_tasks_as_that_allows():
    for settings in (OwnEnvironment(), OwnEnvironment(meta_batch_size=40), OwnEnvironment(log_every=12, adaptation_steps=2)):
        trained = settings.log_every * settings.meta_batch_size * (1 + settings.adaptation_steps) * settings.rollouts
        judged = settings.validation_tasks * (1 + 3) * settings.rollouts
        assert settings.validation_tasks == 40 or 0.18 < judged / (judged + trained) <= 0.2
    assert OwnEnvironment().validation_tasks == 25
    assert OwnEnvironment(meta_batch_size=2).validation_tasks == 10


WITNESS = """
import pathlib
from gym_family import Buttons, Point
pathlib.Path(__file__).with_name("imported").touch()
"""


@pytest.fixture(scope="module")
def trained_elsewhere(tmp_path_factory):
    """A folder with a module that leaves a file behind wherever it is imported, and a run in its environment."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "witness_tasks.py").write_text(WITNESS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        assert cli.main(["train", "rl", "--env", "witness_tasks:Buttons", "--outer", "ppo", *SMALL, "--out", "run"]) == 0
    return folder


@pytest.fixture
def own_run(trained_elsewhere, monkeypatch, capsys):
    """That run, as one finds it who has not imported the module."""
    monkeypatch.chdir(trained_elsewhere)
    monkeypatch.syspath_prepend(trained_elsewhere)
    sys.modules.pop("witness_tasks", None)
    (trained_elsewhere / "imported").unlink(missing_ok=True)
    capsys.readouterr()
    return trained_elsewhere / "run"


def test_the_code_that_a_run_names_is_not_run_until_it_is_named_again(own_run, capsys):
    for words in (["evaluate", "run"], ["resume", "run"], ["adapt", "run", "--out", "it"], ["play", "run", "--out", "it.gif"]):
        assert "If you trust it" in _told(words, capsys)
    assert "--support is for" in _told(["adapt", "run", "--support", "rows.csv", "--out", "it"], capsys)
    assert f"  fewstep {shlex.join(['evaluate', 'run'])} --env witness_tasks:Buttons\n" in _told(["evaluate", "run"], capsys)
    assert cli.main(["results", "run"]) == 0 and cli.main(["plot", "run"]) == 0
    assert not (own_run.parent / "imported").exists()
    with pytest.raises(NotTrusted, match="witness_tasks:Buttons"):
        runs.open_run(own_run).problem()
    told = _told(["evaluate", "run"], capsys).splitlines()[-1]
    assert cli.main(shlex.split(told)[1:]) == 0  # the command that was shown
    assert (own_run.parent / "imported").exists()


def test_a_run_is_judged_in_another_environment_of_its_sizes_and_goes_on_in_its_own_alone(own_run, capsys):
    saved = (own_run / "evaluation.json").read_bytes()
    assert cli.main(["evaluate", "run", "--env", "gym_family:Buttons", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["protocol"]["env"] == "gym_family:Buttons"
    assert (own_run / "evaluation.json").read_bytes() == saved  # which is of the run's own environment
    assert "goes on in the environment that it began in" in _told(["resume", "run", "--env", "gym_family:Buttons"], capsys)
    assert "actions 2, expected 3" in _told(["evaluate", "run", "--env", "gym_family:Point"], capsys)
    assert cli.main(["resume", "run", "--env", "witness_tasks:Buttons"]) == 0


def _told(words, capsys):
    assert cli.main(words) == 2
    return capsys.readouterr().err
