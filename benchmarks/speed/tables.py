"""The scale figures of docs/results.md: fleets, single units, a large table, the time of a whole training.

python -m benchmarks.speed.tables --data weather.csv     # some four minutes
Each figure is measured in a process of its own, with an empty compilation cache; times of warm calls are medians.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.records import Options, write

COLUMNS = {"task": "Station.Code", "inputs": ("Date.Full",), "target": ("Data.Temperature.Avg Temp",)}
UNITS, ROWS, ASKED = 1_000, 10, 43
LARGE_TASKS, LARGE_ROWS = 10_000, 100


def main() -> None:
    parser = Options(__doc__, "speed/tables.json")
    parser.add_argument("--data", required=True, help="the weather table")
    parser.add_argument("--part", choices=("fleet", "large"), help="measure this part in this very process, and print JSON")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps({"fleet": fleet, "large": large}[arguments.part](arguments.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        record = {"training": whole_training(arguments.data, place)}
        record |= {part: measured(part, place, arguments.data) for part in ("fleet", "large")}
    write(arguments.out, record)
    print(json.dumps(record, indent=1))


def environment(place: Path, name: str) -> dict[str, str]:
    return {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(place / f"cache-{name}")}


def measured(part: str, place: Path, data: str) -> dict[str, float]:
    """One part in a fresh process."""
    words = [sys.executable, "-m", "benchmarks.speed.tables", "--data", data, "--part", part, "--folder", str(place)]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True, env=environment(place, part)).stdout)


def whole_training(data: str, place: Path) -> dict[str, float | str]:
    """`fewstep train table` with the default preset, cold: both adapters trained, the better one chosen and calibrated."""
    words = [sys.executable, "-m", "fewstep.cli", "train", "table", "--data", data, "--out", str(place / "run"), "--json"]
    words += ["--task", COLUMNS["task"], "--inputs", *COLUMNS["inputs"], "--target", *COLUMNS["target"]]
    started = time.perf_counter()
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(place, "train")
    )
    trained = None
    assert process.stderr is not None and process.stdout is not None
    for line in process.stderr:
        if line.startswith("evaluating on unseen tasks"):
            trained = time.perf_counter() - started
    evaluation = json.loads(process.stdout.read())["evaluation"]
    assert process.wait() == 0 and trained is not None
    chosen = json.loads((place / "run" / "config.json").read_text())["settings"]["adapter"]
    return {
        "seconds_to_trained_and_calibrated": trained,
        "seconds_to_pictures": time.perf_counter() - started,
        "chosen_adapter": chosen,
        "mse": evaluation["mean"][evaluation["steps"].index(evaluation["protocol"]["trained_adaptation_steps"])],
    }


def fleet(place: Path) -> dict[str, float]:
    """A fleet, and one unit, adapted to ten rows each and asked for the other weeks, by the run of `whole_training`."""
    import numpy as np
    import polars as pl

    from fewstep import runs
    from fewstep.supervised.adapted import adapt
    from fewstep.supervised.trained import Trained

    trained = Trained.of(runs.open_run(place / "run"))
    week = np.arange(ROWS + ASKED)
    rng = np.random.default_rng(0)
    day = np.datetime64("2016-01-03") + 7 * week.astype("timedelta64[D]")

    def table(units: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        places = np.stack([rng.permutation(week) for _ in range(units)])
        mean, swing = rng.normal(55, 10, (units, 1)), rng.normal(20, 5, (units, 1))
        target = mean - swing * np.cos(2 * np.pi * places / 52.18) + rng.normal(0, 2, places.shape)
        frame = pl.DataFrame(
            {
                COLUMNS["task"]: np.repeat([f"u{unit}" for unit in range(units)], week.size),
                COLUMNS["inputs"][0]: day[places].ravel(),
                COLUMNS["target"][0]: target.ravel(),
                "place": np.tile(week, units),
            }
        )
        return frame.filter(pl.col("place") < ROWS), frame.filter(pl.col("place") >= ROWS)

    def once(units: int) -> float:
        support, inputs = table(units)
        started = time.perf_counter()
        adapted = adapt(trained, support)
        values = adapted.predict(inputs)
        seconds = time.perf_counter() - started
        assert values.shape == (units * ASKED,) and np.isfinite(values).all()
        return seconds

    first = once(UNITS)
    whole = statistics.median(once(UNITS) for _ in range(5))
    once(1)
    single = [once(1) for _ in range(200)]
    return {
        "units": UNITS,
        "rows": ROWS,
        "asked": ASKED,
        "first_call_seconds": first,
        "warm_seconds": whole,
        "one_unit_p50_ms": 1e3 * statistics.median(single),
        "one_unit_p95_ms": 1e3 * sorted(single)[int(0.95 * len(single))],
    }


def large(place: Path) -> dict[str, float]:
    """From the file of a million rows to the first meta-step, compiled and done; the peak of resident memory."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(0)
    rows = LARGE_TASKS * LARGE_ROWS
    unit = np.repeat(np.arange(LARGE_TASKS), LARGE_ROWS)
    x, z = rng.uniform(-1, 1, rows).round(4), rng.normal(size=rows).round(4)
    y = (rng.normal(size=LARGE_TASKS)[unit] * x + z + 0.1 * rng.normal(size=rows)).round(4)
    kind = rng.choice(["north", "south", "east", "west"], rows)
    path = place / "large.csv"
    pl.DataFrame({"unit": unit, "x": x, "z": z, "kind": kind, "y": y}).write_csv(path)
    code = f"""
import resource, time
started = time.perf_counter()
from fewstep.cli.arguments import prepare_jax
prepare_jax()
import jax
from fewstep.core import maml
from fewstep.apps.tables.settings import Table
from fewstep.training.devices import replicate, task_mesh
from fewstep.training.chunk import compiled_chunk
problem = Table(data={str(path)!r}, task="unit", inputs=("x", "z", "kind"), target=("y",)).build()
read = time.perf_counter() - started
mesh = task_mesh()
state = replicate(maml.init(problem.outer_optimizer, problem.init(jax.random.key(0))), mesh)
state, chunk = compiled_chunk(problem, mesh)(state, jax.random.key(1), 1)
assert int(jax.block_until_ready(state).step) == 1
print(read, time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment(place, "large-run")
    )
    read, first, peak = map(float, done.stdout.split())
    return {
        "rows": rows,
        "tasks": LARGE_TASKS,
        "seconds_to_encoded": read,
        "seconds_to_first_meta_step": first,
        "peak_gib": peak,
    }


if __name__ == "__main__":
    main()
