"""One unseen task as people meet it: adapted, in how many steps, how sure, and whether it is like the others.

Pure, for one task: `vmap` for many. Used by evaluation, by calibration and by adapted models.

Many episodes of unseen tasks at one number of shots, by one program: what calibration and reports are made of.

Everything that is said of held-out tasks beside their headline errors comes from the same few arrays: predictions before and
after adaptation, how sure they are, and what adaptation did. So one program is compiled, and the rest is NumPy.
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
SIGNS = ("error before", "error after", "change")
"""What tells an unlike task: how its support rows are missed before and after adaptation, and how far predictions moved."""


class AdaptedTask(NamedTuple):
    """A task after adaptation."""

    params: Params
    """θ′"""
    steps: jax.Array
    """adaptation steps made"""
    scale: jax.Array
    """[outputs]: the size of its errors, where the model itself gives no deviation"""
    signs: jax.Array
    """[signs], logarithms of `SIGNS`"""


def adapt_task(problem: Problem, params: MetaParams, support: Examples, key: Key, steps: Steps) -> AdaptedTask:
    """Adapts to one task from its support set alone, in `steps` adaptation steps; 'auto' chooses them by leaving rows out.

    Fewer steps are taken where all of them would miss the support rows more than none: see `not_worse`.
    """
    return adapt_task_variants(problem, params, support, key, [steps])[0]


def adapt_task_variants(
    problem: Problem, params: MetaParams, support: Examples, key: Key, ways: Sequence[Steps]
) -> list[AdaptedTask]:
    """`fit` in each of several ways to choose the steps, of one greatest number, from the same path."""
    trained = problem.learner.adaptation_steps
    require_steps(problem, ways)
    (most,) = {trained if steps == "auto" else steps for steps in ways}
    path = adaptation_path(problem.learner, params, support, key, most)
    needs_scale = problem.deviation is None and not problem.format.classes
    left_out = None
    if ("auto" in ways or needs_scale) and problem.leave_one_out is not None:
        left_out = problem.leave_one_out(params, support, key, most)

    def one_way(steps: Steps) -> AdaptedTask:
        chosen, scale = jnp.asarray(most, jnp.int32), jnp.ones(support.targets.shape[-1])
        if steps != "auto":
            chosen = not_worse(problem, path, support)
        elif left_out is not None:
            chosen = safe_steps(row_errors(problem, left_out, support), known_part(support.weight)).astype(jnp.int32)
        if needs_scale and left_out is not None:
            scale = miss(left_out[chosen], support)
        return fitted(problem, path, chosen, scale, support)

    return [one_way(steps) for steps in ways]


def not_worse(problem: Problem, path: Params, support: Examples) -> jax.Array:
    """How many steps of a `path` are taken: all of them, unless the support rows are then missed more than before the first
    one, or by no finite number. Then it is the number after which they are missed least. Without support rows it is 0."""
    errors = jax.vmap(lambda theta: mean_error(problem, problem.predict(theta, support.inputs), support))(path)
    errors = jnp.where(jnp.isfinite(errors), errors, jnp.inf)
    most = errors.shape[0] - 1
    fine = jnp.isfinite(errors[most]) & (errors[most] <= errors[0])
    return jnp.where(jnp.any(support.weight > 0), jnp.where(fine, most, jnp.argmin(errors)), 0).astype(jnp.int32)


def fitted(problem: Problem, path: Params, chosen: jax.Array, scale: jax.Array, support: Examples) -> AdaptedTask:
    """The task after `chosen` steps of its `path`."""
    adapted = select_step(path, chosen)
    before, after = (problem.predict(theta, support.inputs) for theta in (select_step(path, 0), adapted))
    error = [mean_error(problem, found, support) for found in (before, after)]
    moved = jnp.exp(after) - jnp.exp(before) if problem.format.classes else after - before
    change = jnp.sqrt(weighted_mean(jnp.mean(jnp.square(moved), axis=-1), known_part(support.weight)))
    return AdaptedTask(adapted, chosen, scale, jnp.log(jnp.stack([*error, change]) + 1e-6))


def require_steps(problem: Problem, steps: Sequence[Steps]) -> None:
    """Raises `InputError` where steps are left to the rows of a problem that does not leave rows out."""
    if "auto" in steps and problem.leave_one_out is None:
        raise InputError(f"--steps auto is for tables: of {problem.name} no support rows are left out. Give a number of steps.")


def select_step(path: Params, step: jax.Array | int) -> Params:
    """θ after `step` steps, of a path that leads with them."""
    return jax.tree.map(lambda leaf: leaf[step], path)


def row_errors(problem: Problem, left_out: jax.Array, support: Examples) -> jax.Array:
    """The headline error [steps + 1, rows] of support rows that were predicted by all others."""
    assert problem.row_error is not None
    row_error = problem.row_error
    return jax.vmap(lambda outputs: errors_of(row_error, outputs, support))(left_out)


def mean_error(problem: Problem, outputs: jax.Array, examples: Examples) -> jax.Array:
    """The headline error over the examples that count."""
    assert problem.row_error is not None
    return weighted_mean(errors_of(problem.row_error, outputs, examples), known_part(examples.weight))


def miss(outputs: jax.Array, support: Examples) -> jax.Array:
    """Root mean square error [outputs] of support rows that were left out, and of a hundredth of a row that missed by 1."""
    weight = support.weight if support.weight.ndim > 1 else support.weight[:, None]
    squares = jnp.sum(jnp.square(outputs - support.targets) * weight, axis=0)
    return jnp.sqrt((squares + 1e-2) / (jnp.sum(weight, axis=0) + 1e-2))


def deviation(problem: Problem, fitted: AdaptedTask, inputs: jax.Array) -> jax.Array:
    """[examples, outputs]: how far single targets are expected from the prediction, before calibration."""
    if problem.deviation is None:
        return jnp.broadcast_to(fitted.scale[None], (inputs.shape[0], fitted.scale.shape[0]))
    return problem.deviation(fitted.params, inputs)


AT_ONCE = 64
"""Episodes of one compiled call."""
MOST_DRAWS = 10
POLICIES = ("trained", "auto")
"""choices of the number of adaptation steps: the trained one, or by leaving out support rows"""


class EpisodePredictions(NamedTuple):
    """Arrays lead with [tasks, draws]; those by policy are dictionaries."""

    query: Examples
    before: np.ndarray
    """[tasks, draws, queries, outputs] before adaptation"""
    outputs: dict[str, np.ndarray]
    """the same after adaptation"""
    deviation: dict[str, np.ndarray]
    """of single targets, before calibration"""
    signs: dict[str, np.ndarray]
    """[tasks, draws, signs]"""
    steps: dict[str, np.ndarray]
    """[tasks, draws] adaptation steps made"""

    @property
    def tasks(self) -> int:
        return self.before.shape[0]

    @property
    def weights(self) -> np.ndarray:
        """[tasks, draws, queries], which sum to 1, and for each task to the same. Rows that lack targets count in part."""
        return evenly(self.known.mean(-1))

    @property
    def known(self) -> np.ndarray:
        """[tasks, draws, queries, outputs] float64: 1 where a query row counts and has this target, else 0."""
        weight = np.asarray(self.query.weight, np.float64)
        return weight if weight.ndim == 4 else np.broadcast_to(weight[..., None], (*weight.shape, self.before.shape[-1]))

    def errors(self, problem: Problem, outputs: np.ndarray) -> np.ndarray:
        """[tasks, draws, queries]: the headline errors of `outputs`, those of `before` or of one policy, over known targets."""
        return errors_by_row(problem, outputs, self.query)


def errors_by_row(problem: Problem, outputs: np.ndarray, query: Examples) -> np.ndarray:
    """[..., queries]: the headline errors of `outputs` [..., queries, outputs], over the known targets of each row."""
    row_error = problem.row_error
    assert row_error is not None
    gaps = np.ndim(query.weight) == outputs.ndim
    parts = (outputs, query.targets, *([query.weight] if gaps else []))
    flat = row_error(*(jnp.asarray(np.asarray(part).reshape(-1, part.shape[-1])) for part in parts))
    return np.asarray(flat, np.float64).reshape(outputs.shape[:-1])


class EpisodePredictor:
    """Probes the tasks of any family with one problem's learner: programs are compiled once for each room for shots."""

    def __init__(self, problem: Problem, params: MetaParams):
        self.problem, self.params = problem, params
        self._draws: dict[tuple[int, int, int], Callable[..., tuple[Episode, jax.Array]]] = {}
        trained = problem.learner.adaptation_steps

        def one_episode(params, episode, key_data):
            (support, query), key = episode, jax.random.wrap_key_data(key_data)
            found: dict[str, Any] = {}
            for policy, fitted in zip(
                POLICIES, adapt_task_variants(problem, params, support, key, (trained, "auto")), strict=True
            ):
                spread = jnp.ones_like(query.targets) if problem.format.classes else deviation(problem, fitted, query.inputs)
                found[policy] = (problem.predict(fitted.params, query.inputs), spread, fitted.signs, fitted.steps)
            return problem.predict(params.theta, query.inputs), found

        self._program = jit_hoisted(
            lambda params, episodes, keys: map_tasks(lambda each: one_episode(params, *each), (episodes, keys), AT_ONCE)
        )

    def probe(
        self, family: TaskFamily, shots: int, room: int, episodes: int, most_tasks: int, seed: int
    ) -> EpisodePredictions | None:
        """About so many `episodes` of the first `most_tasks` tasks with more than `shots` examples, each met with several
        support sets where tasks are few; None where there is no such task. `room` is the padded number of shots."""
        tasks = family.tasks(most_tasks, shots)
        count = int(tasks.size)
        if count == 0:
            return None
        draws = max(1, min(MOST_DRAWS, episodes // count))
        # In NumPy from here on: cutting up a device's arrays would compile a small program for every shape.
        drawn, keys = jax.tree.map(np.asarray, self._draw(family, room, draws)(tasks, jnp.asarray(shots), jnp.asarray(seed)))
        total = count * draws
        calls = [slice(start, min(start + AT_ONCE, total)) for start in range(0, total, AT_ONCE)]
        results = [self._one_call(jax.tree.map(lambda leaf, part=part: leaf[part], drawn), keys[part]) for part in calls]
        before, found = jax.tree.map(lambda *parts: np.concatenate(parts).reshape(count, draws, *parts[0].shape[1:]), *results)
        query = jax.tree.map(lambda leaf: leaf.reshape(count, draws, *leaf.shape[1:]), drawn.query)
        by_policy = ({policy: found[policy][i] for policy in POLICIES} for i in range(4))
        return EpisodePredictions(query, before, *by_policy)

    def _draw(self, family: TaskFamily, room: int, draws: int) -> Callable[..., tuple[Episode, jax.Array]]:
        """`(tasks, shots, seed) -> ([tasks · draws] episodes, as many keys' data)`, by (seed, task, draw) alone."""
        place = (id(family), room, draws)
        if place not in self._draws:
            roomy = family if family.resized is None else family.resized(room)

            def one_task(task, shots, seed):
                keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), task), (draws, 2))
                return jax.vmap(lambda pair: (roomy.episode(task, pair[0], shots), jax.random.key_data(pair[1])))(keys)

            def all_tasks(tasks, shots, seed):
                drawn = jax.vmap(one_task, in_axes=(0, None, None))(tasks, shots, seed)
                return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), drawn)

            self._draws[place] = jit_hoisted(all_tasks)
        return self._draws[place]

    def _one_call(self, episodes: Episode, keys: np.ndarray) -> Any:
        """The program on up to `AT_ONCE` episodes: fewer are filled up, so that the shape stays the same."""
        count = keys.shape[0]
        fill = np.minimum(np.arange(AT_ONCE), count - 1)
        found = self._program(self.params, jax.tree.map(lambda leaf: leaf[fill], episodes), keys[fill])
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], found)


def rooms(counts: Sequence[int], trained: int) -> dict[int, int]:
    """The room for shots that each count gets: one serves all counts up to the trained one, and one those above. To compile a
    program takes longer than to run it on rows that do not count, as long as these are few."""
    most = max(counts, default=0)
    small = max((count for count in counts if count <= trained), default=most)
    return {count: small if count <= trained else most for count in counts}


def evenly(weight: np.ndarray) -> np.ndarray:
    """Weights [tasks, draws, queries] that sum to 1, and for each task to the same."""
    return weight / np.maximum(weight.sum((1, 2), keepdims=True), 1e-12) / weight.shape[0]
