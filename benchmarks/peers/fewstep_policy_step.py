"""fewstep's meta-gradient and outer step on trajectories that came from elsewhere: what policy_speed.py compares PyTorch's with."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.maml import MetaState
from fewstep.rl.adaptation import adapted_on
from fewstep.rl.advantages import scored
from fewstep.rl.meta_step import outer_step
from fewstep.rl.problem import PolicyProblem
from fewstep.rl.surrogates import ratio_of
from fewstep.rl.trajectories import Trajectories
from fewstep.rl.trust_region import divergence_product
from fewstep.types import MetaParams


def outer_step_of(problem: PolicyProblem, weights: list[np.ndarray], support: Any, query: Any, vector: np.ndarray) -> dict:
    """What follows from `weights`, in PyTorch's order, and two `Seen` of one adaptation step; parameters are raveled so too.

    Actions, observations and rewards alone are taken from these: what the policies' distributions were is computed anew.
    """
    search, policy = problem.search, problem.policy
    learner = search.learner(policy)
    order = [weight.shape for weight in weights]
    ends = np.cumsum([weight.size for weight in weights])[:-1]

    def theta_of(flat: Any) -> Any:
        *layers, log_deviation = (part.reshape(shape) for part, shape in zip(jnp.split(flat, ends), order, strict=True))
        kernels, biases = layers[::2], layers[1::2]
        named = {number: {"kernel": k, "bias": b} for number, (k, b) in enumerate(zip(kernels, biases, strict=True))}
        return {"mean": {"layers": named}, "log_deviation": log_deviation}

    def raveled(theta: Any) -> jax.Array:
        layers = theta["mean"]["layers"]
        leaves = [layers[number][part] for number in sorted(layers) for part in ("kernel", "bias")]
        return jnp.concatenate([leaf.ravel() for leaf in (*leaves, theta["log_deviation"])])

    def trajectories(theta: Any, seen: Any) -> Trajectories:
        distribution = policy.distribution(theta, seen["observations"])
        return Trajectories(
            seen["observations"], seen["actions"], seen["rewards"], policy.log_probability(distribution, seen["actions"]),
            distribution, seen["weight"], seen["terminated"], seen["observations"][:, -1],
        )  # fmt: skip

    names = "observations", "actions", "rewards", "weight", "terminated"
    support, query = ({name: jnp.asarray(getattr(seen, name).numpy()) for name in names} for seen in (support, query))
    params = MetaParams(theta_of(np.concatenate([weight.ravel() for weight in weights])))
    score = partial(scored, discount=search.discount, trace=search.trace)

    def of_one_task(support: Any, query: Any) -> Any:
        supports = jax.tree.map(lambda leaf: leaf[None], score(trajectories(params.theta, support)))
        return supports, score(trajectories(adapted_on(learner, params, supports), query))

    supports, queries = jax.vmap(of_one_task)(support, query)

    def meta_loss(flat: jax.Array) -> jax.Array:
        def one(supports: Any, query: Any) -> jax.Array:
            adapted = adapted_on(learner, MetaParams(theta_of(flat)), supports)
            distribution = policy.distribution(adapted, query.trajectories.observations)
            return ratio_of(policy, distribution, query.trajectories, query.advantages)

        return jnp.mean(jax.vmap(one)(supports, queries))

    product = divergence_product(learner, policy, params, supports, queries)
    into, back = jax.flatten_util.ravel_pytree(params)  # fewstep's own order of a raveled θ
    state, taken = outer_step(search, policy, MetaState(params, (), jnp.zeros((), jnp.int32)), supports, queries)
    found = {
        "advantages": queries.advantages.reshape(len(queries.advantages), -1),
        "meta-gradient": jax.grad(meta_loss)(raveled(params.theta)),
        "product with the Hessian": raveled(
            back(product(jax.flatten_util.ravel_pytree(MetaParams(theta_of(vector)))[0].astype(into.dtype))).theta
        ),
        "outer step": raveled(state.params.theta) - raveled(params.theta),
        "lengths tried": taken.tries,
    }
    return {name: np.asarray(value) for name, value in found.items()}
