"""Where the machine has no more to give: a full disk, a read-only folder, too little memory. Place: fewstep/cli."""

import contextlib
import errno
import os
import resource
import shutil
import signal
import subprocess

import jax
import numpy as np
import pytest
from known import assert_same_bits, bowl_problem

from fewstep import init, runs
from fewstep.apps.sine.settings import Sine
from fewstep.cli.failures import resource_error
from fewstep.storage.arrays import atomic_write
from fewstep.training import checkpoint, loop
from fewstep.training.checkpoint import Checkpoints

TINY = {"hidden": (8,), "meta_steps": 6, "log_every": 3, "meta_batch_size": 3, "adaptation_steps": 2, "shots": 5, "queries": 5}
WORDS = [f"--{name.replace('_', '-')}={value if name != 'hidden' else 8}" for name, value in TINY.items()]


@pytest.fixture(scope="module")
def sine(tmp_path_factory):
    """Trained, evaluated and drawn."""
    run = runs.train(Sine(**TINY), tmp_path_factory.mktemp("sine") / "run", seed=0, quiet=True)
    run.write_evaluation()
    return run


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MB; mounting one takes root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs root, to mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder, left=0):
    """Takes all room but `left` bytes."""
    path = folder / "ballast"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    if left:
        os.truncate(path, path.stat().st_size - left)


def assert_told(code, out, err, words):
    assert (code, out) == (1, ""), err
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    for part in (words, "what was saved before is whole"):
        assert part in last


def test_a_file_that_cannot_be_written_whole_leaves_the_one_before_and_no_half(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(OSError, match="full"), atomic_write(path) as partial:
        partial.write_text("half")
        raise OSError(errno.ENOSPC, "full")
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("file", "before")]


def test_a_full_disk_ends_a_training_in_words_and_resume_goes_on_when_there_is_room(small_disk, sine, command):
    out = small_disk / "run"
    fill(small_disk, left=24_000)
    assert_told(*command("train", "sine", *WORDS, "--out", out), "No space left on device")
    assert not list(out.rglob("*.partial"))
    (small_disk / "ballast").unlink()
    code, _, err = command("resume", out)
    assert code == 0, err
    assert_same_bits(runs.open_run(out).params("last"), sine.params("last"))
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("what", ["checkpoint", "log"])
def test_a_disk_that_is_full_at_any_write_leaves_a_run_that_goes_on_bit_for_bit(tmp_path, monkeypatch, what):
    problem = bowl_problem()
    expected = loop.train(problem, tmp_path / "whole", seed=3, quiet=True)
    write, written = checkpoint.write, []

    def full(path, *arguments):
        written.append(path)
        if len(written) == 3:
            path.with_name(path.name + ".partial").write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, *arguments)

    def full_log(self, record):
        written.append(record)
        if len(written) == 3:
            self._file.write('{"meta_st')
            self._file.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        log(self, record)

    log = loop.MetricsFile.write
    with monkeypatch.context() as patch:
        if what == "checkpoint":
            patch.setattr(checkpoint, "write", full)
        else:
            patch.setattr(loop.MetricsFile, "write", full_log)
        with pytest.raises(OSError, match="No space left"):
            loop.train(problem, tmp_path / "full", seed=3, quiet=True)
    state = init(problem.outer_optimizer, problem.init(jax.random.key(0)))
    with Checkpoints(tmp_path / "full" / "checkpoints", "read") as checkpoints:
        assert int(checkpoints.restore(state, "last")[0].step) == 20
    resumed = loop.train(problem, tmp_path / "full", seed=3, resume=True, quiet=True)
    assert_same_bits(jax.device_get(resumed), jax.device_get(expected))
    assert len((tmp_path / "full" / "metrics.jsonl").read_text().splitlines()) == 4


def test_a_full_disk_ends_an_evaluation_and_a_plot_in_words_and_keeps_the_ones_before(small_disk, sine, command):
    shutil.copytree(sine.directory, small_disk / "run", ignore=shutil.ignore_patterns("checkpoints"))
    assert command("plot", small_disk / "run")[0] == 0
    fill(small_disk)
    before = {path: path.read_bytes() for path in (small_disk / "run").rglob("*") if path.is_file()}
    for words in (["evaluate", small_disk / "run"], ["plot", small_disk / "run"]):
        assert_told(*command(*words), "No space left on device")
        assert {path: path.read_bytes() for path in (small_disk / "run").rglob("*") if path.is_file()} == before


def test_files_that_may_not_grow_end_a_training_in_words(tmp_path, command):
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limits[1]))
    try:
        code, out, err = command("train", "sine", *WORDS, "--out", "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert_told(code, out, err, "File too large")
    assert "To go on: fewstep resume run" in err
    assert command("resume", "run")[0] == 0


def test_a_run_directory_that_cannot_be_written_is_read_and_not_trained_in(small_disk, sine, command):
    shutil.copytree(sine.directory, small_disk / "run")
    remounted = subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], capture_output=True)
    if remounted.returncode != 0:
        pytest.skip("needs root, to make a disk read-only")
    code, _, err = command("resume", small_disk / "run")
    assert code == 2
    assert "run cannot be written to (Read-only file system). Nothing was changed" in err
    code, _, err = command("evaluate", small_disk / "run", "--steps", "1", "--tasks", "5", "--json")
    assert code == 0, err
    code, _, err = command("evaluate", small_disk / "run")
    assert code == 2
    assert "With --tasks 1000 it is measured, and nothing is written" in err
    assert_told(*command("plot", small_disk / "run"), "Read-only file system")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes."),
        np._core._exceptions._ArrayMemoryError((9,), np.dtype(float)),
    ],
)
def test_too_little_memory_ends_a_training_with_what_takes_less(tmp_path, command, monkeypatch, error):
    def out_of_memory(*arguments, **options):
        raise error

    monkeypatch.setattr("fewstep.supervised.training.compiled_chunk", lambda problem, mesh: out_of_memory)
    code, out, err = command("train", "sine", *WORDS, "--out", "run")
    assert (code, out) == (1, "")
    assert "out of memory. It takes less with --tasks-at-once 1, --meta-gradient exact" in err
    assert "To go on: fewstep resume run" in err
    assert "Traceback" not in err


def test_what_is_no_matter_of_room_or_memory_is_not_told_as_one():
    assert resource_error(OSError(errno.ENOENT, "none", "file")) == ""
    assert resource_error(RuntimeError("a mistake")) == ""
