"""A comparison from beginning to end (floor 5): `compare(settings, directory)`, what `fewstep compare` calls.

Quick arms come first, so that there is a table to look at. Then a meta-step of each trained arm is timed, the rest of the
budget is planned, and all arms are trained seed by seed: whenever it stops, all arms have the same seeds. What is fitted is
kept in the folder, and not fitted again when the comparison goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fewstep.compare.arms import AnyGround
from fewstep.compare.arms.embeddings import embeddings_of
from fewstep.compare.asked import ASKED, as_asked, check, goes_on, read_asked, spent_before
from fewstep.compare.bench import Bench
from fewstep.compare.comparing import Comparing
from fewstep.compare.display import Display
from fewstep.compare.ground import ground
from fewstep.compare.kept import RECORD
from fewstep.compare.leaks import refuse_leaks
from fewstep.compare.policy_ground import policy_ground
from fewstep.compare.told import TOO_FEW, tell
from fewstep.errors import BadInput
from fewstep.problems.images import Images
from fewstep.problems.own_environment import OwnEnvironment
from fewstep.problems.policy_settings import PolicySettings
from fewstep.runs import new_directory, only_one, settings_of, write_json

LEAST_TASKS = 7
"""test tasks: over fewer, the 95 % interval of a mean error is wider than the tasks differ (Student's t: 2.57/√6 > 1)"""
FEW_TASKS = 200
"""With fewer tasks, a table is cross-fitted: every task is tested once."""
SECONDS_A_FOLD = 60.0
"""of the budget for each split of a cross-fitting; with less there are fewer splits, but `TOO_FEW` tasks are tested"""


def compare(
    settings: Any,
    directory: str | Path,
    *,
    budget_seconds: float = 600.0,
    seeds: int = 3,
    margin: float | None = None,
    seed: int = 0,
    quiet: bool = False,
    command: str = "",
    embeddings: str = "",
    partial: Callable[[list[dict[str, Any]]], None] | None = None,
) -> dict[str, Any]:
    """Compares arms on the tasks of a Problem within a budget, writes `compare.json`, `compare.html` and the recommended run
    into `directory`, and returns what `compare.json` holds. If the directory holds the same comparison, it goes on; a greater
    budget tries the arms and seeds that were left out before, trained as long as the others.

    `margin` is a difference in error that does not matter (by default 5 % of the error without learning); `seed` decides the
    split and the held-out episodes, `seeds` is how often everything is trained. `embeddings` is a
    table of embeddings of photos by a network trained elsewhere (arms/embeddings.py). `partial` is shown the first scores.

    Arms for which there is no time, and arms that raise, are left out and named. Raises `BadInput` for what cannot be compared,
    a leak between tasks, or if there was time for no two arms; `Interrupted` on SIGINT, SIGTERM or SIGHUP while an arm is
    trained. What is fitted is kept whatever happens.
    """
    check(settings, budget_seconds, seeds, margin)
    directory, asked = Path(directory), as_asked(settings, budget_seconds, seeds, margin, seed, command, embeddings)
    begun = goes_on(directory, asked)
    display = Display(budget_seconds, spent_before(directory) if begun else 0.0, quiet)
    try:
        grounds = grounds_of(settings, seed, display, embeddings)
        if not begun:
            new_directory(directory)
        with only_one(directory):
            write_json(directory / ASKED, asked)
            made = Comparing(Bench(directory, grounds, display.say), display, budget_seconds, seeds)
            try:
                made.score_quick(partial)
                return tell(made, made.trained_plan(), margin, command)
            except BadInput:
                if not begun and next(directory.rglob(RECORD), None) is None:  # nothing is fitted
                    shutil.rmtree(directory)
                raise
            finally:
                if directory.is_dir():
                    made.keep_time()
    finally:
        display.close()


def resume(
    directory: str | Path,
    quiet: bool = False,
    partial: Callable[..., None] | None = None,
    budget_seconds: float | None = None,
) -> dict[str, Any]:
    """Goes on with the comparison in `directory`, with its own budget or a greater one. Raises `BadInput` where there is none,
    or where that would run code that only its folder names."""
    asked = read_asked(Path(directory))
    options = {name: asked[name] for name in ("budget_seconds", "seeds", "margin", "seed", "command")}
    options["embeddings"] = asked.get("embeddings", "")
    options["budget_seconds"] = budget_seconds or options["budget_seconds"]
    settings = settings_of(asked, Path(directory) / ASKED)
    if isinstance(settings, OwnEnvironment):
        raise BadInput(
            f"{directory} compares in what {settings.env} makes, and this would run that code as it is found here. If you "
            "trust it, give the same command again with the same --out: then it goes on."
        )
    return compare(settings, directory, quiet=quiet, partial=partial, **options)


def grounds_of(settings: Any, seed: int, display: Display, embeddings: str = "") -> tuple[AnyGround, ...]:
    """The split, or where tasks are few all splits of a cross-fitting. Raises `BadInput` for a leak, or for embeddings that do
    not fit."""
    if embeddings and not isinstance(settings, Images):
        raise BadInput("--embeddings are of photos: leave them out, or compare on images.")
    if isinstance(settings, PolicySettings):
        return (policy_ground(settings, seed),)
    first = ground(settings, seed, embeddings=embeddings)
    if embeddings:
        embeddings_of(embeddings, first.settings, seed)  # type: ignore[arg-type]
    for note in first.problem.notes:
        display.note(f"note: {note}")
    refuse_leaks(first)
    splits = first.problem.splits
    assert splits is not None
    parts = [family.size for family in (splits.train, splits.validation, splits.test, splits.calibration) if family]
    count = sum(size for size in parts if size is not None)
    folded = first.problem.name == "table" and count < FEW_TASKS
    if (tested := count if folded else len(first.test.names)) < LEAST_TASKS:
        raise BadInput(
            f"A comparison should have at least {LEAST_TASKS} tasks to judge arms on, got {tested}: so few cannot tell one arm "
            "from another. Give more tasks, or hold out a larger part of them."
        )
    if not folded:
        return (first,)
    if count < TOO_FEW:
        display.note(f"note: {count} tasks are few; no comparison of so few can tell much about others")
    folds = min(round(1 / first.settings.test_fraction), count)  # type: ignore[attr-defined]
    least = -(-TOO_FEW * folds // count)
    folds = min(folds, max(2, least, int(display.budget / SECONDS_A_FOLD)))
    return tuple(ground(settings, seed, fold) for fold in range(folds))
