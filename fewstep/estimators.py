"""Meta-learning in scikit-learn's conventions (floor 4): fit on many units, adapt to a new one from a few rows, predict.

`MetaRegressor().fit(X, y, groups=unit).adapt(X_support, y_support).predict(X)`. Importing this file needs no scikit-learn;
making an estimator does. Everything behind it is the table problem: the same columns, training, calibration and adaptation.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np
import polars as pl

from fewstep.adapted import Adapted, adapt
from fewstep.errors import BadInput
from fewstep.problem import Problem
from fewstep.problems import Table
from fewstep.problems.groups import blocks, first_rows, group_names, lengths_of, split_groups
from fewstep.problems.learners import LARGEST_SEED
from fewstep.tasks.columns import TableFormat
from fewstep.tasks.frames import columns_of, is_frame, names_of
from fewstep.tasks.kinds import ColumnKind, read_values
from fewstep.trained import Trained
from fewstep.training.calibrate import calibrate
from fewstep.training.complete import complete
from fewstep.training.fit import Steps
from fewstep.training.loop import train_in_memory
from fewstep.types import MetaParams

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin  # type: ignore[assignment]
    from sklearn.metrics import accuracy_score, r2_score
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, column_or_1d, validate_data

    SKLEARN = True
except ImportError:  # the classes can be looked at, not made
    SKLEARN = False

    class BaseEstimator: ...  # type: ignore[no-redef]

    class ClassifierMixin: ...  # type: ignore[no-redef]

    class RegressorMixin: ...  # type: ignore[no-redef]


UNIT, TARGET = "<groups>", "<y>"
"""names of the columns beside those of X, as messages show them"""
ADAPTERS = ("bayes-head", "gradient", "auto")


@dataclass(frozen=True, eq=False)
class FittedModel:
    """What a fitted estimator keeps: plain data that can be pickled. Programs are compiled when they are needed."""

    settings: Table
    seed: int
    format: dict[str, Any]
    leaves: tuple[np.ndarray, ...]
    """of the meta-parameters"""
    calibration: dict[str, Any]

    @staticmethod
    def of(problem: Problem, params: MetaParams, seed: int) -> FittedModel:
        # 0 shots too: an estimator that is not adapted has intervals of its own.
        counted = replace(problem, shot_counts=(0, *problem.shot_counts))
        leaves = tuple(np.asarray(leaf) for leaf in jax.tree.leaves(params))
        return FittedModel(problem.settings, seed, problem.format.to_json(), leaves, calibrate(counted, params))

    @cached_property
    def trained(self) -> Trained:
        problem = self.settings.build(self.seed, TableFormat.from_json(self.format))
        structure = jax.tree.structure(jax.eval_shape(problem.init, jax.random.key(0)))
        return Trained(problem, jax.tree.unflatten(structure, self.leaves), self.calibration, {})

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "trained"}


@dataclass(frozen=True, eq=False)
class FittedUnit:
    """A unit as its support rows, or as none: what `predict` asks."""

    model: FittedModel
    rows: pl.DataFrame | None = None
    steps: Steps | None = None

    @cached_property
    def adapted(self) -> Adapted:
        if self.rows is None:
            return Adapted.without_rows(self.model.trained)
        return adapt(self.model.trained, self.rows, "the support rows", self.steps)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "adapted"}


class _MetaEstimator(BaseEstimator):
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
            raise BadInput(
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
        cannot be used, `RunFailed` where the training does not stay finite.
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
                params, error = complete(problem, params)
            found.append((error if math.isfinite(error) else math.inf, problem, params))
            if not held_out:  # nothing to choose by
                break
        _, problem, params = min(found, key=lambda each: each[0])
        self.model_ = FittedModel.of(problem, params, seed)
        self.unit_ = FittedUnit(self.model_)
        self.notes_ = problem.notes
        return self

    def adapt(self, X: Any, y: Any, steps: Steps | None = None):
        """A copy of this estimator, adapted to one unit from its support rows X [rows, features] and y [rows].

        `steps` as in the settings, which hold where nothing is said here. Raises `ValueError` for rows that cannot be used.
        """
        check_is_fitted(self, "model_")
        copied = copy.copy(self)
        copied.unit_ = FittedUnit(self.model_, self._rows(X, y), checked_steps(self.steps if steps is None else steps))
        copied.notes_ = copied.unit_.adapted.notes
        return copied

    @property
    def unlike_(self) -> str | None:
        """Why the adapted unit is unlike those of training, in words; None where it is not, or where nothing can be said."""
        check_is_fitted(self, "model_")
        return next(iter(self.unit_.adapted.unlike.values()), None)

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
        known = first_rows(unit, self.shots, moments(trained, table))
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


class MetaRegressor(RegressorMixin, _MetaEstimator):
    """Meta-learned regression of one or several targets.

    Settings are those of `fewstep train table`: `adapter` is 'bayes-head', 'gradient' or 'auto' (both are trained, the better
    on held-out groups is kept); a unit is met with 0 to `shots` support rows in training; `time` is a column of X, by name or
    number: support rows then always precede the rows asked for. `steps` are the adaptation steps of a new unit: None as
    trained, a number, or 'auto' to choose them by leaving support rows out.

    After `fit`: `model_`, the meta-trained model as plain data; `unit_`, the unit that is asked; `notes_`, what a person
    should know of the data (gaps, categories, odd units); `unlike_`.
    """

    def predict_interval(self, X: Any, level: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(lower, upper), each [rows] or [rows, targets]: enclose `level` of rows, on average over units like those of fit.

        By default at the highest of 95, 90 and 80 % that the number of groups allows: n calibration groups allow n / (n + 1).
        Raises `ValueError` for a level that they do not allow.
        """
        adapted, table = self._ask(X)
        return adapted.predict_interval(table, level)

    def score(self, X: Any, y: Any, groups: Any = None, sample_weight: Any = None) -> float:
        """R². With `groups`, each unit's first rows adapt (at most `shots`, at most half of them); its others count."""
        return self._score(r2_score, X, y, groups, sample_weight)

    def _targets(self, y: Any, rows: int, reset: bool) -> pl.DataFrame:
        array = check_array(y, ensure_2d=False, dtype="numeric", input_name="y")
        if array.ndim == 2 and array.shape[1] == 1:
            array = column_or_1d(array, warn=True)
        check_consistent_length(np.empty(rows), array)
        values = np.asarray(array, float).reshape(rows, -1)
        names = [TARGET] if values.shape[1] == 1 else [f"<y {i}>" for i in range(values.shape[1])]
        return pl.DataFrame({name: values[:, i] for i, name in enumerate(names)})

    def _answers(self, adapted: Adapted, table: pl.DataFrame) -> np.ndarray:
        return adapted.predict(table)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.single_output = True
        tags.target_tags.multi_output = True
        return tags


