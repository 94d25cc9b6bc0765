"""`config.json` of a run: written before the training, enough to build the Problem again without its data."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fewstep.application import LAYOUT, Application, application, package_of, problem_of
from fewstep.errors import InputError
from fewstep.recipe.saved import settings_of as settings_of
from fewstep.storage.files import absolute, fingerprint, fingerprints, is_there, write_json
from fewstep.storage.json import is_valid
from fewstep.training import multihost
from fewstep.version import __version__


def write_config(
    settings: Any, problem: Any, directory: Path, seed: int, preset: str, devices: int | None = None
) -> dict[str, Any]:
    """Writes `config.json`, all that is needed to build the Problem again and what made the run, and returns what it holds.
    The run is made on so many `devices`, by default on all."""
    owner, name = problem_of(settings)
    sources = owner.sources(settings)
    config = {
        "layout": LAYOUT,
        "application": owner.name,
        "package": package_of(owner.name),
        "problem": name,
        "preset": preset,
        "settings": asdict(absolute(settings, sources)),
        "seed": seed,
        "device": f"{devices or jax.device_count()} x {jax.local_devices()[0].device_kind}",
        **owner.record(problem),
        "sha256": fingerprints(sources),
        "versions": {"fewstep": __version__, "jax": jax.__version__, "python": platform.python_version()},
    }
    write_json(directory / "config.json", config)
    return config


def application_of(config: Any, source: Path) -> Application:
    """The application of the run whose `config.json`, at `source`, holds this. Raises `InputError` if the run is of another
    layout, or of an application that is not installed."""
    layout = config.get("layout") if isinstance(config, dict) else None
    if layout != LAYOUT:
        versions = config.get("versions") if isinstance(config, dict) else None
        wrote = versions.get("fewstep", "") if isinstance(versions, dict) else ""
        if isinstance(layout, int) and layout > LAYOUT:
            way = f"It takes fewstep {wrote or 'of a later version'}, which wrote it, or a later one; this is {__version__}."
        else:
            way = "An earlier version wrote it. Train anew: fewstep train PROBLEM."
        raise InputError(
            f"{source}: expected a run directory of layout {LAYOUT}, got {layout or 'one without a number'}. {way}"
        )
    try:
        return application(str(config.get("application")), str(config.get("package") or ""))
    except InputError as error:
        raise InputError(f"{source.parent}: {error}") from error


def require_same_sources(
    owner: Application, settings: Any, config: dict[str, Any], directory: Path, names: Collection[str] | None = None
) -> None:
    """Raises `InputError` if a file from which the problem of a run is built is gone, or is another one now. By default all of
    them are looked at, else those of the settings `names`."""
    known = config.get("sha256", {})
    if not is_valid(known, dict[str, str]):
        raise InputError(
            f"{directory / 'config.json'}: expected digests of files, but it is damaged. Restore it or train again."
        )
    for name, source in owner.sources(settings).items():
        if not source.hashed or (names is not None and name not in names):
            continue
        if not is_there(source.path):
            raise InputError(
                f"{directory}: its {name} is not at {source.path} any more. Put it back, or write where it is now into "
                f'{directory / "config.json"} ("{name}").'
            )
        if fingerprint(source.path) != known.get(name):
            raise InputError(
                f"{directory}: the {name} has changed since this run was trained ({source.path}). Give the original file, or "
                "train again."
            )


def require_same(owner: Application, settings: Any, seed: int) -> None:
    """Raises `InputError` in all processes that train together if these were not started for the same training."""
    if jax.process_count() == 1:
        return
    sources = owner.sources(settings)
    places = {name: None for name in sources}  # hosts may have the same data in different folders
    about = asdict(replace(settings, **places)), seed, fingerprints(sources), __version__, jax.__version__
    digest = hashlib.sha256(json.dumps(about, default=str).encode()).hexdigest()
    each = multihost.all_gather([int(digest[:8], 16)])[:, 0]
    if (others := np.flatnonzero(each != each[0])).size:
        raise InputError(
            "the processes of one training were started for different ones. Expected the same settings, seed, data and "
            f"versions in all; process {', '.join(map(str, others))} differs from process 0."
        )


def several_candidates(owner: Application, settings: Any) -> dict[str, Any]:
    """The settings to choose among, by name, if there is a choice."""
    found = dict(owner.candidates(settings))
    return found if len(found) > 1 else {}
