"""Do two versions of fewstep give the same numbers? Tiny trainings of every problem, preset and adapter, at two seeds.

python -m benchmarks.changes.unchanged record --tree ../before --out before.json     # a checkout of the version before
python -m benchmarks.changes.unchanged record --out after.json                       # this one
python -m benchmarks.changes.unchanged compare before.json after.json --out docs/records/changes/unchanged.json

Both records are made on one machine: the last bits of a float32 product depend on the processor. Of each run a record
holds the SHA-256 of every array of its final parameters and the numbers of its evaluation.json, times left out. The
comparison looks at neither the names of arrays nor the keys of the JSON, so that both may be renamed. A record goes on
where it was interrupted. About 45 minutes of two cores for each record."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.records import ROOT, read, write

SEEDS = (0, 1)
TIMES = ("seconds", "milliseconds", "date", "version")
"""keys of evaluation.json that contain one of these hold no result"""
SHORT = ["--meta-batch-size", "4", "--log-every", "10"]
TABLE = ["table", "--data", "{rooms}", "--task", "room", "--inputs", "day", "outside_temperature", "product", "--target"]
TABLE += ["energy_kwh", "--meta-steps", "20", *SHORT, "--hidden", "8"]
PHOTOS = ["images", "--data", "{photos}", "--size", "16", "--ways", "3", "--queries", "3", "--meta-steps", "6", *SHORT]
PHOTOS += ["--filters", "4", "--validation-tasks", "20"]
DRAWINGS = ["omniglot", "--data-dir", "{omniglot}", "--meta-steps", "4", *SHORT, "--filters", "4", "--validation-tasks", "20"]
ROBOTS = [
    "robot-faults",
    "--robots",
    "16",
    "8",
    "8",
    "--runs",
    "2",
    "--run-steps",
    "100",
    "--meta-steps",
    "10",
    *SHORT,
    "--hidden",
    "8",
]
POLICY = ["--meta-steps", "2", "--meta-batch-size", "4", "--rollouts", "4", "--hidden", "8", "--log-every", "1"]
ADAPTERS = ("gradient", "bayes-head", "ridge-head", "in-context")
LOCOMOTION = ("cheetah-vel", "cheetah-dir", "ant-vel", "ant-dir")


class Case(NamedTuple):
    """One training: its name in the record, and the words after `fewstep train`."""

    name: str
    words: list[str]


def cases() -> Iterator[Case]:
    """All trainings of a record. A test asks that no problem, preset or adapter is missing."""
    sine = ["sine", "--meta-steps", "20", *SHORT, "--hidden", "8"]
    for preset in ("default", "one-step", "tutorial", "paper"):
        yield Case(f"sine {preset}", [*sine, "--preset", preset])
    for preset in ("default", "bayes-head", "gradient"):
        yield Case(f"table {preset}", [*TABLE, "--preset", preset])
    for adapter in ADAPTERS[1:]:
        yield Case(f"sine --adapter {adapter}", [*sine, "--adapter", adapter])
    for adapter in ADAPTERS[2:]:
        yield Case(f"table --adapter {adapter}", [*TABLE, "--adapter", adapter])
    for preset in ("default", "best", "maml"):
        yield Case(f"images {preset}", [*PHOTOS, "--preset", preset, *["--joint-steps", "4"] * (preset == "best")])
    for preset in ("default", "best", "maml", "maml-short"):
        yield Case(
            f"omniglot {preset}", [*DRAWINGS, "--preset", preset, *["--joint-steps", "4"] * (preset in ("default", "best"))]
        )
    for preset in ("default", "control", "maml"):
        yield Case(f"robot-faults {preset}", [*ROBOTS, "--preset", preset])
    for adapter in ADAPTERS[1:]:
        yield Case(f"robot-faults --adapter {adapter}", [*ROBOTS, "--adapter", adapter])
    for problem in ("nav2d", *LOCOMOTION, "rl"):
        own = {"nav2d": [], "rl": ["--env", "point_family:Point", "--horizon", "20"]}.get(problem, ["--horizon", "20"])
        for preset in ("default", "maml"):
            yield Case(f"{problem} {preset}", [problem, *own, *POLICY, "--preset", preset])


def write_data(folder: Path, omniglot: Path, tree: Path) -> dict[str, str]:
    """Generated photos, a generated table and a Gymnasium environment, the same for every version."""
    rng = np.random.default_rng(0)
    for number in range(24):
        of_class = folder / "photos" / f"class-{number:02}"
        of_class.mkdir(parents=True)
        look = rng.integers(0, 255, (16, 16, 3))
        for photo in range(8):
            pixels = np.clip(look + rng.normal(0, 40, look.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(of_class / f"{photo}.png")
    lines = ["room,day,outside_temperature,product,energy_kwh"]
    for room in range(40):
        level, slope, phase = rng.normal(20, 5), rng.normal(1, 0.3), rng.uniform(0, 6)
        for day in np.sort(rng.permutation(200)[:24]):
            outside = 10 + 8 * np.sin(day / 58 + phase) + rng.normal(0, 1)
            product = ("milk", "meat", "fruit")[rng.integers(3)]
            energy = level + slope * outside + 2 * (product == "meat") + rng.normal(0, 0.5)
            lines.append(f"room-{room:02},{day},{outside:.3f},{product},{energy:.3f}")
    (folder / "rooms.csv").write_text("\n".join(lines) + "\n")
    (folder / "point_family.py").write_text((Path(__file__).parent / "point_family.py").read_text())
    return {"rooms": str(folder / "rooms.csv"), "photos": str(folder / "photos"), "omniglot": str(omniglot), "tree": str(tree)}


PARAMETERS = """
import sys
import jax, numpy as np
from pathlib import Path
from fewstep import runs
run = runs.open_run(sys.argv[1], *sys.argv[2:])
params = run.params() if hasattr(run, "params") else run.checkpoint()[0]
np.savez(Path(sys.argv[1]) / "parameters.npz", *map(np.asarray, jax.tree.leaves(params)))
"""
"""writes the parameters of a policy, whose run has no file of them"""


def train(case: Case, seed: int, folder: Path, data: dict[str, str], tree: Path) -> dict[str, Any]:
    """What the record holds of one training."""
    run = folder / f"{case.name} {seed}".replace(" ", "_")
    words = [word.format(**data) for word in case.words]
    # One device, so that the order of sums does not depend on the machine's number of cores.
    policy = case.words[0] in (
        "nav2d",
        *LOCOMOTION,
        "rl",
    )  # of which one device is the default, in earlier versions the only way
    devices = [] if policy else ["--devices", "1"]
    command = [sys.executable, "-m", "fewstep.cli", "train", *words, "--seed", str(seed), *devices, "--out", str(run)]
    places = {
        "PYTHONPATH": f"{tree}{os.pathsep}{folder}",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=1",
    }
    done = subprocess.run(command, cwd=folder, env=os.environ | places, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-12:]}
    evaluation = json.loads((run / "evaluation.json").read_text())
    if policy:
        named = [words[words.index("--env") + 1]] if "--env" in words else []
        subprocess.run([sys.executable, "-c", PARAMETERS, run, *named], cwd=folder, env=os.environ | places, check=True)
    return {"parameters": digests(run), "numbers": list(numbers(evaluation))}


def digests(run: Path) -> list[str]:
    """The SHA-256 of each array of the run's parameters, sorted: names and order may change, bits may not."""
    with np.load(run / "parameters.npz") as arrays:
        found = [np.ascontiguousarray(arrays[name]) for name in arrays.files]
    return sorted(hashlib.sha256(f"{a.dtype}{a.shape}".encode() + a.tobytes()).hexdigest() for a in found)


