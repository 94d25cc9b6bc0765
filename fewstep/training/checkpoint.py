"""Checkpoints of the outer loop (floor 3): the last two and the best, written in the background, checked before use."""

from __future__ import annotations

import math
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import jax

from fewstep.arrays import named_leaves
from fewstep.errors import BadInput
from fewstep.maml import MetaState
from fewstep.training import checkpoint_file
from fewstep.training.checkpoint_file import SUFFIX, Damaged


class Checkpoints:
    """The folder `RUN/checkpoints`: one file a checkpoint (checkpoint_file.py), named by its meta-step.

    Beside the MetaState, a checkpoint holds a small record as JSON (validation loss, position in the log, ...). One that is
    damaged is noticed when the folder is opened, and told in words: `damaged`. Mode "new" makes the folder; "resume" and "read"
    raise `BadInput` where there is none, or where all are damaged; "resume" renames damaged ones, so that nothing is written
    over them; "read" changes nothing and tells on stderr. Use as a context manager: leaving it waits for a write under way.

    Of several processes the first writes; the state is the same in all of them.
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
            raise BadInput(f"{self.directory.parent} holds no checkpoint yet. Train it again.")
        self._records, damaged = self._found()
        if damaged and not self._records:
            raise BadInput(
                f"All checkpoints in {self.directory} are damaged ({', '.join(path.name for path in damaged)}): they are not "
                "as they were written. Nothing was changed. Put the folder back from a copy, or train again."
            )
        for path in damaged:
            aside = f"as {self._set_aside(path).name}" if self._writes else "out"
            self.damaged.append(
                f"checkpoint {path} is damaged: it is not as it was written. It is left {aside}, and the last whole one is of "
                f"meta-step {max(self._records)}."
            )
        if mode == "read":
            for told in self.damaged:
                print(f"warning: {told}", file=sys.stderr, flush=True)
        for partial in self.directory.glob("*.partial") if self._writes else ():
            partial.unlink()

    def _found(self) -> tuple[dict[int, dict[str, Any]], list[Path]]:
        """(the records of all checkpoints that are as they were written, by meta-step; the others)."""
        whole, damaged = {}, []
        for path in sorted(self.directory.iterdir()):
            if not path.stem.isdigit() or path.suffix != SUFFIX:
                continue
            try:
                whole[int(path.stem)] = checkpoint_file.read_record(path)
            except FileNotFoundError:  # a training under way has removed it
                continue
            except (Damaged, OSError):
                damaged.append(path)
        return whole, damaged

    def _set_aside(self, path: Path) -> Path:
        """Gives a damaged checkpoint a name under which nothing is taken for one or written over."""
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
        """Until the write under way is done. Raises its `OSError` where it failed."""
        self._writing.result()

    def save(self, state: MetaState, record: dict[str, Any]) -> None:
        """Writes `state` under its meta-step, in the background. `record["validation"]`, the lower the better, decides which is
        best; one without is for going on with the training alone. Raises the `OSError` of the write before, where it failed."""
        self.wait()
        step = int(state.step)
        if self._writes and step not in self._records:
            self._writing = self._thread.submit(self._write, step, state, record)

    def _write(self, step: int, state: MetaState, record: dict[str, Any]) -> None:
        leaves = named_leaves(jax.device_get(state))  # plain arrays, which ask for no devices when they are read
        checkpoint_file.write(self.directory / f"{step}{SUFFIX}", leaves, record)
        self._records[step] = record
        for old in set(self._records) - {self._best(), *sorted(self._records)[-2:]}:
            self._remove(old)

    def _remove(self, step: int) -> None:
        del self._records[step]
        (self.directory / f"{step}{SUFFIX}").unlink(missing_ok=True)

    def _best(self) -> int:
        """The meta-step of the least validation loss, of several the last; the last of all where none was validated."""

        def error(step: int) -> tuple[float, int]:
            validation = self._records[step]["validation"]
            return (validation if validation is not None and math.isfinite(validation) else math.inf), -step

        return min(self._records, key=error)

    def forget_after(self, step: int) -> None:
        """Removes the checkpoints of later meta-steps: the run goes back to this one."""
        self.wait()
        for later in [known for known in self._records if known > step]:
            if self._writes:
                self._remove(later)

    def restore(self, like: MetaState, which: str = "best") -> tuple[MetaState, dict[str, Any]]:
        """(MetaState, record) of the 'best' or the 'last' checkpoint.

        Raises `BadInput` where there is none, or where it does not fit `like`.
        """
        self.wait()
        while self._records:
            step = self._best() if which == "best" else max(self._records)
            try:
                leaves, record = checkpoint_file.read(self.directory / f"{step}{SUFFIX}", named_leaves(like))
                return jax.tree.unflatten(jax.tree.structure(like), leaves.values()), record
            except (FileNotFoundError, Damaged):  # gone since the folder was opened: a training under way keeps few
                self._records, _ = self._found()
        raise BadInput(f"{self.directory} holds no checkpoint: expected a run that was trained. Train it again.")


def last_meta_step(run: Path) -> int:
    """The meta-step of the last checkpoint in this run directory, by its name; 0 where there is none."""
    found = run / "checkpoints"
    steps = (path.stem for path in found.glob(f"*{SUFFIX}")) if found.is_dir() else ()
    return max((int(step) for step in steps if step.isdigit()), default=0)


def has_checkpoint(run: Path) -> bool:
    """Whether a checkpoint is in this run directory, be it a damaged one."""
    found = run / "checkpoints"
    return found.is_dir() and any(
        path.stem.isdigit() and path.suffix.split("-")[0] in (SUFFIX, ".damaged") for path in found.iterdir()
    )
