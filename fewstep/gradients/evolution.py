"""Evolution strategies (ES-MAML: Song et al. 2020, arXiv 1910.01215): the meta-gradient from values of the objective alone.
A value for `Learner.task_gradient`.

Smoothed by a normal of deviation σ, any objective has a gradient, ∇ E[F(θ + σ ε)] = E[(F(θ + σ ε) − F(θ − σ ε)) ε] / 2 σ
with ε ~ N(0, 1): directions in pairs, which cancel all even parts of F (Salimans et al. 2017, arXiv 1703.03864)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fewstep.core.maml import Learner, TaskGradient
from fewstep.core.types import Episode, Key, MetaParams
from fewstep.core.varying import of_one_task
from fewstep.errors import InputError

NOISE = 0x65766F6C
"""folded into a task's key for the directions: far from the small numbers that an objective may split or fold the key by"""


def evolution(deviation: float, directions: int) -> TaskGradient:
    """(objective at the parameters themselves, Σ (F(θ + σ ε) − F(θ − σ ε)) ε / 2 σ n) over n random `directions` of all
    meta-parameters, with F the learner's objective, adaptation included, and σ the `deviation`.

    Nothing is differentiated but the loss in each adaptation step, so that F may have steps and corners. It costs 2 n + 1
    adaptations, one after the other, in the memory of one. For a smooth F of p parameters its relative error is about
    √(p / n), over the root of the number of tasks: many directions for large models. A `deviation` is in the units of the
    parameters: small beside them, but as wide as the steps of F; in float32 rounding drowns what is much narrower than 1e-2.
    """
    if not deviation > 0:
        raise InputError(f"expected a positive deviation of the parameters, got {deviation}")
    if directions < 1:
        raise InputError(f"expected at least one direction, got {directions}")

    def gradient(
        learner: Learner, params: MetaParams, episode: Episode, key: Key, step: jax.Array
    ) -> tuple[jax.Array, MetaParams]:
        params = of_one_task(learner, params, episode, key)

        def value(params: MetaParams) -> jax.Array:
            # The same key on all sides, so that what the objective draws makes no difference between them.
            return learner.objective(learner, params, episode, key, step)

        def add(total: MetaParams, key: Key) -> tuple[MetaParams, None]:
            noise = noise_like(params, key)
            up, down = jax.lax.map(lambda size: value(moved(params, size, noise)), jnp.asarray([deviation, -deviation]))
            return moved(total, (up - down) / (2 * deviation * directions), noise), None

        keys = jax.random.split(jax.random.fold_in(key, NOISE), directions)
        return value(params), jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), keys)[0]

    return gradient


def noise_like(params: MetaParams, key: Key) -> MetaParams:
    """Independent standard normal numbers in place of all parameters."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        structure, [jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)]
    )


def moved(params: MetaParams, size: jax.Array, direction: MetaParams) -> MetaParams:
    """`params` + `size` · `direction`, in the types of the parameters."""
    return jax.tree.map(lambda leaf, along: leaf + size.astype(leaf.dtype) * along, params, direction)
