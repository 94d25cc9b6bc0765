"""What learning to adapt a policy consists of, as a value (floor 2): what a Problem is to models that predict.

Whether its environment is made of pure functions or is a simulator is asked here alone: `meta_step_of`, `returns_of`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import numpy as np

from fewstep.maml import MetaState
from fewstep.nn.policies import Policy
from fewstep.rl.meta_step import MetaStepInfo, PolicySearch, evaluate_policy, policy_meta_step
from fewstep.rl.simulated import evaluate_outside, simulated_meta_step
from fewstep.tasks.environments import Environment, Task
from fewstep.tasks.simulation import Simulation
from fewstep.types import Key, MetaParams


@dataclass(frozen=True)
class PolicyProblem:
    """A family of tasks, a policy for them, and how it is learned to be adapted."""

    name: str
    settings: Any
    environment: Environment | Simulation
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
    """validation tasks"""
    judged_rollouts: int = 40
    """for each update of a task that policies are judged on"""
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


def meta_step_of(problem: PolicyProblem) -> Callable[[MetaState, Key], tuple[MetaState, MetaStepInfo]]:
    """`(state, key of the run) -> (state, what happened)`, compiled."""
    search, environment, policy = problem.search, problem.environment, problem.policy
    if isinstance(environment, Simulation):
        return partial(simulated_meta_step, search, environment, policy)
    return jax.jit(partial(policy_meta_step, search, environment, policy))


def returns_of(
    problem: PolicyProblem, tasks: int, updates: int, key: Key, rollouts: int | None = None, unseen: bool = False
) -> Callable[[MetaParams], tuple[jax.Array | np.ndarray, Any]]:
    """A program `params -> (returns [tasks, updates + 1], the tasks)`, on fresh trajectories for every update and at last.

    `unseen` takes tasks that are held out from training, where the environment has such; else all are drawn alike.
    """
    search, environment, policy = problem.search, problem.environment, problem.policy
    settings = {"steps": updates, "rollouts": rollouts or problem.judged_rollouts, "later_rate": problem.later_rate}
    if isinstance(environment, Simulation):
        task_key, roll_key = jax.random.split(key)
        drawn = environment.drawn(np.random.default_rng(np.asarray(jax.random.key_data(task_key))), tasks, unseen)
        return lambda params: (evaluate_outside(search, environment, policy, params, drawn, roll_key, **settings), drawn)
    task_keys, roll_keys = (jax.random.split(each, tasks) for each in jax.random.split(key))
    evaluate = partial(evaluate_policy, search, environment, policy, **settings)

    @jax.jit
    def program(params: MetaParams) -> tuple[jax.Array, Any]:
        drawn = jax.vmap(environment.sample_task)(task_keys)
        return jax.vmap(evaluate, (None, 0, 0))(params, drawn, roll_keys), drawn

    return program
