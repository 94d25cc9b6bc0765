"""What the processes of one training do together beside its meta-steps (floor 3): agree on when to stop, and leave files to the
first. Used by loop.py and by runs; of one process, none of it does anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewstep import hosts
from fewstep.maml import MetaState
from fewstep.training.checkpoint import has_checkpoint


class NullFiles:
    """A run's log and checkpoints in all processes but the first, which alone writes and reads them."""

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
    """(state, record) as the first process has read them."""
    state, record = restored
    return hosts.broadcast(state), json.loads(hosts.broadcast_text(json.dumps(record)))


def sync_decision(length: int, stop: bool) -> tuple[int, bool]:
    """(meta-steps of the next call as the first process wants them, whether any process was asked to stop)."""
    each = hosts.all_gather([length, stop])
    return int(each[0, 0]), bool(each[:, 1].any())


def found_by_first(run: Path) -> bool:
    """Whether the first process finds a whole checkpoint in this run directory."""
    return bool(hosts.broadcast(np.asarray(hosts.is_first() and has_checkpoint(run))))
