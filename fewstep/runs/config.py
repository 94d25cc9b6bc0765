"""`config.json` of a run (floor 4): written before the training, enough to build the Problem again without its data."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fewstep import hosts
from fewstep.errors import BadInput
from fewstep.plain import is_valid
from fewstep.problem import Problem
from fewstep.problems.policy_settings import PolicySettings
from fewstep.problems.saved import settings_of as settings_of
from fewstep.runs.files import DATA, absolute_data, fingerprint, named_files, write_json
from fewstep.version import __version__

LAYOUT = 3
"""The layout of a run directory. Directories of another layout are refused."""


def write_config(settings: Any, problem: Problem, directory: Path, seed: int, preset: str, devices: int | None = None) -> None:
    """`config.json`: all that is needed to build the Problem again, and what made the run, on so many `devices` or all."""
    classes = {"classes": problem.images.parts} if problem.images else {}
    about = {"format": problem.format.to_json(), "tasks": names_of_tasks(problem), **classes}
    about["device"] = f"{devices or jax.device_count()} x {jax.local_devices()[0].device_kind}"
    write_settings(settings, problem.name, directory, seed, preset, about)


def write_settings(
    settings: Any, name: str, directory: Path, seed: int, preset: str, about: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Writes `config.json`, with what else there is to say `about` the problem, and returns what it holds."""
    config = {
        "layout": LAYOUT,
        "problem": name,
        "preset": preset,
        "settings": asdict(absolute_data(settings)),
        "seed": seed,
        "device": f"{jax.device_count()} x {jax.local_devices()[0].device_kind}",
        **(about or {}),
        "data_sha256": fingerprint(settings.data) if getattr(settings, "data", None) else None,
        "files_sha256": {name: fingerprint(path) for name, path in named_files(settings).items()},
        "versions": {"fewstep": __version__, "jax": jax.__version__, "python": platform.python_version()},
    }
    write_json(directory / "config.json", config)
    return config


def require_same_files(settings: Any, config: dict[str, Any], directory: Path) -> None:
    """Raises `BadInput` where a file that stands for the robot of a run, or for its faults, is gone or another one now."""
    files = config.get("files_sha256", {})
    if not is_valid(files, dict[str, str]):
        raise BadInput(f"{directory / 'config.json'}: expected digests of files, but it is damaged. Restore it or train again.")
    for name, known in files.items():
        path = Path(getattr(settings, name, name))
        if not path.is_file():
            raise BadInput(f"{directory}: the file of its {name} is gone ({path}). Put it back, or train again.")
        if fingerprint(path) != known:
            raise BadInput(
                f"{directory}: the file of its {name} has changed since this run was trained ({path}). Give the original file, "
                "or train again."
            )


def require_known_layout(config: Any, source: Path) -> None:
    """Raises `BadInput` if a version of fewstep with another layout of run directories wrote this `config.json`."""
    layout = config.get("layout", 1) if isinstance(config, dict) else LAYOUT
    if isinstance(layout, int) and layout != LAYOUT:
        wrote = (config.get("versions") or {}).get("fewstep", "a later version")
        later = f"It takes fewstep {wrote}, which wrote it, or a later one; this is {__version__}."
        earlier = "An earlier version of fewstep wrote it. Train the run again."
        raise BadInput(
            f"{source}: expected a run directory of layout {LAYOUT}, got {layout}. {later if layout > LAYOUT else earlier}"
        )


def require_same(settings: Any, seed: int) -> None:
    """Raises `BadInput` in all processes that train together where these were not started for the same training."""
    if jax.process_count() == 1:
        return
    data = getattr(settings, "data", None)
    places = {name: None for name in DATA if hasattr(settings, name)}  # hosts may have the same data in different folders
    about = asdict(replace(settings, **places)), seed, data and fingerprint(data), __version__, jax.__version__
    digest = hashlib.sha256(json.dumps(about, default=str).encode()).hexdigest()
    each = hosts.all_gather([int(digest[:8], 16)])[:, 0]
    if (others := np.flatnonzero(each != each[0])).size:
        raise BadInput(
            "the processes of one training were started for different ones. Expected the same settings, seed, data and "
            f"versions in all; process {', '.join(map(str, others))} differs from process 0."
        )


def names_of_tasks(problem: Problem) -> dict[str, list[str]] | None:
    """Which tasks are in which split, where tasks have names."""
    assert problem.splits is not None
    families = {field.name: getattr(problem.splits, field.name) for field in fields(problem.splits) if field.name != "left_out"}
    return {split: list(family.names) for split, family in families.items() if family and family.names} or None


def several_candidates(settings: Any) -> dict[str, Any]:
    """The settings to choose among, by name, where there is a choice."""
    found = {} if isinstance(settings, PolicySettings) else settings.candidates()
    return found if len(found) > 1 else {}
