"""Spreading the tasks of a meta-batch over devices (floor 3): θ is everywhere, tasks are split, one all-reduce a meta-step."""

from __future__ import annotations

import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec

from fewstep.maml import task_gradients
from fewstep.problem import Problem
from fewstep.types import Key, MetaParams

AXIS = "tasks"


def task_mesh(count: int | None = None) -> Mesh:
    """A mesh over the first `count` devices (all where None), with the one axis `tasks`."""
    devices = jax.devices()[:count]
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=devices)


def use_cpu_cores() -> None:
    """Shows each CPU core to JAX as a device of its own. Call it before anything is computed.

    The small operations of a meta-step do not profit from threads inside an operation; tasks split over cores do.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", cores)


def meta_gradient_of_step(problem: Problem, mesh: Mesh) -> Callable[[MetaParams, jax.Array, Key], tuple]:
    """`(params, meta-step, key) -> (meta-loss, meta-gradient)`: samples a meta-batch and takes its mean gradient.

    The task with number i of a meta-batch is drawn from (key, meta-step, i), whichever device it falls to.
    """
    assert problem.splits is not None
    family, learner, tasks = problem.splits.train, problem.learner, problem.meta_batch_size
    devices = mesh.size
    per_device = -(-tasks // devices)

    def sum_over(numbers: jax.Array, params: MetaParams, step: jax.Array, key: Key):
        """Sum of (loss, gradient) over the tasks `numbers`; numbers beyond the meta-batch are fillers that count nothing."""
        step_key = jax.random.fold_in(key, step)
        keys = jax.vmap(lambda number: jax.random.split(jax.random.fold_in(step_key, number)))(numbers)
        episodes = jax.vmap(family.sample_episode)(keys[:, 0])
        measured = task_gradients(learner, params, episodes, keys[:, 1], step)
        if per_device * devices == tasks:
            return jax.tree.map(lambda leaf: jnp.sum(leaf, 0), measured)
        real = numbers < tasks
        return jax.tree.map(lambda leaf: jnp.sum(leaf, 0, where=real.reshape((-1,) + (1,) * (leaf.ndim - 1))), measured)

    def one_device(params, step, key):
        total = sum_over(jnp.arange(tasks), params, step, key)
        return jax.tree.map(lambda leaf: leaf / tasks, total)

    def share(numbers, params, step, key):
        # One flat vector: an all-reduce costs the same for one number as for a million, so there is only one.
        flat, restore = ravel_pytree(sum_over(numbers, params, step, key))
        return restore(jax.lax.psum(flat, AXIS) / tasks)

    def many_devices(params, step, key):
        everywhere, split = PartitionSpec(), PartitionSpec(AXIS)
        shared = jax.shard_map(
            share, mesh=mesh, in_specs=(split, everywhere, everywhere, everywhere), out_specs=everywhere, check_vma=False
        )
        return shared(jnp.arange(per_device * devices), params, step, key)

    return one_device if devices == 1 else many_devices
