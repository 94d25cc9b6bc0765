"""One meta-step of reinforcement learning in one compiled program: Algorithm 3 of Finn et al. 2017.

    sample tasks                                      line 3
    collect support trajectories with θ, adapt        lines 5-7
    collect query trajectories with θ′                line 8
    one outer step: `TrustRegion` or `ProximalPolicy` line 10

All randomness depends only on (key, number of the meta-step, number of the task).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fewstep.apps.policies.adaptation import collected_path, policy_learner, slower_after_first
from fewstep.apps.policies.advantages import scored
from fewstep.apps.policies.environment import Environment, Task
from fewstep.apps.policies.networks import STATISTICS, Policy
from fewstep.apps.policies.ppo import ProximalPolicy, proximal_policy_step
from fewstep.apps.policies.surrogates import INNER
from fewstep.apps.policies.trajectories import PolicyReturns, Scored, collect, returns, steps_taken
from fewstep.apps.policies.trpo import StepTaken, TrustRegion, trust_region_step
from fewstep.core.maml import InnerOptimizer, Learner, MetaState
from fewstep.core.types import Key, MetaParams, Params


@dataclass(frozen=True)
class PolicySearch:
    """Settings of meta-learning a policy."""

    tasks: int = 20
    """in a meta-batch"""
    rollouts: int = 20
    """trajectories of a task for each adaptation step, and as many queries"""
    adaptation_steps: int = 1
    """K"""
    inner_rate: float = 0.1
    """α; of no use where there is an `inner_optimizer`"""
    inner_optimizer: InnerOptimizer | None = None
    """plain gradient descent unless another one is given; it may use what was learned in `MetaParams.inner`"""
    estimator: str = "likelihood_ratio"
    """the inner loss: a name in `surrogates.INNER`"""
    discount: float = 0.99
    """γ"""
    trace: float = 1.0
    """λ of generalized advantage estimation"""
    bootstrap: bool = False
    """whether trajectories that are cut off at the horizon are worth more than was seen of them"""
    outer: TrustRegion | ProximalPolicy = field(default_factory=TrustRegion)
    """the outer step"""

    def learner(self, policy: Policy, later_rate: float = 1.0) -> Learner:
        """The inner loop; `later_rate` shortens the updates after the first."""
        optimizer = optax.sgd(self.inner_rate) if self.inner_optimizer is None else self.inner_optimizer
        learner = policy_learner(policy, INNER[self.estimator], optimizer, self.adaptation_steps)
        return learner if later_rate == 1 else slower_after_first(learner, later_rate)


class MetaStepInfo(NamedTuple):
    """What a meta-step saw and did."""

    returns: jax.Array
    """[adaptation steps + 1]: mean return of θ, of θ′, …, each on the trajectories it drew itself"""
    environment_steps: jax.Array
    """int32 scalar: steps taken in all"""
    outer: StepTaken
    """how the outer step went"""
    dropped: tuple[str, ...] = ()
    """of a simulator: which trajectories broke, where and why"""


def collect_scored(
    search: PolicySearch, environment: Environment, policy: Policy, params: Params, task: Task, key: Key, rollouts: int
) -> Scored:
    """Fresh trajectories of one task, scored."""
    trajectories = collect(environment, policy, params, task, key, rollouts)
    return scored(trajectories, search.discount, search.trace, bootstrap=search.bootstrap)


def support_and_query(
    search: PolicySearch, environment: Environment, policy: Policy, params: MetaParams, key: Key
) -> tuple[Scored, Scored]:
    """(supports [steps, rollouts, ...], query [rollouts, ...]) of one task, drawn by `key`."""
    task_key, adapt_key, query_key = jax.random.split(key, 3)
    task = environment.sample_task(task_key)

    def collect_with(params: Params, key: Key) -> Scored:
        return collect_scored(search, environment, policy, params, task, key, search.rollouts)

    path = collected_path(search.learner(policy), params, collect_with, adapt_key)
    return path.supports, collect_with(path.adapted, query_key)


def policy_meta_step(
    search: PolicySearch, environment: Environment, policy: Policy, state: MetaState, key: Key, mesh: Mesh | None = None
) -> tuple[MetaState, MetaStepInfo]:
    """One meta-step; `key` is that of the whole run. Pure: `jax.jit` it with all but `state` and `key` fixed.

    Over the devices of a `mesh` of one axis, tasks are split; the state that is given and returned is on all of them.
    """
    step_key = jax.random.fold_in(key, state.step)

    def collected(numbers: jax.Array, params: MetaParams, key: Key) -> tuple[Scored, Scored]:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
        return jax.vmap(lambda key: support_and_query(search, environment, policy, params, key))(keys)

    if mesh is None:
        supports, queries = collected(jnp.arange(search.tasks), state.params, step_key)
    else:
        each, everywhere = PartitionSpec(mesh.axis_names[0]), PartitionSpec()
        split = jax.shard_map(collected, mesh=mesh, in_specs=(each, everywhere, everywhere), out_specs=each, check_vma=False)
        numbers = jnp.arange(-(-search.tasks // mesh.size) * mesh.size)  # where devices do not divide the tasks, fillers follow
        found = split(numbers, state.params, step_key)
        supports, queries = jax.tree.map(lambda leaf: leaf[: search.tasks], found)
    state, taken = outer_step(search, policy, state, supports, queries)
    by_step = jnp.concatenate([jnp.mean(returns(supports.trajectories), (0, 2)), jnp.mean(returns(queries.trajectories))[None]])
    number = steps_taken(supports.trajectories) + steps_taken(queries.trajectories)
    result = state, MetaStepInfo(by_step, number.astype(jnp.int32), taken)
    return result if mesh is None else jax.lax.with_sharding_constraint(result, NamedSharding(mesh, PartitionSpec()))


def scale_step(before: MetaState, after: MetaState, factor: Any) -> MetaState:
    """`after`, but its parameters moved only `factor` times as far; what was counted of observations stays counted."""
    theta, inner = jax.tree.map(lambda old, new: old + factor * (new - old), before.params, after.params)
    if isinstance(theta, dict) and STATISTICS in theta:
        theta = {**theta, STATISTICS: after.params.theta[STATISTICS]}
    return after._replace(params=MetaParams(theta, inner))


def outer_step(
    search: PolicySearch, policy: Policy, state: MetaState, supports: Scored, queries: Scored
) -> tuple[MetaState, StepTaken]:
    """One outer step. Leaves of `supports` are [tasks, steps, rollouts, ...], of `queries` [tasks, rollouts, ...]. Pure."""
    step: Any = trust_region_step if isinstance(search.outer, TrustRegion) else proximal_policy_step
    return step(search.outer, search.learner(policy), policy, state, supports, queries)


def evaluate_policy(
    search: PolicySearch,
    environment: Environment,
    policy: Policy,
    params: MetaParams,
    task: Task,
    key: Key,
    steps: int = 3,
    rollouts: int = 40,
    later_rate: float = 0.5,
) -> PolicyReturns:
    """What policies bring in one task after 0, 1, … adaptation steps, each on fresh trajectories: leaves [steps + 1]."""

    def collect_with(params: Params, key: Key) -> Scored:
        return collect_scored(search, environment, policy, params, task, key, rollouts)

    path_key, last_key = jax.random.split(key)
    path = collected_path(search.learner(policy, later_rate), params, collect_with, path_key, steps)
    last = collect_with(path.adapted, last_key).trajectories
    before = path.supports.trajectories
    returned = jnp.concatenate([jnp.mean(returns(before), 1), jnp.mean(returns(last))[None]])
    return PolicyReturns(returned, jnp.concatenate([jax.vmap(steps_taken)(before), steps_taken(last)[None]]))
