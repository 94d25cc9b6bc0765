"""The splits of a comparison of models that predict from rows: a single split, or cross-fitting if there are few tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fewstep.compare.episodes import TOO_FEW, Benchmark, make_benchmark
from fewstep.compare.leaks import check_leaks
from fewstep.errors import InputError

LEAST_TASKS = 7
"""test tasks: over fewer, the 95 % interval of a mean error is wider than the tasks differ (Student's t: 2.57/√6 > 1)"""
FEW_TASKS = 200
"""With fewer tasks, a table is cross-fitted: every task is tested once."""
SECONDS_A_FOLD = 60.0
"""of the budget for each split of a cross-fitting; with less there are fewer splits, but `TOO_FEW` tasks are tested"""


def make_benchmarks(
    settings: Any,
    seed: int,
    note: Callable[[str], None],
    *,
    budget: float,
    embeddings: str = "",
    cross_fitted: bool = False,
) -> tuple[Benchmark, ...]:
    """The split, or if tasks are few and may be `cross_fitted` all splits. `note` tells people what they should know. Raises
    `InputError` for a leak, and for too few tasks."""
    if embeddings:
        raise InputError("--embeddings are of photos: leave them out, or compare on images.")
    first = make_benchmark(settings, seed)
    for line in first.problem.notes:
        note(f"note: {line}")
    check_leaks(first)
    count = tasks_of(first)
    folded = cross_fitted and count < FEW_TASKS
    require_tasks(count if folded else len(first.test.names))
    if not folded:
        return (first,)
    if count < TOO_FEW:
        note(f"note: {count} tasks are few; no comparison of so few can tell much about others")
    folds = min(round(1 / first.settings.test_fraction), count)  # type: ignore[attr-defined]
    least = -(-TOO_FEW * folds // count)
    folds = min(folds, max(2, least, int(budget / SECONDS_A_FOLD)))
    return tuple(make_benchmark(settings, seed, fold) for fold in range(folds))


def tasks_of(first: Benchmark) -> int:
    """How many tasks there are in all splits, as far as they are counted."""
    splits = first.problem.splits
    assert splits is not None
    parts = [family.size for family in (splits.train, splits.validation, splits.test, splits.calibration) if family]
    return sum(size for size in parts if size is not None)


def require_tasks(tested: int) -> None:
    """Raises `InputError` if there are too few test tasks."""
    if tested < LEAST_TASKS:
        raise InputError(
            f"A comparison should have at least {LEAST_TASKS} tasks to judge methods on, got {tested}: so few cannot tell one "
            "method from another. Give more tasks, or hold out a larger part of them."
        )
