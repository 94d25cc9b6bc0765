"""Environments that are functions of (state, action, task), so that whole rollouts are one compiled program (floor 1).

An `Environment` is a value of pure functions for one state of one task; whoever needs many maps them. A family of tasks is one
file that builds one: `navigation` is the example. Used by fewstep/rl.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax

from fewstep.errors import BadInput
from fewstep.types import Key

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
    """A family of tasks that share their dynamics up to `task`. Raises `BadInput` where the sizes make no sense."""

    sample_task: Callable[[Key], Task]
    """`sample_task(key) -> task`: one task drawn from the family"""
    reset: Callable[[Task, Key], State]
    """`reset(task, key) -> state`: where a trajectory begins"""
    observe: Callable[[State, Task], jax.Array]
    """`observe(state, task) -> [observed]`. The task is there for oracles, which are told it; others must not look"""
    step: Callable[[State, jax.Array, Task, Key], Transition]
    """`step(state, action, task, key) -> Transition`; an action is [actions], or an integer scalar where `discrete`. It takes
    any action and brings it into its range itself: the policy's probabilities are those of what it asked for"""
    observed: int
    """numbers in an observation"""
    actions: int
    """numbers in an action, or of actions to choose from where `discrete`"""
    horizon: int
    """steps after which a trajectory is cut off"""
    discrete: bool = False

    def __post_init__(self) -> None:
        for name in ("observed", "actions", "horizon"):
            if getattr(self, name) < 1:
                raise BadInput(f"environment: expected at least 1 for `{name}`, got {getattr(self, name)}.")
