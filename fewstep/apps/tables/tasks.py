"""Tasks from the rows of a table, one per value of a column, and their splits."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from fewstep.apps.tables.data import order_of_time
from fewstep.core.tasks import Shots, TaskFamily
from fewstep.core.types import Episode, Examples, Key
from fewstep.errors import InputError
from fewstep.storage.tables import column_of
from fewstep.supervised.kinds import ColumnKind, place_of, read_words
from fewstep.supervised.labels import note_twins

SORTED_UP_TO = 1024
"""Rows of a task are put in random order by sorting random numbers; of longer tasks by a cipher, whatever their length."""
MOST_ROWS = 1024
"""All rows of a task are at most so many of them."""


@dataclass(frozen=True)
class Rows:
    """Encoded rows, sorted so that each task's rows lie together, in the order of time where there is one."""

    inputs: np.ndarray | jax.Array
    """[rows, features] float32"""
    targets: np.ndarray | jax.Array
    """[rows, outputs] float32"""
    start: np.ndarray
    """[tasks] first row of each task"""
    length: np.ndarray
    """[tasks] how many rows it has"""
    names: tuple[str, ...]
    """[tasks]"""
    known: np.ndarray | jax.Array | None = None
    """[rows, outputs] float32: 1 where a target is known, else 0 (and so is the target); None if all of them are"""

    def of(self, task: int) -> slice:
        return slice(int(self.start[task]), int(self.start[task] + self.length[task]))


def table_tasks(
    rows: Rows, tasks: np.ndarray, shots: int | Shots, queries: int, in_time: bool = False, room: int = 0
) -> TaskFamily:
    """The family of the given `tasks` (numbers into `rows.names`), each of more rows than the least number of shots.

    An episode draws some rows of its task as the support set (their number from `shots`, and at least one row stays) and up
    to `queries` of the remaining ones as the query set. With `in_time` it draws a moment instead: the rows just before it are
    the support set, up to `queries` rows from it on the query set. Shapes are the same for every task and number of shots:
    where rows lack, the rest has weight 0. `room` is for more shots than are drawn here, where `episode` is told their number.
    """
    count = shots if isinstance(shots, Shots) else Shots(shots, shots)
    most = max(count.most, room, 1)
    inputs, targets = jnp.asarray(rows.inputs), jnp.asarray(rows.targets)  # no copy where they are on the device already
    known_cells = None if rows.known is None else jnp.asarray(rows.known)
    start, length = jnp.asarray(rows.start[tasks]), jnp.asarray(rows.length[tasks])
    longest = int(rows.length[tasks].max())
    lacking = max(0, most + queries - longest)  # so many places of an episode no task fills

    def episode(task: jax.Array, key: Key, shots: jax.Array | int | None = None) -> Episode:
        if shots is None and count.least < count.most:
            key, count_key = jax.random.split(key)
            shots = count.draw(count_key)
        known = jnp.minimum(count.most if shots is None else shots, length[task] - 1)
        if in_time:
            order = jax.random.randint(key, (), 0, length[task] - known) + jnp.arange(most + queries)
        elif longest <= SORTED_UP_TO:
            draws = jnp.where(jnp.arange(longest) < length[task], jax.random.uniform(key, (longest,)), jnp.inf)
            order = jnp.pad(jnp.argsort(draws), (0, lacking), constant_values=longest)[: most + queries]
        else:
            order = shuffled(key, length[task], most + queries)
        asked = known + jnp.arange(queries)  # fewer shots than most: what comes right after them is asked for
        support = examples(task, order[:most], jnp.arange(most) < known)
        return Episode(support, examples(task, order[asked], True))

    def examples(task: jax.Array, place: jax.Array, wanted: jax.Array | bool) -> Examples:
        present = (place < length[task]) & wanted
        # An absent row stands for the task's first row, at weight 0: nothing outside the task is ever read.
        row = start[task] + jnp.where(present, place, 0)
        weight = present.astype(inputs.dtype)
        return Examples(inputs[row], targets[row], weight if known_cells is None else weight[:, None] * known_cells[row])

    def all_rows(task: jax.Array) -> Examples:
        if longest <= MOST_ROWS:
            return examples(task, jnp.arange(longest), True)
        return examples(task, shuffled(jax.random.key(0), length[task], MOST_ROWS), True)

    def resized(room: int) -> TaskFamily:
        return table_tasks(rows, tasks, count, queries, in_time, room)

    names = tuple(rows.names[task] for task in tasks)
    return TaskFamily(episode, len(tasks), all_rows, names, rows.length[tasks], resized, gaps=rows.known is not None)


