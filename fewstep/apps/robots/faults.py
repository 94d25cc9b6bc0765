"""Faults of robots: the numbers of a MuJoCo model that differ from robot to robot, and their ranges.

A family of faults is a list of changes. Each multiplies numbers of the model (gains of actuators, masses, frictions) by factors
that are sampled for each robot; all factors of a robot are its hidden condition. With factors of 1 it is healthy.
"""

from __future__ import annotations

import copy
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.apps.robots.model_fields import DIRECTIONS, ELEMENTS, is_derived, is_numeric, recompute_constants, source_fields
from fewstep.errors import InputError
from fewstep.simulators.mujoco import Robot
from fewstep.storage.json import is_valid

MOST_BYTES, LARGEST_FACTOR = 100_000, 1e6
"""No family is a larger file, whose YAML would take long to read, and no fault multiplies by more."""
MOST_CAUSES = 3
MOST_SHOWN = 200
"""letters of what a file says, in a message"""
CHANGE_FIELDS: dict[str, tuple[Any, str]] = {
    "field": (str, "a word"),
    "between": (tuple[float, float], "finite numbers [least, most]"),
    "among": (tuple[float, ...], "finite numbers"),
    "of": (str | tuple[str, ...], "names"),
    "any": (int, "a whole number"),
    "alike": (bool, "true or false"),
}
"""what a change in a YAML file holds, as a type and in words"""


@dataclass(frozen=True)
class Change:
    """Numbers of the model that differ by robot."""

    field: str
    """of MuJoCo's model: actuator_gear, body_mass, geom_friction, dof_damping, dof_armature, ..."""
    between: tuple[float, float] | None = None
    """factors are drawn evenly from here"""
    among: tuple[float, ...] = ()
    """or are one of these"""
    of: tuple[str, ...] = ()
    """names of bodies, joints, geoms or actuators; all of them where there are none"""
    any: int = 0
    """so many of these, drawn for each robot; 0 for all"""
    alike: bool = False
    """one factor for all of them"""


FAMILIES: dict[str, tuple[Change, ...]] = {
    "severe": (Change("actuator_gear", (-1.2, 1.2)), Change("body_mass", (0.6, 1.8), of=("torso",))),
    "mild": (Change("actuator_gear", (0.7, 1.3)), Change("actuator_gear", among=(0.0, -1.0, 0.3), any=1)),
    "payload": (Change("body_mass", (1.0, 3.0), of=("torso",)),),
    "friction": (Change("geom_friction", (0.2, 1.5), alike=True),),
}
"""motors that are weak, dead or reversed, and a torso of another weight; one faulty motor, all others within 30 %; something on
the back; another ground"""


def read_family(name: str) -> tuple[Change, ...]:
    """A family by its name, or from a YAML file: a list of changes, each with the fields of `Change`. Raises `InputError`."""
    if name in FAMILIES:
        return FAMILIES[name]
    path = Path(name)
    if not path.is_file():
        near = difflib.get_close_matches(name, FAMILIES, n=1)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise InputError(
            f"--family {name}: expected {', '.join(FAMILIES)}, or a YAML file of changes, found none of them.{meant}"
        )
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path}: expected a list of changes of at most {MOST_BYTES:,} bytes, got {path.stat().st_size:,}.")
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except Exception as error:  # of odd tags, numbers and depths many kinds
        why = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise InputError(f"{path}: expected YAML, but it cannot be read: {why}") from error
    if not isinstance(found, list) or not found or not all(isinstance(entry, dict) for entry in found):
        raise InputError(
            f"{path}: expected a list of changes, such as '- {{field: body_mass, of: [torso], between: [0.6, 1.8]}}'."
        )
    return tuple(change_of(entry, path) for entry in found)


