"""Experience of robots: simulated in one batched call of MuJoCo under random commands, or read from a file.

The transitions of one robot are one task. A file holds NumPy arrays without pickles. For each of train, validation and test:
`observations` [robots, runs, steps + 1, observation_size] and `actions` [robots, runs, steps, action_size], named
`train_observations` and so on. A log of real robots holds only these; simulated ones add `conditions` [robots, factors], which
are hidden from the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fewstep.apps.robots.faults import LARGEST_FACTOR, Faults
from fewstep.errors import InputError
from fewstep.simulators.mujoco import DIVERGENCE_LIMIT, Robot, capture_warnings, import_mujoco, initial_states
from fewstep.storage.arrays import arrays_in, atomic_write
from fewstep.storage.tables import most_unpacked

PERSISTENCE = 0.8
"""of random commands from one step of control to the next"""


class Experience(NamedTuple):
    """Of many robots."""

    observations: np.ndarray
    """float32 [robots, runs, steps + 1, observed]"""
    actions: np.ndarray
    """float32 [robots, runs, steps, actions]"""
    conditions: np.ndarray
    """float32 [robots, factors]"""
    dropped: tuple[tuple[int, int], ...]
    """(robot, step) of those whose simulation ran away, which are left out"""


@dataclass(frozen=True)
class Simulator:
    """MuJoCo's threads; results are the same with any number of them."""

    robot: Robot
    threads: int = 0
    """0 for one on each core"""

    def run(self, models: list, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """float64 [runs, steps + 1, state]: the full states of one model each, from `states` [runs, state] on, under `actions`
        [runs, steps, actions]."""
        from mujoco.rollout import Rollout

        mujoco, substeps = import_mujoco(), self.robot.substeps
        from fewstep.training.devices import cpu_cores

        threads = self.threads or cpu_cores()
        # Of a simulation that runs away MuJoCo would warn; it is seen in the states.
        with capture_warnings(mujoco), Rollout(nthread=threads if threads > 1 else 0) as rollout:
            data = [mujoco.MjData(self.robot.model) for _ in range(threads)]
            random_commands = np.repeat(actions.astype(np.float64), substeps, axis=1)
            found = np.asarray(rollout.rollout(models, data, np.ascontiguousarray(states, np.float64), random_commands)[0])
        return np.concatenate([states[:, None], found[:, substeps - 1 :: substeps]], 1)


def random_commands(robot: Robot, random: np.random.Generator, runs: int, steps: int) -> np.ndarray:
    """float32 [runs, steps, actions]: an Ornstein–Uhlenbeck walk in the range of each actuator, cut at its ends."""
    least, most = robot.limits
    walk = np.empty((steps, runs, robot.action_size))
    walk[0] = random.standard_normal((runs, robot.action_size))
    for step in range(1, steps):
        fresh = random.standard_normal((runs, robot.action_size))
        walk[step] = PERSISTENCE * walk[step - 1] + (1 - PERSISTENCE**2) ** 0.5 * fresh
    middle, reach = (most + least) / 2, (most - least) / 2
    return np.clip(middle + reach * walk.swapaxes(0, 1), least, most).astype(np.float32)


def merge_runs(first: Experience, more: Experience) -> Experience:
    """Further runs of the same robots, of as many steps; those that `more` has left out are left out."""
    kept = np.setdiff1d(np.arange(len(first.conditions)), [number for number, _ in more.dropped])
    observations = np.concatenate([first.observations[kept], more.observations], 1)
    actions = np.concatenate([first.actions[kept], more.actions], 1)
    return Experience(observations, actions, first.conditions[kept], (*first.dropped, *more.dropped))


def collect_experience(
    faults: Faults, seed: int | tuple[int, ...], robots: int, runs: int, steps: int, threads: int = 0
) -> Experience:
    """So many robots of a family, `runs` runs of `steps` steps of control each. The same for the same seed.

    Robots whose simulation runs away are left out and named. Raises `InputError` if none stays.
    """
    random = np.random.default_rng(seed)
    robot, conditions = faults.robot, faults.sample(random, robots)
    states, actions = initial_states(robot, random, robots * runs), random_commands(robot, random, robots * runs, steps)
    models = [model for condition in conditions for model in [faults.model(condition)] * runs]
    found = robot.observation(Simulator(robot, threads).run(models, states, actions))
    fine = np.all(np.isfinite(found) & (np.abs(found) < DIVERGENCE_LIMIT), axis=-1).reshape(robots, runs, -1)
    fine = np.all(fine, axis=1)  # [robots, steps + 1]
    kept = np.all(fine, axis=-1)
    if not kept.any():
        raise InputError(
            f"{robot.name}: the simulation of all {robots} robots runs away. Expected ranges in which it is stable: try "
            "narrower ones, or a smaller timestep in the model's file."
        )
    by_robot = lambda values: values.reshape(robots, runs, *values.shape[1:])[kept]  # noqa: E731
    dropped = tuple((int(number), int(np.argmin(fine[number]))) for number in np.flatnonzero(~kept))
    return Experience(by_robot(found), by_robot(actions), conditions[kept].astype(np.float32), dropped)


PARTS = ("train", "validation", "test")


def write_experience(path: Path, parts: dict[str, Experience]) -> None:
    """Writes it whole or not at all. Raises `InputError` if it cannot be written there."""
    names = "observations", "actions", "conditions"
    arrays = {f"{part}_{name}": getattr(parts[part], name) for part in PARTS for name in names}
    try:
        with atomic_write(path) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise InputError(
            f"--out {path} cannot be written: {error.strerror}. Choose a folder that may be written to."
        ) from error


def read_experience(path: str, robot: Robot) -> dict[str, Experience]:
    """By part. Raises `InputError` if the file is missing, damaged, of another robot, or holds numbers that are not
    finite."""
    if not Path(path).is_file():
        raise InputError(
            f"--data {path}: expected a file that fewstep gather wrote, or a log as in docs/robots.md; found none."
        )
    try:
        with arrays_in(Path(path), most=most_unpacked(Path(path))) as arrays:
            known = [f"{part}_{name}" for part in PARTS for name in ("observations", "actions", "conditions")]
            found = {name: arrays[name] for name in known if name in arrays}
            if odd := next((name for name, values in found.items() if not isinstance(values, np.ndarray)), ""):
                raise ValueError(f"{odd} is no array")
    except Exception as error:  # damaged archives raise many kinds
        table = (
            " A table of one robot is for fewstep adapt --support." if Path(path).suffix in (".csv", ".tsv", ".parquet") else ""
        )
        raise InputError(
            f"--data {path}: expected arrays of NumPy (.npz), but it is damaged or none ({error}).{table}"
        ) from error
    parts = {part: _part(path, robot, part, found) for part in PARTS}
    if len(steps := {part.actions.shape[2] for part in parts.values()}) > 1:
        raise InputError(
            f"--data {path}: expected runs of as many steps in all parts, got {', '.join(map(str, sorted(steps)))}."
        )
    return parts


def _part(path: str, robot: Robot, part: str, found: dict[str, np.ndarray]) -> Experience:
    for name, size in (("observations", robot.observation_size), ("actions", robot.action_size)):
        values = found.get(f"{part}_{name}")
        if values is None:
            expected = ", ".join(f"{each}_{name}" for each in PARTS)
            raise InputError(f"--data {path}: it has no {part}_{name}. Expected {expected}.")
        if values.ndim != 4 or values.shape[-1] != size or values.dtype.kind not in "fiu":
            raise InputError(
                f"--data {path}: {part}_{name}: expected numbers [robots, runs, steps, {size}] for {robot.name}, got "
                f"{values.dtype} {list(values.shape)}."
            )
        near = np.abs(values) < DIVERGENCE_LIMIT
        if not near.all():
            where = np.unravel_index(np.argmin(near), near.shape)
            raise InputError(
                f"--data {path}: {part}_{name}: robot {where[0] + 1}, run {where[1] + 1}, step {where[2] + 1}: a number is not "
                "finite, or runs away. Leave that run out."
            )
    observations, actions = (found[f"{part}_{name}"].astype(np.float32) for name in ("observations", "actions"))
    robots, runs, steps = actions.shape[:3]
    if min(robots, runs, steps) < 1 or observations.shape[:3] != (robots, runs, steps + 1):
        raise InputError(
            f"--data {path}: {part}: expected one more observation than actions in each run, got "
            f"{list(observations.shape)} and {list(actions.shape)}."
        )
    conditions = found.get(f"{part}_conditions", np.zeros((robots, 0)))
    if conditions.ndim != 2 or len(conditions) != robots or conditions.dtype.kind not in "fiu":
        got = f"{conditions.dtype} {list(conditions.shape)}"
        raise InputError(f"--data {path}: {part}_conditions: expected numbers [{robots}, factors], got {got}.")
    if not (np.abs(conditions.astype(np.float64)) <= LARGEST_FACTOR).all():  # 16 bits have no such number
        raise InputError(
            f"--data {path}: {part}_conditions: expected finite factors of at most {LARGEST_FACTOR:,.0f}, got others."
        )
    return Experience(observations, actions, conditions.astype(np.float32), ())
