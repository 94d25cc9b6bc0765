"""The outer loop of policies (floor 3): meta-steps that collect their own trajectories, watched on validation tasks, saved.

What a meta-step draws depends on (seed, its number, the number of the task) alone, so a resumed run goes on bit for bit. The
checkpoint is kept whose policy brings most on validation tasks after 1 to `updates` adaptation steps: one that is trained for
longer may adapt better in one step and fall apart in three.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.errors import RunFailed
from fewstep.maml import MetaState
from fewstep.rl.meta_step import evaluate_policy, policy_meta_step
from fewstep.rl.problem import PolicyProblem
from fewstep.training.checkpoint import Checkpoints
from fewstep.training.log import MetricsFile, Progress
from fewstep.training.loop import Interrupted
from fewstep.training.signals import StopSignals
from fewstep.types import Key, MetaParams


def train_policy(
    problem: PolicyProblem, directory: Path, *, seed: int = 0, resume: bool = False, quiet: bool = False
) -> MetaState:
    """Meta-trains and writes `metrics.jsonl` and `checkpoints/` into `directory`. Returns the final state.

    Raises `RunFailed` where a gradient stops being finite, `Interrupted` on SIGINT or SIGTERM; both leave checkpoints.
    """
    init_key, train_key, validation_key = jax.random.split(jax.random.key(seed), 3)
    state = problem.search.outer.init(problem.init(init_key))
    step_once = jax.jit(partial(policy_meta_step, problem.search, problem.environment, problem.policy))
    judge = judged(problem, validation_key)
    with Checkpoints(directory / "checkpoints", "resume" if resume else "new") as checkpoints, StopSignals() as stop:
        past: dict[str, Any] = {"log_position": None, "seconds": 0.0, "environment_steps": 0}
        if resume:
            state, past = checkpoints.restore(state, "last")
            state = jax.tree.map(jnp.asarray, state)
        log = MetricsFile(directory / "metrics.jsonl", past["log_position"])
        progress = Progress(problem.meta_steps, int(state.step), quiet=quiet, metric="return")
        started, taken = time.monotonic() - past["seconds"], past["environment_steps"]

        def save(validation: float) -> None:
            seconds = time.monotonic() - started
            record = {"validation": validation, "seconds": seconds, "log_position": log.position, "environment_steps": taken}
            checkpoints.save(state, record)

        try:
            while (step := int(state.step)) < problem.meta_steps:
                state, info = step_once(state, train_key)
                info, step = jax.device_get(info), step + 1
                if not info.outer.finite:
                    raise RunFailed(
                        f"A gradient stopped being finite at meta-step {step}. The last checkpoint is kept. Try a smaller "
                        "--inner-rate or --outer-rate."
                    )
                taken += int(info.environment_steps)
                progress.advance(step)
                if step % problem.log_every == 0 or step == problem.meta_steps:
                    found = judge(state.params)
                    record = {
                        "meta_step": step,
                        "environment_steps": taken,
                        "returns": rounded(info.returns),
                        "validation_returns": rounded(found),
                        "validation": float(-np.mean(found[1:])),
                        "kl": float(info.outer.kl),
                        "accepted": bool(info.outer.accepted),
                        "seconds": time.monotonic() - started,
                    }
                    log.write(record)
                    progress.returns(record)
                    save(record["validation"])
                if stop.requested and step < problem.meta_steps:
                    save(float(-np.mean(judge(state.params)[1:])))
                    raise Interrupted
        finally:
            progress.close()
            log.close()
    return state


def judged(problem: PolicyProblem, key: Key) -> Callable[[MetaParams], np.ndarray]:
    """`params -> mean returns [updates + 1]` on validation tasks, the same ones at every call."""
    program = returns_of(problem, problem.judged_tasks, problem.updates, key)
    return lambda params: np.asarray(jax.device_get(program(params)[0]), float).mean(0)


def returns_of(
    problem: PolicyProblem, tasks: int, updates: int, key: Key, rollouts: int = 40
) -> Callable[[MetaParams], tuple[jax.Array, Any]]:
    """A program `params -> (returns [tasks, updates + 1], the tasks)`, on fresh trajectories for every update and at last."""
    task_keys, roll_keys = (jax.random.split(each, tasks) for each in jax.random.split(key))
    evaluate = partial(
        evaluate_policy, problem.search, problem.environment, problem.policy,
        steps=updates, rollouts=rollouts, later_rate=problem.later_rate,
    )  # fmt: skip

    @jax.jit
    def program(params: MetaParams) -> tuple[jax.Array, Any]:
        drawn = jax.vmap(problem.environment.sample_task)(task_keys)
        return jax.vmap(evaluate, (None, 0, 0))(params, drawn, roll_keys), drawn

    return program


def rounded(values: Any) -> list[float]:
    return [round(float(value), 4) for value in values]