def change_of(entry: dict[Any, Any], path: Path) -> Change:
    if unknown := [name for name in entry if name not in CHANGE_FIELDS]:
        raise InputError(f"{path}: expected of a change {', '.join(CHANGE_FIELDS)}, got {', '.join(map(str, unknown))}.")
    if "field" not in entry:
        raise InputError(f"{path}: a change without a field. Expected one of the model's, such as body_mass.")
    for name, value in entry.items():
        kind, words = CHANGE_FIELDS[name]
        if not is_valid(value, kind):
            raise InputError(f"{path}: {quoted(entry['field'])}: expected {name}: {words}, got {quoted(value)}.")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    of = (entry["of"],) if isinstance(entry.get("of"), str) else given.get("of", ())
    change = Change(**{**given, "of": of})
    if (change.between is None) == (not change.among) or (change.between and change.between[0] > change.between[1]):
        expected = "either between: [least, most] or among: [numbers]"
        raise InputError(f"{path}: {quoted(change.field)}: expected {expected}, got {quoted(entry)}.")
    if (largest := max(map(abs, change.among or change.between or ()))) > LARGEST_FACTOR:
        raise InputError(f"{path}: {quoted(change.field)}: expected factors of at most {LARGEST_FACTOR:,.0f}, got {largest:g}.")
    if change.any < 0:
        raise InputError(f"{path}: {quoted(change.field)}: expected any: of at least 0, got {change.any}.")
    return change


def quoted(value: Any) -> str:
    """A part of a file as messages quote it."""
    try:
        text = str(value)
    except ValueError:  # a number of more digits than Python writes out
        text = "a number without end"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


