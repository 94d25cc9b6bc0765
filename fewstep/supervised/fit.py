"""Adaptation to unseen tasks: the number of steps, the scale of errors, and features for OOD detection.

`adapt_task` is pure and takes one task; use `vmap` for several. `EpisodePredictor` predicts many episodes with one compiled
program; calibration and reports are computed from its arrays in NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.core.losses import errors_of, known_part, weighted_mean
from fewstep.core.maml import adaptation_path
from fewstep.core.problem import Problem
from fewstep.core.tasks import TaskFamily
from fewstep.core.types import Episode, Examples, Key, MetaParams, Params
from fewstep.errors import InputError
from fewstep.training.jit import jit_hoisted
from fewstep.training.map_tasks import map_tasks
from fewstep.variants import safe_steps

Steps = int | Literal["auto"]
OOD_FEATURES = ("error before", "error after", "change")
"""Features for OOD detection: support errors before and after adaptation, and the change of predictions."""


class AdaptedTask(NamedTuple):
    """A task after adaptation."""

    params: Params
    """θ′"""
    steps: jax.Array
    """adaptation steps made"""
    scale: jax.Array
    """[outputs]: the scale of errors, if the model predicts no deviation"""
    ood_features: jax.Array
    """[features], logarithms of `OOD_FEATURES`"""


def adapt_task(problem: Problem, params: MetaParams, support: Examples, key: Key, steps: Steps) -> AdaptedTask:
    """Adapts to the support set of one task in `steps` adaptation steps; 'auto' chooses their number by leave-one-out errors.

    Takes fewer steps if all of them would increase the support error: see `not_worse`.
    """
    return adapt_task_variants(problem, params, support, key, [steps])[0]


def adapt_task_variants(
    problem: Problem, params: MetaParams, support: Examples, key: Key, choices: Sequence[Steps]
) -> list[AdaptedTask]:
    """`adapt_task` for several choices of steps with the same maximum, from one adaptation path."""
    trained = problem.learner.adaptation_steps
    require_steps(problem, choices)
    (most,) = {trained if steps == "auto" else steps for steps in choices}
    path = adaptation_path(problem.learner, params, support, key, most)
    needs_scale = problem.deviation is None and not problem.format.classes
    left_out = None
    if ("auto" in choices or needs_scale) and problem.leave_one_out is not None:
        left_out = problem.leave_one_out(params, support, key, most)

    def with_steps(steps: Steps) -> AdaptedTask:
        chosen, scale = jnp.asarray(most, jnp.int32), jnp.ones(support.targets.shape[-1])
        if steps != "auto":
            chosen = not_worse(problem, path, support)
        elif left_out is not None:
            chosen = safe_steps(row_errors(problem, left_out, support), known_part(support.weight)).astype(jnp.int32)
        if needs_scale and left_out is not None:
            scale = loo_rmse(left_out[chosen], support)
        return adapted_at(problem, path, chosen, scale, support)

    return [with_steps(steps) for steps in choices]


def not_worse(problem: Problem, path: Params, support: Examples) -> jax.Array:
    """The number of steps of a `path` to take: all of them, unless the support error is then higher than before the first one,
    or not finite. Then it is the number with the lowest support error. Without support rows it is 0."""
    errors = jax.vmap(lambda theta: mean_error(problem, problem.predict(theta, support.inputs), support))(path)
    errors = jnp.where(jnp.isfinite(errors), errors, jnp.inf)
    most = errors.shape[0] - 1
    fine = jnp.isfinite(errors[most]) & (errors[most] <= errors[0])
    return jnp.where(jnp.any(support.weight > 0), jnp.where(fine, most, jnp.argmin(errors)), 0).astype(jnp.int32)


def adapted_at(problem: Problem, path: Params, chosen: jax.Array, scale: jax.Array, support: Examples) -> AdaptedTask:
    """The task after `chosen` steps of its `path`."""
    adapted = select_step(path, chosen)
    before, after = (problem.predict(theta, support.inputs) for theta in (select_step(path, 0), adapted))
    error = [mean_error(problem, found, support) for found in (before, after)]
    moved = jnp.exp(after) - jnp.exp(before) if problem.format.classes else after - before
    change = jnp.sqrt(weighted_mean(jnp.mean(jnp.square(moved), axis=-1), known_part(support.weight)))
    return AdaptedTask(adapted, chosen, scale, jnp.log(jnp.stack([*error, change]) + 1e-6))


def require_steps(problem: Problem, steps: Sequence[Steps]) -> None:
    """Raises `InputError` if `steps` has 'auto' and the problem has no leave-one-out predictions."""
    if "auto" in steps and problem.leave_one_out is None:
        raise InputError(f"--steps auto is for tables: of {problem.name} no support rows are left out. Give a number of steps.")


def select_step(path: Params, step: jax.Array | int) -> Params:
    """θ after `step` steps of a `path`, whose leaves lead with [steps]."""
    return jax.tree.map(lambda leaf: leaf[step], path)


def row_errors(problem: Problem, left_out: jax.Array, support: Examples) -> jax.Array:
    """Leave-one-out errors [steps + 1, rows] of support rows, in the headline metric."""
    assert problem.row_error is not None
    row_error = problem.row_error
    return jax.vmap(lambda outputs: errors_of(row_error, outputs, support))(left_out)


def mean_error(problem: Problem, outputs: jax.Array, examples: Examples) -> jax.Array:
    """The weighted mean of the headline error."""
    assert problem.row_error is not None
    return weighted_mean(errors_of(problem.row_error, outputs, examples), known_part(examples.weight))


def loo_rmse(outputs: jax.Array, support: Examples) -> jax.Array:
    """Leave-one-out root mean square error [outputs] of support rows, regularized by 1/100 of a row with error 1."""
    weight = support.weight if support.weight.ndim > 1 else support.weight[:, None]
    squares = jnp.sum(jnp.square(outputs - support.targets) * weight, axis=0)
    return jnp.sqrt((squares + 1e-2) / (jnp.sum(weight, axis=0) + 1e-2))


def deviation(problem: Problem, adapted: AdaptedTask, inputs: jax.Array) -> jax.Array:
    """[examples, outputs]: expected deviation of targets from predictions, before calibration."""
    if problem.deviation is None:
        return jnp.broadcast_to(adapted.scale[None], (inputs.shape[0], adapted.scale.shape[0]))
    return problem.deviation(adapted.params, inputs)


AT_ONCE = 64
"""Episodes per compiled call."""
MOST_DRAWS = 10
POLICIES = ("trained", "auto")
"""choices of the number of adaptation steps: as trained, or by leave-one-out errors"""


class EpisodePredictions(NamedTuple):
    """Arrays lead with [tasks, draws]; those by policy are dictionaries."""

    query: Examples
    before: np.ndarray
    """[tasks, draws, queries, outputs] before adaptation"""
    outputs: dict[str, np.ndarray]
    """the same after adaptation"""
    deviation: dict[str, np.ndarray]
    """of single targets, before calibration"""
    ood_features: dict[str, np.ndarray]
    """[tasks, draws, ood_features]"""
    steps: dict[str, np.ndarray]
    """[tasks, draws] adaptation steps made"""

    @property
    def tasks(self) -> int:
        return self.before.shape[0]

    @property
    def weights(self) -> np.ndarray:
        """[tasks, draws, queries] weights that sum to 1, with equal sums per task. Rows that lack targets count in part."""
        return normalized_weights(self.known.mean(-1))

    @property
    def known(self) -> np.ndarray:
        """[tasks, draws, queries, outputs] float64: 1 where a query row counts and has this target, else 0."""
        weight = np.asarray(self.query.weight, np.float64)
        return weight if weight.ndim == 4 else np.broadcast_to(weight[..., None], (*weight.shape, self.before.shape[-1]))

    def errors(self, problem: Problem, outputs: np.ndarray) -> np.ndarray:
        """[tasks, draws, queries]: headline errors of `outputs` (`before` or those of a policy) over known targets."""
        return errors_by_row(problem, outputs, self.query)


def errors_by_row(problem: Problem, outputs: np.ndarray, query: Examples) -> np.ndarray:
    """[..., queries]: headline errors of `outputs` [..., queries, outputs] over the known targets of each row."""
    row_error = problem.row_error
    assert row_error is not None
    gaps = np.ndim(query.weight) == outputs.ndim
    parts = (outputs, query.targets, *([query.weight] if gaps else []))
    flat = row_error(*(jnp.asarray(np.asarray(part).reshape(-1, part.shape[-1])) for part in parts))
    return np.asarray(flat, np.float64).reshape(outputs.shape[:-1])


class EpisodePredictor:
    """Predicts episodes of any task family with a problem's learner. Compiles one program per padded number of shots."""

    def __init__(self, problem: Problem, params: MetaParams):
        self.problem, self.params = problem, params
        self._samplers: dict[tuple[int, int, int], Callable[..., tuple[Episode, jax.Array]]] = {}
        trained = problem.learner.adaptation_steps

        def one_episode(params, episode, key_data):
            (support, query), key = episode, jax.random.wrap_key_data(key_data)
            found: dict[str, Any] = {}
            for policy, adapted in zip(
                POLICIES, adapt_task_variants(problem, params, support, key, (trained, "auto")), strict=True
            ):
                spread = jnp.ones_like(query.targets) if problem.format.classes else deviation(problem, adapted, query.inputs)
                found[policy] = (problem.predict(adapted.params, query.inputs), spread, adapted.ood_features, adapted.steps)
            return problem.predict(params.theta, query.inputs), found

        self._program = jit_hoisted(
            lambda params, episodes, keys: map_tasks(lambda each: one_episode(params, *each), (episodes, keys), AT_ONCE)
        )

    def predict(
        self, family: TaskFamily, shots: int, padded: int, episodes: int, most_tasks: int, seed: int
    ) -> EpisodePredictions | None:
        """Predicts about `episodes` episodes of the first `most_tasks` tasks with more than `shots` examples, with several
        support sets per task if tasks are few. None if there is no such task. `padded` is the padded number of shots."""
        tasks = family.tasks(most_tasks, shots)
        count = int(tasks.size)
        if count == 0:
            return None
        draws = max(1, min(MOST_DRAWS, episodes // count))
        # NumPy from here on, since slicing device arrays compiles a program for every shape.
        sampled, keys = jax.tree.map(
            np.asarray, self._sampler(family, padded, draws)(tasks, jnp.asarray(shots), jnp.asarray(seed))
        )
        total = count * draws
        calls = [slice(start, min(start + AT_ONCE, total)) for start in range(0, total, AT_ONCE)]
        results = [self._one_call(jax.tree.map(lambda leaf, part=part: leaf[part], sampled), keys[part]) for part in calls]
        before, found = jax.tree.map(lambda *parts: np.concatenate(parts).reshape(count, draws, *parts[0].shape[1:]), *results)
        query = jax.tree.map(lambda leaf: leaf.reshape(count, draws, *leaf.shape[1:]), sampled.query)
        by_policy = ({policy: found[policy][i] for policy in POLICIES} for i in range(4))
        return EpisodePredictions(query, before, *by_policy)

    def _sampler(self, family: TaskFamily, padded: int, draws: int) -> Callable[..., tuple[Episode, jax.Array]]:
        """`(tasks, shots, seed) -> ([tasks · draws] episodes, data of their keys)`, a function of (seed, task, draw)."""
        place = (id(family), padded, draws)
        if place not in self._samplers:
            resized = family if family.resized is None else family.resized(padded)

            def one_task(task, shots, seed):
                keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), task), (draws, 2))
                return jax.vmap(lambda pair: (resized.episode(task, pair[0], shots), jax.random.key_data(pair[1])))(keys)

            def all_tasks(tasks, shots, seed):
                sampled = jax.vmap(one_task, in_axes=(0, None, None))(tasks, shots, seed)
                return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), sampled)

            self._samplers[place] = jit_hoisted(all_tasks)
        return self._samplers[place]

    def _one_call(self, episodes: Episode, keys: np.ndarray) -> Any:
        """Runs the program on up to `AT_ONCE` episodes, padded to a fixed shape."""
        count = keys.shape[0]
        fill = np.minimum(np.arange(AT_ONCE), count - 1)
        found = self._program(self.params, jax.tree.map(lambda leaf: leaf[fill], episodes), keys[fill])
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], found)


def padded_shots(counts: Sequence[int], trained: int) -> dict[int, int]:
    """The padded number of shots for each count: one size for all counts up to the trained one, and one for those above.
    Running a program on a few padding rows is faster than compiling another one."""
    most = max(counts, default=0)
    small = max((count for count in counts if count <= trained), default=most)
    return {count: small if count <= trained else most for count in counts}


def normalized_weights(weight: np.ndarray) -> np.ndarray:
    """Normalizes weights [tasks, draws, queries] to sum to 1, with equal sums per task."""
    return weight / np.maximum(weight.sum((1, 2), keepdims=True), 1e-12) / weight.shape[0]
