"""Policies in the training loop: checkpoints, going back, devices, time. Place: fewstep/apps/policies/training.py,
fewstep/training/loop.py, fewstep/training/loop.py."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from known import assert_close, assert_same_bits, slow_but

from fewstep import cli, runs
from fewstep.apps.policies.meta_step import scale_step
from fewstep.apps.policies.networks import STATISTICS, normalize_observations
from fewstep.apps.policies.problems import CheetahDir, Nav2d
from fewstep.apps.policies.training import PolicyTrainer
from fewstep.errors import InputError, TrainingError
from fewstep.training import loop
from fewstep.training.devices import task_mesh
from fewstep.training.progress import read_metrics
from fewstep.variants.outer import slowdown, slower

KEY = jax.random.key(7)
BUILT = Nav2d(meta_batch_size=4, rollouts=3, hidden=(4,), meta_steps=4, log_every=2, rollbacks=2).build()
PROBLEM = replace(BUILT, validation_tasks=4, remeasured_tasks=4, evaluation_rollouts=3, updates=1)


class Failing(PolicyTrainer):
    """The fourth meta-step is not finite until the run has gone back once."""

    def run(self, state, key, steps):
        after, stats = super().run(state, key, steps)
        if int(state.step) == 3 and slowdown(state) == 1:
            return state, stats._replace(steps=0, finite=False)
        return after, stats


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(its folder, its last state) of a run without a stop."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, jax.device_get(loop.train(PROBLEM, folder, quiet=True))


def start(problem=PROBLEM):
    return problem.initial_state(problem.init(KEY))


def logged(folder):
    return [{**record, "seconds": 0} for record in read_metrics(folder / "metrics.jsonl")]


def kill_at(monkeypatch, step):
    def advance(self, done):
        if done == step:
            raise Killed

    monkeypatch.setattr(loop.Progress, "advance", advance)


def test_checkpoints_between_two_lines_of_the_log_bound_what_a_kill_costs(whole, tmp_path):
    problem = replace(PROBLEM, checkpoint_every=1)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 4)
        loop.train(problem, tmp_path, quiet=True)
    assert max(int(path.stem) for path in (tmp_path / "checkpoints").iterdir()) == 3
    assert_same_bits(jax.device_get(loop.train(problem, tmp_path, resume=True, quiet=True)), whole[1])
    assert logged(tmp_path) == logged(whole[0])


def test_a_run_that_is_out_of_time_is_saved_and_goes_on_bit_for_bit(whole, tmp_path):
    with pytest.raises(loop.OutOfTime):
        loop.train(PROBLEM, tmp_path, quiet=True, late=lambda: True)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1.safetensors"]
    assert_same_bits(jax.device_get(loop.train(PROBLEM, tmp_path, resume=True, quiet=True)), whole[1])
    assert logged(tmp_path) == logged(whole[0])


def test_training_in_memory_ends_in_the_same_bits(whole):
    assert_same_bits(loop.train_in_memory(PROBLEM), jax.tree.map(jnp.asarray, whole[1].params))


def test_the_log_has_the_keys_and_the_copies_of_any_run(whole, capsys):
    folder, _ = whole
    first, last = read_metrics(folder / "metrics.jsonl")
    assert next(iter(first)) == "meta_step" and {"validation", "seconds"} < set(first)
    assert {"chosen_meta_step", "chosen_returns"} == set(last) - set(first)
    assert (folder / "metrics.csv").is_file() and list(folder.glob("events.out.tfevents.*"))
    words = PolicyTrainer(PROBLEM, None, 0, True).words(first)
    assert words[0].startswith("returns after 0, 1, … updates: -") and words[1].endswith("M environment steps")


def test_a_run_that_is_not_finite_goes_back_to_its_best_checkpoint_and_takes_steps_half_as_large(whole, tmp_path):
    problem = replace(PROBLEM, trainer=lambda: Failing)
    state = jax.device_get(loop.train(problem, tmp_path / "run", quiet=True))
    assert int(state.step) == 4 and slowdown(state) == 0.5
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [record["meta_step"] for record in records] == [2, 4]
    (told,) = [warning for record in records for warning in record.get("warnings", ())]
    assert "not finite at meta-step 4" in told and "Going back to meta-step 2, with" in told and "0.5 of the outer rate" in told
    taken = read_metrics(whole[0] / "metrics.jsonl")[-1]["environment_steps"]
    assert records[-1]["environment_steps"] > taken  # those of the meta-step that failed were taken, too
    loop.train(problem, tmp_path / "half", meta_steps=2, quiet=True)
    assert_same_bits(jax.device_get(loop.train(problem, tmp_path / "half", resume=True, quiet=True)), state)


@pytest.mark.parametrize("rollbacks", [0, 2])
def test_a_run_whose_first_meta_step_is_not_finite_stops_and_says_what_to_try(rollbacks, tmp_path):
    problem = Nav2d(meta_batch_size=2, rollouts=2, hidden=(2,), outer_rate=1e38, epochs=2, rollbacks=rollbacks).build()
    with pytest.raises(TrainingError, match=r"not finite at meta-step 1\. Try a smaller --inner-rate or --outer-rate"):
        loop.train(problem, tmp_path, quiet=True)


def test_after_going_back_parameters_move_half_as_far_and_observations_are_counted_as_before():
    trainer = PolicyTrainer(PROBLEM, None, 0, True)
    state = start()
    full, half = (trainer.run(each, KEY, 1)[0] for each in (state, slower(state, 0.5)))
    moved = jax.tree.map(lambda new, old: 0.5 * (new - old), full.params, state.params)
    assert_close(jax.tree.map(jnp.subtract, half.params, state.params), moved, atol=1e-7)
    assert_same_bits(half.opt_state.inner, full.opt_state.inner)
    params = PROBLEM.init(KEY)
    theta = normalize_observations(PROBLEM.policy, PROBLEM.environment.observation_size).init(KEY)
    before = full._replace(params=params._replace(theta=theta, inner=()))
    later = jax.tree.map(lambda leaf: leaf + 1, before.params)
    found = scale_step(before, before._replace(params=later), 0.5)
    assert_same_bits(found.params.theta[STATISTICS], later.theta[STATISTICS])
    assert_close(found.params.theta["log_deviation"], theta["log_deviation"] + 0.5)


@pytest.mark.parametrize(("outer", "tasks"), slow_but([("ppo", 4), ("ppo", 5), ("trpo", 4), ("trpo", 5)], ("ppo", 5)))
def test_two_devices_give_the_meta_step_of_one(float64, outer, tasks):
    settings = Nav2d(meta_batch_size=tasks, rollouts=3, hidden=(4,), outer=outer)
    problem = replace(settings.build(), validation_tasks=4, evaluation_rollouts=3, updates=1)
    (one, stats), (two, others) = (
        PolicyTrainer(problem, task_mesh(devices), 0, True).run(start(problem), KEY, 1) for devices in (1, 2)
    )
    assert_close(two.params, one.params, rtol=1e-6, atol=1e-9)
    assert stats.totals == others.totals and stats.latest["accepted"] == others.latest["accepted"]
    assert others.latest["returns"] == pytest.approx(stats.latest["returns"], abs=1e-3)
    assert_close(two.opt_state, one.opt_state, rtol=1e-6, atol=1e-9)


def test_two_devices_share_the_operations_of_a_meta_step_and_validate_as_one(tmp_path):
    trainers = [PolicyTrainer(PROBLEM, task_mesh(devices), 0, True) for devices in (1, 2)]
    values = [trainer.validate(trainer.place(start()), KEY).value for trainer in trainers]
    assert values[1] == pytest.approx(values[0], rel=1e-5)
    bare = start()._replace(opt_state=start().opt_state.inner)
    one, two = (trainer._meta_step.func.lower(*trainer._meta_step.args, bare, KEY, **trainer._meta_step.keywords)
                .compile().cost_analysis()["flops"] for trainer in trainers)  # fmt: skip
    assert 0.45 < two / one < 0.6


def test_a_simulator_refuses_devices_before_anything_is_written(tmp_path, capsys):
    with pytest.raises(InputError, match="--devices 2: expected 1, since cheetah-dir acts in a simulator outside JAX"):
        runs.train(CheetahDir(), tmp_path / "run", devices=2)
    assert cli.main(["train", "cheetah-dir", "--devices", "2", "--out", str(tmp_path / "run")]) == 2
    assert "a simulator outside JAX" in capsys.readouterr().err and not (tmp_path / "run").exists()
    assert PolicyTrainer.mesh_of(CheetahDir().build(), 1).size == PolicyTrainer.mesh_of(BUILT, None).size == 1


def test_a_policy_refuses_several_processes(tmp_path, capsys):
    words = ["--processes", "2", "--process", "0", "--coordinator", "localhost:1", "--out", str(tmp_path / "run")]
    assert cli.main(["train", "nav2d", *words]) == 2
    assert "--processes: nav2d knows no such thing" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--checkpoint-every", "-1"), ("--rollbacks", "-1")])
def test_bad_settings_of_the_loop_are_said(option, value, tmp_path, capsys):
    assert cli.main(["train", "nav2d", option, value, "--out", str(tmp_path / "run")]) == 2
    assert f"{option} should be at least 0, got {value}" in capsys.readouterr().err
