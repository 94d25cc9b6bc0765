"""A policy that has been adapted, on its own: what acts in a control loop, without simulator, problem or training.

    policy = open_policy("adapted")                     # what `fewstep adapt RUN --out adapted` wrote
    command = policy.act(observation)                   # the likeliest action; policy.act(observation, key) draws one

A folder holds `adapted.json` (sizes, the range of actions, where it comes from) and `policy.npz` (θ′, and the mean and
deviation by which observations are normalized). No pickle, no code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np
from msgspec import Struct

from fewstep.application import ADAPTED, LAYOUT, read_adapted
from fewstep.apps.policies.networks import Policy, normalize_observations, policy_for
from fewstep.core.types import Key, Params
from fewstep.errors import InputError
from fewstep.storage.arrays import atomic_write, is_taken, read_arrays, write_arrays
from fewstep.storage.json import read_json, validate

PARAMETERS = "policy.npz"


class Shape(Struct, frozen=True, rename={"observation_size": "observed", "action_size": "actions"}):
    """What a policy takes and gives."""

    observation_size: int
    """numbers in an observation"""
    action_size: int
    """numbers in an action, or of actions to choose from where `discrete`"""
    discrete: bool
    hidden: tuple[int, ...]
    normalized: bool
    """whether observations are taken by the mean and deviation that stand among the parameters"""
    limit: float | None = None
    """an action of ± this is an end of the range"""
    least: tuple[float, ...] | None = None
    """the range of commands [actions]; None if an action is itself the command. Of discrete ones its first number"""
    most: tuple[float, ...] | None = None

    @property
    def sizes(self) -> dict[str, Any]:
        """What `config.json` records of an environment that this policy fits."""
        return {"observed": self.observation_size, "actions": self.action_size, "discrete": self.discrete}

    def policy(self) -> Policy:
        """The functions of it."""
        policy = policy_for(self.observation_size, self.action_size, self.discrete, self.hidden)
        return normalize_observations(policy, self.observation_size) if self.normalized else policy

    def command(self, action: np.ndarray) -> Any:
        """What the machine is told: within its range, in its units."""
        if self.discrete:
            return int(action) + (int(self.least[0]) if self.least else 0)
        action = np.asarray(action, np.float64)
        if self.least is None or self.most is None or self.limit is None:
            return action
        least, most = np.array(self.least), np.array(self.most)
        return np.clip((least + most) / 2 + (most - least) / 2 * (action / self.limit), least, most)


@dataclass(frozen=True)
class AdaptedPolicy:
    """A policy adapted to one task."""

    shape: Shape
    theta: Params
    """θ′"""
    about: dict[str, Any] = field(default_factory=dict)
    """where it comes from: run, task, updates, returns; as JSON has it"""

    def act(self, observation: Any, key: Key | None = None) -> Any:
        """What to do now: float64 [actions] in the machine's units, or an integer where actions are discrete.

        The likeliest action, or with a `key` one that is drawn. Raises `InputError` if the observation, [observed], is
        not of the size trained for or is not finite.
        """
        seen = np.asarray(observation, np.float32).reshape(-1)
        if len(seen) != self.shape.observation_size or not np.isfinite(seen).all():
            got = f"{len(seen)} numbers" if len(seen) != self.shape.observation_size else "some that are not finite"
            raise InputError(f"observation: expected {self.shape.observation_size} finite numbers, got {got}.")
        likeliest, drawn = self._programs
        return self.shape.command(np.asarray(likeliest(self.theta, seen) if key is None else drawn(self.theta, seen, key)))

    predict = act

    def save(self, directory: str | Path) -> Path:
        """Writes the folder, a new one or an empty one; `adapted.json` last. Raises `InputError` if it cannot."""
        directory = empty_folder(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_arrays(directory / PARAMETERS, self.theta)
        run = self.about.get("run", {})
        owner = {name: run.get(name, "") for name in ("application", "package")}
        content = {**owner, "layout": LAYOUT, "shape": msgspec.to_builtins(self.shape), **self.about}
        with atomic_write(directory / ADAPTED) as partial:
            partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        return directory

    @cached_property
    def _programs(self) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
        policy = self.shape.policy()
        likeliest = jax.jit(lambda theta, seen: policy.mode(policy.distribution(theta, seen)))
        return likeliest, jax.jit(lambda theta, seen, key: policy.sample(policy.distribution(theta, seen), key))


def open_policy(directory: str | Path) -> AdaptedPolicy:
    """Opens a folder that `AdaptedPolicy.save` wrote. Raises `InputError` if it is none or is damaged."""
    directory = Path(directory)
    read_adapted(directory)
    try:
        about: dict[str, Any] = read_json(directory / ADAPTED)
        about = {name: value for name, value in about.items() if name not in ("application", "package", "layout")}
        shape = validate(about.pop("shape"), Shape, "shape")
        for end in (shape.least, shape.most):
            if end is not None and len(end) != (1 if shape.discrete else shape.action_size):
                raise ValueError(f"a range of {len(end)} actions")
        theta = read_arrays(directory / PARAMETERS, jax.eval_shape(shape.policy().init, jax.random.key(0)))
    except Exception as error:  # damaged archives raise many kinds
        raise InputError(
            f"{directory}: the adapted policy is damaged ({type(error).__name__}: {error}). Adapt again."
        ) from error
    return AdaptedPolicy(shape, theta, about)


def empty_folder(directory: str | Path) -> Path:
    """`directory`, if it is empty or not there yet. Raises `InputError` if something is there already."""
    directory = Path(directory)
    if is_taken(directory):
        raise InputError(f"--out {directory} already exists and is not empty. Choose another folder; nothing was changed.")
    return directory
