"""Is the meta-gradient of my model right? `check_meta_gradient` answers with finite differences in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from fewstep.core.jaxpr import holds, randomness
from fewstep.core.maml import Learner, TaskGradient, adapt, started
from fewstep.core.partition import is_array
from fewstep.core.types import Batch, Episode, Key, MetaParams, Params
from fewstep.core.validation import check_inputs, require_episode
from fewstep.errors import InputError
from fewstep.gradients import exact, first_order, stored
from fewstep.gradients.custom_rules import own_rules

DIRECTIONS = 8
"""random directions of all parameters together, beside one for each leaf"""
RELATIVE = (1e-5, 1e-4, 1e-3, 3e-3)
"""Steps of the finite differences, in parts of 1 + the largest parameter: the best counts. Where a model computes a part in
float32 whatever it is given, as attention its softmax, small steps drown in rounding."""
TOLERANCE = 1e-4


@dataclass(frozen=True)
class MetaGradientCheck:
    """What was found; `print` it for a table."""

    errors: dict[str, float]
    """path of a leaf of the meta-parameters -> difference to finite differences along a random direction of that leaf, in parts
    of the larger of the two"""
    random_errors: tuple[float, ...]
    """the same along random directions of all leaves together"""
    float32_error: float
    """between the meta-gradients in float32 and in float64, in parts of the norm of the latter"""
    cosine_to_first_order: float
    """between the exact and the first-order meta-gradient, in float64"""
    largest: dict[str, float]
    """path of a leaf -> largest entry of its meta-gradient"""
    draws: bool = False
    """whether the loss draws random numbers, such as masks of dropout"""
    looks_at_key: bool = True
    """whether the loss looks at its key; where it draws without it, all tasks and steps share one draw"""
    remarks: tuple[str, ...] = ()
    """what is known of the reasons: a way that is wrong, a loss whose gradient is not its derivative"""
    reason: str = ""
    """why the meta-gradient is not finite, where it is not"""

    @property
    def passed(self) -> bool:
        return not self.reason and max((*self.errors.values(), *self.random_errors)) <= TOLERANCE

    def __str__(self) -> str:
        width = max(len(path) for path in self.errors)
        lines = [f"{'meta-parameter':<{width}}  largest entry  error to finite differences"]
        for path, error in self.errors.items():
            mark = "" if error <= TOLERANCE else "   <- wrong"
            lines.append(f"{path:<{width}}  {self.largest[path]:13.3g}  {error:.1e}{mark}")
        lines.append(f"all together, {len(self.random_errors)} random directions: at most {max(self.random_errors):.1e}")
        drawn = ", with the same random numbers in both" if self.draws else ""
        lines.append(f"float32 against float64: {self.float32_error:.1e} of the norm{drawn}")
        lines.append(f"cosine between exact and first-order meta-gradient: {self.cosine_to_first_order:.4f}")
        if self.draws and not self.looks_at_key:
            lines.append(
                "The loss draws random numbers without looking at its key: all tasks, steps and meta-steps share one draw."
            )
        elif not self.looks_at_key:
            lines.append("The loss does not look at its key: it is the same for every key.")
        if self.reason:
            lines.append(f"The meta-gradient is not finite: {self.reason}")
        passed = "The meta-gradient is right" if self.passed else "The meta-gradient is NOT the derivative of the objective"
        lines.append(f"{passed} (errors up to {TOLERANCE:g} are those of finite differences).")
        return "\n".join((*lines, *self.remarks))


def check_meta_gradient(
    learner: Learner, params: MetaParams, episode: Episode, key: Key, step: int = 0, seed: int = 0
) -> MetaGradientCheck:
    """Compares the exact meta-gradient of one task with central differences of its objective, all in float64.

    Along a random direction d of each leaf, and of all of them: |(J(θ + ε d) − J(θ − ε d)) / 2 ε − ∇J·d|. Keys are the same in
    all evaluations. A leaf's error is large where a loss has a kink nearby too (ReLU, max-pooling): `random_errors` then tell.
    If the meta-gradient is wrong, the two exact ways are compared, and the gradient of the loss with its finite differences.
    JAX draws other random numbers in float64 than in float32. Where a loss draws any, the comparison with float32 is made with
    parameters of that type and the draws of float64. Raises `InputError` where the objective is not finite, and where learner,
    parameters and episode do not fit together.
    """
    require_episode(episode, key)
    check_inputs(learner, params, *jax.tree.map(_as_batch, (episode, key)))
    start = jax.eval_shape(lambda params: started(learner, params, episode.support, key), params)
    draws, looks_at_key = randomness(learner.loss, start, episode.support, key)
    with jax.enable_x64(draws or jnp.result_type(float) == jnp.float64):
        narrow_params, narrow_episode = jax.tree.map(_narrow, (params, episode))
        single = jax.jit(lambda params: exact(learner, params, narrow_episode, key, jnp.asarray(step))[1])(narrow_params)
        single = np.asarray(ravel_pytree(single)[0], np.float64)
    with jax.enable_x64(True):
        wide_params, wide_episode = jax.tree.map(_wide, (params, episode))
        flat, restore = ravel_pytree(wide_params)
        objective = jax.jit(lambda flat: learner.objective(learner, restore(flat), wide_episode, key, jnp.asarray(step)))
        if not np.isfinite(objective(flat)):
            raise InputError(f"check_meta_gradient: expected a finite objective, got {float(objective(flat))}.")

        def gradient_by(way: TaskGradient, learner: Learner = learner) -> np.ndarray:
            found = jax.jit(lambda each: way(learner, each, wide_episode, key, jnp.asarray(step))[1])(wide_params)
            return np.asarray(ravel_pytree(found)[0])

        gradient, rough = gradient_by(exact), gradient_by(first_order)
        rng, norm = np.random.default_rng(seed), float(np.linalg.norm(gradient))
        paths, places = _places(wide_params)
        errors = {}
        for path, place in zip(paths, places, strict=True):
            direction = np.zeros(flat.size)
            direction[place] = somewhere_near(gradient[place], rng)
            errors[path] = error_along(direction, objective, flat, gradient)
        mixed = [somewhere_near(gradient, rng) for _ in range(DIRECTIONS)]
        found = MetaGradientCheck(
            errors,
            tuple(error_along(direction, objective, flat, gradient) for direction in mixed),
            float(np.linalg.norm(single - gradient) / max(norm, 1e-30)),
            float(gradient @ rough / max(norm * float(np.linalg.norm(rough)), 1e-30)),
            {path: float(np.abs(gradient[place]).max(initial=0)) for path, place in zip(paths, places, strict=True)},
            draws=draws,
            looks_at_key=looks_at_key,
            reason=_why_not_finite(
                gradient, rough, lambda: gradient_by(exact, replace(learner, inner_optimizer=optax.sgd(1e-3)))
            ),
        )
        remarks = remarks_on_loss(learner, wide_params, wide_episode, key, found.passed)
        if not found.passed:
            by_stored = gradient_by(stored)
            apart = float(np.linalg.norm(by_stored - gradient)) / max(norm, 1e-30)
            if apart > TOLERANCE:
                right = max(error_along(direction, objective, flat, by_stored) for direction in mixed) <= TOLERANCE
                advice = " `stored` agrees with finite differences: use it as task_gradient." if right else ""
                blame = f"`exact` and `stored` differ by {apart:.1e} of the norm: a way is wrong, not the model.{advice}"
                remarks = (blame, *remarks)
        return replace(found, remarks=remarks)


def error_along(direction: np.ndarray, function: Callable[[Any], jax.Array], at: jax.Array, gradient: np.ndarray) -> float:
    """Between the derivative of `function` at `at` [n] along `direction` that its `gradient` claims and the one by central
    differences, in parts of the larger of the two: the least over the sizes of step."""
    direction = direction / max(float(np.linalg.norm(direction)), 1e-30)
    claimed, errors = float(gradient @ direction), []
    norm = float(np.linalg.norm(gradient))
    for size in (relative * (1.0 + float(jnp.max(jnp.abs(at)))) for relative in RELATIVE):
        measured = float(function(at + size * direction) - function(at - size * direction)) / (2 * size)
        errors.append(abs(measured - claimed) / max(abs(measured), abs(claimed), 1e-6 * norm, 1e-12))
    return min(errors)


def remarks_on_loss(learner: Learner, params: MetaParams, episode: Episode, key: Key, passed: bool) -> tuple[str, ...]:
    """In words, of each set on which the gradient of the loss is not its derivative: that it is not, and what may be why."""
    start, adapted = (
        jax.jit(lambda params, find=find: find(learner, params, episode.support, key))(params) for find in (started, adapt)
    )
    rules = own_rules(learner.loss, start, episode.support, key)
    if passed and not rules:
        return ()
    why = ""
    if rules:
        why = f": it has derivative rules of its own ({', '.join(rules)})"
    elif holds(learner.loss, "stop_gradient", start, episode.support, key):
        why = ": it makes use of stop_gradient, and what that stops is a constant in every derivative"
    remarks = []
    for name, point, batch in (("support", start, episode.support), ("query", adapted, episode.query)):
        error = slope_error(learner, point, batch, key)
        if error > TOLERANCE:
            sizes = f"error to finite differences {error:.1e}"
            remarks.append(f"On the {name} set the gradient of the loss is not its derivative ({sizes}){why}.")
    if remarks and passed:
        remarks.append("Adaptation follows that gradient, and the meta-gradient is the derivative of the query loss after it.")
    return tuple(remarks)


def slope_error(learner: Learner, point: Params, batch: Batch, key: Key) -> float:
    """Error of the learner's inner gradient along random directions: the median, which a kink nearby in some does not move."""
    flat, restore = ravel_pytree(point)
    loss = jax.jit(lambda flat: learner.loss(restore(flat), batch, key))
    found = jax.jit(lambda point: learner.inner_gradient(learner.loss)(point, batch, key))(point)
    gradient, rng = np.asarray(ravel_pytree(found)[0]), np.random.default_rng(0)
    return float(np.median([error_along(somewhere_near(gradient, rng), loss, flat, gradient) for _ in range(DIRECTIONS)]))


