"""What learning to adapt a policy consists of, as a value (floor 2): what a Problem is to models that predict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax

from fewstep.nn.policies import Policy
from fewstep.rl.meta_step import PolicySearch
from fewstep.tasks.environments import Environment, Task
from fewstep.types import Key, MetaParams


@dataclass(frozen=True)
class PolicyProblem:
    """A family of tasks, a policy for them, and how it is learned to be adapted."""

    name: str
    settings: Any
    environment: Environment
    policy: Policy
    search: PolicySearch
    init: Callable[[Key], MetaParams]
    meta_steps: int
    log_every: int
    updates: int = 3
    """policies are judged after 0 to so many adaptation steps"""
    later_rate: float = 0.5
    """updates after the first are so many times as large (Finn et al. 2017, section 5.3)"""
    judged_tasks: int = 40
    """validation tasks, and rollouts for each of their updates"""
    normalized: Callable[[jax.Array, Task], jax.Array] | None = None
    """`normalized(returns, task)`: 0 for a policy that does nothing, 1 for one that knows the task"""
    places: Callable[[jax.Array], jax.Array] | None = None
    """`places(observations [..., observed]) -> [..., 2]`: where that is, for a picture of the ways taken"""
    goal: Callable[[Task], jax.Array] | None = None
    """`goal(task) -> [2]`: where a task's goal is in that picture"""
    protocol: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def meta_batch_size(self) -> int:
        return self.search.tasks
