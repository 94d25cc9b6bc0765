"""A run as a value: the folder, its settings, and what can be done with it, whatever its application."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

import jax

from fewstep.application import AdaptedModel, Application, EvaluationOptions, Saved, applications
from fewstep.core.types import MetaParams
from fewstep.errors import InputError, NotTrusted, TrainingError
from fewstep.runs.config import application_of, require_same_sources, settings_of, several_candidates
from fewstep.runs.lock import PARAMETERS as PARAMETERS
from fewstep.runs.lock import activity, unfinished
from fewstep.storage.arrays import read_arrays, write_arrays
from fewstep.storage.files import write_json
from fewstep.storage.json import read_json
from fewstep.supervised.findings import bad_findings
from fewstep.supervised.fit import Steps
from fewstep.supervised.training import finalize
from fewstep.training.checkpoint import Checkpoints, has_checkpoint
from fewstep.training.progress import working
from fewstep.variants import evaluated

CALIBRATION, EVALUATION, ILLUSTRATIONS = "calibration.json", "evaluation.json", "illustrations.json"


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
    application: Application
    env: str = ""
    """`module:factory` of an environment that the user has named: its code may run"""
    _built: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def in_other_env(self) -> bool:
        """Whether it acts in another environment than it was trained in."""
        return bool(self.env) and self.env != self.application.named_code(self.settings)

    def problem(self, with_data: bool = True) -> Any:
        """The Problem of this run. Without data, only what needs none: the model, the learner, the table's format. Raises
        `NotTrusted` if that would run code that only its folder names."""
        if with_data and "data" in self.application.capabilities:
            require_same_sources(self.application, self.settings, self.config, self.directory)
            return self.application.build(self.settings, self.seed, trusted=self.env)
        if not self._built:  # it may be a simulator, or the code of another
            saved = Saved(self.directory, self.config)
            self._built.append(self.application.build(self.settings, self.seed, saved, self.env))
        return self._built[0]

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
                raise InputError(
                    f"{path} is damaged or of another model ({type(error).__name__}). `fewstep resume {self.directory}` writes "
                    "it again; without the file, the best checkpoint is taken."
                ) from error
        return self.checkpoint(which)

    def checkpoint(self, which: str = "best") -> MetaParams:
        """The meta-parameters of the 'best' (on meta-validation tasks) or the 'last' checkpoint."""
        return self._checkpoint(which)[0]

    def record(self, which: str = "best") -> dict[str, Any]:
        """What was recorded with the 'best' or the 'last' checkpoint."""
        return self._checkpoint(which)[1]

    def _checkpoint(self, which: str) -> tuple[MetaParams, dict[str, Any]]:
        problem = self.problem(with_data=False)
        now = activity(self.directory)
        if several_candidates(self.application, self.settings):
            then = f"{now}; wait until it ends." if now else f"`fewstep resume {self.directory}` goes on with them."
            raise InputError(f"{self.directory} has no checkpoint of its own yet: its candidates are not all trained. {then}")
        if now and not has_checkpoint(self.directory):
            raise InputError(f"{self.directory} holds no checkpoint yet: {now}. Wait until it has made one.")
        like = jax.eval_shape(lambda: problem.initial_state(problem.init(jax.random.key(0))))
        with Checkpoints(self.directory / "checkpoints", "read") as checkpoints:
            state, record = checkpoints.restore(like, which)
        return jax.tree.map(jax.numpy.asarray, evaluated(state)), record

    def calibration(self) -> dict[str, Any]:
        """What was calibrated on meta-calibration tasks; of no tasks, and why, if the run is not calibrated (yet). Raises
        `InputError` if models of this application are not calibrated."""
        if "calibration" not in self.application.capabilities:
            raise InputError(
                f"{self.directory}: expected a run whose model predicts, got one that adapts by acting "
                f"({self.config['problem']}). `fewstep adapt --help` tells how."
            )
        path = self.directory / CALIBRATION
        if not path.is_file():
            return {"tasks": 0, "trained_steps": None, "by_shots": [], "unfinished": unfinished(self.directory)}
        try:
            found = read_json(path)
            self.application.check_calibration(found, self.problem(with_data=False))
            return found
        except (ValueError, OSError) as error:
            raise InputError(f"{path} is damaged ({error}). `fewstep resume {self.directory}` writes it again.") from error

    def finish(self, problem: Any, quiet: bool = False) -> float:
        """Completes the best checkpoint: writes `parameters.npz`, from which the trained run is opened. Returns the error of
        the finished model on meta-validation tasks."""
        with working("finishing the best checkpoint on meta-validation tasks", quiet):
            params, error = finalize(problem, self.checkpoint())
            write_arrays(self.directory / PARAMETERS, params)
        return error

    def calibrate(self, problem: Any, quiet: bool = False) -> Run:
        """Writes `calibration.json`, and what else the application needs to calibrate adapted models."""
        with working("calibrating", quiet):
            found = self.application.calibrate(problem, self.params(), self.directory)
            write_json(self.directory / CALIBRATION, found)
        return self

    def adapt(self, support: Any = None, **options: Any) -> AdaptedModel:
        """Adapts the trained model to `support`: what that is, and which options there are, the application says."""
        return self.application.adapt(self, support, **options)

    def evaluate(
        self,
        steps: Sequence[Steps] | None = None,
        tasks: int | None = None,
        draws: int | None = None,
        which: str = "best",
        **changes: Any,
    ) -> dict[str, Any]:
        """The figures of `evaluation.json` on meta-test tasks; `changes` replace settings such as `shots`. Raises `InputError`
        for options that the application does not honor."""
        options = EvaluationOptions(tuple(steps) if steps else None, tasks, draws, changes)
        self.check_options(options)
        altered = replace(self, settings=replace(self.settings, **changes)) if changes else self
        return self._evaluated(altered.problem(), self.params(which), options, which)

    def check_options(self, options: EvaluationOptions) -> None:
        """Raises `InputError` for the first of the options of an evaluation that the application does not honor."""
        setting_of = self.application.evaluation
        given = {
            name: name for name, value in vars(options).items() if name in ("steps", "tasks", "draws") and value is not None
        }
        given |= {next((o for o, setting in setting_of.items() if setting == name), name): name for name in options.changes}
        for option in given:
            if option not in setting_of:
                users = [
                    each for each in applications() if option in each.evaluation or given[option] in each.evaluation.values()
                ]
                whose = ", ".join(name for each in users for name in each.problems) or "no problem"
                raise InputError(f"--{option} is for {whose}; {self.directory} was trained on {self.config['problem']}.")

    def write_evaluation(self, steps: Sequence[Steps] | None = None, quiet: bool = False) -> dict[str, Any]:
        """Evaluates the best checkpoint; writes `evaluation.json` and `illustrations.json`, from which pictures are drawn."""
        problem, params = self.problem(), self.params()
        options = EvaluationOptions(tuple(steps) if steps else None, full=True, quiet=quiet)
        result = self._evaluated(problem, params, options, "best")
        write_json(self.directory / EVALUATION, result)
        with working("computing what pictures show", quiet):
            shown = self.application.illustrate(problem, params, self._calibration(), result)
            write_json(self.directory / ILLUSTRATIONS, shown)
        return result

    def bad_findings(self) -> tuple[str, ...]:
        """What its evaluation says against it, in words; nothing if it is not evaluated."""
        return bad_findings_in(self.directory)

    def _evaluated(self, problem: Any, params: MetaParams, options: EvaluationOptions, which: str) -> dict[str, Any]:
        options = replace(options, trained=self.settings, record=lambda: self.record(which))
        result = self.application.evaluate(problem, params, self._calibration(), options)
        chosen = {"chosen_from": self.config["chosen_from"]} if "chosen_from" in self.config else {}
        return {"problem": result.pop("problem"), "preset": self.config["preset"], **result, **chosen}

    def _calibration(self) -> dict[str, Any]:
        return self.calibration() if "calibration" in self.application.capabilities else {}


def bad_findings_in(directory: Path) -> tuple[str, ...]:
    """What the `evaluation.json` of a run says against it; nothing if there is none, or it is damaged."""
    try:
        return bad_findings(read_json(directory / EVALUATION))
    except (ValueError, OSError):
        return ()


def require_finite(error: float) -> None:
    """Raises `TrainingError` if adaptation diverges on meta-validation tasks: there is nothing to calibrate or to draw."""
    if not math.isfinite(error):
        raise TrainingError(
            "trained, but the error on meta-validation tasks is not finite: adaptation diverges on some of them. Try a smaller "
            "--inner-rate or fewer --adaptation-steps. The checkpoints are kept."
        )


def read_config(directory: str | Path) -> tuple[dict[str, Any], Application]:
    """(the content of a run's `config.json`, its application). Raises `InputError` if the folder is no run, is damaged or of
    another layout, or its application is not installed."""
    directory = Path(directory)
    path = directory / "config.json"
    if not path.is_file():
        if has_checkpoint(directory):
            raise InputError(
                f"{directory}: expected config.json beside its checkpoints, found none. Restore it from a copy, or train again."
            )
        found = "a folder without config.json" if directory.is_dir() else "a file" if directory.exists() else "nothing there"
        raise InputError(f"{directory}: expected the folder of a trained run, found {found}. `fewstep train` makes one.")
    try:
        config = read_json(path, Config)
    except (ValueError, OSError) as error:  # no JSON, or not even text
        raise InputError(
            f"{path}: expected the settings of a run, but it is damaged ({error}). Restore it or train again."
        ) from error
    return config, application_of(config, path)


def open_run(directory: str | Path, env: str = "") -> Run:
    """Opens a run directory.

    `env`, module:factory, names the environment in which a model acts, if it acts in one. A run that was trained in a user's
    own needs it: the code that its folder names is not run otherwise. Raises `InputError` if the folder is no run, or was
    written by settings that this version lacks."""
    directory = Path(directory)
    config, owner = read_config(directory)
    path = directory / "config.json"
    settings = settings_of(config, path)
    if env and "environments" not in owner.capabilities:
        raise InputError(
            f"--env names an environment to act in; {directory} was trained on {config['problem']}, which has none."
        )
    run = Run(directory, config, settings, owner, env)
    try:
        run.problem(with_data=False)
    except NotTrusted:
        pass  # it is raised when the problem is needed
    except Exception as error:  # of damaged settings, whatever comes of them
        if "environments" in owner.capabilities:  # or of a user's environment
            raise
        raise InputError(
            f"{path}: expected the settings of a run, but it is damaged ({error}). Restore it or train again."
        ) from error
    return run
