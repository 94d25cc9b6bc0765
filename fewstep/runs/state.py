"""What is going on in a run directory, and how far it came (floor 4). Reading asks for no lock; it says who holds it."""

from __future__ import annotations

import fcntl
from pathlib import Path

from fewstep.runs.lock import NAME
from fewstep.training.calibration_file import Unfinished

PARAMETERS = "parameters.npz"
CANDIDATES = "candidates"


def in_use_by(directory: str | Path) -> str:
    """The process that trains in a run directory now, such as 'process 12 on host'. '' if there is none, or if the file system
    knows no locks. A candidate is in use if the run that it is a candidate of is."""
    directory = Path(directory).absolute()
    owner = directory.parent.parent if directory.parent.name == CANDIDATES else directory
    try:
        with (owner / NAME).open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "another process"
    except OSError:  # no lock was ever taken here, or there are none
        pass
    return ""


def going_on(directory: str | Path) -> str:
    """What another process does in a run directory now, such as 'process 12 on host is training this run'; '' if nothing."""
    user = in_use_by(directory)
    return user and f"{user} is {'calibrating' if (Path(directory) / PARAMETERS).is_file() else 'training'} this run"


def unfinished(directory: str | Path) -> Unfinished:
    """Why a run has no calibration: another process trains or calibrates it now; or it was stopped, after its training or
    before its end."""
    trained = (Path(directory) / PARAMETERS).is_file()
    if in_use_by(directory):
        return "calibrating" if trained else "training"
    return "uncalibrated" if trained else "stopped"
