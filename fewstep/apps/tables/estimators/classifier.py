"""`MetaClassifier`: classification with the conventions of scikit-learn; classes of any type."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from fewstep.apps.tables.estimators.base import TARGET, MetaEstimator
from fewstep.apps.tables.estimators.conventions import (
    ClassifierMixin,
    accuracy_score,
    check_classification_targets,
    check_consistent_length,
    column_or_1d,
)
from fewstep.supervised.adapted import Adapted


class MetaClassifier(ClassifierMixin, MetaEstimator):
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
