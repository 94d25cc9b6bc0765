"""What `calibration.json` holds (floor 3): of tables as `calibrate.py` writes it, of images as `image_report.py` does.

Annotations are evaluated here: as text, Python 3.11 does not see which keys are not required.
"""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from fewstep.plain import Count, Positive, validate
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


class Rule(TypedDict):
    """Which photos are none of the classes."""

    score: Literal["probability", "similarity"]
    limit: float
    tells: NotRequired[bool]
    told: NotRequired[float]
    told_at_least: NotRequired[float]


class OfImages(TypedDict, total=False):
    """Of images; empty where the run was not trained to its end."""

    chosen_steps: Annotated[int, Meta(ge=0, le=10_000)]
    temperature: Positive
    none_of_these: Rule
    unfinished: Unfinished


def require_calibration(found: Any, problem: Problem) -> None:
    """Raises `ValueError` if `found` is no calibration of a model of `problem`, which may be without data."""
    if isinstance(problem.format, ImageFormat):
        validate(found, OfImages, "the calibration")
        return
    of_tables, outputs = validate(found, OfTables, "the calibration"), problem.format.outputs
    for entry in of_tables["by_shots"]:
        choices = [entry[name] for name in ("trained", "auto") if name in entry]
        factors = [choice["factors"] for choice in choices if choice.get("factors")]
        if len(choices) == 1 or any(len(each) != outputs or {*map(len, each)} != {len(LEVELS)} for each in factors):
            raise ValueError(f"the calibration: of {entry['shots']} shots expected {outputs} outputs of {len(LEVELS)} levels")
