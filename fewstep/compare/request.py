"""The request of a comparison, stored in its folder: the same request resumes it, another one is refused."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

from fewstep.application import problem_of
from fewstep.compare.runner import read_stored
from fewstep.errors import InputError
from fewstep.storage.files import absolute, fingerprint, fingerprints
from fewstep.storage.json import read_json


class Request(TypedDict):
    """What `comparison.json` holds."""

    application: str
    problem: str
    settings: dict[str, Any]
    budget_seconds: float
    seeds: int
    margin: float | None
    seed: int
    command: str


class Spent(TypedDict):
    """What `state.json` holds."""

    spent: float


REQUEST, STATE = "comparison.json", "state.json"
FREE = ("command", "budget_seconds")
"""what may be another when a comparison goes on"""


LEAST_BUDGET = 30.0
"""seconds: with less there is no time to read the data, compile, fit two methods and write the page"""


def check(budget: float, seeds: int, margin: float | None) -> None:
    """Raises `InputError` for the first of these that is out of range."""
    if not 0 < budget < math.inf:
        raise InputError(f"--budget should be a positive time such as 90s, 10m or 2h, got {budget}.")
    require_budget(budget, LEAST_BUDGET)
    if seeds < 1:
        raise InputError(f"--seeds should be at least 1, got {seeds}.")
    if margin is not None and not 0 < margin < math.inf:
        raise InputError(f"--margin should be a positive number in the units of the error, got {margin}.")


def require_budget(budget: float, least: float) -> None:
    """Raises `InputError` for a budget of less than so many seconds."""
    if budget < least:
        raise InputError(
            f"--budget should be at least {least:.0f}s here, got {budget:g}s: reading, compiling and fitting two methods takes "
            "that long."
        )


def make_request(
    settings: Any, budget: float, seeds: int, margin: float | None, seed: int, command: str, embeddings: str = ""
) -> dict[str, Any]:
    """What `comparison.json` holds: all that makes two comparisons the same one."""
    owner, name = problem_of(settings)
    sources = owner.sources(settings)
    brought = {}
    if embeddings:
        if not Path(embeddings).is_file():
            raise InputError(f"--embeddings {embeddings}: expected a table, found no such file.")
        brought = {"embeddings": str(Path(embeddings).resolve()), "embeddings_sha256": fingerprint(embeddings)}
    return {
        "application": owner.name,
        "problem": name,
        "settings": json.loads(json.dumps(asdict(absolute(settings, sources)))),
        "budget_seconds": budget,
        "seeds": seeds,
        "margin": margin,
        "seed": seed,
        "command": command,
        "sha256": fingerprints(sources),
        **brought,
    }


def is_continued(directory: Path, request: dict[str, Any]) -> bool:
    """Whether the same comparison was begun in this folder, be it with another budget. Raises `InputError` where another one
    was."""
    if not (directory / REQUEST).is_file():
        return False
    stored = read_request(directory)
    if other := [name for name in {**request, **stored} if name not in FREE and stored.get(name) != request.get(name)]:
        raise InputError(
            f"--out {directory} holds another comparison (its {', '.join(other)} differ). Choose another folder, or go on with "
            f"that one: fewstep compare --resume {directory}"
        )
    return True


def read_request(directory: Path) -> dict[str, Any]:
    path = directory / REQUEST
    if not path.is_file():
        raise InputError(f"{directory}: expected the folder of a comparison, found no {REQUEST} in it.")
    return read_stored(path, Request, "Remove the folder and compare again.")


def spent_before(directory: Path) -> float:
    path = directory / STATE
    try:
        return read_json(path, Spent)["spent"] if path.is_file() else 0.0
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}). Remove it: then the whole budget may be spent again.") from error
