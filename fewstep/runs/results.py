"""Results of several runs side by side: what was got in different ways never shares a column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from fewstep.errors import InputError
from fewstep.runs.lock import activity
from fewstep.runs.run import open_run
from fewstep.storage.json import read_json, validate
from fewstep.supervised.findings import findings

METHOD = ("network", "adaptation", "interval")
"""entries of a protocol that say what was tried, or how it is shown, not on what it was measured"""


class Result(NamedTuple):
    """The headline figure of one run."""

    name: str
    """the run's folder and its preset"""
    steps: int | str
    mean: float | None
    half: float | None
    """half the width of its 95 % interval over tasks"""
    over_classes: float | None
    """half the width of that over classes, where tasks have some"""
    conditions: dict[str, Any]
    """all that must agree before two results may be compared"""
    method: str = ""
    """the preset: runs of one preset in one column are seeds of one method"""
    by_steps: tuple[Sequence[int | str], Sequence[float | None]] = ((), ())
    """(numbers of adaptation steps, the figure after each)"""
    findings: tuple[str, ...] = ()
    """does adaptation help, is a cheap classic as good: in words"""


class Figures(TypedDict):
    """What is read of `evaluation.json`."""

    problem: str
    preset: str
    metric: str
    tasks: int
    steps: tuple[int | str, ...]
    mean: tuple[float | None, ...]
    ci95: tuple[float | None, ...]
    protocol: dict[str, Any]


class Column(NamedTuple):
    """Results that may be compared."""

    conditions: dict[str, Any]
    results: list[Result]


class NoFigures(InputError):
    """A run that was not evaluated yet."""


def read_result(directory: str | Path, name: str = "") -> Result:
    """The figure in a run's `evaluation.json`, after the adaptation steps that were chosen or trained. `name` is what the run
    is called, by default its folder's name. Raises `InputError`, where there is none yet `NoFigures`."""
    path = Path(directory) / "evaluation.json"
    data = open_run(directory).config.get("data_sha256")
    try:
        found = read_json(path, Figures)
        protocol, steps = found["protocol"], found["steps"]
        wanted = protocol.get("chosen_adaptation_steps", protocol["trained_adaptation_steps"])
        place = steps.index(wanted) if wanted in steps else len(steps) - 1
        over_classes = found.get("ci95_by_class")
        validate(over_classes, tuple[float | None, ...] | None, "ci95_by_class")
        conditions = {"problem": found["problem"], "metric": found["metric"], "unseen_tasks": found["tasks"]}
        conditions |= {"data_files": data[:12]} if data else {}
        conditions |= {name: value for name, value in protocol.items() if name not in METHOD}
        return Result(
            f"{name or Path(directory).name} ({found['preset']})",
            steps[place],
            found["mean"][place],
            found["ci95"][place],
            over_classes[place] if over_classes else None,
            {**conditions, "adaptation_steps": steps[place]},
            found["preset"],
            (steps, found["mean"]),
            tuple(finding.text for finding in findings(found)),
        )
    except FileNotFoundError as error:
        now = activity(directory)
        then = f"{now}, which writes them at its end" if now else f"`fewstep evaluate {directory}` writes them"
        raise NoFigures(f"{path}: expected the figures of a run; {then}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError) as error:
        raise InputError(f"{path} is damaged ({error!r}); `fewstep evaluate {directory}` writes it again.") from error


def columns_of(results: Sequence[Result]) -> list[Column]:
    """The results in columns, in the order in which their conditions first come up."""
    columns: list[Column] = []
    for result in results:
        same = next((column for column in columns if column.conditions == result.conditions), None)
        if same is None:
            columns.append(Column(result.conditions, [result]))
        else:
            same.results.append(result)
    return columns


def differences(columns: Sequence[Column]) -> dict[str, list[Any]]:
    """By name, the value in every column of each condition on which the columns do not agree; None where one has no such."""
    names = dict.fromkeys(name for column in columns for name in column.conditions)
    values = {name: [column.conditions.get(name) for column in columns] for name in names}
    return {name: each for name, each in values.items() if any(value != each[0] for value in each)}
