"""Seconds of a meta-step of MAML with TRPO: fewstep beside PyTorch, on the same environments at the same sizes. See docs/policies.md.

    python benchmarks/policy_speed.py [--rounds 5] [--problems nav2d cheetah-vel]     # -> docs/records/policy_speed.json

20 tasks of 20 trajectories of 100 steps, one adaptation step, a policy of 64-64 tanh: Finn et al. 2017 as `fewstep train` has it
(`nav2d --preset maml`; `cheetah-vel --no-normalize`, since public codes do not normalize observations). Before anything is timed,
PyTorch must give the same meta-gradient, products with the Hessian and outer step on the same trajectories, in float64, and
environments that are written twice must be the same.

Every program runs in a process of its own, on one core and on two, and makes a meta-step in turn, round by round. Figures are
medians over rounds, ratios medians of the ratios within a round.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

PROBLEMS = ("nav2d", "cheetah-vel")
LABELS = {
    "fewstep": "fewstep",
    "in_batches": "PyTorch, all tasks and rollouts in one batch",
    "one_by_one": "PyTorch, a loop over tasks and environments, as in public codes",
    "shipped": "fewstep as shipped, with normalized observations",
}
"""program -> what the table calls it; the others are compared with the first"""
TOLERANCE = 1e-6
"""largest deviation from fewstep in float64, relative to the largest entry"""
Step = Callable[[], dict[str, float]]
"""makes a meta-step: seconds of all of it, seconds of collecting, lengths tried by the line search"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS)
    parser.add_argument("--records", type=Path, default=Path("docs/records"))
    arguments = parser.parse_args()
    found = {problem: compared(problem, arguments.rounds) for problem in arguments.problems}
    record = {
        "protocol": {
            "tasks": 20, "rollouts": 20, "horizon": 100, "adaptation_steps": 1, "hidden": [64, 64], "precision": "float32",
            "outer": "TRPO, 10 products with the Hessian", "rounds": arguments.rounds,
            "seconds": "median over rounds", "ratio": "median of the ratios to fewstep within a round",
        },
        **found,
        "versions": {name: version(name) for name in ("jax", "torch", "mujoco", "gymnasium")},
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    (arguments.records / "policy_speed.json").write_text(json.dumps(record, indent=1) + "\n")


def compared(problem: str, rounds: int) -> dict[str, Any]:
    """The check, then the rounds."""
    print(f"{problem}: deviations from fewstep, float64", flush=True)
    deviations = Worker("check", problem, 1).finished()
    for name, deviation in deviations.items():
        print(f"  {name:40}{deviation:9.1e}", flush=True)
        if not deviation <= TOLERANCE:
            raise SystemExit(f"PyTorch computes something else: {name} deviates by {deviation:.1e}, at most {TOLERANCE:.0e}.")
    entries = [(program, cores) for cores in (1, 2) for program in LABELS if program != "shipped"]
    if problem != "nav2d":
        entries.append(("shipped", 1))
    entries = [entry for entry in entries if entry[1] <= len(os.sched_getaffinity(0))]
    workers = [Worker(program, problem, cores) for program, cores in entries]
    try:
        for worker in workers:
            worker.asked()  # the first meta-step compiles
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
    for each in rows:
        print(f"{each['cores']} core(s)  {each['program']:64}", *(f"{each[name]:8.3f}" for name in SHOWN), flush=True)
    print(" " * 74, *(f"{name:>8}" for name in SHOWN))
    return {"largest_deviation": max(deviations.values()), "rows": rows}


SHOWN = ("seconds", "ratio", "collecting", "learning")


def row(worker: Worker, reference: Worker) -> dict[str, Any]:
    """What was measured of one program."""
    seconds, collecting, tries = (
        [each[name] for each in worker.measured] for name in ("seconds", "collecting", "tries")
    )
    learning = [whole - part for whole, part in zip(seconds, collecting, strict=True)]
    ratios = [own / other["seconds"] for own, other in zip(seconds, reference.measured, strict=True)]
    found = {
        "program": LABELS[worker.program],
        "cores": worker.cores,
        "seconds": median(seconds),
        "ratio": median(ratios),
        "collecting": median(collecting),
        "learning": median(learning),
        "share_of_learning": median(part / whole for part, whole in zip(learning, seconds, strict=True)),
        "environment_steps_per_second": median(each["steps"] / each["collecting"] for each in worker.measured),
        "lengths_tried": sum(tries) / len(tries),
        "seconds_by_round": seconds,
    }
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in found.items()}


