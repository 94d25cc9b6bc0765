"""Finds held-out tasks that also occur in training under another name; they would make every method look better than it is."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import polars as pl

from fewstep.compare.episodes import Benchmark
from fewstep.core.tasks import TaskFamily
from fewstep.errors import InputError
from fewstep.supervised.classical import with_gaps

LEAST_ROWS = 8
"""Tasks of fewer different rows may be alike by chance."""
SHOWN_PAIRS = 3


def check_leaks(benchmark: Benchmark) -> None:
    """Raises `InputError`, naming tasks and rows, if all rows of a held-out task are those of a meta-train task."""
    splits = benchmark.problem.splits
    assert splits is not None
    if splits.train.examples is None or splits.train.names is None:
        return
    known = {content: name for name, content in contents(splits.train).items()}
    for split in ("validation", "test"):
        found = [
            (name, known[content])
            for name, content in contents(getattr(splits, split)).items()
            if content in known and len(set(content)) >= LEAST_ROWS
        ]
        if found:
            raise InputError(
                f"{len(found)} meta-{split} task{'s' * (len(found) > 1)} would be known from training: "
                + "; ".join(leak_message(benchmark.settings, *pair) for pair in found[:SHOWN_PAIRS])
                + "; ..." * (len(found) > SHOWN_PAIRS)
                + ". Remove one of each pair, or give them one name in the column of --task."
            )


def contents(family: TaskFamily) -> dict[str, tuple[bytes, ...]]:
    """name of a task -> all its rows as they are encoded, in an order that does not matter."""
    assert family.examples is not None and family.names is not None and family.size is not None
    every = jax.jit(jax.vmap(family.examples))(np.arange(family.size))
    inputs, targets, weight = (np.asarray(leaf) for leaf in every)
    size = inputs.shape[:2]
    both = np.concatenate([leaf.reshape(*size, -1) for leaf in (inputs, with_gaps(targets, weight))], -1)
    rows = [both[task][weight[task].reshape(size[1], -1).any(1)] for task in range(size[0])]
    return {name: tuple(sorted(row.tobytes() for row in own)) for name, own in zip(family.names, rows, strict=True)}


def leak_message(settings: Any, task: str, other: str) -> str:
    """Which rows of the file these are."""
    lines = {name: lines_of(settings, name) for name in (task, other)}
    return f"all rows of {task!r} ({lines[task]}) are those of {other!r} ({lines[other]})"


def lines_of(settings: Any, task: str) -> str:
    """'rows 12 to 64', counted from 1 without the header."""
    from fewstep.storage.tables import FILE, read_table

    table = read_table(settings.data, settings.columns, settings.label_columns)
    column = settings.task or FILE
    number = np.flatnonzero(np.array(table[column].cast(pl.String).to_list(), object) == task) + 1
    if number.size == number[-1] - number[0] + 1:
        return f"rows {number[0]} to {number[-1]}"
    return "rows " + ", ".join(str(each) for each in number[:5]) + ", ..." * (number.size > 5)
