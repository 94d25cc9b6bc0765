"""Last layers that know no number and no order of classes: made for each task from θ and its support set.

θ holds a body and one column for all classes; the inner loop starts from as many columns as the task has classes. So a model
that was trained on 5 classes at a time adapts to 3 or to 20, and classes may come in any order.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from fewstep.core.types import Examples, Key, Network, Params, Start

Head = Literal["shared", "zero", "prototype"]
"""what the columns start from: one learned column, a copy per class (UNICORN-MAML, Ye & Chao 2022, arXiv 2106.16245); zeros
(Kao, Chiu & Chen 2022, 2106.15367); or the classes' mean features (Proto-MAML, Triantafillou et al. 2020, 1903.03096)"""


def with_head(body: Network, features: int, columns: int = 1) -> Network:
    """`body` [examples, features] and a last layer: `apply` gives logits [examples, classes], as many as the head has columns.
    θ is {"body", "head": {"kernel" [features, columns], "bias" [columns]}}."""

    def init(key: Key) -> Params:
        return {"body": body.init(key), "head": {"kernel": jnp.zeros((features, columns)), "bias": jnp.zeros(columns)}}

    def apply(params: Params, inputs: jax.Array) -> jax.Array:
        head = params["head"]
        return body.apply(params["body"], inputs) @ head["kernel"] + head["bias"][None]

    return Network(init, apply)


def class_means(features: jax.Array, examples: Examples) -> jax.Array:
    """[classes, features]: the mean of each class's `features` [examples, features], over the examples that count."""
    share = examples.targets * examples.weight[:, None]
    return (share / jnp.maximum(jnp.sum(share, 0, keepdims=True), 1e-12)).T @ features


def start_of(head: Head, body: Network) -> Start:
    """What the inner loop of a task starts from, as a value for `Learner.start`."""

    def start(theta: Params, support: Examples, key: Key) -> Params:
        del key
        ways = support.targets.shape[-1]
        return {**theta, "head": columns[head](theta, support, ways)}

    def prototypes(theta: Params, support: Examples, ways: int) -> dict[str, Any]:
        # −|x − μ|² = 2 μ·x − |μ|² − |x|², whose last part is the same for all classes. Divided by the number of features, so
        # that logits are of the order of 1 whatever it is.
        features = body.apply(theta["body"], support.inputs)
        mean = class_means(features, support)
        size = features.shape[-1]
        kernel, bias = 2 * mean.T / size, -jnp.sum(jnp.square(mean), 1) / size
        return {"kernel": kernel + theta["head"]["kernel"], "bias": bias + theta["head"]["bias"]}

    def copies(theta: Params, support: Examples, ways: int) -> dict[str, Any]:
        return {name: jnp.broadcast_to(leaf, (*leaf.shape[:-1], ways)) for name, leaf in theta["head"].items()}

    def zeros(theta: Params, support: Examples, ways: int) -> dict[str, Any]:
        return {name: jnp.zeros((*leaf.shape[:-1], ways), leaf.dtype) for name, leaf in theta["head"].items()}

    columns = {"shared": copies, "zero": zeros, "prototype": prototypes}
    return start
