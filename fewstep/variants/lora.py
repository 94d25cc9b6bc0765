"""LoRA (Hu et al. 2022, arXiv 2106.09685): a matrix W adapts by a product of two thin ones, W + down up.

To be used with `moves(["lora"])`. In fine-tuning, `down` is drawn and W is what pre-training left; here both are part of
θ, so meta-learned: W is where adaptation starts from, and `down` says which few directions of the input it may use."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fewstep.core.types import Key, Network, Params
from fewstep.core.validation import kind_of
from fewstep.errors import InputError
from fewstep.variants.partial import path_name


def with_lora(network: Network, rank: int) -> Network:
    """`network` with a product of `rank` beside every matrix: arrays of two axes or more, taken as [(all but the last), last],
    but not those of one row, such as scales of channels.

    Parameters are {"base": those of `network`, "lora": {path: {"down" [in, rank], "up" [rank, out]}}}. `up` starts at 0, so
    that the function is that of `network`; `down` is normal with variance 1 / in.
    """
    if rank < 1:
        raise InputError(f"with_lora: expected a rank of at least 1, got {rank}. Larger ranks adapt more freely.")

    def init(key: Key) -> Params:
        base_key, key = jax.random.split(key)
        base, lora = network.init(base_key), {}
        for number, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(base)):
            if leaf.ndim > 1 and leaf.size > leaf.shape[-1]:
                rows, columns = leaf.size // leaf.shape[-1], leaf.shape[-1]
                down = jax.random.normal(jax.random.fold_in(key, number), (rows, rank), leaf.dtype) / jnp.sqrt(rows)
                lora[path_name(path)] = {"down": down.astype(leaf.dtype), "up": jnp.zeros((rank, columns), leaf.dtype)}
        return {"base": base, "lora": lora}

    return Network(init, lambda params, inputs: network.apply(merged(params), inputs))


def merged(params: Params) -> Params:
    """Parameters of the network itself, with the products added up: what an adapted model needs no more than."""

    if not isinstance(params, dict) or set(params) != {"base", "lora"}:
        raise InputError(
            f"with_lora: expected parameters {{'base', 'lora'}} as its own init makes them, got {kind_of(params)}."
        )

    def merge(path: tuple, leaf: jax.Array) -> jax.Array:
        factors = params["lora"].get(path_name(path))
        return leaf if factors is None else leaf + (factors["down"] @ factors["up"]).reshape(leaf.shape)

    return jax.tree_util.tree_map_with_path(merge, params["base"])
