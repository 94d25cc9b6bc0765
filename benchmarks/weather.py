"""The weather figures of docs/results.md: unseen US stations from 10 rows, MAML beside what a practitioner tries first.

python benchmarks/weather.py --data weather.csv [--seeds 0 1 2] [--out docs/records/weather.json]     a few minutes
Every method sees the same meta-train stations and is measured on the same support and query rows of the same stations.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fewstep import maml
from fewstep.problems import PRESETS
from fewstep.training import loop
from fewstep.training.evaluate import summarize, task_errors
from fewstep.types import MetaParams

TASK, DATE, TARGET = "Station.Code", "Date.Full", "Data.Temperature.Avg Temp"
DRAWS = 10
KEY = jax.random.key(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("docs/records/weather.json"))
    arguments = parser.parse_args()
    settings = replace(PRESETS["table"]["default"][0], data=arguments.data, task=TASK, inputs=(DATE,), target=TARGET)
    seeds = [one_seed(settings, seed) for seed in arguments.seeds]
    record = {"unit": "°F²", "shots": settings.shots, "draws": DRAWS, "seeds": seeds, "date": time.strftime("%Y-%m-%d")}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print("| method | MSE °F² on unseen stations, by seed (95 % interval over stations) |\n|---|---|")
    for method in seeds[0]["methods"]:
        cells = [f"{s['methods'][method]['mean']:.1f} ± {s['methods'][method]['ci95']:.1f}" for s in seeds]
        print(f"| {method} | {', '.join(cells)} |")


def one_seed(settings, seed: int) -> dict:
    """All methods on one split of the stations."""
    problem = settings.build(seed)
    steps = settings.adaptation_steps
    adapted = meta_train(problem, seed)
    pooled_problem = replace(problem, learner=replace(problem.learner, adaptation_steps=0, objective=maml.task_loss))
    pooled = meta_train(pooled_problem, seed).theta
    rate, fine_steps = best_fine_tuning(problem, pooled)
    tuned = replace(problem, learner=replace(problem.learner, inner_optimizer=optax.sgd(rate)))
    test = problem.splits.test
    methods = {
        "least-squares sinusoid": summary(sinusoid_errors(problem)),
        "pooled network": summary(errors(pooled_problem, MetaParams(pooled), test, [0])),
        f"pooled network, fine-tuned ({fine_steps} steps)": summary(errors(tuned, MetaParams(pooled), test, [fine_steps])),
        f"fewstep, {steps} adaptation steps": summary(errors(problem, adapted, test, [steps])),
    }
    methods = {name.split(" (")[0]: value for name, value in methods.items()}
    return {"seed": seed, "stations": test.size, "fine_tuning": {"rate": rate, "steps": fine_steps}, "methods": methods}


def meta_train(problem, seed: int) -> MetaParams:
    """Trains in memory, to the end of the schedule."""
    init_key, train_key, _ = jax.random.split(jax.random.key(seed), 3)
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


def sinusoid_errors(problem) -> np.ndarray:
    """y = a + b sin + c cos of the year, fitted to each support set alone by least squares: [stations, 1] in °F²."""
    family, unit = problem.splits.test, problem.format.target_scale

    def one_episode(task, key):
        # Column 0 is the trend, columns 1 and 2 the first annual harmonic: see fewstep/tasks/columns.py.
        episode = family.episode(task, jax.random.split(key)[0])
        design = lambda inputs: jnp.concatenate([jnp.ones((inputs.shape[0], 1)), inputs[:, 1:3]], 1)  # noqa: E731
        fitted = jnp.linalg.lstsq(design(episode.support.inputs), episode.support.targets)[0]
        squares = jnp.square((design(episode.query.inputs) @ fitted - episode.query.targets)[:, 0] * unit)
        return jnp.sum(squares * episode.query.weight) / jnp.sum(episode.query.weight)

    def one_station(task):
        return jnp.mean(jax.vmap(lambda key: one_episode(task, key))(jax.random.split(jax.random.fold_in(KEY, task), DRAWS)))

    return np.asarray(jax.jit(jax.vmap(one_station))(family.tasks(10_000)))[:, None]


def summary(values: np.ndarray) -> dict[str, float]:
    numbers = summarize(values)
    return {"mean": numbers["mean"][0], "ci95": numbers["ci95"][0]}


if __name__ == "__main__":
    main()
