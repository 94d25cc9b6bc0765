"""What a comparison keeps while it goes on (floor 5): what each fitting scored, which settings won. Damage is told in words."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np

from fewstep.arrays import arrays_in
from fewstep.errors import BadInput
from fewstep.plain import read_json
from fewstep.runs import write_json

SCORES, RECORD = "scores.npz", "scores.json"


class DamagedRecord(BadInput):
    """A file of the comparison is not as it was written. The message says what to remove."""


class Record(TypedDict):
    """What a fitting was and what it took."""

    choice: dict[str, Any]
    train_seconds: float
    operations: float
    adapt_operations: float
    adapt_milliseconds: float
    parameters: int
    meta_steps: int
    steps: int | None
    run: bool
    note: str


class Searched(TypedDict):
    """Settings that competed, and those that won."""

    chosen: dict[str, Any]
    searched: tuple[dict[str, Any], ...]


class Scored(NamedTuple):
    """One fitting of an arm."""

    validation: np.ndarray
    """[tasks] errors, NaN where it diverged"""
    test: np.ndarray
    record: dict[str, Any]
    """a `Record`"""

    @property
    def diverged(self) -> bool:
        return not np.isfinite(self.validation).all()


def read_kept(path: Path, hint: Any, way_out: str = "Remove it: what it holds is then made again.") -> Any:
    """The content of a JSON file of the comparison. Raises `DamagedRecord`, with the way out, where it is not of the type
    that `hint` says."""
    try:
        return read_json(path, hint)
    except (ValueError, OSError) as error:
        raise DamagedRecord(f"{path} is damaged ({error}). {way_out}") from error


def write_scored(folder: Path, scored: Scored) -> None:
    """The record is written last: with it, the arm is done."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / SCORES, validation=scored.validation, test=scored.test)
    write_json(folder / RECORD, scored.record)


def read_scored(folder: Path) -> Scored:
    """Raises `DamagedRecord` where a file of it is damaged."""
    record = read_kept(folder / RECORD, Record)
    try:
        with arrays_in(folder / SCORES) as arrays:
            return Scored(arrays["validation"], arrays["test"], record)
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DamagedRecord(
            f"{folder / SCORES} is damaged ({error}). Remove {folder / RECORD}: the arm is then fitted and scored again."
        ) from error
