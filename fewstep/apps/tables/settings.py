"""Settings of a user's table, and the Problem built from them: one task per value of a column.

Inputs are numbers, dates, booleans and categories; the target is one or several numbers, or a class.
"""

from __future__ import annotations

import glob
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import polars as pl

from fewstep.apps.tables.advice import advise, unused_dates
from fewstep.apps.tables.data import Fitting, fit_format
from fewstep.apps.tables.tasks import Rows, group_rows, note_odd_tasks, split_tasks, table_tasks, with_targets
from fewstep.core.problem import Illustration, Problem, Splits
from fewstep.core.tasks import TaskFamily
from fewstep.core.types import Examples
from fewstep.errors import InputError
from fewstep.recipe.settings import LearningSettings
from fewstep.storage.tables import FILE, INPUT, read_table
from fewstep.supervised.columns import TableFormat
from fewstep.supervised.infer_kinds import declared_kinds, in_numbers, number_kinds
from fewstep.supervised.kinds import read_values
from fewstep.supervised.model import supervised

TEST_QUERIES = 1_000
"""At most so many held-out rows of a task are measured; nearly always that is all of them."""

READ_AGAIN = 2**25
"""A file of at most so many bytes is read whole, to look for dates in columns that are not used."""

GRADIENT = {"meta_steps": 4_000, "outer_rate": 4e-3, "hidden": (40, 40), "harmonics": 12}
"""Where the recipe of the gradient adapter differs."""


