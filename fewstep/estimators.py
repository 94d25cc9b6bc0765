"""Meta-learning in scikit-learn's conventions (floor 4): fit on many units, adapt to a new one from a few rows, predict.

`MetaRegressor().fit(X, y, groups=unit).adapt(X_support, y_support).predict(X)`. Importing this file needs no scikit-learn;
making an estimator does. Everything behind it is the table problem: the same columns, training, calibration and adaptation.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
import polars as pl

from fewstep.adapted import Adapted, adapt
from fewstep.errors import BadInput
from fewstep.problem import Problem
from fewstep.problems import Table
from fewstep.tasks.columns import TableFormat
from fewstep.trained import Trained
from fewstep.training.calibrate import calibrate
from fewstep.training.complete import complete
from fewstep.training.loop import train_in_memory
from fewstep.types import MetaParams

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data

    SKLEARN = True
except ImportError:  # the classes can be looked at, not made
    SKLEARN = False
    BaseEstimator, ClassifierMixin, RegressorMixin = (type(name, (), {}) for name in ("Base", "Classifier", "Regressor"))

UNIT, TARGET = "unit", "target"
LEAST_GROUPS = 10
"""From so many groups on, a fifth is kept from training to validate and calibrate; fewer serve for all of it."""


@dataclass(frozen=True, eq=False)
class FittedModel:
    """What a fitted estimator keeps: plain data that can be pickled. Programs are compiled again when they are needed."""

    settings: Table
    seed: int
    format: dict[str, Any]
    params: MetaParams
    """leaves are NumPy arrays"""
    calibration: dict[str, Any]

    @cached_property
    def trained(self) -> Trained:
        """The model with its compiled programs, which are never pickled."""
        format = TableFormat.from_json(self.format)
        return Trained(self.settings.build(self.seed, format), self.params, self.calibration, {})

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "trained"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _MetaEstimator(BaseEstimator):
    """What both estimators share. Settings are those of `fewstep train table`; a range of `shots` begins at 0, so that the
    estimator also predicts without having been adapted."""

    def __init__(
        self,
        *,
        adapter: str = "bayes-head",
        shots: int = 10,
        queries: int = 40,
        meta_steps: int = 1_000,
        meta_batch_size: int = 25,
        outer_rate: float = 3e-3,
        hidden: tuple[int, ...] = (64, 32),
        adaptation_steps: int = 5,
        steps: int | str | None = None,
        random_state: int = 0,
    ):
        if not SKLEARN:
            raise BadInput("fewstep's estimators need scikit-learn: pip install 'fewstep[sklearn]'.")
        self.adapter = adapter
        self.shots = shots
        self.queries = queries
        self.meta_steps = meta_steps
        self.meta_batch_size = meta_batch_size
        self.outer_rate = outer_rate
        self.hidden = hidden
        self.adaptation_steps = adaptation_steps
        self.steps = steps
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None):
        """Meta-trains over the units that `groups` [rows] names.

        X: [rows, features] numbers, or a pandas or polars frame with numbers, dates, booleans, words and gaps; y: [rows], or
        [rows, targets]. Without `groups`, contiguous blocks of about √rows rows are the units. Raises `ValueError` for what
        cannot be used.
        """
        table, inputs = self._table(X, reset=True)
        targets = self._targets(y, len(table))
        names = tuple(f"{TARGET}{i}" for i in range(targets.shape[1]))
        unit = blocks(len(table)) if groups is None else np.asarray(groups)
        if unit.shape != (len(table),):
            raise ValueError(f"groups should name the unit of each of the {len(table)} rows, got shape {unit.shape}.")
        table = table.with_columns(pl.Series(UNIT, unit.astype(str)), *map(pl.Series, names, targets.T))
        kinds = tuple(f"{name}=category" for name in names) if self._classes() else ()
        settings = Table(
            data="memory",
            task=UNIT,
            inputs=inputs,
            target=names,
            kinds=kinds,
            adapter=self.adapter,  # type: ignore[arg-type]
            shots=(0, self.shots),
            queries=self.queries,
            meta_steps=self.meta_steps,
            meta_batch_size=self.meta_batch_size,
            outer_rate=self.outer_rate,
            hidden=tuple(self.hidden),
            adaptation_steps=self.adaptation_steps,
        )
        seed = 0 if self.random_state is None else int(self.random_state)
        problem = settings.build_from(table, "X and y", seed, split_for_fitting)
        params, _ = complete(problem, train_in_memory(problem, seed))
        self._keep(problem, settings, params, seed)
        return self

    def _keep(self, problem: Problem, settings: Table, params: MetaParams, seed: int) -> None:
        arrays = jax.tree.map(np.asarray, params)
        kept = next(iter(settings.candidates().values()))
        self.model_ = FittedModel(kept, seed, problem.format.to_json(), arrays, calibrate(problem, params))
        self.adapted_: Adapted | None = None
        self.notes_ = problem.notes

    def adapt(self, X: Any, y: Any, steps: int | str | None = None):
        """A copy of this estimator, adapted to one unit from its support rows X [rows, features] and y [rows].

        `steps` are adaptation steps: as trained, a number, or 'auto' to choose them by leaving rows out.
        """
        check_is_fitted(self, "model_")
        table, _ = self._table(X, reset=False)
        targets = self._targets(y, len(table))
        names = [f"{TARGET}{i}" for i in range(targets.shape[1])]
        if len(names) != len(self.model_.format["targets"]):
            raise ValueError(
                f"y has {len(names)} targets, but the estimator was fitted to {len(self.model_.format['targets'])}."
            )
        chosen = self.steps if steps is None else steps
        copied = copy.copy(self)
        copied.adapted_ = adapt(
            self.model_.trained,
            table.with_columns(*map(pl.Series, names, targets.T)),
            "the support rows",
            chosen,  # type: ignore[arg-type]
        )
        return copied

    def _ask(self, X: Any) -> tuple[Adapted, pl.DataFrame]:
        """(the adapted unit, or one without rows; the rows asked for)."""
        check_is_fitted(self, "model_")
        table, _ = self._table(X, reset=False)
        adapted = self.adapted_ or Adapted.without_rows(self.model_.trained)
        return adapted, table

    def _table(self, X: Any, reset: bool) -> tuple[pl.DataFrame, tuple[str, ...]]:
        """(X as columns, their names), checked by scikit-learn's own validation."""
        if hasattr(X, "columns") and hasattr(X, "shape"):
            validate_data(self, X, reset=reset, skip_check_array=True)
            if X.shape[0] == 0:
                raise ValueError(f"Found array with 0 sample(s) (shape={X.shape}) while a minimum of 1 is required.")
            frame = (
                X if isinstance(X, pl.DataFrame) else pl.DataFrame({str(name): column_of_frame(X[name]) for name in X.columns})
            )
            inputs = tuple(f"x{i}: {name}" for i, name in enumerate(frame.columns))
            return frame.rename(dict(zip(frame.columns, inputs, strict=True))), inputs
        array: Any = validate_data(self, X, reset=reset, dtype="numeric", ensure_all_finite="allow-nan")
        if array.dtype.kind not in "fiub":
            array = array.astype(float)
        inputs = tuple(f"x{i}" for i in range(array.shape[1]))
        values = np.asarray(array, float)
        return pl.DataFrame({name: values[:, i] for i, name in enumerate(inputs)}), inputs

    def _classes(self) -> bool:
        return False

    def _targets(self, y: Any, rows: int) -> np.ndarray:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__() if SKLEARN else self.__dict__)
        adapted = state.get("adapted_")
        if adapted is not None:  # the support rows say it all
            state["adapted_"] = (adapted.table, adapted.steps)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state) if SKLEARN else self.__dict__.update(state)  # type: ignore[misc]
        if isinstance(kept := self.__dict__.get("adapted_"), tuple):
            self.adapted_ = adapt(self.model_.trained, kept[0], "the support rows", kept[1])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.allow_nan = True
        return tags


