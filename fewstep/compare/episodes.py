"""The benchmark that all methods share: one split of the tasks, one network, the same held-out episodes.

Held-out episodes are deterministic: every method is evaluated on the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.compare.results import Metric
from fewstep.core import maml
from fewstep.core.maml import MetaState
from fewstep.core.problem import Problem
from fewstep.core.tasks import TaskFamily
from fewstep.core.types import Episode, Examples, MetaParams
from fewstep.errors import InputError
from fewstep.recipe.settings import LearningSettings
from fewstep.runs import open_run
from fewstep.runs.train import require_answers
from fewstep.supervised.classical import with_gaps
from fewstep.training.chunk import compiled_chunk
from fewstep.training.cost import meta_step_operations
from fewstep.training.devices import replicate, task_mesh
from fewstep.training.jit import cached, jit_hoisted
from fewstep.training.tuning import prepare

AT_ONCE_BYTES, CACHE_BYTES = 2**26, 2**28
"""Held-out episodes are sampled in parts of at most `AT_ONCE_BYTES`, and cached if all of them fit in `CACHE_BYTES`."""


@dataclass(frozen=True)
class HeldOut:
    """Episodes of held-out tasks. Deterministic: every method is evaluated on the same episodes."""

    family: TaskFamily
    names: tuple[str, ...]
    """[tasks]"""
    draws: int
    """episodes of each task"""
    seed: int
    shots: int | None = None
    """support examples of each; None as the family samples them"""
    _cache: list[Episode] = field(default_factory=list)

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
        if self._cache:
            yield from self._cache
            return
        drawn = []
        for first in range(0, self.count, self.size):
            number = jnp.minimum(first + jnp.arange(self.size), self.count - 1)
            part = self._draw(number)
            drawn.append(part)
            yield part
        if sum(leaf.nbytes for leaf in jax.tree.leaves(drawn)) <= CACHE_BYTES:
            self._cache.extend(drawn)

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

        return jit_hoisted(lambda numbers: jax.lax.map(one, numbers, batch_size=min(self.size, 64)))

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


TASKS = 200
"""Number of held-out tasks if the family is unlimited."""
EPISODES, MOST_EPISODES = 10, 640
"""of each held-out task, so many of all"""
TOO_FEW = 20
"""tasks, of which fewer say little about others"""
NamesOf = Callable[[Problem, TaskFamily, int], tuple[str, ...]]
"""`(problem, family, count)` -> what people call so many held-out tasks"""
LEAST_MARGIN = 0.01
"""of the part of examples that is not told right"""
SHOTS = (1, 2, 5, 10, 20, 50)
"""numbers of support examples by which methods are shown, up to twice the trained number"""


Training = tuple[float, Callable[[MetaState, int], MetaState], MetaState]
"""(what a meta-step takes in operations or environment steps, what makes so many, the state at the beginning)"""


@dataclass(frozen=True)
class Benchmark:
    """One split of a problem's tasks."""

    settings: LearningSettings
    """the recipe of gradient steps: what methods change fields of"""
    problem: Problem
    seed: int
    """of the split; the seeds of trainings are others"""
    validation: HeldOut
    test: HeldOut
    images: bool = False
    """whether examples are images, of which each adaptation step takes long"""
    embeddings: str = ""
    """of photos, by a network trained elsewhere: the table that the user brings"""
    models: dict[LearningSettings, Problem] = field(default_factory=dict, compare=False)
    """by settings: what methods have made of the problem"""
    free: dict[LearningSettings, Problem] = field(default_factory=dict, compare=False)
    """the same, with rates as arguments of their programs"""

    predicts = True
    """whether models predict from support sets: they are calibrated, and asked how tasks differ"""
    validations = 0
    """how often a training is validated on a task, if that takes long"""

    @property
    def metric(self) -> Metric:
        if self.classes:
            return Metric("error rate", "part of the query examples that is not told right (1 − accuracy)", LEAST_MARGIN)
        of = "each target's variance over meta-train tasks, mean over targets"
        of = of if self.outputs > 1 else "the target's variance over meta-train tasks"
        return Metric("error", f"mean squared error in units of {of} (1: predicting the mean)")

    @property
    def protocol(self) -> dict[str, Any]:
        """How methods were evaluated, for people."""
        assert self.problem.splits is not None
        shots = self.settings.shot_range.shown
        return {"train_tasks": self.problem.splits.train.size, "episodes_per_task": self.test.draws, "shots": shots}

    def training(self, problem: Problem) -> Training:
        """How long a meta-step of `problem` takes is seen by this."""
        mesh, key = task_mesh(), jax.random.key(0)
        count = float(cached(problem, meta_step_operations))
        problem = prepare(problem, mesh, 0, quiet=True)
        run = cached(problem, compiled_chunk, mesh)
        state = replicate(maml.init(problem.outer_optimizer, problem.init(key)), mesh)
        return count, lambda state, length: run(state, key, length)[0], state

    @staticmethod
    def most_steps(trained: int) -> int:
        """Up to how many adaptation steps methods are shown that are trained with so many."""
        return max(2 * trained, 10)

    @property
    def train_tasks(self) -> int | None:
        """The number of meta-train tasks; None if they never run out."""
        return self.family.size

    def params(self, folder: Path) -> MetaParams:
        """The trained parameters in the folder of a run of this comparison."""
        return open_run(folder).params()

    @property
    def classes(self) -> bool:
        return self.images or bool(self.problem.format.classes)

    @property
    def outputs(self) -> int:
        return int(self.rows.targets.shape[-1])

    @property
    def family(self) -> TaskFamily:
        """of meta-train tasks"""
        assert self.problem.splits is not None
        return self.problem.splits.train

    @cached_property
    def rows(self) -> Examples:
        """[rows, ...] of meta-train tasks, for what is counted over all of them."""
        episodes = self.episodes(400)
        flat = [jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), part) for part in episodes]
        inputs, targets, weight = (np.concatenate(each) for each in zip(*flat, strict=True))
        real = weight.reshape(len(weight), -1).any(1)
        return Examples(*(leaf[real] for leaf in (inputs, targets, weight)))  # type: ignore[arg-type]

    @property
    def targets(self) -> np.ndarray:
        """[rows, outputs] float64: the targets of `rows`, NaN where one is not known."""
        return with_gaps(np.asarray(self.rows.targets, np.float64), self.rows.weight)

    @cached_property
    def unit(self) -> np.ndarray:
        """[outputs] in what errors are counted: the variance of the targets of meta-train tasks; 1 for classes."""
        if self.classes:
            return np.ones(self.outputs)
        return np.maximum(np.nanvar(self.targets, 0), 1e-12)

    def episodes(self, count: int, draw: int = 0) -> Episode:
        """About so many episodes of meta-train tasks as arrays that lead with [episodes]: each task once, then again."""
        tasks = np.asarray(self.family.tasks(count))
        tasks = np.resize(tasks, max(count, 1)) if tasks.size < count else tasks
        key = jax.random.key(self.seed + 7919)

        def one(task: jax.Array, number: jax.Array) -> Episode:
            return self.family.episode(task, jax.random.fold_in(jax.random.fold_in(key, draw), number))

        return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(jnp.asarray(tasks), jnp.arange(tasks.size)))

    def errors(self, predict: Callable[[Episode], Any], split: str) -> np.ndarray:
        """[tasks] of the 'validation' or 'test' episodes."""
        held_out: HeldOut = getattr(self, split)
        return held_out.errors(predict, self.unit, self.classes)

    def at_shots(self, shots: int) -> HeldOut:
        """The test episodes with so many support examples."""
        return replace(self.test, shots=shots, _cache=[])

    @property
    def shot_counts(self) -> tuple[int, ...]:
        """Numbers of support examples that test episodes have room for."""
        most = self.settings.shot_range.most
        room = 2 * most if self.test.family.resized is None and self.family.resized else most
        return tuple(shots for shots in SHOTS if shots <= room)


