"""An outer optimizer whose steps can be made smaller in the middle of a run (floor 2).

The factor is part of its state, hence of every checkpoint: a run that went back with smaller steps and is resumed later goes on
with them. Nothing is compiled anew.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.tree_utils import tree_get, tree_set

from fewstep.errors import BadInput
from fewstep.maml import MetaState
from fewstep.types import Params


class Slowed(NamedTuple):
    """The state of a `slowed` optimizer."""

    inner: Any
    """the state of the optimizer itself"""
    factor: jax.Array
    """scalar by which its updates are multiplied; 1 at first"""


def slowed(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """`optimizer`, with its updates times a factor that `slower` lowers."""

    def update(updates: Params, state: Slowed, params: Params = None) -> tuple[Params, Slowed]:
        updates, inner = optimizer.update(updates, state.inner, params)
        return jax.tree.map(lambda leaf: state.factor.astype(leaf.dtype) * leaf, updates), Slowed(inner, state.factor)

    return optax.GradientTransformation(lambda params: Slowed(optimizer.init(params), jnp.ones(())), update)  # type: ignore[arg-type]


def slower(state: MetaState, by: float) -> MetaState:
    """The same state, whose further updates are times `by`. Raises `BadInput` where the outer optimizer is not `slowed`."""
    factor = tree_get(state.opt_state, "factor", filtering=_ours)
    if factor is None:
        raise BadInput("slower: expected the state of an outer optimizer made by slowed(...)")
    return state._replace(opt_state=tree_set(state.opt_state, _ours, factor=factor * by))


def slowdown(state: MetaState) -> float | None:
    """The factor; None where the outer optimizer has none."""
    factor = tree_get(state.opt_state, "factor", filtering=_ours)
    return None if factor is None else float(factor)


def _ours(path: Any, value: Any) -> bool:
    """Whether a node of an optimizer's state is a field of `Slowed`, not another of the same name."""
    del value
    return getattr(path[-1], "tuple_name", "") == Slowed.__name__
