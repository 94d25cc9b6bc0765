"""The table figures of docs/results.md: unseen units from a few rows, fewstep beside what a statistician would try.

python -m benchmarks.accuracy.tables.cross_fitting weather --data weather.csv [--future] python -m
benchmarks.accuracy.tables.cross_fitting gapminder --data gapminder.tsv [--future] Every unit that has a row in every
place of the common grid is tested once (cross-fitting). All methods see the same meta-train units, choose on the same
meta-validation units, calibrate their 95 % intervals on the same calibration units by the same rule, and are measured on
the same support and query rows. Some ten minutes a table."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import polars as pl

from benchmarks.accuracy.tables.classics import Answer, Asked, Curves, chosen, rivals, squared_errors
from benchmarks.records import Options, write
from fewstep.apps.tables.settings import Table
from fewstep.core import maml
from fewstep.core.problem import Problem
from fewstep.core.types import MetaParams
from fewstep.errors import TrainingError
from fewstep.storage.tables import read_table
from fewstep.supervised.conformal import quantile
from fewstep.supervised.evaluate import summarize, task_errors
from fewstep.supervised.fit import adapt_task, deviation
from fewstep.supervised.training import finalize
from fewstep.training import loop
from fewstep.training.checkpoint import Checkpoints

DRAWS = 10
KEY = jax.random.key(0)


@dataclass(frozen=True)
class Study:
    """A table, what is asked of it, and what regressions on its grid use."""

    task: str
    inputs: tuple[str, ...]
    target: str
    shots: int
    unit: str
    basis: Callable[[np.ndarray], Callable[[int], np.ndarray]]
    """places [places, features] -> `Curves.basis`"""
    noises: tuple[float, ...]
    """variances among which kriging chooses"""
    level: int
    """of intervals, per cent: what the number of calibration units allows"""


def harmonics(places: np.ndarray) -> Callable[[int], np.ndarray]:
    """1, sin, cos, sin 2, cos 2 ... of the year; columns 1 and 2 of an encoded date are the first annual harmonic."""
    angle = np.arctan2(places[:, 1], places[:, 2]).astype(float)
    waves = lambda order: [wave(n * angle) for n in range(1, order + 1) for wave in (np.sin, np.cos)]  # noqa: E731
    return lambda order: np.stack([np.ones_like(angle), *waves(order)], axis=-1)


def powers(places: np.ndarray) -> Callable[[int], np.ndarray]:
    """1, t, t² ... of the standardized number."""
    return lambda order: np.vander(places[:, 0].astype(float), order + 1, increasing=True)


STUDIES = {
    "weather": Study(
        "Station.Code", ("Date.Full",), "Data.Temperature.Avg Temp", 10, "°F", harmonics, (0.1, 0.3, 1.0, 3.0, 10.0), 95
    ),
    "gapminder": Study("country", ("year",), "lifeExp", 4, "years", powers, (0.03, 0.1, 0.3, 1.0, 3.0), 90),
}


def main() -> None:
    parser = Options(__doc__, "accuracy/tables/{study}{future}.json")
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--data", required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument(
        "--future", action="store_const", const="_future", default="", help="support rows in a row, then the rows after them"
    )
    arguments = parser.parse_args()
    study = STUDIES[arguments.study]
    with tempfile.TemporaryDirectory() as folder:
        data = complete_units(arguments.data, study, Path(folder))
        folds = [one_fold(study, data, fold, arguments.folds, bool(arguments.future)) for fold in range(arguments.folds)]
    record = {
        "unit": f"{study.unit}²",
        "shots": study.shots,
        "draws": DRAWS,
        "units": int(sum(fold["units"] for fold in folds)),
        "folds": arguments.folds,
        "chosen_adapters": [fold["chosen"] for fold in folds],
        "calibration_units": [fold["calibration"] for fold in folds],
        "interval_level": study.level,
        "methods": {method: summary([fold["methods"][method] for fold in folds]) for method in folds[0]["methods"]},
    }
    write(arguments.out, record)
    print_record(record, study.unit)


def print_record(record: dict[str, Any], unit: str) -> None:
    heading = f"MSE {unit}² on {record['units']} unseen units (95 % interval) | median unit"
    print(f"| method | {heading} | {record['interval_level']} % intervals cover | mean width {unit} |")
    print("|---|---|---|---|---|")
    for method, found in sorted(record["methods"].items(), key=lambda item: -item[1]["mean"]):
        cover = f"{100 * found['coverage']:.1f} %" if found["coverage"] is not None else "too few units"
        width = f"{found['width']:.1f}" if found["width"] is not None else ""
        print(f"| {method} | {found['mean']:.1f} ± {found['ci95']:.1f} | {found['median']:.1f} | {cover} | {width} |")


def complete_units(data: str, study: Study, folder: Path) -> str:
    """A file of the units with one row in every place, which the classics need."""
    table = read_table(data)
    place = study.inputs[0]
    places = table[place].n_unique()
    whole = (pl.len().over(study.task) == places) & (pl.col(place).n_unique().over(study.task) == places)
    table.filter(whole).write_csv(folder / "complete.csv")
    return str(folder / "complete.csv")


def one_fold(study: Study, data: str, fold: int, folds: int, future: bool) -> dict[str, Any]:
    """All methods on one fold: squared errors [units] by method, and coverage and width of intervals."""
    columns = {"data": data, "task": study.task, "inputs": study.inputs, "target": (study.target,), "shots": study.shots}
    columns |= {"test_fraction": 1 / folds, "fold": fold, "time": study.inputs[0] if future else "", "queries": 1000}
    candidates = {name: settings.build() for name, settings in Table(**columns).candidates().items()}
    gradient, bayes = candidates["gradient"], candidates["bayes-head"]
    print(f"fold {fold}", flush=True)
    families = {name: getattr(gradient.splits, name) for name in ("test", "validation", "calibration")}
    places, curves = training_curves(study, gradient)
    asked = {name: places_of(family, places, gradient) for name, family in families.items()}
    found: dict[str, dict[str, Answer]] = {}
    for name, several in rivals(study.noises).items():
        rival = chosen(several, curves, asked["validation"])
        found[name] = {split: rival(curves, asked[split]) for split in ("test", "calibration")}
        report(name, found[name], asked)
    ours: dict[str, tuple[Problem, MetaParams, int, bool]] = {}
    pooled_problem = replace(gradient, learner=replace(gradient.learner, adaptation_steps=0, objective=maml.task_loss))
    pooled = MetaParams(meta_train(pooled_problem).theta)
    rate, steps = best_fine_tuning(gradient, pooled)
    tuned = replace(gradient, learner=replace(gradient.learner, inner_optimizer=optax.sgd(rate)))
    ours["pooled network"] = (pooled_problem, pooled, 0, False)
    ours["pooled network, fine-tuned"] = (tuned, pooled, steps, False)
    by_gradient, gradient_error = finalize(gradient, meta_train(gradient))
    plain = meta_train(bayes)
    by_bayes, bayes_error = finalize(bayes, plain)
    ours["fewstep, 5 gradient steps"] = (gradient, by_gradient, gradient.learner.adaptation_steps, True)
    ours["fewstep, Bayesian last layer, one normal"] = (bayes, plain, 1, True)
    ours["fewstep, Bayesian last layer"] = (bayes, by_bayes, 1, True)
    for name, (problem, params, steps, sure) in ours.items():
        splits = {split: getattr(problem.splits, split) for split in ("test", "calibration")}
        found[name] = {split: answers(problem, params, family, steps, sure) for split, family in splits.items()}
        report(name, found[name], asked)
    best = "bayes-head" if bayes_error <= gradient_error else "gradient"
    found["fewstep, default"] = found["fewstep, Bayesian last layer" if best == "bayes-head" else "fewstep, 5 gradient steps"]
    return {
        "units": asked["test"].query.shape[0],
        "calibration": asked["calibration"].query.shape[0],
        "chosen": best,
        "methods": {name: measured(answer, asked, study.level) for name, answer in found.items()},
    }


def meta_train(problem: Problem) -> MetaParams:
    """As the command trains: the best checkpoint on validation units; where training stops being finite, the best before."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            loop.train(problem, Path(folder), quiet=True)
        except TrainingError as error:
            print(f"  stopped, best checkpoint taken: {error}", flush=True)
        like = jax.eval_shape(lambda: maml.init(problem.outer_optimizer, problem.init(KEY)))
        with Checkpoints(Path(folder) / "checkpoints", "read") as checkpoints:
            return jax.tree.map(jnp.asarray, checkpoints.restore(like, "best")[0].params)


