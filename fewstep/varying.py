"""How values vary over the devices of a `jax.shard_map` (floor 0). Used by maml.py and gradients/.

With `check_vma=True`, JAX's default, the type of a value says over which axes of the mesh it varies. The derivative with
respect to a value that does not vary is summed over the devices. That is right for a loss that is a sum over devices. It is
wrong for the inner loop: each task adapts its own copy of θ, to its own data alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax


def axes_of(tree: Any) -> frozenset[str]:
    """The mesh axes that any leaf of a pytree varies over, of arrays or of their shapes; none outside `jax.shard_map`."""
    return frozenset().union(*map(_axes, jax.tree.leaves(tree)))


def axes_of_result(function: Callable[..., Any], *arguments: Any) -> frozenset[str]:
    """The mesh axes that the result of `function(*arguments)` varies over. Traces it inside `jax.shard_map` alone."""
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return frozenset()
    return axes_of(jax.eval_shape(function, *arguments))


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
