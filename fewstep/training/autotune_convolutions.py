"""Autotuning of convolutions: times each lowering on this machine once and caches the fastest.

The fastest lowering depends on shapes, strides, the backend and its version, and no simple rule predicts it. So each
convolution of the differentiated program is timed separately, in a loop on all devices at once, as in training. Choices are
stored in the user's cache folder, so that the same machine gives the same bits again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr
from jax.sharding import Mesh, PartitionSpec

from fewstep.core.jaxpr import programs_in
from fewstep.nn.fast_conv import Choice, Lowering, convolution, signature
from fewstep.storage.cache import cache_directory, keep
from fewstep.training.multihost import broadcast_text
from fewstep.training.operations import operations_of_equation

LOWERINGS: tuple[Lowering, ...] = ("direct", "matrix", "places")
LEAST_SHARE = 0.01
"""A convolution with less than this share of all convolution operations of a program is not timed."""
LEAST_GAIN = 0.8
"""Another lowering is chosen only if it takes at most this fraction of the default's time: it may gain less inside a
program."""
SECONDS = 0.01
"""minimum duration of one timed call"""


class Convolution(NamedTuple):
    """A convolution of a program."""

    lhs: jax.ShapeDtypeStruct
    rhs: jax.ShapeDtypeStruct
    params: dict[str, Any]
    operations: int
    """operations, summed over all executions"""


def autotune_lowerings(
    function: Callable[..., Any], arguments: Any, together: int, usual: Lowering, mesh: Mesh, quiet: bool
) -> Choice:
    """The lowering of each convolution in `function` of one task, if `together` tasks are batched; `arguments` may be shapes.

    Convolutions that this machine has not measured yet are timed, some tenths of a second each; progress goes to stderr unless
    `quiet`.
    """
    found = convolutions_in(jax.make_jaxpr(function)(*arguments).jaxpr)
    path = cache_directory("lowerings") / f"{machine(mesh, together)}.json"
    known: dict[str, Lowering] = read(path)
    whole = sum(each.operations for each in found.values())
    missing = [name for name, each in found.items() if name not in known and each.operations >= LEAST_SHARE * whole]
    for number, name in enumerate(missing):
        if not quiet:
            shown = f"\rmeasuring convolutions on this machine, once: {number + 1} of {len(missing)}"
            print(shown, end="", file=sys.stderr, flush=True)
        known[name] = fastest(found[name], together, usual, mesh)
    if missing:
        known |= read(path)  # what another process has measured meanwhile
        keep(path, lambda file: file.write(json.dumps(known, indent=1, sort_keys=True).encode()))
        if not quiet:
            print(file=sys.stderr, flush=True)
    agreed: dict[str, Lowering] = json.loads(broadcast_text(json.dumps(known)))  # one program in all processes
    return lambda name: agreed.get(name, usual)


def convolutions_in(jaxpr: Jaxpr, times: int = 1) -> dict[str, Convolution]:
    """All convolutions of a program by signature, in program order."""
    found: dict[str, Convolution] = {}
    for eqn in jaxpr.eqns:
        inside: dict[str, Convolution] = {}
        if eqn.primitive.name == "conv_general_dilated":
            shapes: Any = [each.aval for each in eqn.invars]
            lhs, rhs = (jax.ShapeDtypeStruct(each.shape, each.dtype) for each in shapes)
            once = Convolution(lhs, rhs, eqn.params, times * operations_of_equation(eqn))
            inside = {signature(lhs, rhs, eqn.params): once}
        for part in programs_in(eqn):
            inside |= convolutions_in(part, times * eqn.params.get("length", 1))
        for name, each in inside.items():
            before = found[name].operations if name in found else 0
            found[name] = each._replace(operations=before + each.operations)
    return found


def fastest(each: Convolution, together: int, usual: Lowering, mesh: Mesh) -> Lowering:
    """The fastest lowering of this convolution; `usual` if no other is faster by enough."""

    def text(lowering: Lowering) -> str:
        form = lambda lhs, rhs: convolution(lhs, rhs, **each.params, lowering=lowering)  # noqa: E731
        return str(jax.make_jaxpr(form)(each.lhs, each.rhs))

    forms: tuple[Lowering, ...] = (*LOWERINGS, usual)
    different: dict[str, Lowering] = {text(lowering): lowering for lowering in forms}  # identical programs are timed once
    seconds: dict[Lowering, float] = {lowering: seconds_of(each, lowering, together, mesh) for lowering in different.values()}
    best: Lowering = min(seconds, key=seconds.__getitem__)
    return best if seconds[best] <= LEAST_GAIN * seconds[usual] else usual


def seconds_of(each: Convolution, lowering: Lowering, together: int, mesh: Mesh) -> float:
    """Seconds for the convolution of `together` tasks on all devices of `mesh` at once: the minimum of three timings."""

    def one_task(lhs, rhs):
        return jnp.sum(convolution(lhs, rhs, **each.params, lowering=lowering))

    def repeated(times, lhs, rhs):
        def again(_, given):
            return tuple(array + (1e-30 * jnp.sum(jax.vmap(one_task)(*given))).astype(array.dtype) for array in given)

        return jax.lax.fori_loop(0, times, again, (lhs, rhs))[0].ravel()[0]

    one = PartitionSpec()
    everywhere = jax.shard_map(repeated, mesh=mesh, in_specs=(one, one, one), out_specs=one, check_vma=False)
    given = [jnp.ones((together, *array.shape), array.dtype) for array in (each.lhs, each.rhs)]
    program = jax.jit(everywhere)

    def timed(times: int) -> float:
        started = time.perf_counter()
        jax.block_until_ready(program(times, *given))
        return (time.perf_counter() - started) / times

    timed(1)
    times = max(1, min(1000, int(SECONDS / timed(1))))
    return min(timed(times) for _ in range(3))


def machine(mesh: Mesh, together: int) -> str:
    """Name of the cache file: hardware, device count, JAX version and batch size, on which timings depend."""
    device = mesh.devices.flat[0]
    kind = processor() if device.platform == "cpu" else device.device_kind
    words = f"{kind} {mesh.size} jax {jax.__version__} {together} together"
    return "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in words)


def processor() -> str:
    """The name of this machine's processor, if the system reports it."""
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def read(path: Path) -> dict[str, Lowering]:
    """Cached choices; empty if the file is missing or damaged."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {name: lowering for name, lowering in known.items() if lowering in LOWERINGS}
    except (OSError, ValueError, AttributeError):
        return {}
