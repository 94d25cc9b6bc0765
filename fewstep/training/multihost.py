"""Training in several processes, on one machine or many: start, small collectives, shared decisions, shutdown.

Every process runs the same program, and only process 0 reads and writes files. Processes communicate by small sums over all of
them. With a single process, these functions do nothing.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Timer
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fewstep.core.maml import MetaState
from fewstep.errors import InputError, TrainingError
from fewstep.training.checkpoint import has_checkpoint

HEARTBEAT_SECONDS = 30
"""A process without a heartbeat for this long counts as lost, and the others stop."""
WAITING_SECONDS, SILENT_SECONDS = 300, 5
"""How long a process waits for the others to start, and after how long it prints that it waits."""
LOST = (
    "another process of this training ended or is not heard of any more; its own output may say why. The checkpoints are kept: "
    "go on with fewstep resume, in as many processes as you like."
)
_joined = False


class LostProcess(TrainingError):
    """Another process of this training has stopped."""


def join(processes: int | Literal["auto"], process: int | None, coordinator: str | None) -> None:
    """Joins a training of several processes; does nothing for one. Call it before any computation.

    `processes` is their number, `process` the index of this one, from 0, and `coordinator` the host:port at which process 0
    listens. With "auto", JAX reads all three from the cluster: Slurm, Kubernetes, Open MPI or TPU pods.
    Raises `InputError` if the arguments are inconsistent, or if the processes cannot connect.
    """
    global _joined
    alone = process is None and coordinator is None
    if processes == "auto":
        if not alone:
            raise InputError("--processes auto asks the cluster: expected neither --process nor --coordinator beside it.")
        where: dict[str, Any] = {}
    elif alone and processes == 1:
        return
    else:
        port = (coordinator or "").rpartition(":")[2]
        if processes < 2 or process is None or not 0 <= process < processes or not port.isdigit():
            raise InputError(
                "expected --processes N, 2 or more, --coordinator HOST:PORT, where process 0 runs, both the same for all, and "
                f"--process I from 0 to N - 1; got {processes}, {coordinator} and {process}."
            )
        where = {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}
        where["cluster_detection_method"] = "deactivate"
    jax.config.update("jax_enable_preemption_service", False)  # the training loop handles SIGTERM
    what = "as many as the cluster says" if processes == "auto" else f"{processes} in all, process 0 at {coordinator}"
    try:
        with _awaited(what):
            jax.distributed.initialize(
                **where, heartbeat_timeout_seconds=HEARTBEAT_SECONDS, initialization_timeout=2 * WAITING_SECONDS
            )
    except Exception as error:  # types differ for no cluster, an address in use, a timeout
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if processes == "auto" and "should be defined" in reason:
            reason = (
                "no Slurm, Open MPI, Kubernetes or TPU pod that would say where they are. Without one, each is told by "
                "--processes N --process I --coordinator HOST:PORT."
            )
        raise InputError(f"the processes of this training did not find one another: {reason}") from error
    _joined = True
    _keep_stdout()
    if os.name == "posix":
        ctypes.CDLL(None).signal(int(signal.SIGABRT), _aborted)
    sys.excepthook = lambda *error: (sys.__excepthook__(*error), leave(1))


@contextmanager
def _awaited(what: str) -> Iterator[None]:
    """Prints after a while that this process waits for the others, and exits if they do not start. JAX would abort with a C++
    stack trace instead."""

    def give_up() -> None:
        print(
            f"fewstep: the other processes of this training ({what}) did not come within {WAITING_SECONDS} seconds. "
            "Start all of them, with the same words but for --process.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    message = f"waiting for the other processes of this training ({what}) ..."
    timers = [
        Timer(SILENT_SECONDS, lambda: print(message, file=sys.stderr, flush=True)),
        Timer(WAITING_SECONDS, give_up),
    ]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def is_first() -> bool:
    """Whether this is process 0, which reads and writes files."""
    return jax.process_index() == 0


def broadcast(tree: Any) -> Any:
    """The arrays of process 0, bit for bit; `tree` has the same shapes in every process."""
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, jax.device_get(tree)))
    whole = b"".join(leaf.tobytes() for leaf in leaves)
    words = np.frombuffer(whole + bytes(-len(whole) % 4), np.uint32)
    whole, found, place = _summed(words * np.uint32(is_first())).tobytes(), [], 0
    for leaf in leaves:
        found.append(np.frombuffer(whole, leaf.dtype, leaf.size, place).reshape(leaf.shape))
        place += leaf.nbytes
    return jax.tree.unflatten(structure, found)


def broadcast_text(text: str) -> str:
    """The text of process 0."""
    if jax.process_count() == 1:
        return text
    mine = np.frombuffer(text.encode(), np.uint8)
    length = int(broadcast(np.int32(mine.size)))
    return broadcast(mine if is_first() else np.zeros(length, np.uint8)).tobytes().decode()


def all_gather(numbers: list[int]) -> np.ndarray:
    """[processes, numbers]: the `numbers` of each process, from 0 to 2³² − 1."""
    if jax.process_count() == 1:
        return np.asarray([numbers])
    rows = np.zeros((jax.process_count(), len(numbers)), np.uint32)
    rows[jax.process_index()] = numbers
    return _summed(rows.ravel()).reshape(rows.shape).astype(np.int64)


def shutdown() -> None:
    """Ends the joint training after the last collective; each process then continues or exits on its own."""
    global _joined
    if _joined:
        jax.distributed.shutdown()
        _joined = False


def leave(code: int) -> None:
    """Exits a failed process at once, without waiting for the others, which notice that it is gone."""
    if _joined:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextmanager
def reporting_lost_processes() -> Iterator[None]:
    """Wraps a joint computation: raises `LostProcess` if another process no longer takes part."""
    try:
        yield
    except (ValueError, RuntimeError) as error:  # the type depends on the transport
        if jax.process_count() == 1 or not re.search("gloo|nccl|collective|connection|coordination", str(error), re.IGNORECASE):
            raise
        raise LostProcess(LOST) from error


@cache
def _mesh() -> Mesh:
    """One device of each process."""
    return Mesh([jax.local_devices(process)[0] for process in range(jax.process_count())], "processes")


@cache
def _sum() -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda rows: jnp.sum(rows, 0), out_shardings=NamedSharding(_mesh(), PartitionSpec()))


def _summed(words: np.ndarray) -> np.ndarray:
    """Σ over processes of uint32 [n], in every process.

    `jax.experimental.multihost_utils` does not support processes with different numbers of devices (the cores of different
    machines), and its broadcast adds floats, which loses the sign of −0 and, without x64, half of a float64.
    """
    rows = NamedSharding(_mesh(), PartitionSpec("processes"))
    with reporting_lost_processes():
        return np.asarray(_sum()(jax.make_array_from_process_local_data(rows, words[None])))


def _keep_stdout() -> None:
    """Redirects what C++ libraries print on stdout, which is for results, to stderr."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    os.dup2(2, 1)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _aborted(number: int) -> None:
    """Handles SIGABRT, which JAX raises from its own thread if another process is lost. Python's handlers would run in the main
    thread, which may wait for a sum that never arrives."""
    if _joined:
        os.write(2, f"fewstep: {LOST}\n".encode())
    os._exit(1)


