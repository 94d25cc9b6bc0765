"""The figures of the sine presets in docs/results.md: trains each preset on several seeds, evaluates, writes one record.

python -m benchmarks.accuracy.sine.presets [--presets default one-step paper tutorial] [--seeds 0 1 2 3 4]
About a minute a run. Runs are kept under --runs and are not trained again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.records import Options, read, write

SHOTS = {"paper": (5, 10, 20)}
STEPS = {"one-step": "0,1"}


def main() -> None:
    parser = Options(__doc__, "accuracy/sine/presets.json")
    parser.add_argument("--presets", nargs="+", default=["default", "one-step", "paper", "tutorial"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--runs", type=Path, default=Path("runs/sine-record"))
    parser.add_argument("--no-gaussian-process", action="store_true")
    arguments = parser.parse_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    record = {"presets": {}} | read(arguments.out)
    for preset in arguments.presets:
        record["presets"][preset] = {"runs": [one_run(preset, seed, arguments.runs) for seed in arguments.seeds]}
    if not arguments.no_gaussian_process:
        record["gaussian_process"] = gaussian_processes()
    write(arguments.out, record)
    print_table(record)


def one_run(preset: str, seed: int, folder: Path) -> dict:
    """Trains one preset on one seed by the command itself, cold, and evaluates it at every number of shots asked for."""
    run = folder / f"{preset}-{seed}"
    fewstep = [sys.executable, "-m", "fewstep.cli"]
    timing = run.parent / f"{run.name}.seconds"
    if not (run / "evaluation.json").exists():
        command = [*fewstep, "train", "sine", "--preset", preset, "--seed", str(seed), "--out", str(run)]
        with tempfile.TemporaryDirectory() as empty:  # a compilation cache of its own: nothing was ever compiled
            started = time.monotonic()
            subprocess.run(command, check=True, env=os.environ | {"JAX_COMPILATION_CACHE_DIR": empty})
            timing.write_text(f"{time.monotonic() - started:.1f}")
    figures = {}
    for shots in SHOTS.get(preset, (5, 10)):
        command = [*fewstep, "evaluate", str(run), "--shots", str(shots), "--steps", STEPS.get(preset, "0,1,5,10"), "--json"]
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        figures[str(shots)] = {name: result[name] for name in ("steps", "mean", "ci95", "diverged", "tasks")}
    return {"seed": seed, "seconds": float(timing.read_text()), "shots": figures}


def gaussian_processes(tasks: int = 1000, shots: int = 10) -> dict[str, float]:
    """MSE of Gaussian processes on the same family, for scale: kernel parameters chosen on 100 other waves."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, ExpSineSquared

    def waves(seed: int, count: int):
        draw = np.random.default_rng(seed)
        for _ in range(count):
            amplitude, phase, x = draw.uniform(0.1, 5.0), draw.uniform(0, np.pi), draw.uniform(-5, 5, (shots + 100, 1))
            yield x, amplitude * np.sin(x[:, 0] + phase)

    def error(kernel, seed: int, count: int) -> float:
        errors = []
        for x, y in waves(seed, count):
            process = GaussianProcessRegressor(kernel, alpha=1e-6, optimizer=None).fit(x[:shots], y[:shots])
            errors.append(np.mean((process.predict(x[shots:]) - y[shots:]) ** 2))
        return float(np.mean(errors))

    variance = ConstantKernel(9.0)
    rbf = min((variance * RBF(scale) for scale in np.linspace(1.0, 4.0, 13)), key=lambda kernel: error(kernel, 1, 100))
    scales = (1.0, 2.0, 4.0, 8.0)
    periodic = min((variance * ExpSineSquared(scale, 2 * np.pi) for scale in scales), key=lambda kernel: error(kernel, 1, 100))
    return {"rbf": error(rbf, 2, tasks), "periodic": error(periodic, 2, tasks), "tasks": tasks, "shots": shots}


def print_table(record: dict) -> None:
    """One row per preset and number of shots: mean over seeds, and the worst seed."""
    print("| preset | shots | steps | mean over seeds (worst seed) | seconds (median) |\n|---|---|---|---|---|")
    for preset, entry in record["presets"].items():
        seconds = np.median([run["seconds"] for run in entry["runs"]])
        for shots, first in entry["runs"][0]["shots"].items():
            for column, steps in enumerate(first["steps"]):
                values = [run["shots"][shots]["mean"][column] for run in entry["runs"]]
                known = [value for value in values if value is not None]
                text = f"{np.mean(known):.4g} ({max(known):.4g})" if len(known) == len(values) else f"diverged: {values}"
                print(f"| {preset} | {shots} | {steps} | {text} | {seconds:.0f} |")
    if "gaussian_process" in record:
        print("Gaussian process, for scale:", record["gaussian_process"])


if __name__ == "__main__":
    main()