def _why_not_finite(gradient: np.ndarray, rough: np.ndarray, by_descent: Callable[[], np.ndarray]) -> str:
    """What is not finite, by the exact meta-gradient, the first-order one, and the exact one by plain gradient descent."""
    if np.isfinite(gradient).all():
        return ""
    if not np.isfinite(rough).all():
        return "neither is the first-order one. The loss has no derivative at θ′ (a norm or a root of zero?)."
    if not np.isfinite(by_descent()).all():
        return "the loss has no second derivative on the support set (a norm or a root of zero?)."
    return (
        "the update of the inner optimizer has no derivative. Give it eps_root=1e-8, if it takes that, or use another inner "
        "optimizer, or gradients.first_order."
    )


def somewhere_near(gradient: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random direction, but not across the gradient, where two numbers near zero would be compared."""
    return gradient + rng.normal(size=gradient.size) * np.sqrt(np.mean(np.square(gradient)))


def _as_batch(leaf: Any) -> Any:
    """The leaf of one task as that of a meta-batch of one."""
    return leaf[None] if is_array(leaf) else jnp.asarray(leaf)[None] if isinstance(leaf, int | float) else leaf


def _narrow(leaf: Any) -> Any:
    return jnp.asarray(leaf, jnp.float32) if jnp.result_type(leaf) == jnp.float64 else leaf


def _wide(leaf: Any) -> Any:
    return jnp.asarray(leaf, jnp.float64) if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating) else leaf


def _places(params: MetaParams) -> tuple[list[str], list[slice]]:
    """The path of each leaf, and where it lies in the flat vector."""
    paths, places, start = [], [], 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        paths.append(jax.tree_util.keystr(path).lstrip("."))
        places.append(slice(start, start + leaf.size))
        start += leaf.size
    return paths, places
