"""Many processes beside one, on this machine: the rate of a meta-step, and what a sum over processes takes.

python -m benchmarks.speed.multihost --omniglot omniglot/ # some five minutes on two cores Rate: Conv-4 on Omniglot as in
Finn et al. 2017, 32 tasks a meta-step, one process on one core beside two on two. They are asked by turns, so that a busy
moment falls on both alike; medians over rounds. Seconds of processor time are recorded too: what a process computed
itself, without waiting. Sums: as the training takes them, one flat vector of float32 over all processes, through the
loopback device (gloo)."""

from __future__ import annotations

import argparse
import json
import os
import socket
from functools import partial
from statistics import median
from typing import Any

from benchmarks.records import (
    Options,
    Worker,
    channel,
    clocked,
    in_turn,
    median_ratio,
    median_seconds,
    ratios,
    say,
    serve,
    write,
)

FLOATS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
STEPS, REPEATS = 4, 15
"""meta-steps of a round; sums that are timed"""


def main() -> None:
    parser = Options(__doc__, "speed/multihost.json")
    parser.add_argument("--omniglot", required=True, help="the folder of upstream's two archives")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return work(*arguments.worker, arguments.omniglot)
    places = sorted(os.sched_getaffinity(0))[:2]
    assert len(places) == 2, "two cores are needed"
    groups = {count: Together("rate", places[:count], arguments.omniglot) for count in (1, 2)}
    found = in_turn({count: partial(group.ask, STEPS) for count, group in groups.items()}, arguments.rounds)
    for group in groups.values():
        group.close()
    wall, processor = (
        {count: [each[clock] / STEPS for each in rounds] for count, rounds in found.items()} for clock in ("wall", "processor")
    )
    sums: list[dict[str, Any]] = []
    for count in (2, 4):
        group = Together("sums", [places[process % 2] for process in range(count)], arguments.omniglot)
        for floats in FLOATS:
            group.ask(floats)
            sums.append({"processes": count, "floats": floats, "seconds": group.ask(floats)["median"]})
            say(str(sums[-1]))
        group.close()
    record = {
        "rate": {
            "tasks": 32,
            "seconds_one": median(wall[1]),
            "seconds_two": median(wall[2]),
            "times": median_ratio(wall[1], wall[2]),
            "times_each_round": [round(times, 3) for times in ratios(wall[1], wall[2])],
            "processor_seconds_one": median(processor[1]),
            "processor_seconds_of_each_of_two": median(processor[2]),
        },
        "load": os.getloadavg()[0],
        "sums": sums,
    }
    write(arguments.out, record)
    print(json.dumps(record, indent=1))


class Together:
    """Processes of one device each, on these cores, that do as they are asked, all at once."""

    def __init__(self, what: str, places: list[int], omniglot: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            where = f"127.0.0.1:{free.getsockname()[1]}"
        environment = {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
        words = ["benchmarks.speed.multihost", "--omniglot", omniglot, "--worker", what]
        self.workers = [
            Worker(*words, str(number), str(len(places)), where, environment=environment, before=["taskset", "-c", str(core)])
            for number, core in enumerate(places)
        ]

    def ask(self, number: int) -> dict[str, float]:
        """The slowest one's answer."""
        for worker in self.workers:
            worker.send(number=number)
        answers = [worker.receive() for worker in self.workers]
        return {name: max(answer[name] for answer in answers) for name in answers[0]}

    def close(self) -> None:
        """All end at once: each waits for the others."""
        for worker in self.workers:
            worker.process.stdin.close()
        assert [worker.process.wait(60) for worker in self.workers] == [0] * len(self.workers)


def work(what: str, process: str, processes: str, where: str, omniglot: str) -> None:
    """One of the processes."""
    from fewstep.training import multihost

    answer = channel()
    if processes != "1":
        multihost.join(int(processes), int(process), where)
    serve(meta_steps(omniglot) if what == "rate" else sums(), answer)
    multihost.shutdown()


def meta_steps(omniglot: str):
    from dataclasses import replace

    import jax

    from fewstep.application import presets
    from fewstep.core import maml
    from fewstep.training.chunk import compiled_chunk
    from fewstep.training.devices import replicate, training_mesh
    from fewstep.training.tuning import tune

    problem, mesh = replace(presets()["omniglot"]["maml"][0], data_dir=omniglot).build(0), training_mesh()
    problem = tune(problem, mesh.size)
    run = compiled_chunk(problem, mesh)
    state = replicate(maml.init(problem.outer_optimizer, problem.init(jax.random.key(0))), mesh)

    def step(count: int) -> Any:
        nonlocal state
        state, chunk = run(state, jax.random.key(1), count)
        return state, chunk

    def answer(number: int) -> dict[str, float]:
        return dict(zip(("wall", "processor"), clocked(partial(step, number)), strict=True))

    return answer


def sums():
    import jax
    import jax.numpy as jnp
    from jax.sharding import PartitionSpec

    from fewstep.training.devices import AXIS, replicate, training_mesh

    mesh, everywhere = training_mesh(), PartitionSpec()
    shared = jax.shard_map(
        lambda flat: jax.lax.psum(flat, AXIS), mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False
    )
    program = jax.jit(shared)

    def answer(number: int) -> dict[str, float]:
        flat = replicate(jnp.ones(number), mesh)
        return {"median": median_seconds(lambda: program(flat), REPEATS)}

    return answer


if __name__ == "__main__":
    main()
