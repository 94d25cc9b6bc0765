"""A dynamics model that adapts online to one machine: it stores the last transitions, adapts to them and predicts.

All shapes are fixed and `warm_up` compiles every program, so that no step of a control loop waits for compilation. The module
needs a run's configuration and parameters, and nothing that trains.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from msgspec import Meta

from fewstep.core import maml
from fewstep.core.problem import Problem
from fewstep.core.types import Examples, MetaParams, Params
from fewstep.errors import InputError
from fewstep.recipe.saved import settings_of
from fewstep.storage.arrays import read_arrays
from fewstep.storage.json import read_json, validate

FILE, PARAMETERS = "follower.json", "parameters.npz"
MOST_STEPS = 10_000
"""of adaptation in a control loop: a file that asks for more is damaged"""
SURPRISE_LIMIT, SURPRISES = 0.3, 3
"""So many transitions in a row that the model mistakes by more than this (mean square, in deviations of the changes) say that
the machine is another one now: a single one may be a bump."""


class Standardization(NamedTuple):
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

    def keep(self, last: int) -> None:
        """Forgets all but the last transitions."""
        self.weight[:-last] = 0.0

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
        self.observation_size, self.action_size = len(format.targets), len(format.inputs) - len(format.targets)
        self.standardization = Standardization(
            *(np.array([getattr(column, name) for column in columns], np.float32)
              for columns in (format.inputs, format.targets) for name in ("center", "scale"))
        )  # fmt: skip
        self.memory = Memory.empty(problem.settings.shot_range.most, len(format.inputs), len(format.targets))
        self.skipped = 0
        """transitions that held numbers that are not finite, and adaptations that ended in such"""
        self.surprise_limit = SURPRISE_LIMIT
        """see there; `math.inf` for a memory that never forgets"""
        self.resets = 0
        """so often the machine became another one, and what was before was forgotten"""
        self._surprises = 0
        self._adapt, self._mistaken, self._next = jax.jit(self.adapted), jax.jit(self._error), jax.jit(self.after)
        self.params: Params = self._adapt(params, self.memory.examples())[0]  # of no transition: θ

    def adapted(self, params: MetaParams, support: Examples) -> tuple[Params, jax.Array]:
        """(θ′ of these transitions, standardized; whether it is sound): of the points that adaptation passes the one that fits
        them best. On transitions unlike all of training, steps may lead far away. Pure."""
        learner, key = self.problem.learner, jax.random.key(0)
        path = maml.adaptation_path(learner, params, support, key, self.steps)
        losses = jax.vmap(lambda theta: learner.loss(theta, support, key))(path)
        best = jnp.argmin(jnp.where(jnp.isfinite(losses), losses, jnp.inf))
        return jax.tree.map(lambda leaf: leaf[best], path), jnp.isfinite(losses[best])

    def _error(self, params: Params, inputs: jax.Array, changes: jax.Array) -> jax.Array:
        """Mean square of what θ′ mistakes of one transition, standardized."""
        return jnp.mean(jnp.square(self.problem.predict(params, inputs[None])[0] - changes))

    def after(self, params: Params, observations: jax.Array, actions: jax.Array) -> jax.Array:
        """[..., observed]: the next observations, by the model θ′. Pure: for planners."""
        center, scale, change_center, change_scale = map(jnp.asarray, self.standardization)
        inputs = jnp.concatenate([observations, actions], -1)
        flat = inputs.reshape(-1, inputs.shape[-1])
        outputs = self.problem.predict(params, (flat - center[None]) / scale[None])
        return observations + (outputs * change_scale[None] + change_center[None]).reshape(observations.shape)

    @property
    def change_scale(self) -> np.ndarray:
        """[observed]: the deviations of changes among meta-train robots."""
        return self.standardization.change_scale

    def warm_up(self) -> Follower:
        """Compiles what a control loop calls."""
        nothing = np.zeros(self.observation_size, np.float32), np.zeros(self.action_size, np.float32)
        self.predict(*nothing)
        self._mistaken(self.params, *self.standardized(*nothing, nothing[0]))
        return self

    def observe(self, observation: Any, action: Any, after: Any) -> bool:
        """Remembers a transition. False if it holds numbers that are not finite: then it is passed over and counted.

        Where the model mistakes one after the other (`SURPRISES`), the machine has changed: what was before them is forgotten.
        Raises `InputError` for other sizes than the machine's.
        """
        observation, action = numbers_of("observation", observation), numbers_of("action", action)
        after = numbers_of("next observation", after)
        for name, found, size in (
            ("observation", observation, self.observation_size),
            ("action", action, self.action_size),
            ("next observation", after, self.observation_size),
        ):
            if found.shape != (size,):
                raise InputError(
                    f"{name}: expected {size} numbers, as the model was trained with, got the shape {found.shape}."
                )
        if not all(np.isfinite(each).all() for each in (observation, action, after)):
            self.skipped += 1
            return False
        inputs, changes = self.standardized(observation, action, after)
        self.memory.add(inputs, changes)
        self._surprises = self._surprises + 1 if self._mistaken(self.params, inputs, changes) > self.surprise_limit else 0
        if self._surprises == SURPRISES:
            self._surprises, self.resets = 0, self.resets + 1
            self.memory.keep(SURPRISES)
        return True

    def standardized(self, observations: np.ndarray, actions: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Transitions [..., numbers] as (inputs, changes) that the model is fitted to."""
        known = self.standardization
        inputs = (np.concatenate([observations, actions], -1) - known.input_center) / known.input_scale
        return inputs, (after - observations - known.change_center) / known.change_scale

    def adapt(self) -> bool:
        """Adapts to the transitions that are remembered, from θ on. False if no number of it is finite: the last good θ′ is
        kept."""
        found, sound = self._adapt(self.meta_params, self.memory.examples())
        if sound:
            self.params = found
        else:
            self.skipped += 1
        return bool(sound)

    def forget(self) -> None:
        """Back to before the first transition."""
        self.memory = Memory.empty(*self.memory.inputs.shape, self.memory.targets.shape[1])
        self._surprises = 0
        self.adapt()

    def predict(self, observation: Any, action: Any) -> np.ndarray:
        """[..., observed]: the next observations (not their changes), of observations [..., observed] and as many actions, one
        or many side by side. What is not a number stays none. Raises `InputError` for other sizes."""
        observation, action = numbers_of("observation", observation), numbers_of("action", action)
        if observation.shape[-1:] != (self.observation_size,) or action.shape != (*observation.shape[:-1], self.action_size):
            raise InputError(
                f"predict: expected observations [..., {self.observation_size}] and as many actions [..., {self.action_size}], "
                f"got {list(observation.shape)} and {list(action.shape)}."
            )
        return np.asarray(self._next(self.params, observation, action))

    def save(self, directory: str | Path) -> None:
        """Writes the model, without what it remembers, into a new folder. No pickle, no code."""
        directory = Path(directory)
        if directory.exists():
            raise InputError(f"{directory} already exists. Choose another folder, or remove this one; nothing was changed.")
        directory.mkdir(parents=True)
        leaves = jax.tree.leaves(self.meta_params)
        arrays: dict[str, Any] = {str(number): np.asarray(leaf) for number, leaf in enumerate(leaves)}
        np.savez(directory / PARAMETERS, **arrays)
        (directory / FILE).write_text(json.dumps({"steps": self.steps, "run": self.config}) + "\n", encoding="utf-8")


