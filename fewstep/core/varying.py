"""How values vary over the devices of a `jax.shard_map`. Used by maml.py and gradients/.

With `check_vma=True`, JAX's default, the type of a value says over which axes of the mesh it varies. The derivative with
respect to a value that does not vary is summed over the devices. That is right for a loss that is a sum over devices. It is
wrong for the inner loop: each task adapts its own copy of θ, to its own data alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax


def axes_of(tree: Any) -> frozenset[str]:
    """The mesh axes that any leaf of a pytree varies over, of arrays or of their shapes; none outside `jax.shard_map`."""
    return frozenset().union(*map(_axes, jax.tree.leaves(tree)))


def task_axes(learner: Any, params: Any, batches: Sequence[Any], key: Any) -> frozenset[str]:
    """The axes of a `jax.shard_map`'s mesh that tasks are split over: those that the learner's loss varies over. Axes that
    parts of one task are split over are others: there the loss has summed what devices have.

    The first batch is the support set. Traces the loss inside `jax.shard_map` alone.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return frozenset()

    def losses(params: Any, batches: Sequence[Any], key: Any) -> list[jax.Array]:
        start = params.theta if learner.start is None else learner.start(params.theta, batches[0], key)
        return [learner.loss(start, batch, key) for batch in batches]

    return axes_of(jax.eval_shape(losses, params, batches, key))


def of_one_task(learner: Any, params: Any, episode: Sequence[Any], key: Any) -> Any:
    """The same meta-parameters, as one task has them: inside a `jax.shard_map` a gradient with respect to them is that of this
    task, and not a sum over devices, whether JAX follows how values vary (`check_vma`) or not."""
    return varying(params, task_axes(learner, params, episode, key))


def varying(tree: Any, axes: frozenset[str]) -> Any:
    """The same values, of a type that varies over these mesh axes too: derivatives with respect to them are not summed."""
    if not axes:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.pcast(leaf, tuple(sorted(axes - _axes(leaf))), to="varying"), tree)


def _axes(leaf: Any) -> frozenset[str]:
    kind = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)
    if hasattr(kind, "manual_axis_type"):
        return frozenset(getattr(kind.manual_axis_type, "varying", ()))  # None of a shape outside of any mesh
    return frozenset(getattr(kind, "vma", None) or ())  # its name in other versions of JAX
