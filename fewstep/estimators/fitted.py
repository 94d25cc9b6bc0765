"""What fitted estimators keep: plain data, from which models and adapted units are made when they are asked (floor 4)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
import polars as pl

from fewstep.adapted import Adapted, adapt
from fewstep.problem import Problem
from fewstep.problems import Table
from fewstep.tasks.columns import TableFormat
from fewstep.tasks.kinds import read_values
from fewstep.trained import Trained
from fewstep.training.calibrate import calibrate
from fewstep.training.fit import Steps
from fewstep.types import MetaParams


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
