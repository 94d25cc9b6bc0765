"""Adaptation of some parameters alone: the others stay as θ has them, and their part of the work is done once.

ANIL moves the last layer alone (Raghu, Raghu, Bengio & Vinyals 2020, arXiv 1909.09157), BOIL all but it (Oh, Yoo, Kim & Yun
2021, 2008.08882), FiLM the scales and shifts of channels (Perez et al. 2018, 1709.07871), and LoRA what lora.py adds.

What does not depend on a leaf that moves (the features of ANIL's support set) is the same in every step. So the first step
works it out and hands it on, and the way back goes through it once, with the sum of what all steps ask of it. XLA finds the
first half of this itself in steps that it sees side by side, never the second: that backward passes add up.

Parameters by name: what the other files of this folder choose leaves of a pytree by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

from fewstep.core.jaxpr import CALLS
from fewstep.core.maml import INNER_GRADIENT, AdaptationStep, Learner
from fewstep.core.types import Batch, Key, Params
from fewstep.errors import InputError

SHOWN = 20
"""so many paths at most are listed where a name is none of them"""


def paths_of(params: Params) -> tuple[str, ...]:
    """The name of every leaf, in the order of `jax.tree.leaves`: "body.layers.0.kernel"."""
    return tuple(path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))


def path_name(path: tuple) -> str:
    """A key path of JAX's as one word."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def chosen(params: Params, names: Sequence[str]) -> Params:
    """A pytree like `params` with True for each leaf that one of the `names` means, else False.

    A name means the leaf of this path and all leaves below it ("head.kernel", "body", "body.layers.0"), and without a dot also
    all those with such a part in their path ("scales" means every body.scales.N). Raises `InputError` for one that means none.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    paths = paths_of(params)
    for name in names:
        if not any(_means(name, path) for path in paths):
            shown = ", ".join(paths[:SHOWN]) + (f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else "")
            raise InputError(
                f"expected the name of parameters, got {name!r}; there are: {shown}. Give one of these, the beginning of one "
                "up to a dot, or a single part between dots."
            )
    return jax.tree.unflatten(jax.tree.structure(params), [any(_means(name, path) for name in names) for path in paths])


def _means(name: str, path: str) -> bool:
    return name == path or path.startswith(f"{name}.") or ("." not in name and name in path.split("."))


Choice = Callable[[Params], Any] | Sequence[str]
"""names (see paths.py), or a function from parameters to a pytree of bool like them or like the upper part of it"""


def adapt_only(choose: Choice) -> AdaptationStep:
    """An adaptation step, as a value for `Learner.adaptation_step`, in which the chosen leaves move and all others stay.

    For the inner optimizer, whichever it is, the gradient of the others is 0. Raises `InputError`, where it is used, for a name
    that means no parameter.
    """
    return PartialStep(choose if callable(choose) else (choose,) if isinstance(choose, str) else tuple(choose))


class Begun(NamedTuple):
    """The state of a `PartialStep` after the first one."""

    opt_state: Any
    known: list[jax.Array]
    """all that no moving leaf has a part in, and that the loss still needs where one has"""


@dataclass(frozen=True)
class PartialStep:
    """What `moves` returns: a value, so that two learners that move the same leaves are one program."""

    choose: Callable[[Params], Any] | tuple[str, ...]
    partial: ClassVar[bool] = True
    """says so to gradients that need all parameters to move"""

    def __call__(
        self, learner: Learner, optimizer: optax.GradientTransformation, state: tuple[Params, Any], support: Batch, key: Key
    ) -> tuple[Params, Any]:
        adapted, opt_state = state
        mask = chosen(adapted, self.choose) if isinstance(self.choose, tuple) else self.choose(adapted)
        mask = jax.tree.leaves(jax.tree.broadcast(mask, adapted))

        def split(params: Params) -> list[list[Any]]:
            pairs = list(zip(mask, jax.tree.leaves(params), strict=True))
            return [[leaf for is_moving, leaf in pairs if is_moving == which] for which in (True, False)]

        def whole(moving: Any, staying: Any) -> Params:
            parts = {True: iter(moving), False: iter(staying)}
            return jax.tree.unflatten(jax.tree.structure(adapted), [next(parts[is_moving]) for is_moving in mask])

        def loss(moving: list[Any], key: Key, staying: list[Any], support: Batch) -> jax.Array:
            return learner.loss(whole(moving, staying), support, key)

        moving, staying = split(adapted)
        moving = [jnp.asarray(leaf, jnp.result_type(leaf)) for leaf in moving]  # of one type in all steps, plain numbers too
        early, late = divided(loss, (moving, key), (staying, support))
        opt_state, known = opt_state if isinstance(opt_state, Begun) else (opt_state, early(staying, support))
        gradient = learner.inner_gradient(lambda moving, known, key: late(known, moving, key))(moving, known, key)
        gradient = whole(checkpoint_name(gradient, INNER_GRADIENT), jax.tree.map(jnp.zeros_like, staying))
        updates, opt_state = optimizer.update(gradient, opt_state, adapted)
        adapted = whole(optax.apply_updates(moving, split(updates)[0]), staying)
        # Steps that are done again on the way back are all of one scan, whose state must keep its form: each works out its own.
        return adapted, opt_state if learner.rematerialize else Begun(opt_state, known)


def divided(function: Callable[..., Any], changing: tuple, given: tuple) -> tuple[Callable[..., list], Callable[..., Any]]:
    """(early, late): `early(*given)` is all of `function(*changing, *given)` that only depends on `given`, a list of arrays;
    `late(that list, *changing)` does the rest. Looks at shapes alone; two times the same shapes are divided in the same way."""
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*changing, *given)
    program = closed.jaxpr
    lines, results = _inlined(program, {})
    first = program.invars[: len(jax.tree.leaves(changing))]
    changed, first_lines, last_lines = set(first), [], []
    for line in lines:
        if line.effects or changed.intersection(_variables(line.invars)):
            changed.update(line.outvars)
            last_lines.append(line)
        else:
            first_lines.append(line)
    used = [var for line in last_lines for var in _variables(line.invars)] + _variables(results)
    known = [var for var in dict.fromkeys(used) if var not in changed]

    def early(*given: Any) -> list[jax.Array]:
        part = program.replace(invars=program.invars[len(first) :], outvars=known, eqns=first_lines)
        return jaxpr_as_fun(ClosedJaxpr(part, closed.consts))(*jax.tree.leaves(given))

    def late(known_values: list[jax.Array], *changing: Any) -> Any:
        part = program.replace(constvars=[], invars=[*known, *first], outvars=results, eqns=last_lines)
        outputs = jaxpr_as_fun(ClosedJaxpr(part, ()))(*known_values, *jax.tree.leaves(changing))
        return jax.tree.unflatten(jax.tree.structure(shape), outputs)

    return early, late


def _variables(atoms: Sequence[Any]) -> list[Var]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _inlined(program: Jaxpr, names: dict[Var, Any]) -> tuple[list[JaxprEqn], list[Any]]:
    """(lines, results) of a program, with the lines of those that it calls; `names` says what variables are called outside."""
    named = lambda atoms: [atom if isinstance(atom, Literal) else names.get(atom, atom) for atom in atoms]  # noqa: E731
    lines = []
    for line in program.eqns:
        given, called = named(line.invars), [value for value in line.params.values() if isinstance(value, ClosedJaxpr)]
        if line.primitive.name in CALLS and len(called) == 1 and not called[0].consts:
            inner, results = _inlined(called[0].jaxpr, dict(zip(called[0].jaxpr.invars, given, strict=True)))
            lines += inner
        else:
            # New ones, since a program that is called twice has the same variables twice.
            results = [Var(var.aval) for var in line.outvars]
            lines.append(line.replace(invars=given, outvars=results))
        names.update(zip(line.outvars, results, strict=True))
    return lines, named(program.outvars)
