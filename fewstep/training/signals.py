"""Stopping from outside: SIGINT, SIGTERM and SIGHUP become a request that a training answers between two calls, or at
once in work that may be left at any point. A second signal ends the process whatever it is doing.

Python runs a signal's handler only between two of its own instructions, so not within a compiled call, which may take
minutes. A thread therefore hears signals as well."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Collection, Iterator

from fewstep.training import multihost

STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Windows has no SIGHUP."""
GRACE_SECONDS = 3.0
"""A process that is asked to stop for the second time has so long to end by itself."""
STOPPING = b"\nstopping: the run is saved as soon as the compiled call returns (Ctrl-C or SIGTERM again stops at once)\n"
INTERRUPTED = b"\nstopping as soon as the compiled call returns (Ctrl-C or SIGTERM again stops at once)\n"
STOPPED = b"\nstopped at once, within a compiled call: what was saved before is whole\n"


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, too, raises KeyboardInterrupt within: for what has nothing to save, and something to say."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not in the main thread: there are no signals to catch
        yield
        return
    try:
        with ended_by_second_signal((signal.SIGINT, signal.SIGTERM), INTERRUPTED):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


class StopSignals:
    """Turns SIGINT, SIGTERM and SIGHUP into a request, `requested`, that the loop answers between two calls. A second signal
    raises KeyboardInterrupt, and ends the process if that is of no use. A SIGHUP that `nohup` has ignored stays so."""

    def __enter__(self) -> StopSignals:
        self.requested, self.count, self._raises = False, 0, False
        """`count`: how many signals came"""
        self._previous = {}
        self._at_exit = contextlib.ExitStack()
        try:
            for number in STOP_SIGNALS:
                if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) == signal.SIG_DFL:
                    self._previous[number] = signal.signal(number, self._request)
        except ValueError:  # not in the main thread: there are no signals to catch
            return self
        self._at_exit.enter_context(ended_by_second_signal(self._previous, STOPPING if multihost.is_first() else b""))
        return self

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, a signal raises KeyboardInterrupt: for work that may be left at any point, and none of whose code is
        compiled. A simulator's steps are such work. Raises it at the beginning if a signal came before."""
        self._raises = True
        try:
            if self.count:
                raise KeyboardInterrupt
            yield
        finally:
            self._raises = False

    def _request(self, number, frame) -> None:
        self.count += 1
        self.requested = True
        if self.count > 1 or self._raises:
            raise KeyboardInterrupt

    def __exit__(self, *exception) -> None:
        self._at_exit.close()
        for number, handler in self._previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ended_by_second_signal(numbers: Collection[int], message: bytes = b"") -> Iterator[None]:
    """Writes `message` to stderr on the first of these signals, and ends the process `GRACE_SECONDS` after the second one if it
    is still in the context. Works in the main thread only. Files that are written atomically stay complete."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard, wakes = socket.socketpair()  # Windows cannot make a pipe that does not block
    wakes.setblocking(False)
    before, left = signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False), threading.Event()

    def hear() -> None:
        count = 0
        while not left.is_set():
            for number in heard.recv(64):
                if number not in numbers:
                    continue
                count += 1
                with contextlib.suppress(OSError):  # nobody may be there to read it
                    if count == 1 and message:
                        os.write(2, message)
                    if count > 1 and not left.wait(GRACE_SECONDS):
                        os.write(2, STOPPED)
                if count > 1 and not left.is_set():
                    os._exit(128 + number)

    thread = threading.Thread(target=hear, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(before)
        wakes.send(b"\0")
        thread.join()
        heard.close()
        wakes.close()