def numbers_of(name: str, values: Any) -> np.ndarray:
    """float32. Raises `InputError` for what is no array of numbers."""
    try:
        return np.asarray(values, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: expected numbers, got {str(values)[:60]} ({error}).") from error


def open_follower(directory: str | Path) -> Follower:
    """Opens a folder written by `Follower.save`, without anything that trains. Raises `InputError` if it is damaged."""
    directory = Path(directory)
    try:
        saved = read_json(directory / FILE)
        settings = settings_of(saved["run"], directory / FILE)
        problem = settings.build(saved["run"]["seed"], settings.read_format(saved["run"]["format"]))
        shapes = jax.eval_shape(lambda: problem.init(jax.random.key(0)))
        validate(saved["steps"], Annotated[int, Meta(ge=0, le=MOST_STEPS)], "steps")
        like = {str(number): leaf for number, leaf in enumerate(jax.tree.leaves(shapes))}
        arrays = read_arrays(directory / PARAMETERS, like)
        leaves = [arrays[name] for name in like]
        if [leaf.shape for leaf in leaves] != [leaf.shape for leaf in jax.tree.leaves(shapes)]:
            raise ValueError("parameters of another model")
        return Follower(problem, jax.tree.unflatten(jax.tree.structure(shapes), leaves), saved["run"], saved["steps"])
    except InputError:
        raise
    except Exception as error:  # damaged archives raise many kinds
        raise InputError(
            f"{directory}: expected a folder that Follower.save wrote, but it is none or damaged ({error})."
        ) from error
