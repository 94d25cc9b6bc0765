"""`PolicyProblem`: a family of tasks, a policy, and how the policy is meta-learned.

Only this module distinguishes environments of pure functions from simulators: in `compiled_meta_step`, `returns_program`,
`adapt_to_task` and `unseen_task`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fewstep.apps.policies.adaptation import collected_path, path_on
from fewstep.apps.policies.environment import Environment, Simulation, Task, parse_task
from fewstep.apps.policies.meta_step import MetaStepInfo, PolicySearch, collect_scored, evaluate_policy, policy_meta_step
from fewstep.apps.policies.networks import Policy
from fewstep.apps.policies.simulated import (
    evaluate_simulated,
    generator_of,
    returns_by_update,
    simulated_meta_step,
    simulated_path,
)
from fewstep.apps.policies.trajectories import PolicyReturns, returns, steps_taken
from fewstep.core.maml import MetaState
from fewstep.core.problem import Trainable
from fewstep.core.types import Key, MetaParams, Params
from fewstep.variants.outer import Slowed


@dataclass(frozen=True, kw_only=True)
class PolicyProblem(Trainable):
    """A family of tasks, a policy for them, and how it is learned to be adapted."""

    environment: Environment | Simulation
    policy: Policy
    search: PolicySearch
    updates: int = 3
    """policies are judged after 0 to so many adaptation steps"""
    later_rate: float = 0.5
    """updates after the first are so many times as large (Finn et al. 2017, section 5.3)"""
    validation_tasks: int = 40
    """validation tasks, by which the checkpoint is chosen that is kept"""
    remeasured_tasks: int = 40
    """others, on which that one is measured once more at the end of a training; 0: it is not"""
    evaluation_rollouts: int = 40
    """for each update of a task that policies are judged on"""
    normalized: Callable[[jax.Array, Task], jax.Array] | None = None
    """`normalized(returns, task)`: 0 for a policy that does nothing, 1 for one that knows the task"""
    places: Callable[[jax.Array], jax.Array] | None = None
    """`places(observations [..., observation_size]) -> [..., 2]`: where that is, for a picture of the ways taken"""
    goal: Callable[[Task], jax.Array] | None = None
    """`goal(task) -> [2]`: where a task's goal is in that picture"""
    read_task: Callable[[str], Task] = parse_task
    """a task from words, as a person gives it; raises `InputError` for what is none"""

    @property
    def metric(self) -> str:
        return "negative_return"

    def initial_state(self, params: MetaParams) -> MetaState:
        """That of the outer step, and the factor by which its steps are shortened."""
        state = self.search.outer.init(params)
        return state._replace(opt_state=Slowed(state.opt_state, jnp.ones(())))

    @property
    def meta_batch_size(self) -> int:
        return self.search.tasks

    @property
    def environment_steps(self) -> int:
        """of a meta-step, where no trajectory ends early"""
        trajectories = self.search.tasks * self.search.rollouts * (1 + self.search.adaptation_steps)
        return trajectories * self.environment.horizon


def compiled_meta_step(
    problem: PolicyProblem, mesh: Mesh | None = None
) -> Callable[[MetaState, Key], tuple[MetaState, MetaStepInfo]]:
    """`(state of the outer step, key of the run) -> (state, what happened)`, compiled; tasks are split over a `mesh`."""
    search, environment, policy = problem.search, problem.environment, problem.policy
    if isinstance(environment, Simulation):
        return partial(simulated_meta_step, search, environment, policy)
    return partial(_meta_step, search, environment, policy, **{} if mesh is None else {"mesh": mesh})


def returns_program(
    problem: PolicyProblem,
    tasks: int,
    updates: int,
    key: Key,
    rollouts: int | None = None,
    unseen: bool = False,
    place: Callable[[Any], Any] = lambda by_task: by_task,
) -> Callable[[MetaParams], tuple[PolicyReturns, Any]]:
    """A program `params -> (PolicyReturns [tasks, updates + 1], tasks)`; fresh trajectories are collected for every update.

    `unseen` samples tasks that are held out from training, if the environment has any. `place` puts arrays with a leading axis
    [tasks] on the devices on which the program runs, if the environment is made of pure functions.
    """
    search, environment, policy = problem.search, problem.environment, problem.policy
    settings = {"steps": updates, "rollouts": rollouts or problem.evaluation_rollouts, "later_rate": problem.later_rate}
    drawn, roll_key = sample_tasks_of(problem, tasks, key, unseen), jax.random.split(key)[1]
    if isinstance(environment, Simulation):
        return lambda params: (evaluate_simulated(search, environment, policy, params, drawn, roll_key, **settings), drawn)
    drawn, roll_keys = place((drawn, jax.random.split(roll_key, tasks)))
    about = tuple(settings.items())
    return lambda params: (_judged(search, environment, policy, about, params, drawn, roll_keys), drawn)


