"""A run as a value (floor 4): the folder, its settings, and what can be done with it."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import jax
import numpy as np
from jax.sharding import Mesh

from fewstep import hosts, maml
from fewstep.arrays import read_arrays, write_arrays
from fewstep.errors import BadInput, RunFailed
from fewstep.plain import read_json, require_a
from fewstep.problem import Problem
from fewstep.problems.policy_settings import PolicySettings
from fewstep.runs import candidates, measure
from fewstep.runs.config import require_known_layout, require_same, require_same_files, settings_of, write_config
from fewstep.runs.files import fingerprint, new_directory, write_json
from fewstep.runs.lock import only_one
from fewstep.runs.policy_run import open_policy_run, train_policy_run
from fewstep.training import loop
from fewstep.training.calibration_file import require_calibration
from fewstep.training.checkpoint import Checkpoints, has_checkpoint
from fewstep.training.complete import complete
from fewstep.training.devices import training_mesh
from fewstep.training.fit import Steps
from fewstep.training.together import found_by_first
from fewstep.types import MetaParams
from fewstep.variants import evaluated

PARAMETERS, CALIBRATION = "parameters.npz", "calibration.json"


class Config(TypedDict):
    """What every `config.json` holds, beside more; only code that builds the Problem knows what the settings should be."""

    problem: str
    preset: str
    settings: dict[str, Any]
    seed: int


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
            require_same_files(self.settings, self.config, self.directory)
            data = getattr(self.settings, "data", None)
            problem = self.settings.build(self.seed)
            if data and fingerprint(data) != self.config.get("data_sha256"):
                raise BadInput(
                    f"{self.directory}: the data has changed since this run was trained ({data}). "
                    "Give the original file, or train again."
                )
            return problem
        return self.settings.build(self.seed, self.settings.read_format(self.config["format"]))

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
                    f"{path} is damaged or of another model ({type(error).__name__}). `fewstep resume {self.directory}` writes "
                    "it again; without the file, the best checkpoint is taken."
                ) from error
        return self.checkpoint(which)

    def checkpoint(self, which: str = "best") -> MetaParams:
        """The meta-parameters of the 'best' (on meta-validation tasks) or the 'last' checkpoint."""
        if several_candidates(self.settings):
            raise BadInput(
                f"{self.directory} has no checkpoint of its own yet: its candidates are not all trained. "
                f"`fewstep resume {self.directory}` goes on with them."
            )
        problem = self.problem(with_data=False)
        like = jax.eval_shape(lambda: maml.init(problem.outer_optimizer, problem.init(jax.random.key(0))))
        with Checkpoints(self.directory / "checkpoints", "read") as checkpoints:
            state, _ = checkpoints.restore(like, which)
        return jax.tree.map(jax.numpy.asarray, evaluated(state))

    def calibration(self) -> dict[str, Any]:
        """What was calibrated on meta-calibration tasks; of no tasks where the run was not trained to its end."""
        path = self.directory / CALIBRATION
        if not path.is_file():
            return {"tasks": 0, "trained_steps": None, "by_shots": []}
        try:
            found = read_json(path)
            require_calibration(found, self.problem(with_data=False))
            return found
        except (ValueError, OSError) as error:
            raise BadInput(f"{path} is damaged ({error}). `fewstep resume {self.directory}` writes it again.") from error

    def resume(self, quiet: bool = False, devices: int | None = None) -> Run | None:
        """Goes on from the last checkpoint to the planned number of meta-steps, bit for bit as if never stopped on as many
        devices, and on others but for rounding. Where the run was stopped before the first one, it begins again, which is the
        same. Of many processes, all call it, and the first alone has the run afterwards."""
        problem, mesh = self.problem(), training_mesh(devices)
        require_same(self.settings, self.seed)
        with only_one(self.directory):
            if several := several_candidates(self.settings):
                return train_candidates(several, self.directory, self.seed, self.config["preset"], quiet, problem, mesh)
            going_on = has_checkpoint(self.directory)
            loop.train(problem, self.directory, seed=self.seed, resume=going_on, quiet=quiet, mesh=mesh)
            return completed(self.directory, problem)

    def finish(self, problem: Problem) -> float:
        """Completes the best checkpoint: writes `parameters.npz`, from which the trained run is opened. Returns the error on
        meta-validation tasks."""
        params, error = complete(problem, self.checkpoint())
        write_arrays(self.directory / PARAMETERS, params)
        return error

    def calibrate(self, problem: Problem) -> Run:
        """Writes `calibration.json`."""
        write_json(self.directory / CALIBRATION, measure.calibration_of(problem, self.params()))
        return self

    def evaluate(
        self,
        steps: Sequence[Steps] | None = None,
        tasks: int = 1000,
        draws: int | None = None,
        which: str = "best",
        **changes: Any,
    ) -> dict[str, Any]:
        """The figures of `evaluation.json` on meta-test tasks; `changes` replace settings such as `shots`. Of images, what is
        chosen on meta-validation tasks (adaptation steps, temperature) is chosen anew where they differ from the run's own."""
        altered = replace(self, settings=replace(self.settings, **changes))
        problem, params = altered.problem(), self.params(which)
        steps = steps or problem.evaluation_steps
        anew = problem.images is not None and altered.settings != self.settings
        calibration = measure.calibration_of(problem, params) if anew else self.calibration()
        return self._named(measure.measure(problem, params, calibration, steps, tasks, draws))

    def write_evaluation(self, steps: Sequence[Steps] | None = None) -> dict[str, Any]:
        """Evaluates the best checkpoint; writes `evaluation.json` and `illustrations.json`, from which pictures are drawn."""
        problem, params, calibration = self.problem(), self.params(), self.calibration()
        steps = steps or problem.evaluation_steps
        result = self._named(measure.measure(problem, params, calibration, steps))
        result |= measure.measure_more(problem, params, calibration)
        write_json(self.directory / "evaluation.json", result)
        drawn = measure.drawings(problem, params, steps, calibration, measure.worst_tasks(result))
        write_json(self.directory / "illustrations.json", drawn)
        return result

    def _named(self, result: dict[str, Any]) -> dict[str, Any]:
        """`result` with what only the run knows: its preset, the shots and ways it was trained at."""
        trained = {"shots": self.settings.shot_range.shown}
        if hasattr(self.settings, "train_ways"):
            trained["ways"] = self.settings.train_ways or self.settings.ways
        result["protocol"] |= {f"trained_{name}": value for name, value in trained.items()}
        chosen = {"chosen_from": self.config["chosen_from"]} if "chosen_from" in self.config else {}
        return {"problem": result.pop("problem"), "preset": self.config["preset"], **result, **chosen}


