"""2D navigation (Finn et al. 2017, section 5.3): how fast it is sampled inside the compiled program. See docs/policies.md.

taskset -c 0 python benchmarks/nav2d.py    # -> docs/records/nav2d_speed.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fewstep.cli.arguments import prepare_jax
from fewstep.problems import PRESETS, Nav2d
from fewstep.rl.problem import meta_step_of
from fewstep.rl.rollouts import collect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=Path("docs/records"))
    arguments = parser.parse_args()
    prepare_jax()
    record = speed(PRESETS["nav2d"]["default"][0])
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    (arguments.records / "nav2d_speed.json").write_text(
        json.dumps({**record, "device": device, "date": time.strftime("%Y-%m-%d")}, indent=1) + "\n"
    )


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
    taken = float(jax.block_until_ready(sample(thetas, tasks, keys)).weight.sum())
    state = problem.search.outer.init(params)
    step = meta_step_of(problem)
    jax.block_until_ready(step(state, keys[0]))
    times: dict[str, list[float]] = {"sampling": [], "meta_step": []}
    for _ in range(15):
        for name, call in (("sampling", lambda: sample(thetas, tasks, keys)), ("meta_step", lambda: step(state, keys[0]))):
            started = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - started)
    record = {
        "environment_steps_per_second": round(taken / float(np.median(times["sampling"]))),
        "seconds_of_a_meta_step": round(float(np.median(times["meta_step"])), 3),
    }
    print(json.dumps(record))
    return record


if __name__ == "__main__":
    main()
