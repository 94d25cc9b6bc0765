"""The safety figures of docs/results.md: adaptation that does no harm, and units unlike anything trained on.

python -m benchmarks.robustness.safety --weather weather.csv --gapminder gapminder.tsv # some ten minutes Errors of unseen
units by number of support rows: before adaptation, after the trained steps, after the steps that leaving rows out calls
for (--steps auto). On pure noise there is nothing to learn, and adapting can only harm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import polars as pl

from benchmarks.records import Options, ratios, write
from fewstep.application import presets
from fewstep.apps.sine.settings import Sine
from fewstep.apps.sine.tasks import Ranges, sine_waves
from fewstep.apps.tables.settings import Table
from fewstep.core.problem import Problem
from fewstep.core.types import MetaParams
from fewstep.supervised.conformal import calibrate
from fewstep.supervised.report import report_by_shots
from fewstep.supervised.trained import Trained
from fewstep.supervised.training import finalize
from fewstep.training.loop import train_in_memory

COUNTS = (3, 5, 10, 20, 50)
WAVES = 1_000
STRANGE = (8.0, 10.0)
"""amplitudes of waves unlike those of training, which have 0.1 to 5"""


def main() -> None:
    parser = Options(__doc__, "robustness/safety.json")
    parser.add_argument("--weather", required=True)
    parser.add_argument("--gapminder", required=True)
    arguments = parser.parse_args()
    record: dict[str, Any] = {"by_rows": {}, "counts": COUNTS}
    for name, problem in problems(arguments.weather, arguments.gapminder):
        params, _ = finalize(problem, train_in_memory(problem))
        record["by_rows"][name] = by_rows(problem, params)
        print(name, json.dumps(record["by_rows"][name]), flush=True)
        if name == "sine, gradient":
            record["unlike"] = flagged(problem, params)
            print("unlike", record["unlike"], flush=True)
    worst = max(ratio for found in record["by_rows"].values() for ratio in ratios(found["auto"], found["before"]))
    record["worst_ratio_of_auto_to_before"] = worst
    write(arguments.out, record)
    print(f"worst ratio of the error with --steps auto to the error before: {worst:.3f}")


def problems(weather: str, gapminder: str) -> Iterator[tuple[str, Problem]]:
    """Each table under both adapters, and the sine waves under gradient steps."""
    tables = {
        "weather": {
            "data": weather,
            "task": "Station.Code",
            "inputs": ("Date.Full",),
            "target": ("Data.Temperature.Avg Temp",),
        },
        "gapminder": {"data": gapminder, "task": "country", "inputs": ("year",), "target": ("lifeExp",), "shots": 4},
        "noise": {"data": "noise", "task": "unit", "inputs": ("x",), "target": ("y",)},
    }
    for name, columns in tables.items():
        for adapter in ("bayes-head", "gradient"):
            settings: Table = replace(presets()["table"][adapter][0], **columns)
            problem = settings.build_from(noise(), "noise") if name == "noise" else settings.build()
            yield f"{name}, {adapter}", problem
    yield "sine, gradient", Sine().build()


def noise(units: int = 300, rows: int = 60) -> pl.DataFrame:
    """A table in which no input says anything of the target, in any unit."""
    random, count = np.random.default_rng(0), units * rows
    names = np.repeat([f"u{unit}" for unit in range(units)], rows)
    return pl.DataFrame({"unit": names, "x": random.uniform(-1, 1, count), "y": random.normal(size=count)})


def by_rows(problem: Problem, params: MetaParams) -> dict[str, Any]:
    """Errors by number of support rows, as far as units have more rows."""
    found = report_by_shots(replace(problem, shot_counts=COUNTS), params, {"tasks": 0, "by_shots": []}, None)
    return {name: found[name] for name in ("shots", "tasks", "before", "mean", "auto")}


def flagged(problem: Problem, params: MetaParams) -> dict[str, float]:
    """Which part of unseen waves is flagged, of amplitudes beyond the trained range and within it."""
    trained = Trained(problem, params, calibrate(problem, params), {})
    steps = trained.trained_steps

    def part(ranges: Ranges) -> float:
        family = sine_waves(jax.random.key(99), problem.settings.shot_range, 1, ranges=ranges)
        keys = jax.random.split(jax.random.key(100), WAVES)
        support = jax.device_get(jax.vmap(lambda task, key: family.episode(task, key).support)(family.tasks(WAVES), keys))
        signs = trained.report(support, steps).ood_features
        return float(np.mean([trained.ood_reason(problem.settings.shot_range.most, sign, steps) is not None for sign in signs]))

    return {"waves": WAVES, "amplitude_8_to_10": part(Ranges(STRANGE)), "trained_range": part(Ranges())}


if __name__ == "__main__":
    main()
