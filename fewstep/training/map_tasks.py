"""One task's program mapped over many, as it is fast on this machine: for adaptation and evaluation, as plan.py for
meta-gradients. Models with convolutions go task by task on a CPU, on all its cores; all others side by side."""

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
"""what was found of the function around, while it is traced: whoever maps within it looks no more"""


def map_tasks(function: Callable[[Any], Any], arguments: Any, at_once: int) -> Any:
    """`function` of each task, whose arguments' leaves lead with [tasks]: at most so many `at_once`."""
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
    if mesh.size == 1 or count == 1 or not jax.sharding.get_abstract_mesh().empty:  # the cores may be shared out already
        return one_by_one(arguments)
    place = jnp.minimum(jnp.arange(-(-count // mesh.size) * mesh.size), count - 1)  # the last task fills up
    split = PartitionSpec(AXIS)
    shared = jax.shard_map(one_by_one, mesh=mesh, in_specs=(split,), out_specs=split, check_vma=False)
    return jax.tree.map(lambda leaf: leaf[:count], shared(jax.tree.map(lambda leaf: leaf[place], arguments)))


def one_task(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of a task by itself, whose examples `shard_examples` splits."""
    return fast_convolutions(function, "direct") if jax.default_backend() == "cpu" else function


def shard_examples(examples: Any) -> Any:
    """Arrays that lead with [examples], these split over the devices where they divide them: a program of theirs then runs on
    all, and gives what it would on one."""
    mesh = task_mesh()
    even = all(leaf.shape[0] % mesh.size == 0 for leaf in jax.tree.leaves(examples))
    return jax.device_put(examples, NamedSharding(mesh, PartitionSpec(AXIS))) if even else examples


def over_parameters(function: Callable[[Any], Any], parameters: Any) -> Any:
    """`function` of each of several parameters of one task (after each adaptation step), whose leaves lead with them."""
    found, function = convolutional(function, one_of(parameters))
    with within(found):
        return jax.lax.map(function, parameters) if found else jax.vmap(function)(parameters)


def convolutional(function: Callable[[Any], Any], argument: Any) -> tuple[bool, Callable[[Any], Any]]:
    """(whether there are convolutions in `function`, or in what is traced around it; the function to go on with)."""
    known = _known.get()
    if known is not None:
        return known, function
    with within(False):
        found, as_traced = traced_for_convolutions(function, argument)
    return found, function if found else as_traced  # where there are some, what lies within is mapped otherwise


@contextmanager
def within(found: bool) -> Iterator[None]:
    """What is mapped in this block is known to have convolutions, or none."""
    before = _known.set(found)
    try:
        yield
    finally:
        _known.reset(before)


def one_of(many: Any) -> Any:
    """The shapes of one of what leads with [many]."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), many)
