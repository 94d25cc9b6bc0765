"""The recommended arm as an ordinary run (floor 5): `OUT/run`, for `fewstep adapt` and `fewstep predict`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from fewstep.compare.bench import Bench, Lengths
from fewstep.compare.kept import read_scored
from fewstep.errors import BadInput
from fewstep.runs import open_run

RUN = "run"
KEPT = ("parameters.npz", "metrics.jsonl", "checkpoints", "config.json")
"""what is copied of a run; with the last of it, it is one"""


def save_recommended(bench: Bench, ranked: Sequence[str], lengths: Lengths, seeds: int) -> tuple[str, int]:
    """Writes `OUT/run`: the first of the `ranked` arms that can be an ordinary run, by the seed that is best on meta-validation
    tasks of the first fold, with its calibration. Returns (arm, seed). Raises `BadInput` where none can be one."""
    for name in ranked:
        arm = bench.arm(name)
        found = {seed: bench.folder(arm, seed, 0, lengths) for seed in range(seeds if arm.seeded else 1)}
        scored = {seed: read_scored(folder) for seed, folder in found.items()}
        known = {seed: one.validation.mean() for seed, one in scored.items() if one.record["run"] and not one.diverged}
        if known:
            best = min(known, key=known.__getitem__)
            copy_run(found[best], bench.directory / RUN)
            if bench.kind != "policies":
                calibrate(bench.directory / RUN)
            return name, best
    raise BadInput("none of the arms can be an ordinary run.")


def copy_run(source: Path, target: Path) -> None:
    """A run directory of its own, unless it is one already."""
    if (target / "config.json").is_file():
        return
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in KEPT:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        elif (source / name).exists():
            shutil.copy2(source / name, target / name)


def calibrate(directory: Path) -> None:
    if not (directory / "calibration.json").is_file():
        run = open_run(directory)
        run.calibrate(run.problem())
