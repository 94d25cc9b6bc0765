"""Graceful stopping: SIGINT, SIGTERM and SIGHUP request a stop, which a training honors between two calls, or at once in
interruptible work. A second signal ends the process.

Python runs signal handlers only between its own instructions, not within a compiled call, which may take minutes. So a thread
listens for signals as well."""

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
"""How long a process may take to exit by itself after the second signal."""
STOPPING = b"\nstopping: the run is saved as soon as the compiled call returns (Ctrl-C or SIGTERM again stops at once)\n"
INTERRUPTED = b"\nstopping as soon as the compiled call returns (Ctrl-C or SIGTERM again stops at once)\n"
STOPPED = b"\nstopped at once, within a compiled call: what was saved before is whole\n"


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Makes SIGTERM raise KeyboardInterrupt in this block, for commands that have nothing to save."""
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
    """Turns SIGINT, SIGTERM and SIGHUP into a flag, `requested`, which the loop checks between two calls. A second signal
    raises KeyboardInterrupt, and ends the process if that has no effect. If `nohup` ignores SIGHUP, it stays ignored."""

    def __enter__(self) -> StopSignals:
        self.requested, self.count, self._raises = False, 0, False
        """`count`: number of signals received"""
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
        """A signal raises KeyboardInterrupt in this block: for interruptible work without compiled code, such as the steps of
        a simulator. Raises it on entry if a signal has already been received."""
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
    receiver, sender = socket.socketpair()  # Windows has no non-blocking pipes
    sender.setblocking(False)
    before, left = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False), threading.Event()

    def listen() -> None:
        count = 0
        while not left.is_set():
            for number in receiver.recv(64):
                if number not in numbers:
                    continue
                count += 1
                with contextlib.suppress(OSError):  # stderr may be closed
                    if count == 1 and message:
                        os.write(2, message)
                    if count > 1 and not left.wait(GRACE_SECONDS):
                        os.write(2, STOPPED)
                if count > 1 and not left.is_set():
                    os._exit(128 + number)

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(before)
        sender.send(b"\0")
        thread.join()
        receiver.close()
        sender.close()