# What is fixed of a problem is fixed in its programs: whoever asks again of the same problem traces and compiles nothing.
_meta_step = jax.jit(policy_meta_step, static_argnums=(0, 1, 2), static_argnames="mesh")


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _judged(
    search: PolicySearch,
    environment: Environment,
    policy: Policy,
    settings: tuple[tuple[str, Any], ...],
    params: MetaParams,
    drawn: Task,
    keys: Key,
) -> PolicyReturns:
    """`evaluate_policy` with these `settings` in each of the tasks."""
    evaluate = partial(evaluate_policy, search, environment, policy, **dict(settings))
    return jax.vmap(evaluate, (None, 0, 0))(params, drawn, keys)


def sample_tasks_of(problem: PolicyProblem, count: int, key: Key, unseen: bool = False) -> Any:
    """The tasks that `returns_program` evaluates with the same key: a simulator's own, or leaves [count, ...]."""
    environment, task_key = problem.environment, jax.random.split(key)[0]
    if isinstance(environment, Simulation):
        return environment.sample(generator_of(task_key), count, unseen)
    return jax.jit(jax.vmap(environment.sample_task))(jax.random.split(task_key, count))


class AdaptationResult(NamedTuple):
    """Policies adapted to one task, step by step."""

    task: Task
    path: list[Params]
    """[θ, θ′, …]: before, and after each update"""
    judged: PolicyReturns
    """numpy, leaves [updates + 1]"""
    messages: tuple[str, ...]
    """of a simulator: which trajectories broke, where and why"""


def adapt_to_task(
    problem: PolicyProblem,
    params: MetaParams,
    task: Task,
    updates: int,
    rollouts: int,
    key: Key,
    watch: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> AdaptationResult:
    """Acts in one task and adapts by turns: `rollouts` fresh trajectories for each update, and as many with what came of it.

    `watch` is told of a simulator's collections: it passes on their numbers, one by one. Raises `TrainingError` if all
    trajectories break.
    """
    search, environment, policy = problem.search, problem.environment, problem.policy
    path_key, last_key = jax.random.split(key)
    if isinstance(environment, Simulation):
        keys, settings = (path_key, last_key), (updates, rollouts, problem.later_rate)
        found, path = simulated_path(search, environment, policy, params, [task], keys, *settings, watch)
        judged = jax.tree.map(lambda leaf: leaf[0], returns_by_update(found))
        messages = tuple(line for each in found for line in each.messages)
        return AdaptationResult(task, [jax.tree.map(lambda leaf: leaf[0], theta) for theta in path], judged, messages)
    learner = search.learner(policy, problem.later_rate)

    @jax.jit
    def program(params: MetaParams, task: Task) -> tuple[list[Params], PolicyReturns]:
        def collect_with(theta: Params, key: Key) -> Any:
            return collect_scored(search, environment, policy, theta, task, key, rollouts)

        supports = collected_path(learner, params, collect_with, path_key, updates).supports
        path = path_on(learner, params, supports)
        last = collect_with(path[-1], last_key).trajectories
        seen = [jax.tree.map(lambda leaf, number=number: leaf[number], supports.trajectories) for number in range(updates)]
        return path, PolicyReturns(*(jnp.stack([of(each) for each in (*seen, last)]) for of in (_mean_return, steps_taken)))

    path, judged = jax.device_get(program(params, task))
    return AdaptationResult(task, path, judged, ())


def unseen_task(problem: PolicyProblem, key: Key) -> Task:
    """A task that is held out from training, where the family has such; else one more that is drawn."""
    environment = problem.environment
    if isinstance(environment, Simulation):
        return environment.sample(generator_of(key), 1, unseen=True)[0]
    return environment.sample_task(key)


def _mean_return(trajectories: Any) -> jax.Array:
    return jnp.mean(returns(trajectories))
