"""The state of fitted estimators as plain data; models and adapted units are built from it on demand.

It also names groups of rows and splits them into train, validation and calibration groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
import polars as pl

from fewstep.apps.tables.data import series_of
from fewstep.apps.tables.settings import Table
from fewstep.apps.tables.tasks import LEAST_CALIBRATION
from fewstep.core.problem import Problem
from fewstep.core.types import MetaParams
from fewstep.supervised.adapted import Adapted, adapt
from fewstep.supervised.columns import TableFormat
from fewstep.supervised.conformal import calibrate
from fewstep.supervised.fit import Steps
from fewstep.supervised.kinds import read_values, read_words
from fewstep.supervised.padding import within_units
from fewstep.supervised.trained import Trained


@dataclass(frozen=True, eq=False)
class FittedModel:
    """What a fitted estimator keeps: plain data that can be pickled. Programs are compiled when they are needed."""

    settings: Table
    seed: int
    format: dict[str, Any]
    leaves: tuple[np.ndarray, ...]
    """of the meta-parameters"""
    calibration: dict[str, Any]

    @staticmethod
    def of(problem: Problem, params: MetaParams, seed: int, held_out: bool = True) -> FittedModel:
        """Calibrated, unless no unit was `held_out` of training: then there is nothing to compare with."""
        nothing = {"tasks": 0, "trained_steps": problem.learner.adaptation_steps, "by_shots": []}
        calibration = calibrate(problem, params) if held_out else nothing
        leaves = tuple(np.asarray(leaf) for leaf in jax.tree.leaves(params))
        return FittedModel(problem.settings, seed, problem.format.to_json(), leaves, calibration)

    @cached_property
    def trained(self) -> Trained:
        problem = self.settings.build(self.seed, TableFormat.from_json(self.format))
        structure = jax.tree.structure(jax.eval_shape(problem.init, jax.random.key(0)))
        return Trained(problem, jax.tree.unflatten(structure, self.leaves), self.calibration, {})

    def moments(self, table: pl.DataFrame) -> np.ndarray:
        """[rows] what rows of a unit are ordered by: the time they were trained with, or their place."""
        time = next((column for column in self.trained.problem.format.inputs if column.name == self.settings.time), None)
        if time is None:
            return np.arange(table.height)
        return read_values(table, time.name, time.how, "X")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "trained"}


@dataclass(frozen=True, eq=False)
class FittedUnit:
    """A unit as its support rows, or as none: what `predict` asks."""

    model: FittedModel
    rows: pl.DataFrame | None = None
    steps: Steps | None = None

    @cached_property
    def adapted(self) -> Adapted:
        if self.rows is None:
            return Adapted.without_rows(self.model.trained)
        return adapt(self.model.trained, self.rows, "the support rows", self.steps)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "adapted"}


LEAST_GROUPS = 10
"""From so many groups on, some are kept from training to choose and to calibrate; fewer are all trained on."""
FULL_CALIBRATION = 19
"""So many calibration groups allow intervals at 95 %."""


def blocks(rows: int) -> pl.Series:
    """[rows]: the name of each row's contiguous block, for want of groups: ⌊√rows⌋ blocks, of as many rows or a few more."""
    if rows < 4:
        raise ValueError(f"Without groups, expected at least 4 rows, which make two blocks of two, got n_samples={rows}.")
    count = math.isqrt(rows)
    return pl.Series(np.arange(rows) * count // rows).cast(pl.String)


def group_names(groups: Any, rows: int) -> pl.Series:
    """[rows] text: the name of each row's group. Raises `ValueError` for another number of rows and for gaps."""
    series = series_of(groups)
    if series.len() != rows or series.dtype.is_nested():
        raise ValueError(f"groups should name the unit of each of the {rows} rows, got {series.len()} values.")
    gaps = series.is_null() | (series.is_nan() if series.dtype.is_float() else False)
    if gaps.any():
        raise ValueError(f"groups names no unit in {gaps.sum()} of {rows} rows. Fill or remove them.")
    return read_words(pl.DataFrame({"groups": series}), "groups", "groups")


def lengths_of(unit: pl.Series) -> np.ndarray:
    """[groups]: how many rows each has, in order of their names."""
    return unit.alias("name").value_counts().sort("name")["count"].to_numpy()


def split_groups(lengths: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Which groups are for what, by their `lengths` [groups]; testing is the caller's business.

    A tenth validates; a tenth calibrates, or up to 19 where that is at most a fifth, so that intervals at 95 % are there from
    95 groups on; the others train. Fewer than ten groups all train, and none calibrates. Groups of one row tell nothing of
    how rows of a unit belong together, and are only looked at for the means and kinds of columns.
    """
    usable, single = np.flatnonzero(lengths > 1), np.flatnonzero(lengths == 1)
    if usable.size < 2:
        raise ValueError(
            f"expected at least 2 groups of 2 rows or more, got {usable.size} among {lengths.size} groups. "
            "Groups are the units that differ from each other: give one name to all rows of a unit."
        )
    none = np.zeros(0, int)
    if usable.size < LEAST_GROUPS:
        everyone = {name: usable for name in ("validation", "test")}
        return {"train": np.sort(np.concatenate([usable, single])), "calibration": none, **everyone}
    calibrating = max(usable.size // 10, min(FULL_CALIBRATION, usable.size // 5))
    calibrating = calibrating if calibrating >= LEAST_CALIBRATION else 0
    order = np.random.default_rng(seed).permutation(usable)
    calibration, validation, train = map(np.sort, np.split(order, [calibrating, calibrating + max(2, usable.size // 10)]))
    train = np.sort(np.concatenate([train, single]))
    return {"train": train, "validation": validation, "calibration": calibration, "test": validation}


def first_rows(unit: pl.Series, shots: int, order: np.ndarray) -> np.ndarray:
    """[rows] bool: the first rows of each group in this order, at most `shots` and at most half of them."""
    owner = unit.rank("dense").to_numpy().astype(int) - 1
    sorted_rows = np.lexsort((order, owner))
    place = np.empty(owner.size, int)
    place[sorted_rows] = within_units(owner[sorted_rows])
    return place < np.minimum(shots, np.bincount(owner) // 2)[owner]
