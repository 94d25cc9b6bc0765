"""Memory of one task's meta-gradient by adaptation steps, from compiled programs: the figures of docs/gradients.md.

python benchmarks/memory.py     -> docs/records/memory.json, some two minutes; nothing is run, so the figures are exact
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from fewstep import Examples, Learner, MetaParams, losses, nn
from fewstep.gradients import exact, first_order, stored
from fewstep.training.plan import fitted
from fewstep.types import Episode

STEPS = (1, 5, 20, 50)
WAYS = {"exact": exact, "stored": stored, "first-order": first_order}
HARD_TO_COMPILE = 20
"""`stored` is compiled up to so many steps: beyond, its memory is the same line"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/records/memory.json"))
    arguments = parser.parse_args()
    record = {name: by_steps(*model) for name, model in models().items()}
    record |= {"jax": jax.__version__, "machine": platform.machine(), "date": time.strftime("%Y-%m-%d")}
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


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
        "MLP, 12 layers of 64, 1,024 + 1,024 examples": (
            losses.mean_squared_error(deep.apply),
            jax.eval_shape(deep.init, key),
            episode((64,), 64, 1024, 1024),
        ),
        "the same MLP, every layer rematerialized": (
            losses.mean_squared_error(checkpointed),
            [(shape(64, 64), shape(64)) for _ in range(12)],
            episode((64,), 64, 1024, 1024),
        ),
    }


def checkpointed(params, x):
    for weight, bias in params:
        x = jax.checkpoint(lambda x, weight, bias: jnp.tanh(x @ weight + bias))(x, weight, bias)
    return x


def shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def episode(inputs: tuple[int, ...], outputs: int, shots: int, queries: int) -> Episode:
    return Episode(*(Examples(shape(size, *inputs), shape(size, outputs), shape(size)) for size in (shots, queries)))


def by_steps(loss, theta, episode) -> dict:
    params, found = MetaParams(theta), {}
    for name, way in WAYS.items():
        found[name] = {}
        for steps in STEPS:
            if name == "stored" and steps > HARD_TO_COMPILE:
                continue
            learner = fitted(Learner(loss, optax.sgd(0.01), steps, task_gradient=way), params, episode, 1)
            key, step = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), jnp.int32)
            program = jax.jit(
                lambda params, episode, key, step, learner=learner: learner.task_gradient(learner, params, episode, key, step)
            )
            found[name][steps] = program.lower(params, episode, key, step).compile().memory_analysis().temp_size_in_bytes
            print(name, steps, f"{found[name][steps] / 2**20:.1f} MiB", flush=True)
    found["parameters"] = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(theta))
    return found


if __name__ == "__main__":
    main()