class MetaClassifier(ClassifierMixin, _MetaEstimator):
    """Meta-learned classification: classes of any type, two or more. Settings and attributes are those of `MetaRegressor`,
    and `classes_`."""

    _of_classes = True

    def predict_proba(self, X: Any) -> np.ndarray:
        """[rows, classes] in the order of `classes_`, calibrated where there were groups to calibrate on."""
        adapted, table = self._ask(X)
        return adapted.predict_proba(table)

    def score(self, X: Any, y: Any, groups: Any = None, sample_weight: Any = None) -> float:
        """Accuracy. With `groups`, each unit's first rows adapt (at most `shots`, at most half of them); its others count."""
        return self._score(accuracy_score, X, y, groups, sample_weight)

    def _targets(self, y: Any, rows: int, reset: bool) -> pl.DataFrame:
        """Classes as text that sorts as they do."""
        flat = column_or_1d(y, warn=True)
        check_consistent_length(np.empty(rows), flat)
        if reset:
            check_classification_targets(flat)
            self.classes_ = np.unique(flat)
            if self.classes_.size < 2:
                raise ValueError(f"Classifier can't train when only one class is present: all of y is {flat[0]!r}.")
        unknown = np.setdiff1d(flat, self.classes_)
        if unknown.size:
            raise ValueError(
                f"y holds the class {unknown.tolist()[0]!r}; expected one of {self.classes_.tolist()}, those of fit."
            )
        return pl.DataFrame({TARGET: np.char.mod("%05d", np.searchsorted(self.classes_, flat))})

    def _answers(self, adapted: Adapted, table: pl.DataFrame) -> np.ndarray:
        return self.classes_[adapted.predict_proba(table).argmax(1)]


def draw_seed(random_state: Any) -> int:
    """A whole number is the seed itself; None or a NumPy generator draws one."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(LARGEST_SEED))


def checked_steps(steps: Any) -> Steps | None:
    """Raises `ValueError` for what is no number of adaptation steps."""
    if steps is None or steps == "auto" or (isinstance(steps, int) and steps >= 0):
        return steps
    raise ValueError(f"steps should be a number from 0 on, 'auto' or None (as trained), got {steps!r}.")


def moments(trained: Trained, table: pl.DataFrame) -> np.ndarray:
    """[rows] what rows of a group are ordered by: the time they were trained with, or their place."""
    column = next((each for each in trained.problem.format.inputs if each.name == trained.problem.settings.time), None)
    if column is None:
        return np.arange(table.height)
    return read_values(table, column.name, ColumnKind(column.kind, column.date_format), "X")
