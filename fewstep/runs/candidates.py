"""Choosing between trained candidates: each is a run of its own under RUN/candidates; the best becomes RUN itself."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from fewstep.application import problem_of
from fewstep.errors import TrainingError
from fewstep.runs.config import write_config
from fewstep.runs.run import PARAMETERS, Run, open_run, require_finite
from fewstep.storage.files import new_directory, write_json
from fewstep.training import loop, multihost
from fewstep.training.checkpoint import has_checkpoint
from fewstep.training.metrics import EVENTS, TABLE
from fewstep.training.multihost import first_has_checkpoint

FOLDER = "candidates"
MOVED = ("metrics.jsonl", TABLE, f"{EVENTS}*", "checkpoints", "parameters.npz")


def promote(directory: Path, errors: dict[str, float], preset: str) -> str:
    """Makes the candidate with the least error on meta-validation tasks the run in `directory`; returns its name.

    The config is written last: until then the folder still says that a choice is to be made, and `resume` makes it again.
    """
    best = min(errors, key=lambda name: (not math.isfinite(errors[name]), errors[name]))
    source = directory / FOLDER / best
    for path in (path for name in MOVED for path in source.glob(name)):
        if path.is_dir():
            shutil.copytree(path, directory / path.name, dirs_exist_ok=True)
        else:
            shutil.copy2(path, directory / path.name)
    config: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    chosen_from = {name: error if math.isfinite(error) else None for name, error in errors.items()}
    write_json(directory / "config.json", {**config, "preset": preset, "chosen_from": chosen_from})
    shutil.rmtree(source)
    return best


def train_candidates(
    several: dict[str, Any], directory: Path, seed: int, preset: str, quiet: bool, first: Any, mesh: Mesh
) -> Run | None:
    """Trains each of the candidates, or goes on with it, and makes the best on meta-validation tasks the run in `directory`.

    `first` is the Problem of the first candidate. What is finished is not trained again. A candidate that stops being finite
    competes with its best checkpoint, where it has one; where none has, the last one's `TrainingError` is raised.
    """
    quiet = quiet or not multihost.is_first()
    errors, problems, failed = {}, {}, None
    for number, (name, settings) in enumerate(several.items()):
        folder = directory / FOLDER / name
        problems[name] = problem = problem_of(settings)[0].build(settings, seed) if number else first
        if not quiet:
            print(f"candidate {name}:", file=sys.stderr, flush=True)
        try:
            train_candidate(settings, problem, folder, seed, preset, quiet, mesh)
        except multihost.LostProcess:
            raise
        except TrainingError as error:
            failed = error
            print(f"candidate {name} stopped: {error}", file=sys.stderr, flush=True)
    multihost.shutdown()
    if not multihost.is_first():
        return None
    for name, problem in problems.items():
        folder = directory / FOLDER / name
        if has_checkpoint(folder):
            errors[name] = open_run(folder).finish(problem, quiet)
    if not errors and failed is not None:
        raise failed
    require_finite(min(errors.values(), key=lambda error: (not math.isfinite(error), error)))
    best = promote(directory, errors, preset)
    if not quiet:
        listed = ", ".join(f"{name} {error:.4g}" for name, error in errors.items())
        metric = next(iter(first.metrics)).replace("_", " ")
        print(f"{metric} of the finished models on meta-validation tasks: {listed} -> {best}", file=sys.stderr, flush=True)
    return open_run(directory).calibrate(problems[best], quiet)


def train_candidate(settings: Any, problem: Any, folder: Path, seed: int, preset: str, quiet: bool, mesh: Mesh) -> None:
    """Trains a candidate in `folder`, or goes on with what is there; what has its parameters is finished."""
    if multihost.broadcast(np.asarray((folder / PARAMETERS).is_file())):
        return
    resume = first_has_checkpoint(folder)
    if not resume and multihost.is_first():
        shutil.rmtree(folder, ignore_errors=True)
        write_config(settings, problem, new_directory(folder), seed, preset, mesh.size)
    loop.train(problem, folder, seed=seed, resume=resume, quiet=quiet, mesh=mesh)
