"""Does adaptation keep a robot going when a fault strikes in the middle of a run? See docs/robots.md.

    python benchmarks/robot_control.py [--robot half-cheetah] [--family severe] [--seeds 0 1 2] [--robots 20]
                                       # -> docs/records/robot_control_half-cheetah_severe.json

Every arm looks ahead by the same planner from the same beginnings, and differs by its model: the pooled network, MAML that
stops adapting where the fault strikes, MAML that goes on, and a network that is told the condition (`benchmarks/robots.py`
trains them, at equal operations). The figure is the return of the time after the fault, in meters, over unseen robots and
seeds; the share of the way from pooled to told is one of means, its interval by bootstrap over robots.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from robots import meta_learned, pooled_network, summarized, told_all

from fewstep import MetaParams
from fewstep.cli.arguments import prepare_jax
from fewstep.driving import PLANNER, Driver, Run, adapting
from fewstep.problem import Problem
from fewstep.problems import RobotFaults
from fewstep.problems.robot_faults import PRESETS, unmet
from fewstep.runtime import Follower
from fewstep.tasks.faults import Faults, read_family
from fewstep.tasks.robots import Robot
from fewstep.training.estimate import meta_step_operations

STEPS = 300
"""of control in a run; the fault strikes in the middle"""
Arm = Callable[[np.ndarray], tuple[Driver, Callable[[int], Any]]]
"""condition of a robot after the fault -> (who drives it, what is done after each step)"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--robot", default="half-cheetah")
    parser.add_argument("--family", default="severe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--robots", type=int, default=20)
    parser.add_argument("--records", type=Path, default=Path("docs/records"))
    arguments = parser.parse_args()
    prepare_jax()
    settings = replace(PRESETS["default"][0], robot=arguments.robot, family=arguments.family)
    returns: dict[str, list[np.ndarray]] = {}
    errors: dict[str, list[np.ndarray]] = {}
    for seed in arguments.seeds:
        started = time.monotonic()
        arms = trained_arms(settings, seed)
        print(f"seed {seed}: trained in {time.monotonic() - started:.0f} s", flush=True)
        for name, arm in arms.items():
            runs = driven(settings, seed, arm, arguments.robots)
            returns.setdefault(name, []).append(np.array([run.rewards[STEPS // 2 :].sum() for run in runs]) * seconds(settings))
            errors.setdefault(name, []).append(np.array([np.nanmean(run.errors[STEPS // 2 :]) for run in runs]))
            print(f"seed {seed}  {name:28} {returns[name][-1].mean():7.2f} m  error {errors[name][-1].mean():.3f}", flush=True)
    record = {
        "protocol": {
            "robot": settings.robot, "family": settings.family, "robots": arguments.robots, "seeds": arguments.seeds,
            "seconds_after_fault": STEPS // 2 * seconds(settings), "planner": str(PLANNER._replace(improve=None)),  # type: ignore[arg-type]
        },
        "arms": {
            name: {"return_m": summarized(returns[name]), "model_error": summarized(errors[name])} for name in returns
        },
        "share_of_the_way": share_of_the_way({name: np.concatenate(values) for name, values in returns.items()}),
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    print(json.dumps(record["share_of_the_way"]))
    out = arguments.records / f"robot_control_{Path(arguments.robot).stem}_{Path(arguments.family).stem}.json"
    out.write_text(json.dumps(record, indent=1) + "\n")


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
        "MAML, adapting until then": lambda condition: (maml, adapting(maml.follower, until=strikes)),
        "MAML, adapting": lambda condition: (maml, adapting(maml.follower)),
        "told the condition": lambda condition: (oracle, told(condition)),
    }


def told_follower(settings: RobotFaults, problem: Problem, params: MetaParams) -> Follower:
    """A model that is given the condition of the robot among its parameters; at first that of the healthy one."""

    def predict(given: Any, inputs: Any) -> Any:
        condition = jnp.broadcast_to(given["condition"], (inputs.shape[0], len(healthy)))
        return problem.predict(given["theta"], jnp.concatenate([inputs, condition], 1))

    healthy = Faults(Robot(settings.robot), read_family(settings.family)).healthy()
    theta = {"theta": params.theta, "condition": jnp.asarray(healthy, jnp.float32)}
    return Follower(replace(problem, predict=predict), MetaParams(theta, params.inner), {}, steps=0)


def driven(settings: RobotFaults, seed: int, arm: Arm, robots: int) -> list[Run]:
    """One run of each of so many robots that no training has seen, the same for every arm."""
    faults = Faults(Robot(settings.robot), read_family(settings.family))
    conditions, healthy = unmet(faults, seed, robots), faults.model(faults.healthy())
    runs = []
    for number, condition in enumerate(conditions):
        faulty = faults.model(condition)
        driver, afterwards = arm(condition)
        models = lambda step, faulty=faulty: healthy if step < STEPS // 2 else faulty  # noqa: E731
        runs.append(driver.drive(models, STEPS, afterwards, seed=1000 * seed + number))
    return runs


def share_of_the_way(returns: dict[str, np.ndarray]) -> dict[str, float]:
    """(adapting − pooled) / (told − pooled) of mean returns, and its 95 % interval by bootstrap over robots."""
    random, count = np.random.default_rng(0), len(returns["pooled"])

    def share(robots: np.ndarray) -> float:
        pooled, adapting, told = (returns[name][robots].mean() for name in ("pooled", "MAML, adapting", "told the condition"))
        return float((adapting - pooled) / (told - pooled))

    drawn = [share(random.integers(0, count, count)) for _ in range(2000)]
    least, most = np.percentile(drawn, [2.5, 97.5])
    return {"share": share(np.arange(count)), "least": float(least), "most": float(most)}


if __name__ == "__main__":
    main()
