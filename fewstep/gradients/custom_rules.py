"""Parts of a loss with a derivative rule of their own: `jax.custom_vjp`, `jax.custom_jvp`, `jax.custom_gradient`,
`custom_linear_solve`. Used by exact.py and implicit.py, and by check.py for its explanations.

Reverse mode turns a loss into a field g(θ). If all rules are derivatives, g is a gradient and its Jacobian, the Hessian,
is symmetric. A rule that is not a derivative (a gradient reversal, a surrogate gradient) breaks this symmetry. A product
with the Jacobian is then not the product with its transpose, of which a meta-gradient consists. Whether a rule is a
derivative cannot be seen in a program, so every rule counts as one that is not, except those listed here. `stop_gradient`
is no such rule: a part that it makes constant is constant in derivatives of all orders, so the Jacobian stays symmetric."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import optax
from jax.extend.core import Jaxpr, JaxprEqn

from fewstep.core.jaxpr import programs_in

JAX, OPTAX, FEWSTEP = Path(jax.__file__).parent / "_src", Path(optax.__file__).parent, Path(__file__).parents[1]
OF_JAX, OF_OPTAX = ("nn", "numpy", "scipy", "third_party"), ("losses", "projections")
FOLDERS = (*(JAX / name for name in OF_JAX), *(OPTAX / name for name in OF_OPTAX), FEWSTEP / "nn")
KNOWN = (*(os.path.join(folder, "") for folder in FOLDERS), str(JAX / "lax" / "other.py"))
"""Where the rules of `custom_jvp` functions are derivatives: `softmax`, `logaddexp`, `xlogy`, `slogdet`, ..."""
DEFJVPS, BY_DEFJVPS = str(JAX / "custom_derivatives.py"), ("relu", "relu6", "logit", "log1mexp")
"""`defjvps` wraps every rule in a function of this file, so its users in JAX are known by name."""
DIRECT_SOLVES = str(JAX / "lax" / "linalg.py")
"""`jnp.linalg.solve` and its like. An iterative solver stops early, and its derivative is another approximation."""
RULES = ("linear_call", "call_hi_primitive")
"""Primitives with rules of their own, beside all whose name begins with `custom_`."""


def own_rules(function: Callable[..., Any], *arguments: Any) -> tuple[str, ...]:
    """The parts of `function` whose derivative rules are not known to be derivatives, as "name at file:line", also inside
    loops, branches, calls and `jax.checkpoint`. Traces `function` once; shapes are enough as arguments."""
    lines = _lines_with_rules(jax.make_jaxpr(function)(*arguments).jaxpr)
    return tuple(dict.fromkeys(_shown(line) for line in lines if not _is_derivative(line)))


def _lines_with_rules(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    for eqn in jaxpr.eqns:
        if eqn.primitive.name.startswith("custom_") or eqn.primitive.name in RULES:
            yield eqn
        else:
            for part in programs_in(eqn):
                yield from _lines_with_rules(part)


def _is_derivative(eqn: JaxprEqn) -> bool:
    """Whether the rule is one of those known to be derivatives."""
    if eqn.primitive.name == "custom_linear_solve":
        return _about(eqn.params["jaxprs"].solve, "func_filename") == DIRECT_SOLVES
    if eqn.primitive.name != "custom_jvp_call":
        return False
    function, rule_file = eqn.params["call_jaxpr"], _about(eqn.params["jvp_jaxpr_fun"], "func_filename")
    if rule_file != DEFJVPS:
        return rule_file.startswith(KNOWN)
    # A user's rule around a function of JAX, `jax.custom_jvp(jax.nn.relu)`, has the function's own rule inside.
    bare = next(_lines_with_rules(function.jaxpr), None) is None
    known = _about(function, "func_filename").startswith(KNOWN) and _about(function, "func_name") in BY_DEFJVPS
    return bare and known


def _shown(eqn: JaxprEqn) -> str:
    solves = eqn.params.get("jaxprs")
    program = eqn.params.get("call_jaxpr", getattr(solves, "solve", None))
    return _about(program, "func_src_info") or eqn.primitive.name


def _about(program: Any, what: str) -> str:
    """What JAX remembers of the Python function behind a program; empty if nothing, which makes it an unknown one."""
    return str(getattr(getattr(getattr(program, "jaxpr", program), "debug_info", None), what, None) or "")
