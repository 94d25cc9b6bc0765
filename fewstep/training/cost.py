"""What one meta-step takes, before a run: memory from the compiled program, operations from the traced one."""

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

WAYS: dict[str, TaskGradient] = {"exact": exact, "stored": stored, "first-order": first_order}


class Estimate(NamedTuple):
    """Of one meta-step by one way to its gradient."""

    temporary: int
    """bytes beside parameters and episodes"""
    operations: int
    """floating-point operations of its matrix products and convolutions"""
    tasks_at_once: int


class Estimates(NamedTuple):
    """By all ways."""

    ways: dict[str, Estimate]
    given: int
    """bytes of parameters and of a meta-batch of episodes"""
    memory: int
    """bytes of the device"""


def estimate(learner: Learner, params: MetaParams, episode: Episode, tasks: int, asked: str = "auto") -> Estimates:
    """Compiles one meta-step on a meta-batch of so many `tasks` by each of `WAYS`, and by the learner's own way where it is
    `asked` for under another name; nothing is run. `params` and `episode` (of one task) may be shapes alone."""
    episodes, keys, step = batch_of(episode, tasks)
    found = {}
    ways = WAYS if asked in ("auto", *WAYS) else {asked: learner.task_gradient, **WAYS}
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
    """Shapes of what a meta-step sees: (episodes of so many tasks, their keys, the meta-step)."""
    many = lambda leaf: jax.ShapeDtypeStruct((tasks, *leaf.shape), leaf.dtype)  # noqa: E731
    key = jax.eval_shape(lambda: jax.random.key(0))
    return *jax.tree.map(many, (episode, key)), jax.ShapeDtypeStruct((), jnp.int32)


def meta_step_operations(problem: Problem) -> int:
    """Floating-point operations of a meta-step as the learner has it, whatever the machine makes of it."""
    params, episode, tasks = shapes_of(problem, 1)
    return operations(partial(meta_gradient, problem.learner), params, *batch_of(episode, tasks))
