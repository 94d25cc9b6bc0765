"""One process at a time trains in a run directory (floor 4). The kernel frees the lock when it ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import jax

from fewstep.errors import BadInput

NAME = ".lock"
WAITS = (0.01, 0.05, 0.2)
"""seconds between two attempts to take it"""


@contextlib.contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """Holds `directory` for training in it. Raises `BadInput` at once where another process holds it, or where it cannot be
    written. Reading asks for no lock. Of several processes of one training the first holds it for all."""
    if jax.process_index() > 0:
        yield
        return
    try:
        file = (directory / NAME).open("a+", encoding="utf-8")
    except OSError as error:
        raise BadInput(
            f"{directory} cannot be written to ({error.strerror}). Nothing was changed; choose a folder that you may write to, "
            "or copy it to one."
        ) from error
    with file:
        try:
            _take(file)
        except BlockingIOError:
            file.seek(0)
            raise BadInput(
                f"{directory} is in use by {file.read().strip() or 'another process'}, which trains in it. Wait until it ends, "
                "or stop it; evaluate, adapt and plot are possible meanwhile."
            ) from None
        except OSError:  # a file system that knows no locks
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _take(file: IO[str]) -> None:
    """Takes the lock. Who only asks whether it is taken (`state.in_use_by`) holds it for a moment, which is waited for."""
    for wait in WAITS:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(wait)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
