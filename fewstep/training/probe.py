"""Many episodes of unseen tasks at one number of shots, by one program (floor 3): what calibration and reports are made of.

Everything that is said of held-out tasks beside their headline errors comes from the same few arrays: predictions before and
after adaptation, how sure they are, and what adaptation did. So one program is compiled, and the rest is NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.problem import Problem
from fewstep.tasks.family import TaskFamily
from fewstep.training.fit import deviation, fits
from fewstep.training.mapping import over_tasks
from fewstep.training.programs import compiled
from fewstep.types import Episode, Examples, MetaParams

AT_ONCE = 64
"""Episodes of one compiled call."""
MOST_DRAWS = 10
POLICIES = ("trained", "auto")
"""choices of the number of adaptation steps: the trained one, or by leaving out support rows"""


class Probed(NamedTuple):
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


class Prober:
    """Probes the tasks of any family with one problem's learner: programs are compiled once for each room for shots."""

    def __init__(self, problem: Problem, params: MetaParams):
        self.problem, self.params = problem, params
        self._draws: dict[tuple[int, int, int], Callable[..., tuple[Episode, jax.Array]]] = {}
        trained = problem.learner.adaptation_steps

        def one_episode(params, episode, key_data):
            (support, query), key = episode, jax.random.wrap_key_data(key_data)
            found: dict[str, Any] = {}
            for policy, fitted in zip(POLICIES, fits(problem, params, support, key, (trained, "auto")), strict=True):
                spread = jnp.ones_like(query.targets) if problem.format.classes else deviation(problem, fitted, query.inputs)
                found[policy] = (problem.predict(fitted.params, query.inputs), spread, fitted.signs, fitted.steps)
            return problem.predict(params.theta, query.inputs), found

        self._program = compiled(
            lambda params, episodes, keys: over_tasks(lambda each: one_episode(params, *each), (episodes, keys), AT_ONCE)
        )

    def probe(self, family: TaskFamily, shots: int, room: int, episodes: int, most_tasks: int, seed: int) -> Probed | None:
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
        return Probed(query, before, *by_policy)

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

            self._draws[place] = compiled(all_tasks)
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
