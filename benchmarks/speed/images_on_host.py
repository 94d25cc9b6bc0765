"""What it costs that images stay on the host: a meta-step with them on the device, gathered ahead, and gathered when asked for.

python -m benchmarks.speed.images_on_host [--rounds 5] [--network mlp] [--tasks 32] On a GPU: --network conv4 --out
docs/records/speed/images_on_host_gpu.json five minutes on two cores Random images of 84 x 84 in color, 5 ways of 1 shot
and 15 queries: 160 MB of 7,600 images, 54 MB of which go to each meta-step of 32 tasks. The three take turns within each
round; ratios are medians of those within rounds. One device, whatever it is. Once as it is, and once with a wait of 100
ms in each of the two gatherings of a meta-step, as of a disk: a processor that gathers cannot compute meanwhile, so that
on a CPU waiting is all that can be hidden."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from statistics import median
from typing import Any
from unittest import mock

import jax
import numpy as np

from benchmarks.records import Options, in_turn, ratios, timed, write
from fewstep.apps.images.data import ImageSet
from fewstep.apps.images.problem import Images
from fewstep.core import maml
from fewstep.core.prefetch import OnHost
from fewstep.core.problem import Problem
from fewstep.training.chunk import compiled_chunk
from fewstep.training.devices import task_mesh
from fewstep.training.tuning import prepare

CLASSES, EACH, SIZE = 38, 200, 84
WAIT = 0.1
"""seconds"""
METHOD = {"ways": 5, "shots": 1, "queries": 15, "test_queries": 15}
METHOD |= {"adaptation_steps": 1, "meta_gradient": "first-order", "joint_steps": 0}


@dataclass(frozen=True, kw_only=True)
class Noise(Images):
    """Images of nothing, in no folder."""

    def read(self) -> ImageSet:
        images = np.random.default_rng(0).integers(0, 256, (CLASSES * EACH, SIZE, SIZE, 3), np.uint8)
        split = ("train",) * (CLASSES - 10) + ("validation",) * 5 + ("test",) * 5
        return ImageSet(images, np.full(CLASSES, EACH), tuple(map(str, range(CLASSES))), (), split)


def main() -> None:
    parser = Options(__doc__, "speed/images_on_host.json")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--network", choices=("mlp", "conv4"), default="mlp")
    parser.add_argument("--tasks", type=int, default=32, help="of a meta-batch")
    parser.add_argument("--meta-steps", type=int, default=10, help="of a round")
    arguments = parser.parse_args()
    where = {"device": "device", "ahead": "host", "when asked": "host"}
    runs = {}
    for name, kept in where.items():
        settings = Noise(data="noise", images_on=kept, network=arguments.network, meta_batch_size=arguments.tasks, **METHOD)
        runs[name] = meta_steps(settings.build(0), ahead=name == "ahead")
    record = {
        "as it is": compared(runs, arguments.rounds, arguments.meta_steps),
        f"waiting {1e3 * WAIT:.0f} ms": compared(runs, arguments.rounds, arguments.meta_steps, WAIT),
        "gathering_ms": round(1e3 * gathering(arguments.tasks), 2),
        "megabytes": round(arguments.tasks * 5 * 16 * SIZE * SIZE * 3 / 1e6, 1),
        "setting": {"network": arguments.network, "tasks": arguments.tasks, "meta_steps": arguments.meta_steps, **METHOD},
        "device": jax.devices()[0].device_kind,
    }
    write(arguments.out, record)
    print(json.dumps(record, indent=1))


def compared(runs: dict[str, Any], rounds: int, meta_steps: int, wait: float = 0.0) -> dict[str, Any]:
    """Milliseconds a meta-step of each, and how many times that with images on the device, with a `wait` in each gathering."""
    gathered = OnHost._gathered

    def slowly(self: OnHost, numbers: np.ndarray) -> np.ndarray:
        time.sleep(wait)
        return gathered(self, numbers)

    with mock.patch.object(OnHost, "_gathered", slowly):
        programs = {name: lambda run=run: timed(lambda: run(meta_steps)) / meta_steps for name, run in runs.items()}
        times = in_turn(programs, rounds)
    found = {name: ratios(times[name], times["device"]) for name in ("ahead", "when asked")}
    return {
        "meta_step_ms": {name: round(1e3 * median(each), 2) for name, each in times.items()},
        "times_device": {name: round(median(each), 4) for name, each in found.items()},
        "rounds": {name: [round(each, 4) for each in several] for name, several in found.items()},
    }


def meta_steps(problem: Problem, ahead: bool) -> Any:
    """`run(n)` makes n meta-steps."""
    assert problem.splits is not None
    if not ahead:
        problem = replace(problem, splits=replace(problem.splits, train=replace(problem.splits.train, on_host=None)))
    mesh = task_mesh(1)
    problem = prepare(problem, mesh, 0, True)
    chunk, key = compiled_chunk(problem, mesh), jax.random.key(1)
    state = maml.init(problem.outer_optimizer, problem.init(jax.random.key(0)))

    def run(count: int) -> None:
        nonlocal state
        state, _ = jax.block_until_ready(chunk(state, key, count))

    return run


def gathering(tasks: int) -> float:
    """Seconds that the host takes to gather the images of one meta-step."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (CLASSES * EACH, SIZE, SIZE, 3), np.uint8)
    several = [random.integers(0, len(images), (tasks, 5, 16)) for _ in range(20)]
    return median(timed(lambda numbers=numbers: np.take(images, numbers, axis=0)) for numbers in several)


if __name__ == "__main__":
    main()
