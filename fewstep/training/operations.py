"""Counts the floating-point operations of matrix products and convolutions in a traced program."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import Jaxpr

from fewstep.core.jaxpr import programs_in


def operations(function: Callable[..., Any], *arguments: Any) -> int:
    """Multiplications and additions in the matrix products and convolutions on which the result of `function` depends. Scans
    count by their length, conditionals by their most expensive branch, loops without a fixed length as one iteration."""
    closed = jax.make_jaxpr(function)(*arguments)
    return _count(closed.jaxpr, [True] * len(closed.jaxpr.outvars))[0]


def _count(jaxpr: Jaxpr, wanted: list[bool]) -> tuple[int, list[bool]]:
    """(operations needed for the `wanted` outputs, which inputs they need), going from the last equation to the first."""
    needed = {variable for variable, want in zip(jaxpr.outvars, wanted, strict=True) if want and not hasattr(variable, "val")}
    total = 0
    for eqn in reversed(jaxpr.eqns):
        wants = [variable in needed for variable in eqn.outvars]
        if not any(wants):
            continue
        count, used = _equation(eqn, wants)
        total += count
        needed |= {variable for variable, use in zip(eqn.invars, used, strict=True) if use and not hasattr(variable, "val")}
    return total, [variable in needed for variable in jaxpr.invars]


def operations_of_equation(eqn: Any) -> int:
    """Operations of one matrix product or convolution; 0 for any other equation."""
    params = eqn.params
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
    if eqn.primitive.name == "conv_general_dilated":
        inputs, kernel, outputs = (variable.aval.shape for variable in (*eqn.invars, *eqn.outvars))
        numbers = params["dimension_numbers"]
        count = 2 * outputs[numbers.out_spec[0]] * outputs[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
        for place in range(2, len(kernel)):
            sizes = inputs[numbers.lhs_spec[place]], kernel[numbers.rhs_spec[place]], outputs[numbers.out_spec[place]]
            count *= _products_along(params, place - 2, *sizes)
        return count
    return 0


def _products_along(params: dict[str, Any], axis: int, inputs: int, kernel: int, outputs: int) -> int:
    """Number of pairs (output, kernel element) along one axis of a convolution that read an input, rather than padding or a
    hole left by dilation. The convolutions of gradients consist mostly of such holes."""
    before, _ = params["padding"][axis]
    hole = params["lhs_dilation"][axis]
    places = (
        np.arange(outputs)[:, None] * params["window_strides"][axis]
        + np.arange(kernel)[None, :] * params["rhs_dilation"][axis]
        - before
    )
    return int(np.sum((places >= 0) & (places <= (inputs - 1) * hole) & (places % hole == 0)))


def _equation(eqn: Any, wants: list[bool]) -> tuple[int, list[bool]]:
    params, everything = eqn.params, [True] * len(eqn.invars)
    if eqn.primitive.name == "scan":
        return _scan(params, wants)
    same = [part for part in programs_in(eqn) if len(part.outvars) == len(wants)]
    if not same:
        return operations_of_equation(eqn), everything
    counted = [_count(part, wants) for part in same]
    longest, used = max(counted, key=lambda each: each[0])
    return longest, used if len(used) == len(everything) and len(same) == 1 else everything


def _scan(params: dict[str, Any], wants: list[bool]) -> tuple[int, list[bool]]:
    """Counts what each iteration needs for its wanted outputs and for the carry that the next one needs."""
    jaxpr = params["jaxpr"].jaxpr
    if "ft_in" in params:  # from JAX 0.11.2 on
        consts, carried = (len(part) for part in params["ft_in"].unpack()[:2])
    else:
        consts, carried = params["num_consts"], params["num_carry"]
    while True:
        count, used = _count(jaxpr, wants)
        carry = [want or use for want, use in zip(wants[:carried], used[consts : consts + carried], strict=True)]
        if carry == wants[:carried]:
            return params["length"] * count, used
        wants = [*carry, *wants[carried:]]
