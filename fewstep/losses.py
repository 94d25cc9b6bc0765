"""Losses and metrics over the weighted `Examples` of one task (floor 1). A model comes in as `apply(params, inputs)`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fewstep.types import Examples, Key, Loss, Metric, Params

Apply = Callable[[Params, jax.Array], jax.Array]
RowError = Callable[[jax.Array, jax.Array], jax.Array]
"""`(outputs [examples, outputs], targets [examples, outputs]) -> [examples]`"""


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


def cross_entropy(apply_log_probabilities: Apply) -> Loss:
    """The loss of a classification: −log p(class), mean over the examples that count. Targets are 1 for the class, else 0."""

    def loss(params: Params, examples: Examples, key: Key) -> jax.Array:
        del key
        return weighted_mean(log_loss(apply_log_probabilities(params, examples.inputs), examples.targets), examples.weight)

    return loss


def log_loss(log_probabilities: jax.Array, targets: jax.Array) -> jax.Array:
    """−log p(class) [examples], for [examples, classes]."""
    return -jnp.sum(log_probabilities * targets, axis=-1)


def wrong(log_probabilities: jax.Array, targets: jax.Array) -> jax.Array:
    """1 where the likeliest class is not the right one, else 0 [examples]."""
    return (jnp.argmax(log_probabilities, axis=-1) != jnp.argmax(targets, axis=-1)).astype(targets.dtype)


def mean_over_examples(apply: Apply, row_error: RowError) -> Metric:
    """The metric of an error that each example has: its mean over those that count."""

    def metric(params: Params, examples: Examples) -> jax.Array:
        return weighted_mean(row_error(apply(params, examples.inputs), examples.targets), examples.weight)

    return metric


def squared_errors_in(units: jax.Array) -> RowError:
    """(ŷ − y)² [examples] of standardized outputs, each in its own `units` [outputs], averaged over them."""
    return lambda outputs, targets: jnp.mean(jnp.square((outputs - targets) * units[None]), axis=-1)
