"""Memory of one task's meta-gradient by adaptation steps, from compiled programs: the figures of docs/gradients.md.

python -m benchmarks.memory.meta_gradient     # some minutes; nothing is run, so the figures are exact

Also what the search for derivative rules costs a loss that has none: the program of `exact` with the search, without it, and
as it would be for a loss with such a rule.
"""

from __future__ import annotations

import importlib
import platform
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import optax

from benchmarks.records import Options, read, write
from fewstep import Examples, Learner, MetaParams, nn
from fewstep.core import losses
from fewstep.core.types import Episode
from fewstep.gradients import exact, first_order, stored
from fewstep.gradients.exact import SHARE, stored_bytes
from fewstep.training.operations import operations
from fewstep.training.tuning import tune_learner

DEEP = "MLP, 12 layers of 64, 1,024 + 1,024 examples"
STEPS = (1, 5, 10, 50)
WAYS = {"exact": exact, "first-order": first_order, "stored": stored}
SEARCH = "search for derivative rules"
SEARCHES: dict[str, Callable[..., tuple[str, ...]] | None] = {
    "as it is": None,
    "without the search": lambda *_: (),
    "as if it had a rule": lambda *_: ("some rule",),
}


def main() -> None:
    parser = Options(__doc__, "memory/meta_gradient.json")
    parser.add_argument("--models", nargs="+", default=[SEARCH, *models()], help="renew these parts of the record alone")
    arguments = parser.parse_args()
    record = read(arguments.out)

    def keep(name: str, found: dict) -> None:
        record[name] = found | {"jax": jax.__version__, "machine": platform.machine(), "date": time.strftime("%Y-%m-%d")}
        write(arguments.out, record)

    for name in arguments.models:
        for found in by_search() if name == SEARCH else by_steps(*models()[name]):
            keep(name, found)


def ordinary():
    """name -> (loss, θ, episode), as shapes, of losses without derivative rules of their own."""
    image, wave = nn.conv4((28, 28, 1), 5, filters=64, normalization="batch"), nn.mlp([1, 40, 40, 1])
    classify = losses.cross_entropy(lambda params, x: jax.nn.log_softmax(image.apply(params, x)))
    key = jax.random.key(0)
    return {
        "sine, MLP 1-40-40-1, 10 + 10 points": (
            losses.mean_squared_error(wave.apply),
            jax.eval_shape(wave.init, key),
            episode((1,), 1, 10, 10),
        ),
        "Conv-4, 28 x 28, 5 ways, 1 shot, 15 queries": (
            classify,
            jax.eval_shape(image.init, key),
            episode((28, 28, 1), 5, 5, 75),
        ),
        DEEP: models()[DEEP],
    }


def models():
    """name -> (loss, θ, episode), as shapes."""
    image = nn.conv4((84, 84, 3), 5, filters=32, normalization="batch")
    deep = nn.mlp([64] * 13, jnp.tanh)
    classify = losses.cross_entropy(lambda params, x: jax.nn.log_softmax(image.apply(params, x)))
    # Layer by layer again on the way back, by jax.checkpoint in the model itself: what first order needs shrinks, too.
    key = jax.random.key(0)
    return {
        "Conv-4, 84 x 84, 5 ways, 1 shot, 15 queries": (
            classify,
            jax.eval_shape(image.init, key),
            episode((84, 84, 3), 5, 5, 75),
        ),
        DEEP: (
            losses.mean_squared_error(deep.apply),
            jax.eval_shape(deep.init, key),
            episode((64,), 64, 1024, 1024),
        ),
        "the same MLP, every layer rematerialized": (
            losses.mean_squared_error(checkpointed),
            [(shape(64, 64), shape(64)) for _ in range(12)],
            episode((64,), 64, 1024, 1024),
        ),
        "the same MLP, with a gradient reversal": (
            losses.mean_squared_error(lambda params, x: reverse(deep.apply(params, x))),
            jax.eval_shape(deep.init, key),
            episode((64,), 64, 1024, 1024),
        ),
    }


@jax.custom_vjp
def reverse(x):
    return x


reverse.defvjp(lambda x: (x, None), lambda _, slope: (-slope,))


def checkpointed(params, x):
    for weight, bias in params:
        x = jax.checkpoint(lambda x, weight, bias: jnp.tanh(x @ weight + bias))(x, weight, bias)
    return x


def shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def episode(inputs: tuple[int, ...], outputs: int, shots: int, queries: int) -> Episode:
    return Episode(*(Examples(shape(size, *inputs), shape(size, outputs), shape(size)) for size in (shots, queries)))


def by_steps(loss, theta, episode) -> Iterator[dict]:
    """What is known after each compilation."""
    params, key = MetaParams(theta), jax.eval_shape(lambda: jax.random.key(0))
    kept = {steps: stored_bytes(Learner(loss, optax.sgd(0.01), steps), params, episode, key) for steps in STEPS}
    found: dict[str, Any] = {
        "parameters": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(theta)),
        "auto is stored from so many bytes of the device on": {str(steps): int(size / SHARE) for steps, size in kept.items()},
    }
    for name, way in WAYS.items():
        found[name] = {}
        for steps in STEPS:
            program, given = meta_gradient_of(loss, params, episode, steps, way)
            found[name][str(steps)] = memory(program, given)
            print(name, steps, f"{found[name][str(steps)] / 2**20:.1f} MiB", flush=True)
            yield found


def by_search(steps: int = 5) -> Iterator[dict]:
    """Operations and temporary bytes of `exact`, by model and by what the search says."""
    file, found = importlib.import_module("fewstep.gradients.exact"), {}
    for model, (loss, theta, episode) in ordinary().items():
        found[model] = {}
        for name, search in SEARCHES.items():
            with mock.patch.object(file, "own_rules", search or file.own_rules):
                program, given = meta_gradient_of(loss, MetaParams(theta), episode, steps, exact)
                found[model][name] = {"operations": operations(program, *given), "bytes": memory(program, given)}
            print(name, found[model][name], flush=True)
            yield found


def meta_gradient_of(loss, params, episode, steps, way) -> tuple[Callable[..., Any], tuple]:
    """(one task's meta-gradient, the shapes of its arguments)."""
    learner = tune_learner(Learner(loss, optax.sgd(0.01), steps, task_gradient=way), params, episode, 1)
    key, step = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), jnp.int32)
    return lambda *given: learner.task_gradient(learner, *given), (params, episode, key, step)


def memory(program: Callable[..., Any], given: tuple) -> int:
    """Temporary bytes of the compiled program."""
    return jax.jit(program).lower(*given).compile().memory_analysis().temp_size_in_bytes


if __name__ == "__main__":
    main()
