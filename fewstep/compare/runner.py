"""Fits and scores each method once, and stores the result on disk, so that a resumed comparison does not repeat it.

A damaged file is reported by its name, with what to remove.
"""

from __future__ import annotations

import math
import shutil
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np

from fewstep.application import problem_of
from fewstep.compare.methods import AnyBenchmark, Choice, Fitted, Method, Work
from fewstep.compare.methods.networks import save_run
from fewstep.core.types import MetaParams
from fewstep.errors import InputError, TrainingError
from fewstep.runs import write_json
from fewstep.storage.arrays import arrays_in
from fewstep.storage.json import read_json
from fewstep.training.loop import OutOfTime

SCORES, RECORD = "scores.npz", "scores.json"


class DamagedRecord(InputError):
    """A file of the comparison is not as it was written. The message says what to remove."""


class Record(TypedDict):
    """What a fitting was and what it took."""

    choice: dict[str, Any]
    train_seconds: float
    operations: float
    adapt_operations: float
    adapt_milliseconds: float
    parameters: int
    meta_steps: int
    steps: int | None
    run: bool
    note: str


class Searched(TypedDict):
    """Settings that competed, and those that won."""

    chosen: dict[str, Any]
    searched: tuple[dict[str, Any], ...]


class Scored(NamedTuple):
    """One fitting of a method."""

    validation: np.ndarray
    """[tasks] errors, NaN where it diverged"""
    test: np.ndarray
    record: dict[str, Any]
    """a `Record`"""

    @property
    def diverged(self) -> bool:
        return not np.isfinite(self.validation).all()


def read_stored(path: Path, hint: Any, way_out: str = "Remove it: what it holds is then made again.") -> Any:
    """The content of a JSON file of the comparison. Raises `DamagedRecord`, with the way out, where it is not of the type
    that `hint` says."""
    try:
        return read_json(path, hint)
    except (ValueError, OSError) as error:
        raise DamagedRecord(f"{path} is damaged ({error}). {way_out}") from error


