"""Seconds of a meta-step of MAML with TRPO: fewstep beside PyTorch, in the same environments at the same sizes.

    python benchmarks/policy_speed.py [--rounds 5] [--problems nav2d cheetah-vel] [--cores 1]
                                      # -> docs/records/policy_speed.json

20 tasks of 20 trajectories of 100 steps, one adaptation step, a policy of 64-64 tanh: `fewstep train` with `--preset maml`, and
on half-cheetah `--no-normalize`, since public codes do not normalize observations. Before anything is timed, PyTorch must give
the same meta-gradient, products with the Hessian and outer step on the same trajectories, in float64, and environments that are
written twice must be the same.

Every program runs in a process of its own, on one core, and makes a meta-step in turn, round by round. Figures are medians over
rounds, ratios medians of the ratios within a round. Beside the seconds of the wall stand those of the processor, all threads
together: on one core they are about what the wall would show on an idle machine. Ask for more cores (`--cores 1 2`) only where
nothing else runs: PyTorch's threads wait for each other, and become many times slower where one of them is kept waiting. See
docs/policies.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

PROBLEMS = ("nav2d", "cheetah-vel")
LABELS = {
    "fewstep": "fewstep",
    "in_batches": "PyTorch, all tasks and rollouts in one batch",
    "one_by_one": "PyTorch, a loop over tasks and environments, as in public codes",
    "normalized": "fewstep, observations normalized",
}
"""program -> what the table calls it; the others are compared with the first"""
TOLERANCE = 1e-6
"""largest deviation from fewstep in float64, relative to the largest entry"""
TOLERANCE_OF_STEP = 1e-4
"""the same of the outer step: on navigation ten conjugate gradients make 1e-5 of roundings of 2e-14 in gradient and products,
within PyTorch alone too"""

PROTOCOL = {
    "tasks": 20, "rollouts": 20, "horizon": 100, "adaptation_steps": 1, "hidden": [64, 64], "precision": "float32",
    "outer": "TRPO, 10 products with the Hessian",
    "seconds": "of the wall, median over rounds", "ratio": "to fewstep on as many cores, median over rounds",
    "cpu": "seconds of the processor, all threads together",
    "collecting": "of fewstep timed by itself, right after each meta-step",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS)
    parser.add_argument("--cores", type=int, nargs="+", default=[1], help="every program on so many")
    parser.add_argument("--records", type=Path, default=Path("docs/records"))
    arguments = parser.parse_args()
    file = arguments.records / "policy_speed.json"
    for problem in arguments.problems:
        found = compared(problem, arguments.cores, arguments.rounds)
        kept = json.loads(file.read_text()) if file.exists() else {}  # what was measured of the other problem
        file.write_text(json.dumps(kept | {"protocol": PROTOCOL, problem: found}, indent=1) + "\n")


def compared(problem: str, cores: list[int], rounds: int) -> dict[str, Any]:
    """The check, then the rounds."""
    print(f"{problem}: deviations from fewstep, float64", flush=True)
    deviations = Worker("check", problem, 1).finished()
    for name, deviation in deviations.items():
        print(f"  {name:40}{deviation:9.1e}", flush=True)
        most = TOLERANCE_OF_STEP if name.startswith("outer step") else TOLERANCE
        if not deviation <= most:
            raise SystemExit(f"PyTorch computes something else: {name} deviates by {deviation:.1e}, at most {most:.0e}.")
    programs = [program for program in LABELS if program != "normalized" or problem != "nav2d"]
    workers = [Worker(program, problem, count) for count in cores for program in programs]
    try:
        for worker in workers:
            worker.asked()  # the first meta-step compiles
            print(f"ready: {LABELS[worker.program]}, {worker.cores} core(s)", flush=True)
        started = time.monotonic()
        for number in range(rounds):
            first = number * len(workers) // rounds
            for worker in workers[first:] + workers[:first]:
                worker.measure()
            left = (time.monotonic() - started) / (number + 1) * (rounds - number - 1)
            print(f"round {number + 1} of {rounds}, about {left:.0f} s left", flush=True)
    finally:
        for worker in workers:
            worker.stop()
    by_cores = {worker.cores: worker for worker in workers if worker.program == "fewstep"}
    rows = [row(worker, by_cores[worker.cores]) for worker in workers]
    print(" " * 72, *(f"{name:>14}" for name in SHOWN))
    for each in rows:
        print(f"{each['cores']} core(s) {each['program']:62}", *(f"{each[name]:14.3f}" for name in SHOWN), flush=True)
    versions = {name: version(name) for name in ("jax", "torch", "mujoco")}
    about = {"rounds": rounds, "load": round(os.getloadavg()[1], 1), "date": time.strftime("%Y-%m-%d"), "versions": versions}
    return {**about, "deviations": deviations, "rows": rows}


SHOWN = ("seconds", "ratio", "cpu_seconds", "cpu_ratio", "cpu_collecting", "cpu_learning")


def row(worker: Worker, reference: Worker) -> dict[str, Any]:
    """What was measured of one program."""
    whole, collecting = (np.array([each[name] for each in worker.measured]) for name in ("whole", "collecting"))
    baseline = np.array([each["whole"] for each in reference.measured])
    steps = worker.measured[0]["steps"]
    middle = partial(np.median, axis=0)
    learning, ratios, rates = middle(whole - collecting), middle(whole / baseline), middle(steps / collecting)
    shares = middle(1 - collecting / whole)
    found: dict[str, Any] = {"program": LABELS[worker.program], "cores": worker.cores}
    for number, clock in enumerate(("", "cpu_")):
        found |= {
            f"{clock}seconds": middle(whole)[number],
            f"{clock}ratio": ratios[number],
            f"{clock}collecting": middle(collecting)[number],
            f"{clock}learning": learning[number],
            f"{clock}share_of_learning": shares[number],
        }
    found["environment_steps_per_second"], found["environment_steps_per_cpu_second"] = (round(rate) for rate in rates)
    found["lengths_tried"] = np.mean([each["tries"] for each in worker.measured])
    found["seconds_by_round"], found["cpu_seconds_by_round"] = np.round(whole.T, 3).tolist()
    return {name: round(float(value), 3) if isinstance(value, float) else value for name, value in found.items()}


@dataclass
class Worker:
    """A program in a process of its own, on so many cores."""

    program: str
    problem: str
    cores: int
    measured: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(self.program, self.problem, self.cores, other), daemon=True)
        self.process.start()
        other.close()

    def asked(self) -> dict[str, Any]:
        """One meta-step's figures. Raises `SystemExit` where the process ended."""
        try:
            self.pipe.send("go on")
            return self.pipe.recv()
        except (EOFError, BrokenPipeError):
            raise SystemExit(f"{LABELS.get(self.program, self.program)}, {self.problem}: the process ended.") from None

    def measure(self) -> None:
        self.measured.append(self.asked())

    def stop(self) -> None:
        self.pipe.close()
        self.process.join(10)
        self.process.kill()

    def finished(self) -> dict[str, Any]:
        try:
            return self.asked()
        finally:
            self.stop()


def serve(program: str, problem: str, cores: int, pipe: Any) -> None:
    """The process: answers each message with what a meta-step took."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])  # before any framework looks
    os.environ |= {name: str(cores) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")} | {"JAX_PLATFORMS": "cpu"}
    from peers.policy_programs import fewstep_program, torch_program

    makers: dict[str, Any] = {
        "check": agreement,
        "fewstep": fewstep_program,
        "normalized": partial(fewstep_program, normalize=True),
        "in_batches": partial(torch_program, cores=cores),
        "one_by_one": partial(torch_program, cores=cores, one_by_one=True),
    }
    step = makers[program](problem)
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        pipe.send(step())


def agreement(problem: str) -> Any:
    """What answers with the deviations of PyTorch from fewstep."""
    from peers.policy_agreement import deviations_of

    return partial(deviations_of, problem)


if __name__ == "__main__":
    main()