@dataclass
class Worker:
    """A program in a process of its own, on so many cores."""

    program: str
    problem: str
    cores: int
    measured: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(self.program, self.problem, self.cores, other), daemon=True)
        self.process.start()
        other.close()

    def asked(self) -> dict[str, float]:
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

    def finished(self) -> dict[str, float]:
        try:
            return self.asked()
        finally:
            self.stop()


def serve(program: str, problem: str, cores: int, pipe: Any) -> None:
    """The process: answers each message with what a meta-step took."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])  # before any framework looks
    os.environ |= {name: str(cores) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")} | {"JAX_PLATFORMS": "cpu"}
    makers: dict[str, Callable[[str], Step]] = {
        "check": lambda problem: partial(deviations_of, problem),
        "fewstep": fewstep_program,
        "shipped": partial(fewstep_program, shipped=True),
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


def problem_of(name: str, shipped: bool = False) -> Any:
    """fewstep's PolicyProblem."""
    from fewstep.problems import PRESETS

    settings: Any = PRESETS[name]["maml" if name == "nav2d" else "default"][0]
    return (settings if shipped or name == "nav2d" else replace(settings, normalize=False)).build(0)


def fewstep_program(name: str, shipped: bool = False) -> Step:
    """Meta-steps as `fewstep train` makes them. Collecting is timed by itself, right after each of them."""
    import jax

    from fewstep.cli.arguments import prepare_jax
    from fewstep.rl.problem import meta_step_of
    from fewstep.rl.rollouts import collect
    from fewstep.rl.simulated import collect_outside
    from fewstep.tasks.simulation import Simulation

    prepare_jax()
    problem = problem_of(name, shipped)
    search, environment, policy = problem.search, problem.environment, problem.policy
    state, key, meta_step = search.outer.init(problem.init(jax.random.key(0))), jax.random.key(1), meta_step_of(problem)

    @jax.jit
    def inside(thetas: Any, keys: Any) -> Any:
        def one(theta: Any, key: Any) -> Any:
            task_key, key = jax.random.split(key)
            return collect(environment, policy, theta, environment.sample_task(task_key), key, search.rollouts)

        return jax.vmap(one)(thetas, keys)

    def collected(thetas: Any) -> Any:
        if not isinstance(environment, Simulation):
            return inside(thetas, jax.random.split(key, search.tasks))
        tasks = environment.drawn(np.random.default_rng(0), search.tasks)
        return collect_outside(environment, policy, thetas, tasks, search.rollouts, key).trajectories

    def step() -> dict[str, float]:
        nonlocal state
        started = time.perf_counter()
        state, info = jax.block_until_ready(meta_step(state, key))
        seconds = time.perf_counter() - started
        assert info.outer.finite
        thetas = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], search.tasks, 0), state.params.theta)
        jax.block_until_ready(collected(thetas))  # once for what only a first call takes
        started = time.perf_counter()
        jax.block_until_ready(collected(thetas))
        times = search.adaptation_steps + 1
        collecting = times * (time.perf_counter() - started)
        steps = times * search.tasks * search.rollouts * environment.horizon
        return {"seconds": seconds, "collecting": collecting, "tries": int(info.outer.tries), "steps": steps}

    return step


def torch_program(name: str, cores: int, one_by_one: bool = False) -> Step:
    """Meta-steps of PyTorch, from the weights that fewstep begins with."""
    import torch

    from peers import torch_maml_trpo as peer

    torch.set_num_threads(cores)
    torch.manual_seed(0)
    problem = problem_of(name)
    settings, simulation, theta = settings_of(problem), simulation_of(name), weights_of(problem)
    random = np.random.default_rng(0)
    if one_by_one:
        environments = [environment_of(name) for _ in range(settings.rollouts)]
        meta_step = partial(peer.one_by_one, environments, simulation.sample_tasks, simulation.horizon)
    else:
        meta_step = partial(peer.in_batches, simulation)
    steps = (settings.adaptation_steps + 1) * settings.tasks * settings.rollouts * simulation.horizon

    def step() -> dict[str, float]:
        nonlocal theta
        started = time.perf_counter()
        theta, collecting, tries = meta_step(settings, theta, random)
        return {"seconds": time.perf_counter() - started, "collecting": collecting, "tries": tries, "steps": steps}

    return step


