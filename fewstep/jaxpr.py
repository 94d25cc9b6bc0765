"""What a traced program holds (floor 0)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

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
