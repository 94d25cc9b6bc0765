"""One process trains in a run directory, others read it; old and newer run directories. Place: fewstep/runs."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from known import assert_same_bits, bowl_problem

from fewstep import BadInput, init, runs
from fewstep.arrays import named_leaves
from fewstep.problems import Sine
from fewstep.problems.nav2d import Nav2d
from fewstep.runs.lock import only_one
from fewstep.training import loop
from fewstep.training.checkpoint import Checkpoints

TINY = {"hidden": (8,), "meta_steps": 6, "log_every": 3, "meta_batch_size": 3, "adaptation_steps": 2, "shots": 5, "queries": 5}


@pytest.fixture(scope="module")
def sine(tmp_path_factory):
    return runs.train(Sine(**TINY), tmp_path_factory.mktemp("sine") / "run", seed=4, quiet=True)


HOLDER = """
import sys
from pathlib import Path
from fewstep.runs.lock import only_one
with only_one(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_in_a_run_directory_is_refused_at_once_and_a_killed_one_holds_nothing(sine, tmp_path, command):
    shutil.copytree(sine.directory, tmp_path / "run")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    code, out, err = command("resume", "run")
    assert (code, out) == (2, "")
    assert f"run is in use by process {holder.pid} on {os.uname().nodename}, which trains in it." in err
    assert len(err.splitlines()) == 1
    assert command("evaluate", "run", "--steps", "1", "--tasks", "5")[0] == 0
    holder.kill()
    holder.communicate()
    with only_one(tmp_path / "run"):
        pass


def test_a_run_is_held_while_it_trains_and_free_afterwards(tmp_path, monkeypatch):
    seen = []

    def look(*arguments, **options):
        with pytest.raises(BadInput, match=f"in use by process {os.getpid()} on"), only_one(tmp_path / "run"):
            pass
        seen.append(True)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train", look)
    with pytest.raises(KeyboardInterrupt):
        runs.train(Sine(**TINY), tmp_path / "run", quiet=True)
    run = runs.open_run(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        runs.resume(run)
    assert seen == [True, True]
    with only_one(tmp_path / "run"):
        pass


def test_a_policy_is_held_while_it_trains(tmp_path, monkeypatch):
    def look(*arguments, **options):
        with pytest.raises(BadInput, match="in use by"), only_one(tmp_path / "run"):
            pass
        raise KeyboardInterrupt

    monkeypatch.setattr("fewstep.runs.policy_run.train_policy", look)
    with pytest.raises(KeyboardInterrupt):
        runs.train(Nav2d(), tmp_path / "run", quiet=True)


def test_a_run_directory_of_a_later_layout_says_which_version_it_takes(sine, tmp_path):
    shutil.copytree(sine.directory, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"layout": 7, "problem": "poker", "versions": {"fewstep": "9.1.0"}}))
    with pytest.raises(BadInput, match=r"layout 2 or less, got 7\. It takes fewstep 9\.1\.0, which wrote it, or a later one"):
        runs.open_run(tmp_path / "run")


def as_before(run, directory, like):
    """The run as an earlier version left it: no layout, checkpoints by orbax."""
    import orbax.checkpoint as ocp

    shutil.copytree(run, directory, ignore=shutil.ignore_patterns("checkpoints", "parameters.npz", ".lock"))
    with Checkpoints(run / "checkpoints", "read") as checkpoints:
        state, record = checkpoints.restore(like, "last")
    record = {name: record[name] for name in ("validation", "seconds", "log_position", "sums")}
    with ocp.CheckpointManager(directory / "checkpoints") as manager:
        parts = {"state": ocp.args.StandardSave(named_leaves(state)), "record": ocp.args.JsonSave(record)}
        manager.save(int(state.step), args=ocp.args.Composite(**parts))
    if (directory / "config.json").exists():
        config = json.loads((directory / "config.json").read_text())
        del config["layout"]
        (directory / "config.json").write_text(json.dumps(config))
    return state


def state_of(problem):
    return init(problem.outer_optimizer, problem.init(jax.random.key(0)))


@pytest.mark.usefixtures("unfinished_reads")
def test_a_run_of_an_earlier_version_opens_with_the_same_parameters(sine, tmp_path):
    as_before(sine.directory, tmp_path / "run", state_of(sine.problem()))
    old = runs.open_run(tmp_path / "run")
    assert_same_bits(old.params("last"), sine.params("last"))


@pytest.mark.usefixtures("unfinished_reads")
def test_a_run_of_an_earlier_version_goes_on_bit_for_bit_with_checkpoints_of_this_one(tmp_path):
    problem = bowl_problem()
    whole = loop.train(problem, tmp_path / "whole", seed=3, quiet=True)
    loop.train(problem, tmp_path / "half", seed=3, meta_steps=20, quiet=True)
    as_before(tmp_path / "half", tmp_path / "old", state_of(problem))
    resumed = loop.train(problem, tmp_path / "old", seed=3, resume=True, quiet=True)
    assert_same_bits(jax.device_get(resumed), jax.device_get(whole))
    with Checkpoints(tmp_path / "old" / "checkpoints", "resume") as checkpoints:
        checkpoints.save(resumed._replace(step=jnp.asarray(50, jnp.int32)), {"validation": -1.0})
    assert sorted(path.name for path in (tmp_path / "old" / "checkpoints").iterdir()) == ["40.safetensors", "50.safetensors"]


@pytest.mark.usefixtures("unfinished_reads")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("part", ["state", "record"])
def test_a_damaged_checkpoint_of_an_earlier_version_is_refused(tmp_path, part):
    problem = bowl_problem()
    loop.train(problem, tmp_path / "half", seed=3, meta_steps=20, quiet=True)
    as_before(tmp_path / "half", tmp_path / "old", state_of(problem))
    for path in (tmp_path / "old" / "checkpoints" / "20" / part).rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(BadInput, match="damaged"), Checkpoints(tmp_path / "old" / "checkpoints", "read") as checkpoints:
        checkpoints.restore(state_of(replace(problem)), "last")
