"""Environments that are no functions of JAX: a simulator that many trajectories step at once, from outside (floor 1).

A `Simulation` is what `environments.Environment` is to pure functions: a family of tasks and how to act in them. `locomotion`
builds it on MuJoCo, `gym_tasks` on any Gymnasium environment. Used by fewstep/rl/simulated.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fewstep.errors import BadInput

Tasks: TypeAlias = Sequence[Any] | np.ndarray
"""what tells tasks apart, one entry each: numbers, or anything that the environment understands"""
EVERY_ROW = 1_000_000
"""as many trajectories side by side as anyone asks for"""


class Outcome(NamedTuple):
    """What one step led to, for all trajectories; rows that were not to be stepped may hold anything."""

    observations: np.ndarray
    """float32 [rows, observed]; one that is not finite, or a reward that is not, says that its trajectory broke"""
    rewards: np.ndarray
    """float64 [rows]"""
    terminated: np.ndarray
    """bool [rows]: it ended by itself"""
    truncated: np.ndarray
    """bool [rows]: it was cut off by the environment itself, before the horizon"""
    said: Mapping[int, str]
    """row -> why it broke, where that is known"""


class Begun(NamedTuple):
    """How trajectories begin."""

    observations: np.ndarray
    """float32 [rows, observed]"""
    said: Mapping[int, str]
    """row -> why it broke, where that is known"""


@dataclass(frozen=True)
class Simulation:
    """A family of tasks in a simulator. It remembers the trajectories of its last `begin` alone.

    Raises `BadInput` where the sizes make no sense.
    """

    sample_tasks: Callable[[np.random.Generator, int], Tasks]
    """`sample_tasks(random, n) -> tasks` to train on"""
    begin: Callable[[Tasks, Sequence[int]], Begun]
    """`begin(tasks, seeds) -> Begun`: one new trajectory for each entry; what is random in it is decided by its seed alone"""
    step: Callable[[np.ndarray, np.ndarray], Outcome]
    """`step(actions, alive) -> Outcome`: acts in those of `alive` [rows]; actions are [rows, actions], or integers [rows] where
    `discrete`. Any action is taken and brought into its range by the simulation: the policy's probabilities are those of what
    it asked for"""
    observed: int
    """numbers in an observation"""
    actions: int
    """numbers in an action, or of actions to choose from where `discrete`"""
    horizon: int
    """steps after which a trajectory is cut off"""
    discrete: bool = False
    sample_unseen: Callable[[np.random.Generator, int], Tasks] | None = None
    """tasks to be judged on at last, where these are held out; else they are drawn as those of training are"""
    action_limit: float = math.inf
    """actions beyond ± this are cut to it"""
    action_range: tuple[np.ndarray, np.ndarray] | None = None
    """what actions of ∓ `action_limit` are to the machine itself, [actions] each; None where an action is itself to it. Of
    discrete ones its first and last number"""
    at_once: int = EVERY_ROW
    """trajectories side by side, at most"""
    snapshot: Callable[[], Any] | None = None
    """how the first trajectory stands now, for a picture: a state of MuJoCo [state], or an image [height, width, 3] of bytes"""
    notes: tuple[str, ...] = field(default=())
    """what a person should know"""

    def __post_init__(self) -> None:
        for name in ("observed", "actions", "horizon", "at_once"):
            if getattr(self, name) < 1:
                raise BadInput(f"simulation: expected at least 1 for `{name}`, got {getattr(self, name)}.")

    def drawn(self, random: np.random.Generator, count: int, unseen: bool = False) -> Tasks:
        """`count` tasks to train on, or unseen ones."""
        return (self.sample_unseen or self.sample_tasks)(random, count) if unseen else self.sample_tasks(random, count)


def literal(text: str) -> Any:
    """A task in JSON (a number, a list, an object), or the words themselves."""
    try:
        return json.loads(text)
    except ValueError:
        return text
