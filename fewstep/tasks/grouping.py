"""From rows to tasks and from tasks to splits (floor 1): which rows are of which task, which tasks train or test."""

from __future__ import annotations

import numpy as np
import polars as pl

from fewstep.errors import BadInput
from fewstep.tasks.fit_columns import order_of_time
from fewstep.tasks.kinds import ColumnKind, place_of, read_words
from fewstep.tasks.labels import note_twins
from fewstep.tasks.reading import column_of
from fewstep.tasks.table import Rows

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
        raise BadInput(f"{source}: no row has a value in {' and '.join(map(repr, targets))}. Choose another --target.")
    if len(targets) > 1 and not whole and not known.all():
        notes.append(f"{(~known).sum()} of {table.height} rows lack every target and are left out")
    return table.filter(known)


def group_rows(
    table: pl.DataFrame, task: str, time: str, source: str, kinds: dict[str, ColumnKind], notes: list[str]
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """(row numbers of each task, in the order of time where there is one; the tasks' names), in order of the names."""
    keys = column_of(table, task, source)
    if keys.null_count():
        raise BadInput(
            f"{source}: column {task!r} names no task in {keys.null_count()} rows "
            f"({place_of(table, np.flatnonzero(keys.is_null().to_numpy()))}): empty cells and words such as NA name none. "
            "Fill or remove them."
        )
    texts = read_words(table, task, source)
    names = texts.unique().sort()
    note_twins(task, names, "units", notes)
    if len(names) < 2:
        raise BadInput(
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
        raise BadInput(f"there are {tasks} tasks; expected at least 3 (meta-train, -validation and -test tasks are disjoint).")
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
