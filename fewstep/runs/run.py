"""A run as a value (floor 4): the folder, its settings, and what can be done with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import jax

from fewstep import maml
from fewstep.arrays import read_arrays, write_arrays
from fewstep.errors import BadInput, RunFailed
from fewstep.plain import read_json
from fewstep.problem import Problem
from fewstep.problems.policy_settings import PolicySettings
from fewstep.runs import measure
from fewstep.runs.config import require_known_layout, require_same_files, settings_of, several_candidates
from fewstep.runs.files import fingerprint, is_there, write_json
from fewstep.runs.policy_run import open_policy_run
from fewstep.runs.state import PARAMETERS as PARAMETERS
from fewstep.runs.state import going_on, unfinished
from fewstep.training.calibration_file import require_calibration
from fewstep.training.checkpoint import Checkpoints, has_checkpoint
from fewstep.training.complete import complete
from fewstep.training.findings import bad_findings
from fewstep.training.fit import Steps
from fewstep.training.image_sets import write_photos
from fewstep.training.log import working
from fewstep.types import MetaParams
from fewstep.variants import evaluated

CALIBRATION, EVALUATION = "calibration.json", "evaluation.json"


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
            if data and not is_there(data):
                raise BadInput(
                    f"{self.directory}: its data is not at {data} any more. Put it back, or write where it is now into "
                    f'{self.directory / "config.json"} ("data").'
                )
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
        now = going_on(self.directory)
        if several_candidates(self.settings):
            then = f"{now}; wait until it ends." if now else f"`fewstep resume {self.directory}` goes on with them."
            raise BadInput(f"{self.directory} has no checkpoint of its own yet: its candidates are not all trained. {then}")
        if now and not has_checkpoint(self.directory):
            raise BadInput(f"{self.directory} holds no checkpoint yet: {now}. Wait until it has made one.")
        problem = self.problem(with_data=False)
        like = jax.eval_shape(lambda: maml.init(problem.outer_optimizer, problem.init(jax.random.key(0))))
        with Checkpoints(self.directory / "checkpoints", "read") as checkpoints:
            state, _ = checkpoints.restore(like, which)
        return jax.tree.map(jax.numpy.asarray, evaluated(state))

    def calibration(self) -> dict[str, Any]:
        """What was calibrated on meta-calibration tasks; of no tasks, and why, if the run is not calibrated (yet)."""
        path = self.directory / CALIBRATION
        if not path.is_file():
            return {"tasks": 0, "trained_steps": None, "by_shots": [], "unfinished": unfinished(self.directory)}
        try:
            found = read_json(path)
            require_calibration(found, self.problem(with_data=False))
            return found
        except (ValueError, OSError) as error:
            raise BadInput(f"{path} is damaged ({error}). `fewstep resume {self.directory}` writes it again.") from error

    def finish(self, problem: Problem, quiet: bool = False) -> float:
        """Completes the best checkpoint: writes `parameters.npz`, from which the trained run is opened. Returns the error of
        the finished model on meta-validation tasks."""
        with working("finishing the best checkpoint on meta-validation tasks", quiet):
            params, error = complete(problem, self.checkpoint())
            write_arrays(self.directory / PARAMETERS, params)
        return error

    def calibrate(self, problem: Problem, quiet: bool = False) -> Run:
        """Writes `calibration.json`, and of images the photos that calibrate prediction sets."""
        with working("calibrating", quiet):
            if problem.images is not None:
                write_photos(self.directory, problem.images.calibration)
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

    def write_evaluation(self, steps: Sequence[Steps] | None = None, quiet: bool = False) -> dict[str, Any]:
        """Evaluates the best checkpoint; writes `evaluation.json` and `illustrations.json`, from which pictures are drawn."""
        problem, params, calibration = self.problem(), self.params(), self.calibration()
        steps = steps or problem.evaluation_steps
        with working("evaluating on unseen tasks, beside the cheapest classics", quiet):
            result = self._named(measure.measure(problem, params, calibration, steps, beside=True))
        with working("measuring by number of support examples", quiet or not problem.shot_counts):
            result |= measure.measure_more(problem, params, calibration)
        write_json(self.directory / EVALUATION, result)
        with working("computing what pictures show", quiet):
            drawn = measure.drawings(problem, params, steps, calibration, measure.worst_tasks(result))
            write_json(self.directory / "illustrations.json", drawn)
        return result

    def bad_findings(self) -> tuple[str, ...]:
        """What its evaluation says against it, in words; nothing where it is not evaluated."""
        return bad_findings_in(self.directory)

    def _named(self, result: dict[str, Any]) -> dict[str, Any]:
        """`result` with what only the run knows: its preset, the shots and ways it was trained at."""
        trained = {"shots": self.settings.shot_range.shown}
        if hasattr(self.settings, "train_ways"):
            trained["ways"] = self.settings.train_ways or self.settings.ways
        result["protocol"] |= {f"trained_{name}": value for name, value in trained.items()}
        chosen = {"chosen_from": self.config["chosen_from"]} if "chosen_from" in self.config else {}
        return {"problem": result.pop("problem"), "preset": self.config["preset"], **result, **chosen}


def bad_findings_in(directory: Path) -> tuple[str, ...]:
    """What the `evaluation.json` of a run says against it; nothing where there is none, or it is damaged."""
    try:
        return bad_findings(read_json(directory / EVALUATION))
    except (ValueError, OSError):
        return ()


def require_finite(error: float) -> None:
    """Raises `RunFailed` where adaptation diverges on meta-validation tasks: there is nothing to calibrate or to draw."""
    if not math.isfinite(error):
        raise RunFailed(
            "trained, but the error on meta-validation tasks is not finite: adaptation diverges on some of them. Try a smaller "
            "--inner-rate or fewer --adaptation-steps. The checkpoints are kept."
        )


def open_run(directory: str | Path, env: str = "") -> Any:
    """Opens a run directory: a `Run`, or a `PolicyRun`.

    `env`, module:factory, puts a policy into that environment. One of `rl` needs it: the code that its folder names is not run
    otherwise. Raises `BadInput` where the folder is no run, or was written by settings that this version lacks."""
    directory = Path(directory)
    path = directory / "config.json"
    if not path.is_file():
        if has_checkpoint(directory):
            raise BadInput(
                f"{directory}: expected config.json beside its checkpoints, found none. Restore it from a copy, or train again."
            )
        found = "a folder without config.json" if directory.is_dir() else "a file" if directory.exists() else "nothing there"
        raise BadInput(f"{directory}: expected the folder of a trained run, found {found}. `fewstep train` makes one.")
    try:
        config = read_json(path, Config)
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