def make_benchmark(
    settings: LearningSettings,
    seed: int,
    fold: int | None = None,
    *,
    tasks: int | None = None,
    draws: int | None = None,
    names_of: NamesOf | None = None,
    **about: Any,
) -> Benchmark:
    """The benchmark of a comparison, with at most so many held-out `tasks` of each split and so many `draws` of each; `about`
    are further fields of it. Raises `InputError` for what cannot be compared, or cannot be built."""
    base = recipe_of(settings)
    if fold is not None:
        base = replace(base, fold=fold)  # type: ignore[call-arg]
    problem = base.build(seed)
    require_answers(problem)
    assert problem.splits is not None

    def held_out(family: TaskFamily, number: int) -> HeldOut:
        if family.resized is not None:
            family = family.resized(2 * base.shot_range.most)  # room for more shots than are trained with
        count = int(family.tasks(tasks or TASKS).size)
        each = draws or min(EPISODES, max(1, MOST_EPISODES // count))
        return HeldOut(family, (names_of or numbered)(problem, family, count), each, 1000 * seed + number)

    return Benchmark(base, problem, seed, held_out(problem.splits.validation, 1), held_out(problem.splits.test, 2), **about)


def recipe_of(settings: LearningSettings) -> LearningSettings:
    """The recipe of gradient steps that all networks of a comparison share."""
    if settings.for_gradients and not settings.for_gradients.startswith("--inner-clip"):
        raise InputError(f"compare chooses itself how each method adapts; leave {settings.for_gradients} out.")
    found = settings.candidates()
    return found["gradient"] if "gradient" in found else replace(settings, adapter="gradient", body_steps=0)


def numbered(problem: Problem, family: TaskFamily, count: int) -> tuple[str, ...]:
    """What people call held-out tasks: their names, or their numbers."""
    if family.names is not None:
        numbers = np.asarray(family.tasks(count))
        return tuple(family.names[number] for number in numbers)
    return tuple(f"{problem.name} {number + 1}" for number in range(count))
