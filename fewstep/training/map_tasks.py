"""Maps a function of one task over many tasks, for adaptation and evaluation; `tuning.py` does so for meta-gradients.

On a CPU, models with convolutions process one task at a time on each core; all others are vectorized over tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from fewstep.nn.fast_conv import fast_convolutions, traced_for_convolutions
from fewstep.training.devices import AXIS, task_mesh

_known: ContextVar[bool | None] = ContextVar("convolutions", default=None)
"""whether the function that is being traced has convolutions, so that nested maps do not check again"""


def map_tasks(function: Callable[[Any], Any], arguments: Any, at_once: int) -> Any:
    """Applies `function` to each task; leaves of `arguments` lead with [tasks]. At most `at_once` tasks are vectorized."""
    found, function = convolutional(function, one_of(arguments))
    with within(found):
        return _map_tasks(function, arguments, at_once, found)


def _map_tasks(function: Callable[[Any], Any], arguments: Any, at_once: int, convolutions: bool) -> Any:
    if not convolutions:
        return jax.lax.map(function, arguments, batch_size=at_once)
    if jax.default_backend() != "cpu":
        return jax.lax.map(fast_convolutions(function, "matrix"), arguments, batch_size=at_once)
    mesh, count = task_mesh(), jax.tree.leaves(arguments)[0].shape[0]
    one_by_one = lambda part: jax.lax.map(fast_convolutions(function, "direct"), part)  # noqa: E731
    if mesh.size == 1 or count == 1 or not jax.sharding.get_abstract_mesh().empty:  # already inside a sharded computation
        return one_by_one(arguments)
    place = jnp.minimum(jnp.arange(-(-count // mesh.size) * mesh.size), count - 1)  # padded with the last task
    split = PartitionSpec(AXIS)
    shared = jax.shard_map(one_by_one, mesh=mesh, in_specs=(split,), out_specs=split, check_vma=False)
    return jax.tree.map(lambda leaf: leaf[:count], shared(jax.tree.map(lambda leaf: leaf[place], arguments)))


def one_task(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of a single task, whose examples `shard_examples` splits over devices."""
    return fast_convolutions(function, "direct") if jax.default_backend() == "cpu" else function


def shard_examples(examples: Any) -> Any:
    """Splits arrays that lead with [examples] over the devices, if their number divides them. A program then runs on all
    devices and gives the same result as on one."""
    mesh = task_mesh()
    even = all(leaf.shape[0] % mesh.size == 0 for leaf in jax.tree.leaves(examples))
    return jax.device_put(examples, NamedSharding(mesh, PartitionSpec(AXIS))) if even else examples


def over_parameters(function: Callable[[Any], Any], parameters: Any) -> Any:
    """Applies `function` to each of several parameters of one task (one per adaptation step), stacked along the leading
    axis."""
    found, function = convolutional(function, one_of(parameters))
    with within(found):
        return jax.lax.map(function, parameters) if found else jax.vmap(function)(parameters)


def convolutional(function: Callable[[Any], Any], argument: Any) -> tuple[bool, Callable[[Any], Any]]:
    """(whether `function`, or the function being traced around it, has convolutions; the function to use)."""
    known = _known.get()
    if known is not None:
        return known, function
    with within(False):
        found, as_traced = traced_for_convolutions(function, argument)
    return found, function if found else as_traced  # with convolutions, nested maps differ, so it is traced again


@contextmanager
def within(found: bool) -> Iterator[None]:
    """Records, for maps in this block, whether there are convolutions."""
    before = _known.set(found)
    try:
        yield
    finally:
        _known.reset(before)


def one_of(many: Any) -> Any:
    """Shapes of one element along the leading axis."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), many)
