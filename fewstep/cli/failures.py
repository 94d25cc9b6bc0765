"""Where a machine has no more to give: a full disk, a folder that cannot be written, too little memory; in words.

What is said on stderr where nobody listens any more: a pipe that was closed, a terminal that is gone.
"""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Iterator
from typing import Any, TextIO

NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def resource_error(error: BaseException, where: str = "a file") -> str:
    """What a person should know and do; "" of other errors. Of a full disk the system does not always say `where`; of memory
    XLA says the same on every device."""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return (
            "out of memory. It takes less with --tasks-at-once 1, --meta-gradient exact, or fewer tasks in --meta-batch-size; "
            "--dry-run says how much a meta-step takes. What was saved before is whole."
        )
    if isinstance(error, OSError) and error.errno in NOT_WRITTEN:
        found = f"{error.filename or where} cannot be written ({error.strerror})."
        return f"{found} Make room, or choose a folder that you may write to; what was saved before is whole."
    return ""


class Unheard:
    """A stream whose words are for people: where nobody reads them, what they tell of goes on."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with _going_on():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with _going_on():
            self._stream.flush()


@contextlib.contextmanager
def stderr_may_be_closed() -> Iterator[None]:
    """A training is not ended by the end of `2>&1 | head`, or of the connection over which it was watched."""
    heard = sys.stderr
    sys.stderr = Unheard(heard)
    try:
        yield
    finally:
        sys.stderr = heard


@contextlib.contextmanager
def _going_on() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
