"""What a traced program holds.

Operations of a traced program replaced by others of the same value. Used by convolutions.py and pooling.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

DRAWS = ("random_bits", "threefry2x32", "rng_bit_generator", "rng_uniform")
"""primitives that draw random numbers"""


def programs_in(eqn: Any) -> list[Jaxpr]:
    """The programs inside a line: the body of a loop, the branches of a choice, what a call calls."""
    parts = [part for value in eqn.params.values() for part in (value if isinstance(value, tuple | list) else [value])]
    return [part.jaxpr if isinstance(part, ClosedJaxpr) else part for part in parts if isinstance(part, ClosedJaxpr | Jaxpr)]


def draws(program: Jaxpr) -> bool:
    """Whether random numbers are drawn anywhere in a program."""
    return any(eqn.primitive.name in DRAWS or any(map(draws, programs_in(eqn))) for eqn in program.eqns)


def randomness(function: Callable[..., Any], *arguments: Any) -> tuple[bool, bool]:
    """(whether `function` draws random numbers, whether it looks at its last argument, a key); shapes are enough."""
    program = jax.make_jaxpr(function)(*arguments).jaxpr
    return draws(program), looks_at(program, len(program.invars) - 1)


def looks_at(program: Jaxpr, place: int) -> bool:
    """Whether a program makes any use of its argument number `place`. In doubt, True: programs inside a line are followed where
    their arguments are those of the line."""
    argument = program.invars[place]
    if any(result is argument for result in program.outvars):
        return True
    for eqn in program.eqns:
        places = [number for number, atom in enumerate(eqn.invars) if not isinstance(atom, Literal) and atom is argument]
        inside = programs_in(eqn)
        alike = len(inside) == 1 and len(inside[0].invars) == len(eqn.invars)
        if any(not alike or looks_at(inside[0], number) for number in places):
            return True
    return False


Rules = Mapping[str, Callable[..., jax.Array]]
"""name of a primitive -> a function of its arguments, and of its parameters by name, to be used in its place"""
CALLS = ("jit", "pjit", "closed_call", "core_call")


def rewritten(function: Callable[..., Any], rules: Rules, differentiated: bool) -> Callable[..., Any]:
    """`function` with the primitives that `rules` name replaced, in loops, branches and calls too.

    Where the result is still to be `differentiated`, parts with derivatives of their own are left as they are; say True where
    that is done, and only their values matter. A function without such primitives is returned as it is, when it is called.
    """

    def call(*arguments: Any) -> Any:
        closed, result = jax.make_jaxpr(function, return_shape=True)(*arguments)
        if not _holds(closed.jaxpr, rules):
            return function(*arguments)
        outputs = _evaluate(closed, jax.tree.leaves(arguments), rules, differentiated)
        return jax.tree.unflatten(jax.tree.structure(result), outputs)

    return call


def holds(function: Callable[..., Any], primitive: str, *arguments: Any) -> bool:
    """Whether `function` makes use of the `primitive` on such arguments; shapes are enough."""
    return traced(function, primitive, *arguments)[0]


def traced(function: Callable[..., Any], primitive: str, *arguments: Any) -> tuple[bool, Callable[..., Any]]:
    """(whether `function` makes use of the `primitive` on such arguments, the same function of such arguments as it was traced
    for that, which saves tracing it once more); shapes are enough."""
    closed, result = jax.make_jaxpr(function, return_shape=True)(*arguments)
    structure = jax.tree.structure(result)

    def as_traced(*arguments: Any) -> Any:
        return jax.tree.unflatten(structure, jaxpr_as_fun(closed)(*jax.tree.leaves(arguments)))

    return _holds(closed.jaxpr, {primitive: jax.numpy.add}), as_traced


def _holds(jaxpr: Jaxpr, rules: Rules) -> bool:
    return any(eqn.primitive.name in rules or _inside(eqn, rules) for eqn in jaxpr.eqns)


def _inside(eqn: Any, rules: Rules) -> bool:
    """Whether a program inside this line holds such a primitive."""
    return any(_holds(part, rules) for part in programs_in(eqn))


def _evaluate(closed: ClosedJaxpr, arguments: Any, rules: Rules, differentiated: bool) -> list[Any]:
    """Line by line, as the program says, but for the rules."""
    jaxpr = closed.jaxpr
    values: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *arguments), strict=True))
    value_of = lambda variable: variable.val if hasattr(variable, "val") else values[variable]  # noqa: E731
    for eqn in jaxpr.eqns:
        given, name = [value_of(variable) for variable in eqn.invars], eqn.primitive.name
        custom = name in ("custom_jvp_call", "custom_vjp_call")
        if name in rules:
            outputs = [rules[name](*given, **eqn.params)]
        elif not _inside(eqn, rules) or (custom and not differentiated):
            outputs = _bind(eqn, given)
        elif name in CALLS or custom:
            inner = next(value for value in eqn.params.values() if isinstance(value, ClosedJaxpr))
            outputs = _evaluate(inner, given, rules, differentiated)
        else:
            params = {key: _rewritten(value, rules, differentiated) for key, value in eqn.params.items()}
            outputs = eqn.primitive.bind(*given, **params)
        values.update(zip(eqn.outvars, outputs if isinstance(outputs, list | tuple) else [outputs], strict=True))
    return [value_of(variable) for variable in jaxpr.outvars]


def _bind(eqn: Any, given: list[Any]) -> Any:
    """The line as it stands. How programs inside it are handed over has changed between versions of JAX."""
    parts = eqn.primitive.get_bind_params(eqn.params)
    functions, params = ((), parts) if isinstance(parts, dict) else parts
    return eqn.primitive.bind(*functions, *given, **params)


def _rewritten(value: Any, rules: Rules, differentiated: bool) -> Any:
    """A parameter of a loop or a branch, with the programs in it rewritten."""
    if isinstance(value, tuple | list):
        parts = [_rewritten(part, rules, differentiated) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)  # named tuples take them one by one
    if isinstance(value, ClosedJaxpr):  # from JAX 0.11.2 on, any program
        evaluate = lambda *arguments: _evaluate(value, arguments, rules, differentiated)  # noqa: E731
        return jax.make_jaxpr(evaluate)(*value.in_avals)
    if isinstance(value, Jaxpr):
        closed = _rewritten(ClosedJaxpr(value, ()), rules, differentiated)
        assert not closed.consts
        return closed.jaxpr
    return value
