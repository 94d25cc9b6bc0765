"""Evaluation of a trained policy on unseen tasks: returns after 0, 1, 2, … updates, and the paths that it takes."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.apps.policies.adaptation import collected_path
from fewstep.apps.policies.environment import Simulation
from fewstep.apps.policies.meta_step import collect_scored
from fewstep.apps.policies.model import PolicyProblem, returns_program
from fewstep.apps.policies.trajectories import Scored, returns
from fewstep.core.types import Key, MetaParams, Params
from fewstep.supervised.evaluate import summarize
from fewstep.supervised.gain import gain_of_adaptation

TEST = 1_000_000
"""Keys of test tasks; training draws its own from the seed of the run."""
SHOWN, WAYS = 4, 3
"""tasks, and trajectories of each, in pictures"""


def evaluate_policies(
    problem: PolicyProblem, params: MetaParams, updates: int, tasks: int, rollouts: int | None = None
) -> dict[str, Any]:
    """What `evaluation.json` holds: mean returns of sampled actions over test tasks, the same for every run."""
    started = time.monotonic()
    rollouts = rollouts or problem.evaluation_rollouts
    found, drawn = returns_program(problem, tasks, updates, jax.random.key(TEST), rollouts, unseen=True)(params)
    by_name = {"return": np.asarray(found.returns, np.float64)}
    if problem.normalized is not None:
        by_name["normalized_return"] = np.asarray(jax.vmap(problem.normalized)(jnp.asarray(found.returns), drawn), np.float64)
    summaries = {name: summarize(values) for name, values in by_name.items()}
    first, *others = summaries
    return {
        "problem": problem.name,
        "split": "test",
        "tasks": tasks,
        "steps": list(range(updates + 1)),
        "metric": first,
        **summaries[first],
        "metrics": {name: summaries[name] for name in others},
        **gain_of_adaptation(by_name["return"], range(updates + 1), updates, "return", rising=True),
        "environment_steps": {"by_update": np.mean(np.asarray(found.steps), 0).round().astype(int).tolist()},
        "protocol": {**problem.protocol, "test_rollouts": rollouts},
        "seconds": round(time.monotonic() - started, 2),
    }


def ways_shown(problem: PolicyProblem, params: MetaParams, updates: int) -> dict[str, Any]:
    """What `illustrations.json` holds: of a few test tasks, where trajectories led before and after each update."""
    places, goal, environment = problem.places, problem.goal, problem.environment
    if places is None or goal is None or isinstance(environment, Simulation):
        return {}

    @jax.jit
    def ways(params: MetaParams, key: Key) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        task_key, path_key, last_key = jax.random.split(key, 3)
        task = environment.sample_task(task_key)

        def collect_with(theta: Params, key: Key) -> Scored:
            return collect_scored(problem.search, environment, problem.policy, theta, task, key, 40)

        path = collected_path(
            problem.search.learner(problem.policy, problem.later_rate), params, collect_with, path_key, updates
        )
        last = collect_with(path.adapted, last_key)
        seen = jax.tree.map(
            lambda before, after: jnp.concatenate([before, after[None]]), path.supports.trajectories, last.trajectories
        )
        return places(seen.observations[:, :WAYS]), seen.weight[:, :WAYS], jnp.mean(jax.vmap(returns)(seen), 1), goal(task)

    tasks = []
    for number in range(SHOWN):
        walked, weight, brought, target = map(np.asarray, ways(params, jax.random.key(TEST + 1 + number)))
        paths = [
            [np.round(way[kept > 0], 3).tolist() for way, kept in zip(by_update, kept_by, strict=True)]
            for by_update, kept_by in zip(walked, weight, strict=True)
        ]
        tasks.append({"goal": np.round(target, 3).tolist(), "returns": np.round(brought, 2).tolist(), "ways": paths})
    return {"kind": "ways", "tasks": tasks}