def train(
    settings: Any,
    directory: str | Path,
    *,
    seed: int = 0,
    preset: str = "default",
    quiet: bool = False,
    announce: Callable[[Any], None] | None = None,
    devices: int | None = None,
) -> Any:
    """Meta-trains what `settings` describe into the new folder `directory`. A `Run`, or of a policy a `PolicyRun`; None in all
    of many processes but the first, which alone writes.

    The tasks of a meta-batch are split over so many `devices` of each process, all where it is None; a policy has no choice.
    Raises `BadInput` before anything is written where the settings, the data or the folder cannot be used.
    """
    if isinstance(settings, PolicySettings):
        return train_policy_run(settings, directory, seed=seed, preset=preset, quiet=quiet, announce=announce)
    problem, several, mesh = settings.build(seed), several_candidates(settings), training_mesh(devices)
    require_same(settings, seed)
    directory = Path(directory)
    if hosts.is_first():
        new_directory(directory)
        if announce:
            announce(problem)
        write_config(settings, problem, directory, seed, preset, mesh.size)
    with only_one(directory):
        try:
            if several:
                return train_candidates(several, directory, seed, preset, quiet, problem, mesh)
            loop.train(problem, directory, seed=seed, quiet=quiet, mesh=mesh)
        except BadInput:
            if hosts.is_first() and not any(has_checkpoint(path.parent) for path in directory.rglob("config.json")):
                shutil.rmtree(directory)  # refused when it was looked at as a whole, parameters of another name say
            raise
        return completed(directory, problem)


def completed(directory: Path, problem: Problem) -> Run | None:
    """What follows the last meta-step. The first of many processes does it alone; the others are done."""
    hosts.part()
    if not hosts.is_first():
        return None
    run = open_run(directory)
    require_finite(run.finish(problem))
    return run.calibrate(problem)


