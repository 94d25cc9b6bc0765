"""The outer loop of policies (floor 3): meta-steps that collect their own trajectories, watched on validation tasks, saved.

What a meta-step draws depends on (seed, its number, the number of the task) alone, so a resumed run goes on bit for bit. The
checkpoint is kept whose policy brings most on validation tasks after 1 to `updates` adaptation steps: one that is trained for
longer may adapt better in one step and fall apart in three. The best of many figures is too good to be true, so the kept policy
is measured once more on tasks that chose nothing (`chosen_returns` in the last record of the log).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.errors import RunFailed
from fewstep.maml import MetaState
from fewstep.rl.meta_step import MetaStepInfo
from fewstep.rl.problem import PolicyProblem, meta_step_of, returns_of
from fewstep.training.checkpoint import Checkpoints
from fewstep.training.log import MetricsFile, Progress
from fewstep.training.loop import Interrupted, OutOfTime
from fewstep.training.signals import StopSignals
from fewstep.types import Key, MetaParams


def train_policy(
    problem: PolicyProblem,
    directory: Path,
    *,
    seed: int = 0,
    resume: bool = False,
    quiet: bool = False,
    late: Callable[[], bool] = lambda: False,
) -> MetaState:
    """Meta-trains and writes `metrics.jsonl` and `checkpoints/` into `directory`. Returns the final state.

    Raises `RunFailed` where a gradient stops being finite, `Interrupted` on SIGINT, SIGTERM or SIGHUP, and `OutOfTime` where
    `late()` is true after a meta-step; all leave checkpoints. A signal is answered within a meta-step, which is then made again
    when the run goes on.
    """
    init_key, train_key, validation_key = jax.random.split(jax.random.key(seed), 3)
    state = problem.search.outer.init(problem.init(init_key))
    step_once = meta_step_of(problem)
    judge = judged(problem, validation_key, problem.judged_tasks)
    files = Checkpoints(directory / "checkpoints", "resume" if resume else "new")
    with files as checkpoints, StopSignals() as stop, ExitStack() as at_end:
        past: dict[str, Any] = {"log_position": 0, "seconds": 0.0, "environment_steps": 0, "dropped": 0}
        if resume:
            state, past = checkpoints.restore(state, "last")
            state = jax.tree.map(jnp.asarray, state)
        log = MetricsFile(directory / "metrics.jsonl", past["log_position"])
        at_end.callback(log.close)
        progress = Progress(problem.meta_steps, int(state.step), quiet=quiet, metric="return")
        at_end.callback(progress.close)
        for told in checkpoints.damaged:
            progress.say(f"warning: {told}")
        warnings = [*past.get("warnings", ()), *checkpoints.damaged]
        started, taken, dropped = time.monotonic() - past["seconds"], past["environment_steps"], past.get("dropped", 0)

        def save(validation: float | None) -> None:
            seconds = time.monotonic() - started
            record = {"validation": validation, "seconds": seconds, "log_position": log.position, "environment_steps": taken}
            checkpoints.save(state, {**record, "dropped": dropped, "warnings": list(warnings)})

        def one_step(step: int) -> tuple[MetaState, MetaStepInfo, np.ndarray | None, Chosen | None]:
            """(the state after one more meta-step, what happened, returns on validation tasks if they are due, the checkpoint
            that is kept after the last one)."""
            after, info = step_once(state, train_key)
            info = jax.device_get(info)
            if not info.outer.finite or not (step % problem.log_every == 0 or step == problem.meta_steps):
                return after, info, None, None
            found = judge(after.params)
            last = step == problem.meta_steps and problem.remeasured_tasks
            return after, info, found, chosen(problem, checkpoints, after, found, validation_key) if last else None

        while (step := int(state.step)) < problem.meta_steps:
            step += 1
            try:
                with stop.at_once():
                    after, info, found, kept = one_step(step)
            except KeyboardInterrupt:
                if stop.count > 1:
                    raise
                save(None)
                raise Interrupted from None
            state = after
            if not info.outer.finite:
                raise RunFailed(
                    f"A gradient stopped being finite at meta-step {step}. The last checkpoint is kept. Try a smaller "
                    "--inner-rate or --outer-rate."
                )
            taken += int(info.environment_steps)
            if info.dropped and not dropped:
                progress.say(f"a trajectory broke in {info.dropped[0]}. It is left out.")
            dropped += len(info.dropped)
            progress.advance(step)
            if found is not None:
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
                if kept is not None:
                    record |= {"chosen_meta_step": kept.step, "chosen_returns": rounded(kept.returns)}
                if dropped:
                    record["dropped_trajectories"] = dropped
                if warnings:
                    record["warnings"], warnings = warnings, []
                log.write(record)
                progress.returns(record)
                if kept is not None:
                    told = ", ".join(f"{value:.3g}" for value in kept.returns)
                    progress.say(
                        f"the best on {problem.judged_tasks} validation tasks, at meta-step {kept.step}; on "
                        f"{problem.remeasured_tasks} others it returns {told} after 0, 1, … updates"
                    )
                save(record["validation"])
            if stop.requested and step < problem.meta_steps:
                save(None)
                raise Interrupted
            if late() and step < problem.meta_steps:
                save(None)
                raise OutOfTime
    return state


class Chosen(NamedTuple):
    """The checkpoint that is kept."""

    step: int
    returns: np.ndarray
    """[updates + 1] means over tasks that did not choose it"""


def chosen(problem: PolicyProblem, checkpoints: Checkpoints, last: MetaState, found: np.ndarray, key: Key) -> Chosen:
    """The best of the checkpoints and of the `last` state, whose returns on validation tasks are `found`, measured on fresh
    tasks."""
    best = last
    if int(last.step) > 1 and checkpoints.best_validation() < -np.mean(found[1:]):
        best = checkpoints.restore(last, "best")[0]
    returns = judged(problem, jax.random.fold_in(key, 1), problem.remeasured_tasks)(jax.tree.map(jnp.asarray, best.params))
    return Chosen(int(best.step), returns)


def judged(problem: PolicyProblem, key: Key, tasks: int) -> Callable[[MetaParams], np.ndarray]:
    """`params -> mean returns [updates + 1]` on so many validation tasks, the same ones at every call.

    A task in which all trajectories broke, whose return is no number, is left out.
    """
    program = returns_of(problem, tasks, problem.updates, key)
    return lambda params: np.nanmean(np.asarray(jax.device_get(program(params)[0].returns), float), 0)


def rounded(values: Any) -> list[float]:
    return [round(float(value), 4) for value in values]
