"""Training into a run directory, and going on there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from fewstep.application import Application, problem_of
from fewstep.errors import InputError
from fewstep.runs.candidates import FOLDER, train_candidates
from fewstep.runs.config import application_of, require_same, settings_of, several_candidates, write_config
from fewstep.runs.lock import run_lock
from fewstep.runs.run import PARAMETERS, Run, open_run, require_finite
from fewstep.storage.files import new_directory
from fewstep.storage.json import read_json
from fewstep.training import loop, multihost
from fewstep.training.checkpoint import has_checkpoint, last_meta_step


def train(
    settings: Any,
    directory: str | Path,
    *,
    seed: int = 0,
    preset: str = "default",
    quiet: bool = False,
    announce: Callable[[Any], None] | None = None,
    devices: int | None = None,
) -> Run | None:
    """Meta-trains what `settings` describe into the new folder `directory`. Returns the run; None in all of many processes but
    the first, which alone writes.

    The tasks of a meta-batch are split over `devices` of each process, by default as many as is best. Raises `InputError`
    before anything is written if the settings, the data or the folder cannot be used.
    """
    owner, name = problem_of(settings)
    require_processes(owner, name)
    env = owner.named_code(settings)
    problem, several = owner.build(settings, seed, trusted=env), several_candidates(owner, settings)
    mesh = problem.trainer().mesh_of(problem, devices)
    require_answers(problem)
    require_same(owner, settings, seed)
    directory = Path(directory)
    if multihost.is_first():
        new_directory(directory)
        if announce:
            announce(problem)
        write_config(settings, problem, directory, seed, preset, mesh.size)
    with run_lock(directory):
        try:
            if several:
                return train_candidates(several, directory, seed, preset, quiet, problem, mesh)
            loop.train(problem, directory, seed=seed, quiet=quiet, mesh=mesh)
        except InputError:
            if multihost.is_first() and not any(has_checkpoint(path.parent) for path in directory.rglob("config.json")):
                shutil.rmtree(directory)  # refused when it was looked at as a whole, parameters of another name say
            raise
        return completed(directory, problem, quiet, env)


def resume(run: Run, *, quiet: bool = False, devices: int | None = None) -> Run | None:
    """Goes on from the last checkpoint of a run to the planned number of meta-steps, bit for bit as if never stopped on as many
    devices, and on others but for rounding. If the run was stopped before the first one, it begins again, which is the same.
    Returns the run, in all of many processes but the first None.

    Of many processes, all call it. Raises `InputError` if its data has changed, its files are damaged, another environment was
    named than it began in, or another process trains in its folder.
    """
    owner = run.application
    require_processes(owner, run.config["problem"])
    problem = run.problem()
    mesh = problem.trainer().mesh_of(problem, devices)
    if run.in_other_env:
        raise InputError(f"{run.directory} goes on in the environment that it began in, got another one by --env.")
    require_same(owner, run.settings, run.seed)
    with run_lock(run.directory):
        resuming = has_checkpoint(run.directory)
        if (run.directory / PARAMETERS).is_file() and not resuming:  # its checkpoints were removed, to save room
            multihost.shutdown()
            return run.calibrate(problem, quiet) if multihost.is_first() else None
        if several := several_candidates(owner, run.settings):
            return train_candidates(several, run.directory, run.seed, run.config["preset"], quiet, problem, mesh)
        loop.train(problem, run.directory, seed=run.seed, resume=resuming, quiet=quiet, mesh=mesh)
        return completed(run.directory, problem, quiet, run.env)


def require_processes(owner: Application, name: str) -> None:
    """Raises `InputError` if several processes are to train together what they cannot."""
    if "processes" not in owner.capabilities and jax.process_count() > 1:
        raise InputError(f"--processes splits the tasks of a meta-batch, and {name} knows no way to.")


def require_answers(problem: Any) -> None:
    """Raises `InputError` if the user has to decide something before `problem` is trained."""
    if problem.questions:
        raise InputError(" ".join(problem.questions))


def is_trained(directory: str | Path) -> bool:
    """Whether all meta-steps of the run in `directory` are made, by the names of its files: what follows is the first process's
    alone, which needs no others for it. Computes nothing, so that it may be asked before they are joined."""
    directory = Path(directory)
    if (directory / PARAMETERS).is_file():
        return True
    try:
        path = directory / "config.json"
        config = read_json(path)
        settings = settings_of(config, path)
        several = several_candidates(application_of(config, path), settings)
        parts = {directory / FOLDER / name: each for name, each in several.items()} or {directory: settings}
        return all(0 < each.meta_steps <= last_meta_step(part) for part, each in parts.items())
    except (InputError, ValueError, OSError, AttributeError, TypeError):  # who opens it says what is wrong
        return False


def completed(directory: Path, problem: Any, quiet: bool, env: str = "") -> Run | None:
    """What follows the last meta-step. The first of many processes does it alone; the others are done."""
    multihost.shutdown()
    if not multihost.is_first():
        return None
    run = open_run(directory, env)
    if "calibration" not in run.application.capabilities:
        return run
    require_finite(run.finish(problem, quiet))
    return run.calibrate(problem, quiet)
