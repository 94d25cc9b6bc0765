"""Does adaptation keep a robot going when a fault strikes in the middle of a run? See docs/robots.md.

    python -m benchmarks.accuracy.robots.control [--robot half-cheetah] [--family severe] [--seeds 0 1 2] [--robots 20]

Every arm looks ahead by the same planner from the same beginnings, and differs by its model: the pooled network, MAML
that stops adapting where the fault strikes, MAML that goes on, and a network that is told the condition. `faults.py`
trains them, at equal operations and on the same experience: random motion, and so many rounds in which the meta-train
robots are driven by the model of the round before (`fewstep gather`). The figure is the way made after the fault, in
meters, over unseen robots and seeds; beside it the return, which has the cost of tilting over. The share of the way from
pooled to told is one of means, its interval by bootstrap over robots."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.accuracy.robots.faults import meta_learned, pooled_network, summarized, told_all
from benchmarks.records import Options, write
from fewstep import MetaParams, runs
from fewstep.apps.robots.adapted import Follower
from fewstep.apps.robots.data import write_experience
from fewstep.apps.robots.faults import Faults, read_family
from fewstep.apps.robots.mpc import PLANNER, Driver, Run, adapt_every
from fewstep.apps.robots.rollouts import collect_more
from fewstep.apps.robots.settings import PRESETS, RobotFaults, held_out_conditions
from fewstep.cli.arguments import prepare_jax
from fewstep.core import losses
from fewstep.core.problem import Problem
from fewstep.simulators.mujoco import Robot
from fewstep.supervised.trained import Trained
from fewstep.training.cost import meta_step_operations

STEPS = 300
"""of control in a run; the fault strikes in the middle"""
Arm = Callable[[np.ndarray], tuple[Driver, Callable[[int], Any]]]
"""condition of a robot after the fault -> (who drives it, what is done after each step)"""


def main() -> None:
    parser = Options(__doc__, "accuracy/robots/control_{robot}_{family}.json")
    parser.add_argument("--robot", default="half-cheetah")
    parser.add_argument("--family", default="severe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--robots", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", help="what so many rounds have gathered already, of one seed")
    arguments = parser.parse_args()
    prepare_jax()
    # A planner finds the mistakes of a model: what is good enough to predict is not to act, nor to gather by.
    settings = replace(PRESETS["control"][0], robot=arguments.robot, family=arguments.family)
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for seed in arguments.seeds:
        started = time.monotonic()
        aggregate = replace(settings, data=arguments.data) if arguments.data else aggregated(settings, seed, arguments.rounds)
        arms = trained_arms(aggregate, seed)
        print(f"seed {seed}: trained in {time.monotonic() - started:.0f} s", flush=True)
        for name, arm in arms.items():
            told = figures(settings, driven(settings, seed, arm, arguments.robots))
            for figure, values in told.items():
                found.setdefault(figure, {}).setdefault(name, []).append(values)
            print(f"seed {seed}  {name:28}", *(f"{figure} {values.mean():.3f}" for figure, values in told.items()), flush=True)
    record = {
        "protocol": {
            "robot": settings.robot, "family": settings.family, "robots": arguments.robots, "seeds": arguments.seeds,
            "rounds": arguments.rounds, "meta_steps": settings.meta_steps,
            "seconds_after_fault": STEPS // 2 * seconds(settings), "planner": str(PLANNER._replace(improve=None)),  # type: ignore[arg-type]
        },
        "arms": {
            name: {figure: summarized(by_arm[name]) for figure, by_arm in found.items()} for name in found["way_m"]
        },
        "share": {
            figure: share({name: np.concatenate(values) for name, values in found[figure].items()})
            for figure in ("way_m", "return_m")
        },
    }  # fmt: skip
    print(json.dumps(record["share"]))
    write(arguments.out, record)


def aggregated(settings: RobotFaults, seed: int, rounds: int) -> RobotFaults:
    """The settings, with the experience of so many rounds of training and driving."""
    folder = Path(tempfile.mkdtemp())
    for number in range(rounds):
        run = runs.train(settings, folder / f"run{number}", seed=seed, quiet=True)
        trained = Trained.of(run)
        more = collect_more(Follower(trained.problem, trained.params, trained.config), settings, seed, number)
        write_experience(folder / f"{number}.npz", more.parts)
        settings = replace(settings, data=str(folder / f"{number}.npz"))
        print(f"seed {seed}  round {number + 1}: error while driving {more.error:.3f}, left out {more.left_out}", flush=True)
    return settings


def figures(settings: RobotFaults, runs: list[Run]) -> dict[str, np.ndarray]:
    """After the fault, by robot: the way along x, the return, the model's error."""
    after = STEPS // 2
    return {
        "way_m": np.array([run.states[-1, 1] - run.states[min(after, len(run.states) - 1), 1] for run in runs]),
        "return_m": np.array([run.rewards[after:].sum() for run in runs]) * seconds(settings),
        "model_error": np.array([np.nanmean(run.errors[after:]) for run in runs]),
    }


