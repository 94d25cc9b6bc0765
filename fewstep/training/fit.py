"""One unseen task as people meet it (floor 3): adapted, in how many steps, how sure, and whether it is like the others.

Pure, for one task: `vmap` for many. Used by evaluation, by calibration and by `fewstep.adapted`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from fewstep.errors import BadInput
from fewstep.losses import errors_of, known_part, weighted_mean
from fewstep.maml import adaptation_path
from fewstep.problem import Problem
from fewstep.types import Examples, Key, MetaParams, Params
from fewstep.variants import safe_steps

Steps = int | Literal["auto"]
SIGNS = ("error before", "error after", "change")
"""What tells an unlike task: how its support rows are missed before and after adaptation, and how far predictions moved."""


class Fitted(NamedTuple):
    """A task after adaptation."""

    params: Params
    """θ′"""
    steps: jax.Array
    """adaptation steps made"""
    scale: jax.Array
    """[outputs]: the size of its errors, where the model itself gives no deviation"""
    signs: jax.Array
    """[signs], logarithms of `SIGNS`"""


def fit(problem: Problem, params: MetaParams, support: Examples, key: Key, steps: Steps) -> Fitted:
    """Adapts to one task from its support set alone, in `steps` adaptation steps; 'auto' chooses them by leaving rows out.

    Fewer steps are taken where all of them would miss the support rows more than none: see `not_worse`.
    """
    return fits(problem, params, support, key, [steps])[0]


def fits(problem: Problem, params: MetaParams, support: Examples, key: Key, ways: Sequence[Steps]) -> list[Fitted]:
    """`fit` in each of several ways to choose the steps, of one greatest number, from the same path."""
    trained = problem.learner.adaptation_steps
    require_steps(problem, ways)
    (most,) = {trained if steps == "auto" else steps for steps in ways}
    path = adaptation_path(problem.learner, params, support, key, most)
    needs_scale = problem.deviation is None and not problem.format.classes
    left_out = None
    if ("auto" in ways or needs_scale) and problem.leave_one_out is not None:
        left_out = problem.leave_one_out(params, support, key, most)

    def one_way(steps: Steps) -> Fitted:
        chosen, scale = jnp.asarray(most, jnp.int32), jnp.ones(support.targets.shape[-1])
        if steps != "auto":
            chosen = not_worse(problem, path, support)
        elif left_out is not None:
            chosen = safe_steps(row_errors(problem, left_out, support), known_part(support.weight)).astype(jnp.int32)
        if needs_scale and left_out is not None:
            scale = miss(left_out[chosen], support)
        return fitted(problem, path, chosen, scale, support)

    return [one_way(steps) for steps in ways]


def not_worse(problem: Problem, path: Params, support: Examples) -> jax.Array:
    """How many steps of a `path` are taken: all of them, unless the support rows are then missed more than before the first
    one, or by no finite number. Then it is the number after which they are missed least. Without support rows it is 0."""
    errors = jax.vmap(lambda theta: mean_error(problem, problem.predict(theta, support.inputs), support))(path)
    errors = jnp.where(jnp.isfinite(errors), errors, jnp.inf)
    most = errors.shape[0] - 1
    fine = jnp.isfinite(errors[most]) & (errors[most] <= errors[0])
    return jnp.where(jnp.any(support.weight > 0), jnp.where(fine, most, jnp.argmin(errors)), 0).astype(jnp.int32)


def fitted(problem: Problem, path: Params, chosen: jax.Array, scale: jax.Array, support: Examples) -> Fitted:
    """The task after `chosen` steps of its `path`."""
    adapted = at(path, chosen)
    before, after = (problem.predict(theta, support.inputs) for theta in (at(path, 0), adapted))
    error = [mean_error(problem, found, support) for found in (before, after)]
    moved = jnp.exp(after) - jnp.exp(before) if problem.format.classes else after - before
    change = jnp.sqrt(weighted_mean(jnp.mean(jnp.square(moved), axis=-1), known_part(support.weight)))
    return Fitted(adapted, chosen, scale, jnp.log(jnp.stack([*error, change]) + 1e-6))


def require_steps(problem: Problem, steps: Sequence[Steps]) -> None:
    """Raises `BadInput` where steps are left to the rows of a problem that does not leave rows out."""
    if "auto" in steps and problem.leave_one_out is None:
        raise BadInput(f"--steps auto is for tables: of {problem.name} no support rows are left out. Give a number of steps.")


def at(path: Params, step: jax.Array | int) -> Params:
    """θ after `step` steps, of a path that leads with them."""
    return jax.tree.map(lambda leaf: leaf[step], path)


def row_errors(problem: Problem, left_out: jax.Array, support: Examples) -> jax.Array:
    """The headline error [steps + 1, rows] of support rows that were predicted by all others."""
    assert problem.row_error is not None
    row_error = problem.row_error
    return jax.vmap(lambda outputs: errors_of(row_error, outputs, support))(left_out)


def mean_error(problem: Problem, outputs: jax.Array, examples: Examples) -> jax.Array:
    """The headline error over the examples that count."""
    assert problem.row_error is not None
    return weighted_mean(errors_of(problem.row_error, outputs, examples), known_part(examples.weight))


def miss(outputs: jax.Array, support: Examples) -> jax.Array:
    """Root mean square error [outputs] of support rows that were left out, and of a hundredth of a row that missed by 1."""
    weight = support.weight if support.weight.ndim > 1 else support.weight[:, None]
    squares = jnp.sum(jnp.square(outputs - support.targets) * weight, axis=0)
    return jnp.sqrt((squares + 1e-2) / (jnp.sum(weight, axis=0) + 1e-2))


def deviation(problem: Problem, fitted: Fitted, inputs: jax.Array) -> jax.Array:
    """[examples, outputs]: how far single targets are expected from the prediction, before calibration."""
    if problem.deviation is None:
        return jnp.broadcast_to(fitted.scale[None], (inputs.shape[0], fitted.scale.shape[0]))
    return problem.deviation(fitted.params, inputs)
