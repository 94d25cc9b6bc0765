"""Cost of one meta-step before a run: memory from the compiled program, operations from the traced one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fewstep.core.maml import Learner, TaskGradient, meta_gradient
from fewstep.core.problem import Problem
from fewstep.core.types import Episode, MetaParams
from fewstep.gradients import exact, first_order, stored
from fewstep.gradients.exact import bytes_of, device_memory
from fewstep.training.operations import operations
from fewstep.training.tuning import shapes_of, tune_learner

TASK_GRADIENTS: dict[str, TaskGradient] = {"exact": exact, "stored": stored, "first-order": first_order}


class Estimate(NamedTuple):
    """Cost of one meta-step with one task gradient."""

    temporary: int
    """bytes in addition to parameters and episodes"""
    operations: int
    """floating-point operations of its matrix products and convolutions"""
    tasks_at_once: int


class Estimates(NamedTuple):
    """Costs with each task gradient."""

    ways: dict[str, Estimate]
    given: int
    """bytes of parameters and of a meta-batch of episodes"""
    memory: int
    """bytes of the device"""


def estimate(learner: Learner, params: MetaParams, episode: Episode, tasks: int, requested: str = "auto") -> Estimates:
    """Compiles one meta-step on a meta-batch of `tasks` with each of `TASK_GRADIENTS`, and with the learner's own if
    `requested` is another name; runs nothing. `params` and `episode` (of one task) may be shapes."""
    episodes, keys, step = batch_of(episode, tasks)
    found = {}
    ways = TASK_GRADIENTS if requested in ("auto", *TASK_GRADIENTS) else {requested: learner.task_gradient, **TASK_GRADIENTS}
    for name, way in ways.items():
        each = tune_learner(replace(learner, task_gradient=way), params, episode, tasks)

        def one_meta_step(params, episodes, keys, step, each=each):
            return meta_gradient(each, params, episodes, keys, step)

        compiled = jax.jit(one_meta_step).lower(params, episodes, keys, step).compile()
        temporary = compiled.memory_analysis().temp_size_in_bytes  # type: ignore[union-attr]
        count = operations(one_meta_step, params, episodes, keys, step)
        found[name] = Estimate(temporary, count, each.tasks_at_once or tasks)
    return Estimates(found, bytes_of((params, episodes)), device_memory())


def batch_of(episode: Episode, tasks: int) -> tuple[Any, Any, Any]:
    """Shapes of the inputs of a meta-step: (episodes of `tasks` tasks, their keys, the meta-step)."""
    many = lambda leaf: jax.ShapeDtypeStruct((tasks, *leaf.shape), leaf.dtype)  # noqa: E731
    key = jax.eval_shape(lambda: jax.random.key(0))
    return *jax.tree.map(many, (episode, key)), jax.ShapeDtypeStruct((), jnp.int32)


def meta_step_operations(problem: Problem) -> int:
    """Floating-point operations of a meta-step, before the learner is tuned to a machine."""
    params, episode, tasks = shapes_of(problem, 1)
    return operations(partial(meta_gradient, problem.learner), params, *batch_of(episode, tasks))