def seconds(settings: RobotFaults) -> float:
    return Robot(settings.robot).seconds


def trained_arms(settings: RobotFaults, seed: int) -> dict[str, Arm]:
    """Who drives, and what is done after each step."""
    problem, params, _, _ = meta_learned(settings, seed, 0, [])
    budget = problem.meta_steps * meta_step_operations(problem)
    robot = Robot(settings.robot)
    maml = Driver(Follower(problem, params, {}), robot)
    pooled = Driver(Follower(*pooled_network(settings, seed, budget, [])[:2], {}), robot)
    oracle = Driver(told_follower(settings, *told_all(settings, seed, budget, [])[:2]), robot)
    strikes = STEPS // 2

    def told(condition: np.ndarray) -> Callable[[int], None]:
        def afterwards(step: int) -> None:
            if step == strikes - 1:
                oracle.follower.params = {**oracle.follower.params, "condition": jnp.asarray(condition, jnp.float32)}

        return afterwards

    return {
        "pooled": lambda condition: (pooled, lambda step: None),
        "MAML, adapting until then": lambda condition: (maml, adapt_every(maml.follower, until=strikes)),
        "MAML, adapting": lambda condition: (maml, adapt_every(maml.follower)),
        "told the condition": lambda condition: (oracle, told(condition)),
    }


def told_follower(settings: RobotFaults, problem: Problem, params: MetaParams) -> Follower:
    """A model that is given the condition of the robot among its parameters; at first that of the healthy one."""

    def predict(given: Any, inputs: Any) -> Any:
        condition = jnp.broadcast_to(given["condition"], (inputs.shape[0], len(healthy)))
        return problem.predict(given["theta"], jnp.concatenate([inputs, condition], 1))

    healthy = Faults(Robot(settings.robot), read_family(settings.family)).healthy()
    theta = {"theta": params.theta, "condition": jnp.asarray(healthy, jnp.float32)}
    learner = replace(problem.learner, loss=losses.mean_squared_error(predict))
    return Follower(replace(problem, predict=predict, learner=learner), MetaParams(theta, params.inner), {}, steps=0)


def driven(settings: RobotFaults, seed: int, arm: Arm, robots: int) -> list[Run]:
    """One run of each of so many robots that no training has seen, the same for every arm. As many before them were looked at
    when the planner was made."""
    faults = Faults(Robot(settings.robot), read_family(settings.family))
    conditions, healthy = held_out_conditions(faults, seed, 2 * robots)[robots:], faults.model(faults.healthy())
    runs = []
    for number, condition in enumerate(conditions):
        faulty = faults.model(condition)
        driver, afterwards = arm(condition)
        models = lambda step, faulty=faulty: healthy if step < STEPS // 2 else faulty  # noqa: E731
        runs.append(driver.drive(models, STEPS, afterwards, seed=1000 * seed + number))
    return runs


def share(values: dict[str, np.ndarray]) -> dict[str, float]:
    """(adapting − pooled) / (told − pooled) of means, and its 95 % interval by bootstrap over robots."""
    random, count = np.random.default_rng(0), len(values["pooled"])

    def of(robots: np.ndarray) -> float:
        pooled, adapting, told = (values[name][robots].mean() for name in ("pooled", "MAML, adapting", "told the condition"))
        return float((adapting - pooled) / (told - pooled))

    drawn = [of(random.integers(0, count, count)) for _ in range(2000)]
    least, most = np.percentile(drawn, [2.5, 97.5])
    return {"share": of(np.arange(count)), "least": float(least), "most": float(most)}


if __name__ == "__main__":
    main()
