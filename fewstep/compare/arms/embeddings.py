"""A probe on embeddings of photos that the user brings, from a network trained elsewhere (floor 5): what a reviewer asks for.

The network itself is not here: its embeddings are a table, and the photos of an episode are found in it again by their pixels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from fewstep.compare.arms.arm import Arm, Fitted, Work
from fewstep.compare.ground import Ground
from fewstep.errors import BadInput
from fewstep.problems.images import Images
from fewstep.tasks.infer_kinds import in_numbers, number_kinds
from fewstep.tasks.reading import read_table
from fewstep.types import Episode

FILE = "file"
SHOWN = 3
RIDGES = (10.0, 1.0, 0.1)


class Embeddings(NamedTuple):
    """What the user brings."""

    values: np.ndarray
    """[images, numbers] float64, of length 1 about the mean of meta-train photos"""
    number: dict[bytes, int]
    """pixels -> which image that is"""


@lru_cache(maxsize=1)
def embeddings_of(path: str, settings: Images, seed: int) -> Embeddings:
    """The embeddings in the table at `path`: a column `file`, with names as "class/photo.jpg" within the data, and a number in
    each other column; a row for each photo.

    Raises `BadInput` where the table is none of this, or a photo has no row.
    """
    found, parts, _ = settings.classes(seed)
    table = read_table(path)
    if FILE not in table.columns or table.width < 2:
        raise BadInput(f"--embeddings {path}: expected a column {FILE!r} and columns of numbers, found {shown(table.columns)}.")
    others = table.drop(FILE)
    others = in_numbers(others, number_kinds(others, others.columns, {}, f"--embeddings {path}"), f"--embeddings {path}")
    if words := [name for name, kind in others.schema.items() if not kind.is_numeric()]:
        raise BadInput(f"--embeddings {path}: expected numbers in all columns but {FILE!r}, found words in {shown(words)}.")
    row = {name: number for number, name in enumerate(table[FILE].cast(pl.String).to_list())}
    if missing := [name for name in found.files if name not in row]:
        raise BadInput(
            f"--embeddings {path}: expected a row for each photo, found none for {shown(missing)} "
            f"({len(missing)} of {len(found.files)}). Name them as they lie in --data."
        )
    values = others.to_numpy()[[row[name] for name in found.files]].astype(np.float64)
    if not np.isfinite(values).all():
        raise BadInput(f"--embeddings {path}: expected finite numbers, found gaps or NaN.")
    of_class = np.repeat(np.arange(len(found.length)), found.length)
    values = values - values[np.isin(of_class, parts["train"])].mean(0)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return Embeddings(values, {image.tobytes(): number for number, image in enumerate(found.images)})


def shown(names: list[str]) -> str:
    return ", ".join(map(str, names[:SHOWN])) + ", ..." * (len(names) > SHOWN)


def fit_probe(work: Work) -> Fitted:
    """Ridge regression of the classes on the embeddings of a task's support photos."""
    ground, ridge = work.ground, work.choice["ridge"]
    known = embeddings_of(ground.embeddings, ground.settings, ground.seed)
    pixels = ground.problem.images.pixels

    def embedded(images: Any) -> np.ndarray:
        """[episodes, images, numbers] of encoded photos [episodes, images, height, width, channels]."""
        decoded = pixels.decode(images)
        numbers = [[known.number[image.tobytes()] for image in episode] for episode in decoded]
        return known.values[np.array(numbers)]

    def predict(episodes: Episode) -> np.ndarray:
        support, query = episodes
        weight = np.sqrt(np.asarray(support.weight, np.float64))[..., None]
        x, asked = weight * embedded(support.inputs), embedded(query.inputs)
        targets = weight * (np.asarray(support.targets, np.float64) - 1 / support.targets.shape[-1])
        kernel = x @ x.swapaxes(1, 2) + ridge * np.eye(x.shape[1])
        return asked @ (x.swapaxes(1, 2) @ np.linalg.solve(kernel, targets))

    def adapting() -> float:
        rows = ground.settings.ways * ground.settings.shot_range.most
        return rows**2 * known.values.shape[1] + rows**3 / 3

    return Fitted(predict, adapt_operations=adapting)


def why_not(ground: Ground) -> str:
    if not ground.embeddings:
        return "no --embeddings of a network trained elsewhere are given"
    return ""


PROBE = Arm(
    "probe",
    "Probe on your embeddings",
    "Ridge regression of the classes on the embeddings that you brought, from a network trained elsewhere.",
    "classical",
    fit_probe,
    lambda ground: tuple({"ridge": ridge} for ridge in RIDGES),
    rows=False,
    seeded=False,
    why_not=why_not,
)