@dataclass(frozen=True)
class Faults:
    """A family of faults of one robot. Raises `InputError` for a field or a name that it lacks, for a field that MuJoCo
    computes of others or whose numbers are all 0, and for masses below 0."""

    robot: Robot
    changes: tuple[Change, ...]

    def __post_init__(self) -> None:
        for change in self.changes:
            rows, least = self._rows(change), min(change.among or change.between or (1.0,))
            if not len(rows):
                raise InputError(f"{change.field}: the robot has none, so nothing would change. Leave this change out.")
            if is_derived(self.robot.model, change.field):
                instead = ", ".join(source_fields(self.robot.model, change.field)[:MOST_CAUSES]) or "what it is computed from"
                raise InputError(
                    f"{change.field}: MuJoCo computes it from other fields, so setting it would change nothing, or make the "
                    f"model contradict itself. Change instead: {instead}."
                )
            if not getattr(self.robot.model, change.field)[rows].any():
                raise InputError(
                    f"{change.field}: its numbers are 0 here, and so is every multiple of them: nothing would change. Give "
                    f"{'them' if len(rows) > 1 else 'it'} a value in the robot's file, or leave this change out."
                )
            if change.any > len(rows):
                raise InputError(f"{change.field}: any: {change.any} is more than the {len(rows)} that there are.")
            if change.field in ("body_mass", "body_inertia") and least <= 0:
                raise InputError(
                    f"{change.field}: expected factors above 0, since a body without mass does not move, got {least:g}."
                )
            if least < 0 and not change.field.startswith("actuator"):
                raise InputError(
                    f"{change.field}: expected factors of at least 0, since only actuators can be reversed, got {least:g}."
                )

    def _rows(self, change: Change) -> np.ndarray:
        """The rows of the field that change."""
        model = self.robot.model
        values = getattr(model, change.field, None)
        kind = ELEMENTS.get(change.field.split("_")[0])
        if not is_numeric(values) or kind is None or change.field.endswith(DIRECTIONS):
            fields = [name for name in dir(model) if name.split("_")[0] in ELEMENTS and not name.endswith(DIRECTIONS)]
            offered = [name for name in fields if is_numeric(getattr(model, name))]
            near = difflib.get_close_matches(change.field, offered, n=9, cutoff=0.5)
            near = [name for name in near if not is_derived(model, name)][:3]
            listed = ", ".join(dict.fromkeys((*near, "body_mass", "actuator_gear")))
            raise InputError(f"{quoted(change.field)}: expected a field of numbers of MuJoCo's model, such as {listed}.")
        if not change.of:
            return np.arange(int(kind == "body"), len(values))  # body 0 is the world
        names = {getattr(model, kind)(number).name: number for number in range(getattr(model, COUNTS[kind]))}
        if missing := [name for name in change.of if name not in names]:
            offered = ", ".join(name for name in names if name) or "none with a name"
            own = ""
            if change in (*FAMILIES["severe"], *FAMILIES["payload"]):
                own = (
                    " The families severe and payload load the torso: name that body so, or take mild, friction or a YAML file "
                    "of faults of your own (--family; docs/robots.md)."
                )
            raise InputError(f"{change.field}: the robot has no {kind} {', '.join(missing)}. It has: {offered}.{own}")
        numbers = [names[name] for name in change.of]
        return np.flatnonzero(np.isin(model.dof_jntid, numbers)) if change.field.startswith("dof") else np.array(numbers)

    @property
    def size(self) -> int:
        """Numbers of a condition."""
        return sum(map(self.width, self.changes))

    def width(self, change: Change) -> int:
        """Numbers of a condition that are of this change."""
        return 1 if change.alike else len(self._rows(change))

    def healthy(self) -> np.ndarray:
        """[size]: the condition of the robot as its file has it."""
        return np.ones(self.size)

    def describe(self, condition: np.ndarray) -> list[str]:
        """A condition in words, 'gain of bthigh x -0.42'; factors of 1 are left out."""
        names: list[str] = []
        for change in self.changes:
            rows, kind = self._rows(change), ELEMENTS[change.field.split("_")[0]]
            of = "all" if change.alike else ""
            label = LABELS.get(change.field, change.field)
            for row in rows[: 1 if change.alike else None]:
                number = int(self.robot.model.dof_jntid[row]) if change.field.startswith("dof") else int(row)
                names.append(f"{label} of {of or getattr(self.robot.model, kind)(number).name or f'{kind} {number + 1}'}")
        return [f"{name} x {factor:.2f}" for name, factor in zip(names, condition, strict=True) if factor != 1.0]

    def sample(self, random: np.random.Generator, count: int) -> np.ndarray:
        """[count, size] conditions."""
        drawn = []
        for change in self.changes:
            shape = count, 1 if change.alike else len(self._rows(change))
            factors = random.choice(change.among, shape) if change.among else random.uniform(*change.between or (1, 1), shape)
            if change.any:
                chosen = random.permuted(np.tile(np.arange(shape[1]), (count, 1)), axis=1) < change.any
                factors = np.where(chosen, factors, 1.0)
            drawn.append(factors)
        return np.concatenate(drawn, 1)

    def model(self, condition: np.ndarray) -> Any:
        """The `mujoco.MjModel` of a robot in this condition. A body's inertia goes with its mass, as if of another density."""
        model, start = copy.copy(self.robot.model), 0
        for change in self.changes:
            rows = self._rows(change)
            width = 1 if change.alike else len(rows)
            factors = np.broadcast_to(condition[start : start + width], (len(rows),))
            start += width
            for field in (change.field, "body_inertia") if change.field == "body_mass" else (change.field,):
                values = getattr(model, field)
                values[rows] = values[rows] * factors.reshape(-1, *(1,) * (values.ndim - 1))
        recompute_constants(model)
        inertia = float(np.mean(self.robot.model.dof_M0))
        if inertia > 0:  # by which the solver decides when it is done; MuJoCo computes it only when it reads a file
            model.stat.meaninertia = self.robot.model.stat.meaninertia * (float(np.mean(model.dof_M0)) / inertia)
        return model


LABELS = {"actuator_gear": "gain", "body_mass": "mass", "geom_friction": "friction", "dof_damping": "damping"}
"""what people call a field of the model"""
COUNTS = {"body": "nbody", "joint": "njnt", "geom": "ngeom", "actuator": "nu", "tendon": "ntendon"}