@dataclass(frozen=True, kw_only=True)
class Table(LearningSettings):
    """A CSV, TSV or Parquet file, or one file per unit: one task per value of --task."""

    data: str = ""
    """the table: a CSV, TSV or Parquet file, or a pattern of files such as 'units/*.csv'"""
    task: str = ""
    """the column that names the task of a row; @file (the default for a pattern) is the file's name"""
    inputs: tuple[str, ...] = ()
    """the input columns: numbers, dates, yes or no, categories"""
    target: tuple[str, ...] = ()
    """the column to predict, numbers or classes; or several columns of numbers"""
    kinds: tuple[str, ...] = ()
    """kinds of columns where the inferred ones are wrong, such as month=category or day=date:%m/%d/%Y"""
    adapter: Literal["auto", "gradient", "bayes-head", "ridge-head", "in-context"] = "auto"
    """how a task is fitted: by gradient steps on all weights, by Bayes' rule on the last layer, or whichever of these two does
    better on meta-validation tasks (auto, trains both); by ridge regression on the last layer; or by a network that reads the
    support set with what it is asked (in-context)"""
    meta_steps: int = 3_000
    """meta-steps of the whole run"""
    outer_rate: float = 3e-3
    """outer rate beta of Adam"""
    hidden: tuple[int, ...] = (64, 32)
    """units of the hidden layers"""
    log_every: int = 100
    """meta-steps between two lines of the log"""
    queries: int = 40
    """examples in a task's query set during training (fewer where a task has fewer rows)"""
    time: str = ""
    """a column of dates or numbers: support rows then always precede the rows asked for (forecasting, not filling gaps)"""
    harmonics: int = 26
    """at most so many harmonics of each period that a date can show"""
    test_fraction: float = 0.2
    """part of the tasks held out for testing; as many again for validation and calibration"""
    fold: int = 0
    """which part is held out for testing: over all folds from 0 on, every task is tested once"""

    def candidates(self) -> dict[str, Table]:
        """The settings among which `auto` chooses: each adapter with its own recipe where nothing else was asked for. Where a
        setting is for gradient steps alone, these alone."""
        if self.adapter != "auto":
            return {self.adapter: self}
        given = {
            field.name for field in fields(self) if field.default is not MISSING and getattr(self, field.name) != field.default
        }
        recipe: dict[str, Any] = {name: value for name, value in GRADIENT.items() if name not in given}
        gradient = replace(self, adapter="gradient", **recipe)
        if self.for_gradients:
            return {"gradient": gradient}
        return {"bayes-head": replace(self, adapter="bayes-head"), "gradient": gradient}

    def build(self, seed: int = 0, format: TableFormat | None = None) -> Problem:
        """The Problem, with its data: tasks are split by `seed`. With a saved `format`, the model alone, no file is read.

        `auto` builds the first of `candidates`; choosing is for who trains them.
        """
        if self.adapter == "auto":
            return next(iter(self.candidates().values())).build(seed, format)
        if format is not None:
            self.check(seed)
            return self._problem(format, splits=None)
        if not self.data:
            raise InputError(f"--data is missing: {EXPECTED}")
        if self.data == INPUT:
            raise InputError("--data - is standard input, which is read once; a run reads its table again. Save it to a file.")
        table = read_table(self.data, self.columns, self.label_columns)
        settings = replace(self, task=FILE) if not self.task and FILE in table.columns else self
        problem = settings.build_from(table, self.data, seed)
        return problem if self.time else replace(problem, notes=(*problem.notes, *self._unused_dates()))

    def _unused_dates(self) -> tuple[str, ...]:
        """What is said of dates in columns that are not used; of a large file, which would have to be read again, nothing."""
        if sum(Path(name).stat().st_size for name in glob.glob(self.data) or [self.data]) > READ_AGAIN:
            return ()
        try:
            return tuple(unused_dates(read_table(self.data), self.columns, self.data))
        except InputError:  # what is not used may be anything
            return ()

    def build_from(
        self, table: pl.DataFrame, source: str, seed: int = 0, split: Callable[[int, int], dict[str, np.ndarray]] | None = None
    ) -> Problem:
        """The Problem of a table in memory; `source` is what messages call it.

        `split(tasks, seed)`, where given, says which tasks are for what in place of `split_tasks`.
        """
        if self.adapter == "auto":
            return next(iter(self.candidates().values())).build_from(table, source, seed, split)
        self.check(seed)
        self._check_columns()
        notes: list[str] = []
        declared = declared_kinds(self.kinds)
        if strangers := [name for name in declared if name not in (*self.inputs, *self.target, self.time)]:
            raise InputError(f"--kinds names {strangers[0]!r}, which is neither among --inputs nor --target nor --time.")
        used = filter(None, (*self.inputs, *self.target, self.time))
        kinds = declared | number_kinds(table, used, declared, source)
        table = in_numbers(table, kinds, source)
        table = with_targets(table, self.target, source, notes, whole=self.adapter == "in-context")
        rows_of, names = group_rows(table, self.task, self.time, source, kinds, notes)
        length = np.array([rows.size for rows in rows_of])
        least, most = self.shot_range
        if length.max() <= least:
            raise InputError(
                f"{source}: no task has more than --shots {least} rows (the longest has {length.max()}), so nothing is left "
                f"to be queried. Try --shots {max(1, int(length.max()) // 2)}, or another --task column."
            )
        parts = split(len(names), seed) if split else split_tasks(len(names), seed, self.test_fraction, self.fold)
        enough = self._long_enough(parts, length, source)
        in_train = np.zeros(table.height, bool)
        in_train[np.concatenate([rows_of[task] for task in parts["train"]])] = True
        fitting = Fitting(table, self.inputs, self.target, in_train, source, self.task, kinds, self.harmonics)
        format = fit_format(fitting, notes)
        questions = advise(fitting, format, rows_of, self.time, declared, notes)
        order = np.concatenate(rows_of)
        inputs = format.encode_inputs(table, source, notes)[order]
        targets, known = (values[order] for values in format.encode_targets(table, source))
        start = np.concatenate([[0], np.cumsum(length)[:-1]])
        cells = None if known.all() else jnp.asarray(known, jnp.float32)
        # On the device, once for all families.
        rows = Rows(jnp.asarray(inputs), jnp.asarray(targets), start, length, names, cells)
        note_odd_tasks(rows, targets, notes)
        longest = max(1, int(length.max()) - max(least, 1))
        queries, test_queries = min(self.queries, longest), min(TEST_QUERIES, longest)

        def family(name: str, asked: int) -> TaskFamily:
            return table_tasks(rows, enough[name], self.shot_range, asked, bool(self.time))

        splits = Splits(
            family("train", queries),
            family("validation", test_queries),
            family("test", test_queries),
            family("calibration", test_queries) if enough["calibration"].size else None,
            left_out=len(names) - np.unique(np.concatenate(list(enough.values()))).size,
        )
        x = x_values(table, format, source)[order]
        illustrate = _illustrator(rows, enough["test"], format, most, x, bool(self.time))
        counts = report_counts(self.shot_range, length[enough["test"]])
        parts = {"splits": splits, "illustrate": illustrate, "shot_counts": counts}
        return self._problem(format, **parts, notes=tuple(dict.fromkeys(notes)), questions=questions)

    @property
    def columns(self) -> tuple[str, ...]:
        """All that is read of the table."""
        return tuple(name for name in (self.task, *self.inputs, *self.target, self.time) if name)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns whose text is a name, known before the table is read: the task, and what is declared a category."""
        return (self.task, *(name for name, how in declared_kinds(self.kinds).items() if how.kind == "category"))

    def _check_columns(self) -> None:
        for name in ("task", "inputs", "target"):
            if not getattr(self, name):
                raise InputError(f"--{name} is missing: {EXPECTED}")
        if not 0 < self.test_fraction <= 1 / 3:
            raise InputError(f"--test-fraction should lie between 0 and 1/3, got {self.test_fraction}.")
        folds = round(1 / self.test_fraction)
        if not 0 <= self.fold < folds:
            raise InputError(f"--fold should lie between 0 and {folds - 1} (1 / --test-fraction), got {self.fold}.")
        if self.task in (*self.inputs, *self.target) or set(self.inputs) & set(self.target):
            raise InputError(
                "--task, --inputs and --target should name different columns: a task or target cannot be an input."
            )
        for name in ("inputs", "target"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise InputError(f"--{name} names a column twice: {' '.join(getattr(self, name))}.")

    def _long_enough(self, parts: dict[str, np.ndarray], length: np.ndarray, source: str) -> dict[str, np.ndarray]:
        """Of each part, the tasks with more rows than the least number of shots. Raises `InputError` if none is left."""
        least = max(self.shot_range.least, 1)
        enough = {name: part[length[part] > least] for name, part in parts.items()}
        if short := [name for name in ("train", "validation", "test") if enough[name].size == 0]:
            raise InputError(
                f"{source}: {np.sum(length > least)} of {length.size} tasks have more than --shots {least} rows, none of them "
                f"a meta-{short[0]} task (meta-train, -validation and -test tasks are disjoint). Try fewer --shots."
            )
        return enough

    def _problem(self, format: TableFormat, **parts: Any) -> Problem:
        protocol = {
            "queries": "the task's other rows",
            "support": f"the rows just before the queries, by {self.time}"
            if self.time
            else "rows drawn at random, in time before and after the queries alike",
        }
        baselines = ("mean", "nearest", "boosting")
        return supervised(self, format, name="table", protocol=protocol, baselines=baselines, **parts)


EXPECTED = "expected --data FILE --task COLUMN --inputs COLUMN ... --target COLUMN."


def report_counts(shots: tuple[int, int], lengths: np.ndarray) -> tuple[int, ...]:
    """Numbers of shots at which results are given: a range from end to end, or a fourth of the shots to four times as many,
    as far as half of the test tasks have more rows."""
    least, most = shots
    if least < most:
        counts = np.unique(np.round(np.geomspace(max(least, 1), most, 6)).astype(int))
    else:
        counts = np.unique(np.maximum(1, np.round(most * np.array([0.25, 0.5, 1, 2, 4])).astype(int)))
    longest = int(np.median(lengths)) - 1
    return tuple(int(count) for count in counts if count <= longest or count == most)


def x_values(table: pl.DataFrame, format: TableFormat, source: str) -> np.ndarray:
    """[rows] what a picture has along its x axis: the first date or number among the inputs, or the row's number."""
    column = format.x
    if column is None:
        return np.arange(table.height, dtype=float)
    values = read_values(table, column.name, column.how, source)
    return np.where(np.isnan(values), column.center, values)


