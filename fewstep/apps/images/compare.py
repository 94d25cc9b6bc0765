"""What `compare` evaluates methods on for images: episodes of held-out classes. Adds a probe on the user's embeddings.

The embeddings come from a network that was trained elsewhere. They are a table; photos of an episode are looked up in it by
their pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
import polars as pl

from fewstep.apps.images.data import ImageSet
from fewstep.apps.images.problem import Images
from fewstep.apps.images.splits import Parts
from fewstep.compare.episodes import Benchmark, make_benchmark, recipe_of
from fewstep.compare.leaks import SHOWN_PAIRS
from fewstep.compare.methods import LEARNED, classical
from fewstep.compare.methods.method import Fitted, Method, Work
from fewstep.compare.request import require_budget
from fewstep.compare.splits import require_tasks
from fewstep.core.problem import Problem
from fewstep.core.tasks import TaskFamily
from fewstep.core.types import Episode
from fewstep.errors import InputError
from fewstep.storage.tables import read_table
from fewstep.supervised.infer_kinds import in_numbers, number_kinds

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

    Raises `InputError` if the table is none of this, or a photo has no row.
    """
    found, parts, _ = settings.classes(seed)
    table = read_table(path)
    if FILE not in table.columns or table.width < 2:
        raise InputError(
            f"--embeddings {path}: expected a column {FILE!r} and columns of numbers, found {shown(table.columns)}."
        )
    others = table.drop(FILE)
    others = in_numbers(others, number_kinds(others, others.columns, {}, f"--embeddings {path}"), f"--embeddings {path}")
    if words := [name for name, kind in others.schema.items() if not kind.is_numeric()]:
        raise InputError(f"--embeddings {path}: expected numbers in all columns but {FILE!r}, found words in {shown(words)}.")
    row = {name: number for number, name in enumerate(table[FILE].cast(pl.String).to_list())}
    if missing := [name for name in found.files if name not in row]:
        raise InputError(
            f"--embeddings {path}: expected a row for each photo, found none for {shown(missing)} "
            f"({len(missing)} of {len(found.files)}). Name them as they lie in --data."
        )
    values = others.to_numpy()[[row[name] for name in found.files]].astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"--embeddings {path}: expected finite numbers, found gaps or NaN.")
    of_class = np.repeat(np.arange(len(found.length)), found.length)
    values = values - values[np.isin(of_class, parts["train"])].mean(0)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return Embeddings(values, {image.tobytes(): number for number, image in enumerate(found.images)})


def shown(names: list[str]) -> str:
    return ", ".join(map(str, names[:SHOWN])) + ", ..." * (len(names) > SHOWN)


def fit_probe(work: Work) -> Fitted:
    """Ridge regression of the classes on the embeddings of a task's support photos."""
    benchmark, ridge = work.benchmark, work.choice["ridge"]
    known = embeddings_of(benchmark.embeddings, benchmark.settings, benchmark.seed)
    pixels = benchmark.problem.images.pixels

    def embedded(images: Any) -> np.ndarray:
        """[episodes, images, numbers] of encoded photos [episodes, images, height, width, channels]."""
        decoded = pixels.decode(images)
        numbers = [[known.number[image.tobytes()] for image in episode] for episode in decoded]
        return known.values[np.array(numbers)]

    def predict(episodes: Episode) -> np.ndarray:
        support, query = episodes
        weight = np.sqrt(np.asarray(support.weight, np.float64))[..., None]
        x, queries = weight * embedded(support.inputs), embedded(query.inputs)
        targets = weight * (np.asarray(support.targets, np.float64) - 1 / support.targets.shape[-1])
        kernel = x @ x.swapaxes(1, 2) + ridge * np.eye(x.shape[1])
        return queries @ (x.swapaxes(1, 2) @ np.linalg.solve(kernel, targets))

    def adapting() -> float:
        rows = benchmark.settings.ways * benchmark.settings.shot_range.most
        return rows**2 * known.values.shape[1] + rows**3 / 3

    return Fitted(predict, adapt_operations=adapting)


def why_not(benchmark: Benchmark) -> str:
    if not benchmark.embeddings:
        return "no --embeddings of a network trained elsewhere are given"
    return ""


PROBE = Method(
    "probe",
    "Probe on your embeddings",
    "Ridge regression of the classes on the embeddings that you brought, from a network trained elsewhere.",
    "classical",
    fit_probe,
    lambda benchmark: tuple({"ridge": ridge} for ridge in RIDGES),
    rows=False,
    seeded=False,
    why_not=why_not,
)


TASKS = 100
"""held-out tasks of each split, one episode of each"""
LEAST_BUDGET = 120.0
"""seconds: reading and compiling take longer than with rows"""


def make_benchmarks(
    settings: Any, seed: int, note: Callable[[str], None], *, budget: float, embeddings: str = ""
) -> tuple[Benchmark]:
    """One split. Raises `InputError` for embeddings that do not fit, and for photos that are in classes of two splits."""
    require_budget(budget, LEAST_BUDGET)
    if embeddings and not isinstance(settings, Images):
        raise InputError("--embeddings are of photos: leave them out, or compare on images.")
    first = make_image_benchmark(settings, seed, embeddings)
    if embeddings:
        embeddings_of(embeddings, first.settings, seed)  # type: ignore[arg-type]
    for line in first.problem.notes:
        note(f"note: {line}")
    if isinstance(settings, Images):
        refuse_known_photos(*settings.classes(seed)[:2])
    require_tasks(len(first.test.names))
    return (first,)


def make_image_benchmark(settings: Any, seed: int, embeddings: str = "") -> Benchmark:
    """One episode of each of many held-out tasks; networks are trained from untrained parameters on."""
    base = replace(recipe_of(settings), joint_steps=0)
    return make_benchmark(base, seed, tasks=TASKS, draws=1, names_of=names_of, images=True, embeddings=embeddings)


def names_of(problem: Problem, family: TaskFamily, count: int) -> tuple[str, ...]:
    """The classes of each task, as people call them."""
    assert problem.images is not None and family.describe is not None
    classes = np.asarray(jax.vmap(family.describe)(family.tasks(count)))
    return tuple(", ".join(problem.images.names[one] for one in task) for task in classes)


def refuse_known_photos(found: ImageSet, parts: Parts) -> None:
    """The same photo in two classes, as it is once it is brought to its size. One of a single color is no photo."""
    content = [image.tobytes() for image in found.images]
    files = found.files or tuple(f"a photo of {name}" for name in np.repeat(found.names, found.length))
    of_class = lambda number: range(found.start[number], found.start[number] + found.length[number])  # noqa: E731
    known = {content[image]: image for number in parts["train"] for image in of_class(number)}
    for part in ("validation", "test"):
        twice = [
            (image, known[content[image]])
            for number in parts[part]
            for image in of_class(number)
            if content[image] in known and np.ptp(found.images[image])
        ]
        if twice:
            raise InputError(
                f"{len(twice)} photo{'s' * (len(twice) > 1)} of meta-{part} classes would be known from training: "
                + "; ".join(f"{files[one]} is {files[other]}" for one, other in twice[:SHOWN_PAIRS])
                + "; ..." * (len(twice) > SHOWN_PAIRS)
                + ". Remove one of each pair."
            )


def methods() -> tuple[Method, ...]:
    """The methods that apply to images; a probe on given embeddings follows the nearest class mean."""
    place = LEARNED.index(classical.NEAREST) + 1
    return tuple(method for method in (*LEARNED[:place], PROBE, *LEARNED[place:]) if method.images)
