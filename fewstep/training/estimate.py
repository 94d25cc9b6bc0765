"""What one meta-step takes, before a run (floor 3): memory from the compiled program, operations from the traced one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr

from fewstep.gradients import exact, first_order, stored
from fewstep.gradients.auto import bytes_of, device_memory
from fewstep.maml import Learner, TaskGradient, meta_gradient
from fewstep.nn.rewriting import programs_in
from fewstep.training.plan import fitted
from fewstep.types import Episode, MetaParams

WAYS: dict[str, TaskGradient] = {"exact": exact, "stored": stored, "first-order": first_order}


class Estimate(NamedTuple):
    """Of one meta-step by one way to its gradient."""

    temporary: int
    """bytes beside parameters and episodes"""
    operations: int
    """floating-point operations of its matrix products and convolutions"""
    tasks_at_once: int


class Estimates(NamedTuple):
    """By all ways."""

    ways: dict[str, Estimate]
    given: int
    """bytes of parameters and of a meta-batch of episodes"""
    memory: int
    """bytes of the device"""


def estimate(learner: Learner, params: MetaParams, episode: Episode, tasks: int) -> Estimates:
    """Compiles one meta-step on a meta-batch of so many `tasks` by each of `WAYS`; nothing is run. `params` and `episode`
    (of one task) may be shapes alone."""
    many = lambda leaf: jax.ShapeDtypeStruct((tasks, *leaf.shape), leaf.dtype)  # noqa: E731
    key = jax.eval_shape(lambda: jax.random.key(0))
    episodes, keys = jax.tree.map(many, (episode, key))
    step = jax.ShapeDtypeStruct((), jnp.int32)
    found = {}
    for name, way in WAYS.items():
        each = fitted(replace(learner, task_gradient=way), params, episode, tasks)

        def one_meta_step(params, episodes, keys, step, each=each):
            return meta_gradient(each, params, episodes, keys, step)

        compiled = jax.jit(one_meta_step).lower(params, episodes, keys, step).compile()
        temporary = compiled.memory_analysis().temp_size_in_bytes  # type: ignore[union-attr]
        count = operations(one_meta_step, params, episodes, keys, step)
        found[name] = Estimate(temporary, count, each.tasks_at_once or tasks)
    return Estimates(found, bytes_of((params, episodes)), device_memory())


def operations(function: Callable[..., Any], *arguments: Any) -> int:
    """Multiplications and additions of the matrix products and convolutions that `function` needs for its result, loops by
    their length. Of a branch the longest counts, of a loop without a fixed length one round."""
    closed = jax.make_jaxpr(function)(*arguments)
    return _count(closed.jaxpr, [True] * len(closed.jaxpr.outvars))[0]


def _count(jaxpr: Jaxpr, wanted: list[bool]) -> tuple[int, list[bool]]:
    """(operations that the `wanted` outputs need, which inputs they need): from the last line to the first."""
    needed = {variable for variable, want in zip(jaxpr.outvars, wanted, strict=True) if want and not hasattr(variable, "val")}
    total = 0
    for eqn in reversed(jaxpr.eqns):
        wants = [variable in needed for variable in eqn.outvars]
        if not any(wants):
            continue
        count, used = _line(eqn, wants)
        total += count
        needed |= {variable for variable, use in zip(eqn.invars, used, strict=True) if use and not hasattr(variable, "val")}
    return total, [variable in needed for variable in jaxpr.invars]


def _line(eqn: Any, wants: list[bool]) -> tuple[int, list[bool]]:
    params, everything = eqn.params, [True] * len(eqn.invars)
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted), everything
    if eqn.primitive.name == "conv_general_dilated":
        kernel, spec = eqn.invars[1].aval.shape, params["dimension_numbers"].rhs_spec
        window = math.prod(kernel[axis] for axis in spec[1:])
        return 2 * math.prod(eqn.outvars[0].aval.shape) * window // math.prod(params["lhs_dilation"]), everything
    if eqn.primitive.name == "scan":
        return _scan(params, wants)
    same = [part for part in programs_in(eqn) if len(part.outvars) == len(wants)]
    if not same:
        return 0, everything
    counted = [_count(part, wants) for part in same]
    longest, used = max(counted, key=lambda each: each[0])
    return longest, used if len(used) == len(everything) and len(same) == 1 else everything


def _scan(params: dict[str, Any], wants: list[bool]) -> tuple[int, list[bool]]:
    """A round counts what it needs for what is wanted of it, and for what the next round wants."""
    jaxpr, consts, carried = params["jaxpr"].jaxpr, params["num_consts"], params["num_carry"]
    while True:
        count, used = _count(jaxpr, wants)
        carry = [want or use for want, use in zip(wants[:carried], used[consts : consts + carried], strict=True)]
        if carry == wants[:carried]:
            return params["length"] * count, used
        wants = [*carry, *wants[carried:]]
