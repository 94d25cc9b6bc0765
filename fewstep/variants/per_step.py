"""Parameters with a learned value for each adaptation step, and none from the inner gradient (Antoniou, Edwards & Storkey 2019,
MAML++, arXiv 1810.09502, section 4: "BNWB", the weights and biases of batch normalization).

What the features are like changes from step to step in much the same way for all tasks, so scales and shifts that follow are
better learned by the outer loop, step by step, than found again by every task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fewstep.core.maml import InnerOptimizer
from fewstep.core.types import Params
from fewstep.core.validation import kind_of
from fewstep.errors import InputError
from fewstep.variants.learned import require_entries
from fewstep.variants.partial import chosen, path_name


class Progress(NamedTuple):
    """The state of a `per_step` optimizer."""

    opt_state: Any
    """the state of the optimizer itself"""
    step: jax.Array
    """int32 scalar: adaptation steps made"""


def step_values(theta: Params, names: Sequence[str], steps: int, inner: Any = ()) -> dict[str, Any]:
    """Starting values for `MetaParams.inner`: the `inner` of the optimizer itself, and for every chosen array of θ its own
    value "after" each of the adaptation steps, [steps, …] and at least one (before the first step, θ itself has it).
    """
    after = {
        path_name(path): jnp.repeat(jnp.asarray(leaf)[None], max(steps, 1), axis=0)
        for (path, leaf), among in zip(
            jax.tree_util.tree_leaves_with_path(theta), jax.tree.leaves(chosen(theta, names)), strict=True
        )
        if among
    }
    return {"inner": inner, "after": after}


def per_step(inner_optimizer: InnerOptimizer, names: Sequence[str]) -> InnerOptimizer:
    """`inner_optimizer`, as a value for `Learner.inner_optimizer`, but for the leaves that `names` mean (see paths.py).

    In step k = 0, 1, … those become `after[k]`, whatever the gradient says; steps beyond the last keep its values. The gradient
    of these leaves is 0 for `inner_optimizer`. What `MetaParams.inner` is then: `step_values`.
    """

    def optimizer(inner: dict[str, Any]) -> optax.GradientTransformation:
        require_entries("per_step", "step_values(theta, names, steps)", inner, "inner", "after")
        is_plain = isinstance(inner_optimizer, optax.GradientTransformation)
        wrapped: Any = inner_optimizer if is_plain else inner_optimizer(inner["inner"])  # type: ignore[operator]

        def update(updates: Params, state: Progress, params: Params = None) -> tuple[Params, Progress]:
            by_step = chosen(params, names)
            free = jax.tree.map(lambda among, leaf: jnp.zeros_like(leaf) if among else leaf, by_step, updates)
            updates, opt_state = wrapped.update(free, state.opt_state, params)

            def move(path: tuple, among: bool, leaf: jax.Array, update: jax.Array) -> jax.Array:
                if not among:
                    return update
                values = inner["after"].get(path_name(path))
                if values is None or np.shape(values)[1:] != np.shape(leaf) or not np.size(values):
                    raise InputError(
                        f"per_step: MetaParams.inner['after'][{path_name(path)!r}]: expected values [steps, ...] for "
                        f"parameters of shape {np.shape(leaf)}, got {kind_of(values)}. Make them with variants.step_values."
                    )
                return values[jnp.minimum(state.step, values.shape[0] - 1)] - leaf

            return jax.tree_util.tree_map_with_path(move, by_step, params, updates), Progress(opt_state, state.step + 1)

        start = lambda params: Progress(wrapped.init(params), jnp.zeros((), jnp.int32))  # noqa: E731
        return optax.GradientTransformation(start, update)  # type: ignore[arg-type]

    return optimizer
