"""fewstep's own training program: `compiled_chunk` over a mesh, as `fewstep train` runs it. A peer of speed/sine.py."""

from __future__ import annotations

from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from benchmarks.peers.setting import INNER_RATE, OUTER_RATE, QUERIES, SHOTS, SIZES, TASKS, Run, fixed_episodes, fixed_weights
from fewstep.apps.sine.settings import Sine
from fewstep.core import maml
from fewstep.core.problem import Problem
from fewstep.core.types import Episode, Examples, Key, MetaParams
from fewstep.training.chunk import Chunk, compiled_chunk
from fewstep.training.devices import mean_gradient, task_mesh, use_cpu_cores

use_cpu_cores()


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("fewstep", "jax", "flax", "optax")}


def meta_gradient(adaptation_steps: int, threads: int) -> tuple[float, list[np.ndarray]]:
    problem, mesh = sine_problem(adaptation_steps), task_mesh(threads)
    loss, gradient, _ = jax.jit(mean_gradient(problem, mesh))(start(problem), *fixed_meta_batch(threads), 0)
    return float(loss), to_list(gradient.theta)


def program(adaptation_steps: int, sampling: str, threads: int) -> Run:
    """`threads` is the number of devices: fewstep splits the tasks over them."""
    problem, mesh = sine_problem(adaptation_steps), task_mesh(threads)
    run_chunk = compiled_chunk(problem, mesh) if sampling == "in" else chunk_without_sampling(problem, mesh, threads)
    key = jax.random.key(1)
    state = maml.init(problem.outer_optimizer, start(problem))

    def run(n: int) -> float:
        nonlocal state
        state, chunk = run_chunk(state, key, n)
        return float(chunk.meta_loss) / n

    return run


def chunk_without_sampling(problem: Problem, mesh: Mesh, devices: int):
    """The program of `compiled_chunk`, every meta-step on the fixed meta-batch."""
    gradient_of, (episodes, keys) = mean_gradient(problem, mesh), fixed_meta_batch(devices)

    @jax.jit
    def run_chunk(state, key, length):
        def one_meta_step(_, carry):
            state, chunk = carry
            loss, gradient, _ = gradient_of(state.params, episodes, keys, state.step)
            state = maml.meta_step(problem.outer_optimizer, state, gradient)
            return state, chunk._replace(meta_loss=chunk.meta_loss + loss)

        nothing = Chunk(length, jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32), jnp.array(True))
        return jax.lax.fori_loop(0, length, one_meta_step, (state, nothing))

    return run_chunk


def sine_problem(adaptation_steps: int) -> Problem:
    """Plain MAML: the inner rate is not learned, no multi-step loss, no clipping, a constant outer rate."""
    settings = Sine(
        shots=SHOTS,
        queries=QUERIES,
        meta_batch_size=TASKS,
        adaptation_steps=adaptation_steps,
        inner_rate=INNER_RATE,
        inner_optimizer="sgd",
        outer_rate=OUTER_RATE,
        outer_schedule="constant",
        multi_step=0.0,
        clip=0.0,
        hidden=SIZES[1:-1],
    )
    return settings.build()


def fixed_meta_batch(devices: int) -> tuple[Episode, Key]:
    """The fixed episodes and keys nobody looks at, with fillers where the devices do not divide the meta-batch."""
    rows = -(-TASKS // devices) * devices
    data = [jnp.asarray(array)[jnp.minimum(jnp.arange(rows), TASKS - 1)] for array in fixed_episodes()]
    ones = jnp.ones((rows, SHOTS))
    support, query = Examples(data[0], data[1], ones), Examples(data[2], data[3], ones)
    return Episode(support, query), jax.random.split(jax.random.key(0), rows)


def start(problem: Problem) -> MetaParams:
    """The fixed weights in the shape of fewstep's own network."""
    layers = problem.init(jax.random.key(0)).theta["layers"]
    weights = [jnp.asarray(array) for array in fixed_weights()]
    names = sorted(layers, key=int)
    pairs = zip(names, weights[::2], weights[1::2], strict=True)
    return MetaParams({"layers": {name: {"kernel": kernel, "bias": bias} for name, kernel, bias in pairs}})


def to_list(theta) -> list[np.ndarray]:
    layers = theta["layers"]
    return [np.asarray(layers[name][part]) for name in sorted(layers, key=int) for part in ("kernel", "bias")]
