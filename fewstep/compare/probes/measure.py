"""One measurement of many tasks (floor 5): by one compiled program, as arrays that lead with [tasks]. Used by all probes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.maml import Learner, started
from fewstep.training.mapping import over_tasks
from fewstep.training.programs import compiled
from fewstep.types import Batch, Episode, Key, MetaParams, Params

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
        return over_tasks(each, (episodes, keys), min(AT_ONCE, count))

    once = compiled(all_tasks)
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
