"""Losses and metrics over the weighted `Examples` of one task. A model comes in as `apply(params, inputs)`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fewstep.core.types import Examples, Key, Loss, Metric, Params

Apply = Callable[[Params, jax.Array], jax.Array]
RowError = Callable[..., jax.Array]
"""`(outputs [examples, outputs], targets [examples, outputs]) -> [examples]`; of several targets with gaps, it takes their
weights [examples, outputs] too, and gives the mean over the known targets of each example"""


def squared_error(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """(ŷ − y)² of one example, averaged over its outputs."""
    return jnp.mean(jnp.square(prediction - target))


def weighted_mean(values: jax.Array, weight: jax.Array) -> jax.Array:
    """Σ w v / Σ w over [examples]; 0 where no example counts, so that an empty set gives no NaN."""
    return jnp.sum(values * weight) / jnp.maximum(jnp.sum(weight), 1e-12)


def mean_by_output(values: jax.Array, weight: jax.Array) -> jax.Array:
    """The mean over outputs of each one's weighted mean over examples, for values and weights [examples, outputs].

    So what one target contributes does not depend on how many values of the others are known; an output without any known
    value contributes 0.
    """
    return jnp.mean(jax.vmap(weighted_mean, 1)(values, weight))


def known_part(weight: jax.Array) -> jax.Array:
    """[examples]: the part of an example's targets that is known, of the weights of `Examples`. An example's error, a mean over
    its known targets, counts by it: so each known value counts alike."""
    return weight if weight.ndim == 1 else jnp.mean(weight, axis=-1)


def errors_of(row_error: RowError, outputs: jax.Array, examples: Examples) -> jax.Array:
    """[examples]: `row_error` over the known targets of each example."""
    if examples.weight.ndim == 1:
        return row_error(outputs, examples.targets)
    return row_error(outputs, examples.targets, examples.weight)


def mean_squared_error(apply: Apply) -> Loss:
    """The loss `L(params, examples, key)`: mean squared error of `apply` over the examples that count."""

    def loss(params: Params, examples: Examples, key: Key) -> jax.Array:
        del key
        if examples.weight.ndim > 1:
            return mean_by_output(jnp.square(apply(params, examples.inputs) - examples.targets), examples.weight)
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


def mean_over_examples(apply: Apply, row_error: RowError, output: int | None = None) -> Metric:
    """The metric of an error that each example has: its mean over those that count.

    Where `row_error` looks at one `output` alone, examples that lack this target do not count; where all of them lack it, the
    metric is NaN. An error that diverged is infinite then.
    """

    def metric(params: Params, examples: Examples) -> jax.Array:
        outputs, weight = apply(params, examples.inputs), examples.weight
        if weight.ndim == 1:
            return weighted_mean(row_error(outputs, examples.targets), weight)
        if output is None:
            errors, counts = errors_of(row_error, outputs, examples), known_part(weight)
        else:
            errors, counts = row_error(outputs, examples.targets), weight[:, output]
        mean = weighted_mean(jnp.where(counts > 0, errors, 0.0), counts)
        return jnp.where(jnp.any(counts > 0), jnp.where(jnp.isnan(mean), jnp.inf, mean), jnp.nan)

    return metric


def squared_errors_in(units: jax.Array) -> RowError:
    """(ŷ − y)² [examples] of standardized outputs, each in its own `units` [outputs], averaged over them."""

    def errors(outputs: jax.Array, targets: jax.Array, weight: jax.Array | None = None) -> jax.Array:
        squares = jnp.square((outputs - targets) * units[None])
        if weight is None:
            return jnp.mean(squares, axis=-1)
        return jnp.sum(jnp.where(weight > 0, squares, 0.0), axis=-1) / jnp.maximum(jnp.sum(weight, axis=-1), 1e-12)

    return errors
