"""The inner loop on trajectories: each adaptation step uses trajectories that were collected for it.

`collected_path` acts: it collects with θ, adapts, collects with θ′, and so on. `path_on` adapts again on stored trajectories,
as a function of θ that can be differentiated and evaluated at another θ by a line search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fewstep.apps.policies.networks import Policy
from fewstep.apps.policies.surrogates import Surrogate
from fewstep.apps.policies.trajectories import Scored
from fewstep.core.maml import Learner
from fewstep.core.types import Key, MetaParams, Params

Collect = Callable[[Params, Key], Scored]
"""`(policy parameters, key) -> fresh trajectories` of one task, scored"""


class CollectedPath(NamedTuple):
    """What one task's inner loop went through."""

    adapted: Params
    """θ′, after the last adaptation step"""
    supports: Scored
    """leaves [steps, rollouts, ...]: of each adaptation step the trajectories that it used"""


def policy_learner(policy: Policy, surrogate: Surrogate, inner_optimizer, adaptation_steps: int = 1) -> Learner:
    """The `Learner` of a policy: its batches are `Scored` trajectories of one task."""

    def loss(params: Params, batch: Scored, key: Key) -> jax.Array:
        del key
        return surrogate(policy, params, batch.trajectories, batch.advantages)

    return Learner(loss, inner_optimizer, adaptation_steps)


def slower_after_first(learner: Learner, times: float = 0.5) -> Learner:
    """The same learner, whose updates after the first are so many times as large: as Finn et al. 2017 evaluate, section 5.3."""

    def inner_optimizer(inner) -> optax.GradientTransformation:
        slower = optax.scale_by_schedule(lambda count: jnp.where(count == 0, 1.0, times))
        return optax.chain(learner.optimizer(inner), slower)

    return replace(learner, inner_optimizer=inner_optimizer)


def collected_path(learner: Learner, params: MetaParams, collect: Collect, key: Key, steps: int | None = None) -> CollectedPath:
    """Collects and adapts by turns, for `steps` adaptation steps or the learner's K; at least one."""

    def support(adapted: Params, key: Key) -> Scored:
        return collect(adapted, key)

    steps = learner.adaptation_steps if steps is None else steps
    optimizer = learner.optimizer(params.inner)
    state = params.theta, optimizer.init(params.theta)
    used = []
    # A Python loop: there are few steps, and in the first all tasks share θ, which a scan would forget.
    for step_key in jax.random.split(key, steps):
        collect_key, adapt_key = jax.random.split(step_key)
        used.append(support(state[0], collect_key))
        state = learner.adaptation_step(learner, optimizer, state, used[-1], adapt_key)
    return CollectedPath(state[0], jax.tree.map(lambda *leaves: jnp.stack(leaves), *used))


def path_on(learner: Learner, params: MetaParams, supports: Scored) -> list[Params]:
    """[θ, θ′, …]: adapts on stored trajectories, one adaptation step on each of `supports` [steps, rollouts, ...].

    At the θ that collected them this is the path that was collected. Differentiable.
    """
    optimizer = learner.optimizer(params.inner)
    path, state = [params.theta], (params.theta, optimizer.init(params.theta))
    for number in range(len(supports.advantages)):
        support = jax.tree.map(lambda leaf, number=number: leaf[number], supports)
        state = learner.adaptation_step(learner, optimizer, state, support, jax.random.key(0))  # the loss draws nothing
        path.append(state[0])
    return path


def adapted_on(learner: Learner, params: MetaParams, supports: Scored) -> Params:
    """θ′, the last point of `path_on`."""
    return path_on(learner, params, supports)[-1]
