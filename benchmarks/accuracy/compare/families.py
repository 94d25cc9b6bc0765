"""Eight generated task families whose right answer and Bayes error are known by construction. Used by planted.py.

Each is the least that has its property: y = f(x, z) + noise, where z is what a task is. Either z is one of finitely many,
all equally likely, so that the best possible prediction is a sum over them; or f is linear in z, which is normal, so that
it is Bayes' rule. `Planted` makes an ordinary Problem of each, with as many tasks as a user might have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.core.problem import Problem, Splits
from fewstep.core.tasks import TaskFamily
from fewstep.core.types import Episode, Examples, Key
from fewstep.errors import InputError
from fewstep.recipe.settings import LearningSettings
from fewstep.supervised.columns import InputColumn, TableFormat, TargetColumn
from fewstep.supervised.model import supervised

Value = Callable[[jax.Array, jax.Array], jax.Array]
"""`f(x [points, inputs], z [latents]) -> [points]`"""


class Truth(NamedTuple):
    """A family as it truly is."""

    what: str
    right: tuple[str, ...]
    """methods that can come near the Bayes error, the simplest first; none where nothing can be told"""
    value: Value
    latents: np.ndarray | None
    """[tasks, latents]: what tasks there are, equally likely; None where z is standard normal and f is linear in it"""
    noise: float = 0.3
    inputs: int = 1
    counts: tuple[int, int, int] = (200, 80, 120)
    """meta-train, -validation and -test tasks"""
    features: int = 0
    """how many numbers z has, where it is normal"""

    def draw(self, key: Key) -> jax.Array:
        """What a task is."""
        if self.latents is None:
            return jax.random.normal(key, (self.features,))
        return jnp.asarray(self.latents)[jax.random.randint(key, (), 0, len(self.latents))]

    def tasks(self, key: jax.Array, size: int | None, shots: int, queries: int, room: int = 0) -> TaskFamily:
        """The family of tasks numbered by `key` (the data of one: an array is an argument of the programs that draw of it, so
        that all samples of a family share them), of inputs x ~ U(−1, 1)."""
        most = max(shots, room)

        def episode(task: jax.Array, episode_key: Key, given: jax.Array | int | None = None) -> Episode:
            latent = self.draw(jax.random.fold_in(jax.random.wrap_key_data(key), task))
            x_key, noise_key = jax.random.split(episode_key)
            x = jax.random.uniform(x_key, (most + queries, self.inputs), minval=-1.0, maxval=1.0)
            y = self.value(x, latent) + self.noise * jax.random.normal(noise_key, (most + queries,))
            weight = (jnp.arange(most) < (shots if given is None else given)).astype(x.dtype)
            support = Examples(x[:most], y[:most, None], weight)
            return Episode(support, Examples(x[most:], y[most:, None], jnp.ones(queries, x.dtype)))

        return TaskFamily(episode, size, resized=lambda room: self.tasks(key, size, shots, queries, room))

    def best(self, support: Examples, inputs: jax.Array) -> jax.Array:
        """The best possible prediction at `inputs` [points, inputs]: the mean of f given the support set, [points]."""
        y, weight = support.targets[:, 0], support.weight / self.noise**2
        if self.latents is not None:
            latents = jnp.asarray(self.latents)
            misfit = jax.vmap(lambda z: jnp.square(self.value(support.inputs, z) - y) @ weight)(latents)
            return jax.nn.softmax(-misfit / 2) @ jax.vmap(lambda z: self.value(inputs, z))(latents)
        (seen, middle), (asked, start) = self._linear(support.inputs), self._linear(inputs)
        precision = jnp.eye(self.features) + seen.T @ (weight[:, None] * seen)
        return start + asked @ jnp.linalg.solve(precision, seen.T @ (weight * (y - middle)))

    def _linear(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(what f gains by one more of each z [points, features], f at z = 0 [points]), where it is linear."""
        start = self.value(x, jnp.zeros(self.features))
        return jax.vmap(lambda unit: self.value(x, unit) - start, out_axes=1)(jnp.eye(self.features)), start


NONE = np.zeros((1, 1), np.float32)
STEPS = np.linspace(0, 1, 96, endpoint=False, dtype=np.float32)
SQUARE = np.stack(np.meshgrid(STEPS, STEPS), -1).reshape(-1, 2)
"""9,216 tasks of two numbers"""
BENDS = np.array([[2.0, 1.0], [-1.0, 2.0], [2.0, -2.0], [0.5, 3.0]], np.float32)
SHIFTS = np.array([0.3, -0.5, 0.8, 0.0], np.float32)
HARD = np.concatenate([np.stack([STEPS[:80], 0 * STEPS[:80]], 1), np.stack([STEPS[:20] * 4, 1 + 0 * STEPS[:20]], 1)])


def same(x: jax.Array, z: jax.Array) -> jax.Array:
    return 1.2 * jnp.sin(3 * x[:, 0]) + 0.4 * x[:, 0] + 0 * z[0]


def on_shared_features(x: jax.Array, z: jax.Array) -> jax.Array:
    """Four bends across the plane, the same for all tasks; a task is how much of each."""
    return jnp.tanh(3 * (x @ BENDS.T + SHIFTS[None])) @ (0.6 * z + jnp.array([0.6, -0.6, 0.6, -0.6]))


