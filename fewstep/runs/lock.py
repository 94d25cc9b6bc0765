"""One process at a time trains in a run directory. A process that ends, however it ends, frees its lock.

What is going on in a run directory, and how far it came.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import jax
from filelock import AcquireReturnProxy, FileLock, Timeout

from fewstep.errors import InputError
from fewstep.supervised.conformal import Unfinished

NAME, OWNER = ".lock", ".owner"
WAIT_SECONDS, POLL_SECONDS = 0.3, 0.02
"""How long to try to take a lock: `lock_owner` in another process takes it for a moment."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""errors of a file system without locks"""


@contextlib.contextmanager
def run_lock(directory: Path) -> Iterator[None]:
    """Holds `directory` for training in it. Raises `InputError` if another process holds it or if it cannot be written to.

    Reading takes no lock. If several processes train together, the first one holds the lock for all.
    """
    if jax.process_index() > 0:
        yield
        return
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_lock(directory, WAIT_SECONDS))
        except Timeout:
            raise InputError(
                f"{directory} is in use by {_owner(directory)}, which trains in it. Wait until it ends, or stop it; evaluate, "
                "adapt and plot are possible meanwhile."
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise InputError(
                    f"{directory} cannot be written to ({error.strerror}). Nothing was changed; choose a folder that you may "
                    "write to, or copy it to one."
                ) from error
        owner = directory / OWNER
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        try:
            yield
        finally:
            owner.unlink(missing_ok=True)


def _holder(directory: Path) -> str:
    """The process that holds `directory`, such as 'process 12 on host'. '' if there is none, or if the file system knows no
    locks."""
    if not (directory / NAME).is_file():
        return ""
    try:
        with _lock(directory, WAIT_SECONDS / 3):
            return ""
    except Timeout:
        return _owner(directory)
    except OSError:
        return ""


def _lock(directory: Path, seconds: float) -> AcquireReturnProxy:
    """Takes the lock; the context that is returned frees it."""
    return FileLock(directory / NAME, timeout=seconds).acquire(poll_interval=POLL_SECONDS)


def _owner(directory: Path) -> str:
    with contextlib.suppress(OSError):
        return (directory / OWNER).read_text(encoding="utf-8").strip() or "another process"
    return "another process"


PARAMETERS = "parameters.npz"
CANDIDATES = "candidates"


def lock_owner(directory: str | Path) -> str:
    """The process that trains in a run directory now, such as 'process 12 on host'. '' if there is none, or if the file system
    knows no locks. A candidate is in use if the run that it is a candidate of is."""
    directory = Path(directory).absolute()
    return _holder(directory.parent.parent if directory.parent.name == CANDIDATES else directory)


def activity(directory: str | Path) -> str:
    """What another process does in a run directory now, such as 'process 12 on host is training this run'; '' if nothing."""
    user = lock_owner(directory)
    return user and f"{user} is {'calibrating' if (Path(directory) / PARAMETERS).is_file() else 'training'} this run"


def unfinished(directory: str | Path) -> Unfinished:
    """Why a run has no calibration: another process trains or calibrates it now; or it was stopped, after its training or
    before its end."""
    trained = (Path(directory) / PARAMETERS).is_file()
    if lock_owner(directory):
        return "calibrating" if trained else "training"
    return "uncalibrated" if trained else "stopped"
