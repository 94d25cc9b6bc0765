"""The numeric fields of MuJoCo's model, and which of them MuJoCo derives from others."""

from __future__ import annotations

import contextlib
import copy
from typing import Any, TypeGuard

import numpy as np

from fewstep.errors import InputError
from fewstep.simulators.mujoco import capture_warnings, import_mujoco

ELEMENTS = {"body": "body", "jnt": "joint", "dof": "joint", "geom": "geom", "actuator": "actuator", "tendon": "tendon"}
"""by the first word of a field of the model: what its rows belong to"""
DIRECTIONS = ("quat", "_axis")
"""how fields of directions end: these have no size to multiply, and MuJoCo ends the process where one is not of length 1"""
DERIVED = ("geom_rbound", "geom_aabb")
"""what MuJoCo before version 4 computes when it reads a model, and does not compute again"""
USUAL = ("body_mass", "dof_armature", "actuator_gear", "geom_size")
"""what to change first, of fields that another one is computed from"""


def recompute_constants(model: Any) -> None:
    """Has MuJoCo compute what follows of the fields that were set. Raises `InputError` if it refuses them; whether the robot
    can be simulated is seen when it is."""
    mujoco = import_mujoco()
    try:
        with capture_warnings(mujoco):
            mujoco.mj_setConst(model, mujoco.MjData(model))
    except mujoco.FatalError as error:
        problem = " ".join(str(error).split())
        raise InputError(f"expected faults that MuJoCo can give a robot once it is read, but it refuses: {problem}") from error


def is_derived(model: Any, field: str) -> bool:
    """Whether MuJoCo computes this field of others: it does not keep what is set there."""
    changed = copy.copy(model)
    values = getattr(changed, field)
    if not values.size:
        return False
    values[:] = perturbed(values)
    before = values.copy()
    try:
        recompute_constants(changed)
    except InputError:  # of so large a change; nothing is known
        return field in DERIVED
    return field in DERIVED or not np.array_equal(getattr(changed, field), before, equal_nan=True)


def source_fields(model: Any, field: str) -> list[str]:
    """The fields from which MuJoCo computes this one, those first that people change."""
    found = []
    for name in dir(model):
        if name.split("_")[0] not in ELEMENTS or name.endswith(DIRECTIONS) or not is_numeric(getattr(model, name)):
            continue
        changed = copy.copy(model)
        values = getattr(changed, name)
        values[:] = perturbed(values)
        with contextlib.suppress(InputError):
            recompute_constants(changed)
        if name != field and not np.array_equal(getattr(changed, field), getattr(model, field)) and not is_derived(model, name):
            found.append(name)
    return sorted(found, key=lambda name: USUAL.index(name) if name in USUAL else len(USUAL))


def perturbed(values: np.ndarray) -> np.ndarray:
    """Other numbers, also for 0."""
    return 1.25 * values + 0.125


def is_numeric(values: Any) -> TypeGuard[np.ndarray]:
    """Whether a field of the model holds what can be multiplied."""
    return isinstance(values, np.ndarray) and values.dtype == np.float64
