"""What robots lived through, as a file and in rounds. Place: fewstep/apps/robots/data.py, fewstep/apps/robots/rollouts.py,
fewstep/apps/robots/cli.py."""

import json

import jax
import numpy as np
import pytest

from fewstep import cli
from fewstep.apps.robots.cli import Collect
from fewstep.apps.robots.data import (
    PARTS,
    Experience,
    Simulator,
    collect_experience,
    merge_runs,
    read_experience,
    write_experience,
)
from fewstep.apps.robots.faults import FAMILIES, Faults
from fewstep.apps.sine.settings import Sine
from fewstep.errors import InputError
from fewstep.runs.config import write_config
from fewstep.simulators.mujoco import Robot
from fewstep.storage.arrays import write_arrays

pytest.importorskip("mujoco", reason="robots need the extra [rl]")
SMALL = ["--robots", "6", "3", "3", "--runs", "2", "--run-steps", "20", "--shots", "5", "--queries", "4", "--hidden", "8"]
SHORT = ["--meta-steps", "20", "--log-every", "10", "--meta-batch-size", "4"]


@pytest.fixture(scope="module")
def parts():
    faults = Faults(Robot("half-cheetah"), FAMILIES["severe"])
    return {part: collect_experience(faults, number, robots=3, runs=2, steps=12) for number, part in enumerate(PARTS)}


def test_what_is_written_is_read_again_bit_for_bit(parts, tmp_path):
    write_experience(tmp_path / "lived.npz", parts)
    found = read_experience(str(tmp_path / "lived.npz"), Robot("half-cheetah"))
    for part in PARTS:
        for one, other in zip(found[part][:3], parts[part][:3], strict=True):
            np.testing.assert_array_equal(one, other)
    assert [path.name for path in tmp_path.iterdir()] == ["lived.npz"]


def test_a_log_of_real_robots_needs_no_conditions(parts, tmp_path):
    names = ("observations", "actions")
    np.savez(tmp_path / "log.npz", **{f"{part}_{name}": getattr(parts[part], name) for part in PARTS for name in names})
    assert read_experience(str(tmp_path / "log.npz"), Robot("half-cheetah"))["test"].conditions.shape == (3, 0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda a: a.pop("validation_actions"), "it has no validation_actions. Expected train_actions, validation_actions"),
        (lambda a: a.update(train_actions=a["train_actions"][..., :5]), r"numbers \[robots, runs, steps, 6\] for half-cheetah"),
        (lambda a: a.update(train_actions=a["train_actions"][:, :, :9]), "one more observation than actions"),
        (lambda a: a["test_observations"].__setitem__((1, 0, 4, 2), np.nan), "robot 2, run 1, step 5: a number is not finite"),
        (lambda a: a.update(test_conditions=np.zeros((2, 7))), r"expected numbers \[3, factors\], got float64 \[2, 7\]"),
        (lambda a: a.update(train_actions=np.array([None])), "damaged or none"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(parts, tmp_path, change, complaint):
    write_experience(tmp_path / "lived.npz", parts)
    arrays = dict(np.load(tmp_path / "lived.npz"))
    change(arrays)
    np.savez(tmp_path / "changed.npz", **arrays)
    with pytest.raises(InputError, match=complaint):
        read_experience(str(tmp_path / "changed.npz"), Robot("half-cheetah"))


def test_a_file_that_is_missing_or_damaged_or_cannot_be_written_is_said(parts, tmp_path):
    robot = Robot("half-cheetah")
    with pytest.raises(InputError, match="found none"):
        read_experience(str(tmp_path / "none.npz"), robot)
    write_experience(tmp_path / "lived.npz", parts)
    whole = (tmp_path / "lived.npz").read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.npz").write_bytes(whole[:length])
        with pytest.raises(InputError, match="damaged or none"):
            read_experience(str(tmp_path / "cut.npz"), robot)
    with pytest.raises(InputError, match="cannot be written"):
        write_experience(tmp_path / "nowhere" / "lived.npz", parts)


def test_further_runs_join_those_of_the_same_robots_and_who_is_left_out_of_them_is_left_out(parts):
    first = parts["train"]
    more = Experience(first.observations[[0, 2], :1], first.actions[[0, 2], :1], first.conditions[[0, 2]], ((1, 5),))
    found = merge_runs(first, more)
    assert found.observations.shape[:2] == (2, 3) and found.dropped == ((1, 5),)
    np.testing.assert_array_equal(found.observations[1, :2], first.observations[2])
    np.testing.assert_array_equal(found.observations[1, 2], first.observations[2, 0])
    np.testing.assert_array_equal(found.conditions, first.conditions[[0, 2]])


@pytest.mark.slow
def test_robots_are_driven_by_a_run_and_what_they_lived_through_is_trained_on(tmp_path, capsys):
    """Each transition of a driven run is what MuJoCo makes of this very robot."""
    run, file = tmp_path / "run", tmp_path / "more.npz"
    assert cli.main(["train", "robot-faults", "--out", str(run), *SMALL, *SHORT]) == 0
    assert cli.main(["gather", str(run), "--out", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert told["robots"] == {"train": 6, "validation": 3, "test": 3} and told["runs_of_each"] == 3 and told["left_out"] == 0
    robot = Robot("half-cheetah")
    faults, found = Faults(robot, FAMILIES["severe"]), read_experience(str(file), robot)
    driven = found["test"]
    assert np.isfinite(told["model_error"]) and driven.actions.shape == (3, 3, 20, 6)
    states = np.zeros((3 * 20, 1 + robot.model.nq + robot.model.nv))
    states[:, 1 + robot.world_coordinates :] = driven.observations[:, 2, :-1].reshape(60, -1)
    models = [faults.model(condition) for condition in driven.conditions for _ in range(20)]
    after = robot.observation(Simulator(robot).run(models, states, driven.actions[:, 2].reshape(60, 1, 6))[:, -1])
    np.testing.assert_allclose(after, driven.observations[:, 2, 1:].reshape(60, -1), atol=0.05, rtol=0.02)
    assert cli.main(["train", "robot-faults", "--data", str(file), "--out", str(tmp_path / "next"), *SMALL[6:], *SHORT]) == 0
    assert cli.main(["evaluate", str(tmp_path / "next"), "--json"]) == 0
    write_experience(file, {**found, "test": found["validation"]})
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_path / "next")]) == 2
    assert "the data has changed since this run was trained" in capsys.readouterr().err


def test_what_cannot_be_gathered_is_said(tmp_path, capsys):
    settings, run = Sine(), tmp_path / "sine"
    run.mkdir()
    problem = settings.build(0)
    write_config(settings, problem, run, 0, "default")
    write_arrays(run / "parameters.npz", problem.init(jax.random.key(0)))
    assert cli.main(["gather", str(run), "--out", str(tmp_path / "more.npz")]) == 2
    assert "gather is for robot-faults; this is a model of sine" in capsys.readouterr().err
    for out, seed, complaint in [
        ("more.csv", 0, "should end in .npz"),
        ("no/more.npz", 0, "there is no folder"),
        ("more.npz", -1, "at least 0"),
    ]:
        with pytest.raises(InputError, match=complaint):
            Collect(str(run), str(tmp_path / out), seed)()
