"""Checkpoints of the outer loop: the last two and the best, written in the background and verified when read.

A checkpoint is one safetensors file of arrays by name and a record. Its metadata has one entry: the SHA-256 of the whole file,
computed with zeros in place of the digest, followed by JSON with the format, the version of fewstep and the record. It holds
only text and numbers, so reading it runs no code.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from fewstep.core.maml import MetaState
from fewstep.errors import InputError
from fewstep.storage.arrays import atomic_write, named_leaves, sync_folder
from fewstep.version import __version__

SUFFIX = ".safetensors"
FORMAT = 2
START = b'{"__metadata__":{"fewstep":"'
EARLIER_START = b'{"__metadata__":{"sha256":"'
NO_DIGEST = b"0" * 64
PLACE = slice(8 + len(START), 8 + len(START) + len(NO_DIGEST))


class Damaged(ValueError):
    """The content of a file does not match its digest."""


def write(path: Path, leaves: dict[str, Any], record: dict[str, Any]) -> None:
    """Writes a checkpoint atomically: the file is on disk before it gets its name."""
    with atomic_write(path) as partial, partial.open("wb") as file:
        file.write(encode(leaves, record))
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def encode(leaves: dict[str, Any], record: dict[str, Any]) -> bytearray:
    """The bytes of a checkpoint."""
    about = json.dumps({"format": FORMAT, "fewstep": __version__, "record": record})
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in leaves.items()}
    content = bytearray(save(arrays, {"fewstep": NO_DIGEST.decode() + about}))
    content[PLACE] = _digest(content)
    return content


def read_checkpoint_record(path: Path) -> dict[str, Any]:
    """The record of a checkpoint, without its arrays. Raises as `read_checkpoint` does."""
    return _read(path)[0]


def read_checkpoint(path: Path, like: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays by name, record).

    Raises `Damaged` if the file does not match its digest; `InputError` if its format is of another version of fewstep, or if
    the names, shapes or types of its arrays differ from those of `like`.
    """
    record, content = _read(path)
    try:
        arrays = dict(deserialize(content))
    except SafetensorError as error:  # a forged header
        raise Damaged from error
    found = {name: f"{array['dtype']}{array['shape']}" for name, array in arrays.items()}
    expected = {name: f"{_type_name(np.dtype(leaf.dtype))}{list(leaf.shape)}" for name, leaf in like.items()}
    if odd := next((name for name in [*expected, *found] if found.get(name) != expected.get(name)), None):
        difference = f"of {odd} expected {expected.get(odd, 'none')}, found {found.get(odd, 'none')}"
        raise InputError(f"Checkpoint {path} is of another model: {difference}. Nothing was changed.")
    return {name: np.frombuffer(arrays[name]["data"], leaf.dtype).reshape(leaf.shape) for name, leaf in like.items()}, record


