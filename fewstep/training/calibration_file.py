"""What `calibration.json` holds (floor 3): of tables as `calibrate.py` writes it, of images as `image_report.py` does.

Annotations are evaluated here: as text, Python 3.11 does not see which keys are not required.
"""

from typing import Any, Literal, NotRequired, TypedDict

from fewstep.plain import require_a
from fewstep.problem import Problem
from fewstep.tasks.image_format import ImageFormat
from fewstep.training.calibrate import LEVELS

OfSigns = tuple[float, float, float]
"""a number for each of `SIGNS`"""


class Likeness(TypedDict):
    """What is like the tasks of training."""

    level: int
    limit: float | None
    center: OfSigns
    scale: OfSigns
    usual: OfSigns
    known_tasks: NotRequired[int]
    """how many meta-train and meta-validation tasks the limit is of, where too few tasks calibrated"""


class Choice(TypedDict):
    """Of one number of shots and one choice of steps."""

    likeness: Likeness
    temperature: NotRequired[float]
    factors: NotRequired[tuple[tuple[float | None, ...], ...]]


class Entry(TypedDict):
    """Of one number of shots."""

    shots: int
    tasks: int
    trained: NotRequired[Choice]
    auto: NotRequired[Choice]


Unfinished = Literal["training", "calibrating", "uncalibrated", "stopped"]
"""why a run had no calibration when a model was adapted (`runs/state.py`)"""


class OfTables(TypedDict):
    """Of a table, of sine waves, of robots."""

    by_shots: tuple[Entry, ...]
    unfinished: NotRequired[Unfinished]


class Rule(TypedDict):
    """Which photos are none of the classes."""

    score: Literal["probability", "similarity"]
    limit: float
    tells: NotRequired[bool]
    told: NotRequired[float]
    told_at_least: NotRequired[float]


class OfImages(TypedDict, total=False):
    """Of images; empty where the run was not trained to its end."""

    chosen_steps: int
    temperature: float
    none_of_these: Rule
    unfinished: Unfinished


def require_calibration(found: Any, problem: Problem) -> None:
    """Raises `ValueError` where `found` is no calibration of a model of `problem`, which may be without data."""
    outputs = None if isinstance(problem.format, ImageFormat) else problem.format.outputs
    require_a(found, OfImages if outputs is None else OfTables, "the calibration")
    if outputs is None:
        fine = found.get("temperature", 1.0) > 0 and 0 <= found.get("chosen_steps", 0) <= 10_000
    else:
        choices = [entry[name] for entry in found["by_shots"] for name in ("trained", "auto") if name in entry]
        fine = all(sound(choice, outputs) for choice in choices)
        fine = fine and all(entry["shots"] >= 0 and ("trained" in entry) == ("auto" in entry) for entry in found["by_shots"])
    if not fine:
        raise ValueError("numbers out of range")


def sound(choice: Choice, outputs: int) -> bool:
    """Whether the numbers of a choice of steps can be used: scales are positive, factors there for each output and level."""
    factors = choice.get("factors", ())
    whole = not factors or (len(factors) == outputs and all(len(each) == len(LEVELS) for each in factors))
    return whole and min(choice["likeness"]["scale"]) > 0 and choice.get("temperature", 1.0) > 0
