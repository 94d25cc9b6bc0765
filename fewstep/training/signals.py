"""Stopping a training from outside (floor 3): SIGINT, SIGTERM and SIGHUP become a request that the loop answers between two
calls."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from fewstep import hosts


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, too, raises KeyboardInterrupt within: for what has nothing to save, and something to say."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not in the main thread: there are no signals to catch
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class StopSignals:
    """Turns SIGINT, SIGTERM and SIGHUP into a request that the loop answers between two calls; a second SIGINT is not held
    back. A SIGHUP that `nohup` has ignored stays so."""

    def __enter__(self) -> StopSignals:
        self.requested, self._speaks = False, hosts.is_first()  # asked for here: a handler may take no locks
        self._previous = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number != signal.SIGHUP or signal.getsignal(number) == signal.SIG_DFL:
                    self._previous[number] = signal.signal(number, self._request)
        except ValueError:  # not in the main thread: there are no signals to catch
            pass
        return self

    def _request(self, number, frame) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        if not self._speaks:
            return
        with contextlib.suppress(OSError):  # nobody may be there to read it
            os.write(2, b"\nstopping: the run is saved as soon as the compiled call returns (Ctrl-C again stops at once)\n")

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
