"""2D navigation (Finn et al. 2017, section 5.3): how fast it is sampled inside the compiled program. See docs/policies.md.

taskset -c 0 python -m benchmarks.speed.nav2d
"""

from __future__ import annotations

import json
from functools import partial
from statistics import median
from typing import Any

import jax

from benchmarks.records import Options, device, in_turn, timed, write
from fewstep.application import presets
from fewstep.apps.policies.model import compiled_meta_step
from fewstep.apps.policies.problems import Nav2d
from fewstep.apps.policies.trajectories import collect
from fewstep.cli.arguments import prepare_jax


def main() -> None:
    arguments = Options(__doc__, "speed/nav2d.json").parse_args()
    prepare_jax()
    record = speed(presets()["nav2d"]["default"][0])
    print(json.dumps(record))
    write(arguments.out, {**record, "device": device()})


def speed(settings: Nav2d) -> dict[str, Any]:
    """Environment steps a second inside the compiled program, every task with parameters of its own, and seconds of a
    meta-step; medians. Run it on one core (taskset -c 0) for a figure by core."""
    problem = settings.build(0)
    params = problem.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), settings.meta_batch_size)
    tasks = jax.vmap(problem.environment.sample_task)(keys)
    thetas = jax.tree.map(lambda leaf: jax.numpy.repeat(leaf[None], len(keys), 0), params.theta)
    one = lambda theta, task, key: collect(problem.environment, problem.policy, theta, task, key, settings.rollouts)  # noqa: E731
    sample = jax.jit(jax.vmap(one))
    taken = float(sample(thetas, tasks, keys).weight.sum())
    state = problem.search.outer.init(params)
    step = compiled_meta_step(problem)
    programs = {"sampling": lambda: sample(thetas, tasks, keys), "meta_step": lambda: step(state, keys[0])}
    times = in_turn({name: partial(timed, program) for name, program in programs.items()}, 15)
    return {
        "environment_steps_per_second": round(taken / median(times["sampling"])),
        "seconds_of_a_meta_step": round(median(times["meta_step"]), 3),
    }


if __name__ == "__main__":
    main()
