"""A policy that sees observations by their own mean and deviation, which it has counted (floor 1). Used by fewstep/rl.

What was counted is in θ, under `SEEN`, so that it is saved and adapted parameters carry it along; but it is data: no gradient
reaches it, and nothing but `having_seen`, between two meta-steps, changes it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fewstep.nn.policies import Policy
from fewstep.types import Key, Params

SEEN = "seen"
FAR = 10.0
"""normalized observations are cut at so many deviations"""
REMEMBERED = 1e6
"""observations: of more, the oldest are forgotten by and by"""
LEAST_DEVIATION = 1e-3


class Seen(NamedTuple):
    """What observations were like."""

    count: jax.Array
    """float32 scalar, at most `REMEMBERED`"""
    mean: jax.Array
    """[observed]"""
    variance: jax.Array
    """[observed]"""


def normalizing(policy: Policy, observed: int) -> Policy:
    """`policy`, whose parameters are a dict, on normalized observations. Before anything was seen it takes them as they are."""

    def init(key: Key) -> Params:
        seen = Seen(jnp.zeros(()), jnp.zeros(observed), jnp.ones(observed))
        return {**policy.init(key), SEEN: seen._asdict()}

    def distribution(params: Params, observations: jax.Array) -> Any:
        seen = Seen(**jax.lax.stop_gradient(params[SEEN]))
        scale = jnp.maximum(jnp.sqrt(seen.variance), LEAST_DEVIATION)
        wide = (1,) * (observations.ndim - 1) + (observed,)
        near = (observations - seen.mean.reshape(wide)) / scale.reshape(wide)
        return policy.distribution({name: params[name] for name in params if name != SEEN}, jnp.clip(near, -FAR, FAR))

    return policy._replace(init=init, distribution=distribution)


def having_seen(theta: Params, observations: jax.Array, weight: jax.Array) -> Params:
    """θ that has counted `observations` [..., observed] too, those of `weight` [...] 1; without `SEEN`, as it was.

    Means and variances are merged as in Chan, Golub & LeVeque 1983 (The American Statistician 37(3)).
    """
    if not (isinstance(theta, dict) and SEEN in theta):
        return theta
    seen = Seen(**theta[SEEN])
    rows, weight = observations.reshape(-1, observations.shape[-1]), weight.reshape(-1)
    count = jnp.maximum(jnp.sum(weight), 1e-8)
    mean = weight @ rows / count
    variance = weight @ (rows - mean[None]) ** 2 / count
    total = seen.count + count
    apart = mean - seen.mean
    merged = Seen(
        jnp.minimum(total, REMEMBERED),
        seen.mean + apart * count / total,
        (seen.variance * seen.count + variance * count + apart**2 * seen.count * count / total) / total,
    )
    return {**theta, SEEN: merged._asdict()}
