"""What every file of tests/fuzz stands on: one command in this process, under a time limit, with an eye on all that it writes.

A case passes where the command ends with 2 and a few lines, or where what it was given is usable: then with 0, or in the
first meta-step of a training, which is traced and not made. Never with an exception, never late, never with a file where
none was asked for. `python -m benchmarks.robustness.fuzz` counts the cases."""

import contextlib
import io
import os
import re
import resource
import signal
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax

from fewstep import cli
from fewstep.apps.policies.model import PolicyProblem
from fewstep.runs import lock
from fewstep.training.tuning import shapes_of

SECONDS, MOST_SECONDS = 30, 300
"""of this process's own time, and by the clock: other programs may have the machine"""
MOST_BYTES = 2**33
"""that a case may ask for beside what this process has: a machine without them would end it, and other programs with it"""
MOST_LINES, LONGEST = 4, 2_000
REFUSED, USABLE, COUNTED = "refused", "usable", "usable, with what is left out counted"
LEFT_OUT = re.compile(r"left out|lack|missing and become|of no category|cannot be read|outside the trained range|count once")


class Begun(Exception):
    """A training was about to make its first meta-step: what it was given is usable."""


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def begin(problem, *words, **options):
    """In place of a training: only its first meta-step is traced, or of a policy its parameters."""
    if isinstance(problem, PolicyProblem):
        jax.eval_shape(problem.init, jax.random.key(0))
        raise Begun
    learner = problem.learner
    params, episode, _ = shapes_of(problem, 1)
    key, step = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), "int32")
    jax.eval_shape(lambda *given: learner.task_gradient(learner, *given), params, episode, key, step)
    raise Begun


@contextlib.contextmanager
def memory_limit():
    """A call finds no more memory than that (Linux)."""
    before, pages = resource.getrlimit(resource.RLIMIT_AS), Path("/proc/self/statm")
    if pages.exists():
        had = int(pages.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (had + MOST_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def time_limit():
    """A call that hangs ends in a TimeoutError."""

    def late(signum, frame):
        raise TimeoutError(f"more than {SECONDS} s of work, or {MOST_SECONDS} s by the clock")

    before = [(each, signal.signal(each, late)) for each in (signal.SIGALRM, signal.SIGPROF)]
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for each, handler in before:
            signal.signal(each, handler)


def listed(*folders):
    """Every path below the folders, with the size and the time of what is in it."""
    found = {}
    for folder in folders:
        for above, names, files in os.walk(os.fsencode(folder)):
            for name in (*names, *files):
                path = os.path.join(above, name)
                about = os.lstat(path)
                found[path] = about.st_size if name in files else None, about.st_mtime_ns if name in files else None
    return found


class Fuzz:
    """Runs commands in a folder, and sees to it that nothing is written but what was asked for."""

    def __init__(self, place: Path):
        self.work, self.home, self.temporary = (place / name for name in ("work", "home", "temporary"))
        self.caches = [self.home / ".cache" / name for name in ("fewstep", "matplotlib")] + [
            self.home / ".config" / "matplotlib"
        ]
        """where fewstep keeps what can be made again, and a library its list of fonts"""
        for folder in (self.work, self.home, self.temporary):
            folder.mkdir()

    def run(self, words):
        """The command, with everything that it prints; `Begun` is told as exit code 0."""
        out = io.TextIOWrapper(io.BytesIO(), "utf-8", "strict", write_through=True)  # as a terminal has them
        err = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", write_through=True)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), time_limit(), memory_limit():
            try:
                code = cli.main(list(words))
            except SystemExit as stop:  # only --help may
                code = stop.code
            except Begun:
                code = 0
        return Ended(code, *(each.buffer.getvalue().decode() for each in (out, err)))

    def check(self, words, out=()):
        """Runs the command and asserts what holds of every command. Returns what became of it; `out` are the paths that it was
        asked to write."""
        before = listed(self.work, self.home, self.temporary)
        code, told, err = self.run(words)
        after = listed(self.work, self.home, self.temporary)
        allowed = [*map(os.fsencode, self.caches)] + ([os.fsencode(self.work / path) for path in out] if code != 2 else [])
        changed = [path for path in {*before, *after} if before.get(path) != after.get(path)]
        locks = b"/" + os.fsencode(lock.NAME)  # to take a lock, its file is opened for writing
        strange = [path for path in changed if not path.endswith(locks) and not any(_within(path, each) for each in allowed)]
        assert not strange, (strange, err)
        assert "Traceback" not in err, err
        assert code in (0, 2), (code, err)
        if code == 2:
            assert told == "", told
            lines = err.splitlines()
            assert len(lines) >= 1, "refused without a word"
            assert len([line for line in lines if line.startswith("fewstep")]) == 1, err
            assert len(lines) <= MOST_LINES and len(err) <= LONGEST, err
            return REFUSED
        return COUNTED if LEFT_OUT.search(err + told) else USABLE


def _within(path, place):
    return path == place or path.startswith(place + b"/") or (place.startswith(path + b"/") and os.path.isdir(path))


def fuzz_in(place, monkeypatch):
    """A `Fuzz` in a new folder, with the home and the temporary files of this process there."""
    fuzz = Fuzz(place)
    monkeypatch.chdir(fuzz.work)
    monkeypatch.setenv("HOME", str(fuzz.home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(fuzz.home / ".cache"))
    monkeypatch.setenv("TMPDIR", str(fuzz.temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr("fewstep.training.devices.use_cpu_cores", lambda: None)  # this process has its devices already
    monkeypatch.setattr("fewstep.training.loop.train", begin)
    return fuzz