def settings_of(problem: Any) -> Any:
    """Those of fewstep's problem, for PyTorch."""
    from peers.torch_maml_trpo import Settings

    search, outer = problem.search, problem.search.outer
    assert search.estimator == "likelihood_ratio" and search.inner_optimizer is None and not search.bootstrap
    values = {name: getattr(search if hasattr(search, name) else outer, name) for name in Settings._fields}
    return Settings(**values)


def simulation_of(name: str) -> Any:
    """The simulator that PyTorch steps: for half-cheetah fewstep's own."""
    from fewstep.tasks.locomotion import locomotion
    from peers.task_environments import navigation_in_numpy

    return navigation_in_numpy() if name == "nav2d" else locomotion(name)


def environment_of(name: str) -> Any:
    """One Gymnasium environment of the problem."""
    from peers.task_environments import HalfCheetahVelocity, Navigation

    return Navigation() if name == "nav2d" else HalfCheetahVelocity()


def weights_of(problem: Any) -> list[Any]:
    """fewstep's initial weights as PyTorch's tensors."""
    import jax
    import torch

    return [torch.from_numpy(np.array(leaf)) for leaf in in_order(problem.init(jax.random.key(0)).theta)]


def in_order(theta: Any) -> list[Any]:
    """The leaves of fewstep's θ in the order of PyTorch's weights."""
    layers = theta["mean"]["layers"]
    return [*(layers[number][part] for number in sorted(layers) for part in ("kernel", "bias")), theta["log_deviation"]]


def deviations_of(name: str) -> dict[str, float]:
    """Largest deviations of PyTorch's numbers from fewstep's on the same trajectories, in float64, and of environments."""
    import jax
    import torch

    from fewstep.cli.arguments import prepare_jax
    from peers import torch_maml_trpo as peer
    from peers.fewstep_policy_step import outer_step_of

    prepare_jax()
    jax.config.update("jax_enable_x64", True)
    problem, simulation, random = problem_of(name), simulation_of(name), np.random.default_rng(1)
    settings = settings_of(problem)._replace(tasks=4, rollouts=6)
    # Away from the first weights: there the last layer hardly does anything.
    torch.manual_seed(1)
    theta = [leaf.double() + 0.1 * torch.randn_like(leaf.double()) for leaf in weights_of(problem)]
    tasks = simulation.sample_tasks(random, settings.tasks)
    support = peer.collected(simulation, theta, tasks, settings.rollouts, random)
    scored = peer.scored(support, settings.discount, settings.trace)
    adapted = peer.detached(peer.adapted(theta, [scored], settings.inner_rate, False))
    query = peer.collected(simulation, adapted, tasks, settings.rollouts, random)
    vector = torch.randn(sum(leaf.numel() for leaf in theta), dtype=theta[0].dtype)
    ours = outer_step_of(problem, [leaf.numpy() for leaf in theta], support, query, vector.numpy())
    found = {}
    for by_task in (False, True):
        way = "one by one" if by_task else "in batches"
        batches = [scored], peer.scored(query, settings.discount, settings.trace)
        _, gradient, product = peer.meta_gradient(theta, *batches, settings, by_task)
        after, tries = peer.outer_step(theta, *batches, settings, by_task)
        theirs = {
            "advantages": batches[1].advantages, "meta-gradient": gradient, "product with the Hessian": product(vector),
            "outer step": peer.raveled(after) - peer.raveled(theta), "lengths tried": torch.tensor(tries),
        }  # fmt: skip
        found |= {f"{part}, {way}": relative(theirs[part].numpy(), ours[part]) for part in theirs}
    return found | {"environments": environments_differ(name, tasks[0], random)}


def environments_differ(name: str, task: Any, random: np.random.Generator) -> float:
    """Between the batched environment and one of Gymnasium's, under the same actions, over the trajectory that these make."""
    batched, single = simulation_of(name), environment_of(name)
    single.set_task(task)
    seen = [(batched.begin([task], [3]).observations[0], single.reset(seed=3)[0], 0.0, 0.0)]
    for _ in range(10):  # a robot that falls is chaotic: float32 observations, over half a second
        action = random.standard_normal((1, batched.actions)).astype(np.float32)
        one = batched.step(action, np.ones(1, bool))
        observation, reward, *_ = single.step(action[0])
        seen.append((one.observations[0], observation, one.rewards[0], reward))
    first, second, paid, paid_too = (np.stack(part) for part in zip(*seen, strict=True))
    return max(relative(first, second), relative(paid, paid_too))


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference over the largest expected entry; infinite where the shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))


if __name__ == "__main__":
    main()