def numbers(found: Any, name: str = "") -> Iterator[float]:
    """The numbers of a JSON value in order, those under the keys of `TIMES` left out."""
    if isinstance(found, dict):
        for key, value in found.items():
            yield from numbers(value, key)
    elif isinstance(found, list):
        for value in found:
            yield from numbers(value, name)
    elif isinstance(found, int | float) and not isinstance(found, bool) and not any(time in name for time in TIMES):
        yield found


def record(arguments: argparse.Namespace) -> None:
    tree = arguments.tree.resolve()
    found: dict[str, Any] = {"runs": {}} | read(arguments.out)
    commit = subprocess.run(["git", "-C", tree, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    if found.get("commit", commit) != commit:
        raise SystemExit(f"{arguments.out} is of {found['commit']}, {tree} is at {commit}: name another file.")
    found["commit"] = commit
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.at_once) as pool:
        place = Path(folder)
        data = write_data(place, arguments.omniglot.resolve(), tree)
        missing = [(c, seed) for c in cases() for seed in SEEDS if f"{c.name}, seed {seed}" not in found["runs"]]
        wanted = [(c, seed) for c, seed in missing if arguments.only in c.name]
        for (case, seed), result in zip(wanted, pool.map(lambda each: train(*each, place, data, tree), wanted), strict=True):
            found["runs"][f"{case.name}, seed {seed}"] = result
            print(f"{case.name}, seed {seed}: {'FAILED' if 'failed' in result else len(result['numbers'])}", flush=True)
            write(arguments.out, found)


def compare(arguments: argparse.Namespace) -> None:
    before, after = (json.loads(path.read_text()) for path in (arguments.before, arguments.after))
    result: dict[str, Any] = {
        "command": "python -m benchmarks.changes.unchanged compare",
        "before": before["commit"],
        "runs": {},
    }
    for name, old in before["runs"].items():
        new = after["runs"].get(name, {})
        same = {key: old.get(key) == new.get(key) and key in old for key in ("parameters", "numbers")}
        result["runs"][name] = same
        if not all(same.values()):
            print(f"{name}: " + ", ".join(f"{key} {'same' if equal else 'DIFFER'}" for key, equal in same.items()))
    equal = sum(all(same.values()) for same in result["runs"].values())
    result |= {"equal": equal, "of": len(result["runs"])}
    print(f"{equal} of {len(result['runs'])} runs are equal bit for bit.")
    write(arguments.out, result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    recording = commands.add_parser("record")
    recording.add_argument("--tree", type=Path, default=ROOT)
    recording.add_argument("--out", type=Path, required=True)
    recording.add_argument("--omniglot", type=Path, default=ROOT.parent / "shared" / "data" / "omniglot")
    recording.add_argument("--only", default="", help="part of the names of the trainings")
    recording.add_argument("--at-once", type=int, default=2)
    recording.set_defaults(do=record)
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.add_argument("--out", type=Path)
    comparing.set_defaults(do=compare)
    arguments = parser.parse_args()
    arguments.do(arguments)


if __name__ == "__main__":
    main()
