"""Whether an optimizer can work in the precision of its parameters.

Adam in float16 is the example: its ε of 1e-8 rounds to 0, and so does the square of a gradient below 5e-3 times 1 − β₂ =
1e-3. Updates are then 0 / 0, or far too large. float32 is the reference: first updates in both types, for gradients of
several sizes."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fewstep.errors import InputError

HALF = (jnp.float16, jnp.bfloat16)
SIZES = (0.0, 1e-5, 1e-4, 1e-3, 5e-3, 1e-1, 1.0)
"""of gradients"""
FACTOR = 3.0
"""by which an update may be larger than in float32"""
REMEDY = (
    "Keep the parameters in float32; for speed, fewstep.training.tuning.in_half_precision(learner) rounds the factors of "
    "matrix products alone."
)


def require_precise(name: str, optimizer: optax.GradientTransformation, params: Any) -> None:
    """Raises `InputError` where an update of parameters in half precision is not finite, or much larger than in float32; warns
    where one is lost by rounding. Costs nothing where no parameter is in half precision. An optimizer of which a part is being
    traced cannot be tried."""
    if not any(jnp.result_type(leaf) in HALF for leaf in jax.tree.leaves(params)):
        return
    try:
        with jax.ensure_compile_time_eval():
            tried = [jax.tree.map(np.asarray, _updates(optimizer, params, size)) for size in SIZES]
    except Exception:
        return
    lost = None
    for size, (half, single) in zip(SIZES, tried, strict=True):
        leaves = zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(half), jax.tree.leaves(single), strict=True)
        for (path, given), update, wanted in leaves:
            dtype, where = jnp.result_type(given), f"{name}{jax.tree_util.keystr(path)}"
            if dtype not in HALF or not wanted.size:
                continue
            got, right = float(update.flat[0]), float(wanted.flat[0])
            at_most = FACTOR * abs(right) + 2 * float(jnp.finfo(dtype).smallest_subnormal)
            if not abs(got) <= at_most and np.isfinite(right):
                raise InputError(
                    f"{where}: for gradients of {size:g} its first update is {got:.3g} in {dtype.name} and {right:.3g} in "
                    f"float32: its constants or squares round to 0. {REMEDY}"
                )
            if size == 1 and right != 0 and float(np.asarray(1, dtype) + np.asarray(got, dtype)) == 1:
                lost = lost or f"{where}: an update of {right:.1g} to a parameter of 1 in {dtype.name}"
    if lost is not None:
        warnings.warn(f"{lost} is rounded to no update. {REMEDY}", stacklevel=4)


def _updates(optimizer: optax.GradientTransformation, params: Any, size: float) -> tuple[Any, Any]:
    """The first update of parameters of 1, in their own types and in float32, for a gradient that is `size` everywhere."""
    found = []
    for in_single in (False, True):
        types = [jnp.float32 if in_single else jnp.result_type(leaf) for leaf in jax.tree.leaves(params)]
        ones, slopes = (
            jax.tree.unflatten(
                jax.tree.structure(params),
                [jnp.full(jnp.shape(leaf), value, dtype) for leaf, dtype in zip(jax.tree.leaves(params), types, strict=True)],
            )
            for value in (1.0, size)
        )
        found.append(optimizer.update(slopes, optimizer.init(ones), ones)[0])
    return found[0], found[1]
