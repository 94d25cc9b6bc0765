"""Noisy quadratic bowls, an application of fewstep in a package of its own: y = ½ a |x − c|² + noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import polars as pl

from fewstep.application import Example, Presets
from fewstep.apps.rows.application import SupervisedApplication
from fewstep.core.problem import Problem, Splits
from fewstep.core.tasks import TaskFamily
from fewstep.core.types import Episode, Examples
from fewstep.errors import InputError
from fewstep.recipe.settings import LearningSettings
from fewstep.supervised.columns import InputColumn, TableFormat, TargetColumn
from fewstep.supervised.model import supervised

FORMAT = TableFormat(tuple(InputColumn(name, "number", span=(-1.0, 1.0)) for name in ("x1", "x2")), (TargetColumn("y"),))


@dataclass(frozen=True)
class Bowls(LearningSettings):
    """Quadratic bowls in two dimensions, each with its own center and width, measured with noise."""

    noise: float = 0.05
    """standard deviation of the noise"""

    def build(self, seed: int = 0, format: TableFormat | None = None) -> Problem:
        """The Problem; with a saved `format` the model alone."""
        self.check(seed)
        if not 0 <= self.noise < float("inf"):
            raise InputError(f"--noise should be at least 0, got {self.noise}.")
        keys = jax.random.split(jax.random.key(1), 4)
        train, *held_out = (
            bowls(key, self.shot_range.most, queries, self.noise)
            for key, queries in zip(keys, (self.queries, 50, 50, 50), strict=True)
        )
        validation, test, calibration = held_out
        return supervised(
            self,
            FORMAT,
            name="bowls",
            protocol={"queries": 50, "noise": self.noise},
            splits=None if format else Splits(train, validation, test, calibration),
        )


def bowls(key: jax.Array, shots: int, queries: int, noise: float) -> TaskFamily:
    """The family of all bowls, numbered by `key`. Inputs are [points, 2], targets [points, 1]."""

    def episode(task: jax.Array, episode_key: jax.Array, count: jax.Array | int | None = None) -> Episode:
        center_key, width_key = jax.random.split(jax.random.fold_in(key, task))
        center, width = jax.random.uniform(center_key, (2,), minval=-1.0), jax.random.uniform(width_key, minval=0.5, maxval=2.0)
        x_key, noise_key = jax.random.split(episode_key)
        x = jax.random.uniform(x_key, (shots + queries, 2), minval=-1.0)
        y = 0.5 * width * jnp.sum(jnp.square(x - center[None]), 1) + noise * jax.random.normal(noise_key, (shots + queries,))
        known = (jnp.arange(shots) < (shots if count is None else count)).astype(x.dtype)
        support = Examples(x[:shots], y[:shots, None], known)
        return Episode(support, Examples(x[shots:], y[shots:, None], jnp.ones(queries)))

    return TaskFamily(episode, resized=lambda room: bowls(key, room, queries, noise))


class BowlsApplication(SupervisedApplication):
    """All that is not said here is as for other rows of numbers."""

    name = "bowls"

    @property
    def problems(self) -> Mapping[str, type[Any]]:
        return {"bowls": Bowls}

    @property
    def presets(self) -> Mapping[str, Presets]:
        return {"bowls": {"default": (Bowls(meta_steps=2_000, shots=8), "five gradient steps with learned rates")}}

    def example(self, folder: Path) -> Example:
        rows = pl.DataFrame({"x1": [-0.5, 0.0, 0.5], "x2": [0.1, 0.7, -0.3], "y": [0.4, 0.1, 0.3]})
        settings = replace(Bowls(), shots=4, queries=4, meta_batch_size=2, meta_steps=4, hidden=(8,), log_every=2)
        return Example(settings, rows, rows.drop("y"), {"noise": -1.0, "meta_steps": 0})


APPLICATION = BowlsApplication()