class MetaRegressor(RegressorMixin, _MetaEstimator):
    """Meta-learned regression of one or several targets."""

    def predict(self, X: Any) -> np.ndarray:
        """[rows] or [rows, targets], in the targets' own units; before `adapt`, what is known of a unit without rows."""
        adapted, table = self._ask(X)
        return adapted.predict(table)

    def predict_interval(self, X: Any, level: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(lower, upper), each [rows] or [rows, targets]: enclose `level` of rows, on average over units like the trained ones.

        By default at the highest of 95, 90 and 80 % that the number of groups allows. Raises `ValueError` for a level that it
        does not allow (n calibration groups allow n / (n + 1)).
        """
        adapted, table = self._ask(X)
        return adapted.predict_interval(table, level)

    def score(self, X: Any, y: Any, groups: Any = None) -> float:
        """R². With `groups`, each unit's first rows adapt (at most `shots`, at most half of them) and its others are scored."""
        from sklearn.metrics import r2_score

        if groups is None:
            return float(r2_score(y, self.predict(X)))
        truth, found = few_shot_predictions(self, X, y, groups, self.shots)
        return float(r2_score(truth, found))

    def _targets(self, y: Any, rows: int) -> np.ndarray:
        """[rows, targets] float64."""
        from sklearn.utils.validation import check_array, check_consistent_length, column_or_1d

        if y is None:
            raise ValueError("This MetaRegressor estimator requires y to be passed, but the target y is None.")
        array = check_array(y, ensure_2d=False, dtype="numeric", input_name="y")
        if array.ndim == 2 and array.shape[1] == 1:
            array = column_or_1d(array, warn=True)
        check_consistent_length(np.empty(rows), array)
        return np.asarray(array, float).reshape(rows, -1)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.single_output = True
        tags.target_tags.multi_output = True
        return tags


class MetaClassifier(ClassifierMixin, _MetaEstimator):
    """Meta-learned classification: classes of any type, two or more."""

    def fit(self, X: Any, y: Any, groups: Any = None):
        """As `MetaRegressor.fit`; y [rows] are classes."""
        if y is None:
            raise ValueError("This MetaClassifier estimator requires y to be passed, but the target y is None.")
        check_classification_targets(y)
        self.classes_ = np.unique(one_dimension(y))
        if self.classes_.size < 2:
            raise ValueError(f"Classifier can't train when only one class is present: got the one class {self.classes_[0]!r}.")
        return super().fit(X, y, groups)

    def predict(self, X: Any) -> np.ndarray:
        """[rows]: the likeliest class; before `adapt`, for a unit without rows."""
        return self.classes_[self.predict_proba(X).argmax(1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """[rows, classes] in the order of `classes_`, calibrated where there were groups to calibrate on."""
        adapted, table = self._ask(X)
        return adapted.predict_proba(table)

    def score(self, X: Any, y: Any, groups: Any = None) -> float:
        """Accuracy. With `groups`, each unit's first rows adapt (at most `shots`, at most half of them), its others count."""
        if groups is None:
            return float(np.mean(self.predict(X) == np.asarray(y)))
        truth, found = few_shot_predictions(self, X, y, groups, self.shots)
        return float(np.mean(truth == found))

    def _classes(self) -> bool:
        return True

    def _targets(self, y: Any, rows: int) -> np.ndarray:
        """[rows, 1]: classes as text that sorts as they do."""
        from sklearn.utils.validation import check_consistent_length

        flat = one_dimension(y)
        check_consistent_length(np.empty(rows), flat)
        unknown = np.setdiff1d(flat, self.classes_)
        if unknown.size:
            raise ValueError(f"y holds the class {unknown[0]!r}; expected one of {self.classes_.tolist()}, those of fit.")
        return np.char.mod("%05d", np.searchsorted(self.classes_, flat))[:, None]


def one_dimension(y: Any) -> np.ndarray:
    from sklearn.utils.validation import column_or_1d

    return column_or_1d(y, warn=True)


def blocks(rows: int) -> np.ndarray:
    """[rows]: the number of the contiguous block of each row, for want of groups: about √rows rows each, at least 2."""
    if rows < 2:
        raise ValueError("Found array with 1 sample(s) (n_samples=1) while a minimum of 2 is required.")
    count = max(1, int(np.sqrt(rows)))
    return np.minimum(np.arange(rows) * count // rows, count - 1)


def split_for_fitting(tasks: int, seed: int) -> dict[str, np.ndarray]:
    """Testing is the caller's business: four fifths of the groups train; of the rest, half calibrate where they are enough.
    Of fewer than ten groups all train, and the same ones validate."""
    order = np.random.default_rng(seed).permutation(tasks)
    everyone, none = np.sort(order), np.zeros(0, int)
    if tasks < LEAST_GROUPS:
        return {"train": everyone, "validation": everyone, "calibration": none, "test": everyone}
    held = order[: tasks // 5]
    half = held.size // 2 if held.size // 2 >= 4 else 0
    validation = np.sort(held[half:])
    return {
        "train": np.sort(order[tasks // 5 :]),
        "validation": validation,
        "calibration": np.sort(held[:half]),
        "test": validation,
    }


def column_of_frame(column: Any) -> pl.Series:
    """A column of a pandas frame: its kind is kept, gaps become nulls."""
    kind = str(column.dtype)
    if kind in ("category", "object", "string", "str"):
        gaps = column.isna().to_numpy()
        return pl.Series([None if gap else value for gap, value in zip(gaps, column.tolist(), strict=True)], strict=False)
    if kind.startswith("datetime"):
        utc = column.dt.tz_convert("UTC").dt.tz_localize(None) if getattr(column.dt, "tz", None) is not None else column
        return pl.Series(utc.to_numpy().astype("datetime64[us]"))
    if kind in ("boolean", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float32", "Float64"):
        gaps = column.isna().to_numpy()
        return pl.Series([None if gap else value for gap, value in zip(gaps, column.tolist(), strict=True)])
    return pl.Series(column.to_numpy())


def few_shot_predictions(estimator: Any, X: Any, y: Any, groups: Any, shots: int) -> tuple[np.ndarray, np.ndarray]:
    """(truth, predictions) of the rows of each unit that it was not adapted to."""
    unit, truth = np.asarray(groups), np.asarray(y)
    take = (
        X.iloc.__getitem__
        if hasattr(X, "iloc")
        else X.__getitem__
        if isinstance(X, pl.DataFrame)
        else np.asarray(X).__getitem__
    )
    parts = []
    for name in dict.fromkeys(unit.tolist()):
        rows = np.flatnonzero(unit == name)
        first, rest = np.split(rows, [min(shots, rows.size // 2)])
        adapted = estimator.adapt(take(first), truth[first]) if first.size else estimator
        parts.append((truth[rest], adapted.predict(take(rest))))
    return tuple(np.concatenate(both) for both in zip(*parts, strict=True))  # type: ignore[return-value]
