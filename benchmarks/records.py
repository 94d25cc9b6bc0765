"""What all benchmarks share: options, records, the machine, rounds, and programs in processes of their own.

A benchmark is run from the root of the repository, `python -m benchmarks.ROOM.NAME`, and writes
`docs/records/ROOM/NAME.json`. Nothing here imports JAX or fewstep before it is called: other frameworks' workers use it
too."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np

K, T = TypeVar("K"), TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
RECORDS = Path("docs/records")
PACKAGES = "jax", "numpy", "torch", "mujoco", "scikit-learn", "statsmodels"
"""whose versions a record names, where they are installed"""


class Options(argparse.ArgumentParser):
    """The options of a benchmark, and --out; the other options fill the braces in the name of its record."""

    def __init__(self, doc: str | None, record: str = ""):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        default = RECORDS / record if record else None
        self.add_argument("--out", type=Path, default=default, help=f"the record to write (default: {default})")

    def parse_args(self, *given: Any, **named: Any) -> argparse.Namespace:  # type: ignore[override]
        arguments = super().parse_args(*given, **named)
        if arguments.out:
            arguments.out = Path(str(arguments.out).format(**vars(arguments)))
        return arguments


def command() -> str:
    """The command that runs this process, as a user types it."""
    name = getattr(sys.modules["__main__"].__spec__, "name", sys.argv[0])
    return f"python -m {name} {shlex.join(sys.argv[1:])}".strip()


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device() -> str:
    """The number and kind of JAX's devices."""
    import jax

    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def machine() -> dict[str, Any]:
    """Processor, cores, versions and date."""
    from fewstep.training.autotune_convolutions import processor

    about: dict[str, Any] = {"cpu": processor(), "cores": cores(), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            about[name] = version(name)
        except PackageNotFoundError:
            continue
    return about | {"date": time.strftime("%Y-%m-%d")}


def read(path: Path | None) -> dict[str, Any]:
    """The record written before; empty if there is none."""
    return json.loads(path.read_text()) if path and path.exists() else {}


def write(path: Path | None, record: Mapping[str, Any], indent: int | None = 1) -> None:
    """Writes a record, with the command and the machine. A record that keeps parts of other commands names all commands."""
    if path is None:
        return
    known = record.get("command", [])
    commands = [known] if isinstance(known, str) else list(known)
    commands += [command()] * (command() not in commands)
    whole = {**record, "command": commands[0] if len(commands) == 1 else commands, "machine": machine()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"command": whole["command"], **whole}, indent=indent, ensure_ascii=False) + "\n")


def in_turn(programs: Mapping[K, Callable[[], T]], rounds: int, warm: int = 1) -> dict[K, list[T]]:
    """What each program returns in each round. All run once a round, so that a busy moment falls on all alike; the first `warm`
    rounds, which compile, are left out."""
    found: dict[K, list[T]] = {name: [] for name in programs}
    for number in range(warm + rounds):
        for name, program in programs.items():
            result = program()
            if number >= warm:
                found[name].append(result)
    return found


def ratios(some: Sequence[float], others: Sequence[float]) -> list[float]:
    """Ratios within each round."""
    return [one / other for one, other in zip(some, others, strict=True)]


def median_ratio(some: Sequence[float], others: Sequence[float]) -> float:
    return median(ratios(some, others))


def timed(work: Callable[[], Any]) -> float:
    """Seconds until the result of `work` is computed."""
    return float(clocked(work)[0])


def clocked(work: Callable[[], Any]) -> np.ndarray:
    """[2] seconds, by `clocks`, until the result of `work`, of JAX or not, is computed."""
    before = clocks()
    result = work()
    if "jax" in sys.modules:
        sys.modules["jax"].block_until_ready(result)
    return clocks() - before


def clocks() -> np.ndarray:
    """[2] seconds: of the wall, and of the processor, all threads together. Waiting lengthens the first alone."""
    return np.array([time.perf_counter(), time.process_time()])


def median_seconds(work: Callable[[], Any], repeats: int) -> float:
    return median(timed(work) for _ in range(repeats))


def say(text: str) -> None:
    """Progress goes to stderr, results to stdout."""
    print(text, file=sys.stderr, flush=True)


class WorkerFailed(RuntimeError):
    """The program of a worker raised an error or ended."""


class Worker:
    """A module in a process of its own, which answers lines of JSON (`serve`)."""

    def __init__(
        self,
        module: str,
        *words: str,
        interpreter: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ):
        self.name = " ".join([module, *words])
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by stop()
        self.process = subprocess.Popen(
            [*before, interpreter, "-m", module, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    def send(self, **request: Any) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # `receive` tells why
            print(json.dumps(request), file=self.process.stdin, flush=True)

    def receive(self) -> dict[str, Any]:
        """The next answer. Raises `WorkerFailed` if the program raised an error or the process ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"the process ended:\n{self._end_of_log()}"}
        if "error" in answer:
            raise WorkerFailed(f"{self.name}: {answer['error']}")
        return answer

    def ask(self, **request: Any) -> dict[str, Any]:
        self.send(**request)
        return self.receive()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.log.close()

    def _end_of_log(self) -> str:
        self.log.seek(0)
        return self.log.read()[-2000:]


def channel() -> Callable[..., None]:
    """`answer(**fields)` of a worker. From now on, what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return lambda **fields: print(json.dumps(fields), file=answers, flush=True)


def serve(handle: Callable[..., dict[str, Any]], answer: Callable[..., None] | None = None) -> None:
    """Answers each request of a `Worker` until its input ends."""
    answer = answer or channel()
    for line in sys.stdin:
        try:
            answer(**handle(**json.loads(line)))
        except Exception:
            answer(error=traceback.format_exc())
