"""A run directory as a value (floor 4): made by `train`, opened by `open_run`; the same from Python and from the command."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import jax

from fewstep import maml
from fewstep.errors import BadInput
from fewstep.problem import Problem
from fewstep.problems import PROBLEMS
from fewstep.tasks.columns import TableFormat
from fewstep.training import loop
from fewstep.training.checkpoint import Checkpoints, read_arrays, write_arrays
from fewstep.training.complete import complete
from fewstep.training.evaluate import evaluate, illustrations
from fewstep.types import MetaParams
from fewstep.version import __version__

PARAMETERS = "parameters.npz"


@dataclass(frozen=True)
class Run:
    """A trained run and the folder that holds all of it."""

    directory: Path
    config: dict[str, Any]
    settings: Any

    @property
    def seed(self) -> int:
        return self.config["seed"]

    def problem(self, with_data: bool = True) -> Problem:
        """The Problem of this run. Without data, only what needs none: the model, the learner, the table's format."""
        if with_data:
            data = getattr(self.settings, "data", None)
            problem = self.settings.build(self.seed)
            if data and fingerprint(data) != self.config["data_sha256"]:
                raise BadInput(
                    f"{self.directory}: the data has changed since this run was trained ({data}). "
                    "Give the original file, or train again."
                )
            return problem
        return self.settings.build(self.seed, TableFormat.from_json(self.config["format"]))

    def params(self, which: str = "best") -> MetaParams:
        """The meta-parameters of the run: the 'best' on meta-validation tasks, complete, or those of the 'last' checkpoint.

        A run that was not trained to its end has its best checkpoint alone.
        """
        path = self.directory / PARAMETERS
        if which == "best" and path.is_file():
            problem = self.problem(with_data=False)
            try:
                return read_arrays(path, jax.eval_shape(lambda: problem.init(jax.random.key(0))))
            except Exception as error:  # a damaged file raises many kinds
                raise BadInput(
                    f"{path} is damaged or of another model ({type(error).__name__}). Remove it to fall back on a checkpoint."
                ) from error
        return self.checkpoint(which)

    def checkpoint(self, which: str = "best") -> MetaParams:
        """The meta-parameters of the 'best' (on meta-validation tasks) or the 'last' checkpoint."""
        problem = self.problem(with_data=False)
        like = jax.eval_shape(lambda: maml.init(problem.outer_optimizer, problem.init(jax.random.key(0))))
        with Checkpoints(self.directory / "checkpoints", "read") as checkpoints:
            state, _ = checkpoints.restore(like, which)
        return jax.tree.map(jax.numpy.asarray, state.params)

    def resume(self, quiet: bool = False) -> Run:
        """Goes on from the last checkpoint to the planned number of meta-steps, bit for bit as if never stopped."""
        problem = self.problem()
        loop.train(problem, self.directory, seed=self.seed, resume=True, quiet=quiet)
        self.finish(problem)
        return self

    def finish(self, problem: Problem) -> None:
        """Completes the best checkpoint and writes `parameters.npz`, from which the trained run is opened."""
        write_arrays(self.directory / PARAMETERS, complete(problem, self.checkpoint()))

    def evaluate(
        self,
        steps: Sequence[int] | None = None,
        tasks: int = 1000,
        draws: int | None = None,
        which: str = "best",
        **changes: Any,
    ) -> dict[str, Any]:
        """The figures of `evaluation.json` on meta-test tasks; `changes` replace settings such as `shots`."""
        altered = replace(self, settings=replace(self.settings, **changes))
        problem = altered.problem()
        return self._measured(problem, self.params(which), steps or problem.evaluation_steps, tasks, draws)

    def write_evaluation(self, steps: Sequence[int] | None = None) -> dict[str, Any]:
        """Evaluates the best checkpoint; writes `evaluation.json` and `illustrations.json`, from which pictures are drawn."""
        problem, params = self.problem(), self.params()
        steps = steps or problem.evaluation_steps
        result = self._measured(problem, params, steps)
        write_json(self.directory / "evaluation.json", result)
        write_json(self.directory / "illustrations.json", illustrations(problem, params, steps))
        return result

    def _measured(
        self, problem: Problem, params: MetaParams, steps: Sequence[int], tasks: int = 1000, draws: int | None = None
    ) -> dict[str, Any]:
        """`training.evaluate`, with what only the run knows: its preset, the shots it was trained at."""
        started = time.monotonic()
        splits = problem.splits
        assert splits is not None
        # Few tasks: several support sets each, so that the figure depends less on which rows were drawn.
        draws = draws or (10 if splits.test.size is not None and splits.test.size < 1000 else 1)
        result = evaluate(problem, params, steps=steps, tasks=tasks, draws=draws)
        result["protocol"]["trained_shots"] = self.settings.shots
        return {
            "problem": result["problem"],
            "preset": self.config["preset"],
            **result,
            "seconds": round(time.monotonic() - started, 2),
        }


