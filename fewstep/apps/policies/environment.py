"""Environments: families of tasks to act in.

An `Environment` is a value of pure functions of (state, action, task) for a single state and task, so that whole rollouts are
one compiled program; callers map it. `navigation` is an example. A `Simulation` is its counterpart outside JAX, which
steps many trajectories at once. `locomotion` builds one on MuJoCo, `gym_tasks` on any Gymnasium environment.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from fewstep.core.types import Key
from fewstep.errors import InputError

Task: TypeAlias = Any
"""what tells one task of a family from another (a goal, a mass): any pytree of arrays"""
State: TypeAlias = Any
"""all that an environment remembers from one step to the next: any pytree of arrays"""


class Transition(NamedTuple):
    """What one step of an environment leads to."""

    state: State
    reward: jax.Array
    """float scalar"""
    terminated: jax.Array
    """bool scalar: the trajectory ends here by itself. Being cut off at the horizon is something else"""


@dataclass(frozen=True)
class Environment:
    """A family of tasks that share their dynamics up to `task`. Raises `InputError` if the sizes make no sense."""

    sample_task: Callable[[Key], Task]
    """`sample_task(key) -> task`: one task drawn from the family"""
    reset: Callable[[Task, Key], State]
    """`reset(task, key) -> state`: where a trajectory begins"""
    observe: Callable[[State, Task], jax.Array]
    """`observe(state, task) -> [observation_size]`. The task is there for oracles, which are told it; others must not look"""
    step: Callable[[State, jax.Array, Task, Key], Transition]
    """`step(state, action, task, key) -> Transition`; an action is [actions], or an integer scalar where `discrete`. It takes
    any action and brings it into its range itself: the policy's probabilities are those of what it asked for"""
    observation_size: int
    """numbers in an observation"""
    action_size: int
    """numbers in an action, or of actions to choose from where `discrete`"""
    horizon: int
    """steps after which a trajectory is cut off"""
    discrete: bool = False

    def __post_init__(self) -> None:
        for name in ("observation_size", "action_size", "horizon"):
            if getattr(self, name) < 1:
                raise InputError(f"environment: expected at least 1 for `{name}`, got {getattr(self, name)}.")


Tasks: TypeAlias = Sequence[Any] | np.ndarray
"""what tells tasks apart, one entry each: numbers, or anything that the environment understands"""
MAX_ROWS = 1_000_000
"""as many trajectories side by side as anyone asks for"""


class StepResult(NamedTuple):
    """What one step led to, for all trajectories; rows that were not to be stepped may hold anything."""

    observations: np.ndarray
    """float32 [rows, observed]; one that is not finite, or a reward that is not, says that its trajectory broke"""
    rewards: np.ndarray
    """float64 [rows]"""
    terminated: np.ndarray
    """bool [rows]: it ended by itself"""
    truncated: np.ndarray
    """bool [rows]: it was cut off by the environment itself, before the horizon"""
    messages: Mapping[int, str]
    """row -> why it broke, where that is known"""


class ResetResult(NamedTuple):
    """How trajectories begin."""

    observations: np.ndarray
    """float32 [rows, observed]"""
    messages: Mapping[int, str]
    """row -> why it broke, where that is known"""


@dataclass(frozen=True)
class Simulation:
    """A family of tasks in a simulator. It remembers the trajectories of its last `begin` alone.

    Raises `InputError` if the sizes make no sense.
    """

    sample_tasks: Callable[[np.random.Generator, int], Tasks]
    """`sample_tasks(random, n) -> tasks` to train on"""
    begin: Callable[[Tasks, Sequence[int]], ResetResult]
    """`begin(tasks, seeds) -> ResetResult`: one new trajectory for each entry; its seed alone decides what is random"""
    step: Callable[[np.ndarray, np.ndarray], StepResult]
    """`step(actions, active) -> StepResult`: steps the `active` trajectories [rows]; actions are [rows, actions], or integers
    [rows] if `discrete`. The simulation accepts any action and clips it to its range; the policy's probabilities are those of
    the unclipped action"""
    observation_size: int
    """numbers in an observation"""
    action_size: int
    """numbers in an action, or of actions to choose from where `discrete`"""
    horizon: int
    """steps after which a trajectory is cut off"""
    discrete: bool = False
    sample_unseen: Callable[[np.random.Generator, int], Tasks] | None = None
    """tasks to be judged on at last, where these are held out; else they are drawn as those of training are"""
    action_limit: float = math.inf
    """actions beyond ± this are cut to it"""
    action_range: tuple[np.ndarray, np.ndarray] | None = None
    """what actions of ∓ `action_limit` are to the machine itself, [actions] each; None if an action is itself to it. Of
    discrete ones its first and last number"""
    at_once: int = MAX_ROWS
    """trajectories side by side, at most"""
    snapshot: Callable[[], Any] | None = None
    """how the first trajectory stands now, for a picture: a state of MuJoCo [state], or an image [height, width, 3] of bytes"""
    notes: tuple[str, ...] = field(default=())
    """what a person should know"""

    def __post_init__(self) -> None:
        for name in ("observation_size", "action_size", "horizon", "at_once"):
            if getattr(self, name) < 1:
                raise InputError(f"simulation: expected at least 1 for `{name}`, got {getattr(self, name)}.")

    def sample(self, random: np.random.Generator, count: int, unseen: bool = False) -> Tasks:
        """`count` tasks to train on, or unseen ones."""
        return (self.sample_unseen or self.sample_tasks)(random, count) if unseen else self.sample_tasks(random, count)


def parse_task(text: str) -> Any:
    """A task in JSON (a number, a list, an object), or the words themselves."""
    try:
        return json.loads(text)
    except ValueError:
        return text