def shuffled(key: Key, length: jax.Array, count: int) -> jax.Array:
    """[count] distinct places below `length`, the first of a random order of them; `length` itself where there are no more.

    A Feistel network permutes the numbers of the next even number of bits, and is applied again to what falls outside
    (Black & Rogaway 2002, cycle walking): the cost does not grow with `length`.
    """
    size = length.astype(jnp.uint32)
    bits = 32 - jax.lax.clz(jnp.maximum(size, 2) - 1)
    half = (bits + 1) // 2
    mask = (jnp.uint32(1) << half) - 1
    round_keys = jax.random.bits(key, (10,), jnp.uint32)

    def encrypt(number: jax.Array) -> jax.Array:
        left, right = number >> half, number & mask
        for round_key in round_keys:
            mixed = (right ^ round_key) * jnp.uint32(0x9E3779B1)
            mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0x85EBCA77)
            left, right = right, left ^ ((mixed ^ (mixed >> 13)) & mask)
        return (left << half) | right

    number = jnp.arange(count, dtype=jnp.uint32)
    wanted = number < size
    outside = lambda place: wanted & (place >= size)  # noqa: E731
    place = jax.lax.while_loop(
        lambda place: jnp.any(outside(place)), lambda place: jnp.where(outside(place), encrypt(place), place), encrypt(number)
    )
    return jnp.where(wanted, place, size).astype(jnp.int32)


LEAST_CALIBRATION = 4
"""Fewer calibration tasks than this calibrate no interval worth having, and are better used for validation."""


def with_targets(
    table: pl.DataFrame, targets: tuple[str, ...], source: str, notes: list[str], whole: bool = False
) -> pl.DataFrame:
    """The rows that have a target; of several targets, any of them, or with `whole` all of them. What is missing is counted in
    `notes`, by target."""
    of_all = []
    for name in targets:
        series = column_of(table, name, source)
        present = series.is_not_null() & (series.is_not_nan() if series.dtype.is_float() else True)
        if not present.all():
            then = " and are left out" if len(targets) == 1 or whole else "; their other targets count"
            notes.append(f"{name}: {(~present).sum()} of {table.height} rows lack this target{then}")
        of_all.append(np.broadcast_to(present, table.height))
    known = pl.Series(np.all(of_all, 0) if whole else np.any(of_all, 0))
    if not known.any():
        raise InputError(f"{source}: no row has a value in {' and '.join(map(repr, targets))}. Choose another --target.")
    if len(targets) > 1 and not whole and not known.all():
        notes.append(f"{(~known).sum()} of {table.height} rows lack every target and are left out")
    return table.filter(known)


def group_rows(
    table: pl.DataFrame, task: str, time: str, source: str, kinds: dict[str, ColumnKind], notes: list[str]
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """(row numbers of each task, in the order of time where there is one; the tasks' names), in order of the names."""
    keys = column_of(table, task, source)
    if keys.null_count():
        raise InputError(
            f"{source}: column {task!r} names no task in {keys.null_count()} rows "
            f"({place_of(table, np.flatnonzero(keys.is_null().to_numpy()))}): empty cells and words such as NA name none. "
            "Fill or remove them."
        )
    texts = read_words(table, task, source)
    names = texts.unique().sort()
    note_twins(task, names, "units", notes)
    if len(names) < 2:
        raise InputError(
            f"{source}: column {task!r} has the one value {names[0]!r}; expected one per task, and many tasks. "
            "Choose the column that tells your units apart."
        )
    numbers = texts.rank("dense").to_numpy() - 1
    moments = order_of_time(table, time, source, kinds, notes) if time else np.zeros(table.height)
    order = np.lexsort((moments, numbers))  # stable: without time, rows stay in the order of the file
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1), tuple(names.to_list())


def split_tasks(tasks: int, seed: int, test_fraction: float, fold: int) -> dict[str, np.ndarray]:
    """Disjoint numbers of meta-train, -validation, -calibration and -test tasks. The number of shots plays no part: whoever
    evaluates at other shots still meets tasks that were never trained on. Half of what would validate calibrates."""
    order = np.random.default_rng(seed).permutation(tasks)
    # From the end, since array_split makes the first parts the larger ones: what is left over goes to training.
    parts = np.array_split(order[::-1], min(round(1 / test_fraction), tasks))[::-1]
    test, validation, *train = parts[fold % len(parts) :] + parts[: fold % len(parts)]
    half = validation.size // 2 if validation.size // 2 >= LEAST_CALIBRATION else 0
    train_tasks = np.concatenate(train).astype(int) if train else np.zeros(0, int)
    split = {"train": train_tasks, "validation": validation[half:], "calibration": validation[:half], "test": test}
    if train_tasks.size == 0:
        raise InputError(
            f"there are {tasks} tasks; expected at least 3 (meta-train, -validation and -test tasks are disjoint)."
        )
    return {name: np.sort(part) for name, part in split.items()}


def note_odd_tasks(rows: Rows, targets: np.ndarray, notes: list[str]) -> None:
    """Counts the units with one row, and those of several rows whose known targets never change."""
    known = np.ones_like(targets) if rows.known is None else np.asarray(rows.known)
    highest = np.maximum.reduceat(np.where(known > 0, targets, -np.inf), rows.start)
    lowest = np.minimum.reduceat(np.where(known > 0, targets, np.inf), rows.start)
    single = rows.length == 1
    constant = np.all(highest <= lowest, axis=1) & ~single  # of no known value, the highest is below the lowest
    for odd, what in ((single, "have one row"), (constant, "have one target value in all their rows")):
        if odd.any():
            shown = ", ".join(np.array(rows.names)[odd][:3])
            notes.append(f"{odd.sum()} of {len(rows.names)} units {what} ({shown}{', ...' if odd.sum() > 3 else ''})")