def _illustrator(rows: Rows, test: np.ndarray, format: TableFormat, shots: int, x: np.ndarray, in_time: bool):
    """Draws the n-th test task: up to `shots` of its rows (the first ones, in time), all of its truth, along x."""

    def illustrate(number: int) -> Illustration:
        task = int(test[number])
        own = rows.of(task)
        order = np.argsort(x[own], kind="stable")
        count = min(shots, order.size - 1)
        some = np.arange(count) if in_time else np.random.default_rng(number).permutation(order.size)[:count]
        chosen = np.flatnonzero(np.isin(order, some))
        inputs, targets, own_x = np.asarray(rows.inputs[own])[order], np.asarray(rows.targets[own])[order], x[own][order]
        truth, known = format.shown(targets), np.ones(len(targets), np.float32)
        if rows.known is not None:
            known = np.asarray(rows.known[own])[order]
            truth = np.where(known[:, 0] > 0, truth, np.nan)
        support = Examples(inputs[chosen], targets[chosen], known[chosen])  # type: ignore[arg-type]
        return Illustration(rows.names[task], support, own_x[chosen], inputs, own_x, truth)  # type: ignore[arg-type]

    return illustrate


PRESETS = {
    "default": (Table(), "the better of the two below on meta-validation tasks"),
    "bayes-head": (Table(adapter="bayes-head"), "learned features under a Bayesian last layer, solved in closed form"),
    "gradient": (Table(adapter="gradient", **GRADIENT), "five gradient steps with learned rates"),
}
