"""ALFA (Baik, Choi, Choi, Kim & Lee 2020, arXiv 2011.00209): a small network sets rates and decays for each task and step.

In step k, θ′ ← β ∘ θ′ − α ∘ ∇L with one rate α and one decay β for each of the L arrays of θ (an array is a layer in the
authors' code, too). The network sees the mean of every array's gradient and the mean of every array, 2 L numbers; its 2 L
outputs (a, b) are multiplied by learned factors of each step and array: α = exp(rate[k]) ∘ a and β = decay[k] ∘ b. Its three
matrices [2 L, 2 L] have ReLU between them; the last one starts at 0 and its bias at 1: training begins at plain descent.

The authors' code generates what is taken away, β = 1 − decay[k] ∘ b, learns its rates not in log space, and has two
matrices. Here β itself is generated, as in the paper's equation. A rate may turn negative through a, but not through its
own factor."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fewstep.core.types import Key, Params
from fewstep.errors import InputError
from fewstep.variants.learned import log_rate, require_entries

LAYERS = 3


def alfa_start(theta: Params, rate: float, steps: int, key: Key | None = None) -> dict[str, Any]:
    """Starting values for `MetaParams.inner`: {"network", "rate": log(`rate`) [steps, L], "decay": ones [steps, L]}.

    The `key` draws the network's first layers, always the same ones without it. At least one row of rates, as in `lslr`.
    """
    leaves = jax.tree.leaves(theta)
    arrays, units, dtype = len(leaves), 2 * len(leaves), jnp.result_type(*leaves)
    keys = jax.random.split(jax.random.key(0) if key is None else key, LAYERS - 1)
    glorot = jax.nn.initializers.glorot_uniform()
    network = [{"kernel": glorot(key, (units, units), dtype), "bias": jnp.zeros(units, dtype)} for key in keys]
    network.append({"kernel": jnp.zeros((units, units), dtype), "bias": jnp.ones(units, dtype)})
    rates = jnp.full((max(steps, 1), arrays), log_rate(rate), dtype)
    return {"network": network, "rate": rates, "decay": jnp.ones_like(rates)}


def alfa(inner: dict[str, Any]) -> optax.GradientTransformation:
    """θ′ ← β ∘ θ′ − α ∘ ∇L in step k = 0, 1, …, as a value for `Learner.inner_optimizer`; α and β as said above.

    Steps beyond those of `inner` take the last row of factors. Its state is k, an int32 scalar.
    """

    def update(updates: Params, state: jax.Array, params: Params = None) -> tuple[Params, jax.Array]:
        if params is None:
            raise InputError("alfa: expected the parameters beside their gradient, they decay")
        gradients, structure = jax.tree.flatten(updates)
        require_entries("alfa", "alfa_start(theta, rate, steps)", inner, "network", "rate", "decay")
        shape = np.shape(inner["rate"])
        if len(shape) != 2 or shape[0] < 1 or shape[1] != len(gradients):
            raise InputError(
                f"alfa: MetaParams.inner['rate']: expected [steps, {len(gradients)}], a column for each array of the "
                f"parameters, got {list(shape)}. Make MetaParams.inner with variants.alfa_start of these parameters."
            )
        weights = jax.tree.leaves(params)
        made = generated(inner["network"], jnp.stack([jnp.mean(leaf) for leaf in gradients + weights]))
        step = jnp.minimum(state, inner["rate"].shape[0] - 1)
        rates = jnp.exp(inner["rate"][step]) * made[: len(gradients)]
        decays = inner["decay"][step] * made[len(gradients) :]
        parts = zip(gradients, weights, rates, decays, strict=True)
        moves = [(decay - 1) * weight - rate * gradient for gradient, weight, rate, decay in parts]
        return jax.tree.unflatten(structure, moves), state + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)  # type: ignore[arg-type]


def generated(network: list[dict[str, jax.Array]], seen: jax.Array) -> jax.Array:
    """(a, b) [2 L] by what was seen of gradients and weights [2 L]."""
    for layer in network[:-1]:
        seen = jax.nn.relu(seen @ layer["kernel"] + layer["bias"])
    return seen @ network[-1]["kernel"] + network[-1]["bias"]
