"""The outer loop: calls a `Trainer` for chunks of meta-steps; between calls it logs, validates, saves and checks for signals.

If numbers become non-finite, the run rolls back to its best checkpoint with a smaller outer rate. It does not go back to the
last one, which may already be diverging.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fewstep.core.maml import MetaState
from fewstep.core.problem import Trainable, Trainer, Validation
from fewstep.core.types import Key, MetaParams
from fewstep.errors import TrainingError
from fewstep.training import multihost
from fewstep.training.checkpoint import Checkpoints
from fewstep.training.multihost import NullFiles, first_has_checkpoint, shared, sync_decision
from fewstep.training.progress import MetricsFile, Progress, read_metrics, risen
from fewstep.training.signals import StopSignals
from fewstep.variants import evaluated, slowdown, slower

FACTOR = 0.5
"""by which each rollback multiplies the outer rate"""
SECONDS_A_CALL = 0.5
"""Target duration of a compiled call: long enough to hide overhead, short enough to stop and to show progress."""
PRETRAINING = "beginning"
"""the subfolder of a run for its pretraining"""


class Interrupted(Exception):
    """A signal (SIGINT, SIGTERM or SIGHUP) stopped the run; its state is saved."""


class OutOfTime(Exception):
    """The time limit of this training is reached; its state is saved."""


class RollbackPoint(NamedTuple):
    """State to which a run can roll back."""

    state: MetaState
    record: dict[str, Any]
    """the record of its checkpoint"""


def roll_back(trainer: Trainer, rollbacks: int, good: MetaState, failed: MetaState, key: Key) -> tuple[MetaState, str]:
    """(state to continue from, message) if the meta-step after `failed` is not finite.

    `good` is the best saved state. Raises `TrainingError` with the reason if no rollback is left, or if smaller steps would not
    help since no meta-step was made after `good`.
    """
    reason = trainer.diagnose(jax.device_get(failed), key)
    factor, then = slowdown(failed), slowdown(good)
    if not rollbacks or factor is None or then is None or int(failed.step) == int(good.step):
        raise TrainingError(reason)
    times = round(math.log(factor, FACTOR))
    if times >= rollbacks:
        raise TrainingError(f"{reason} The run went back {times} times, with half the outer rate each time (--rollbacks).")
    message = f"{reason} Going back to meta-step {int(good.step)}, with {FACTOR * factor:g} of the outer rate."
    return slower(good, FACTOR * factor / then), message


def train(
    problem: Trainable,
    directory: Path,
    *,
    seed: int = 0,
    meta_steps: int | None = None,
    resume: bool = False,
    mesh: Mesh | None = None,
    quiet: bool = False,
    late: Callable[[], bool] = lambda: False,
) -> MetaState:
    """Meta-trains `problem` and writes `metrics.jsonl` and `checkpoints/` into `directory`. Returns the final state.

    A meta-step depends only on (seed, meta-step, task number), so a resumed run continues bit for bit. If numbers become
    non-finite, the run rolls back to its best checkpoint (`Trainable.rollbacks`). Raises `TrainingError` if no rollback is left
    or it would not help, `Interrupted` on SIGINT, SIGTERM or SIGHUP, `OSError` if the disk is full. `late` is called between
    two chunks: if it returns true, the state is saved and `OutOfTime` is raised.
    With several processes, all call it with a `mesh` of all their devices; only process 0 reads and writes `directory`.
    """
    meta_steps, writes = problem.meta_steps if meta_steps is None else meta_steps, multihost.is_first()
    quiet, resume = quiet or not writes, bool(multihost.broadcast(np.asarray(resume)))
    if problem.warm_start is not None and not (resume and first_has_checkpoint(directory)):
        problem, resume = pretrain(problem, directory / PRETRAINING, seed, mesh, quiet), False
    trainer, log_every = problem.trainer()(problem, mesh, seed, quiet), problem.log_every
    init_key, train_key, validation_key = jax.random.split(jax.random.key(seed), 3)
    state = problem.initial_state(problem.init(init_key))
    validate_every = max(log_every, math.ceil(meta_steps / trainer.validations / log_every) * log_every)
    save_every = problem.checkpoint_every or validate_every

    files = Checkpoints(directory / "checkpoints", "resume" if resume else "new") if writes else NullFiles()
    with files as checkpoints, StopSignals() as stop, ExitStack() as at_end:
        past: dict[str, Any] = {"log_position": 0, "seconds": 0.0, "start": math.inf, "warnings": [], "sums": {}, "totals": {}}
        if resume:
            state, known = shared(checkpoints.restore(state, "last"))
            past |= known
        state = trainer.place(state)
        log = MetricsFile(directory / "metrics.jsonl", past["log_position"]) if writes else NullFiles()
        at_end.callback(log.close)
        step, chunk_length = int(state.step), 8
        sums: dict[str, float] = past["sums"]
        """since the last record of the log"""
        totals: dict[str, float] = past["totals"]
        """since the run began"""
        progress = Progress(meta_steps, step, quiet=quiet, unit=problem.unit)
        at_end.callback(progress.close)
        started = time.monotonic() - past["seconds"]
        warnings: list[str] = past["warnings"]

        def warn(message: str) -> None:
            progress.say(f"warning: {message}")
            warnings.append(message)

        def validated(state: MetaState) -> Validation:
            """Validates `state`; the returned state is placed on the mesh and the same in all processes."""
            found = trainer.validate(state, validation_key)
            if multihost.broadcast_text(found.message):
                warn(found.message)
                state = trainer.place(multihost.broadcast(found.state))
            return found._replace(state=state, value=float(multihost.broadcast(np.float64(found.value))))

        def first_state() -> MetaState:
            """The initial state of a resumed run."""
            known = problem if problem.warm_start is None else pretrain(problem, directory / PRETRAINING, seed, mesh, quiet)
            first = known.initial_state(known.init(init_key))
            return multihost.broadcast(trainer.validate(first, validation_key).state) if trainer.validate_first else first

        def save(validation: float | None) -> dict[str, Any]:
            """Writes a checkpoint in the background. One without `validation` serves only to resume and is never the best."""
            seconds = time.monotonic() - started
            record = {"validation": validation, "seconds": seconds, "log_position": log.position, "sums": sums}
            checkpoints.save(state, {**record, "totals": totals, "start": start, "warnings": list(warnings)})
            return record

        @contextmanager
        def interruptible_by_signal() -> Iterator[None]:
            """A signal ends an interruptible run at once in this block. The current meta-step is repeated when it is
            resumed."""
            if not trainer.interruptible:
                yield
                return
            try:
                with stop.at_once():
                    yield
            except KeyboardInterrupt:
                if stop.count > 1:
                    raise
                save(None)
                raise Interrupted from None

        for message in checkpoints.damaged:
            warn(message)
        start = past["start"]
        if resume:
            good = RollbackPoint(*shared(checkpoints.restore(jax.device_get(state), "best")))
            if good.record["validation"] is None or start < good.record["validation"]:  # the initial state is the best
                good = RollbackPoint(first_state(), {"log_position": 0, "sums": {}, "validation": start})
        else:
            if trainer.validate_first:
                found = validated(state)
                state, start = found.state, found.value if math.isfinite(found.value) else math.inf
            good = RollbackPoint(state, {"log_position": log.position, "sums": sums, "validation": start})

        while step < meta_steps:
            next_log, next_save = (min((step // every + 1) * every, meta_steps) for every in (log_every, save_every))
            length = min(chunk_length, next_log - step, next_save - step)
            called = time.monotonic()
            with interruptible_by_signal():
                after, stats = trainer.run(state, train_key, length)
            if not stats.finite:
                state, message = roll_back(trainer, problem.rollbacks, good.state, after, train_key)
                warn(message)
                state, step, sums = trainer.place(state), int(state.step), good.record["sums"]
                totals = added(totals, stats.totals)
                log.back(good.record["log_position"])
                checkpoints.forget_after(step)
                continue
            now, found, conclusion = step + stats.steps, None, {}
            chunk_length = max(1, min(int(length / (time.monotonic() - called) * SECONDS_A_CALL), 4 * chunk_length))
            progress.advance(now)
            if now == next_log and (now % validate_every == 0 or now == meta_steps):
                with interruptible_by_signal():
                    found = validated(after)
                    if now == meta_steps:
                        known = good.record["validation"]
                        better = not math.isfinite(known) or found.value <= known
                        conclusion, message = trainer.conclude(found.state if better else good.state, validation_key)
                        if message:
                            progress.say(message)
            state, step = after if found is None else found.state, now
            sums = added(sums, {"steps": stats.steps, **stats.means, **stats.counts})
            totals = added(totals, stats.totals)
            for message in stats.messages:
                progress.say(message)
            if step == next_log:
                record: dict[str, Any] = {"meta_step": step}
                record |= {name: sums[name] / sums["steps"] for name in stats.means}
                record |= stats.latest
                record |= {name: sums[name] for name in stats.counts if sums[name]}
                record |= totals
                sums = {}
                if found is not None:
                    record |= {"validation": found.value, **found.record}
                if warnings:
                    record["warnings"], warnings = warnings, []
                record["seconds"] = time.monotonic() - started
                record |= conclusion
                log.write(record)
                progress.record(record, trainer.words(record))
                if found is not None:
                    saved = save(found.value)
                    good = RollbackPoint(state, saved) if found.value <= good.record["validation"] else good
            if step == next_save:
                save(None)  # no effect if this meta-step is saved already
            chunk_length, stopped = sync_decision(chunk_length, stop.requested)
            if stopped and step < meta_steps:
                save(None)
                raise Interrupted
            if late() and step < meta_steps:
                save(None)
                raise OutOfTime
        if math.isfinite(good.record["validation"]):
            metric = problem.metric.replace("_", " ")
            best = f"{problem.unit} {int(good.state.step)}, {metric} {good.record['validation']:.4g} while training"
            progress.say(f"the best checkpoint on meta-validation tasks: {best}")
        if writes:
            records = [record for record in read_metrics(directory / "metrics.jsonl") if record.get("meta_loss") is not None]
            if message := risen(*([record[name] for record in records] for name in ("meta_loss", "meta_step"))):
                progress.say(
                    f"warning: {message}. The best checkpoint is kept; a smaller --outer-rate or --inner-rate may learn more."
                )
    return state


def added(sums: Mapping[str, float], more: Mapping[str, float]) -> dict[str, float]:
    """Adds two mappings of numbers by name."""
    return {**sums, **{name: sums.get(name, 0) + value for name, value in more.items()}}


def pretrain(problem: Trainable, directory: Path, seed: int, mesh: Mesh | None, quiet: bool) -> Any:
    """`problem` initialized from its warm start, which is trained in `directory`, or resumed there."""
    assert problem.warm_start is not None
    first = problem.warm_start.problem
    if not quiet:
        print(f"first, {first.meta_steps} batches of all meta-train classes at once:", file=sys.stderr, flush=True)
    if multihost.is_first():
        directory.mkdir(exist_ok=True)
    state = train(first, directory, seed=seed, resume=first_has_checkpoint(directory), mesh=mesh, quiet=quiet)
    return with_warm_start(problem, jax.device_get(evaluated(state)))


def with_warm_start(problem: Any, solution: MetaParams) -> Any:
    """`problem` initialized from `solution`, the meta-parameters of its pretraining."""
    transfer = problem.warm_start.transfer
    return replace(problem, init=lambda key: transfer(key, solution), warm_start=None)


def train_in_memory(problem: Trainable, seed: int = 0) -> MetaParams:
    """Meta-trains `problem` to the end of its schedule, without a folder or checkpoints. Raises `TrainingError` as `train`
    does."""
    init_key, train_key, _ = jax.random.split(jax.random.key(seed), 3)
    if problem.warm_start is not None:
        problem = with_warm_start(problem, train_in_memory(problem.warm_start.problem, seed))
    trainer, step = problem.trainer()(problem, None, seed, True), 0
    state = trainer.place(problem.initial_state(problem.init(init_key)))
    while step < problem.meta_steps:
        state, stats = trainer.run(state, train_key, problem.meta_steps - step)
        if not stats.finite:
            raise TrainingError(trainer.diagnose(jax.device_get(state), train_key))
        step += stats.steps
    return jax.tree.map(jnp.asarray, jax.device_get(evaluated(state)))
