"""Checks that faults change how a robot moves; a change without effect is refused by name."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fewstep.apps.robots.data import Simulator, random_commands
from fewstep.apps.robots.faults import Change, Faults
from fewstep.apps.robots.model_fields import ELEMENTS
from fewstep.errors import InputError
from fewstep.simulators.mujoco import initial_states

PROBES = ((4, 10), (16, 100))
"""(runs, steps of control): the robot is driven at random as where experience is gathered, briefly and then for longer"""


def require_effects(faults: Faults) -> None:
    """Raises `InputError` for a change, or one of the elements that it names, that leaves every simulated state as that of the
    healthy robot, bit for bit."""
    start = 0
    for change in faults.changes:
        size = faults.width(change)
        for name, columns in elements_of(faults, change, size):
            conditions = [condition_with(faults, start + columns, factor) for factor in extreme_factors(change)]
            if not any(changes_motion(faults, conditions, *probe) for probe in PROBES if conditions):
                runs, steps = PROBES[-1]
                seconds = runs * steps * faults.robot.seconds
                raise InputError(
                    f"{change.field}{name}: no such factor changes how the robot moves, in {seconds:.0f} seconds of random "
                    "commands. Leave it out, or change what moves it, such as body_mass or actuator_gear."
                )
        start += size


def elements_of(faults: Faults, change: Change, size: int) -> Iterator[tuple[str, np.ndarray]]:
    """(how messages name it, its numbers among those of the change): every element that is named, or all together."""
    if change.alike or not change.of or change.field.startswith("dof"):
        yield "", np.arange(size)
        return
    for number, name in enumerate(change.of):
        yield f" of {ELEMENTS[change.field.split('_')[0]]} {name}", np.array([number])


def extreme_factors(change: Change) -> list[float]:
    """The factors that are farthest from 1, one on either side."""
    factors = change.among or change.between or ()
    return sorted({min(factors), max(factors)} - {1.0}, key=lambda factor: -abs(factor - 1.0))


def condition_with(faults: Faults, columns: np.ndarray, factor: float) -> np.ndarray:
    condition = faults.healthy()
    condition[columns] = factor
    return condition


def changes_motion(faults: Faults, conditions: list[np.ndarray], runs: int, steps: int) -> bool:
    """Whether a robot in any of the conditions comes to other states than the healthy one, by the same commands."""
    robot, random = faults.robot, np.random.default_rng(0)
    states, actions = initial_states(robot, random, runs), random_commands(robot, random, runs, steps)
    simulator = Simulator(robot, 1)
    healthy = simulator.run([robot.model] * runs, states, actions)
    for condition in conditions:
        found = simulator.run([faults.model(condition)] * runs, states, actions)
        if not np.array_equal(found, healthy, equal_nan=True):
            return True
    return False
