"""scikit-learn's base classes and checks; placeholders if it is not installed, so that this package can be imported."""

from __future__ import annotations

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin  # type: ignore[assignment]
    from sklearn.metrics import accuracy_score, r2_score
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, column_or_1d, validate_data

    SKLEARN = True
except ImportError:
    SKLEARN = False

    class BaseEstimator: ...  # type: ignore[no-redef]

    class ClassifierMixin: ...  # type: ignore[no-redef]

    class RegressorMixin: ...  # type: ignore[no-redef]

    accuracy_score = r2_score = check_random_state = check_classification_targets = None  # type: ignore[assignment]
    check_array = check_consistent_length = check_is_fitted = column_or_1d = validate_data = None  # type: ignore[assignment]

__all__ = [
    "SKLEARN",
    "BaseEstimator",
    "ClassifierMixin",
    "RegressorMixin",
    "accuracy_score",
    "check_array",
    "check_classification_targets",
    "check_consistent_length",
    "check_is_fitted",
    "check_random_state",
    "column_or_1d",
    "r2_score",
    "validate_data",
]
