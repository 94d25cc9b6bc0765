"""Tunes a learner to the machine and the model: the number of vectorized tasks, and the lowering of convolutions.

All choices give the same meta-gradient up to rounding; they differ in time and memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fewstep.core.maml import Learner, TaskGradient, meta_gradient
from fewstep.core.problem import Problem
from fewstep.core.types import Episode, Key, MetaParams
from fewstep.gradients import half_precision
from fewstep.gradients.exact import SHARE, bytes_of, device_memory
from fewstep.nn.fast_conv import Choice, Lowering, fast_convolutions, has_convolutions
from fewstep.nn.fast_pool import fast_pooling
from fewstep.training.autotune_convolutions import autotune_lowerings
from fewstep.training.devices import meta_batch
from fewstep.training.jit import cached
from fewstep.training.operations import operations

LONG = 2e12
"""Convolutions are autotuned before trainings of at least this many operations, about a minute's work."""
LEAST_COSINE = 0.99
"""Warn if the cosine between the meta-gradients in bfloat16 and float32 is below this."""


def tune(problem: Problem, devices: int = 1, mesh: Mesh | None = None, quiet: bool = True) -> Problem:
    """`problem` with its learner tuned to the machine, by timing on the devices of `mesh` if it is given."""
    return replace(problem, learner=tune_learner(problem.learner, *shapes_of(problem, devices), mesh, quiet))


def shapes_of(problem: Problem, devices: int) -> tuple[MetaParams, Episode, int]:
    """(shapes of the parameters, shapes of an episode of one task, tasks of a meta-batch per device)."""
    assert problem.splits is not None
    key = jax.random.key(0)
    params, episode = jax.eval_shape(problem.init, key), jax.eval_shape(problem.splits.train.sample_episode, key)
    return params, episode, -(-problem.meta_batch_size // devices)


def _tune_on_mesh(problem: Problem, mesh: Mesh, quiet: bool) -> Problem:
    """`problem` with its learner tuned to the devices of `mesh`, by timing if the training is long."""
    return tune(problem, mesh.size, mesh.local_mesh if is_long(problem) else None, quiet)


def prepare(problem: Problem, mesh: Mesh, seed: int, quiet: bool) -> Problem:
    """`problem` as it is trained: tuned to the devices of `mesh` and in the precision of its settings."""
    problem = cached(problem, _tune_on_mesh, mesh, quiet)
    if getattr(problem.settings, "precision", "float32") == "float32":
        return problem
    cosine = cosine_to_float32(problem, jax.random.key(seed))
    if not quiet or cosine < LEAST_COSINE:
        doubt = f"; expected at least {LEAST_COSINE}: try --precision float32" if cosine < LEAST_COSINE else ""
        print(f"bfloat16: cosine to the float32 meta-gradient {cosine:.4f}{doubt}", file=sys.stderr, flush=True)
    return replace(problem, learner=in_half_precision(problem.learner))


def is_long(problem: Problem) -> bool:
    """Whether a training is so long that timing its convolutions first pays off."""
    params, episode, tasks = shapes_of(problem, 1)
    key, step = jax.eval_shape(lambda: jax.random.key(0)), jnp.zeros((), jnp.int32)
    if not has_convolutions(problem.learner.loss, params.theta, episode.support, key):
        return False
    one_task = lambda *arguments: problem.learner.task_gradient(problem.learner, *arguments)  # noqa: E731
    return operations(one_task, params, episode, key, step) * tasks * problem.meta_steps >= LONG


def tune_learner(
    learner: Learner, params: MetaParams, episode: Episode, tasks: int, mesh: Mesh | None = None, quiet: bool = True
) -> Learner:
    """Tunes `learner` to a meta-batch of `tasks` per device; `params` and `episode` (of one task) may be shapes.

    On a CPU, convolutions process one task at a time, as ordinary convolutions, or with a `mesh` in the lowering that is
    fastest on its devices (timed if not cached). Elsewhere they become matrix products over vectorized tasks. Without
    convolutions, as many tasks are vectorized as fit in memory.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    if not has_convolutions(learner.loss, params.theta, episode.support, key):
        return replace(learner, tasks_at_once=learner.tasks_at_once or tasks_that_fit(learner, params, episode, key, tasks))
    one_by_one = jax.default_backend() == "cpu"
    together = learner.tasks_at_once or (1 if one_by_one else tasks_that_fit(learner, params, episode, key, tasks))
    pooled = replace(learner, loss=fast_pooling(learner.loss), tasks_at_once=together)
    usual: Lowering = "direct" if together == 1 else "matrix"
    choice: Lowering | Choice = usual
    if mesh is not None and one_by_one:
        one_task = lambda *arguments: learner.task_gradient(pooled, *arguments)  # noqa: E731
        shapes = params, episode, key, jax.ShapeDtypeStruct((), jnp.int32)
        choice = autotune_lowerings(one_task, shapes, together, usual, mesh, quiet)
    wrap = lambda gradient: fast_convolutions(gradient, choice)  # noqa: E731
    return replace(pooled, task_gradient=rewrite_gradient(learner.task_gradient, wrap))


def tasks_that_fit(learner: Learner, params: MetaParams, episode: Episode, key: Key, tasks: int) -> int:
    """How many tasks fit in memory when vectorized, at least one, by the residuals of an adaptation step and of the query
    loss."""

    def residuals_of(theta, batch, key):
        return jax.vjp(lambda theta: learner.loss(theta, batch, key), theta)[1]

    residuals = [jax.eval_shape(residuals_of, params.theta, batch, key) for batch in episode]
    each = 3 * bytes_of(residuals) + 2 * (learner.adaptation_steps + 1) * bytes_of(params)
    return max(1, min(tasks, int(SHARE * device_memory() // max(each, 1))))


def rewrite_gradient(gradient: TaskGradient, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> TaskGradient:
    """A task gradient whose program is transformed by `wrap`."""

    def rewritten_gradient(learner, params, episode, key, step):
        return wrap(lambda *arguments: gradient(learner, *arguments))(params, episode, key, step)

    return rewritten_gradient


def in_half_precision(learner: Learner) -> Learner:
    """`learner` with matrix products in bfloat16: see `gradients/transforms.py`."""
    return replace(learner, task_gradient=rewrite_gradient(learner.task_gradient, half_precision))


def cosine_to_float32(problem: Problem, key: Key) -> float:
    """The cosine between the meta-gradients of one meta-batch, in bfloat16 and in float32."""
    params, step = problem.init(key), jnp.zeros((), jnp.int32)
    episodes, keys = meta_batch(problem, step, key)

    def gradient_of(learner: Learner) -> jax.Array:
        gradient = meta_gradient(learner, params, episodes, keys, step)[1]
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient)])

    both = problem.learner, in_half_precision(problem.learner)
    whole, half = (jax.jit(gradient_of, static_argnums=0)(learner) for learner in both)
    return float(jnp.vdot(whole, half) / jnp.maximum(jnp.linalg.norm(whole) * jnp.linalg.norm(half), 1e-30))
