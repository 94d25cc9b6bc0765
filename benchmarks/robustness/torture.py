"""A run of the command killed (SIGKILL) at random moments and resumed each time, against one that nothing disturbs.

python -m benchmarks.robustness.torture [--kills 50] [--seed 0] About ten minutes. A quarter of the kills each: while a
process starts and compiles, between two meta-steps, while a checkpoint is being written, while a line of the log is. Used
by tests/faults/test_kills.py too."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.records import Options, write

SETTINGS = {"hidden": 8, "adaptation-steps": 1, "meta-batch-size": 4, "shots": 5, "queries": 5, "inner-optimizer": "sgd"}
SETTINGS |= {"multi-step": 0, "clip": 0, "checkpoint-every": 50, "log-every": 100}  # soon compiled, often saved
Program = Callable[[Path, int], list[str]]
"""`(run, meta-steps) -> the words of a command` that begins the run or goes on with it"""
KINDS = ("starting", "checkpoint", "log", "training")


def main() -> None:
    parser = Options(__doc__, "robustness/torture.json")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--meta-steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = torture(Path(folder), arguments.kills, arguments.meta_steps, arguments.seed)
    write(arguments.out, found)
    print(json.dumps({name: value for name, value in found.items() if name != "moments"}, indent=1))
    if not all(found["equal"].values()):
        raise SystemExit("the run that was killed ended otherwise than the one that was not")


def command(run: Path, meta_steps: int) -> list[str]:
    """`fewstep train`, or where the run is begun `fewstep resume`."""
    settings = [f"--{name}={value}" for name, value in (SETTINGS | {"meta-steps": meta_steps}).items()]
    words = ["resume", str(run)] if (run / "config.json").exists() else ["train", "sine", *settings, "--out", str(run)]
    return [sys.executable, "-m", "fewstep.cli", *words]


def torture(folder: Path, kills: int, meta_steps: int, seed: int, program: Program = command) -> dict[str, Any]:
    """Trains twice in `folder`, once killed so often. What was killed when, and what of the two runs is equal."""
    began, rng = time.monotonic(), random.Random(seed)
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    process = start(folder, program(undisturbed, meta_steps))
    until(process, lambda: last_checkpoint(undisturbed) > 0)
    start_up = time.monotonic() - began
    finish(process)
    moments = []
    targets = sorted(rng.sample(range(meta_steps - meta_steps // 10), kills))
    kinds = rng.sample([KINDS[number % len(KINDS)] for number in range(kills)], kills)
    for target, kind in zip(targets, kinds, strict=True):
        process = start(folder, program(killed, meta_steps))
        wait_for(process, killed, kind, target, rng, start_up)
        if process.poll() is not None:
            raise SystemExit(f"the run ended before it was killed {kills} times: {process.communicate()[1]}")
        process.kill()
        process.communicate()
        moments.append({"kind": kind, "meta_step": last_checkpoint(killed)})
    finish(start(folder, program(killed, meta_steps)))
    return {
        "kills": kills,
        "kinds": dict(Counter(moment["kind"] for moment in moments)),
        "meta_steps": meta_steps,
        "settings": SETTINGS,
        "equal": compared(undisturbed, killed),
        "seconds": round(time.monotonic() - began),
        "moments": moments,
    }


def start(folder: Path, words: list[str]) -> subprocess.Popen:
    """A process; all share one compilation cache."""
    cache = {"JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(folder / "cache")}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, text=True, env=os.environ | cache, **pipes)


def finish(process: subprocess.Popen) -> None:
    told = process.communicate()[1]
    if process.returncode:
        raise SystemExit(told)


def wait_for(process: subprocess.Popen, run: Path, kind: str, target: int, rng: random.Random, start_up: float) -> None:
    """Returns at the moment to kill `process`: a random one of its start, or one of the kind once it is at the `target`."""
    if kind == "starting":
        before, end = last_checkpoint(run), time.monotonic() + rng.uniform(0, start_up)
        until(process, lambda: time.monotonic() > end or last_checkpoint(run) > before)
        return
    until(process, lambda: last_checkpoint(run) >= target)
    if kind == "training":
        time.sleep(rng.uniform(0, 0.05))
    elif kind == "checkpoint":
        until(process, lambda: any((run / "checkpoints").glob("*.partial")))
    else:
        size = log_size(run)
        until(process, lambda: log_size(run) != size)


def until(process: subprocess.Popen, there: Any) -> None:
    while process.poll() is None and not there():
        time.sleep(0.0005)


def last_checkpoint(run: Path) -> int:
    found = run / "checkpoints"
    return max((int(path.stem) for path in found.glob("*.safetensors") if path.stem.isdigit()), default=-1)


def log_size(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def compared(one: Path, other: Path) -> dict[str, bool]:
    """What of two runs is the same to the bit."""

    def log(run: Path, name: str) -> list[Any]:
        return [json.loads(line).get(name) for line in (run / "metrics.jsonl").read_text().splitlines()]

    def figures(run: Path) -> dict[str, Any]:
        return json.loads((run / "evaluation.json").read_text()) | {"seconds": 0}

    found = {which: arrays_of(one, which) == arrays_of(other, which) for which in ("last checkpoint", "best checkpoint")}
    found |= {f"{name} in the log": log(one, name) == log(other, name) for name in ("meta_step", "validation")}
    if (one / "evaluation.json").exists():
        found["parameters.npz"] = (one / "parameters.npz").read_bytes() == (other / "parameters.npz").read_bytes()
        found["evaluation.json"] = figures(one) == figures(other)
    return found


def arrays_of(run: Path, which: str) -> bytes:
    """Of the last checkpoint, or of the one that was best on meta-validation tasks: all that follows the header."""
    from fewstep.training.checkpoint import read_checkpoint_record

    found = {int(path.stem): path for path in (run / "checkpoints").glob("*.safetensors")}
    errors = {step: read_checkpoint_record(path)["validation"] for step, path in found.items()}
    best = min((step for step in found if errors[step] is not None), key=lambda step: (errors[step], -step))
    content = found[best if which == "best checkpoint" else max(found)].read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


if __name__ == "__main__":
    main()
