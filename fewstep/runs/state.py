"""What is going on in a run directory, and how far it came (floor 4)."""

from __future__ import annotations

from pathlib import Path

from fewstep.runs.lock import held_by
from fewstep.training.calibration_file import Unfinished

PARAMETERS = "parameters.npz"
CANDIDATES = "candidates"


def in_use_by(directory: str | Path) -> str:
    """The process that trains in a run directory now, such as 'process 12 on host'. '' if there is none, or if the file system
    knows no locks. A candidate is in use if the run that it is a candidate of is."""
    directory = Path(directory).absolute()
    return held_by(directory.parent.parent if directory.parent.name == CANDIDATES else directory)


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
