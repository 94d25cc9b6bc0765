"""Computes one measurement for many tasks with one compiled program, as arrays [tasks, ...], and its interval over tasks.

The statistics here are those of probes; `compare/statistics.py` compares methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from fewstep.core.maml import Learner, started
from fewstep.core.types import Batch, Episode, Key, MetaParams, Params
from fewstep.training.jit import jit_hoisted
from fewstep.training.map_tasks import map_tasks

AT_ONCE = 64
"""tasks of a program side by side"""
MOST_NUMBERS = 2**17
"""of a vector of parameters; more are sketched"""


class Probe(NamedTuple):
    """One measurement, as compare.json has it."""

    title: str
    value: float
    low: float | None
    high: float | None
    """the ends of its 95 % interval over tasks, None where it does not depend on them"""
    says: str
    points: tuple[tuple[str, float], ...] = ()
    """what the number was made of, where that is of interest"""
    seconds: float | None = None
    """the same by the clock: alone in not being the same each time"""


def by_task(function: Callable[[Episode, Key], Any], episodes: Episode, key: Key) -> Any:
    """`function(episode, key)` of each task: NumPy arrays that lead with [tasks]."""
    return program(function)(episodes, key)


def program(function: Callable[[Episode, Key], Any]) -> Callable[[Episode, Key], Any]:
    """What `by_task` does, compiled once for many calls."""

    def all_tasks(episodes: Episode, key_data: jax.Array) -> Any:
        count = jax.tree.leaves(episodes)[0].shape[0]
        keys = jax.random.key_data(jax.random.split(jax.random.wrap_key_data(key_data), count))
        each = lambda pair: function(pair[0], jax.random.wrap_key_data(pair[1]))  # noqa: E731
        return map_tasks(each, (episodes, keys), min(AT_ONCE, count))

    once = jit_hoisted(all_tasks)
    return lambda episodes, key: jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), once(episodes, jax.random.key_data(key))
    )


def flat(params: Params) -> jax.Array:
    """All parameters as one vector. Of large models a count sketch (Charikar, Chen & Farach-Colton 2002), whose inner products
    are on average those of the vectors, and miss them by about 0.3 % of the product of their lengths."""
    vector = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(params)])
    if vector.size <= MOST_NUMBERS:
        return vector
    place_key, sign_key = jax.random.split(jax.random.key(0))
    place = jax.random.randint(place_key, vector.shape, 0, MOST_NUMBERS)
    signed = vector * jax.random.rademacher(sign_key, vector.shape, vector.dtype)
    return jnp.zeros(MOST_NUMBERS, vector.dtype).at[place].add(signed)


def gradient_at(learner: Learner, params: MetaParams, batch: Batch, support: Batch, key: Key) -> Params:
    """∇θ L(θ, batch), with θ's head made for the task where the learner makes one."""

    def loss(theta: Params) -> jax.Array:
        return learner.loss(started(learner, params._replace(theta=theta), support, key), batch, key)

    return jax.grad(loss)(params.theta)


def halves(episode: Episode, function: Callable[[Batch], Params]) -> list[jax.Array]:
    """`function` of the support set and of the query set, each as one vector."""
    return [flat(function(half)) for half in episode]


def percent(share: float) -> str:
    """To whole per cent; near 0 and 100 to a tenth."""
    return f"{100 * share:.{int(0.0005 <= abs(share) < 0.01 or 0.99 < share < 0.9995)}f} %"


def jackknife(statistic: Callable[[np.ndarray], float], tasks: int) -> tuple[float, float, float]:
    """(value, low, high) of a `statistic` of the tasks with these numbers, and its 95 % interval: leaving out one task after
    the other gives the standard error (Efron & Stein 1981), Student's t the rest. Unlike in a bootstrap no task comes twice,
    which a mean over pairs of tasks would mind. The ends are NaN where there are fewer than three tasks or the value is.
    """
    everyone = np.arange(tasks)
    value = float(statistic(everyone))
    if tasks < 3 or not np.isfinite(value):
        return value, float("nan"), float("nan")
    without = np.array([statistic(np.delete(everyone, task)) for task in everyone])
    error = np.sqrt((tasks - 1) / tasks * np.sum(np.square(without - without.mean())))
    half = float(stats.t.ppf(0.975, tasks - 1) * error)
    return value, value - half, value + half


def ratio(part: float, whole: float) -> float:
    """NaN where there is nothing to be a part of."""
    return float(part / whole) if whole else float("nan")


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[tasks, tasks]: of each of `first` [tasks, numbers] with each of `second`; NaN with a vector of zeros."""
    products = first @ second.T
    lengths = np.linalg.norm(first, axis=1)[:, None] * np.linalg.norm(second, axis=1)[None]
    return np.divide(products, lengths, out=np.full_like(products, np.nan), where=lengths > 0)


def of_one_task(values: np.ndarray, keep: np.ndarray) -> float:
    """The mean of `values` [tasks, tasks] over the kept tasks with themselves."""
    return float(values[keep, keep].mean())


def of_two_tasks(values: np.ndarray, keep: np.ndarray) -> float:
    """The mean of `values` [tasks, tasks] over all pairs of two kept tasks."""
    among, count = values[np.ix_(keep, keep)], len(keep)
    return float((among.sum() - np.trace(among)) / (count * (count - 1))) if count > 1 else float("nan")


def effective_rank(products: np.ndarray, keep: np.ndarray) -> float:
    """(Σ λ)² / Σ λ² of the covariance of the kept vectors, by their inner `products` [tasks, tasks]: the number of directions
    in which they vary, where they vary in all of these alike. NaN where they do not vary."""
    among = centered(products[np.ix_(keep, keep)])
    squares = float(np.sum(np.square(among)))
    return float(np.trace(among) ** 2 / squares) if squares > 0 else float("nan")


def centered(products: np.ndarray) -> np.ndarray:
    """Inner products of vectors less their mean, by those of the vectors."""
    rows = products.mean(axis=0)
    return products - rows[:, None] - rows[None] + rows.mean()


def spread_beyond_chance(first: np.ndarray, second: np.ndarray, keep: np.ndarray) -> float:
    """The standard deviation between tasks by their mean, of what was measured of each twice, [tasks] each: chance is in one of
    both alone, so it has no part in their covariance. 0 where this is negative, NaN where the mean is 0."""
    one, two = first[keep], second[keep]
    covariance = float(np.sum((one - one.mean()) * (two - two.mean())) / (len(keep) - 1))
    return ratio(np.sqrt(max(covariance, 0.0)), (one.mean() + two.mean()) / 2)