def report(name: str, answer: dict[str, Answer], asked: dict[str, Asked]) -> None:
    print(f"  {name}: {squared_errors(answer['test'].prediction, asked['test']).mean():.2f}", flush=True)


def measured(answer: dict[str, Answer], asked: dict[str, Asked], level: int) -> dict[str, np.ndarray | None]:
    """Of one method on the test units: squared errors, covered part and mean width of its calibrated intervals, all [units]."""
    calibration, test = asked["calibration"], asked["test"]
    scores = np.abs(answer["calibration"].prediction - calibration.query) / answer["calibration"].deviation
    factor = quantile(scores, unit_weights(calibration), level, calibration.query.shape[0])
    errors = squared_errors(answer["test"].prediction, test)
    if factor is None:
        return {"errors": errors, "covered": None, "width": None}
    half, weights = factor * answer["test"].deviation, unit_weights(test) * test.query.shape[0]
    covered = np.abs(answer["test"].prediction - test.query) <= half
    return {"errors": errors, "covered": (covered * weights).sum((1, 2)), "width": (2 * half * weights).sum((1, 2))}


def unit_weights(asked: Asked) -> np.ndarray:
    """[units, draws, queries] that sum to 1, units weighing the same."""
    return asked.weight / asked.weight.sum((1, 2), keepdims=True) / asked.weight.shape[0]


