"""One kind of node in the state of an outer optimizer (floor 2), found and changed wherever optimizers around it have put it.
Used by averaging.py and slowed.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax

from fewstep.maml import MetaState

Node = TypeVar("Node")


def nodes_of(state: MetaState, kind: type[Node]) -> list[Node]:
    """All nodes of this kind."""
    leaves = jax.tree.leaves(state.opt_state, is_leaf=lambda node: isinstance(node, kind))
    return [node for node in leaves if isinstance(node, kind)]


def with_nodes(state: MetaState, kind: type[Node], change: Callable[[Node], Node]) -> MetaState:
    """The same state with every node of this kind changed."""
    changed = lambda node: change(node) if isinstance(node, kind) else node  # noqa: E731
    return state._replace(opt_state=jax.tree.map(changed, state.opt_state, is_leaf=lambda node: isinstance(node, kind)))
