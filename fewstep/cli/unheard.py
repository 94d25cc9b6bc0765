"""What is said on stderr where nobody listens any more (floor 6): a pipe that was closed, a terminal that is gone."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Iterator
from typing import Any, TextIO


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
