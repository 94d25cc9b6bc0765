"""Choosing between trained candidates (floor 4): each is a run of its own under RUN/candidates; the best becomes RUN itself."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

from fewstep.runs.files import write_json
from fewstep.training.copies import EVENTS, TABLE

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
