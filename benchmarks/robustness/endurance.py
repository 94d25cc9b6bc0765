"""Does a long run leak memory, slow down or compile again? 100,000 meta-steps of sine waves, then 2,000 evaluations.

python -m benchmarks.robustness.endurance [--meta-steps 100000] [--evaluations 2000]
                               [--only meta_steps | evaluations]: the other part of the record stays
Half an hour on two cores. Times are CPU seconds of the process, as medians of windows. A processor that other programs share
has slow and fast minutes: a piece of work that is always the same is timed at every moment too, and whether the time of a
meta-step grows is asked in units of it.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np

from benchmarks.records import Options, read, write
from fewstep import runs
from fewstep.apps.sine.settings import Sine
from fewstep.training import loop
from fewstep.training.progress import MetricsFile

PARTS = ("meta_steps", "evaluations")
SHORT = 1000
"""meta-steps of a run that is only evaluated"""
LOG_EVERY = 500
WARM_UP = 0.1
"""the first part of the work, in which memory may still grow and programs are compiled"""
WINDOWS = 9
"""of what follows, in which medians are taken"""
COMPILED = "/jax/core/compile/backend_compile_duration"


class Moment(NamedTuple):
    """The process after so much work."""

    done: int
    cpu_seconds: float
    """without those of the yardstick"""
    yardstick: float
    """CPU seconds of a piece of work that is always the same"""
    resident: int
    """bytes"""
    compilations: int


class Watch:
    """Notes moments of this process."""

    def __init__(self) -> None:
        self.compilations = 0
        self.moments: list[Moment] = []
        self.measuring = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._count)

    def _count(self, event: str, seconds: float, **about: Any) -> None:
        self.compilations += event == COMPILED

    def note(self, done: int) -> None:
        before = time.process_time()
        taken = yardstick()
        self.moments.append(Moment(done, before - self.measuring, taken, resident(), self.compilations))
        self.measuring += time.process_time() - before


def main() -> None:
    parser = Options(__doc__, "robustness/endurance.json")
    parser.add_argument("--meta-steps", type=int, default=100_000)
    parser.add_argument("--evaluations", type=int, default=2_000)
    parser.add_argument("--only", choices=PARTS)
    arguments = parser.parse_args()
    parts = [arguments.only] if arguments.only else list(PARTS)
    record = read(arguments.out) if arguments.only else {}
    with tempfile.TemporaryDirectory() as folder:
        steps = arguments.meta_steps if "meta_steps" in parts else SHORT
        run, trained = meta_steps(steps, Path(folder) / "run")
        if "meta_steps" in parts:
            record["meta_steps"] = trained
            print(told("meta-step", trained), flush=True)
        if "evaluations" in parts:
            record["evaluations"] = evaluations(run, arguments.evaluations)
            print(told("evaluation", record["evaluations"]), flush=True)
    write(arguments.out, record)


def meta_steps(count: int, directory: Path) -> tuple[Any, dict[str, Any]]:
    """(the run, what its meta-steps took): watched at every line of the log."""
    watch = Watch()

    class Watched(MetricsFile):
        def write(self, record: dict[str, Any]) -> None:
            super().write(record)
            watch.note(record["meta_step"])

    settings = Sine(meta_steps=count, log_every=min(LOG_EVERY, count // 100))
    with mock.patch.object(loop, "MetricsFile", Watched):
        return runs.train(settings, directory, quiet=True), flatness(watch.moments)


def evaluations(run: Any, count: int) -> dict[str, Any]:
    """What evaluations of `run` took, each as `fewstep evaluate` makes it: its files are read and its problem is built anew."""
    watch = Watch()
    for number in range(1, count + 1):
        runs.open_run(run.directory).evaluate((0, 1, 5, 10), tasks=100)
        watch.note(number)
    return flatness(watch.moments)


def flatness(moments: list[Moment]) -> dict[str, Any]:
    """What one piece of work takes in each window after the warm-up, and by how much memory and time differ between windows."""
    warm = moments[int(len(moments) * WARM_UP) :]
    size = (len(warm) - 1) // WINDOWS
    milliseconds, yardsticks, resident_bytes = [], [], []
    for start in range(0, size * WINDOWS, size):
        window = warm[start : start + size + 1]
        pairs = pairwise(window)
        milliseconds.append(statistics.median(1e3 * (b.cpu_seconds - a.cpu_seconds) / (b.done - a.done) for a, b in pairs))
        yardsticks.append(statistics.median(1e3 * moment.yardstick for moment in window))
        resident_bytes.append(statistics.median(moment.resident for moment in window))
    relative = [taken / unit for taken, unit in zip(milliseconds, yardsticks, strict=True)]
    return {
        "count": moments[-1].done,
        "warm_up": warm[0].done,
        "cpu_milliseconds": [round(value, 4) for value in milliseconds],
        "yardstick_milliseconds": [round(value, 4) for value in yardsticks],
        "cpu_time_growth": round(milliseconds[-1] / milliseconds[0] - 1, 4),
        "time_growth": round(relative[-1] / relative[0] - 1, 4),
        "resident_mib": [round(value / 2**20, 1) for value in resident_bytes],
        "memory_growth": round(resident_bytes[-1] / resident_bytes[0] - 1, 4),
        "compilations_in_warm_up": warm[0].compilations,
        "compilations_after": moments[-1].compilations - warm[0].compilations,
    }


def resident() -> int:
    """Bytes of this process in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def yardstick() -> float:
    """CPU seconds, best of five, of small products of matrices between steps of Python, as a meta-step of sine waves is."""
    matrix = np.eye(40, dtype=np.float32)
    taken = []
    for _ in range(5):
        before = time.process_time()
        for _ in range(300):
            matrix = np.tanh(matrix @ matrix.T)
        taken.append(time.process_time() - before)
    return min(taken)


def told(what: str, found: dict[str, Any]) -> str:
    time_taken, memory = found["cpu_milliseconds"][-1], found["resident_mib"][-1]
    return (
        f"{found['count']} {what}s: {time_taken:.3g} ms each, {100 * found['time_growth']:+.1f} % over the run beside "
        f"a yardstick ({100 * found['cpu_time_growth']:+.1f} % of processor); "
        f"{memory:.0f} MiB, {100 * found['memory_growth']:+.1f} %; {found['compilations_after']} compilations after the warm-up"
    )


if __name__ == "__main__":
    main()
