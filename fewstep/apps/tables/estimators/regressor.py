"""`MetaRegressor`: regression with the conventions of scikit-learn; one or several targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from fewstep.apps.tables.estimators.base import TARGET, MetaEstimator
from fewstep.apps.tables.estimators.conventions import (
    RegressorMixin,
    check_array,
    check_consistent_length,
    column_or_1d,
    r2_score,
)
from fewstep.supervised.adapted import Adapted


class MetaRegressor(RegressorMixin, MetaEstimator):
    """Meta-learned regression of one or several targets; of several, y may have gaps (NaN), which cost no other value of a row.

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
        NaN where the unit, or numbers in the row, are unlike those of fit: no interval can be promised there.
        Raises `ValueError` for a level that they do not allow.
        """
        adapted, table = self._ask(X)
        return adapted.predict_interval(table, level)

    def score(self, X: Any, y: Any, groups: Any = None, sample_weight: Any = None) -> float:
        """R². With `groups`, each unit's first rows adapt (at most `shots`, at most half of them); its others count."""
        return self._score(r2_score, X, y, groups, sample_weight)

    def _targets(self, y: Any, rows: int, reset: bool) -> pl.DataFrame:
        try:
            gaps = np.ndim(y) == 2 and np.shape(y)[1] > 1  # of several targets, a row may lack some
            finite: Any = "allow-nan" if gaps else True
            array = check_array(y, ensure_2d=False, dtype="numeric", input_name="y", ensure_all_finite=finite)
        except ValueError as error:
            if "could not convert string" in str(error):
                raise ValueError(f"y holds words ({error}): expected numbers. For classes there is MetaClassifier.") from error
            raise
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
