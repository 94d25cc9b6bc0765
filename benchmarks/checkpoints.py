"""What a checkpoint every 50 meta-steps costs, as a part of the run's time (docs/runs.md).

python benchmarks/checkpoints.py sine [--rounds 7] [--out docs/records/checkpoints.json]
python benchmarks/checkpoints.py omniglot --data FOLDER --meta-steps 100 --rounds 3
Trains sine, or with a folder of Omniglot's two archives Conv-4, with such checkpoints and without, in turn, on one device, and
compares by processor time, which other programs on the machine disturb least, and by the clock. Beside it, what one checkpoint
takes by itself, as it is written and by orbax. Each problem has its place in the record: two minutes of sine, ten of Omniglot.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import jax

from fewstep import maml
from fewstep.arrays import named_leaves
from fewstep.maml import MetaState
from fewstep.problem import Problem
from fewstep.problems import Omniglot, Sine
from fewstep.training import checkpoint_file, loop
from fewstep.training.devices import task_mesh
from fewstep.training.measured_lowerings import processor

EVERY = 50
SAVES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=("sine", "omniglot"))
    parser.add_argument("--data", default="", help="the folder of Omniglot's archives")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--meta-steps", type=int, default=1_000, help="of a training")
    parser.add_argument("--out", type=Path, default=Path("docs/records/checkpoints.json"))
    arguments = parser.parse_args()
    settings = Omniglot(data_dir=arguments.data) if arguments.problem == "omniglot" else Sine()
    costs = cost(settings.build(0), arguments.meta_steps, arguments.rounds)
    machine = {"cpu": processor(), "python": platform.python_version(), "date": time.strftime("%Y-%m-%d")}
    found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    found |= {"every": EVERY, arguments.problem: {**costs, "machine": machine}}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def cost(problem: Problem, meta_steps: int, rounds: int) -> dict[str, Any]:
    """Of `meta_steps` with checkpoints and without: milliseconds a meta-step, and the part that checkpoints take of it."""
    problem = replace(problem, log_every=meta_steps, lower_rates=None, rollbacks=0, beginning=None, validation_tasks=1)
    both = {EVERY: replace(problem, checkpoint_every=EVERY), 0: problem}
    timed = {every: [] for every in both}
    for number in range(rounds + 1):
        for every, each in both.items():
            times = one_training(each, meta_steps)
            if number:  # the first one compiles
                timed[every].append(times)
    names = "processor", "clock"
    ratios = {
        name: [one[place] / other[place] - 1 for one, other in zip(timed[EVERY], timed[0], strict=True)]
        for place, name in enumerate(names)
    }
    state = jax.jit(lambda key: maml.init(problem.outer_optimizer, problem.init(key)))(jax.random.key(0))
    ours, theirs = written(state), by_orbax(state)
    meta_step = median(times[0] for times in timed[0])
    return {
        "numbers": sum(leaf.size for leaf in jax.tree.leaves(state)),
        "meta_step_ms": {name: round(1e3 * median(times[place] for times in timed[0]), 3) for place, name in enumerate(names)},
        "part": {name: round(median(ratios[name]), 4) for name in names},
        "parts": {name: [round(ratio, 4) for ratio in ratios[name]] for name in names},
        "one_checkpoint_ms": {"ours": ours, "orbax": theirs},
        "part_by_one_checkpoint": {
            "ours": round(ours["processor"] / (1e3 * EVERY * meta_step), 4),
            "orbax": round(theirs["processor"] / (1e3 * EVERY * meta_step), 4),
        },
    }


def one_training(problem: Problem, meta_steps: int) -> tuple[float, float]:
    """Seconds a meta-step, of all processors and by the clock, from the end of the first compiled call to that of the last."""
    ends: list[tuple[int, float, float]] = []
    advance = loop.Progress.advance

    def watched(self: Any, done: int) -> None:
        ends.append((done, time.process_time(), time.perf_counter()))
        advance(self, done)

    loop.Progress.advance = watched
    try:
        with tempfile.TemporaryDirectory() as folder:
            loop.train(problem, Path(folder), meta_steps=meta_steps, mesh=task_mesh(1), quiet=True)
    finally:
        loop.Progress.advance = advance
    (first, *began), (last, *ended) = ends[0], ends[-1]
    processors, clock = ((end - begin) / (last - first) for begin, end in zip(began, ended, strict=True))
    return processors, clock


def written(state: MetaState) -> dict[str, float]:
    """Milliseconds of one checkpoint, all of it in the background: of the processor, and by the clock with the disk's."""
    with tempfile.TemporaryDirectory() as folder:

        def save(number: int) -> None:
            record = {"validation": None, "seconds": 1.0, "log_position": number, "sums": [1.0, 1.0, 1, 0]}
            checkpoint_file.write(Path(folder) / f"{number}.safetensors", named_leaves(jax.device_get(state)), record)

        return taken(save)


def by_orbax(state: MetaState) -> dict[str, float]:
    """The same by orbax's manager, until it is written."""
    import logging

    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.CRITICAL)
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    with tempfile.TemporaryDirectory() as folder, ocp.CheckpointManager(folder, options=options) as manager:

        def save(number: int) -> None:
            parts = {"state": ocp.args.StandardSave(named_leaves(jax.device_get(state))), "record": ocp.args.JsonSave({})}
            manager.save(number, args=ocp.args.Composite(**parts))
            manager.wait_until_finished()

        return taken(save)


def taken(save: Any) -> dict[str, float]:
    """The median of several."""
    save(0)
    times = []
    for number in range(1, SAVES + 1):
        processors, clock = time.process_time(), time.perf_counter()
        save(number)
        times.append((time.process_time() - processors, time.perf_counter() - clock))
    return {
        name: round(1e3 * median(each), 2) for name, each in zip(("processor", "clock"), zip(*times, strict=True), strict=True)
    }


if __name__ == "__main__":
    main()
