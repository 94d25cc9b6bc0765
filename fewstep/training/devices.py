"""Data parallelism over the tasks of a meta-batch: θ is replicated, tasks are split, one all-reduce per meta-step."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fewstep.core.maml import sum_over_tasks
from fewstep.core.problem import Problem
from fewstep.core.types import Episode, Key, MetaParams
from fewstep.errors import InputError


def cpu_cores() -> int:
    """The CPU cores that this process may use, if the system reports them; else all of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


AXIS = "tasks"
FORCED_DEVICES = "--xla_force_host_platform_device_count"
"""the older flag for the number of CPU devices"""


def training_mesh(count: int | None = None) -> Mesh:
    """`task_mesh` over `count` devices of each process that takes part in the training."""
    return task_mesh(count, range(jax.process_count()))


def task_mesh(count: int | None = None, processes: Sequence[int] | None = None) -> Mesh:
    """A mesh with one axis, `tasks`, over the first `count` devices (all if None) of this process, or of each of `processes`.

    Raises `InputError` if there are fewer.
    """
    devices = jax.local_devices()
    if count is not None and not 1 <= count <= len(devices):
        more = " A processor is shown as more with JAX_NUM_CPU_DEVICES in the environment." * (jax.default_backend() == "cpu")
        raise InputError(f"--devices {count}: expected all, or a number from 1 to the {len(devices)} there are.{more}")
    devices = [device for process in processes or [None] for device in jax.local_devices(process)[:count]]
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=devices)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies a tree to every device. Compiled chunks return such copies, so their first call uses the same program as the
    rest."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def use_cpu_cores() -> None:
    """Makes each CPU core a JAX device, unless the environment sets their number. Call it before any computation.

    The small operations of a meta-step do not gain from threads within an operation; splitting tasks over cores does.
    """
    given = "JAX_NUM_CPU_DEVICES" in os.environ or FORCED_DEVICES in os.environ.get("XLA_FLAGS", "")
    if not given:
        jax.config.update("jax_num_cpu_devices", cpu_cores())


def use_gpu_libraries() -> None:
    """Uses NVIDIA's library for matrix products on NVIDIA GPUs. Call it before any computation.

    XLA's Triton takes minutes to autotune the products of a meta-step, and with jax 0.11.2 aborts the process on those of
    strided convolutions. If XLA_FLAGS already sets the flag, it is left as it is.
    """
    flags, name = os.environ.get("XLA_FLAGS", ""), "--xla_gpu_enable_triton_gemm"
    if name not in flags and any(find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        os.environ["XLA_FLAGS"] = f"{flags} {name}=false".strip()


def task_keys(key: Key, step: jax.Array, number: jax.Array) -> Key:
    """[2] keys of a task of a meta-batch: one samples its episode, the other is for adaptation."""
    return jax.random.split(jax.random.fold_in(jax.random.fold_in(key, step), number))


def meta_batch(problem: Problem, step: jax.Array, key: Key) -> tuple[Episode, Key]:
    """(episodes, keys) of a meta-step; leaves are [tasks, ...]. Samples the same tasks as `meta_batches`."""
    assert problem.splits is not None
    keys = jax.vmap(lambda number: task_keys(key, step, number))(jnp.arange(problem.meta_batch_size))
    return jax.vmap(problem.splits.train.sample_episode)(keys[:, 0]), keys[:, 1]


def meta_batches(problem: Problem, mesh: Mesh, count: int) -> Callable[[jax.Array, Key], tuple[Episode, Key]]:
    """`(first meta-step, key) -> (episodes, keys)` of `count` meta-steps; leaves are [count, tasks, ...], split by task.

    Task i of a meta-batch is sampled from (key, meta-step, i), whichever device it is on. If the number of devices does not
    divide the meta-batch, it is padded with further tasks. If images stay on the host, those of the next `count` meta-steps are
    prefetched.
    """
    assert problem.splits is not None
    family = problem.splits.train

    def draw(numbers: jax.Array, first: jax.Array, key: Key):
        def keys_from(first: jax.Array) -> Key:
            steps = first + jnp.arange(count)
            return jax.vmap(lambda step: jax.vmap(lambda number: task_keys(key, step, number))(numbers))(steps)

        keys = keys_from(first)
        drawn = jax.vmap(jax.vmap(family.sample_episode))(keys[..., 0])
        if family.on_host is not None:
            family.on_host.ahead(family.sample_episode, keys_from(first + count)[..., 0].reshape(-1))
        return drawn, keys[..., 1]

    everywhere, split = PartitionSpec(), PartitionSpec(None, AXIS)
    numbers = jnp.arange(-(-problem.meta_batch_size // mesh.size) * mesh.size)
    if mesh.size == 1:
        return lambda first, key: draw(numbers, first, key)
    shared = jax.shard_map(
        draw, mesh=mesh, in_specs=(PartitionSpec(AXIS), everywhere, everywhere), out_specs=split, check_vma=False
    )
    return lambda first, key: shared(numbers, first, key)


class MetaGradient(NamedTuple):
    """Loss and gradient of one meta-batch."""

    loss: jax.Array
    gradient: MetaParams
    dropped: jax.Array
    """number of tasks excluded from both means, since their loss or gradient is not finite"""


def mean_gradient(problem: Problem, mesh: Mesh) -> Callable[[MetaParams, Episode, Key, jax.Array], MetaGradient]:
    """`(params, episodes, keys, meta-step) -> MetaGradient`: `maml.meta_gradient` with tasks split over devices."""
    learner, tasks, drop = problem.learner, problem.meta_batch_size, problem.bad_tasks == "drop"

    def share(params, episodes, keys, step):
        mine = keys.shape[0]
        place = jax.lax.axis_index(AXIS) if mesh.size > 1 else 0
        real = (place * mine + jnp.arange(mine) < tasks).astype(jnp.float32)  # padding has weight 0
        loss, gradient, weight = sum_over_tasks(learner, params, episodes, keys, step, real, drop)
        sums = loss, gradient, jnp.sum(weight)
        if mesh.size > 1:
            # One flat vector, since an all-reduce costs the same for one number as for a million.
            flat, restore = ravel_pytree(sums)
            sums = restore(jax.lax.psum(flat, AXIS))
        loss, gradient, counted = sums
        loss, gradient = jax.tree.map(lambda leaf: leaf / counted.astype(leaf.dtype), (loss, gradient))
        return MetaGradient(loss, gradient, tasks - counted.astype(jnp.int32))

    if mesh.size == 1:
        return share
    everywhere, split = PartitionSpec(), PartitionSpec(AXIS)
    return jax.shard_map(
        share, mesh=mesh, in_specs=(everywhere, split, split, everywhere), out_specs=everywhere, check_vma=False
    )
