"""Robots with faults as a Problem: episodes against the simulation, and the whole command. Place: fewstep/apps/robots/tasks.py,
fewstep/apps/robots/settings.py."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from fewstep import cli
from fewstep.apps.robots.data import collect_experience
from fewstep.apps.robots.faults import FAMILIES, Faults
from fewstep.apps.robots.settings import RobotFaults
from fewstep.apps.robots.tasks import format_of, windows
from fewstep.core.tasks import Shots
from fewstep.errors import InputError
from fewstep.runs import open_run
from fewstep.runs.config import write_config
from fewstep.simulators.mujoco import Robot

pytest.importorskip("mujoco", reason="robots need the extra [rl]")
SMALL = RobotFaults(
    robots=(6, 3, 3), runs=2, run_steps=20, shots=5, queries=4, hidden=(8,), meta_steps=20, log_every=10, meta_batch_size=4
)


@pytest.fixture(scope="module")
def experience():
    robot = Robot("half-cheetah")
    return robot, collect_experience(Faults(robot, FAMILIES["severe"]), 0, robots=4, runs=2, steps=20)


def test_a_window_is_a_stretch_of_one_run_whose_targets_lead_to_the_next_observation(experience):
    robot, found = experience
    format = format_of(robot, found)
    episode = windows(found, format, Shots(5, 5), queries=4).episode(jnp.asarray(2), jax.random.key(3))
    inputs, targets = (np.concatenate([getattr(part, name) for part in episode]) for name in ("inputs", "targets"))
    center, scale = (np.array([getattr(column, name) for column in format.inputs]) for name in ("center", "scale"))
    observation = (inputs * scale + center)[:, : robot.observation_size]
    np.testing.assert_allclose((observation + format.restore(targets))[:-1], observation[1:], atol=2e-3)
    starts = found.observations[2, :, :, 0]  # of robot 2 alone
    assert np.isclose(starts, observation[0, 0], atol=1e-4).any()


def test_inputs_and_targets_of_the_meta_train_robots_are_standardized(experience):
    robot, found = experience
    format = format_of(robot, found)
    family = windows(found, format, Shots(1, 1), queries=19)  # a whole run
    episodes = jax.vmap(lambda task, key: family.episode(task, key))(
        jnp.arange(400) % 4, jax.random.split(jax.random.key(0), 400)
    )
    for name in ("inputs", "targets"):
        values = jnp.concatenate([getattr(part, name) for part in episodes], 1).reshape(-1, len(getattr(format, name)))
        np.testing.assert_allclose(values.mean(0), 0, atol=0.15)
        np.testing.assert_allclose(values.std(0), 1, atol=0.15)


def test_fewer_support_transitions_are_the_last_before_the_queries(experience):
    robot, found = experience
    family = windows(found, format_of(robot, found), Shots(1, 6), queries=3)
    assert family.episode(jnp.asarray(0), jax.random.key(0), 2).support.weight.tolist() == [0, 0, 0, 0, 1, 1]


def test_what_an_oracle_is_told_is_the_condition_of_the_robot(experience):
    robot, found = experience
    episode = windows(found, format_of(robot, found), Shots(2, 2), 2, oracle=True).episode(jnp.asarray(3), jax.random.key(0))
    np.testing.assert_allclose(episode.query.inputs[:, -7:], np.tile(found.conditions[3], (2, 1)), rtol=1e-6)


def test_meta_train_validation_and_test_robots_are_different_ones_and_the_same_for_the_same_seed():
    one, again, other = (SMALL.build(seed) for seed in (0, 0, 1))
    key = jax.random.key(0)
    shown = [built.splits.test.episode(jnp.asarray(0), key).query.targets for built in (one, again, other)]
    assert np.array_equal(shown[0], shown[1]) and not np.array_equal(shown[0], shown[2])
    assert not np.array_equal(shown[0], one.splits.validation.episode(jnp.asarray(0), key).query.targets)


def test_robots_are_trained_drawn_and_adapted_from_a_log(command, tmp_path):
    words = ["--robots", "6", "3", "3", "--runs", "2", "--run-steps", "20", "--shots", "5", "--queries", "4", "--hidden", "8"]
    words += ["--meta-steps", "20", "--log-every", "10", "--meta-batch-size", "4"]
    code, _, err = command("train", "robot-faults", *words, "--out", "run")
    assert code == 0, err
    assert "12 robots, 480 control steps of 0.05 s" in err
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert result["tasks"] == 3 and result["metric"] == "standardized_mse" and result["protocol"]["robot"] == "half-cheetah"
    assert {path.stem for path in (tmp_path / "run" / "plots").iterdir()} >= {"training", "adaptation", "unseen_tasks"}
    robot = Robot("half-cheetah")
    found = collect_experience(Faults(robot, FAMILIES["severe"]), 7, robots=1, runs=1, steps=12)
    observed, random_commands = robot.names
    rows = np.concatenate([found.observations[0, 0, :-1], found.actions[0, 0], np.diff(found.observations[0, 0], axis=0)], 1)
    names = [*observed, *random_commands, *(f"change of {name}" for name in observed)]
    pl.DataFrame(rows.astype(float), schema=names).write_csv(tmp_path / "log.csv")
    code, _, err = command("adapt", "run", "--support", "log.csv", "--out", "adapted")
    assert code == 0, err
    code, _, err = command("predict", "adapted", "--inputs", "log.csv", "--out", "next.csv")
    assert code == 0, err
    assert pl.read_csv(tmp_path / "next.csv").height == 12
    for words in (["adapt", "run", "--support", "log.csv", "--out", "other"], ["evaluate", "run"]):
        code, _, err = command(*words, "--steps", "auto")
        assert code == 2 and "--steps auto is for tables: of robot-faults no support rows are left out" in err
    assert not (tmp_path / "other").exists()


ARM = """<mujoco><worldbody><body name="arm"><joint name="shoulder"/><geom size=".1 .3" type="capsule"/></body></worldbody>
<actuator><motor joint="shoulder"/></actuator></mujoco>"""


def test_a_run_says_where_the_file_of_its_robot_or_its_faults_is_not_what_it_was_trained_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("arm.xml", ARM), ("load.yaml", "- {field: body_mass, between: [0.5, 2.0]}")):
        (tmp_path / name).write_text(text)
    settings = replace(SMALL, robot="arm.xml", family="load.yaml")
    (tmp_path / "run").mkdir()
    write_config(settings, settings.build(0), tmp_path / "run", 0, "default")
    monkeypatch.chdir(tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert run.problem().name == "robot-faults"
    for name, what in (("arm.xml", "robot"), ("load.yaml", "family")):
        sound = (tmp_path / name).read_text()
        (tmp_path / name).write_text(sound.replace("3", "4").replace("2.0", "3.0"))
        with pytest.raises(InputError, match=f"the {what} has changed since this run was trained"):
            run.problem()
        (tmp_path / name).unlink()
        with pytest.raises(InputError, match=f"its {what} is not at"):
            run.problem()
        (tmp_path / name).write_text(sound)


def test_a_log_is_trained_on_where_its_robot_can_be_given_the_faults_of_the_family(tmp_path):
    (tmp_path / "arm.xml").write_text(ARM)
    with pytest.raises(InputError, match=r"no body torso.*take mild, friction or a YAML file"):
        replace(SMALL, robot=str(tmp_path / "arm.xml"), data="log.npz").build(0)


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"run_steps": 8}, "--run-steps 8 is too few for 5 support and 4 query"),
        ({"robots": (0, 1, 1)}, "--robots and --runs should be at least 1"),
        ({"robot": "robot.xml"}, "found none of them"),
        ({"family": "sevre"}, "Did you mean severe"),
    ],
)
def test_what_cannot_be_simulated_is_said(changes, complaint):
    with pytest.raises(InputError, match=complaint):
        replace(SMALL, **changes).build(0)


def test_without_mujoco_the_command_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr("fewstep.simulators.mujoco.find_spec", lambda name: None)
    assert cli.main(["train", "robot-faults", "--seed", "5"]) == 2
    assert "pip install 'fewstep[rl]'" in capsys.readouterr().err
