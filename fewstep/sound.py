"""Whether a learner, its parameters and its episodes fit together, before anything is compiled (floor 0). Used by maml.py."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fewstep.errors import BadInput
from fewstep.types import Episode, Key, Loss, MetaParams


def require_sound(
    loss: Loss, optimizer: optax.GradientTransformation, params: MetaParams, episodes: Episode, keys: Key
) -> None:
    """Raises `BadInput` that names the leaf, what was expected and what came. Looks at shapes and types alone."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise BadInput(
                f"parameters{_name(path)}: expected floating-point numbers, got {jnp.result_type(leaf)}. What is not learned "
                "(counters, tables of indices) belongs into the model or the batch."
            )
    tasks = keys.shape[0] if keys.ndim else None
    if tasks is None:
        raise BadInput("keys: expected one key for each task, got a single key. Try jax.random.split(key, tasks).")
    for path, leaf in jax.tree_util.tree_leaves_with_path(episodes):
        shape = jnp.shape(leaf)
        if not shape or shape[0] != tasks:
            raise BadInput(
                f"episodes{_name(path)}: expected the task axis first, of {tasks} tasks as many as keys, got the shape {shape}."
            )
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:], jnp.result_type(leaf)), episodes)
    key = jax.ShapeDtypeStruct(keys.shape[1:], keys.dtype)
    theta = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), params.theta)
    for name, batch in zip(("support", "query"), one, strict=True):
        found = jax.eval_shape(loss, theta, batch, key)
        if not (hasattr(found, "shape") and found.shape == () and jnp.issubdtype(found.dtype, jnp.floating)):
            shown = f"{found.dtype}{list(found.shape)}" if hasattr(found, "shape") else type(found).__name__
            raise BadInput(
                f"loss: expected one floating-point number for a task's {name} set, got {shown}. Take the mean over examples."
            )
    _require_matching(optimizer, theta)


def _require_matching(optimizer: optax.GradientTransformation, theta: Any) -> None:
    """One update of the inner optimizer has to look like θ."""
    try:
        updates = jax.eval_shape(lambda theta: optimizer.update(theta, optimizer.init(theta), theta)[0], theta)
    except (ValueError, TypeError, AttributeError) as error:
        raise BadInput(
            f"inner optimizer: it cannot be used on these parameters ({str(error).splitlines()[0][:200]})."
        ) from error
    if jax.tree.structure(updates) != jax.tree.structure(theta):
        raise BadInput(
            f"inner optimizer: expected updates like the parameters, {jax.tree.structure(theta)}, got "
            f"{jax.tree.structure(updates)}."
        )
    pairs = zip(jax.tree_util.tree_leaves_with_path(theta), jax.tree.leaves(updates), strict=True)
    for (path, leaf), update in pairs:
        if leaf.shape != update.shape:
            raise BadInput(f"inner optimizer{_name(path)}: expected an update of shape {leaf.shape}, got {update.shape}.")


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path)
