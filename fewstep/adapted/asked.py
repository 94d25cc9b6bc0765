"""Rows that an adapted model is asked for (floor 4): which unit each is of, and what is to be said of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from fewstep.adapted.certainty import Certainty
from fewstep.errors import BadInput
from fewstep.tasks.columns import TableFormat
from fewstep.tasks.kinds import read_values, read_words
from fewstep.types import Examples

Owned = tuple[pl.DataFrame, np.ndarray]
"""rows, and the number of the unit of each, [rows]"""


class Asked(NamedTuple):
    """What units say of rows that they are asked for."""

    certainty: Certainty
    """of all units, those without support rows too"""
    owner: np.ndarray
    """[rows]: the number of each row's unit"""
    outputs: np.ndarray
    """[rows, outputs]"""
    deviation: np.ndarray
    """[rows, outputs]"""
    unlike: np.ndarray
    """[rows]: whether the unit is unlike training, or the inputs of the row lie far outside the trained range"""

    def bounds(self, percent: int) -> tuple[np.ndarray, np.ndarray]:
        """(lower, upper) [rows, outputs]; NaN for rows that are unlike training, of which no interval can be promised."""
        lower, upper = self.certainty.bounds(self.outputs, self.deviation, self.owner, percent)
        return np.where(self.unlike[:, None], np.nan, lower), np.where(self.unlike[:, None], np.nan, upper)


def owners(
    table: pl.DataFrame, task: str | None, units: tuple[str, ...] | None, count: int, source: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """([rows] the number of the unit that each row belongs to, by the column `task`; the names of units that are none of the
    `count` known ones, which may have no names: their numbers follow).

    Raises `BadInput` where a row does not say.
    """
    if task is None or task not in table.columns:
        if count > 1:
            raise BadInput(f"{source}: expected the column {task!r}, which says of which of the {count} units a row is.")
        return np.zeros(table.height, int), ()
    names = read_words(table, task, source)
    if units is None:
        if names.n_unique() > 1:
            raise BadInput(f"{source}: expected rows of the one adapted unit, found {names.n_unique()} values of {task!r}.")
        return np.zeros(table.height, int), ()
    if names.null_count():
        raise BadInput(f"{source}: column {task!r} names no unit in {names.null_count()} rows. Fill or remove them.")
    others = tuple(names.filter(~names.is_in(units)).unique(maintain_order=True).to_list())
    numbers = {name: number for number, name in enumerate((*units, *others))}
    return names.replace_strict(numbers, return_dtype=pl.Int64).to_numpy(), others


def known_rows(support: Examples, inputs: np.ndarray, owner: np.ndarray) -> list[str]:
    """A note on rows with the inputs of a support row of their own unit, where there are any. `support` [units, rows, ...]."""
    known = [
        {row.tobytes() for row, weight in zip(rows, weights, strict=True) if weight.any()}
        for rows, weights in zip(np.asarray(support.inputs), np.asarray(support.weight), strict=True)
    ]
    shared = sum(row.tobytes() in known[unit] for row, unit in zip(np.ascontiguousarray(inputs), owner, strict=True))
    if not shared:
        return []
    return [f"{shared} of {len(inputs)} rows have the inputs of a support row: of these it may know the answer"]


def past_rows(format: TableFormat, time: str, support: Owned, asked: Owned, source: str) -> list[str]:
    """A note on rows that precede the last row known of their unit, where there are any; for a model that was trained to
    forecast in `time`."""
    column = next((column for column in format.inputs if column.name == time), None)
    if column is None or support[0].height == 0:
        return []
    (known, of_known), (wanted, owner) = (
        (read_values(rows, time, column.how, source), units) for rows, units in (support, asked)
    )
    last = np.full(max(of_known.max(), owner.max(initial=0)) + 1, -np.inf)
    np.maximum.at(last, of_known, np.nan_to_num(known, nan=-np.inf))
    past = int((wanted < last[owner]).sum())
    if not past:
        return []
    return [f"{past} of {wanted.size} rows precede known rows of their unit; the run was trained to forecast alone"]
