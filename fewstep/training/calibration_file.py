"""What `calibration.json` holds (floor 3), as `calibrate.py` writes it.

Annotations are evaluated here: as text, Python 3.11 does not see which keys are not required.
"""

from typing import Any, Literal, NotRequired, TypedDict

from fewstep.plain import Count, Positive, validate
from fewstep.problem import Problem
from fewstep.training.calibrate import LEVELS

OfSigns = tuple[float, float, float]
"""a number for each of `SIGNS`"""


class Likeness(TypedDict):
    """What is like the tasks of training."""

    level: int
    limit: float | None
    center: OfSigns
    scale: tuple[Positive, Positive, Positive]
    usual: OfSigns
    known_tasks: NotRequired[int]
    """how many meta-train and meta-validation tasks the limit is of, where too few tasks calibrated"""


class Choice(TypedDict):
    """Of one number of shots and one choice of steps."""

    likeness: Likeness
    temperature: NotRequired[Positive]
    factors: NotRequired[tuple[tuple[float | None, ...], ...]]


class Entry(TypedDict):
    """Of one number of shots."""

    shots: Count
    tasks: int
    trained: NotRequired[Choice]
    auto: NotRequired[Choice]


Unfinished = Literal["training", "calibrating", "uncalibrated", "stopped"]
"""why a run had no calibration when a model was adapted (`runs/state.py`)"""


class OfTables(TypedDict):
    """Of a table, of sine waves, of robots."""

    by_shots: tuple[Entry, ...]
    unfinished: NotRequired[Unfinished]


def require_calibration(found: Any, problem: Problem) -> None:
    """Raises `ValueError` if `found` is no calibration of a model of `problem`, which may be without data."""
    of_tables, outputs = validate(found, OfTables, "the calibration"), problem.format.outputs
    for entry in of_tables["by_shots"]:
        choices = [entry[name] for name in ("trained", "auto") if name in entry]
        factors = [choice["factors"] for choice in choices if choice.get("factors")]
        if len(choices) == 1 or any(len(each) != outputs or {*map(len, each)} != {len(LEVELS)} for each in factors):
            raise ValueError(f"the calibration: of {entry['shots']} shots expected {outputs} outputs of {len(LEVELS)} levels")
