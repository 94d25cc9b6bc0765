"""Many processes beside one, on this machine: the rate of a meta-step, and what a sum over processes takes.

python benchmarks/hosts.py --omniglot omniglot/      -> docs/records/hosts.json, some five minutes on two cores
Rate: Conv-4 on Omniglot as in Finn et al. 2017, 32 tasks a meta-step, one process on one core beside two on two. They are asked
by turns, so that a busy moment falls on both alike; medians over rounds. Seconds of processor time are recorded too: what a
process computed itself, without waiting. Sums: as the training takes them, one flat vector of float32 over all processes,
through the loopback device (gloo).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FLOATS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
STEPS, REPEATS = 4, 15
"""meta-steps of a round; sums that are timed"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--omniglot", required=True, help="the folder of upstream's two archives")
    parser.add_argument("--json", type=Path, default=Path("docs/records/hosts.json"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(*arguments.worker, arguments.omniglot)
        return
    cores = sorted(os.sched_getaffinity(0))[:2]
    assert len(cores) == 2, "two cores are needed"
    one, two = Together("rate", cores[:1], arguments.omniglot), Together("rate", cores, arguments.omniglot)
    for each in (one, two):
        each.ask(STEPS)  # compiled
    rounds = []
    for _ in range(arguments.rounds):
        rounds.append((one.ask(STEPS), two.ask(STEPS)))
        print(*rounds[-1], file=sys.stderr, flush=True)
    one.close()
    two.close()
    wall = [[found["wall"] / STEPS for found in both] for both in rounds]
    processor = [[found["processor"] / STEPS for found in both] for both in rounds]
    record: dict[str, Any] = {
        "rate": {
            "tasks": 32,
            "seconds_one": statistics.median(one for one, _ in wall),
            "seconds_two": statistics.median(two for _, two in wall),
            "times": statistics.median(one / two for one, two in wall),
            "times_each_round": [round(one / two, 3) for one, two in wall],
            "processor_seconds_one": statistics.median(one for one, _ in processor),
            "processor_seconds_of_each_of_two": statistics.median(two for _, two in processor),
        },
        "load": os.getloadavg()[0],
        "sums": [],
    }
    for count in (2, 4):
        group = Together("sums", [cores[process % 2] for process in range(count)], arguments.omniglot)
        for floats in FLOATS:
            group.ask(floats)
            seconds = group.ask(floats)["median"]
            record["sums"].append({"processes": count, "floats": floats, "seconds": seconds})
            print(record["sums"][-1], file=sys.stderr, flush=True)
        group.close()
    record |= {"cores": 2, "date": time.strftime("%Y-%m-%d")}
    arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


class Together:
    """Processes of one device each, on these cores, that do as they are asked, all at once."""

    def __init__(self, what: str, cores: list[int], omniglot: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            where = f"127.0.0.1:{free.getsockname()[1]}"
        environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
        self.processes = []
        for process, core in enumerate(cores):
            words = ["taskset", "-c", str(core), sys.executable, __file__, "--omniglot", omniglot]
            words += ["--worker", what, str(process), str(len(cores)), where]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self.processes.append(subprocess.Popen(words, env=environment, **pipes))

    def ask(self, number: int) -> dict[str, float]:
        """The slowest one's answer."""
        for process in self.processes:
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
        answers = [json.loads(process.stdout.readline()) for process in self.processes]
        return {name: max(answer[name] for answer in answers) for name in answers[0]}

    def close(self) -> None:
        for process in self.processes:
            process.stdin.close()
        assert [process.wait(60) for process in self.processes] == [0] * len(self.processes)


def work(what: str, process: str, processes: str, where: str, omniglot: str) -> None:
    """One of the processes: a number on stdin is a question, the answer is a line of JSON on stdout."""
    from fewstep import hosts

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if processes != "1":
        hosts.join(int(processes), int(process), where)
    answer = meta_steps(omniglot) if what == "rate" else sums()
    for line in sys.stdin:
        print(json.dumps(answer(int(line))), file=out, flush=True)
    hosts.part()


def meta_steps(omniglot: str):
    from dataclasses import replace

    import jax

    from fewstep import maml
    from fewstep.problems import PRESETS
    from fewstep.training.chunk import compiled_chunk
    from fewstep.training.devices import replicate, training_mesh
    from fewstep.training.plan import planned

    problem, mesh = replace(PRESETS["omniglot"]["maml"][0], data_dir=omniglot).build(0), training_mesh()
    problem = planned(problem, mesh.size)
    run = compiled_chunk(problem, mesh)
    state = replicate(maml.init(problem.outer_optimizer, problem.init(jax.random.key(0))), mesh)

    def answer(steps: int) -> dict[str, float]:
        nonlocal state
        started, computed = time.perf_counter(), time.process_time()
        state, _ = jax.block_until_ready(run(state, jax.random.key(1), steps))
        return {"wall": time.perf_counter() - started, "processor": time.process_time() - computed}

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

    def answer(floats: int) -> dict[str, float]:
        flat, seconds = replicate(jnp.ones(floats), mesh), []
        for _ in range(REPEATS):
            started = time.perf_counter()
            jax.block_until_ready(program(flat))
            seconds.append(time.perf_counter() - started)
        return {"median": statistics.median(seconds)}

    return answer


if __name__ == "__main__":
    main()
