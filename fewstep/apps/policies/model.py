"""What learning to adapt a policy consists of, as a value: what a Problem is to models that predict.

Whether its environment is made of pure functions or is a simulator is asked here alone: `meta_step_of`, `returns_of`,
`adapted_to`, `unseen_task`.
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
from fewstep.apps.policies.environment import Environment, Simulation, Task, literal
from fewstep.apps.policies.meta_step import MetaStepInfo, PolicySearch, evaluate_policy, gathered, policy_meta_step
from fewstep.apps.policies.networks import Policy
from fewstep.apps.policies.simulated import (
    evaluate_outside,
    generator_of,
    judged_outside,
    path_outside,
    simulated_meta_step,
)
from fewstep.apps.policies.trajectories import Judged, returns, steps_taken
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
    judged_tasks: int = 40
    """validation tasks, by which the checkpoint is chosen that is kept"""
    remeasured_tasks: int = 40
    """others, on which that one is measured once more at the end of a training; 0: it is not"""
    judged_rollouts: int = 40
    """for each update of a task that policies are judged on"""
    normalized: Callable[[jax.Array, Task], jax.Array] | None = None
    """`normalized(returns, task)`: 0 for a policy that does nothing, 1 for one that knows the task"""
    places: Callable[[jax.Array], jax.Array] | None = None
    """`places(observations [..., observed]) -> [..., 2]`: where that is, for a picture of the ways taken"""
    goal: Callable[[Task], jax.Array] | None = None
    """`goal(task) -> [2]`: where a task's goal is in that picture"""
    read_task: Callable[[str], Task] = literal
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


def meta_step_of(
    problem: PolicyProblem, mesh: Mesh | None = None
) -> Callable[[MetaState, Key], tuple[MetaState, MetaStepInfo]]:
    """`(state of the outer step, key of the run) -> (state, what happened)`, compiled; tasks are split over a `mesh`."""
    search, environment, policy = problem.search, problem.environment, problem.policy
    if isinstance(environment, Simulation):
        return partial(simulated_meta_step, search, environment, policy)
    return partial(_meta_step, search, environment, policy, **{} if mesh is None else {"mesh": mesh})


def returns_of(
    problem: PolicyProblem,
    tasks: int,
    updates: int,
    key: Key,
    rollouts: int | None = None,
    unseen: bool = False,
    place: Callable[[Any], Any] = lambda by_task: by_task,
) -> Callable[[MetaParams], tuple[Judged, Any]]:
    """A program `params -> (Judged [tasks, updates + 1], the tasks)`, on fresh trajectories for every update and at last.

    `unseen` takes tasks that are held out from training, where the environment has such; else all are drawn alike. `place`
    puts arrays that lead with [tasks] where the program is to run, of an environment made of pure functions.
    """
    search, environment, policy = problem.search, problem.environment, problem.policy
    settings = {"steps": updates, "rollouts": rollouts or problem.judged_rollouts, "later_rate": problem.later_rate}
    drawn, roll_key = drawn_tasks(problem, tasks, key, unseen), jax.random.split(key)[1]
    if isinstance(environment, Simulation):
        return lambda params: (evaluate_outside(search, environment, policy, params, drawn, roll_key, **settings), drawn)
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
) -> Judged:
    """`evaluate_policy` with these `settings` in each of the tasks."""
    evaluate = partial(evaluate_policy, search, environment, policy, **dict(settings))
    return jax.vmap(evaluate, (None, 0, 0))(params, drawn, keys)


def drawn_tasks(problem: PolicyProblem, count: int, key: Key, unseen: bool = False) -> Any:
    """The tasks that `returns_of` judges by the same key: of a simulator as it draws them, else leaves lead with [count]."""
    environment, task_key = problem.environment, jax.random.split(key)[0]
    if isinstance(environment, Simulation):
        return environment.drawn(generator_of(task_key), count, unseen)
    return jax.jit(jax.vmap(environment.sample_task))(jax.random.split(task_key, count))


class AdaptedTo(NamedTuple):
    """Policies adapted to one task, step by step."""

    task: Task
    path: list[Params]
    """[θ, θ′, …]: before, and after each update"""
    judged: Judged
    """numpy, leaves [updates + 1]"""
    said: tuple[str, ...]
    """of a simulator: which trajectories broke, where and why"""


def adapted_to(
    problem: PolicyProblem,
    params: MetaParams,
    task: Task,
    updates: int,
    rollouts: int,
    key: Key,
    watch: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> AdaptedTo:
    """Acts in one task and adapts by turns: `rollouts` fresh trajectories for each update, and as many with what came of it.

    `watch` is told of a simulator's collections: it passes on their numbers, one by one. Raises `TrainingError` where all
    trajectories break.
    """
    search, environment, policy = problem.search, problem.environment, problem.policy
    path_key, last_key = jax.random.split(key)
    if isinstance(environment, Simulation):
        keys, settings = (path_key, last_key), (updates, rollouts, problem.later_rate)
        found, path = path_outside(search, environment, policy, params, [task], keys, *settings, watch)
        judged = jax.tree.map(lambda leaf: leaf[0], judged_outside(found))
        said = tuple(line for each in found for line in each.said)
        return AdaptedTo(task, [jax.tree.map(lambda leaf: leaf[0], theta) for theta in path], judged, said)
    learner = search.learner(policy, problem.later_rate)

    @jax.jit
    def program(params: MetaParams, task: Task) -> tuple[list[Params], Judged]:
        def gather(theta: Params, key: Key) -> Any:
            return gathered(search, environment, policy, theta, task, key, rollouts)

        supports = collected_path(learner, params, gather, path_key, updates).supports
        path = path_on(learner, params, supports)
        last = gather(path[-1], last_key).trajectories
        seen = [jax.tree.map(lambda leaf, number=number: leaf[number], supports.trajectories) for number in range(updates)]
        return path, Judged(*(jnp.stack([of(each) for each in (*seen, last)]) for of in (_mean_return, steps_taken)))

    path, judged = jax.device_get(program(params, task))
    return AdaptedTo(task, path, judged, ())


def unseen_task(problem: PolicyProblem, key: Key) -> Task:
    """A task that is held out from training, where the family has such; else one more that is drawn."""
    environment = problem.environment
    if isinstance(environment, Simulation):
        return environment.drawn(generator_of(key), 1, unseen=True)[0]
    return environment.sample_task(key)


def _mean_return(trajectories: Any) -> jax.Array:
    return jnp.mean(returns(trajectories))
