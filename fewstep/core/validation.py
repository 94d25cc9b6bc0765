"""Whether a learner, its parameters and its episodes fit together, before anything is compiled. Used by maml.py.

Checks look at types and shapes, once for each tracing. What takes a tracing to find out, `checked` asks only after an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from fewstep.core.half_precision import require_precise
from fewstep.core.jaxpr import draws, looks_at
from fewstep.core.partition import is_array, is_learned
from fewstep.core.types import Episode, Key, Loss, MetaParams
from fewstep.errors import InputError, TrainingError

SHOWN = 10
"""so many tasks at most are listed by number"""
INNER_OPTIMIZER = (
    "Learner.inner_optimizer: expected an optax optimizer such as optax.sgd(0.01), or a function from MetaParams.inner to one"
)


def require_learner(loss: Any, inner_optimizer: Any, adaptation_steps: Any, tasks_at_once: Any) -> None:
    """Raises `InputError` for fields of a `Learner` that are of another kind."""
    if not callable(loss):
        raise InputError(f"Learner.loss: expected a function loss(params, batch, key), got {kind_of(loss)}.")
    if not (isinstance(inner_optimizer, optax.GradientTransformation) or callable(inner_optimizer)):
        raise InputError(f"{INNER_OPTIMIZER}, got {kind_of(inner_optimizer)}.")
    _require_count("Learner.adaptation_steps", adaptation_steps, 0)
    if tasks_at_once is not None:
        _require_count("Learner.tasks_at_once", tasks_at_once, 1)


def require_episode(episode: Any, key: Any) -> None:
    """Raises `InputError` for what is no episode or no single key."""
    if not isinstance(episode, Episode):
        raise InputError(f"episode: expected fewstep.Episode(support, query), got {kind_of(episode)}.")
    _require_keys("key", key, 0)


def check_inputs(learner: Any, params: MetaParams, episodes: Episode, keys: Key) -> None:
    """Raises `InputError` that names the leaf, what was expected and what came. Traces the loss and one inner update."""
    _require_params(params)
    _require_keys("keys", keys, 1)
    if not isinstance(episodes, Episode):
        raise InputError(f"episodes: expected fewstep.Episode(support, query), got {kind_of(episodes)}.")
    tasks = keys.shape[0]
    if tasks == 0:
        raise InputError("keys: expected at least one task, got none. A mean over no task is no number.")
    for path, leaf in jax.tree_util.tree_leaves_with_path(episodes):
        if is_array(leaf) and np.shape(leaf)[:1] != (tasks,):
            raise InputError(
                f"episodes{name_of(path)}: expected the task axis first, of {tasks} tasks as many as keys, got the shape "
                f"{np.shape(leaf)}."
            )
        if not is_array(leaf):
            raise InputError(
                f"episodes{name_of(path)}: expected an array with the task axis first, got {kind_of(leaf)}. What is the same "
                "for all tasks (settings, functions) belongs into the loss."
            )
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], jnp.result_type(leaf)), episodes)
    key = jax.ShapeDtypeStruct(keys.shape[1:], keys.dtype)
    theta = jax.tree.map(_shape, params.theta)
    for name, batch in zip(("support", "query"), one, strict=True):
        _require_number(learner.loss, theta, batch, key, name)
    _require_matching(learner.optimizer(params.inner), theta)


def require_outer_optimizer(optimizer: Any, params: Any) -> None:
    """Raises `InputError` for what is no optimizer, for parameters that cannot be learned, and for those in half precision
    where the optimizer needs more."""
    _require_outer(optimizer)
    _require_params(params)
    require_precise("outer optimizer", optimizer, params)


def require_gradient(optimizer: Any, state: Any, gradient: Any) -> None:
    """Raises `InputError` where a gradient is not like the meta-parameters of the state."""
    _require_outer(optimizer)
    params = getattr(state, "params", None)
    if params is None:
        raise InputError(f"state: expected what fewstep.init(outer_optimizer, params) returns, got {kind_of(state)}.")
    if jax.tree.structure(gradient) != jax.tree.structure(params):
        raise InputError(
            f"gradient: expected a pytree like the meta-parameters, {jax.tree.structure(params)}, got "
            f"{jax.tree.structure(gradient)}. fewstep.meta_gradient returns (meta-loss, gradient)."
        )
    pairs = zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(gradient), strict=True)
    for (path, leaf), slope in pairs:
        if np.shape(leaf) != np.shape(slope):
            raise InputError(f"gradient{name_of(path)}: expected the shape {np.shape(leaf)}, got {np.shape(slope)}.")


def require_finite(found: Any, finite_tasks: Callable[[], jax.Array], params: MetaParams, episodes: Episode) -> None:
    """Raises `TrainingError`, which names the tasks, where a mean over tasks is not finite. Does nothing while a program is
    traced.

    `finite_tasks()` says of each task whether it is finite; it is asked only where the mean is not.
    """
    leaves = jax.tree.leaves((found, params, episodes))
    if any(isinstance(leaf, Tracer) for leaf in leaves) or not _not_finite(found):
        return
    bad = np.flatnonzero(~np.asarray(finite_tasks()))
    tasks = np.shape(jax.tree.leaves(episodes)[0])[0] if jax.tree.leaves(episodes) else len(bad)
    if not len(bad):
        raise TrainingError("meta_gradient: every task is finite, but the sum over tasks is beyond the range of the numbers.")
    shown = ", ".join(map(str, bad[:SHOWN])) + (f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else "")
    where = [f"parameters{path}" for path in _not_finite(params)]
    where += [f"episodes{path} of task {bad[0]}" for path in _not_finite(jax.tree.map(lambda leaf: leaf[bad[0]], episodes))]
    cause = f"Not finite: {', '.join(where[:SHOWN])}." if where else "Parameters and data are: try a smaller inner rate."
    raise TrainingError(
        f"meta_gradient: the loss or the gradient of {len(bad)} of {tasks} tasks is not finite: task {shown}, counted from 0. "
        f"{cause} fewstep.finite_meta_gradient leaves such tasks out and says which they are."
    )


@contextmanager
def checked(learner: Any, params: Any, support: Any, key: Any, steps: Any) -> Iterator[None]:
    """Raises `InputError` for parameters that cannot be learned, and for what is no single key or no number of steps. An error
    from within becomes a `InputError` where support set, loss or inner optimizer explain it, and stays what it is else."""
    _require_params(params)
    _require_count("steps", steps, 0)
    _require_keys("key", key, 0)
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = _reason(learner, params, support, key)
        if reason is None:
            raise
        raise reason from error


def _reason(learner: Any, params: MetaParams, support: Any, key: Key) -> InputError | None:
    """What is wrong with one task, by the checks of a meta-batch; None where it is something else."""
    try:
        start = params.theta if learner.start is None else learner.start(params.theta, support, key)
        theta, arrays = jax.tree.map(_shape, start), [_shape(leaf) for leaf in jax.tree.leaves(support) if is_array(leaf)]
        loss = lambda theta, arrays, key: learner.loss(theta, support, key)  # noqa: E731
        _require_number(loss, theta, arrays, jax.ShapeDtypeStruct(key.shape, key.dtype), "support")
        _require_matching(learner.optimizer(params.inner), theta)
    except InputError as reason:
        return reason
    except Exception:
        return None
    return None


def _require_outer(optimizer: Any) -> None:
    if not isinstance(optimizer, optax.GradientTransformation):
        raise InputError(f"outer optimizer: expected an optax optimizer such as optax.adam(1e-3), got {kind_of(optimizer)}.")


def _require_params(params: Any) -> None:
    """Meta-parameters whose leaves are real floating-point numbers."""
    if not isinstance(params, MetaParams):
        raise InputError(f"parameters: expected fewstep.MetaParams(theta), got {kind_of(params)}. Write MetaParams around it.")
    if not jax.tree.leaves(params.theta):
        raise InputError(f"parameters.theta: expected at least one array to learn, got {kind_of(params.theta)} without any.")
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if is_learned(leaf) or isinstance(leaf, float):
            continue
        dtype = getattr(leaf, "dtype", None) if is_array(leaf) else None
        if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
            advice = "A key here would draw the same numbers for all tasks and steps: draw from the key that the loss is given."
        elif isinstance(leaf, complex) or (dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating)):
            advice = "JAX's gradient of a complex number does not point uphill: learn real and imaginary parts as two arrays."
        else:
            advice = (
                "Keep what is not learned out of MetaParams: theta, rest = fewstep.partition(model), and in the loss "
                "fewstep.combine(theta, rest)."
            )
        raise InputError(f"parameters{name_of(path)}: expected floating-point numbers, got {kind_of(leaf)}. {advice}")


def _require_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        shown = repr(value) if isinstance(value, int | float | str) else kind_of(value)
        raise InputError(f"{name}: expected a whole number from {least} on, as a Python integer, got {shown}.")


def _require_keys(name: str, keys: Any, axes: int) -> None:
    """One key, or with one axis more a key for each task; typed, or as raw integers."""
    advice = "Try jax.random.split(key, tasks)." if axes else "Try jax.random.key(0), or keys[0] of several."
    wanted = "one key for each task" if axes else "a single key"
    is_typed = is_array(keys) and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    if not is_typed and not (is_array(keys) and keys.dtype == jnp.uint32 and keys.ndim > 0):
        raise InputError(f"{name}: expected {wanted}, got {kind_of(keys)}. {advice}")
    found = keys.ndim - (0 if is_typed else 1)  # raw keys end with an axis of their own
    if found != axes:
        got = "a single key" if found == 0 else f"keys of the shape {keys.shape[:found]}"
        raise InputError(f"{name}: expected {wanted}, got {got}. {advice}")


def _require_number(loss: Loss, theta: Any, batch: Any, key: Any, name: str) -> None:
    """The loss is one number; where it draws random numbers, it looks at its key."""
    try:
        program, found = jax.make_jaxpr(loss, return_shape=True)(theta, batch, key)
    except Exception as error:
        if not jax.tree.leaves(batch):
            raise InputError(
                f"{name}: expected arrays, got none, and the loss raises {type(error).__name__}: {first_line(error)}."
            ) from error
        raise
    if not (hasattr(found, "shape") and found.shape == () and jnp.issubdtype(found.dtype, jnp.floating)):
        shown = f"{found.dtype}{list(found.shape)}" if hasattr(found, "shape") else type(found).__name__
        advice = "Return the loss alone." if not hasattr(found, "shape") else "Take the mean over examples."
        raise InputError(f"loss: expected one floating-point number for a task's {name} set, got {shown}. {advice}")
    if draws(program.jaxpr) and not looks_at(program.jaxpr, len(program.jaxpr.invars) - 1):
        warnings.warn(
            "The loss draws random numbers and does not look at its key: all tasks, steps and meta-steps share one draw, such "
            "as one mask of dropout. Make the model's seed from the loss's key: see docs/models.md for Keras and flax.nnx.",
            stacklevel=4,
        )


def _require_matching(optimizer: Any, theta: Any) -> None:
    """One update of the inner optimizer has to look like θ, and to be as precise."""
    if not isinstance(optimizer, optax.GradientTransformation):
        raise InputError(f"{INNER_OPTIMIZER}, got a function that returns {kind_of(optimizer)}.")
    try:
        updates = jax.eval_shape(lambda theta: optimizer.update(theta, optimizer.init(theta), theta)[0], theta)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"inner optimizer: it cannot be used on these parameters ({first_line(error)}). Give an optimizer of optax that "
            "needs the gradient alone, not the function that makes it: optax.sgd(0.01). One that is learned in part needs "
            "MetaParams(theta, inner)."
        ) from error
    if jax.tree.structure(updates) != jax.tree.structure(theta):
        raise InputError(
            f"inner optimizer: expected updates like the parameters, {jax.tree.structure(theta)}, got "
            f"{jax.tree.structure(updates)}."
        )
    pairs = zip(jax.tree_util.tree_leaves_with_path(theta), jax.tree.leaves(updates), strict=True)
    for (path, leaf), update in pairs:
        if leaf.shape != update.shape:
            raise InputError(f"inner optimizer{name_of(path)}: expected an update of shape {leaf.shape}, got {update.shape}.")
    require_precise("inner optimizer", optimizer, theta)


def _not_finite(tree: Any) -> list[str]:
    """Paths of the leaves that hold NaN or infinity."""
    smooth = [(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if is_learned(leaf)]
    return [name_of(path) for path, leaf in smooth if not bool(jnp.all(jnp.isfinite(leaf)))]


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def kind_of(thing: Any) -> str:
    """What something is, in a word for people: float32[3, 4], the int 7, the function relu."""
    if is_array(thing):
        return f"{thing.dtype}{list(thing.shape)}"
    if isinstance(thing, bool | int | float | complex | str):
        return f"the {type(thing).__name__} {thing!r}"[:80]
    named = getattr(thing, "__name__", None)
    return (
        f"the function {named}" if callable(thing) and isinstance(named, str) else f"an object of type {type(thing).__name__}"
    )


def name_of(path: Any) -> str:
    return jax.tree_util.keystr(path)