def train(
    settings: Any,
    directory: str | Path,
    *,
    seed: int = 0,
    preset: str = "default",
    quiet: bool = False,
    announce: Callable[[Problem], None] | None = None,
) -> Run:
    """Meta-trains what `settings` describe into the new folder `directory`.

    Raises `BadInput` before anything is written where the settings, the data or the folder cannot be used.
    """
    problem = settings.build(seed)
    directory = new_directory(directory)
    if announce:
        announce(problem)
    config = {
        "problem": problem.name,
        "preset": preset,
        "settings": asdict(absolute_data(settings)),
        "seed": seed,
        "format": problem.format.to_json(),
        "tasks": names_of_tasks(problem),
        "data_sha256": fingerprint(settings.data) if getattr(settings, "data", None) else None,
        "versions": {"fewstep": __version__, "jax": jax.__version__, "python": platform.python_version()},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }
    write_json(directory / "config.json", config)
    loop.train(problem, directory, seed=seed, quiet=quiet)
    run = open_run(directory)
    run.finish(problem)
    return run


def names_of_tasks(problem: Problem) -> dict[str, list[str]] | None:
    """Which tasks are in which split, where tasks have names."""
    assert problem.splits is not None
    families = {"train": problem.splits.train, "validation": problem.splits.validation, "test": problem.splits.test}
    return {split: list(family.names) for split, family in families.items() if family.names} or None


def open_run(directory: str | Path) -> Run:
    """Opens a run directory. Raises `BadInput` where it is none, or was written by settings that this version lacks."""
    directory = Path(directory)
    path = directory / "config.json"
    if not path.is_file():
        found = "a folder without config.json" if directory.is_dir() else "a file" if directory.exists() else "nothing there"
        raise BadInput(f"{directory}: expected the folder of a trained run, found {found}. `fewstep train` makes one.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or not even text
        raise BadInput(
            f"{path}: expected the settings of a run, but it is damaged ({error}). Restore it or train again."
        ) from error
    run = Run(directory, config, settings_of(config, path))
    try:
        run.problem(with_data=False)
    except (KeyError, TypeError, AttributeError, BadInput) as error:
        raise BadInput(
            f"{path}: expected the settings of a run, but it is damaged ({error}). Restore it or train again."
        ) from error
    return run


def settings_of(config: dict[str, Any], source: Path) -> Any:
    """The settings dataclass that a `config.json` records. Raises `BadInput` where this version does not know them."""
    try:
        kind = PROBLEMS[config["problem"]]
        saved = {name: tuple(value) if isinstance(value, list) else value for name, value in config["settings"].items()}
        if unknown := set(saved) - {field.name for field in fields(kind)}:
            raise KeyError(*sorted(unknown))
        return kind(**saved)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{source}: expected settings that fewstep {__version__} knows, found others or damaged ones ({error!r}). "
            "Open it with the version that wrote it, or train again."
        ) from error


def new_directory(directory: str | Path) -> Path:
    """Makes a new folder for a run. Raises `BadInput` where it holds something already or cannot be written."""
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        what = "already holds a run" if (directory / "config.json").exists() else "already exists and is not empty"
        raise BadInput(f"--out {directory} {what}. Choose another folder, or remove this one; nothing was changed.")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {directory} cannot be made: {error.strerror}. Choose a folder that you may write to.") from error
    if not os.access(directory, os.W_OK):
        raise BadInput(f"--out {directory} cannot be written to. Choose a folder that you may write to.")
    return directory


def write_json(path: Path, content: Any) -> None:
    """Writes whole or not at all: into a file beside it, then renamed."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def fingerprint(path: str | Path) -> str:
    """The SHA-256 of a file, by which changed data is noticed."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def absolute_data(settings: Any) -> Any:
    """Settings whose data path holds from any working directory."""
    data = getattr(settings, "data", None)
    return replace(settings, data=str(Path(data).resolve())) if data else settings
