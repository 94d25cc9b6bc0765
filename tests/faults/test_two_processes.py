"""One process trains in a run directory, others read it; old and newer run directories. Place: fewstep/runs."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from fewstep import InputError, runs
from fewstep.apps.policies.problems import Nav2d
from fewstep.apps.sine.settings import Sine
from fewstep.runs.lock import run_lock
from fewstep.training import loop

TINY = {"hidden": (8,), "meta_steps": 6, "log_every": 3, "meta_batch_size": 3, "adaptation_steps": 2, "shots": 5, "queries": 5}


@pytest.fixture(scope="module")
def sine(tmp_path_factory):
    return runs.train(Sine(**TINY), tmp_path_factory.mktemp("sine") / "run", seed=4, quiet=True)


HOLDER = """
import sys
from pathlib import Path
from fewstep.runs.lock import run_lock
with run_lock(Path(sys.argv[1])):
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
    with run_lock(tmp_path / "run"):
        pass


def test_a_run_is_held_while_it_trains_and_free_afterwards(tmp_path, monkeypatch):
    seen = []

    def look(*arguments, **options):
        with pytest.raises(InputError, match=f"in use by process {os.getpid()} on"), run_lock(tmp_path / "run"):
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
    with run_lock(tmp_path / "run"):
        pass


def test_a_policy_is_held_while_it_trains(tmp_path, monkeypatch):
    def look(*arguments, **options):
        with pytest.raises(InputError, match="in use by"), run_lock(tmp_path / "run"):
            pass
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train", look)
    with pytest.raises(KeyboardInterrupt):
        runs.train(Nav2d(), tmp_path / "run", quiet=True)


def test_a_run_directory_of_a_later_layout_says_which_version_it_takes(sine, tmp_path):
    shutil.copytree(sine.directory, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"layout": 7, "problem": "poker", "versions": {"fewstep": "9.1.0"}}))
    with pytest.raises(InputError, match=r"layout 3, got 7\. It takes fewstep 9\.1\.0, which wrote it, or a later one"):
        runs.open_run(tmp_path / "run")


@pytest.mark.parametrize("layout", [{}, {"layout": 2}])
def test_a_run_directory_of_an_earlier_layout_has_to_be_trained_again(sine, tmp_path, layout):
    shutil.copytree(sine.directory, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = {name: value for name, value in json.loads(path.read_text()).items() if name != "layout"}
    path.write_text(json.dumps(config | layout))
    with pytest.raises(
        InputError,
        match=rf"layout 3, got {layout.get('layout', 'one without a number')}\. An earlier version wrote it\. Train anew",
    ):
        runs.open_run(tmp_path / "run")
