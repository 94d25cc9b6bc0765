"""`config.json` of a run (floor 4): written before the training, enough to build the Problem again without its data."""

from __future__ import annotations

import platform
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import jax

from fewstep.problem import Problem
from fewstep.problems.saved import settings_of as settings_of
from fewstep.runs.files import absolute_data, fingerprint, write_json
from fewstep.version import __version__


def write_config(settings: Any, problem: Problem, directory: Path, seed: int, preset: str, devices: int | None = None) -> None:
    """`config.json`: all that is needed to build the Problem again, and what made the run, on so many `devices` or all."""
    classes = {"classes": problem.images.parts} if problem.images else {}
    about = {"format": problem.format.to_json(), "tasks": names_of_tasks(problem), **classes}
    about["device"] = f"{devices or jax.device_count()} x {jax.devices()[0].device_kind}"
    write_settings(settings, problem.name, directory, seed, preset, about)


def write_settings(
    settings: Any, name: str, directory: Path, seed: int, preset: str, about: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Writes `config.json`, with what else there is to say `about` the problem, and returns what it holds."""
    config = {
        "problem": name,
        "preset": preset,
        "settings": asdict(absolute_data(settings)),
        "seed": seed,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        **(about or {}),
        "data_sha256": fingerprint(settings.data) if getattr(settings, "data", None) else None,
        "versions": {"fewstep": __version__, "jax": jax.__version__, "python": platform.python_version()},
    }
    write_json(directory / "config.json", config)
    return config


def names_of_tasks(problem: Problem) -> dict[str, list[str]] | None:
    """Which tasks are in which split, where tasks have names."""
    assert problem.splits is not None
    families = {field.name: getattr(problem.splits, field.name) for field in fields(problem.splits) if field.name != "left_out"}
    return {split: list(family.names) for split, family in families.items() if family and family.names} or None
