"""Parameters by name (floor 2): what the other files of this folder choose leaves of a pytree by."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from fewstep.errors import BadInput
from fewstep.types import Params

SHOWN = 20
"""so many paths at most are listed where a name is none of them"""


def paths_of(params: Params) -> tuple[str, ...]:
    """The name of every leaf, in the order of `jax.tree.leaves`: "body.layers.0.kernel"."""
    return tuple(path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))


def path_name(path: tuple) -> str:
    """A key path of JAX's as one word."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def chosen(params: Params, names: Sequence[str]) -> Params:
    """A pytree like `params` with True for each leaf that one of the `names` means, else False.

    A name means the leaf of this path and all leaves below it ("head.kernel", "body", "body.layers.0"), and without a dot also
    all those with such a part in their path ("scales" means every body.scales.N). Raises `BadInput` for one that means none.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    paths = paths_of(params)
    for name in names:
        if not any(_means(name, path) for path in paths):
            shown = ", ".join(paths[:SHOWN]) + (f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else "")
            raise BadInput(
                f"expected the name of parameters, got {name!r}; there are: {shown}. Give one of these, the beginning of one "
                "up to a dot, or a single part between dots."
            )
    return jax.tree.unflatten(jax.tree.structure(params), [any(_means(name, path) for name in names) for path in paths])


def _means(name: str, path: str) -> bool:
    return name == path or path.startswith(f"{name}.") or ("." not in name and name in path.split("."))
