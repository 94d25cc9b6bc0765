"""Seconds of a meta-step of MAML with TRPO: fewstep beside PyTorch, in the same environments at the same sizes.

    python -m benchmarks.speed.policies [--rounds 5] [--problems nav2d cheetah-vel] [--cores 1]

20 tasks of 20 trajectories of 100 steps, one adaptation step, a policy of 64-64 tanh: `fewstep train` with `--preset
maml`, and on half-cheetah `--no-normalize`, since public codes do not normalize observations. Before anything is timed,
PyTorch must give the same meta-gradient, products with the Hessian and outer step on the same trajectories, in float64,
and environments that are written twice must be the same.

Every program runs in a process of its own, on one core, and makes a meta-step in turn, round by round. Figures are
medians over rounds, ratios medians of the ratios within a round. Beside the seconds of the wall stand those of the
processor, all threads together: on one core they are about what the wall would show on an idle machine. Ask for more
cores (`--cores 1 2`) only where nothing else runs: PyTorch's threads wait for each other, and become many times slower
where one of them is kept waiting. See docs/policies.md."""

from __future__ import annotations

import argparse
import os
from functools import partial
from typing import Any

import numpy as np

from benchmarks.records import Options, Worker, channel, in_turn, machine, read, serve, write

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
    parser = Options(__doc__, "speed/policies.json")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS)
    parser.add_argument("--cores", type=int, nargs="+", default=[1], help="every program on so many")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return work(*arguments.worker)
    for problem in arguments.problems:
        found = compared(problem, arguments.cores, arguments.rounds)
        write(arguments.out, read(arguments.out) | {"protocol": PROTOCOL, problem: found})


def compared(problem: str, cores: list[int], rounds: int) -> dict[str, Any]:
    """The check, then the rounds."""
    print(f"{problem}: deviations from fewstep, float64", flush=True)
    check = Program("check", problem, 1)
    deviations = check.ask()
    check.stop()
    for name, deviation in deviations.items():
        print(f"  {name:40}{deviation:9.1e}", flush=True)
        most = TOLERANCE_OF_STEP if name.startswith("outer step") else TOLERANCE
        if not deviation <= most:
            raise SystemExit(f"PyTorch computes something else: {name} deviates by {deviation:.1e}, at most {most:.0e}.")
    programs = [program for program in LABELS if program != "normalized" or problem != "nav2d"]
    workers = {(program, count): Program(program, problem, count) for count in cores for program in programs}
    try:
        measured = in_turn({key: worker.ask for key, worker in workers.items()}, rounds)
    finally:
        for worker in workers.values():
            worker.stop()
    rows = [row(*key, found, measured["fewstep", key[1]]) for key, found in measured.items()]
    print(" " * 72, *(f"{name:>14}" for name in SHOWN))
    for each in rows:
        print(f"{each['cores']} core(s) {each['program']:62}", *(f"{each[name]:14.3f}" for name in SHOWN), flush=True)
    load = round(os.getloadavg()[1], 1)
    return {"rounds": rounds, "load": load, "machine": machine(), "deviations": deviations, "rows": rows}


SHOWN = ("seconds", "ratio", "cpu_seconds", "cpu_ratio", "cpu_collecting", "cpu_learning")


def row(program: str, cores: int, measured: list[dict[str, Any]], reference: list[dict[str, Any]]) -> dict[str, Any]:
    """What was measured of one program."""
    whole, collecting = (np.array([each[name] for each in measured]) for name in ("whole", "collecting"))
    baseline = np.array([each["whole"] for each in reference])
    steps = measured[0]["steps"]
    middle = partial(np.median, axis=0)
    learning, ratios, rates = middle(whole - collecting), middle(whole / baseline), middle(steps / collecting)
    shares = middle(1 - collecting / whole)
    found: dict[str, Any] = {"program": LABELS[program], "cores": cores}
    for number, clock in enumerate(("", "cpu_")):
        found |= {
            f"{clock}seconds": middle(whole)[number],
            f"{clock}ratio": ratios[number],
            f"{clock}collecting": middle(collecting)[number],
            f"{clock}learning": learning[number],
            f"{clock}share_of_learning": shares[number],
        }
    found["environment_steps_per_second"], found["environment_steps_per_cpu_second"] = (round(rate) for rate in rates)
    found["lengths_tried"] = np.mean([each["tries"] for each in measured])
    found["seconds_by_round"], found["cpu_seconds_by_round"] = np.round(whole.T, 3).tolist()
    return {name: round(float(value), 3) if isinstance(value, float) else value for name, value in found.items()}


class Program(Worker):
    """A program in a process of its own, on so many cores."""

    def __init__(self, program: str, problem: str, cores: int):
        threads = {name: str(cores) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")}
        words = ["benchmarks.speed.policies", "--worker", program, problem, str(cores)]
        super().__init__(*words, environment={**threads, "JAX_PLATFORMS": "cpu"})


def work(program: str, problem: str, cores: str) -> None:
    """The process: answers each request with what a meta-step took."""
    answer = channel()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])  # before any framework looks
    from benchmarks.peers.policy_programs import fewstep_program, torch_program

    makers: dict[str, Any] = {
        "check": agreement,
        "fewstep": fewstep_program,
        "normalized": partial(fewstep_program, normalize=True),
        "in_batches": partial(torch_program, cores=int(cores)),
        "one_by_one": partial(torch_program, cores=int(cores), one_by_one=True),
    }
    serve(makers[program](problem), answer)


def agreement(problem: str) -> Any:
    """What answers with the deviations of PyTorch from fewstep."""
    from benchmarks.peers.policy_agreement import deviations_of

    return partial(deviations_of, problem)


if __name__ == "__main__":
    main()
