"""The updates of an inner optimizer, with a derivative where a gradient is zero. Used by maml.py.

Many optimizers divide by the root of an average of squares. Where a gradient is exactly zero (a ReLU unit that is never
on, a parameter that the loss does not look at), the slope of the root is infinite, its factor is zero, and the product is
NaN, in all of the meta-gradient. Here a slope that is not finite counts as zero. For Adam and its relatives this is the
derivative: where the average of squares is zero, so is the average that is divided by its root. The same rule covers the
branch of a choice that is computed but not taken (`optax.clip_by_global_norm` of zero, `optax.radam`). Updates stay as
they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from fewstep.core.jaxpr import programs_in, rewritten


def differentiable(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """`optimizer`, of the same updates, whose derivatives are finite where a gradient is zero. One that has none of the
    operations `STEEP` is used as it is."""
    if not isinstance(optimizer, optax.GradientTransformation):
        return optimizer  # refused elsewhere

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        of_arrays = lambda *arrays: optimizer.update(*arrays, **extra)  # noqa: E731
        lines = list(_lines(jax.make_jaxpr(of_arrays)(updates, state, params).jaxpr))
        if not any(line.primitive.name in STEEP for line in lines):
            return of_arrays(updates, state, params)
        chooses = any(line.primitive.name == "select_n" and _is_float(line.outvars[0].aval) for line in lines)
        rules = STEEP | FACTORS if chooses else STEEP
        return rewritten(of_arrays, rules, differentiated=False)(updates, state, params)

    takes_more = isinstance(optimizer, optax.GradientTransformationExtraArgs)
    kind = optax.GradientTransformationExtraArgs if takes_more else optax.GradientTransformation
    return kind(optimizer.init, update)  # type: ignore[arg-type]


def _bounded(operation: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """An elementwise operation; where a slope of it is not finite, it counts as zero."""

    @jax.custom_jvp
    def bounded(*arguments: jax.Array) -> jax.Array:
        return operation(*arguments)

    def derivative(arguments: tuple[jax.Array, ...], tangents: tuple[Any, ...]) -> tuple[jax.Array, Any]:
        value, change = operation(*arguments), None
        for place, tangent in enumerate(tangents):
            if isinstance(tangent, jax.custom_derivatives.SymbolicZero):
                continue
            of_one = lambda moved, place=place: operation(*arguments[:place], moved, *arguments[place + 1 :])  # noqa: E731
            slope = jax.jvp(of_one, (arguments[place],), (jnp.ones_like(arguments[place]),))[1]
            part = jnp.where(jnp.isfinite(slope), slope, 0) * tangent
            change = part if change is None else change + part
        return value, jnp.zeros_like(value) if change is None else change

    bounded.defjvp(derivative, symbolic_zeros=True)

    def in_place(*arguments: jax.Array, **_: Any) -> jax.Array:
        return bounded(*arguments) if _is_float(jnp.asarray(arguments[0])) else operation(*arguments)

    return in_place


def _lines(program: Any) -> Iterator[Any]:
    """The lines of a program and of those inside it."""
    for line in program.eqns:
        yield line
        for part in programs_in(line):
            yield from _lines(part)


def _is_float(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jnp.inexact)


STEEP = {name: _bounded(getattr(lax, name)) for name in ("sqrt", "rsqrt", "cbrt", "log", "div", "pow")}
"""operations whose slope may be infinite where their value is not"""
FACTORS = {"mul": _bounded(lax.mul)}
"""products: beside a choice, a factor may be NaN where it was not taken"""
