"""A model in two parts: the arrays that are learned, and everything else."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.core.types import Params


def partition(model: Any) -> tuple[Params, Any]:
    """(learned, rest) of any pytree: arrays of real floating-point numbers, and all other leaves (integers, Booleans, keys,
    functions, text, plain Python numbers). Both parts are pytrees like `model`, with None where the other one has the leaf.

    `MetaParams(learned)` is what the outer loop takes; inside the loss, `combine(learned, rest)` is the model again. The rest
    is a constant. A key in it makes all tasks and steps draw the same numbers: replace it by one made from the loss's key.
    """
    learned = jax.tree.map(lambda leaf: leaf if is_learned(leaf) else None, model)
    return learned, jax.tree.map(lambda leaf: None if is_learned(leaf) else leaf, model)


def combine(learned: Params, rest: Any) -> Any:
    """The model that `partition` took apart."""
    return jax.tree.map(lambda one, other: other if one is None else one, learned, rest, is_leaf=lambda leaf: leaf is None)


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array that JAX computes with, or the shape of one."""
    if isinstance(leaf, np.ndarray | np.generic):
        return leaf.dtype.kind in "biufcV" and leaf.dtype.names is None  # V: bfloat16 and other types of JAX
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)


def is_learned(leaf: Any) -> bool:
    """Whether a leaf is an array of real floating-point numbers."""
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
