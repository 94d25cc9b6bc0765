"""Whether `MetaParams.inner` is what a variant learns. Used by the variants that learn a part of the inner loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.core.types import Params
from fewstep.core.validation import kind_of
from fewstep.errors import InputError


def log_rate(rate: float) -> float:
    """log(`rate`). Raises `InputError` for a rate that is not positive and finite."""
    if not 0 < rate < math.inf:
        raise InputError(f"rate: expected a positive inner rate, got {rate}. Learned rates are kept as logarithms.")
    return math.log(rate)


def require_like(
    variant: str,
    made_by: str,
    inner: Any,
    params: Params,
    fits: Callable[[Any, Any], bool],
    expected: str,
    leaf: type | None = None,
) -> None:
    """Raises `InputError` unless `inner` is a pytree like `params` each of whose entries fits the array of `params`.

    `made_by` is the function that makes it, `leaf` the type of its entries where they are no arrays. Looks at shapes alone.
    """
    is_leaf = None if leaf is None else lambda node: isinstance(node, leaf)
    found, wanted = jax.tree.structure(inner, is_leaf=is_leaf), jax.tree.structure(params)
    advice = f"Make it with variants.{made_by} of these parameters, and give MetaParams(theta, inner)."
    if found != wanted:
        shown = "nothing" if not jax.tree.leaves(inner) else f"{found}"
        raise InputError(f"{variant}: expected MetaParams.inner like the parameters, {wanted}, got {shown}. {advice}")
    pairs = zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(inner, is_leaf=is_leaf), strict=True)
    for (path, array), entry in pairs:
        if not fits(entry, array):
            raise InputError(
                f"{variant}: MetaParams.inner{jax.tree_util.keystr(path)}: expected {expected} for parameters of shape "
                f"{np.shape(array)}, got {kind_of(entry)}. {advice}"
            )


def require_entries(variant: str, made_by: str, inner: Any, *names: str) -> None:
    """Raises `InputError` unless `inner` is a dictionary with these entries alone."""
    if not isinstance(inner, dict) or set(inner) != set(names):
        got = f"entries {sorted(map(str, inner))}" if isinstance(inner, dict) else kind_of(inner)
        raise InputError(
            f"{variant}: expected MetaParams.inner as a dictionary of {', '.join(names)}, got {got}. Make it by "
            f"variants.{made_by} of these parameters, and give MetaParams(theta, inner)."
        )


def broadcasts(entry: Any, array: Any) -> bool:
    """Whether `entry` is as large as `array` or smaller, so that it has a value for each of its numbers."""
    try:
        return jnp.broadcast_shapes(np.shape(entry), np.shape(array)) == np.shape(array)
    except ValueError:
        return False
