"""2D navigation (Finn et al. 2017, section 5.3): the return on goals never seen, after 0 to 3 updates. See docs/policies.md.

    python benchmarks/nav2d.py returns [--seeds 0 1 2 ...]    # -> docs/records/nav2d.json
    python benchmarks/nav2d.py speed                          # -> docs/records/nav2d_speed.json

Every seed is trained as `fewstep train nav2d` does it, and judged on 40 test goals, the same for all, with 40 fresh
trajectories for every update; actions are sampled. The rivals take as many environment steps: a policy trained on all goals at
once without adapting, then fine-tuned by the same policy-gradient steps at a rate chosen on validation goals, and one that is
told the goal.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fewstep import runs
from fewstep.cli.arguments import prepare_jax
from fewstep.problems import PRESETS, Nav2d
from fewstep.rl.problem import PolicyProblem, meta_step_of, returns_of
from fewstep.rl.rollouts import collect
from fewstep.tasks.navigation import navigation, straight_there
from fewstep.training.evaluate import summarize
from fewstep.training.log import read_metrics
from fewstep.training.policy_report import TEST
from fewstep.types import MetaParams

GOALS, UPDATES = 40, 3
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""tried for fine-tuning, on validation goals"""
NO_RATE = 1e-12
"""what trains without adapting"""
VALIDATION = 2_000_000
PUBLISHED = [-40.41, -11.68, -3.33, -3.23]
"""Finn et al. 2017, table 4"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["returns", "speed"])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--rivals", type=int, nargs="+", default=[0, 1, 2], help="seeds of the rivals")
    parser.add_argument("--meta-steps", type=int)
    parser.add_argument("--records", type=Path, default=Path("docs/records"))
    arguments = parser.parse_args()
    prepare_jax()
    settings = PRESETS["nav2d"]["default"][0]
    if arguments.meta_steps:
        settings = replace(settings, meta_steps=arguments.meta_steps)
    if arguments.part == "speed":
        record, name = speed(settings), "nav2d_speed.json"
    else:
        record, name = returns(settings, arguments.seeds, arguments.rivals), "nav2d.json"
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    (arguments.records / name).write_text(
        json.dumps({**record, "device": device, "date": time.strftime("%Y-%m-%d")}, indent=1) + "\n"
    )


def returns(settings: Nav2d, seeds: list[int], rivals: list[int]) -> dict[str, Any]:
    """Returns by arm: mean over seeds, and its 95 % interval over them."""
    found: dict[str, list[list[float]]] = {}
    about: list[dict[str, Any]] = []

    def keep(arm: str, seed: int, by_update: list[float]) -> None:
        found.setdefault(arm, []).append(by_update)
        print(f"seed {seed}  {arm:28}", *(f"{value:8.2f}" for value in by_update), flush=True)

    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            run = runs.train(settings, Path(folder) / "run", seed=seed, quiet=True)
            result, records = run.evaluate(), read_metrics(run.directory / "metrics.jsonl")
        keep("MAML", seed, result["mean"])
        best = min(records, key=lambda record: record["validation"])
        about.append(
            {
                "seed": seed,
                "seconds": round(records[-1]["seconds"]),
                "kept": best["meta_step"],
                "environment_steps": records[-1]["environment_steps"],
                "normalized": result["metrics"]["normalized_return"]["mean"],
            }
        )
    for seed in rivals:
        without = replace(settings, inner_optimizer="sgd", inner_rate=NO_RATE)
        problem = without.build(seed)
        keep("untrained", seed, judged(problem, problem.init(jax.random.key(seed)), TEST, 0))
        params = trained(problem, seed)
        tuned = {rate: replace(without, inner_rate=rate).build(seed) for rate in RATES}
        rate = max(RATES, key=lambda rate: np.mean(judged(tuned[rate], params, VALIDATION, UPDATES)[1:]))
        keep("pretrained, then fine-tuned", seed, judged(tuned[rate], params, TEST, UPDATES))
        told = replace(without.problem("told", navigation(told=True), {}), meta_steps=settings.meta_steps)
        keep("told the goal", seed, judged(told, trained(told, seed), TEST, 0))
    goals = jax.vmap(navigation().sample_task)(jax.random.split(jax.random.split(jax.random.key(TEST))[0], GOALS))
    return {
        "protocol": {
            "reward": "minus the distance", "horizon": 100, "tasks": settings.meta_batch_size, "rollouts": settings.rollouts,
            "test_goals": GOALS, "test_rollouts": 40, "rate_of_later_updates": settings.later_rate, "actions": "sampled",
            "meta_steps": settings.meta_steps, "checkpoint": "best mean return after 1 to 3 updates on validation goals",
        },
        "arms": {
            arm: {**summarize(np.array(values)), "by_seed": np.round(values, 3).tolist()} for arm, values in found.items()
        },
        "straight_there": float(np.mean(jax.vmap(straight_there)(goals))),
        "published": PUBLISHED,
        "runs": about,
    }  # fmt: skip


def trained(problem: PolicyProblem, seed: int) -> MetaParams:
    """A policy at the end of its meta-steps."""
    state = problem.search.outer.init(problem.init(jax.random.key(seed)))
    step = meta_step_of(problem)
    for _ in range(problem.meta_steps):
        state, _ = step(state, jax.random.key(seed))
    return state.params


def judged(problem: PolicyProblem, params: MetaParams, goals: int, updates: int) -> list[float]:
    """Mean returns after 0 to so many updates."""
    values, _ = returns_of(problem, GOALS, max(updates, 1), jax.random.key(goals))(params)
    return np.asarray(values, float).mean(0)[: updates + 1].tolist()


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
