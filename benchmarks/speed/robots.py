"""Robots with faults: milliseconds of adapting and planning in a control loop, steps simulated in a second. See docs/robots.md.

python -m benchmarks.speed.robots latency
python -m benchmarks.speed.robots simulation
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.records import Options, device, in_turn, timed, write
from fewstep.apps.robots.adapted import Follower
from fewstep.apps.robots.data import Simulator, random_commands
from fewstep.apps.robots.faults import Faults, read_family
from fewstep.apps.robots.mpc import Planner, improve_plan, initial_plan
from fewstep.apps.robots.settings import PRESETS, RobotFaults
from fewstep.cli.arguments import prepare_jax
from fewstep.simulators.mujoco import Robot, initial_states


def main() -> None:
    parser = Options(__doc__, "speed/robots_{part}.json")
    parser.add_argument("part", choices=["latency", "simulation"])
    arguments = parser.parse_args()
    prepare_jax()
    record = {"latency": latency, "simulation": simulation}[arguments.part](PRESETS["default"][0])
    print(json.dumps(record))
    write(arguments.out, record)


def latency(settings: RobotFaults) -> dict[str, Any]:
    """Milliseconds of one adaptation to 32 transitions in five steps, and of one step of planning: 500 candidates of 10."""
    problem = replace(settings, robots=(4, 2, 2), runs=1).build(0)
    follower = Follower(problem, problem.init(jax.random.key(0)), {}).warm_up()
    robot, random, planner = Robot(settings.robot), np.random.default_rng(0), Planner()
    limits = tuple(map(jnp.asarray, robot.limits))

    @jax.jit
    def look_ahead(params, observation, plan, key):
        dynamics = lambda state, action: follower.after(params, state, action)  # noqa: E731
        return improve_plan(planner, dynamics, lambda state, action, after: after[0], observation, plan, limits, key)

    plan, key, times = initial_plan(planner, robot.action_size), jax.random.key(0), {"adaptation": [], "planning": []}
    for number in range(600):
        observation, after = random.standard_normal((2, robot.observation_size)).astype(np.float32)
        follower.observe(observation, random.uniform(-1, 1, robot.action_size), after)
        started = time.perf_counter()
        follower.adapt()
        between = time.perf_counter()
        jax.block_until_ready(look_ahead(follower.params, observation, plan, key))
        if number >= 100:  # warm
            times["adaptation"].append(between - started)
            times["planning"].append(time.perf_counter() - between)
    record = {
        name: {f"p{part}_ms": round(1e3 * float(np.percentile(values, part)), 3) for part in (50, 99)}
        for name, values in times.items()
    }
    return {"robot": settings.robot, **record, "device": device()}


def simulation(settings: RobotFaults) -> dict[str, Any]:
    """Steps of control that are simulated in a second, of 64 different robots in one call, by threads in turn; medians."""
    rounds: dict[str, dict[int, list[float]]] = {}
    for name in ("half-cheetah", "ant"):
        robot, random = Robot(name), np.random.default_rng(0)
        faults = Faults(robot, read_family(settings.family))
        models = [faults.model(condition) for condition in faults.sample(random, 64)]
        states, actions = initial_states(robot, random, 64), random_commands(robot, random, 64, settings.run_steps)
        simulate = lambda threads: Simulator(robot, threads).run(models, states, actions)  # noqa: E731, B023
        programs = {threads: partial(timed, partial(simulate, threads)) for threads in (1, 2)}
        rounds[name] = in_turn(programs, 9, warm=0)
    record = {
        name: {
            f"{threads} thread{'s' * (threads > 1)}": round(64 * settings.run_steps / median(values))
            for threads, values in found.items()
        }
        for name, found in rounds.items()
    }
    return {"control_steps_per_second": record, "robots": 64}


if __name__ == "__main__":
    main()
