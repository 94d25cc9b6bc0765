"""Training into a run directory, and going on there (floor 4)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fewstep import hosts
from fewstep.errors import BadInput
from fewstep.plain import read_json
from fewstep.problem import Problem
from fewstep.problems.policy_settings import PolicySettings
from fewstep.runs.candidates import FOLDER, train_candidates
from fewstep.runs.config import require_same, settings_of, several_candidates, write_config
from fewstep.runs.files import new_directory
from fewstep.runs.lock import only_one
from fewstep.runs.policy_run import PolicyRun, resume_policy_run, train_policy_run
from fewstep.runs.run import PARAMETERS, Run, open_run, require_finite
from fewstep.training import loop
from fewstep.training.checkpoint import has_checkpoint, last_meta_step
from fewstep.training.devices import training_mesh


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
    require_answers(problem)
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
        return completed(directory, problem, quiet)


def resume(run: Any, *, quiet: bool = False, devices: int | None = None) -> Any:
    """Goes on from the last checkpoint of a run to the planned number of meta-steps, bit for bit as if never stopped on as many
    devices, and on others but for rounding. Where the run was stopped before the first one, it begins again, which is the same.
    Returns the run, in all of many processes but the first None.

    Of many processes, all call it. Raises `BadInput` where its data has changed, its files are damaged, or another process
    trains in its folder.
    """
    if isinstance(run, PolicyRun):
        return resume_policy_run(run, quiet=quiet)
    problem, mesh = run.problem(), training_mesh(devices)
    require_same(run.settings, run.seed)
    with only_one(run.directory):
        going_on = has_checkpoint(run.directory)
        if (run.directory / PARAMETERS).is_file() and not going_on:  # its checkpoints were removed, to save room
            hosts.shutdown()
            return run.calibrate(problem, quiet) if hosts.is_first() else None
        if several := several_candidates(run.settings):
            return train_candidates(several, run.directory, run.seed, run.config["preset"], quiet, problem, mesh)
        loop.train(problem, run.directory, seed=run.seed, resume=going_on, quiet=quiet, mesh=mesh)
        return completed(run.directory, problem, quiet)


def require_answers(problem: Problem) -> None:
    """Raises `BadInput` where the user has to decide something before `problem` is trained."""
    if problem.questions:
        raise BadInput(" ".join(problem.questions))


def is_trained(directory: str | Path) -> bool:
    """Whether all meta-steps of the run in `directory` are made, by the names of its files: what follows is the first process's
    alone, which needs no others for it. Computes nothing, so that it may be asked before they are joined."""
    directory = Path(directory)
    if (directory / PARAMETERS).is_file():
        return True
    try:
        config = read_json(directory / "config.json")
        settings = settings_of(config, directory / "config.json")
        several = several_candidates(settings)
        parts = {directory / FOLDER / name: each for name, each in several.items()} or {directory: settings}
        return all(0 < each.meta_steps <= last_meta_step(part) for part, each in parts.items())
    except (BadInput, ValueError, OSError, AttributeError, TypeError):  # who opens it says what is wrong
        return False


def completed(directory: Path, problem: Problem, quiet: bool) -> Run | None:
    """What follows the last meta-step. The first of many processes does it alone; the others are done."""
    hosts.shutdown()
    if not hosts.is_first():
        return None
    run = open_run(directory)
    require_finite(run.finish(problem, quiet))
    return run.calibrate(problem, quiet)
