"""The outer loop (floor 3): Algorithm 1, a chunk of meta-steps at a time; between chunks the log, checkpoints and signals."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fewstep import hosts, maml
from fewstep.errors import RunFailed
from fewstep.maml import MetaState
from fewstep.problem import Problem
from fewstep.training.checkpoint import Checkpoints
from fewstep.training.chunk import compiled_chunk
from fewstep.training.devices import replicate, task_mesh
from fewstep.training.diagnose import why_not_finite
from fewstep.training.log import MetricsFile, Progress, read_metrics, risen
from fewstep.training.overshoot import compiled_judge
from fewstep.training.plan import prepared
from fewstep.training.programs import once
from fewstep.training.rollback import rolled_back
from fewstep.training.signals import StopSignals
from fewstep.training.together import NullFiles, found_by_first, shared, sync_decision
from fewstep.types import MetaParams
from fewstep.variants import evaluated

SECONDS_A_CALL = 0.5
"""A compiled call runs about so long: long enough to cost nothing, short enough to stop and to be watched."""
CHECKPOINTS = 20
"""A run is validated and saved about so many times, evenly spread; `Problem.checkpoint_every` has it saved more often."""
BEGINNING = "beginning"
"""the folder in a run of what is trained first"""
NO_SUMS = (0.0, 0.0, 0, 0)
"""of meta-losses, of gradient norms, of meta-steps and of dropped tasks since the last line of the log"""


class Interrupted(Exception):
    """The run was asked to stop (SIGINT, SIGTERM or SIGHUP); its state is saved."""


class OutOfTime(Exception):
    """The time for this training is used up; its state is saved."""


class Good(NamedTuple):
    """Where a run can go back to."""

    state: MetaState
    record: dict[str, Any]
    """what its checkpoint holds beside it"""


def train(
    problem: Problem,
    directory: Path,
    *,
    seed: int = 0,
    meta_steps: int | None = None,
    resume: bool = False,
    mesh: Mesh | None = None,
    quiet: bool = False,
    unit: str = "meta-step",
    late: Callable[[], bool] = lambda: False,
) -> MetaState:
    """Meta-trains `problem` and writes `metrics.jsonl` and `checkpoints/` into `directory`. Returns the final state.

    What a meta-step sees depends on (seed, meta-step, task number) alone, so a resumed run goes on bit for bit.
    Where the meta-loss stops being finite, the run goes back to its best checkpoint (`Problem.rollbacks`). Raises `RunFailed`
    where it may not or that is of no use, `Interrupted` on SIGINT, SIGTERM or SIGHUP, `OSError` where a disk is full. `unit` is
    what people call a meta-step of it. `late` is asked between two calls: where it is true, the state is saved and `OutOfTime`
    is raised.
    Of many processes whose devices are those of `mesh`, all call it, and process 0 alone writes and reads `directory`.
    """
    meta_steps = problem.meta_steps if meta_steps is None else meta_steps
    mesh, writes = mesh or task_mesh(), hosts.is_first()
    quiet, resume = quiet or not writes, bool(hosts.broadcast(np.asarray(resume)))
    if problem.beginning is not None and not (resume and found_by_first(directory)):
        problem, resume = begun(problem, directory / BEGINNING, seed, mesh, quiet), False
    problem = prepared(problem, mesh, seed, quiet)
    init_key, train_key, validation_key = jax.random.split(jax.random.key(seed), 3)
    state = maml.init(problem.outer_optimizer, problem.init(init_key))
    run_chunk = once(problem, compiled_chunk, mesh)
    judge = partial(once(problem, compiled_judge), key=validation_key)
    validate_every = max(problem.log_every, math.ceil(meta_steps / CHECKPOINTS / problem.log_every) * problem.log_every)
    save_every = problem.checkpoint_every or validate_every

    files = Checkpoints(directory / "checkpoints", "resume" if resume else "new") if writes else NullFiles()
    with files as checkpoints, StopSignals() as stop, ExitStack() as at_end:
        past: dict[str, Any] = {"log_position": 0, "seconds": 0.0, "sums": NO_SUMS}
        if resume:
            state, past = shared(checkpoints.restore(state, "last"))
        state = replicate(state, mesh)
        log = MetricsFile(directory / "metrics.jsonl", past["log_position"]) if writes else NullFiles()
        at_end.callback(log.close)
        step, sums, chunk_length = int(state.step), (*past["sums"], *NO_SUMS[len(past["sums"]) :]), 8
        progress = Progress(meta_steps, step, quiet=quiet, unit=unit, metric=next(iter(problem.metrics)))
        at_end.callback(progress.close)
        started = time.monotonic() - past["seconds"]
        warnings: list[str] = past.get("warnings", [])

        def warn(told: str) -> None:
            progress.say(f"warning: {told}")
            warnings.append(told)

        def judged(state: MetaState) -> tuple[MetaState, float]:
            """(the state to go on with, its error on meta-validation tasks)."""
            lowered, validation, told = judge(state)
            if hosts.broadcast_text(told):
                warn(told)
                state = replicate(hosts.broadcast(lowered), mesh)
            return state, float(hosts.broadcast(np.float64(validation)))

        def first_state() -> MetaState:
            """Where the run began, of a run that goes on."""
            known = problem if problem.beginning is None else begun(problem, directory / BEGINNING, seed, mesh, quiet)
            return maml.init(known.outer_optimizer, known.init(init_key))

        for told in checkpoints.damaged:
            warn(told)
        start = past.get("start", math.inf)
        if resume:
            good = Good(*shared(checkpoints.restore(jax.device_get(state), "best")))
            if good.record["validation"] is None or start < good.record["validation"]:  # none is better than where it began
                first = hosts.broadcast(judge(first_state()).state)
                good = Good(first, {"log_position": 0, "sums": NO_SUMS, "validation": start})
        else:
            if problem.rollbacks or problem.lower_rates:
                state, start = judged(state)
                start = start if math.isfinite(start) else math.inf  # nothing is less than what is no number
            good = Good(state, {"log_position": log.position, "sums": sums, "validation": start})

        def save(validation: float | None) -> dict[str, Any]:
            """Writes a checkpoint, in the background. One without `validation` is for going on alone, never the best."""
            seconds = time.monotonic() - started
            record = {"validation": validation, "seconds": seconds, "log_position": log.position, "sums": sums}
            checkpoints.save(state, {**record, "start": start, "warnings": list(warnings)})
            return record

        while step < meta_steps:
            next_log, next_save = (min((step // every + 1) * every, meta_steps) for every in (problem.log_every, save_every))
            length = min(chunk_length, next_log - step, next_save - step)
            called = time.monotonic()
            with hosts.others():
                state, chunk = run_chunk(state, train_key, length)
                chunk = jax.device_get(chunk)
            if not chunk.finite:
                state, told = rolled_back(problem, good.state, state, train_key)
                warn(told)
                state, step, sums = replicate(state, mesh), int(state.step), tuple(good.record["sums"])
                log.back(good.record["log_position"])
                checkpoints.forget_after(step)
                continue
            step += length
            latest = float(chunk.meta_loss), float(chunk.gradient_norm), length, int(chunk.dropped)
            sums = tuple(total + part for total, part in zip(sums, latest, strict=True))
            chunk_length = max(1, min(int(length / (time.monotonic() - called) * SECONDS_A_CALL), 4 * chunk_length))
            progress.advance(step)
            if step == next_log:
                record = {
                    "meta_step": step,
                    "meta_loss": sums[0] / sums[2],
                    "gradient_norm": sums[1] / sums[2],
                    "outer_rate": float(jnp.asarray(problem.outer_rate(step))),
                }
                if sums[3]:
                    record["dropped_tasks"] = sums[3]
                sums = NO_SUMS
                due = step % validate_every == 0 or step == meta_steps
                if due:
                    state, record["validation"] = judged(state)
                if warnings:
                    record["warnings"], warnings = warnings, []
                record["seconds"] = time.monotonic() - started
                log.write(record)
                progress.record(record)
                if due:
                    saved = save(record["validation"])
                    good = Good(state, saved) if record["validation"] <= good.record["validation"] else good
            if step == next_save:
                save(None)  # unless it is saved already
            chunk_length, stopped = sync_decision(chunk_length, stop.requested)
            if stopped and step < meta_steps:
                save(None)
                raise Interrupted
            if late() and step < meta_steps:
                save(None)
                raise OutOfTime
        if math.isfinite(good.record["validation"]):
            best = f"{unit} {int(good.state.step)}, {progress.metric}{good.record['validation']:.4g} while training"
            progress.say(f"the best checkpoint on meta-validation tasks: {best}")
        if writes:
            records = [record for record in read_metrics(directory / "metrics.jsonl") if record.get("meta_loss") is not None]
            if told := risen(*([record[name] for record in records] for name in ("meta_loss", "meta_step"))):
                progress.say(
                    f"warning: {told}. The best checkpoint is kept; a smaller --outer-rate or --inner-rate may learn more."
                )
    return state


def begun(problem: Problem, directory: Path, seed: int, mesh: Mesh, quiet: bool) -> Problem:
    """`problem` as it begins from the solution of what is trained first, which is trained in `directory`, or goes on there."""
    assert problem.beginning is not None
    first = problem.beginning.problem
    if not quiet:
        print(f"first, {first.meta_steps} batches of all meta-train classes at once:", file=sys.stderr, flush=True)
    if hosts.is_first():
        directory.mkdir(exist_ok=True)
    state = train(first, directory, seed=seed, resume=found_by_first(directory), mesh=mesh, quiet=quiet, unit="batch")
    return beginning_from(problem, jax.device_get(evaluated(state)))


def beginning_from(problem: Problem, solution: MetaParams) -> Problem:
    """`problem` with what was to be trained first already trained."""
    assert problem.beginning is not None
    take_over = problem.beginning.take_over
    return replace(problem, init=lambda key: take_over(key, solution), beginning=None)


def train_in_memory(problem: Problem, seed: int = 0) -> MetaParams:
    """Meta-trains `problem` to the end of its schedule, without a folder and checkpoints. Raises `RunFailed` as `train`."""
    init_key, train_key, _ = jax.random.split(jax.random.key(seed), 3)
    mesh = task_mesh()
    if problem.beginning is not None:
        problem = beginning_from(problem, train_in_memory(problem.beginning.problem, seed))
    problem = prepared(problem, mesh, seed, quiet=True)
    state = replicate(maml.init(problem.outer_optimizer, problem.init(init_key)), mesh)
    state, chunk = once(problem, compiled_chunk, mesh)(state, train_key, problem.meta_steps)
    if not chunk.finite:
        raise RunFailed(why_not_finite(problem, jax.device_get(state), train_key))
    return jax.tree.map(jnp.asarray, jax.device_get(evaluated(state)))
