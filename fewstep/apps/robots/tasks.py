"""Episodes of robots: one robot is one task.

An episode is a window of one run. Its first transitions are the support set, the transitions that follow are the query set.
Inputs are observation and command, targets the change of the observation, all standardized by the meta-train robots.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.apps.robots.data import Experience
from fewstep.core.tasks import Shots, TaskFamily
from fewstep.core.types import Episode, Examples, Key
from fewstep.simulators.mujoco import Robot
from fewstep.supervised.columns import InputColumn, TableFormat, TargetColumn

LEAST_DEVIATION = 1e-4
"""What never changes is not divided by its deviation."""


def format_of(robot: Robot, experience: Experience) -> TableFormat:
    """How transitions become inputs and targets, by the means and deviations of this experience. A table of a robot's log with
    these columns is read in the same way."""
    observed, commands = robot.names
    values = np.concatenate([experience.observations[:, :, :-1], experience.actions], -1).reshape(-1, len(observed + commands))
    changes = np.diff(experience.observations, axis=2).reshape(-1, len(observed))
    spans = zip(values.min(0).tolist(), values.max(0).tolist(), strict=True)
    inputs = tuple(
        InputColumn(name, "number", center, scale, span=span)
        for name, center, scale, span in zip(observed + commands, *standardization(values), spans, strict=True)
    )
    named = (f"change of {name}" for name in observed)
    return TableFormat(
        inputs, tuple(TargetColumn(*each) for each in zip(named, *standardization(changes), strict=True)), "robot"
    )


def standardization(values: np.ndarray) -> tuple[list[float], list[float]]:
    """(means, deviations) of the columns of [rows, columns]."""
    exact = values.astype(np.float64)
    return exact.mean(0).tolist(), np.maximum(exact.std(0), LEAST_DEVIATION).tolist()


def windows(experience: Experience, format: TableFormat, shots: Shots, queries: int, oracle: bool = False) -> TaskFamily:
    """The family of these robots. Where there are fewer shots than the most, they are the last before the queries.

    With `oracle`, inputs end with the robot's hidden condition: what an oracle sees that need not adapt.
    """
    values = np.concatenate([experience.observations[:, :, :-1], experience.actions], -1)
    center, scale = (np.array([getattr(column, name) for column in format.inputs]) for name in ("center", "scale"))
    inputs = (values - center) / scale
    if oracle:
        condition = experience.conditions[:, None, None, :]
        inputs = np.concatenate([inputs, np.broadcast_to(condition, (*inputs.shape[:-1], condition.shape[-1]))], -1)
    changes = np.diff(experience.observations, axis=2)
    targets = (changes - np.array([target.center for target in format.targets])) / format.units
    given, wanted = jnp.asarray(inputs, jnp.float32), jnp.asarray(targets, jnp.float32)
    robots, runs, steps = given.shape[:3]
    most = shots.most

    def episode(task: jax.Array, key: Key, count: jax.Array | int | None = None) -> Episode:
        run_key, start_key, count_key = jax.random.split(key, 3)
        run, start = jax.random.randint(run_key, (), 0, runs), jax.random.randint(start_key, (), 0, steps - most - queries + 1)
        x, y = (
            jax.lax.dynamic_slice(rows, (task, run, start, 0), (1, 1, most + queries, rows.shape[-1]))[0, 0]
            for rows in (given, wanted)
        )
        if count is None:
            count = shots.draw(count_key) if shots.least < most else most
        weight = (jnp.arange(most) >= most - count).astype(jnp.float32)
        return Episode(Examples(x[:most], y[:most], weight), Examples(x[most:], y[most:], jnp.ones(queries)))

    return TaskFamily(episode, size=robots, names=tuple(f"robot {number + 1}" for number in range(robots)))