def summary(folds: list[dict[str, Any]]) -> dict[str, float | None]:
    """Over the units of all folds."""
    errors = np.concatenate([fold["errors"] for fold in folds])
    numbers = summarize(errors[:, None])
    result = {"mean": numbers["mean"][0], "ci95": numbers["ci95"][0], "median": float(np.median(errors))}
    for name, key in (("coverage", "covered"), ("width", "width")):
        whole = all(fold[key] is not None for fold in folds)
        result[name] = float(np.concatenate([fold[key] for fold in folds]).mean()) if whole else None
    return result


def episodes_of(family, problem: Problem):
    """The episodes on which all methods are measured: [units, draws, ...]."""

    def of_task(task):
        keys = jax.random.split(jax.random.fold_in(KEY, task), DRAWS)
        return jax.vmap(lambda key: family.episode(task, jax.random.split(key)[0]))(keys)

    return jax.jit(jax.vmap(of_task))(family.tasks(10_000))


def answers(problem: Problem, params: MetaParams, family, steps: int, sure: bool) -> Answer:
    """A learner's predictions and deviations on its episodes; not `sure`: one deviation for all."""

    def one_episode(episode):
        if not sure:
            adapted = maml.adapt(problem.learner, params, episode.support, KEY, steps)
            outputs = problem.predict(adapted, episode.query.inputs)
            return outputs, jnp.ones_like(outputs)
        fitted = adapt_task(problem, params, episode.support, KEY, steps)
        return problem.predict(fitted.params, episode.query.inputs), deviation(problem, fitted, episode.query.inputs)

    def one_unit(episodes):
        return jax.vmap(one_episode)(episodes)

    episodes = episodes_of(family, problem)
    outputs, spread = jax.device_get(jax.jit(lambda: jax.lax.map(one_unit, episodes, batch_size=16))())
    return Answer(problem.format.restore(outputs)[..., 0], np.asarray(spread[..., 0], float) * problem.format.units[0])


def best_fine_tuning(problem: Problem, params: MetaParams) -> tuple[float, int]:
    """The rate and number of steps that do best on the meta-validation units."""
    steps, tried = (1, 3, 10, 30, 100), {}
    family = problem.splits.validation
    for rate in (0.003, 0.01, 0.03, 0.1, 0.3):
        tuned = replace(problem, learner=replace(problem.learner, inner_optimizer=optax.sgd(rate)))
        run = jax.jit(lambda params, tuned=tuned: task_errors(tuned, params, family, family.tasks(10_000), steps, KEY, DRAWS))
        means = np.asarray(run(params).metrics["mse"]).mean(0)
        tried |= {(rate, step): mean for step, mean in zip(steps, means, strict=True) if np.isfinite(mean)}
    return min(tried, key=tried.__getitem__)


def training_curves(study: Study, problem: Problem) -> tuple[np.ndarray, Curves]:
    """(the encoded places of the common grid [places, features], the meta-train units on it)."""
    splits = problem.splits
    inputs, targets, _ = jax.device_get(jax.vmap(splits.train.examples)(splits.train.tasks(10_000)))
    order = inputs[..., 0].argsort(1)
    places = inputs[0, order[0]]
    values = problem.format.restore(np.take_along_axis(targets[..., 0], order, 1)[..., None])[..., 0]
    return places, Curves(values, study.basis(places))


def places_of(family, places: np.ndarray, problem: Problem) -> Asked:
    """The very episodes on which learners are measured, as places on the common grid and targets in their own units."""
    episodes = jax.device_get(episodes_of(family, problem))
    parts = []
    for examples in episodes:
        gaps = np.abs(examples.inputs[..., :1] - places[:, 0])  # column 0 is the number, or the trend of the date
        parts += [gaps.argmin(-1), problem.format.restore(examples.targets)[..., 0]]
    return Asked(*parts, episodes.query.weight)


if __name__ == "__main__":
    main()