def require_finite(error: float) -> None:
    """Raises `RunFailed` where adaptation diverges on meta-validation tasks: there is nothing to calibrate or to draw."""
    if not math.isfinite(error):
        raise RunFailed(
            "trained, but the error on meta-validation tasks is not finite: adaptation diverges on some of them. Try a smaller "
            "--inner-rate or fewer --adaptation-steps. The checkpoints are kept."
        )


def several_candidates(settings: Any) -> dict[str, Any]:
    """The settings to choose among, by name, where there is a choice."""
    found = settings.candidates()
    return found if len(found) > 1 else {}


def train_candidates(
    several: dict[str, Any], directory: Path, seed: int, preset: str, quiet: bool, first: Problem, mesh: Mesh
) -> Run | None:
    """Trains each of the candidates, or goes on with it, and makes the best on meta-validation tasks the run in `directory`.

    `first` is the Problem of the first candidate. What is finished is not trained again. A candidate that stops being finite
    competes with its best checkpoint, where it has one; where none has, the last one's `RunFailed` is raised.
    """
    quiet = quiet or not hosts.is_first()
    errors, problems, failed = {}, {}, None
    for number, (name, settings) in enumerate(several.items()):
        folder = directory / candidates.FOLDER / name
        problems[name] = problem = settings.build(seed) if number else first
        if not quiet:
            print(f"candidate {name}:", file=sys.stderr, flush=True)
        try:
            train_candidate(settings, problem, folder, seed, preset, quiet, mesh)
        except hosts.LostProcess:
            raise
        except RunFailed as error:
            failed = error
            print(f"candidate {name} stopped: {error}", file=sys.stderr, flush=True)
    hosts.part()
    if not hosts.is_first():
        return None
    for name, problem in problems.items():
        folder = directory / candidates.FOLDER / name
        if has_checkpoint(folder):
            errors[name] = open_run(folder).finish(problem)
    if not errors and failed is not None:
        raise failed
    require_finite(min(errors.values(), key=lambda error: (not math.isfinite(error), error)))
    best = candidates.promote(directory, errors, preset)
    if not quiet:
        listed = ", ".join(f"{name} {error:.4g}" for name, error in errors.items())
        print(f"error on meta-validation tasks: {listed} -> {best}", file=sys.stderr, flush=True)
    return open_run(directory).calibrate(problems[best])


def train_candidate(settings: Any, problem: Problem, folder: Path, seed: int, preset: str, quiet: bool, mesh: Mesh) -> None:
    """Trains a candidate in `folder`, or goes on with what is there; what has its parameters is finished."""
    if hosts.from_first(np.asarray((folder / PARAMETERS).is_file())):
        return
    resume = found_by_first(folder)
    if not resume and hosts.is_first():
        shutil.rmtree(folder, ignore_errors=True)
        write_config(settings, problem, new_directory(folder), seed, preset, mesh.size)
    loop.train(problem, folder, seed=seed, resume=resume, quiet=quiet, mesh=mesh)


def open_run(directory: str | Path, env: str = "") -> Any:
    """Opens a run directory: a `Run`, or a `PolicyRun`.

    `env`, module:factory, puts a policy into that environment. One of `rl` needs it: the code that its folder names is not run
    otherwise. Raises `BadInput` where the folder is no run, or was written by settings that this version lacks."""
    directory = Path(directory)
    path = directory / "config.json"
    if not path.is_file():
        found = "a folder without config.json" if directory.is_dir() else "a file" if directory.exists() else "nothing there"
        raise BadInput(f"{directory}: expected the folder of a trained run, found {found}. `fewstep train` makes one.")
    try:
        config = read_json(path)
        require_a(config, Config, "the content")
    except (ValueError, OSError) as error:  # no JSON, or not even text
        raise BadInput(
            f"{path}: expected the settings of a run, but it is damaged ({error}). Restore it or train again."
        ) from error
    require_known_layout(config, path)
    settings = settings_of(config, path)
    if isinstance(settings, PolicySettings):
        return open_policy_run(directory, config, settings, env)
    if env:
        raise BadInput(f"--env is for policies; {directory} was trained on {config['problem']}.")
    run = Run(directory, config, settings)
    try:
        run.problem(with_data=False)
    except Exception as error:  # of damaged settings, whatever comes of them
        raise BadInput(
            f"{path}: expected the settings of a run, but it is damaged ({error}). Restore it or train again."
        ) from error
    return run