def waves_on_the_plane(x: jax.Array, z: jax.Array) -> jax.Array:
    """A task is the direction and the phase of a wave."""
    angle, phase = jnp.pi * z[0], 2 * jnp.pi * z[1]
    return 1.4 * jnp.sin(3 * (x[:, 0] * jnp.cos(angle) + x[:, 1] * jnp.sin(angle)) + phase)


def planes(x: jax.Array, z: jax.Array) -> jax.Array:
    """Linear, any slope as likely as any other: what one task is says nothing of the next."""
    return x @ z * 0.9


def three_curves(x: jax.Array, z: jax.Array) -> jax.Array:
    x = x[:, 0]
    return jnp.select([z[0] < 0.5, z[0] < 1.5], [1.4 * jnp.sin(3 * x), 2 * jnp.abs(x) - 1.5], -1.4 * jnp.cos(5 * x))


def hard_and_easy(x: jax.Array, z: jax.Array) -> jax.Array:
    """Four in five are lines that hardly differ, one in five is a tall wave of a phase that hardly differs."""
    x = x[:, 0]
    return jnp.where(z[1] > 0.5, 2.5 * jnp.sin(5 * x + 1 + z[0]), (0.3 + 0.6 * z[0]) * x)


PLANTED = {
    "identical": Truth("all tasks are the same", ("joint", "in-context", "maml"), same, NONE),
    "features": Truth(
        "linear on nonlinear features that all tasks share",
        ("joint-ridge", "bayes-head", "anil", "in-context", "maml"),
        on_shared_features,
        None,
        inputs=2,
        features=4,
    ),
    "latent": Truth(
        "two numbers that act nonlinearly", ("maml", "maml-from-joint", "in-context"), waves_on_the_plane, SQUARE, inputs=2
    ),
    "independent": Truth("linear, nothing shared", ("ridge", "scratch", "gp"), planes, None, inputs=4, features=4),
    "clustered": Truth("one of three curves", ("in-context", "bayes-head", "maml"), three_curves, np.arange(3.0)[:, None]),
    "mixture": Truth("easy tasks and a few hard ones", ("in-context", "maml", "bayes-head"), hard_and_easy, HARD),
    "few": Truth("the mixture, of few tasks", (), hard_and_easy, HARD, counts=(10, 4, 5)),
    "noise": Truth("there is nothing to learn", ("prior",), lambda x, z: 0 * x[:, 0] + 0 * z[0], NONE, noise=1.0),
}


@dataclass(frozen=True)
class Planted(LearningSettings):
    """A generated family with a known answer."""

    family: str = "latent"
    """one of `PLANTED`"""
    sample: int = 0
    """which tasks of it were met: another number, other tasks"""
    queries: int = 20
    meta_batch_size: int = 16
    meta_steps: int = 1_500

    def build(self, seed: int = 0, format: TableFormat | None = None) -> Problem:
        """The Problem, the same for all seeds."""
        del format
        self.check(seed)
        if self.family not in PLANTED:
            raise InputError(f"The family should be one of {', '.join(PLANTED)}, got {self.family}.")
        truth = PLANTED[self.family]
        keys = jax.random.key_data(jax.random.split(jax.random.fold_in(jax.random.key(20), self.sample), 3))
        train, validation, test = (
            truth.tasks(key, count, self.shot_range.most, self.queries) for key, count in zip(keys, truth.counts, strict=True)
        )
        splits = Splits(train, validation, test)
        names = ("x",) if truth.inputs == 1 else tuple(f"x{number + 1}" for number in range(truth.inputs))
        format = TableFormat(tuple(InputColumn(name, "number", span=(-1.0, 1.0)) for name in names), (TargetColumn("y"),))
        return supervised(
            self, format, name="planted", protocol={"queries": self.queries, "family": self.family}, splits=splits
        )

    def fresh(self) -> TaskFamily:
        """Endless tasks that no comparison has met."""
        return PLANTED[self.family].tasks(jax.random.key_data(jax.random.key(21)), None, self.shot_range.most, self.queries)


@cache
def bayes_error(settings: Planted, tasks: int = 4000) -> tuple[float, float]:
    """(the least possible error, the variance of the targets), both in the square of the target's units, over fresh tasks.

    The noise of query rows, which nothing predicts, is counted by its variance."""
    truth, family = PLANTED[settings.family], settings.fresh()

    def of_task(task: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        support, query = family.episode(task, jax.random.fold_in(jax.random.key(22), task))
        meant = truth.value(query.inputs, truth.draw(jax.random.fold_in(jax.random.key(21), task)))
        miss = jnp.mean(jnp.square(truth.best(support, query.inputs) - meant))
        return miss, jnp.mean(meant), jnp.mean(jnp.square(meant))

    miss, first, second = jax.jit(lambda tasks: jax.lax.map(of_task, tasks, batch_size=64))(jnp.arange(tasks))
    noise = truth.noise**2
    return float(miss.mean()) + noise, float(second.mean() - first.mean() ** 2) + noise
