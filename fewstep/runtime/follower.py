"""A dynamics model that follows one machine (floor 4): it remembers the last transitions, adapts to them, says what comes next.

All shapes are fixed and every program is compiled by `warm_up`, so that no step of a control loop waits for one. It needs a
run's configuration and its parameters, and nothing that trains.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fewstep import maml
from fewstep.errors import BadInput
from fewstep.problem import Problem
from fewstep.problems.saved import settings_of
from fewstep.types import Examples, MetaParams, Params

FILE, PARAMETERS = "follower.json", "parameters.npz"


class Standards(NamedTuple):
    """Means and deviations, by which numbers are standardized; float32."""

    input_center: np.ndarray
    input_scale: np.ndarray
    """of observations, then actions"""
    change_center: np.ndarray
    change_scale: np.ndarray


@dataclass
class Memory:
    """The last transitions, oldest first, in arrays of one size: those that are not there yet weigh 0."""

    inputs: np.ndarray
    targets: np.ndarray
    weight: np.ndarray

    @staticmethod
    def empty(size: int, features: int, outputs: int) -> Memory:
        return Memory(np.zeros((size, features), np.float32), np.zeros((size, outputs), np.float32), np.zeros(size, np.float32))

    def add(self, inputs: np.ndarray, targets: np.ndarray) -> None:
        """The newest comes in at the end, the oldest goes."""
        for rows, row in ((self.inputs, inputs), (self.targets, targets), (self.weight, 1.0)):
            rows[:-1] = rows[1:]
            rows[-1] = row

    def examples(self) -> Examples:
        """As they are now: a program may still read them when the next one comes in."""
        return Examples(self.inputs.copy(), self.targets.copy(), self.weight.copy())  # type: ignore[arg-type]


class Follower:
    """Follows one machine. Not for several threads at once. Of a run, with `trained = Trained.of(run)`:
    `Follower(trained.problem, trained.params, trained.config)`."""

    def __init__(self, problem: Problem, params: MetaParams, config: dict[str, Any], steps: int | None = None):
        format = problem.format
        self.problem, self.meta_params, self.config = problem, params, config
        self.steps = problem.learner.adaptation_steps if steps is None else steps
        self.observed, self.actions = len(format.targets), len(format.inputs) - len(format.targets)
        self.standards = Standards(
            *(np.array([getattr(column, name) for column in columns], np.float32)
              for columns in (format.inputs, format.targets) for name in ("center", "scale"))
        )  # fmt: skip
        self.memory = Memory.empty(problem.settings.shot_range.most, len(format.inputs), len(format.targets))
        self.passed_over = 0
        """transitions that held numbers that are not finite, and adaptations that ended in such"""
        self._adapt = jax.jit(self._adapted)
        self.params: Params = self._adapt(params, self.memory.examples())  # of no transition: θ
        self._next = jax.jit(self.after)

    def _adapted(self, params: MetaParams, support: Examples) -> Params:
        return maml.adapt(self.problem.learner, params, support, jax.random.key(0), self.steps)

    def after(self, params: Params, observations: jax.Array, actions: jax.Array) -> jax.Array:
        """[..., observed]: the next observations, by the model θ′. Pure: for planners."""
        center, scale, change_center, change_scale = map(jnp.asarray, self.standards)
        inputs = jnp.concatenate([observations, actions], -1)
        flat = inputs.reshape(-1, inputs.shape[-1])
        outputs = self.problem.predict(params, (flat - center[None]) / scale[None])
        return observations + (outputs * change_scale[None] + change_center[None]).reshape(observations.shape)

    @property
    def change_scale(self) -> np.ndarray:
        """[observed]: the deviations of changes among meta-train robots."""
        return self.standards.change_scale

    def warm_up(self) -> Follower:
        """Compiles what a control loop calls."""
        nothing = np.zeros(self.observed, np.float32), np.zeros(self.actions, np.float32)
        self.predict(*nothing)
        return self

    def observe(self, observation: Any, action: Any, after: Any) -> bool:
        """Remembers a transition. False where it holds numbers that are not finite: then it is passed over and counted.
        Raises `BadInput` for other sizes than the machine's."""
        observation, action, after = (np.asarray(each, np.float32) for each in (observation, action, after))
        for name, found, size in (
            ("observation", observation, self.observed),
            ("action", action, self.actions),
            ("next observation", after, self.observed),
        ):
            if found.shape != (size,):
                raise BadInput(f"{name}: expected {size} numbers, as the model was trained with, got the shape {found.shape}.")
        if not all(np.isfinite(each).all() for each in (observation, action, after)):
            self.passed_over += 1
            return False
        known = self.standards
        inputs = (np.concatenate([observation, action]) - known.input_center) / known.input_scale
        self.memory.add(inputs, (after - observation - known.change_center) / known.change_scale)
        return True

    def adapt(self) -> bool:
        """Adapts to the transitions that are remembered, from θ on. False where that does not stay finite: the last good θ′
        is kept."""
        found = self._adapt(self.meta_params, self.memory.examples())
        fine = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(found)))
        if fine:
            self.params = found
        else:
            self.passed_over += 1
        return fine

    def forget(self) -> None:
        """Back to before the first transition."""
        self.memory = Memory.empty(*self.memory.inputs.shape, self.memory.targets.shape[1])
        self.adapt()

    def predict(self, observation: Any, action: Any) -> np.ndarray:
        """[observed]: the next observation."""
        return np.asarray(self._next(self.params, np.asarray(observation, np.float32), np.asarray(action, np.float32)))

    def save(self, directory: str | Path) -> None:
        """Writes the model, without what it remembers, into a new folder. No pickle, no code."""
        directory = Path(directory)
        if directory.exists():
            raise BadInput(f"{directory} already exists. Choose another folder, or remove this one; nothing was changed.")
        directory.mkdir(parents=True)
        leaves = jax.tree.leaves(self.meta_params)
        arrays: dict[str, Any] = {str(number): np.asarray(leaf) for number, leaf in enumerate(leaves)}
        np.savez(directory / PARAMETERS, **arrays)
        (directory / FILE).write_text(json.dumps({"steps": self.steps, "run": self.config}) + "\n", encoding="utf-8")


def open_follower(directory: str | Path) -> Follower:
    """Opens a folder written by `Follower.save`, without anything that trains. Raises `BadInput` where it is damaged."""
    directory = Path(directory)
    try:
        saved = json.loads((directory / FILE).read_text(encoding="utf-8"))
        settings = settings_of(saved["run"], directory / FILE)
        problem = settings.build(saved["run"]["seed"], settings.read_format(saved["run"]["format"]))
        shapes = jax.eval_shape(lambda: problem.init(jax.random.key(0)))
        with np.load(directory / PARAMETERS, allow_pickle=False) as arrays:
            leaves = [jnp.asarray(arrays[str(number)]) for number in range(len(jax.tree.leaves(shapes)))]
        if [leaf.shape for leaf in leaves] != [leaf.shape for leaf in jax.tree.leaves(shapes)]:
            raise ValueError("parameters of another model")
        return Follower(problem, jax.tree.unflatten(jax.tree.structure(shapes), leaves), saved["run"], saved["steps"])
    except BadInput:
        raise
    except Exception as error:  # damaged archives raise many kinds
        raise BadInput(
            f"{directory}: expected a folder that Follower.save wrote, but it is none or damaged ({error})."
        ) from error
