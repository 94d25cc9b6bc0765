"""A user's table as a Problem (floor 3): one task per value of a column, numeric and date inputs, one numeric target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from fewstep.errors import BadInput
from fewstep.problem import Illustration, Problem, Splits
from fewstep.problems.learners import LearningSettings, regression
from fewstep.tasks.columns import TableFormat, column_of, fit_format, is_date, read_column, read_table
from fewstep.tasks.table import Rows, table_tasks
from fewstep.types import Examples

TEST_QUERIES = 1_000
"""At most so many held-out rows of a task are measured; nearly always that is all of them."""


@dataclass(frozen=True, kw_only=True)
class Table(LearningSettings):
    """A CSV, TSV or Parquet file: one task per value of --task."""

    data: str = ""
    """the table: a CSV, TSV or Parquet file"""
    task: str = ""
    """the column that names the task of a row"""
    inputs: tuple[str, ...] = ()
    """the input columns, numeric or dates"""
    target: str = ""
    """the column to predict, numeric"""
    adapter: Literal["gradient", "bayes-head"] = "bayes-head"
    """how a task is fitted: by gradient steps on all weights, or by Bayes' rule on the last layer, in closed form"""
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
    """part of the tasks held out for testing; as many again for validation"""
    fold: int = 0
    """which part is held out for testing: over all folds from 0 on, every task is tested once"""

    def build(self, seed: int = 0, format: TableFormat | None = None) -> Problem:
        """The Problem, with its data: tasks are split by `seed`. With a saved `format`, the model alone, no file is read."""
        self.check(seed)
        if format is not None:
            return self._problem(format, None, None)
        for name in ("data", "task", "inputs", "target"):
            if not getattr(self, name):
                raise BadInput(f"--{name} is missing: expected --data FILE --task COLUMN --inputs COLUMN ... --target COLUMN.")
        if not 0 < self.test_fraction <= 1 / 3:
            raise BadInput(f"--test-fraction should lie between 0 and 1/3, got {self.test_fraction}.")
        if not 0 <= self.fold < self._folds:
            raise BadInput(f"--fold should lie between 0 and {self._folds - 1} (1 / --test-fraction), got {self.fold}.")
        if self.task in self.inputs or self.target in self.inputs or self.task == self.target:
            raise BadInput("--task, --inputs and --target should name different columns: a task or target cannot be an input.")
        rows_of, table, names = self._read()
        in_time = bool(self.time)
        length = np.array([rows.size for rows in rows_of])
        split = self._split(len(names), seed)
        train, validation, test = (self._long_enough(part, length) for part in split)
        in_train = np.zeros(table.height, bool)
        in_train[np.concatenate([rows_of[task] for task in split[0]])] = True
        format = fit_format(table, self.inputs, self.target, self.task, in_train, self.data, self.harmonics)
        order = np.concatenate(rows_of)
        rows = Rows(
            format.encode_inputs(table, self.data)[order],
            format.encode_target(table, self.data)[order],
            np.concatenate([[0], np.cumsum(length)[:-1]]),
            length,
            names,
        )
        longest = int(length.max()) - self.shots
        queries, test_queries = min(self.queries, longest), min(TEST_QUERIES, longest)
        splits = Splits(
            table_tasks(rows, train, self.shots, queries, in_time),
            table_tasks(rows, validation, self.shots, test_queries, in_time),
            table_tasks(rows, test, self.shots, test_queries, in_time),
            left_out=len(names) - train.size - validation.size - test.size,
        )
        x = read_column(table, self.inputs[0], format.inputs[0].kind, self.data)[order]
        return self._problem(format, splits, _illustrator(rows, test, format, self.shots, x, in_time))

    def _read(self) -> tuple[list[np.ndarray], pl.DataFrame, tuple[str, ...]]:
        """(row numbers of each task, the table, the tasks' names), in order of the names."""
        table = read_table(self.data)
        keys = column_of(table, self.task, self.data)
        if keys.null_count():
            raise BadInput(f"{self.data}: column {self.task!r} names no task in {keys.null_count()} rows. Fill or remove them.")
        column_of(table, self.target, self.data)
        numbers = keys.cast(pl.String).rank("dense").to_numpy() - 1
        names = keys.cast(pl.String).unique().sort().to_list()
        if len(names) < 2:
            raise BadInput(
                f"{self.data}: column {self.task!r} has the one value {names[0]!r}; expected one per task, and many tasks. "
                "Choose the column that tells your units apart."
            )
        moments = (
            read_column(table, self.time, "date" if is_date(table, self.time, self.data) else "number", self.data)
            if self.time
            else None
        )
        order = np.argsort(numbers, kind="stable") if moments is None else np.lexsort((moments, numbers))
        groups = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
        longest = max(rows.size for rows in groups)
        if longest <= self.shots:
            raise BadInput(
                f"{self.data}: no task has more than --shots {self.shots} rows (the longest has {longest}), so nothing is left "
                f"to be queried. Try --shots {max(1, longest // 2)}, or another --task column."
            )
        return groups, table, tuple(names)

    def _split(self, tasks: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Disjoint numbers of meta-train, -validation and -test tasks. The number of shots plays no part: whoever evaluates
        at other shots still meets tasks that were never trained on."""
        order = np.random.default_rng(seed).permutation(tasks)
        # From the end, since array_split makes the first parts the larger ones: what is left over goes to training.
        parts = np.array_split(order[::-1], min(self._folds, tasks))[::-1]
        test, validation, *train = parts[self.fold % len(parts) :] + parts[: self.fold % len(parts)]
        return np.sort(np.concatenate(train or [[]]).astype(int)), np.sort(validation), np.sort(test)

    @property
    def _folds(self) -> int:
        return round(1 / self.test_fraction)

    def _long_enough(self, tasks: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Those of `tasks` with more rows than shots."""
        enough = tasks[length[tasks] > self.shots]
        if enough.size == 0:
            raise BadInput(
                f"{self.data}: {np.sum(length > self.shots)} tasks have more than --shots {self.shots} rows; expected at "
                "least 3 (meta-train, -validation and -test tasks are disjoint). Try fewer --shots."
            )
        return enough

    def _problem(self, format: TableFormat, splits: Splits | None, illustrate) -> Problem:
        return regression(
            self,
            format.features,
            name="table",
            unit=format.target_scale,
            protocol={
                "queries": "the task's other rows",
                "support": f"the rows just before the queries, by {self.time}"
                if self.time
                else "rows drawn at random, in time before and after the queries alike",
            },
            format=format,
            splits=splits,
            illustrate=illustrate,
        )


def _illustrator(rows: Rows, test: np.ndarray, format: TableFormat, shots: int, x: np.ndarray, in_time: bool):
    """Draws the n-th test task: `shots` of its rows (the first ones, in time), all of its truth, ordered by the first input."""

    def illustrate(number: int) -> Illustration:
        task = int(test[number])
        own = slice(int(rows.start[task]), int(rows.start[task] + rows.length[task]))
        order = np.argsort(x[own], kind="stable")
        some = np.arange(shots) if in_time else np.random.default_rng(number).permutation(order.size)[:shots]
        chosen = np.flatnonzero(np.isin(order, some))
        inputs, targets, own_x = rows.inputs[own][order], rows.targets[own][order], x[own][order]
        support = Examples(inputs[chosen], targets[chosen], np.ones(shots, np.float32))  # type: ignore[arg-type]
        truth = format.restore_target(targets[:, 0])
        return Illustration(rows.names[task], support, own_x[chosen], inputs, own_x, truth)  # type: ignore[arg-type]

    return illustrate


PRESETS = {
    "default": (Table(), "learned features under a Bayesian last layer, solved in closed form, half a minute"),
    "gradient": (
        Table(adapter="gradient", meta_steps=4_000, outer_rate=4e-3, hidden=(40, 40), harmonics=12),
        "five gradient steps with learned rates",
    ),
}
