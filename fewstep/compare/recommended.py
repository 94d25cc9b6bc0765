"""The recommended arm as an ordinary run (floor 5): `OUT/run`, for `fewstep adapt` and `fewstep predict`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewstep.compare.bench import Bench, Lengths
from fewstep.compare.kept import read_kept, read_scored
from fewstep.runs import open_run, write_json

RUN = "run"
KEPT = ("parameters.npz", "metrics.jsonl", "checkpoints", "config.json")
"""what is copied of a run; with the last of it, it is one"""
SOURCE = "copied_from.json"
"""the arm and the seed that were copied, written last"""


def save_recommended(bench: Bench, ranked: Sequence[str], lengths: Lengths, seeds: int) -> tuple[str, int] | None:
    """Writes `OUT/run`: the first of the `ranked` arms that can be an ordinary run, by the seed that is best on meta-validation
    tasks of the first fold. Returns (arm, seed); None if none can be one."""
    for name in ranked:
        arm = bench.arm(name)
        found = {seed: bench.folder(arm, seed, 0, lengths) for seed in range(seeds if arm.seeded else 1)}
        scored = {seed: read_scored(folder) for seed, folder in found.items()}
        known = {seed: one.validation.mean() for seed, one in scored.items() if one.record["run"] and not one.diverged}
        if known:
            best = min(known, key=known.__getitem__)
            copy_run(found[best], bench.directory / RUN, {"arm": name, "seed": best})
            return name, best
    return None


def copy_run(source: Path, target: Path, of: dict[str, Any]) -> None:
    """A run directory of its own, unless it is a copy of the same run already."""
    marker = target / SOURCE
    if marker.is_file() and read_kept(marker, dict) == of:
        return
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in KEPT:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        elif (source / name).exists():
            shutil.copy2(source / name, target / name)
    write_json(marker, of)


def calibrate(directory: Path) -> None:
    """Gives the recommended run its calibration, unless it has one."""
    if not (directory / "calibration.json").is_file():
        run = open_run(directory)
        run.calibrate(run.problem())
