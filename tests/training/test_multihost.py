"""One training in many processes, all on this machine. Place: fewstep/training/multihost.py."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from known import bowl_problem, last

from fewstep import InputError
from fewstep.training import loop, multihost
from fewstep.training.devices import task_mesh
from fewstep.training.multihost import shared, sync_decision
from fewstep.training.progress import read_metrics

STEPS = 200
TRAIN = """
import os, signal, sys
from pathlib import Path
from fewstep.training import multihost as hosts
process, processes, coordinator, folder, struck, number = sys.argv[1:]
if int(processes) > 1:
    hosts.join(int(processes), int(process), coordinator)
from test_multihost import problem
from fewstep.training import loop
from fewstep.training.devices import training_mesh
advance = loop.Progress.advance
def strike(self, done):
    advance(self, done)
    if process == struck and done == 105:
        os.kill(os.getpid(), int(number))
loop.Progress.advance = strike
try:
    loop.train(problem(), Path(folder), seed=3, mesh=training_mesh(), resume=(Path(folder) / "checkpoints").is_dir())
except loop.Interrupted:
    print("interrupted", file=sys.stderr)
hosts.shutdown()
"""
SINE = ["--hidden", "8", "--adaptation-steps", "1", "--inner-optimizer", "sgd", "--multi-step", "0", "--clip", "0"]


def address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@contextlib.contextmanager
def started(words_of, count):
    """As many processes, of one device each: `words_of(process)`. None is left behind."""
    environment = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(words_of(process), env=environment, **pipe) for process in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def problem():
    return bowl_problem(
        meta_batch_size=8, meta_steps=STEPS, log_every=1, outer_optimizer=optax.adam(0.02), outer_rate=lambda step: 0.02
    )


def trained(folder, count, struck=-1, number=signal.SIGTERM):
    """Processes that train bowls; the one that is `struck` sends itself a signal at meta-step 105."""
    where = address()
    words = [str(count), where, str(folder), str(struck), str(int(number))]
    return started(lambda process: [sys.executable, "-c", TRAIN, str(process), *words], count)


def ended(processes, within=600):
    """(exit code, stdout, stderr) of each."""
    found = [process.communicate(timeout=within) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, found, strict=True)]


def curve(folder):
    return [line["meta_loss"] for line in read_metrics(folder / "metrics.jsonl")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same training in this process, on one device."""
    folder = tmp_path_factory.mktemp("alone")
    loop.train(problem(), folder, seed=3, mesh=task_mesh(1), quiet=True)
    return folder


def assert_same_training(folder, alone):
    assert len(curve(folder)) == STEPS
    np.testing.assert_allclose(curve(folder), curve(alone), rtol=1e-5)


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_many_processes_give_the_curve_of_one_and_the_first_alone_writes(alone, tmp_path, count):
    with trained(tmp_path, count) as processes:
        found = ended(processes)
    assert [code for code, _, _ in found] == [0] * count, found
    assert_same_training(tmp_path, alone)
    assert all("meta-step" not in error for _, _, error in found[1:])
    assert "meta-step 200/200" in found[0][2]
    assert sorted(path.name for path in tmp_path.iterdir() if "tfevents" not in path.name) == [
        "checkpoints",
        "metrics.csv",
        "metrics.jsonl",
    ]


@pytest.mark.parametrize(("killed", "then"), [(1, 1), (0, 2), (1, 4)])
@pytest.mark.slow
def test_a_process_that_is_killed_stops_the_other_in_words_and_another_number_goes_on(alone, tmp_path, killed, then):
    with trained(tmp_path, 2, killed, signal.SIGKILL) as processes:
        processes[killed].wait(240)
        before = time.monotonic()
        ((code, _, error),) = ended([processes[1 - killed]], within=60)
        assert time.monotonic() - before < 60
    assert code == 1, error
    assert "another process of this training ended" in error
    assert "fewstep resume" in error
    assert 0 < int(last(tmp_path, problem())[0].step) <= 100
    with trained(tmp_path, then) as processes:
        found = ended(processes)
    assert [code for code, _, _ in found] == [0] * then, found
    assert_same_training(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize("silent", [0, 1])
def test_a_process_that_falls_silent_stops_the_others_within_a_minute(tmp_path, silent):
    with trained(tmp_path, 2, silent, signal.SIGSTOP) as processes:
        ((code, _, error),) = ended([processes[1 - silent]])
    assert code == 1, error
    assert "is not heard of any more" in error
    written = max(path.stat().st_mtime for path in tmp_path.iterdir())
    assert time.time() - written < 60


@pytest.mark.slow
def test_a_process_that_is_asked_to_stop_stops_all_at_one_meta_step_and_one_process_goes_on(alone, tmp_path):
    with trained(tmp_path, 2, struck=1) as processes:
        found = ended(processes)
    assert all(code == 0 and "interrupted" in error for code, _, error in found), found
    assert int(last(tmp_path, problem())[0].step) == 105
    with trained(tmp_path, 1) as processes:
        ((code, _, error),) = ended(processes)
    assert code == 0, error
    assert_same_training(tmp_path, alone)


@pytest.mark.slow
def test_the_command_trains_in_two_processes_and_prints_one_json_object(tmp_path):
    where = address()
    words = ["train", "sine", *SINE, "--meta-steps", "20", "--log-every", "10", "--out", str(tmp_path / "run"), "--json"]
    words = [sys.executable, "-m", "fewstep.cli", *words, "--processes", "2", "--coordinator", where, "--process"]
    with started(lambda process: [*words, str(process)], 2) as processes:
        found = ended(processes)
    assert [code for code, _, _ in found] == [0, 0], found
    assert set(json.loads(found[0][1])) == {"run", "evaluation"}
    assert found[1][1] == ""
    assert json.loads((tmp_path / "run" / "config.json").read_text())["device"].startswith("2 x ")


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "options"), {"mpirun": ["--allow-run-as-root", "--oversubscribe"], "srun": []}.items())
def test_what_starts_processes_on_a_cluster_is_asked_by_auto(tmp_path, launcher, options):
    """Open MPI needs no more than its `mpirun`; Slurm a running controller and two daemons, which may be of one machine."""
    if shutil.which(launcher) is None or subprocess.run([launcher, *options, "-n", "2", "true"], timeout=60).returncode:
        pytest.skip(f"{launcher} starts no two processes here")
    words = ["train", "sine", *SINE, "--meta-steps", "20", "--log-every", "10", "--out", str(tmp_path / "run"), "--json"]
    words = [launcher, *options, "-n", "2", sys.executable, "-m", "fewstep.cli", *words, "--processes", "auto"]
    with started(lambda process: words, 1) as processes:
        ((code, out, error),) = ended(processes)
    assert code == 0, error
    assert set(json.loads(out)) == {"run", "evaluation"}
    assert json.loads((tmp_path / "run" / "config.json").read_text())["device"].startswith("2 x ")


