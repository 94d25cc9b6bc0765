"""Compiled programs whose data are arguments: one program serves all tables of one shape.

A function that closes over arrays (the rows of a table) is compiled with their values in it: slowly, where they are many,
and anew for every fold of a cross-validation, every seed, every process. Here they become arguments, and programs that
differ in them alone are the same program, in this process and in JAX's compilation cache. Tracing takes time, too, as
much as a short training: what was made of a problem `once` serves all trainings of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

MOST_PROGRAMS = 64
_programs: dict[tuple[str, Any, Any], Callable[..., Any]] = {}
"""by their text and the structure of what they take and give; the oldest goes first"""


def jit_hoisted(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit(function)`, with the arrays that `function` closes over as arguments."""
    traced: dict[Any, tuple[Callable[..., Any], Any]] = {}

    def call(*arguments: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        shapes = structure, tuple(jax.typeof(leaf) for leaf in leaves)
        if shapes not in traced:
            traced[shapes] = _trace(function, arguments)
        program, constants = traced[shapes]
        return program(constants, arguments)

    return call


def cached(problem: Any, make: Callable[..., Any], *others: Any) -> Any:
    """`make(problem, *others)`, made once for this very problem and these others, which are hashed."""
    key = make, *others
    if key not in problem.made:
        problem.made[key] = make(problem, *others)
    return problem.made[key]


def forget() -> None:
    """Lets go of all programs, for a process that goes on with other things."""
    _programs.clear()


def _trace(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Callable[..., Any], Any]:
    """(the program of `function`, the arrays that it closes over)."""
    closed, result = jax.make_jaxpr(function, return_shape=True)(*arguments)
    structure = jax.tree.structure(result)
    key = (str(closed.jaxpr), jax.tree.structure(arguments), structure)
    if key not in _programs:
        if len(_programs) >= MOST_PROGRAMS:
            _programs.pop(next(iter(_programs)))
        jaxpr = closed.jaxpr

        def program(constants, arguments):
            outputs = jaxpr_as_fun(ClosedJaxpr(jaxpr, constants))(*jax.tree.leaves(arguments))
            return jax.tree.unflatten(structure, outputs)

        _programs[key] = jax.jit(program)
    return _programs[key], closed.consts
