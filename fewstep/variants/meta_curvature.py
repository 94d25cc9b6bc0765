"""Meta-Curvature (Park & Oliva 2019, arXiv 1902.03356): learned matrices turn the inner gradient, layer by layer.

A kernel's gradient G [in, out] becomes exp(rates) ∘ (M_in G M_out); a bias's gradient g becomes exp(rates) ∘ (M g).
The matrices start at the identity, where this is Meta-SGD. Kernels of more axes are taken as [(all but the last), last].
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fewstep.core.types import Params
from fewstep.variants.learned import broadcasts, log_rate, require_like


class Curvature(NamedTuple):
    """What is learned for one parameter array of shape (..., out)."""

    rates: jax.Array
    """log rates, in the array's shape"""
    rows: jax.Array
    """M_in [in, in]; for a vector M [size, size]"""
    columns: jax.Array | None
    """M_out [out, out]; None for a vector"""


def curvature(theta: Params, rate: float) -> Params:
    """Starting values for `MetaParams.inner`: a pytree like θ with a `Curvature` for every array."""

    def start(leaf: jax.Array) -> Curvature:
        rows = leaf.size if leaf.ndim < 2 else leaf.size // leaf.shape[-1]
        columns = None if leaf.ndim < 2 else jnp.eye(leaf.shape[-1], dtype=leaf.dtype)
        return Curvature(jnp.full_like(leaf, log_rate(rate)), jnp.eye(rows, dtype=leaf.dtype), columns)

    return jax.tree.map(start, theta)


def meta_curvature(inner: Params) -> optax.GradientTransformation:
    """θ′ ← θ′ − exp(rates) ∘ (M_in ∇L M_out), as a value for `Learner.inner_optimizer`."""

    def turn(gradient: jax.Array, learned: Curvature) -> jax.Array:
        if learned.columns is None:
            turned = times(learned.rows, gradient.reshape(-1))
        else:
            turned = learned.rows @ times(learned.columns.T, gradient.reshape(-1, gradient.shape[-1]).T).T
        return -jnp.exp(learned.rates) * turned.reshape(gradient.shape)

    def times(matrix: jax.Array, right: jax.Array) -> jax.Array:
        # One number is a factor: an array that is wider than θ's (a head for more classes) has it too.
        return matrix[0, 0] * right if matrix.size == 1 else matrix @ right

    def fits(learned: Any, gradient: jax.Array) -> bool:
        if not (isinstance(learned, Curvature) and broadcasts(learned.rates, gradient)):
            return False
        columns = 1 if gradient.ndim < 2 else gradient.shape[-1]
        rows = gradient.size // max(columns, 1)
        pairs = [(learned.rows, rows)] + ([] if learned.columns is None else [(learned.columns, columns)])
        return (learned.columns is None) == (gradient.ndim < 2) and all(m.size == 1 or m.shape == (n, n) for m, n in pairs)

    def update(updates, state, params=None):
        del params
        require_like("meta_curvature", "curvature(theta, rate)", inner, updates, fits, "its Curvature", Curvature)
        return jax.tree.map(turn, updates, inner), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
