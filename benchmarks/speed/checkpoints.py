"""What a checkpoint every 50 meta-steps costs, as a part of the run's time (docs/runs.md).

python -m benchmarks.speed.checkpoints sine [--rounds 7] python -m benchmarks.speed.checkpoints omniglot --data FOLDER
--meta-steps 100 --rounds 3 Trains sine, or with a folder of Omniglot's two archives Conv-4, with such checkpoints and
without, in turn, on one device, and compares by processor time, which other programs on the machine disturb least, and by
the clock. Beside it, what one checkpoint takes by itself. Each problem has its place in the record: two minutes of sine,
ten of Omniglot."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import jax
import numpy as np

from benchmarks.records import Options, clocked, clocks, in_turn, machine, ratios, read, write
from fewstep.apps.images.omniglot import Omniglot
from fewstep.apps.sine.settings import Sine
from fewstep.core import maml
from fewstep.core.maml import MetaState
from fewstep.core.problem import Problem
from fewstep.storage.arrays import named_leaves
from fewstep.training import checkpoint, loop
from fewstep.training.devices import task_mesh

EVERY = 50
SAVES = 20
CLOCKS = "clock", "processor"


def main() -> None:
    parser = Options(__doc__, "speed/checkpoints.json")
    parser.add_argument("problem", choices=("sine", "omniglot"))
    parser.add_argument("--data", default="", help="the folder of Omniglot's archives")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--meta-steps", type=int, default=1_000, help="of a training")
    arguments = parser.parse_args()
    settings = Omniglot(data_dir=arguments.data) if arguments.problem == "omniglot" else Sine()
    costs = cost(settings.build(0), arguments.meta_steps, arguments.rounds)
    found = read(arguments.out) | {"every": EVERY, arguments.problem: {**costs, "machine": machine()}}
    write(arguments.out, found)
    print(json.dumps(found, indent=1))


def cost(problem: Problem, meta_steps: int, rounds: int) -> dict[str, Any]:
    """Of `meta_steps` with checkpoints and without: milliseconds a meta-step, and the part that checkpoints take of it."""
    problem = replace(problem, log_every=meta_steps, lower_rates=None, rollbacks=0, warm_start=None, validation_tasks=1)
    both = {EVERY: replace(problem, checkpoint_every=EVERY), 0: problem}
    found = in_turn({every: partial(one_training, each, meta_steps) for every, each in both.items()}, rounds)
    saved, plain = ({name: [each[name] for each in found[every]] for name in CLOCKS} for every in both)
    parts = {name: [ratio - 1 for ratio in ratios(saved[name], plain[name])] for name in CLOCKS}
    state = jax.jit(lambda key: maml.init(problem.outer_optimizer, problem.init(key)))(jax.random.key(0))
    one = written(state)
    return {
        "numbers": sum(leaf.size for leaf in jax.tree.leaves(state)),
        "meta_step_ms": {name: round(1e3 * median(each), 3) for name, each in plain.items()},
        "part": {name: round(median(each), 4) for name, each in parts.items()},
        "parts": {name: [round(part, 4) for part in each] for name, each in parts.items()},
        "one_checkpoint_ms": one,
        "part_by_one_checkpoint": round(one["processor"] / (1e3 * EVERY * median(plain["processor"])), 4),
    }


def one_training(problem: Problem, meta_steps: int) -> dict[str, float]:
    """Seconds a meta-step by each clock, from the end of the first compiled call to that of the last."""
    ends: list[tuple[float, ...]] = []
    advance = loop.Progress.advance

    def watched(self: Any, done: int) -> None:
        ends.append((done, *clocks()))
        advance(self, done)

    with mock.patch.object(loop.Progress, "advance", watched), tempfile.TemporaryDirectory() as folder:
        loop.train(problem, Path(folder), meta_steps=meta_steps, mesh=task_mesh(1), quiet=True)
    done, *seconds = np.subtract(ends[-1], ends[0])
    return dict(zip(CLOCKS, np.divide(seconds, done), strict=True))


def written(state: MetaState) -> dict[str, float]:
    """Milliseconds of one checkpoint, all of it in the background: of the processor, and by the clock with the disk's."""
    with tempfile.TemporaryDirectory() as folder:

        def save() -> None:
            record = {"validation": None, "seconds": 1.0, "log_position": 1, "sums": [1.0, 1.0, 1, 0]}
            checkpoint.write(Path(folder) / "1.safetensors", named_leaves(jax.device_get(state)), record)

        times = in_turn({"one": partial(clocked, save)}, SAVES)["one"]
    return {name: round(1e3 * median(each), 2) for name, each in zip(CLOCKS, zip(*times, strict=True), strict=True)}


if __name__ == "__main__":
    main()
