"""What robots lived through, as a file (floor 1): arrays of NumPy, no pickle. Used by problems/robot_faults.py, cli/gather.py.

For each of train, validation and test: `observations` [robots, runs, steps + 1, observed] and `actions` [robots, runs, steps,
actions], named `train_observations` and so on. A log of real robots has these alone; simulated ones add `conditions` [robots,
factors], what is hidden from the model.
"""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from fewstep.errors import BadInput
from fewstep.tasks.experience import AWAY, Experience
from fewstep.tasks.robots import Robot
from fewstep.whole import whole

PARTS = ("train", "validation", "test")


def write_experience(path: Path, parts: dict[str, Experience]) -> None:
    """Writes it whole or not at all. Raises `BadInput` where it cannot be written there."""
    names = "observations", "actions", "conditions"
    arrays = {f"{part}_{name}": getattr(parts[part], name) for part in PARTS for name in names}
    try:
        with whole(path) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise BadInput(f"--out {path} cannot be written: {error.strerror}. Choose a folder that may be written to.") from error


def read_experience(path: str, robot: Robot) -> dict[str, Experience]:
    """By part. Raises `BadInput` where the file is missing, damaged, of another robot, or holds numbers that are not finite."""
    if not Path(path).is_file():
        raise BadInput(f"--data {path}: expected a file that fewstep gather wrote, or a log as in docs/robots.md; found none.")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, KeyError, BadZipFile) as error:
        table = (
            " A table of one robot is for fewstep adapt --support." if Path(path).suffix in (".csv", ".tsv", ".parquet") else ""
        )
        raise BadInput(
            f"--data {path}: expected arrays of NumPy (.npz), but it is damaged or none ({error}).{table}"
        ) from error
    return {part: _part(path, robot, part, found) for part in PARTS}


def _part(path: str, robot: Robot, part: str, found: dict[str, np.ndarray]) -> Experience:
    for name, size in (("observations", robot.observed), ("actions", robot.actions)):
        values = found.get(f"{part}_{name}")
        if values is None:
            expected = ", ".join(f"{each}_{name}" for each in PARTS)
            raise BadInput(f"--data {path}: it has no {part}_{name}. Expected {expected}.")
        if values.ndim != 4 or values.shape[-1] != size or values.dtype.kind not in "fiu":
            raise BadInput(
                f"--data {path}: {part}_{name}: expected numbers [robots, runs, steps, {size}] for {robot.name}, got "
                f"{values.dtype} {list(values.shape)}."
            )
        if not (np.isfinite(values) & (np.abs(values) < AWAY)).all():
            where = np.argwhere(~(np.isfinite(values) & (np.abs(values) < AWAY)))[0]
            raise BadInput(
                f"--data {path}: {part}_{name}: robot {where[0] + 1}, run {where[1] + 1}, step {where[2] + 1}: a number is not "
                "finite, or runs away. Leave that run out."
            )
    observations, actions = (found[f"{part}_{name}"].astype(np.float32) for name in ("observations", "actions"))
    robots, runs, steps = actions.shape[:3]
    if min(robots, runs, steps) < 1 or observations.shape[:3] != (robots, runs, steps + 1):
        raise BadInput(
            f"--data {path}: {part}: expected one more observation than actions in each run, got "
            f"{list(observations.shape)} and {list(actions.shape)}."
        )
    conditions = found.get(f"{part}_conditions", np.zeros((robots, 0))).astype(np.float32)
    if conditions.ndim != 2 or len(conditions) != robots:
        raise BadInput(f"--data {path}: {part}_conditions: expected [{robots}, factors], got {list(conditions.shape)}.")
    return Experience(observations, actions, conditions, ())
