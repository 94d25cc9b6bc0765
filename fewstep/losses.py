"""Losses and metrics over the weighted `Examples` of one task (floor 1). A model comes in as `apply(params, inputs)`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fewstep.types import Examples, Key, Loss, Metric, Params

Apply = Callable[[Params, jax.Array], jax.Array]


def squared_error(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """(ŷ − y)² of one example, averaged over its outputs."""
    return jnp.mean(jnp.square(prediction - target))


def weighted_mean(values: jax.Array, weight: jax.Array) -> jax.Array:
    """Σ w v / Σ w over [examples]; 0 where no example counts, so that an empty set gives no NaN."""
    return jnp.sum(values * weight) / jnp.maximum(jnp.sum(weight), 1e-12)


def mean_squared_error(apply: Apply) -> Loss:
    """The loss `L(params, examples, key)`: mean squared error of `apply` over the examples that count."""

    def loss(params: Params, examples: Examples, key: Key) -> jax.Array:
        del key
        errors = jax.vmap(squared_error)(apply(params, examples.inputs), examples.targets)
        return weighted_mean(errors, examples.weight)

    return loss


def mean_squared_error_metric(apply: Apply, unit: float | jax.Array = 1.0) -> Metric:
    """Mean squared error in the target's own units: `unit` is the size of one standardized target unit."""

    def metric(params: Params, examples: Examples) -> jax.Array:
        errors = jax.vmap(squared_error)(apply(params, examples.inputs) * unit, examples.targets * unit)
        return weighted_mean(errors, examples.weight)

    return metric
