"""Tasks from the rows of a table: one task per value of a column (floor 1). Used by problems/table.py."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.tasks.family import TaskFamily
from fewstep.types import Episode, Examples, Key


@dataclass(frozen=True)
class Rows:
    """Encoded rows, sorted so that each task's rows lie together, in the order of time where there is one."""

    inputs: np.ndarray
    """[rows, features] float32"""
    targets: np.ndarray
    """[rows, 1] float32"""
    start: np.ndarray
    """[tasks] first row of each task"""
    length: np.ndarray
    """[tasks] how many rows it has"""
    names: tuple[str, ...]
    """[tasks]"""


def table_tasks(rows: Rows, tasks: np.ndarray, shots: int, queries: int, in_time: bool = False) -> TaskFamily:
    """The family of the given `tasks` (numbers into `rows.names`), each of more than `shots` rows.

    An episode draws `shots` rows of its task as the support set and up to `queries` of the remaining ones as the
    query set. With `in_time` it draws a moment instead: the `shots` rows just before it are the support set, up to `queries`
    rows from it on the query set. Shapes are the same for every task: where a task has fewer rows, the rest has weight 0.
    """
    inputs, targets = jnp.asarray(rows.inputs), jnp.asarray(rows.targets)
    start, length = jnp.asarray(rows.start[tasks]), jnp.asarray(rows.length[tasks])
    longest = max(int(rows.length[tasks].max()), shots + queries)

    def anywhere(task: jax.Array, key: Key) -> jax.Array:
        draws = jnp.where(jnp.arange(longest) < length[task], jax.random.uniform(key, (longest,)), jnp.inf)
        return jnp.argsort(draws)[: shots + queries]

    def around_a_moment(task: jax.Array, key: Key) -> jax.Array:
        return jax.random.randint(key, (), 0, length[task] - shots) + jnp.arange(shots + queries)

    def episode(task: jax.Array, key: Key) -> Episode:
        order = around_a_moment(task, key) if in_time else anywhere(task, key)
        present = order < length[task]
        weight = present.astype(inputs.dtype)
        # An absent row stands for the task's first row, at weight 0: nothing outside the task is ever read.
        row = start[task] + jnp.where(present, order, 0)
        examples = Examples(inputs[row], targets[row], weight)
        return Episode(jax.tree.map(lambda leaf: leaf[:shots], examples), jax.tree.map(lambda leaf: leaf[shots:], examples))

    def all_rows(task: jax.Array) -> Examples:
        place = jnp.arange(longest)
        row = start[task] + jnp.where(place < length[task], place, 0)
        return Examples(inputs[row], targets[row], (place < length[task]).astype(inputs.dtype))

    return TaskFamily(episode, len(tasks), all_rows, tuple(rows.names[task] for task in tasks))


def pad(examples: Examples, size: int) -> Examples:
    """`examples` with rows of weight 0 appended up to `size` rows, so that few shapes have to be compiled."""
    missing = size - examples.weight.shape[0]
    return jax.tree.map(lambda leaf: jnp.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1)), examples)


def bucket(count: int) -> int:
    """The padded size for `count` rows: the next power of two, at least 8."""
    return max(8, 1 << (count - 1).bit_length())
