"""Episodes of held-out tasks, the same ones for whoever asks, and what a model misses in them (floor 5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.tasks.family import TaskFamily
from fewstep.training.programs import compiled
from fewstep.types import Episode, Examples

AT_ONCE_BYTES, KEPT_BYTES = 2**26, 2**28
"""Held-out episodes are drawn in parts of so many bytes, and kept for the next arm where all of them are no more than this."""


@dataclass(frozen=True)
class Held:
    """Episodes of held-out tasks. Whoever asks gets the same ones."""

    family: TaskFamily
    names: tuple[str, ...]
    """[tasks]"""
    draws: int
    """episodes of each task"""
    seed: int
    shots: int | None = None
    """support examples of each; None as the family draws them"""
    _kept: list[Episode] = field(default_factory=list)

    @cached_property
    def size(self) -> int:
        """Episodes of one part."""
        shapes = jax.eval_shape(lambda: self.family.episode(jnp.asarray(0), jax.random.key(0)))
        each = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
        most = max(1, AT_ONCE_BYTES // each)
        return math.ceil(self.count / math.ceil(self.count / most))

    @property
    def count(self) -> int:
        return len(self.names) * self.draws

    def parts(self) -> Iterator[Episode]:
        """Episodes that lead with [size], part after part: those of a task follow one another. The last part is filled up with
        its last episode."""
        if self._kept:
            yield from self._kept
            return
        drawn = []
        for first in range(0, self.count, self.size):
            number = jnp.minimum(first + jnp.arange(self.size), self.count - 1)
            part = self._draw(number)
            drawn.append(part)
            yield part
        if sum(leaf.nbytes for leaf in jax.tree.leaves(drawn)) <= KEPT_BYTES:
            self._kept.extend(drawn)

    def one_of_each(self) -> Episode:
        """The first episode of each task, as far as the first part has them; leaves lead with [tasks]."""
        return jax.tree.map(lambda leaf: leaf[:: self.draws], next(iter(self.parts())))

    @cached_property
    def _draw(self) -> Callable[[jax.Array], Episode]:
        tasks, key = jnp.asarray(self.family.tasks(len(self.names))), jax.random.key_data(jax.random.key(self.seed))

        def one(number: jax.Array) -> Episode:
            task, draw = tasks[number // self.draws], number % self.draws
            own = jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(key), task), draw)
            return self.family.episode(task, own) if self.shots is None else self.family.episode(task, own, self.shots)

        return compiled(lambda numbers: jax.lax.map(one, numbers, batch_size=min(self.size, 64)))

    def by_task(self, errors: np.ndarray) -> np.ndarray:
        """[tasks] float64: means over episodes of [episodes], the filling left out; NaN where one of them is not finite."""
        found = np.asarray(errors, np.float64)[: self.count].reshape(len(self.names), self.draws)
        with np.errstate(over="ignore", invalid="ignore"):
            means = found.mean(1)
        return np.where(np.isfinite(means), means, np.nan)

    def errors(self, predict: Callable[[Episode], Any], unit: np.ndarray, classes: bool) -> np.ndarray:
        """[tasks]: what `predict` misses, mean over the query rows of a task's episodes."""
        found = [episode_errors(predict(part), part.query, unit, classes) for part in self.parts()]
        return self.by_task(np.concatenate(found))


def episode_errors(outputs: Any, query: Examples, unit: np.ndarray, classes: bool) -> np.ndarray:
    """[episodes] of outputs [episodes, queries, outputs]: squared errors in units of `unit` [outputs], or the part that is not
    told right; means over the query rows that count."""
    outputs, targets, weight = (np.asarray(each, np.float64) for each in (outputs, query.targets, query.weight))
    with np.errstate(over="ignore", invalid="ignore"):
        if classes:
            rows = (outputs.argmax(-1) != targets.argmax(-1)) / 1.0
            rows = np.where(np.isfinite(outputs).all(-1), rows, np.nan)
        elif weight.ndim < targets.ndim:
            rows = np.mean(np.square(outputs - targets) / unit, axis=-1)
        else:  # all known values of an episode count alike
            rows, weight = (each.reshape(len(each), -1) for each in (np.square(outputs - targets) / unit, weight))
        return np.sum(np.where(weight > 0, rows, 0.0) * weight, 1) / np.maximum(weight.sum(1), 1e-12)
