"""A network that reads a task's support set together with what it is asked: one pass, no gradient step.

Each support row becomes a key, of its input, and a value, of its input and target; a question attends to the rows whose
keys are like its own, and sees their mean value beside that. This is the deterministic path of the attentive neural
process (Kim et al. 2019, arXiv 1901.05761), without rows that attend to each other. Rows of weight 0 are not seen; their
order does not matter."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fewstep.core.types import Examples, Key, Network, Params
from fewstep.nn.mlp import mlp

HEADS = 4
UNSEEN = -1e9
"""the logit of a row that does not count"""


def set_network(features: int, outputs: int, hidden: tuple[int, ...]) -> Network:
    """θ holds the three perceptrons {"key", "value", "answer"}, whose hidden layers are `hidden`; `apply` takes a θ to which
    `read` has added the support set; without, it answers as if no row were known."""
    width = HEADS * max(1, hidden[-1] // HEADS)
    key_of, value_of = mlp([features, *hidden, width]), mlp([features + outputs, *hidden, width])
    answer = mlp([features + 2 * width + 1, *hidden, outputs])

    def init(key: Key) -> Params:
        keys = jax.random.split(key, 3)
        return {"key": key_of.init(keys[0]), "value": value_of.init(keys[1]), "answer": answer.init(keys[2])}

    def apply(params: Params, inputs: jax.Array) -> jax.Array:
        return answer.apply(params["answer"], jnp.concatenate([inputs, *seen(params, inputs)], axis=1))

    def seen(params: Params, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What the support set says to each question, [questions, width], and to all, [questions, width + 1]."""
        if "support" not in params:
            return jnp.zeros((inputs.shape[0], width)), jnp.zeros((inputs.shape[0], width + 1))
        support = Examples(*params["support"])
        values = value_of.apply(params["value"], jnp.concatenate([support.inputs, support.targets], axis=1))
        rows, asked = (by_head(key_of.apply(params["key"], each)) for each in (support.inputs, inputs))
        logits = jnp.einsum("qhd,shd->hqs", asked, rows) / jnp.sqrt(1.0 * asked.shape[-1])
        counts = (support.weight > 0)[None, None]
        share = jax.nn.softmax(jnp.where(counts, logits, UNSEEN), axis=-1) * counts  # of no rows: nothing
        found = jnp.einsum("hqs,shd->qhd", share, by_head(values)).reshape(inputs.shape[0], width)
        count = jnp.sum(support.weight)
        mean = (support.weight @ values) / jnp.maximum(count, 1.0)
        common = jnp.concatenate([mean, jnp.log1p(count)[None]])
        return found, jnp.broadcast_to(common, (inputs.shape[0], width + 1))

    def by_head(rows: jax.Array) -> jax.Array:
        return rows.reshape(rows.shape[0], HEADS, -1)

    return Network(init, apply)


def read(theta: Params, support: Examples, key: Key) -> Params:
    """θ with the support set beside it, as a value for `Learner.start`: all the adaptation that a set network needs."""
    del key
    return {**theta, "support": tuple(support)}
