"""Robots with faults: does adaptation pay, and against whom? See docs/robots.md.

    python -m benchmarks.accuracy.robots.faults [--robot half-cheetah] [--family severe] [--seeds 0 1 2]

                                      (--arms NAME ...: these alone, the others of the record stay)

Every arm is a network of the same hidden layers, sees the same robots, is trained with as many operations as MAML or
fewer, and predicts the same windows of the same unseen robots: 32 transitions, then the 48 that follow. What an arm may
choose (rates, steps, how much to shrink) is chosen on validation robots. Figures are mean squared errors in parts of the
variance of the changes; one figure a robot, over its windows and over seeds; intervals over robots."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.records import Options, read, write
from fewstep import MetaParams, nn, runs
from fewstep.apps.robots.settings import PRESETS, RobotFaults
from fewstep.apps.robots.tasks import windows
from fewstep.cli.arguments import prepare_jax
from fewstep.core import losses
from fewstep.core.maml import Learner
from fewstep.core.problem import Problem, Splits
from fewstep.supervised.evaluate import compiled_validation, summarize, task_errors
from fewstep.training.cost import meta_step_operations
from fewstep.training.jit import jit_hoisted
from fewstep.training.loop import train_in_memory

WINDOWS = 10
"""of each test robot"""
RATES, STEPS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03), (1, 5, 20, 100)
"""tried for fine-tuning by Adam; from scratch, the same rates and other steps"""
SHRINK = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
"""tried for the last layer"""
MEMORY = 64
"""units of the recurrent network"""
Arm = tuple[Problem, MetaParams, tuple[int, ...], dict[str, Any]]
"""(problem, parameters, numbers of adaptation steps to measure, what was chosen)"""


def main() -> None:
    parser = Options(__doc__, "accuracy/robots/faults_{robot}_{family}.json")
    parser.add_argument("--robot", default="half-cheetah")
    parser.add_argument("--family", default="severe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="all, unless some are named")
    parser.add_argument("--meta-steps", type=int)
    arguments = parser.parse_args()
    prepare_jax()
    settings = replace(PRESETS["default"][0], robot=arguments.robot, family=arguments.family)
    if arguments.meta_steps:
        settings = replace(settings, meta_steps=arguments.meta_steps)
    table(settings, arguments.seeds, arguments.arms, arguments.out)


def table(settings: RobotFaults, seeds: list[int], names: list[str], path: Path) -> None:
    """The arms of these names on the robots of each seed; the record is written after each of them."""
    before = read(path) if len(names) < len(ARMS) else {}
    errors: dict[str, list[np.ndarray]] = {}
    told: dict[str, Any] = {}
    for number, seed in enumerate(seeds):
        started = time.monotonic()
        maml_problem = settings.build(seed)
        gathering, budget = time.monotonic() - started, maml_problem.meta_steps * meta_step_operations(maml_problem)
        pooled: list[MetaParams] = []
        for name in names:
            started = time.monotonic()
            problem, params, steps, chosen = ARMS[name](settings, seed, budget, pooled)
            seconds = time.monotonic() - started
            by_robot = errors_of(problem, params, steps)
            for place, step in enumerate(steps):
                row = f"{name}, {step} step{'s' * (step != 1)}" if len(steps) > 1 else name
                errors.setdefault(row, []).append(by_robot[:, place])
                told.setdefault(row, []).append({"seconds": round(seconds, 1), **chosen})
                print(f"seed {seed}  {row:28} {by_robot[:, place].mean():.4f}  {seconds:.0f} s  {chosen}", flush=True)
        told.setdefault("gathering_seconds", []).append(round(gathering, 1))
        protocol = {
            "robot": settings.robot, "family": settings.family, "robots": settings.robots, "shots": settings.shots,
            "queries": settings.queries, "windows_per_robot": WINDOWS, "seeds": seeds[: number + 1],
            "meta_steps": settings.meta_steps,
        }  # fmt: skip
        arms = {row: {**summarized(values), "by_seed": told[row]} for row, values in errors.items()}
        if before and {**before["protocol"], "seeds": []} == json.loads(json.dumps({**protocol, "seeds": []})):
            arms = {**before["arms"], **arms}
        write(path, {"protocol": protocol, "gathering_seconds": told["gathering_seconds"], "arms": arms})
        jax.clear_caches()  # programs of one seed's robots, and what they hold, serve no other


def summarized(by_seed: list[np.ndarray]) -> dict[str, Any]:
    """Mean over all robots of all seeds, its interval, and the means of single seeds."""
    found = summarize(np.concatenate(by_seed)[:, None])
    return {"mean": found["mean"][0], "ci95": found["ci95"][0], "mean_by_seed": by_seed_of(by_seed)}


def by_seed_of(by_seed: list[np.ndarray]) -> list[float | None]:
    means = [float(values.mean()) for values in by_seed]
    return [mean if np.isfinite(mean) else None for mean in means]


def errors_of(problem: Problem, params: MetaParams, steps: tuple[int, ...]) -> np.ndarray:
    """[robots, steps] of test robots, each the mean over the same windows for every arm."""
    assert problem.splits is not None
    family = problem.splits.test
    tasks = family.tasks(10_000)
    program = jit_hoisted(lambda params, key: task_errors(problem, params, family, tasks, steps, key, WINDOWS).metrics)
    return np.asarray(program(params, jax.random.key(0))[next(iter(problem.metrics))], np.float64)


def trained(
    settings: RobotFaults, seed: int, budget: float, change: Callable[[Problem], Problem]
) -> tuple[Problem, MetaParams]:
    """A problem trained with as many operations as MAML."""
    steps = settings.meta_steps
    for _ in range(2):  # the schedule of the outer rate goes with the number of meta-steps
        problem = change(replace(settings, meta_steps=steps).build(seed))
        steps = max(1, round(budget / meta_step_operations(problem)))
    return problem, train_in_memory(problem, seed)


def plain(settings: RobotFaults) -> RobotFaults:
    """Ordinary training: no adaptation step, nothing learned beside the network."""
    return replace(settings, adaptation_steps=0, inner_optimizer="sgd", multi_step=0.0)


def meta_learned(settings: RobotFaults, seed: int, budget: float, pooled: list[MetaParams]) -> Arm:
    """As `fewstep train robot-faults` does it, with its guards, and the checkpoint that does best on validation robots."""
    with tempfile.TemporaryDirectory() as folder:
        run = runs.train(settings, Path(folder) / "run", seed=seed, quiet=True)
        return settings.build(seed), run.params(), (0, 1, 3, 5, 10), {"meta_steps": settings.meta_steps}


def first_order(settings: RobotFaults, seed: int, budget: float, pooled: list[MetaParams]) -> Arm:
    """The same without second derivatives, which leaves operations for more meta-steps."""
    settings = replace(settings, meta_gradient="first-order", first_order_until=0.0)
    settings = replace(settings, meta_steps=round(budget / meta_step_operations(settings.build(seed))))
    return meta_learned(settings, seed, budget, pooled)


def bayesian(settings: RobotFaults, seed: int, budget: float, pooled: list[MetaParams]) -> Arm:
    """Features under a Bayesian last layer; as many meta-steps as MAML, which take longer and fewer operations."""
    settings = replace(settings, adapter="bayes-head", inner_optimizer="sgd", inner_clip=0.0, multi_step=0.0)
    problem, params, _, chosen = meta_learned(settings, seed, budget, pooled)
    return problem, params, (1,), chosen


def pooled_network(settings: RobotFaults, seed: int, budget: float, pooled: list[MetaParams]) -> Arm:
    """One network for all robots."""
    problem, params = trained(plain(settings), seed, budget, lambda problem: problem)
    pooled.append(params)
    return problem, params, (0,), {"meta_steps": problem.meta_steps}


def best_of(problem: Problem, params: MetaParams, learners: dict[str, Learner]) -> Arm:
    """The learner that does best on validation robots."""
    found = {
        name: float(compiled_validation(replace(problem, learner=learner))(params, jax.random.key(0)))
        for name, learner in learners.items()
    }
    name = min(found, key=lambda each: (not np.isfinite(found[each]), found[each]))
    learner = learners[name]
    return replace(problem, learner=learner), params, (learner.adaptation_steps,), {"chosen": name}


def adams(problem: Problem, steps: tuple[int, ...]) -> dict[str, Learner]:
    return {
        f"Adam at {rate:g}, {count} steps": replace(problem.learner, inner_optimizer=optax.adam(rate), adaptation_steps=count)
        for rate in RATES
        for count in steps
    }


def fine_tuned(settings: RobotFaults, seed: int, budget: float, pooled: list[MetaParams]) -> Arm:
    """The pooled network, adapted by Adam."""
    problem = plain(settings).build(seed)
    return best_of(problem, pooled[-1], adams(problem, STEPS))


def ridge(settings: RobotFaults, seed: int, budget: float, pooled: list[MetaParams]) -> Arm:
    """The pooled network, whose last layer is fitted to what it misses of the support set, by ridge regression."""
    problem = plain(settings).build(seed)
    last = len(settings.hidden)

    def solves(shrink: float) -> Learner:
        def step(learner, optimizer, state, support, key):
            theta, opt_state = state
            layers = theta["layers"]
            x = support.inputs
            for number in range(last):
                x = jax.nn.silu(x @ layers[number]["kernel"] + layers[number]["bias"][None])
            features = jnp.concatenate([x, jnp.ones_like(x[:, :1])], 1)
            missed = support.targets - problem.predict(theta, support.inputs)
            kernel = features @ features.T + shrink * jnp.eye(len(features))
            change = features.T @ jnp.linalg.solve(kernel, missed)
            fitted = {"kernel": layers[last]["kernel"] + change[:-1], "bias": layers[last]["bias"] + change[-1]}
            return {**theta, "layers": {**layers, last: fitted}}, opt_state

        return replace(problem.learner, adaptation_step=step, adaptation_steps=1)

    return best_of(problem, pooled[-1], {f"shrunk by {shrink:g}": solves(shrink) for shrink in SHRINK})


def from_scratch(settings: RobotFaults, seed: int, budget: float, pooled: list[MetaParams]) -> Arm:
    """A network that has seen the 32 transitions alone."""
    problem = plain(settings).build(seed)
    return best_of(problem, problem.init(jax.random.key(seed)), adams(problem, (30, 100, 300)))


def with_memory(settings: RobotFaults, seed: int, budget: float, pooled: list[MetaParams]) -> Arm:
    """A network that is given what a recurrent one (GRU, Cho et al. 2014) has made of the 32 transitions."""

    def change(problem: Problem) -> Problem:
        inputs, outputs = problem.format.features, problem.format.outputs
        network = nn.mlp([inputs + MEMORY, *settings.hidden, outputs], jax.nn.silu)

        def init(key):
            net_key, gates_key = jax.random.split(key)
            gates = nn.GLOROT(gates_key, (inputs + outputs + MEMORY, 3 * MEMORY), jnp.float32)
            return MetaParams(
                {"network": network.init(net_key), "gates": gates, "shift": jnp.zeros(3 * MEMORY), "memory": jnp.zeros(MEMORY)}
            )

        def start(theta, support, key):
            def step(memory, row):
                both = jnp.concatenate([row, memory])
                width = 2 * MEMORY
                reset, update = jnp.split(jax.nn.sigmoid(both @ theta["gates"][:, :width] + theta["shift"][:width]), 2)
                fresh = jnp.tanh(jnp.concatenate([row, reset * memory]) @ theta["gates"][:, width:] + theta["shift"][width:])
                return (1 - update) * fresh + update * memory, None

            rows = jnp.concatenate([support.inputs, support.targets], 1)
            return {**theta, "memory": jax.lax.scan(step, jnp.zeros(MEMORY), rows)[0]}

        def predict(params, inputs):
            memory = jnp.broadcast_to(params["memory"], (inputs.shape[0], MEMORY))
            return network.apply(params["network"], jnp.concatenate([inputs, memory], 1))

        return rebuilt(problem, init, predict, start)

    problem, params = trained(plain(settings), seed, budget, change)
    return problem, params, (0,), {"meta_steps": problem.meta_steps}


def told_all(settings: RobotFaults, seed: int, budget: float, pooled: list[MetaParams]) -> Arm:
    """A network that is told the hidden condition: what no adaptation can beat."""

    def change(problem: Problem) -> Problem:
        parts = settings.collected(seed)
        families = {
            part: windows(found, problem.format, settings.shot_range, settings.queries, oracle=True)
            for part, found in parts.items()
        }
        condition = parts["train"].conditions.shape[-1]
        network = nn.mlp([problem.format.features + condition, *settings.hidden, problem.format.outputs], jax.nn.silu)
        problem = rebuilt(problem, lambda key: MetaParams(network.init(key)), network.apply, None)
        return replace(problem, splits=Splits(families["train"], families["validation"], families["test"]))

    problem, params = trained(plain(settings), seed, budget, change)
    return problem, params, (0,), {"meta_steps": problem.meta_steps}


def rebuilt(problem: Problem, init: Any, predict: Any, start: Any) -> Problem:
    """The same problem with another model."""
    assert problem.row_error is not None
    name = next(iter(problem.metrics))
    learner = replace(problem.learner, loss=losses.mean_squared_error(predict), start=start)
    metrics = {name: losses.mean_over_examples(predict, problem.row_error)}
    return replace(problem, init=init, predict=predict, learner=learner, metrics=metrics, lower_rates=None)


ARMS: dict[str, Callable[[RobotFaults, int, float, list[MetaParams]], Arm]] = {
    "from scratch": from_scratch,
    "pooled": pooled_network,
    "pooled, fine-tuned": fine_tuned,
    "pooled, ridge": ridge,
    "history (GRU)": with_memory,
    "MAML": meta_learned,
    "MAML, first order": first_order,
    "Bayesian last layer": bayesian,
    "told the condition": told_all,
}


if __name__ == "__main__":
    main()