def _type_name(dtype: np.dtype) -> str:
    """The name of a type in safetensors: F32, I32, U32, BOOL, BF16 ..."""
    known = {"bool": "BOOL", "bfloat16": "BF16"}
    return known.get(dtype.name) or f"{dtype.kind.upper()}{8 * dtype.itemsize}"


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    """(record, content of the file). Verifies the digest."""
    content = path.read_bytes()
    length, start = int.from_bytes(content[:8], "little"), content[8 : PLACE.start]
    if start.startswith(EARLIER_START):
        raise InputError(f"{path}: expected a checkpoint of format {FORMAT}, found an earlier one. Train the run again.")
    if start != START or content[PLACE] != _digest(content):
        raise Damaged
    try:
        about = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["fewstep"][len(NO_DIGEST) :])
        format, version, record = about["format"], about["fewstep"], about["record"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # a forged file may have a valid digest
        raise Damaged from error
    if format != FORMAT:
        raise InputError(
            f"{path}: expected a checkpoint of format {FORMAT}, got {format}. It takes fewstep {version}, which wrote it, or a "
            "later one."
        )
    return record, content


def _digest(content: bytes | bytearray) -> bytes:
    """SHA-256 of a checkpoint, with zeros in place of the digest."""
    view, digest = memoryview(content), hashlib.sha256()
    for piece in (view[: PLACE.start], NO_DIGEST, view[PLACE.stop :]):
        digest.update(piece)
    return digest.hexdigest().encode()


class Checkpoints:
    """The folder `RUN/checkpoints`: one file per checkpoint, named by its meta-step.

    A checkpoint holds the MetaState and a small JSON record (validation loss, position in the log, ...). Damaged checkpoints
    are detected when the folder is opened; `damaged` holds a message for each. Mode "new" creates the folder; "resume" and
    "read" raise `InputError` if there is no checkpoint or if all are damaged; "resume" renames damaged ones, so that they are
    not overwritten; "read" changes nothing and prints warnings on stderr. Use as a context manager: exiting waits for a pending
    write.

    With several processes, only the first writes; the state is the same in all of them.
    """

    def __init__(self, directory: Path, mode: Literal["new", "resume", "read"]):
        self.directory = Path(directory).resolve()
        self.damaged: list[str] = []
        self._writes = mode != "read" and jax.process_index() == 0
        self._thread, self._writing = ThreadPoolExecutor(1, "checkpoints"), Future()
        self._writing.set_result(None)
        if mode == "new":
            self.directory.mkdir(parents=True, exist_ok=True)
        elif not self.directory.is_dir():
            raise InputError(f"{self.directory.parent} holds no checkpoint yet. Train it again.")
        self._records, damaged = self._scan()
        if damaged and not self._records:
            raise InputError(
                f"All checkpoints in {self.directory} are damaged ({', '.join(path.name for path in damaged)}): they are not "
                "as they were written. Nothing was changed. Put the folder back from a copy, or train again."
            )
        for path in damaged:
            aside = f"as {self._rename_damaged(path).name}" if self._writes else "out"
            self.damaged.append(
                f"checkpoint {path} is damaged: it is not as it was written. It is left {aside}, and the last whole one is of "
                f"meta-step {max(self._records)}."
            )
        if mode == "read":
            for message in self.damaged:
                print(f"warning: {message}", file=sys.stderr, flush=True)
        for partial in self.directory.glob("*.partial") if self._writes else ():
            partial.unlink()

    def _scan(self) -> tuple[dict[int, dict[str, Any]], list[Path]]:
        """(records of intact checkpoints by meta-step, paths of damaged ones)."""
        whole, damaged = {}, []
        for path in sorted(self.directory.iterdir()):
            if not path.stem.isdigit() or path.suffix != SUFFIX:
                continue
            try:
                whole[int(path.stem)] = read_checkpoint_record(path)
            except FileNotFoundError:  # removed by a running training
                continue
            except (Damaged, OSError):
                damaged.append(path)
        return whole, damaged

    def _rename_damaged(self, path: Path) -> Path:
        """Renames a damaged checkpoint, so that it is neither read nor overwritten."""
        number, aside = 1, path.with_suffix(".damaged")
        while aside.exists():
            number += 1
            aside = path.with_suffix(f".damaged-{number}")
        return path.rename(aside)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def wait(self) -> None:
        """Waits for the pending write. Raises its `OSError` if it failed."""
        self._writing.result()

    def save(self, state: MetaState, record: dict[str, Any]) -> None:
        """Writes `state` in the background, named by its meta-step. The lowest `record["validation"]` is the best checkpoint;
        one without a validation serves only to resume. Raises the `OSError` of the previous write if it failed."""
        self.wait()
        step = int(state.step)
        if self._writes and step not in self._records:
            self._writing = self._thread.submit(self._write, step, state, record)

    def _write(self, step: int, state: MetaState, record: dict[str, Any]) -> None:
        leaves = named_leaves(jax.device_get(state))  # plain arrays, which can be read without devices
        write(self.directory / f"{step}{SUFFIX}", leaves, record)
        self._records[step] = record
        for old in set(self._records) - {self._best(), *sorted(self._records)[-2:]}:
            self._remove(old)

    def _remove(self, step: int) -> None:
        del self._records[step]
        (self.directory / f"{step}{SUFFIX}").unlink(missing_ok=True)

    def _best(self) -> int:
        """The meta-step with the lowest validation loss, the last of several; the last of all if none was validated."""

        def error(step: int) -> tuple[float, int]:
            validation = self._records[step]["validation"]
            return (validation if validation is not None and math.isfinite(validation) else math.inf), -step

        return min(self._records, key=error)

    def forget_after(self, step: int) -> None:
        """Removes the checkpoints of later meta-steps, for a rollback to `step`."""
        self.wait()
        for later in [known for known in self._records if known > step]:
            if self._writes:
                self._remove(later)

    def restore(self, like: MetaState, which: str = "best") -> tuple[MetaState, dict[str, Any]]:
        """(MetaState, record) of the 'best' or the 'last' checkpoint.

        Raises `InputError` if there is none, or if it does not fit `like`.
        """
        self.wait()
        while self._records:
            step = self._best() if which == "best" else max(self._records)
            try:
                leaves, record = read_checkpoint(self.directory / f"{step}{SUFFIX}", named_leaves(like))
                return jax.tree.unflatten(jax.tree.structure(like), leaves.values()), record
            except (FileNotFoundError, Damaged):  # removed since the folder was opened, by a running training
                self._records, _ = self._scan()
        raise InputError(f"{self.directory} holds no checkpoint: expected a run that was trained. Train it again.")


def last_meta_step(run: Path) -> int:
    """The meta-step of the last checkpoint in a run directory, by file name; 0 if there is none."""
    found = run / "checkpoints"
    steps = (path.stem for path in found.glob(f"*{SUFFIX}")) if found.is_dir() else ()
    return max((int(step) for step in steps if step.isdigit()), default=0)


def has_checkpoint(run: Path) -> bool:
    """Whether a run directory has a checkpoint, intact or damaged."""
    found = run / "checkpoints"
    return found.is_dir() and any(
        path.stem.isdigit() and path.suffix.split("-")[0] in (SUFFIX, ".damaged") for path in found.iterdir()
    )
