"""Unseen tasks of images, asked (floor 3): one program adapts to a task and looks at its queries after each number of steps;
all the rest is NumPy on what it returns. Used by image_report.py and image_certainty.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.maml import adaptation_path
from fewstep.nn.heads import class_means
from fewstep.problem import Problem
from fewstep.tasks.family import TaskFamily
from fewstep.training.fit import at
from fewstep.training.log import watched
from fewstep.training.mapping import over_parameters, over_tasks
from fewstep.training.programs import compiled
from fewstep.types import Episode, Examples, Key, MetaParams

AT_ONCE = 32
"""tasks of one compiled call"""


class Answers(NamedTuple):
    """Of many tasks; arrays are [tasks, steps, queries, ...]."""

    log_probabilities: np.ndarray
    """[..., ways]"""
    similarity: np.ndarray
    """the greatest cosine between a query's features and a class's mean features, both less the mean of the support set"""
    targets: np.ndarray
    """[tasks, queries, ways]; all 0 for strangers"""
    classes: np.ndarray
    """[tasks, ways + strangers]"""

    @property
    def known(self) -> np.ndarray:
        """[queries]: which are of the task's classes."""
        return self.targets[0].sum(-1) > 0


class Examiner:
    """Asks tasks of any family; the program is compiled once for each shape of episodes."""

    def __init__(self, problem: Problem, params: MetaParams, steps: Sequence[int]):
        assert problem.images is not None
        self.params, self.steps, features = params, tuple(steps), problem.images.features

        def one_task(params: MetaParams, support: Examples, query: Examples, key: Key):
            path = adaptation_path(problem.learner, params, support, key, max(self.steps))

            def ask(adapted):
                outputs = problem.predict(adapted, query.inputs)
                return outputs, similarity(features(adapted, query.inputs), features(adapted, support.inputs), support)

            return over_parameters(ask, at(path, jnp.asarray(self.steps)))

        def many(params, support, query, key_data):
            keys = jax.random.wrap_key_data(key_data)
            return over_tasks(lambda each: one_task(params, *each), (support, query, keys), AT_ONCE)

        self._program = compiled(many)

    def ask(self, family: TaskFamily, tasks: int, seed: int, what: str = "tasks") -> Answers:
        """The answers on the first so many tasks, each met once; `what` people call them while they wait."""
        cut = cutting(family, seed)
        found = []
        for start in watched(range(0, tasks, AT_ONCE), what, AT_ONCE):
            numbers = np.minimum(np.arange(start, start + AT_ONCE), tasks - 1)  # filled up, so that the shape stays
            episodes, keys, classes = cut(jnp.asarray(numbers))
            outputs, alike = self._program(self.params, episodes.support, episodes.query, keys)
            found.append(jax.device_get((outputs, alike, episodes.query.targets, classes)))
        return Answers(*(np.concatenate(each)[:tasks] for each in zip(*found, strict=True)))


def cutting(family: TaskFamily, seed: int) -> Callable[[jax.Array], tuple[Episode, jax.Array, jax.Array]]:
    """`numbers [tasks] -> (episodes, data of the keys of adaptation, the classes)` of the tasks of these numbers."""

    def draw(numbers: jax.Array) -> tuple[Episode, jax.Array, jax.Array]:
        keys = jax.vmap(lambda number: jax.random.split(jax.random.fold_in(jax.random.key(seed), number)))(numbers)
        episodes = jax.vmap(lambda number, key: family.episode(number, key))(numbers, keys[:, 0])
        assert family.describe is not None
        return episodes, jax.random.key_data(keys[:, 1]), jax.vmap(family.describe)(numbers)

    return compiled(draw)


def similarity(queries: jax.Array, support: jax.Array, examples: Examples) -> jax.Array:
    """[queries]: the greatest cosine between a query's features and a class's mean features, less the mean of all classes."""
    means = class_means(support, examples)
    middle = jnp.mean(means, 0, keepdims=True)
    unit = lambda rows: rows / jnp.maximum(jnp.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)  # noqa: E731
    return jnp.max(unit(queries - middle) @ unit(means - middle).T, axis=-1)


def accuracy_of(answers: Answers) -> np.ndarray:
    """[tasks, steps, known queries]: whether the likeliest class is the right one."""
    known = answers.known
    guess = answers.log_probabilities[:, :, known].argmax(-1)
    return (guess == answers.targets[:, None, known].argmax(-1)).astype(float)
