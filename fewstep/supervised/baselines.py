"""Compares a trained model with cheap baselines on the same support and query rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.core.losses import wrong
from fewstep.core.problem import Problem
from fewstep.core.tasks import TaskFamily
from fewstep.core.types import Episode, Examples
from fewstep.supervised import classical
from fewstep.supervised import classical as rows
from fewstep.supervised.fit import errors_by_row
from fewstep.supervised.gain import paired_gain
from fewstep.training.jit import jit_hoisted
from fewstep.training.progress import watched

TASKS, ROWS = 200, 200_000
"""Maximum number of held-out tasks, and approximate number of query rows."""
IMAGE_TASKS = 100
AT_ONCE = 2**22
"""Numbers in the episodes that are sampled at once."""
EPISODES, GROWN_ROWS = 300, 6_000
"""of meta-train tasks that boosting learns from, and so many of their query rows"""
MOST_OUTPUTS = 4
"""Boosting fits trees for each output separately; with more outputs it is left out."""
TITLES = {
    "mean": "the mean of the support rows",
    "nearest": f"the mean of the {rows.NEIGHBORS} nearest support rows",
    "boosting": "gradient boosting on statistics of the support rows",
    "unchanged": "no change",
    "ridge": "ridge regression on the support rows",
    "pixels": "the nearest class mean of pixels",
    "gradients": "the nearest class mean of histograms of oriented gradients",
}
"""By name, as `Problem.baselines` has them."""


def compare_baselines(problem: Problem, errors: np.ndarray, metric: str, draws: int, seed: int) -> dict[str, Any]:
    """`classics` of `evaluation.json`: the error of each of `problem.baselines` on the first held-out tasks, and the gain of
    the model, with `errors` [tasks], over it. Uses the same episodes as `evaluate` with these `draws` and `seed`. `best` names
    the baseline with the lowest error; intervals hold jointly for all baselines."""
    assert problem.splits is not None
    family = problem.splits.test
    left_out = left_out_of(problem)
    query = jax.eval_shape(lambda: family.episode(jnp.asarray(0), jax.random.key(0))).query
    count = max(2, min(TASKS, ROWS // (draws * query.targets.shape[0])))
    numbers = np.asarray(family.tasks(count))
    models = {name: made(problem, name) for name in problem.baselines if name not in left_out}
    error = by_row(problem, metric)
    found: dict[str, list[np.ndarray]] = {name: [] for name in models}
    for episodes in drawn(family, numbers, draws, seed):
        weight = np.asarray(episodes.query.weight, np.float64)
        weight = weight if weight.ndim == 2 else weight.mean(-1)  # rows that lack targets count in part
        for name, predict in models.items():
            each = error(predict(episodes), episodes.query)
            found[name].append((each * weight).sum(1) / np.maximum(weight.sum(1), 1e-12))
    by_task = {name: np.concatenate(parts).reshape(numbers.size, draws).mean(1) for name, parts in found.items()}
    return summary(by_task, errors[: numbers.size], metric, left_out)


def compare_image_baselines(problem: Problem, errors: np.ndarray, episodes: Callable[[np.ndarray], Episode]) -> dict[str, Any]:
    """`compare_baselines` for images: `errors` [tasks] are error rates on query images, measured on the episodes that
    `episodes(numbers)` returns."""
    count = min(IMAGE_TASKS, errors.size)
    models = {name: made(problem, name) for name in problem.baselines}
    found: dict[str, list[np.ndarray]] = {name: [] for name in models}
    parts = np.array_split(np.arange(count), math.ceil(count / 10))
    for numbers in watched(parts, "held-out tasks by the cheapest classics", 10):
        part = episodes(numbers)
        targets = np.asarray(part.query.targets)
        known = targets.sum(-1) > 0  # images of unknown classes have no target
        for name, predict in models.items():
            miss = predict(part).argmax(-1) != targets.argmax(-1)
            found[name].append((miss * known).sum(1) / known.sum(1))
    by_task = {name: np.concatenate(parts) for name, parts in found.items()}
    return summary(by_task, errors[:count], "error_rate", {})


def summary(by_task: dict[str, np.ndarray], errors: np.ndarray, metric: str, left_out: dict[str, str]) -> dict[str, Any]:
    """The figures of each baseline, and the one with the lowest error."""
    found = {name: paired_gain(theirs, errors, len(by_task)) for name, theirs in by_task.items()}
    finite = {name: theirs.mean() for name, theirs in by_task.items() if np.isfinite(theirs).all()}
    if not finite:
        return {}
    return {
        "metric": metric,
        "tasks": int(errors.size),
        "best": min(finite, key=finite.__getitem__),
        "by_classic": found,
        "left_out": left_out,
    }


def left_out_of(problem: Problem) -> dict[str, str]:
    """The `problem.baselines` that cannot be evaluated, with the reason."""
    if "boosting" not in problem.baselines:
        return {}
    if find_spec("sklearn") is None:
        return {"boosting": "needs scikit-learn (pip install 'fewstep[sklearn]')"}
    if not problem.format.classes and problem.format.outputs > MOST_OUTPUTS:
        return {"boosting": f"{problem.format.outputs} targets, more than {MOST_OUTPUTS}"}
    return {}


def made(problem: Problem, name: str) -> Callable[[Episode], np.ndarray]:
    """The baseline of this name, fitted to meta-train tasks if it learns from them."""
    if name == "boosting":
        return grown_on_train(problem)
    if name == "unchanged":  # targets are changes, standardized
        return rows.always(np.array([-target.center / target.scale for target in problem.format.targets]))
    return {
        "mean": lambda: rows.support_mean,
        "nearest": lambda: rows.nearest_rows,
        "ridge": lambda: rows.ridge,
        "pixels": lambda: classical.nearest_mean(classical.flat),
        "gradients": lambda: classical.nearest_mean(classical.oriented_gradients),
    }[name]()


def grown_on_train(problem: Problem) -> rows.Classic:
    """Gradient boosting on episodes of meta-train tasks."""
    assert problem.splits is not None
    family = problem.splits.train
    numbers = np.asarray(family.tasks(EPISODES))
    parts = list(drawn(family, numbers, max(1, min(10, EPISODES // numbers.size)), seed=1))
    episodes = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return rows.grown(episodes, bool(problem.format.classes), GROWN_ROWS)[0]


def by_row(problem: Problem, metric: str) -> Callable[[np.ndarray, Examples], np.ndarray]:
    """Errors by row [episodes, queries]. Scores of classes are not probabilities, so for classes it is the 0-1 loss."""
    if metric != "error_rate":
        return lambda outputs, query: errors_by_row(problem, outputs, query)
    return lambda outputs, query: np.asarray(wrong(jnp.asarray(outputs), jnp.asarray(query.targets)), np.float64)


def drawn(family: TaskFamily, numbers: np.ndarray, draws: int, seed: int) -> Iterator[Episode]:
    """The episodes of `evaluate.task_errors`, grouped by task, some tasks at a time."""
    shapes = jax.eval_shape(lambda: family.episode(jnp.asarray(0), jax.random.key(0)))
    each = draws * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    at_once = min(numbers.size, max(1, AT_ONCE // each))

    def one_task(task: jax.Array) -> Episode:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), task), draws)
        return jax.vmap(lambda key: family.episode(task, jax.random.split(key)[0]))(keys)

    program = jit_hoisted(
        lambda tasks: jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.lax.map(one_task, tasks))
    )
    starts: Sequence[int] = range(0, numbers.size, at_once)
    for start in watched(starts, "held-out tasks by the cheapest classics", at_once):
        wanted = numbers[start : start + at_once]
        filled = np.resize(wanted, at_once) if wanted.size < at_once else wanted  # a fixed shape
        yield jax.tree.map(lambda leaf, rows=wanted.size * draws: np.asarray(leaf)[:rows], program(jnp.asarray(filled)))
