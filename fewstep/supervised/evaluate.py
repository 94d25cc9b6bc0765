"""Evaluation on held-out tasks: errors after 0, 1, 2 ... adaptation steps, with intervals over distinct tasks.

Several seeds are summarized by the interquartile mean with a stratified bootstrap interval (Agarwal et al. 2021, "Deep
reinforcement learning at the edge of the statistical precipice", NeurIPS). It is robust to outliers, unlike the mean, and uses
more of the data than the median. Seeds are resampled within each task, so that every sample contains all tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from fewstep.core.losses import known_part
from fewstep.core.maml import adaptation_path
from fewstep.core.problem import Problem
from fewstep.core.tasks import TaskFamily
from fewstep.core.types import Key, MetaParams
from fewstep.supervised.fit import Steps, require_steps, row_errors, select_step
from fewstep.training.jit import jit_hoisted
from fewstep.training.map_tasks import map_tasks, over_parameters
from fewstep.variants import safe_steps

TASKS_AT_ONCE = 256
MOST_DRAWS = 10


class TaskErrors(NamedTuple):
    """Errors per task; JAX or, on the host, NumPy arrays [tasks, steps]. Metrics of a target that all rows of a task lack are
    NaN."""

    metrics: dict[str, Any]
    query_loss: Any


def task_errors(
    problem: Problem,
    params: MetaParams,
    family: TaskFamily,
    tasks: jax.Array,
    steps: Sequence[Steps],
    key: Key,
    draws: int = 1,
    shots: int | None = None,
) -> TaskErrors:
    """Adapts to the support set of each of `tasks` and measures its query set after each of `steps`; 'auto' chooses the number
    of steps by leave-one-out errors on the support rows.

    With `draws` > 1, errors are means over that many episodes of each task (with other support sets). `shots` overrides the
    family's number of support examples. Pure: works under jit. The result depends on (key, task number), not on the number of
    tasks.
    """
    trained = problem.learner.adaptation_steps
    most = max([step for step in steps if step != "auto"] + [trained] * ("auto" in steps))

    def one_episode(task, key):
        episode_key, adapt_key = jax.random.split(key)
        episode = family.episode(task, episode_key) if shots is None else family.episode(task, episode_key, shots)
        path = adaptation_path(problem.learner, params, episode.support, adapt_key, most)
        chosen = [step for step in steps if step != "auto"]
        if "auto" in steps:
            require_steps(problem, steps)
            assert problem.leave_one_out is not None
            left_out = problem.leave_one_out(params, episode.support, adapt_key, trained)
            safe = safe_steps(row_errors(problem, left_out, episode.support), known_part(episode.support.weight))
            chosen = [safe if step == "auto" else step for step in steps]
        points = select_step(path, jnp.stack([jnp.asarray(step) for step in chosen]))

        def query_errors(adapted):
            metrics = {name: metric(adapted, episode.query) for name, metric in problem.metrics.items()}
            return TaskErrors(metrics, problem.learner.loss(adapted, episode.query, adapt_key))

        return over_parameters(query_errors, points)

    def one_task(task):
        keys = jax.random.split(jax.random.fold_in(key, task), draws)
        each = lambda key: one_episode(task, key)  # noqa: E731
        found = over_parameters(each, keys)
        if not family.gaps:
            return jax.tree.map(lambda leaf: jnp.mean(leaf, 0), found)
        measured = {
            name: jnp.nanmean(values, 0) for name, values in found.metrics.items()
        }  # diverged episodes are infinite, not NaN
        return TaskErrors(measured, jnp.mean(found.query_loss, 0))

    # Chunks have equal size, since a shorter last one would be compiled separately.
    count = tasks.shape[0]
    chunks = math.ceil(count / TASKS_AT_ONCE)
    size = math.ceil(count / chunks)
    padded = jnp.pad(tasks, (0, chunks * size - count), mode="edge")
    return jax.tree.map(lambda leaf: leaf[:count], map_tasks(one_task, padded, size))


def compiled_validation(
    problem: Problem, draws: int | None = None, steps: Sequence[int] | None = None
) -> Callable[[MetaParams, Key], jax.Array]:
    """`(params, key) -> headline metric` after the trained steps, averaged over the same meta-validation tasks each time; if
    `steps` are given, after each of these, [steps].

    With few tasks, several support sets per task (`draws`) are averaged, so that checkpoints are not chosen by chance.
    """
    assert problem.splits is not None
    family, name = problem.splits.validation, next(iter(problem.metrics))
    tasks = family.tasks(problem.validation_tasks)
    draws = draws or max(1, min(MOST_DRAWS, problem.validation_tasks // tasks.size))

    def validate(params, key):
        trained = [problem.learner.adaptation_steps]
        errors = task_errors(problem, params, family, tasks, steps or trained, key, draws).metrics[name]
        return jnp.mean(errors) if steps is None else jnp.mean(errors, 0)

    return jit_hoisted(validate)


def evaluate(
    problem: Problem,
    params: MetaParams,
    *,
    steps: Sequence[Steps] = (0, 1, 5, 10),
    tasks: int = 1000,
    draws: int = 1,
    seed: int = 0,
    split: str = "test",
) -> dict[str, Any]:
    """The figures of `evaluation.json`: mean and 95 % interval over distinct tasks, one entry per entry of `steps`."""
    measured = measured_errors(problem, params, steps=steps, tasks=tasks, draws=draws, seed=seed, split=split)
    return figures(problem, measured, steps, draws, seed, split)


def measured_errors(
    problem: Problem,
    params: MetaParams,
    *,
    steps: Sequence[Steps],
    tasks: int = 1000,
    draws: int = 1,
    seed: int = 0,
    split: str = "test",
) -> TaskErrors:
    """Errors of the first `tasks` of a `split`, float64 [tasks, steps]."""
    family = getattr(problem.splits, split)
    numbers = family.tasks(tasks)
    program = jit_hoisted(lambda params, key: task_errors(problem, params, family, numbers, steps, key, draws))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), program(params, jax.random.key(seed)))


def figures(
    problem: Problem, measured: TaskErrors, steps: Sequence[Steps], draws: int, seed: int = 0, split: str = "test"
) -> dict[str, Any]:
    """The figures of `evaluation.json` from `measured` errors."""
    family = getattr(problem.splits, split)
    name, *others = problem.metrics
    of_known = lambda values: values[~np.isnan(values).all(1)] if family.gaps else values  # noqa: E731
    summary, loss_summary = summarize(measured.metrics[name]), summarize(measured.query_loss)
    return {
        "problem": problem.name,
        "split": split,
        "tasks": int(measured.query_loss.shape[0]),
        "steps": list(steps),
        "metric": name,
        **summary,
        "query_loss": loss_summary,
        **({"metrics": {other: summarize(of_known(measured.metrics[other])) for other in others}} if others else {}),
        **({"by_task": by_task(family, measured.metrics[name])} if family.names else {}),
        "protocol": {
            **problem.protocol,
            "episodes_per_task": draws,
            "interval": "95 %, Student's t over distinct tasks",
            "evaluation_seed": seed,
        },
    }


def by_task(family: TaskFamily, values: np.ndarray) -> dict[str, list[float | None]]:
    """Errors after each number of steps by task name, from `values` [tasks, steps]."""
    assert family.names is not None
    return {name: finite_or_none(figures) for name, figures in zip(family.names, values, strict=False)}


def summarize(values: np.ndarray) -> dict[str, list[Any]]:
    """Mean over tasks, half the width of its 95 % interval (Student's t) and number of diverged tasks, for [tasks, steps].

    The mean is None if the value of a task is not finite, which `diverged` counts, and if there are no tasks.
    """
    from scipy.special import stdtrit

    count = values.shape[0]
    if count == 0:
        return {"mean": [None] * values.shape[1], "ci95": [None] * values.shape[1], "diverged": [0] * values.shape[1]}
    with np.errstate(invalid="ignore", over="ignore"):
        means, deviations = values.mean(0), values.std(0, ddof=min(1, count - 1))
    half = stdtrit(count - 1, 0.975) * deviations / np.sqrt(count) if count > 1 else np.full(values.shape[1], np.nan)
    return {
        "mean": finite_or_none(means),
        "ci95": finite_or_none(half),
        "diverged": [int(number) for number in np.sum(~np.isfinite(values), 0)],
    }


def finite_or_none(values: np.ndarray) -> list[float | None]:
    """Numbers for JSON, which has no NaN or infinity."""
    return [float(value) if np.isfinite(value) else None for value in values]


SEEDS = 10
"""Minimum number of seeds for an interquartile mean."""
LEVEL, DRAWS = 0.95, 10_000
"""level of the interval, number of bootstrap samples"""


class Interquartile(NamedTuple):
    """The interquartile mean and the ends of its interval."""

    mean: float
    low: float
    high: float


def interquartile_mean(scores: ArrayLike) -> np.ndarray:
    """The mean [...] of the middle half of `scores` [..., numbers]; a quarter (rounded down) is trimmed at either end."""
    scores = np.sort(np.asarray(scores, np.float64), axis=-1)
    cut = scores.shape[-1] // 4
    return scores[..., cut : scores.shape[-1] - cut].mean(-1)


def over_seeds(scores: ArrayLike, seed: int = 0) -> Interquartile | None:
    """Interquartile mean of `scores` [seeds], or [seeds, tasks] if all tasks have the same scale. None for fewer than ten
    seeds.

    The interval is from percentiles of 10,000 bootstrap samples, each of which resamples the seeds of every task.
    """
    table = np.asarray(scores, np.float64)
    table = table[:, None] if table.ndim == 1 else table
    seeds, tasks = table.shape
    if seeds < SEEDS:
        return None
    random, found = np.random.default_rng(seed), []
    for _ in range(0, DRAWS, 500):
        sampled = random.integers(seeds, size=(500, seeds, tasks))
        found.append(interquartile_mean(table[sampled, np.arange(tasks)[None, None]].reshape(500, -1)))
    low, high = np.quantile(np.concatenate(found), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interquartile(float(interquartile_mean(table.ravel())), float(low), float(high))