class NullFiles:
    """Stands in for the log and the checkpoints in all processes except the first."""

    position = 0
    damaged: Sequence[str] = ()

    def __enter__(self) -> NullFiles:
        return self

    def __exit__(self, *exception: Any) -> None: ...

    def restore(self, like: MetaState, which: str) -> tuple[MetaState, dict[str, Any]]:
        return like, {}

    def save(self, state: MetaState, record: dict[str, Any]) -> None: ...

    def forget_after(self, step: int) -> None: ...

    def write(self, record: dict[str, Any]) -> None: ...

    def back(self, position: int) -> None: ...

    def close(self) -> None: ...


def shared(restored: tuple[MetaState, dict[str, Any]]) -> tuple[MetaState, dict[str, Any]]:
    """(state, record) as the first process has read them, in every process."""
    state, record = restored
    return broadcast(state), json.loads(broadcast_text(json.dumps(record)))


def sync_decision(length: int, stop: bool) -> tuple[int, bool]:
    """(meta-steps of the next call, as in the first process; whether any process was asked to stop)."""
    each = all_gather([length, stop])
    return int(each[0, 0]), bool(each[:, 1].any())


def first_has_checkpoint(run: Path) -> bool:
    """Whether the first process finds a checkpoint in this run directory."""
    return bool(broadcast(np.asarray(is_first() and has_checkpoint(run))))
