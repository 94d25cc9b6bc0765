"""Messages for exhausted resources (disk, memory, write access), and a stderr that survives a closed pipe or terminal."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Iterator
from typing import Any, TextIO

NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def resource_error(error: BaseException, where: str = "a file") -> str:
    """A message for people with what to do; "" for other errors. `where` is named if the system does not name a file."""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return (
            "out of memory. It takes less with --tasks-at-once 1, --meta-gradient exact, or fewer tasks in --meta-batch-size; "
            "--dry-run says how much a meta-step takes. What was saved before is whole."
        )
    if isinstance(error, OSError) and error.errno in NOT_WRITTEN:
        found = f"{error.filename or where} cannot be written ({error.strerror})."
        return f"{found} Make room, or choose a folder that you may write to; what was saved before is whole."
    return ""


class BrokenPipeTolerant:
    """A stderr wrapper that ignores broken pipes, so that training survives a closed terminal."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with _ignore_broken_pipe():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with _ignore_broken_pipe():
            self._stream.flush()


@contextlib.contextmanager
def stderr_may_be_closed() -> Iterator[None]:
    """Keeps a training alive if stderr closes, as after `2>&1 | head` or a lost connection."""
    original = sys.stderr
    sys.stderr = BrokenPipeTolerant(original)
    try:
        yield
    finally:
        sys.stderr = original


@contextlib.contextmanager
def _ignore_broken_pipe() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
