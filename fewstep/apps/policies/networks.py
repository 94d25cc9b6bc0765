"""Policies: distributions over actions, given observations by a network.

A `Policy` is a value of pure functions over a *distribution*, a NamedTuple of its parameters; all functions take leading axes.
`policy_for` chooses the one that fits an action space.

`normalize_observations` standardizes observations by running statistics, which are stored in θ under `STATISTICS`: they are
saved, and adapted parameters keep them. No gradient reaches them; only `update_statistics` changes them, between meta-steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fewstep.core.types import Key, Network, Params
from fewstep.nn.mlp import mlp

HIDDEN = (64, 64)
LAST_LAYER = 0.01
"""The last kernel starts so many times smaller: at first a policy must not prefer anything."""
LEAST_ACTION_DEVIATION = 1e-6
"""as in the code of Finn et al. 2017"""


class Policy(NamedTuple):
    """How actions are drawn from observations, and how likely they are."""

    init: Callable[[Key], Params]
    """`init(key) -> params`"""
    distribution: Callable[[Params, jax.Array], Any]
    """`distribution(params, observations [..., observation_size]) -> distribution`, whose leaves are [..., numbers]"""
    sample: Callable[[Any, Key], jax.Array]
    """`sample(distribution, key) -> actions`, [..., actions], or integers [...] from a `categorical` one"""
    mode: Callable[[Any], jax.Array]
    """`mode(distribution) -> actions`: the likeliest ones"""
    log_probability: Callable[[Any, jax.Array], jax.Array]
    """`log_probability(distribution, actions) -> [...]`, of whole actions: summed over their numbers"""
    kl: Callable[[Any, Any], jax.Array]
    """`kl(p, q) -> [...]`, the Kullback–Leibler divergence KL(p ‖ q)"""
    entropy: Callable[[Any], jax.Array]
    """`entropy(distribution) -> [...]`"""


class Gaussian(NamedTuple):
    """Independent normal distributions of an action's numbers."""

    mean: jax.Array
    """[..., actions]"""
    log_deviation: jax.Array
    """[..., actions]"""


class Categorical(NamedTuple):
    """A choice among actions."""

    logits: jax.Array
    """[..., actions], not normalized"""


def policy_for(
    observation_size: int, action_size: int, discrete: bool = False, hidden: Sequence[int] = HIDDEN, **settings: Any
) -> Policy:
    """The policy that fits an action space: `categorical` where it is discrete, else `gaussian`."""
    return (categorical if discrete else gaussian)(observation_size, action_size, hidden, **settings)


def gaussian(
    observation_size: int,
    action_size: int,
    hidden: Sequence[int] = HIDDEN,
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh,
    deviation: float = 1.0,
    least_deviation: float = LEAST_ACTION_DEVIATION,
) -> Policy:
    """The mean is made by a network; the deviations are parameters of their own, the same everywhere, never below the least.

    `params` are {"mean": of the network, "log_deviation": [actions]}.
    """
    network = _network(observation_size, action_size, hidden, activation)

    def init(key: Key) -> Params:
        return {"mean": network.init(key), "log_deviation": jnp.full(action_size, math.log(deviation), float)}

    def distribution(params: Params, observations: jax.Array) -> Gaussian:
        mean = network.apply(params["mean"], observations)
        log_deviation = jnp.maximum(params["log_deviation"], math.log(least_deviation))
        return Gaussian(mean, jnp.broadcast_to(log_deviation, mean.shape))

    def sample(drawn: Gaussian, key: Key) -> jax.Array:
        return drawn.mean + jnp.exp(drawn.log_deviation) * jax.random.normal(key, drawn.mean.shape, drawn.mean.dtype)

    def log_probability(drawn: Gaussian, actions: jax.Array) -> jax.Array:
        score = (actions - drawn.mean) * jnp.exp(-drawn.log_deviation)
        # Summed, not averaged: the density of an action is the product over its numbers (learn2learn's mean is not one).
        return -jnp.sum(0.5 * score**2 + drawn.log_deviation + 0.5 * math.log(2 * math.pi), axis=-1)

    def kl(p: Gaussian, q: Gaussian) -> jax.Array:
        squares = jnp.exp(2 * p.log_deviation) + (p.mean - q.mean) ** 2
        return jnp.sum(q.log_deviation - p.log_deviation + 0.5 * squares * jnp.exp(-2 * q.log_deviation) - 0.5, axis=-1)

    def entropy(drawn: Gaussian) -> jax.Array:
        return jnp.sum(drawn.log_deviation + 0.5 * math.log(2 * math.pi * math.e), axis=-1)

    return Policy(init, distribution, sample, lambda drawn: drawn.mean, log_probability, kl, entropy)