def write_scored(folder: Path, scored: Scored) -> None:
    """The record is written last: with it, the method is done."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / SCORES, validation=scored.validation, test=scored.test)
    write_json(folder / RECORD, scored.record)


def read_scored(folder: Path) -> Scored:
    """Raises `DamagedRecord` where a file of it is damaged."""
    record = read_stored(folder / RECORD, Record)
    try:
        with arrays_in(folder / SCORES) as arrays:
            return Scored(arrays["validation"], arrays["test"], record)
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DamagedRecord(
            f"{folder / SCORES} is damaged ({error}). Remove {folder / RECORD}: the method is then fitted and scored again."
        ) from error


SEARCH_PART = 0.25
"""of a training, after which the settings of a method compete; the best goes on"""
HARDLY_MORE = 1.02
EQUAL_COMPUTE = "equal-compute"
FREE = ("steps",)
"""choices that a training knows nothing of"""


class Lengths(NamedTuple):
    """How long methods are trained."""

    meta_steps: dict[str, int]
    """by the method that is trained"""
    search: bool
    """whether settings compete first"""
    equal_compute: bool = False


@dataclass
class Runner:
    """The folder of a comparison, and what methods stand on. One benchmark for each fold of a cross-fitting."""

    directory: Path
    benchmarks: tuple[AnyBenchmark, ...]
    say: Callable[[str], None]
    """tells people what is being done"""
    late: Callable[[], bool] = lambda: False
    """whether the time for fittings is used up"""

    def methods(self) -> list[Method]:
        """Those that are tried on these problems."""
        return list(methods_of(self.benchmarks[0]))

    def method(self, name: str) -> Method:
        return next(method for method in self.methods() if method.name == name)

    def folder(self, method: Method, seed: int, fold: int, lengths: Lengths) -> Path:
        part = f"seed{seed}" + f"-fold{fold}" * (len(self.benchmarks) > 1)
        equal = [EQUAL_COMPUTE] * lengths.equal_compute
        return self.directory.joinpath("methods", method.name, *equal, part)

    def scored(self, method: Method, seed: int, fold: int, lengths: Lengths) -> Scored:
        """The method by this seed on this fold: read from its folder, or fitted and scored, its settings chosen first. Raises
        `OutOfTime` if it is `late` before it is done; the part that is done is kept."""
        seed = seed if method.seeded else 0
        folder = self.folder(method, seed, fold, lengths)
        if (folder / RECORD).is_file():
            return read_scored(folder)
        choice = self.choice(method, fold, lengths)
        self.say(f"{method.title}, seed {seed + 1}" if method.seeded else method.title)
        self._require_time()
        self._take_searched(method, choice, seed, fold, folder)
        scored = self._score(method, self._work(method, choice, seed, fold, lengths, folder))
        write_scored(folder, scored)
        return scored

    def _require_time(self) -> None:
        if self.late():
            raise OutOfTime

    def choice(self, method: Method, fold: int, lengths: Lengths) -> Choice:
        """The method's settings that are best on this fold's meta-validation tasks, by the first seed. Kept in its folder."""
        path = self.directory / "methods" / method.name / f"searched{fold}.json"
        if path.is_file():
            return read_stored(path, Searched)["chosen"]
        grid = method.grid(self.benchmarks[fold])
        if len(grid) == 1:
            return grid[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        if method.problem is not None and not lengths.search:
            write_json(path, {"chosen": grid[0], "searched": []})
            return grid[0]
        found = []
        for number, choice in enumerate(grid):
            self._require_time()
            self.say(f"{method.title}, settings {number + 1} of {len(grid)}")
            found.append(self._tried(method, choice, fold, lengths))
        best = first_of_the_best(found)
        searched = [
            {"settings": choice, "validation": error if math.isfinite(error) else None}
            for choice, error in zip(grid, found, strict=True)
        ]
        write_json(path, {"chosen": grid[best], "searched": searched})
        return grid[best]

    def searched(self, method: Method, fold: int = 0) -> list[dict[str, Any]]:
        path = self.directory / "methods" / method.name / f"searched{fold}.json"
        return read_stored(path, Searched)["searched"] if path.is_file() else []

    def _tried(self, method: Method, choice: Choice, fold: int, lengths: Lengths) -> float:
        """The mean error on meta-validation tasks with these settings; what is trained stops after the first part of it."""
        work = self._work(method, choice, 0, fold, lengths, self._search_folder(method, choice, fold))
        if method.problem is not None:
            work = work._replace(meta_steps=searched_steps(work.planned))
        try:
            return float(work.benchmark.errors(method.fit(work).predict, "validation").mean())
        except TrainingError:
            return math.inf

    def _search_folder(self, method: Method, choice: Choice, fold: int) -> Path:
        trained = [f"{name}={value:g}" for name, value in choice.items() if name not in FREE and not isinstance(value, str)]
        return self.directory / "methods" / method.name / f"search{fold}" / "-".join(["with", *trained])

    def _take_searched(self, method: Method, choice: Choice, seed: int, fold: int, folder: Path) -> None:
        """What was begun with the settings that won goes on; the others make room."""
        begun = self._search_folder(method, choice, fold)
        if method.problem is None or seed or EQUAL_COMPUTE in folder.parts or not begun.is_dir():
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.exists():
            shutil.move(begun, folder)
        shutil.rmtree(begun.parent)

    def _work(self, method: Method, choice: Choice, seed: int, fold: int, lengths: Lengths, folder: Path) -> Work:
        steps = lengths.meta_steps.get(method.name, 0)
        base = self._base(method, seed, fold, lengths)
        return Work(self.benchmarks[fold], choice, seed, folder, steps, steps, *base, late=self.late)

    def _base(self, method: Method, seed: int, fold: int, lengths: Lengths) -> tuple[MetaParams | None, float, float]:
        """(the trained parameters of the method that this one follows, the operations and the seconds that they took)."""
        dependency = self.dependency(method)
        if dependency is None:
            return None, 0.0, 0.0
        known = self.scored(dependency, seed, fold, lengths)
        if known.diverged:
            raise TrainingError(f"{dependency.title}, which it starts from, diverged.")
        params = self.benchmarks[fold].params(self.folder(dependency, seed, fold, lengths))
        return params, known.record["operations"], known.record["train_seconds"]

    def dependency(self, method: Method) -> Method | None:
        """The method whose parameters this one starts from: of images, where joint training predicts nothing, its
        prototypes."""
        if not method.depends_on:
            return None
        names = {one.name for one in self.methods()}
        return self.method(method.depends_on if method.depends_on in names else "joint-ridge")

    def _score(self, method: Method, work: Work) -> Scored:
        """Fits and asks. A method that diverges is scored as such."""
        started = time.monotonic()
        benchmark, note = work.benchmark, ""
        try:
            fitted = method.fit(work)
            trained = time.monotonic()
            validation = benchmark.errors(fitted.predict, "validation")
            predicted = time.monotonic()
            test = benchmark.errors(fitted.predict, "test")
            milliseconds = 1e3 * (time.monotonic() - predicted) / benchmark.test.count
            if fitted.saved is not None and method.problem is None:
                save = method.save or save_run
                save(fitted.saved, work.folder, benchmark.seed)
        except TrainingError as error:
            fitted, trained, milliseconds, note = Fitted(lambda episodes: None), time.monotonic(), 0.0, str(error)
            validation, test = (np.full(len(held.names), np.nan) for held in (benchmark.validation, benchmark.test))
        record = {
            "choice": dict(work.choice),
            "train_seconds": trained - started + work.base_seconds,
            "operations": fitted.operations,
            "adapt_operations": fitted.adapt_operations(),
            "adapt_milliseconds": milliseconds,
            "parameters": fitted.parameters,
            "meta_steps": fitted.meta_steps,
            "steps": fitted.steps,
            "run": fitted.saved is not None,
            "note": note,
        }
        return Scored(validation, test, record)

    def fitted(self, method: Method, lengths: Lengths, fold: int = 0) -> Fitted:
        """The method by the first seed, to be asked more: what was trained is found where it is."""
        folder = self.folder(method, 0, fold, lengths)
        choice = read_scored(folder).record["choice"]
        return method.fit(self._work(method, choice, 0, fold, lengths, folder))


def methods_of(benchmark: AnyBenchmark) -> Sequence[Method]:
    """The methods of the application whose problem this is."""
    return problem_of(benchmark.settings)[0].methods


def first_of_the_best(errors: Sequence[float]) -> int:
    """The first whose error is hardly more than the least: grids go from cautious settings to bold ones."""
    least = min((error for error in errors if math.isfinite(error)), default=math.inf)
    return next((number for number, error in enumerate(errors) if error <= HARDLY_MORE * least), 0)


def searched_steps(planned: int) -> int:
    """Meta-steps after which settings compete."""
    return max(1, int(SEARCH_PART * planned))
