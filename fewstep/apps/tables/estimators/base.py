"""Base class of MetaRegressor and MetaClassifier: settings, fit, adapt, and the conversion of X, y and groups."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from fewstep.apps.tables.data import columns_of, is_frame, names_of
from fewstep.apps.tables.estimators.conventions import (
    SKLEARN,
    BaseEstimator,
    check_is_fitted,
    check_random_state,
    validate_data,
)
from fewstep.apps.tables.estimators.fitted import (
    FittedModel,
    FittedUnit,
    blocks,
    first_rows,
    group_names,
    lengths_of,
    split_groups,
)
from fewstep.apps.tables.settings import Table
from fewstep.core.problem import Problem
from fewstep.core.types import MetaParams
from fewstep.errors import InputError
from fewstep.recipe.settings import LARGEST
from fewstep.supervised.adapted import Adapted, adapt
from fewstep.supervised.fit import Steps
from fewstep.supervised.training import finalize
from fewstep.training.loop import train_in_memory

UNIT, TARGET = "<groups>", "<y>"
"""names of the columns beside those of X, as messages show them"""
ADAPTERS = ("bayes-head", "gradient", "auto")


class MetaEstimator(BaseEstimator):
    """What both estimators share."""

    _of_classes = False

    def __init__(
        self,
        *,
        adapter: str = "bayes-head",
        shots: int = 10,
        queries: int = 40,
        meta_steps: int = 3_000,
        meta_batch_size: int = 25,
        outer_rate: float = 3e-3,
        hidden: tuple[int, ...] = (64, 32),
        adaptation_steps: int = 5,
        steps: Steps | None = None,
        time: str | int | None = None,
        random_state: Any = 0,
    ):
        if not SKLEARN:
            raise InputError(
                "fewstep's estimators need scikit-learn, which is not installed. Try: pip install 'fewstep[sklearn]'"
            )
        self.adapter = adapter
        self.shots = shots
        self.queries = queries
        self.meta_steps = meta_steps
        self.meta_batch_size = meta_batch_size
        self.outer_rate = outer_rate
        self.hidden = hidden
        self.adaptation_steps = adaptation_steps
        self.steps = steps
        self.time = time
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None):
        """Meta-trains over the units that `groups` [rows] names.

        X: [rows, features] numbers, or a pandas or polars frame with numbers, dates, booleans, words and gaps; y: [rows], or
        [rows, targets]. Without `groups`, contiguous blocks of about √rows rows are the units. Raises `ValueError` for what
        cannot be used, `TrainingError` where the training does not stay finite.
        """
        if self.adapter not in ADAPTERS:
            raise ValueError(f"adapter should be one of {', '.join(ADAPTERS)}, got {self.adapter!r}.")
        table, categories = self._columns(X, reset=True)
        if y is None:
            raise ValueError(f"This {type(self).__name__} estimator requires y to be passed, but the target y is None.")
        targets = self._targets(y, table.height, reset=True)
        unit = blocks(table.height) if groups is None else group_names(groups, table.height)
        seed = draw_seed(self.random_state)
        parts = split_groups(lengths_of(unit), seed)
        settings = self._settings(tuple(table.columns), categories, targets.columns)
        held_out = set(parts["validation"]).isdisjoint(parts["train"])
        found: list[tuple[float, Problem, MetaParams]] = []
        for candidate in settings.candidates().values():
            problem = candidate.build_from(
                pl.concat([table, targets, pl.DataFrame({UNIT: unit})], how="horizontal"), "X and y", seed, lambda *_: parts
            )
            params, error = train_in_memory(problem, seed), 0.0
            if held_out:
                params, error = finalize(problem, params)
            found.append((error if math.isfinite(error) else math.inf, problem, params))
            if not held_out:  # nothing to choose by
                break
        _, problem, params = min(found, key=lambda each: each[0])
        self.model_ = FittedModel.of(problem, params, seed, held_out)
        self.unit_ = FittedUnit(self.model_)
        self.notes_ = problem.notes
        return self

    def adapt(self, X: Any, y: Any, steps: Steps | None = None):
        """A copy of this estimator, adapted to one unit from its support rows X [rows, features] and y [rows].

        `steps` as in the settings, which hold where nothing is said here. Warns where the unit is unlike those of training;
        `unlike_` keeps the reason. Raises `ValueError` for rows that cannot be used.
        """
        check_is_fitted(self, "model_")
        copied = copy.copy(self)
        copied.unit_ = FittedUnit(self.model_, self._rows(X, y), checked_steps(self.steps if steps is None else steps))
        copied.notes_ = copied.unit_.adapted.notes
        for reason in copied.unit_.adapted.ood_reasons.values():
            warnings.warn(f"the unit is unlike anything trained on: {reason}", stacklevel=2)
        return copied

    @property
    def unlike_(self) -> str | None:
        """Why the adapted unit is unlike those of training, in words; None if it is not, or where nothing can be said."""
        check_is_fitted(self, "model_")
        return next(iter(self.unit_.adapted.ood_reasons.values()), None)

    def predict(self, X: Any) -> np.ndarray:
        """[rows], or [rows, targets] of several: numbers in the targets' own units, or the likeliest class. Before `adapt`,
        what is expected of a unit of which no row is known."""
        return self._answers(*self._ask(X))

    def _ask(self, X: Any) -> tuple[Adapted, pl.DataFrame]:
        """(the unit, the rows asked for)."""
        check_is_fitted(self, "model_")
        return self.unit_.adapted, self._columns(X, reset=False)[0]

    def _rows(self, X: Any, y: Any) -> pl.DataFrame:
        """Rows of units as those of `fit`, with their targets."""
        table, _ = self._columns(X, reset=False)
        targets, fitted = self._targets(y, table.height, reset=False), self.model_.settings.target
        if targets.width != len(fitted):
            raise ValueError(f"y should have {len(fitted)} targets, as in fit, got {targets.width}.")
        return pl.concat([table, targets], how="horizontal")

    def _few_shot(self, X: Any, y: Any, groups: Any) -> tuple[np.ndarray, np.ndarray]:
        """(row numbers, predictions): each group is adapted to its first rows, and asked for all others."""
        check_is_fitted(self, "model_")
        trained, table = self.model_.trained, self._rows(X, y)
        unit = group_names(groups, table.height)
        table = table.with_columns(unit.alias(UNIT))
        known = first_rows(unit, self.shots, self.model_.moments(table))
        met = unit.is_in(unit.filter(pl.Series(known)).implode()).to_numpy()
        asked: list[tuple[np.ndarray, Adapted, pl.DataFrame]] = []
        if met.any():
            fleet = adapt(trained, table.filter(pl.Series(known)), "the first rows of each group", checked_steps(self.steps))
            asked.append((met & ~known, fleet, table))
        if not met.all():  # groups of one row: nothing to adapt to
            asked.append((~met, Adapted.without_rows(trained), table.drop(UNIT)))
        found = [self._answers(adapted, rows.filter(pl.Series(mask))) for mask, adapted, rows in asked]
        return np.concatenate([np.flatnonzero(mask) for mask, _, _ in asked]), np.concatenate(found)

    def _score(self, metric: Callable[..., Any], X: Any, y: Any, groups: Any, sample_weight: Any) -> float:
        """The metric of the rows that the estimator is not told: all of them without `groups`."""
        if groups is None:
            return float(metric(y, self.predict(X), sample_weight=sample_weight))
        rows, found = self._few_shot(X, y, groups)
        weight = None if sample_weight is None else np.asarray(sample_weight)[rows]
        return float(metric(np.asarray(y)[rows], found, sample_weight=weight))

    def _settings(self, inputs: tuple[str, ...], categories: tuple[str, ...], targets: list[str]) -> Table:
        named = dict(enumerate(inputs)) | dict(zip(inputs, inputs, strict=True))
        if self.time is not None and self.time not in named:
            raise ValueError(f"time should be a column of X, by name or number: one of {', '.join(inputs)}; got {self.time!r}.")
        return Table(
            data="memory",
            task=UNIT,
            inputs=inputs,
            target=tuple(targets),
            kinds=tuple(f"{name}=category" for name in (*categories, *(targets if self._of_classes else ()))),
            time="" if self.time is None else named[self.time],
            adapter=self.adapter,  # type: ignore[arg-type]
            shots=(0, self.shots),
            queries=self.queries,
            meta_steps=self.meta_steps,
            meta_batch_size=self.meta_batch_size,
            outer_rate=self.outer_rate,
            hidden=tuple(self.hidden),
            adaptation_steps=self.adaptation_steps,
        )

    def _columns(self, X: Any, reset: bool) -> tuple[pl.DataFrame, tuple[str, ...]]:
        """(X as columns; which of them a frame declares to be categories). Checked by scikit-learn's own validation; where X
        is not what is fitted to (`reset`), columns go by the names of those that were."""
        if is_frame(X):
            names = names_of(X)
            validate_data(self, X, reset=reset, skip_check_array=True)
            for size, what in zip(X.shape, ("sample", "feature"), strict=True):
                if size == 0:
                    raise ValueError(f"Found array with 0 {what}(s) (shape={X.shape}) while a minimum of 1 is required.")
            return columns_of(X, names if reset else self.model_.settings.inputs)
        array: Any = validate_data(self, X, reset=reset, dtype="numeric", ensure_all_finite="allow-nan")
        names = [f"x{i}" for i in range(array.shape[1])] if reset else self.model_.settings.inputs
        values = np.asarray(array, float)
        return pl.DataFrame({name: values[:, i] for i, name in enumerate(names)}), ()

    def _targets(self, y: Any, rows: int, reset: bool) -> pl.DataFrame:
        """y [rows] or [rows, targets] as columns, checked; with `reset`, as what is fitted to."""
        raise NotImplementedError

    def _answers(self, adapted: Adapted, table: pl.DataFrame) -> np.ndarray:
        """Predictions as y was given."""
        raise NotImplementedError

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.allow_nan = True
        tags.target_tags.required = True
        return tags


def draw_seed(random_state: Any) -> int:
    """A whole number is the seed itself; None or a NumPy generator draws one."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(LARGEST))


def checked_steps(steps: Any) -> Steps | None:
    """Raises `ValueError` for what is no number of adaptation steps."""
    if steps is None or steps == "auto" or (isinstance(steps, int) and steps >= 0):
        return steps
    raise ValueError(f"steps should be a number from 0 on, 'auto' or None (as trained), got {steps!r}.")
