"""Averaged meta-parameters: trained is the last θ, evaluated an average over those before it.

Meta-gradients of a few tasks are noisy, and so is the last θ; an average over many meta-steps is less so (Polyak & Juditsky
1992). The average is part of the outer optimizer's state, hence of every checkpoint.

An outer optimizer whose steps can be made smaller in the middle of a run.

The factor is part of its state, hence of every checkpoint: a run that went back with smaller steps and is resumed later
goes on with them. Nothing is compiled anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.tree_utils import tree_get, tree_set

from fewstep.core.maml import MetaState
from fewstep.core.types import MetaParams, Params
from fewstep.errors import InputError


class Averaged(NamedTuple):
    """The state of an `averaged` optimizer."""

    inner: Any
    """the state of the optimizer itself"""
    average: Params
    """a moving average of the parameters after each update; before the first one, the parameters themselves"""
    updates: jax.Array
    """int32 scalar: how many updates were made"""


def averaged(optimizer: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """`optimizer`, whose updates stay as they are, with an average of the parameters in its state.

    average ← w average + (1 − w) parameters after update n = 0, 1, …, with w = min(`decay`, (1 + n) / (10 + n)), as
    TensorFlow's `ExponentialMovingAverage` has it: a young average looks at about the last tenth of its updates, so that it
    soon forgets where it began. Put it around the whole outer optimizer: what changes its updates afterwards it would not see.
    """
    if not 0 <= decay < 1:
        raise InputError(f"expected a decay of at least 0 and less than 1, got {decay}")

    def init(params: Params) -> Averaged:
        return Averaged(optimizer.init(params), jax.tree.map(jnp.array, params), jnp.zeros((), jnp.int32))

    def update(updates: Params, state: Averaged, params: Params = None) -> tuple[Params, Averaged]:
        updates, inner = optimizer.update(updates, state.inner, params)

        def toward(average: jax.Array, after: jax.Array) -> jax.Array:
            share = newest_share(state.updates.astype(average.dtype), decay)
            return average + share * (after - average)  # in this form exact where nothing moves

        average = jax.tree.map(toward, state.average, optax.apply_updates(params, updates))
        return updates, Averaged(inner, average, state.updates + 1)

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


def newest_share(updates: jax.Array, decay: float) -> jax.Array:
    """1 − min(decay, (1 + n) / (10 + n)): the part of the newest parameters in the average, after n earlier updates."""
    return jnp.maximum(1 - decay, 9 / (10 + updates))


def evaluated(state: MetaState) -> MetaParams:
    """The meta-parameters to be judged and used: the average where the outer optimizer keeps one, else the last ones."""
    average = tree_get(state.opt_state, "average", filtering=_of_average)
    return state.params if average is None else average


def with_params(state: MetaState, change: Callable[[MetaParams], MetaParams]) -> MetaState:
    """The same state with its parameters changed, those that are evaluated too."""
    average = tree_get(state.opt_state, "average", filtering=_of_average)
    if average is not None:
        state = state._replace(opt_state=tree_set(state.opt_state, _of_average, average=change(average)))
    return state._replace(params=change(state.params))


def _of_average(path: Any, value: Any) -> bool:
    """Whether a node of an optimizer's state is a field of `Averaged`, not another of the same name."""
    del value
    return getattr(path[-1], "tuple_name", "") == Averaged.__name__


class Slowed(NamedTuple):
    """The state of a `slowed` optimizer."""

    inner: Any
    """the state of the optimizer itself"""
    factor: jax.Array
    """scalar by which its updates are multiplied; 1 at first"""


def scale_updates(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """`optimizer`, with its updates times a factor that `slower` lowers."""

    def update(updates: Params, state: Slowed, params: Params = None) -> tuple[Params, Slowed]:
        updates, inner = optimizer.update(updates, state.inner, params)
        return jax.tree.map(lambda leaf: state.factor.astype(leaf.dtype) * leaf, updates), Slowed(inner, state.factor)

    return optax.GradientTransformation(lambda params: Slowed(optimizer.init(params), jnp.ones(())), update)  # type: ignore[arg-type]


def slower(state: MetaState, by: float) -> MetaState:
    """The same state, whose further updates are times `by`. Raises `InputError` where the outer optimizer is not `slowed`."""
    factor = tree_get(state.opt_state, "factor", filtering=_of_scale)
    if factor is None:
        raise InputError("slower: expected the state of an outer optimizer made by slowed(...)")
    return state._replace(opt_state=tree_set(state.opt_state, _of_scale, factor=factor * by))


def slowdown(state: MetaState) -> float | None:
    """The factor; None where the outer optimizer has none."""
    factor = tree_get(state.opt_state, "factor", filtering=_of_scale)
    return None if factor is None else float(factor)


def _of_scale(path: Any, value: Any) -> bool:
    """Whether a node of an optimizer's state is a field of `Slowed`, not another of the same name."""
    del value
    return getattr(path[-1], "tuple_name", "") == Slowed.__name__