def categorical(
    observation_size: int,
    action_size: int,
    hidden: Sequence[int] = HIDDEN,
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh,
) -> Policy:
    """The network makes one logit for each action; `params` are those of the network."""
    network = _network(observation_size, action_size, hidden, activation)

    def distribution(params: Params, observations: jax.Array) -> Categorical:
        return Categorical(network.apply(params, observations))

    return categorical_of(network.init, distribution)


def categorical_of(init: Callable[[Key], Params], distribution: Callable[[Params, jax.Array], Categorical]) -> Policy:
    """A policy over a discrete set of actions whose logits come from anywhere: a network, a table."""

    def log_probability(drawn: Categorical, actions: jax.Array) -> jax.Array:
        return jnp.take_along_axis(jax.nn.log_softmax(drawn.logits), actions[..., None], axis=-1)[..., 0]

    def kl(p: Categorical, q: Categorical) -> jax.Array:
        log_p, log_q = jax.nn.log_softmax(p.logits), jax.nn.log_softmax(q.logits)
        return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)

    def entropy(drawn: Categorical) -> jax.Array:
        log_p = jax.nn.log_softmax(drawn.logits)
        return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)

    return Policy(
        init,
        distribution,
        sample=lambda drawn, key: jax.random.categorical(key, drawn.logits),
        mode=lambda drawn: jnp.argmax(drawn.logits, axis=-1),
        log_probability=log_probability,
        kl=kl,
        entropy=entropy,
    )


def _network(
    observation_size: int, outputs: int, hidden: Sequence[int], activation: Callable[[jax.Array], jax.Array]
) -> Network:
    network = mlp((observation_size, *hidden, outputs), activation)

    def init(key: Key) -> Params:
        params = network.init(key)
        last = params["layers"][len(hidden)]
        last["kernel"] = LAST_LAYER * last["kernel"]
        return params

    def apply(params: Params, observations: jax.Array) -> jax.Array:
        # One axis of examples, for whatever axes there are: with two, XLA transposes every layer's activations on the way back,
        # and the gradient takes three times as long.
        rows = network.apply(params, observations.reshape(-1, observation_size))
        return rows.reshape(*observations.shape[:-1], outputs)

    return Network(init, apply)


STATISTICS = "seen"
FAR = 10.0
"""normalized observations are cut at so many deviations"""
MAX_COUNT = 1e6
"""observations: of more, the oldest are forgotten by and by"""
LEAST_DEVIATION = 1e-3


class ObservationStatistics(NamedTuple):
    """What observations were like."""

    count: jax.Array
    """float32 scalar, at most `MAX_COUNT`"""
    mean: jax.Array
    """[observed]"""
    variance: jax.Array
    """[observed]"""


def normalize_observations(policy: Policy, observation_size: int) -> Policy:
    """`policy`, whose parameters are a dict, on normalized observations. Before anything was seen it takes them as they are."""

    def init(key: Key) -> Params:
        seen = ObservationStatistics(jnp.zeros(()), jnp.zeros(observation_size), jnp.ones(observation_size))
        return {**policy.init(key), STATISTICS: seen._asdict()}

    def distribution(params: Params, observations: jax.Array) -> Any:
        seen = ObservationStatistics(**jax.lax.stop_gradient(params[STATISTICS]))
        scale = jnp.maximum(jnp.sqrt(seen.variance), LEAST_DEVIATION)
        wide = (1,) * (observations.ndim - 1) + (observation_size,)
        near = (observations - seen.mean.reshape(wide)) / scale.reshape(wide)
        return policy.distribution({name: params[name] for name in params if name != STATISTICS}, jnp.clip(near, -FAR, FAR))

    return policy._replace(init=init, distribution=distribution)


def update_statistics(theta: Params, observations: jax.Array, weight: jax.Array) -> Params:
    """θ that has counted `observations` [..., observed] too, those of `weight` [...] 1; without `STATISTICS`, as it was.

    Means and variances are merged as in Chan, Golub & LeVeque 1983 (The American Statistician 37(3)).
    """
    if not (isinstance(theta, dict) and STATISTICS in theta):
        return theta
    seen = ObservationStatistics(**theta[STATISTICS])
    rows, weight = observations.reshape(-1, observations.shape[-1]), weight.reshape(-1)
    count = jnp.maximum(jnp.sum(weight), 1e-8)
    mean = weight @ rows / count
    variance = weight @ (rows - mean[None]) ** 2 / count
    total = seen.count + count
    apart = mean - seen.mean
    merged = ObservationStatistics(
        jnp.minimum(total, MAX_COUNT),
        seen.mean + apart * count / total,
        (seen.variance * seen.count + variance * count + apart**2 * seen.count * count / total) / total,
    )
    return {**theta, STATISTICS: merged._asdict()}
