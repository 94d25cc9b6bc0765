"""Compilation with hoisted constants: data become arguments, so one program serves all tables of one shape.

`jax.jit` compiles the arrays that a function closes over (the rows of a table) into the program: slow for many rows, and
repeated for each fold of a cross-validation, each seed and each process. Here they become arguments, so programs that differ
only in data are shared within the process and in JAX's compilation cache. Tracing can take as long as a short training, so
`cached` keeps what was made for a problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

MOST_PROGRAMS = 64
_programs: dict[tuple[str, Any, Any], Callable[..., Any]] = {}
"""by program text and the structures of inputs and outputs; the oldest is evicted first"""


def jit_hoisted(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit(function)`, with the arrays that `function` closes over passed as arguments."""
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
    """`make(problem, *others)`, computed once for this problem object and these `others`, which must be hashable."""
    key = make, *others
    if key not in problem.made:
        problem.made[key] = make(problem, *others)
    return problem.made[key]


def forget() -> None:
    """Releases all cached programs."""
    _programs.clear()


def _trace(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Callable[..., Any], Any]:
    """(the compiled program of `function`, the arrays that it closes over)."""
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