def test_processes_that_were_started_for_different_trainings_are_all_refused(tmp_path):
    where = address()
    words = [sys.executable, "-m", "fewstep.cli", "train", "sine", *SINE, "--out", str(tmp_path / "run"), "--processes", "2"]
    with started(
        lambda process: [*words, "--coordinator", where, "--process", str(process), "--seed", str(process)], 2
    ) as processes:
        found = ended(processes)
    for code, _, error in found:
        assert code == 2, error
        assert "process 1 differs from process 0" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--processes", 2),
        ("--processes", 2, "--process", 2, "--coordinator", "localhost:1234"),
        ("--processes", 2, "--process", 0, "--coordinator", "localhost"),
        ("--processes", 1, "--process", 0, "--coordinator", "localhost:1234"),
        ("--processes", 0),
        ("--processes", 10**24),
        ("--processes", "auto", "--process", 0),
    ],
)
def test_processes_without_a_place_or_a_number_are_refused_before_anything_is_written(command, tmp_path, words):
    code, _, error = command("train", "sine", "--out", "run", *words)
    assert code == 2
    assert "--processes" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_is_left_alone_says_whom_it_waits_for_and_ends_in_words(tmp_path, process):
    code = (
        "import sys; from fewstep import cli; from fewstep.training import multihost as hosts; "
        "hosts.SILENT_SECONDS, hosts.WAITING_SECONDS = 1, 4; sys.exit(cli.main())"
    )
    words = ["train", "sine", "--out", str(tmp_path / "run"), "--processes", "2", "--process", str(process)]
    with started(lambda _: [sys.executable, "-c", code, *words, "--coordinator", address()], 1) as processes:
        ((code, _, error),) = ended(processes)
    assert code == 1
    assert "waiting for the other processes of this training (2 in all" in error
    assert error.splitlines()[-1].startswith("fewstep: the other processes")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_follows_a_training_needs_no_other_process(tmp_path, command):
    words = ["train", "sine", *SINE, "--meta-steps", "20", "--log-every", "10", "--out", str(tmp_path / "run")]
    assert command(*words)[0] == 0
    (tmp_path / "run" / "evaluation.json").unlink()
    again = ["resume", str(tmp_path / "run"), "--processes", "2", "--coordinator", address(), "--process"]
    with started(lambda process: [sys.executable, "-m", "fewstep.cli", *again, str(process)], 2) as processes:
        found = ended(processes[1:]) + ended(processes[:1])
    assert [code for code, _, _ in found] == [0, 0], found
    assert "process 0 does alone what follows" in found[0][2]
    assert (tmp_path / "run" / "evaluation.json").exists()


def test_without_a_cluster_processes_auto_says_so(tmp_path):
    words = [sys.executable, "-m", "fewstep.cli", "train", "sine", "--out", str(tmp_path / "run"), "--processes", "auto"]
    with started(lambda process: words, 1) as processes:
        ((code, _, error),) = ended(processes)
    assert code == 2
    assert "did not find one another: no Slurm, Open MPI, Kubernetes" in error
    assert "Traceback" not in error


def test_of_one_process_nothing_is_asked():
    state = bowl_problem().init(jax.random.key(0))
    assert multihost.broadcast(state) is state
    assert multihost.broadcast_text("words") == "words"
    assert multihost.all_gather([3, 4]).tolist() == [[3, 4]]
    assert sync_decision(7, True) == (7, True)
    assert shared((state, {"validation": float("inf")}))[1] == {"validation": float("inf")}
    multihost.shutdown()
    multihost.leave(1)
    multihost.join(1, None, None)
    with pytest.raises(ValueError, match="gloo"), multihost.reporting_lost_processes():
        raise ValueError("gloo")
    with pytest.raises(InputError):
        multihost.join(2, None, None)
