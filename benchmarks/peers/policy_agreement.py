"""Whether PyTorch computes what fewstep computes, on the same trajectories, in float64. Used by speed/policies.py."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.flatten_util import ravel_pytree

from benchmarks.peers import torch_maml_trpo as peer
from benchmarks.peers import torch_trajectories
from benchmarks.peers.policy_programs import environment_of, in_order, problem_of, settings_of, simulation_of, weights_of
from benchmarks.peers.torch_trajectories import Seen, Weights
from fewstep.apps.policies.adaptation import adapted_on
from fewstep.apps.policies.advantages import scored
from fewstep.apps.policies.meta_step import outer_step
from fewstep.apps.policies.model import PolicyProblem
from fewstep.apps.policies.surrogates import ratio_of
from fewstep.apps.policies.trajectories import Trajectories
from fewstep.apps.policies.trpo import divergence_product
from fewstep.cli.arguments import prepare_jax
from fewstep.core.maml import MetaState
from fewstep.core.types import MetaParams

TASKS, ROLLOUTS = 4, 6
"""enough to differ by"""


def deviations_of(name: str) -> dict[str, float]:
    """Largest deviations from fewstep, relative to the largest entry: what PyTorch computes, and environments written twice."""
    prepare_jax()
    jax.config.update("jax_enable_x64", True)
    torch.manual_seed(1)
    problem, simulation, random = problem_of(name), simulation_of(name), np.random.default_rng(1)
    settings = settings_of(problem)._replace(tasks=TASKS, rollouts=ROLLOUTS)
    score = partial(torch_trajectories.scored, discount=settings.discount, trace=settings.trace)
    # Away from the first weights: there the last layer hardly does anything.
    theta = [leaf.double() + 0.1 * torch.randn_like(leaf.double()) for leaf in weights_of(problem)]
    vector = torch.randn_like(peer.raveled(theta))
    tasks = simulation.sample_tasks(random, TASKS)
    first = torch_trajectories.collected(simulation, theta, tasks, ROLLOUTS, random)
    adapted = peer.detached(peer.adapted(theta, [score(first)], settings.inner_rate, False))
    last = torch_trajectories.collected(simulation, adapted, tasks, ROLLOUTS, random)
    expected = by_fewstep(problem, theta, first, last, vector)
    found = {}
    for by_task in (False, True):
        support, query = score(first), score(last)
        _, gradient, product = peer.meta_gradient(theta, [support], query, settings, by_task)
        after, tries = peer.outer_step(theta, [support], query, settings, by_task)
        parts = {
            "advantages": query.advantages,
            "meta-gradient": gradient,
            "product with the Hessian": product(vector),
            "outer step": peer.raveled(after) - peer.raveled(theta),
            "lengths tried": torch.tensor(tries),
        }
        way = "one by one" if by_task else "in batches"
        found |= {f"{part}, {way}": relative(value.numpy(), expected[part]) for part, value in parts.items()}
    if name == "nav2d":
        found["environments, JAX and NumPy"] = navigation_differs(tasks[0], random)
    return found | {"environments, batched and single": environments_differ(name, tasks[0], random)}


def by_fewstep(problem: PolicyProblem, theta: Weights, first: Seen, last: Seen, vector: torch.Tensor) -> dict[str, np.ndarray]:
    """fewstep's numbers; parameters are raveled in PyTorch's order.

    Observations, actions and rewards are taken from what PyTorch saw; the distributions of both policies are computed anew.
    """
    search, policy, learner = problem.search, problem.policy, problem.search.learner(problem.policy)
    score = partial(scored, discount=search.discount, trace=search.trace)
    params = params_of(peer.raveled(theta).numpy(), theta)

    def trajectories(theta: Any, seen: dict[str, jax.Array]) -> Trajectories:
        distribution = policy.distribution(theta, seen["observations"])
        probability = policy.log_probability(distribution, seen["actions"])
        return Trajectories(
            log_probability=probability, distribution=distribution, last_observation=seen["observations"][:, -1], **seen
        )

    def of_one_task(first: dict[str, jax.Array], last: dict[str, jax.Array]) -> Any:
        supports = jax.tree.map(lambda leaf: leaf[None], score(trajectories(params.theta, first)))
        return supports, score(trajectories(adapted_on(learner, params, supports), last))

    def meta_loss(params: MetaParams) -> jax.Array:
        def of_one_task(supports: Any, query: Any) -> jax.Array:
            distribution = policy.distribution(adapted_on(learner, params, supports), query.trajectories.observations)
            return ratio_of(policy, distribution, query.trajectories, query.advantages)

        return jnp.mean(jax.vmap(of_one_task)(supports, queries))

    names = "observations", "actions", "rewards", "weight", "terminated"
    supports, queries = jax.vmap(of_one_task)(
        *({name: jnp.asarray(getattr(seen, name).numpy()) for name in names} for seen in (first, last))
    )
    product = divergence_product(learner, policy, params, supports, queries)
    along, back = ravel_pytree(params_of(vector.numpy(), theta))
    state, taken = outer_step(search, policy, MetaState(params, (), jnp.zeros((), jnp.int32)), supports, queries)
    return {
        "advantages": np.reshape(queries.advantages, (len(queries.advantages), -1)),
        "meta-gradient": raveled(jax.grad(meta_loss)(params)),
        "product with the Hessian": raveled(back(product(along))),
        "outer step": raveled(state.params) - raveled(params),
        "lengths tried": np.asarray(taken.tries),
    }


def params_of(flat: np.ndarray, like: Weights) -> MetaParams:
    """fewstep's θ from PyTorch's, raveled."""
    *layers, log_deviation = (jnp.asarray(part.numpy()) for part in peer.as_weights(torch.from_numpy(flat), like))
    named = {number: {"kernel": layers[2 * number], "bias": layers[2 * number + 1]} for number in range(len(layers) // 2)}
    return MetaParams({"mean": {"layers": named}, "log_deviation": log_deviation})


def raveled(params: MetaParams) -> np.ndarray:
    """PyTorch's raveled θ from fewstep's."""
    return np.concatenate([np.ravel(leaf) for leaf in in_order(params.theta)])


def environments_differ(name: str, task: Any, random: np.random.Generator) -> float:
    """Between the batched environment and one of Gymnasium's, from the same seed under the same actions."""
    batched, single = simulation_of(name), environment_of(name)
    single.set_task(task)
    seen = [(batched.begin([task], [3]).observations[0], single.reset(seed=3)[0], 0.0, 0.0)]
    for _ in range(10):  # half a second: a robot that touches the ground soon makes much of a rounding
        action = random.standard_normal((1, batched.actions)).astype(np.float32)
        one = batched.step(action, np.ones(1, bool))
        observation, reward, *_ = single.step(action[0])
        seen.append((one.observations[0], observation, one.rewards[0], reward))
    first, second, paid, paid_too = (np.stack(part) for part in zip(*seen, strict=True))
    return max(relative(first, second), relative(paid, paid_too))


def navigation_differs(task: np.ndarray, random: np.random.Generator) -> float:
    """Between fewstep's environment in JAX and the one in NumPy, likewise."""
    environment, batched, seen = problem_of("nav2d").environment, simulation_of("nav2d"), []
    state = batched.begin([task], [0]).observations[0]
    for action in random.standard_normal((batched.horizon, 2)):
        state, reward, ended = environment.step(state, action, task, jax.random.key(0))
        found = batched.step(action[None], np.ones(1, bool))
        seen.append(([*state, reward, ended], [*found.observations[0], found.rewards[0], found.terminated[0]]))
    first, second = np.array(seen, float).swapaxes(0, 1)
    return relative(second, first)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference over the largest expected entry; infinite where the shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))
