"""The weather figures of docs/results.md: unseen US stations from 10 rows, fewstep beside what a statistician would try.

python benchmarks/weather.py --data weather.csv [--folds 5] [--future] [--out FILE]     some ten minutes
Every station that has a row in every week is tested once (cross-fitting). All methods see the same meta-train stations, choose
on the same meta-validation stations, and are measured on the same support and query rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import optax
import polars as pl
from classics import RIVALS, Asked, Curves, chosen, squared_errors

from fewstep import maml
from fewstep.problems import PRESETS
from fewstep.training import loop
from fewstep.training.complete import complete
from fewstep.training.evaluate import summarize, task_errors
from fewstep.types import MetaParams

TASK, DATE, TARGET = "Station.Code", "Date.Full", "Data.Temperature.Avg Temp"
DRAWS = 10
KEY = jax.random.key(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--future", action="store_true", help="ten rows in a row, then the weeks after them")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    out = arguments.out or Path("docs/records/weather_future.json" if arguments.future else "docs/records/weather.json")
    with tempfile.TemporaryDirectory() as folder:
        data = complete_stations(arguments.data, Path(folder))
        folds = [one_fold(data, fold, arguments.folds, arguments.future) for fold in range(arguments.folds)]
    tested = {method: np.concatenate([fold[method] for fold in folds]) for method in folds[0]}
    methods = {method: summary(errors[:, None]) for method, errors in tested.items()}
    stations = int(next(iter(tested.values())).size)
    record = {"unit": "°F²", "shots": 10, "draws": DRAWS, "stations": stations, "folds": arguments.folds}
    record |= {"methods": methods, "date": time.strftime("%Y-%m-%d")}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(f"| method | MSE °F² on {stations} unseen stations (95 % interval over stations) | median station |\n|---|---|---|")
    for method, found in sorted(methods.items(), key=lambda item: -item[1]["mean"]):
        print(f"| {method} | {found['mean']:.1f} ± {found['ci95']:.1f} | {found['median']:.1f} |")


def complete_stations(data: str, folder: Path) -> str:
    """A file of the stations with a row in every week, which the classics need."""
    table = pl.read_csv(data)
    weeks = table[DATE].n_unique()
    whole = (pl.len().over(TASK) == weeks) & (pl.col(DATE).n_unique().over(TASK) == weeks)
    table.filter(whole).write_csv(folder / "complete.csv")
    return str(folder / "complete.csv")


def one_fold(data: str, fold: int, folds: int, future: bool) -> dict[str, np.ndarray]:
    """All methods on one fold: name -> [stations] in °F²."""
    columns = {"data": data, "task": TASK, "inputs": (DATE,), "target": TARGET, "queries": 43}
    columns |= {"test_fraction": 1 / folds, "fold": fold, "time": DATE if future else ""}
    bayes, gradient = (replace(PRESETS["table"][name][0], **columns).build() for name in ("default", "gradient"))
    print(f"fold {fold}", flush=True)
    found = rivals(gradient)
    pooled_problem = replace(gradient, learner=replace(gradient.learner, adaptation_steps=0, objective=maml.task_loss))
    pooled = meta_train(pooled_problem).theta
    rate, steps = best_fine_tuning(gradient, pooled)
    tuned = replace(gradient, learner=replace(gradient.learner, inner_optimizer=optax.sgd(rate)))
    test = gradient.splits.test
    found["pooled network"] = errors(pooled_problem, MetaParams(pooled), test, [0])[:, 0]
    found["pooled network, fine-tuned"] = errors(tuned, MetaParams(pooled), test, [steps])[:, 0]
    found["fewstep, 5 gradient steps"] = errors(gradient, meta_train(gradient), test, [5])[:, 0]
    trained = meta_train(bayes)
    found["fewstep, Bayesian last layer, one normal"] = errors(bayes, trained, bayes.splits.test, [1])[:, 0]
    found["fewstep, Bayesian last layer (default)"] = errors(bayes, complete(bayes, trained), bayes.splits.test, [1])[:, 0]
    print(
        "  " + ", ".join(f"{name}: {values.mean():.1f}" for name, values in found.items() if "network" in name or "few" in name)
    )
    return found


def meta_train(problem) -> MetaParams:
    """Trains in memory, to the end of the schedule."""
    init_key, train_key, _ = jax.random.split(jax.random.key(0), 3)
    state = maml.init(problem.outer_optimizer, problem.init(init_key))
    run = loop.compiled_chunk(problem, loop.task_mesh())
    return jax.device_get(run(state, train_key, problem.meta_steps)[0].params)


def errors(problem, params, family, steps) -> np.ndarray:
    """[stations, steps] in °F²; each station's figure is the mean over its draws."""
    run = jax.jit(lambda params: task_errors(problem, params, family, family.tasks(10_000), steps, KEY, DRAWS))
    return np.asarray(run(params).metrics["mse"])


def best_fine_tuning(problem, theta) -> tuple[float, int]:
    """The rate and number of steps that do best on the meta-validation stations."""
    steps, tried = (1, 3, 10, 30, 100), {}
    for rate in (0.003, 0.01, 0.03, 0.1, 0.3):
        tuned = replace(problem, learner=replace(problem.learner, inner_optimizer=optax.sgd(rate)))
        means = errors(tuned, MetaParams(theta), problem.splits.validation, steps).mean(0)
        tried |= {(rate, step): mean for step, mean in zip(steps, means, strict=True) if np.isfinite(mean)}
    return min(tried, key=tried.__getitem__)


def asked(family, angle: np.ndarray, trend: np.ndarray, problem) -> Asked:
    """The very episodes on which `errors` measures a family, as places on the grid of weeks and °F."""

    def episodes_of(task):
        keys = jax.random.split(jax.random.fold_in(KEY, task), DRAWS)
        return jax.vmap(lambda key: family.episode(task, jax.random.split(key)[0]))(keys)

    episodes = jax.device_get(jax.jit(jax.vmap(episodes_of))(family.tasks(10_000)))
    parts = []
    for examples in episodes:
        gaps = np.abs(examples.inputs[..., :1] - trend)  # column 0 is the trend of the date
        parts += [gaps.argmin(-1), problem.format.restore_target(examples.targets[..., 0])]
    return Asked(*parts, episodes.query.weight)


def rivals(problem) -> dict[str, np.ndarray]:
    """The classics on the same episodes: name -> [stations] in °F²."""
    splits = problem.splits
    inputs, targets, _ = jax.device_get(jax.vmap(splits.train.examples)(splits.train.tasks(10_000)))
    order = inputs[..., 0].argsort(1)
    first = inputs[0, order[0]]
    angle = np.arctan2(first[:, 1], first[:, 2]).astype(float)  # columns 1 and 2 are the first annual harmonic
    curves = Curves(problem.format.restore_target(np.take_along_axis(targets[..., 0], order, 1)), angle)
    test, validation = (asked(family, angle, first[:, 0], problem) for family in (splits.test, splits.validation))
    found = {}
    for name, several in RIVALS.items():
        rival = several[0] if len(several) == 1 else chosen(several, curves, validation)
        found[name] = squared_errors(rival(curves, test), test)
        print(f"  {name}: {found[name].mean():.1f}", flush=True)
    return found


def summary(values: np.ndarray) -> dict[str, float]:
    numbers = summarize(values)
    return {"mean": numbers["mean"][0], "ci95": numbers["ci95"][0], "median": float(np.median(values))}


if __name__ == "__main__":
    main()
