"""What robots lived through, as a file (floor 1): arrays of NumPy, no pickle. Used by problems/robot_faults.py, cli/gather.py.

For each of train, validation and test: `observations` [robots, runs, steps + 1, observed] and `actions` [robots, runs, steps,
actions], named `train_observations` and so on. A log of real robots has these alone; simulated ones add `conditions` [robots,
factors], what is hidden from the model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fewstep.arrays import arrays_in
from fewstep.errors import BadInput
from fewstep.tasks.experience import Experience
from fewstep.tasks.faults import FARTHEST
from fewstep.tasks.reading import most_unpacked
from fewstep.tasks.robots import AWAY, Robot
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
        with arrays_in(Path(path), most=most_unpacked(Path(path))) as arrays:
            known = [f"{part}_{name}" for part in PARTS for name in ("observations", "actions", "conditions")]
            found = {name: arrays[name] for name in known if name in arrays}
            if odd := next((name for name, values in found.items() if not isinstance(values, np.ndarray)), ""):
                raise ValueError(f"{odd} is no array")
    except Exception as error:  # damaged archives raise many kinds
        table = (
            " A table of one robot is for fewstep adapt --support." if Path(path).suffix in (".csv", ".tsv", ".parquet") else ""
        )
        raise BadInput(
            f"--data {path}: expected arrays of NumPy (.npz), but it is damaged or none ({error}).{table}"
        ) from error
    parts = {part: _part(path, robot, part, found) for part in PARTS}
    if len(steps := {part.actions.shape[2] for part in parts.values()}) > 1:
        raise BadInput(f"--data {path}: expected runs of as many steps in all parts, got {', '.join(map(str, sorted(steps)))}.")
    return parts


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
        near = np.abs(values) < AWAY
        if not near.all():
            where = np.unravel_index(np.argmin(near), near.shape)
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
    conditions = found.get(f"{part}_conditions", np.zeros((robots, 0)))
    if conditions.ndim != 2 or len(conditions) != robots or conditions.dtype.kind not in "fiu":
        got = f"{conditions.dtype} {list(conditions.shape)}"
        raise BadInput(f"--data {path}: {part}_conditions: expected numbers [{robots}, factors], got {got}.")
    if not (np.abs(conditions.astype(np.float64)) <= FARTHEST).all():  # 16 bits have no such number
        raise BadInput(f"--data {path}: {part}_conditions: expected finite factors of at most {FARTHEST:,.0f}, got others.")
    return Experience(observations, actions, conditions.astype(np.float32), ())
