"""Meta-learning in scikit-learn's conventions: fit on many units, adapt to a new one from a few rows, predict.

`MetaRegressor().fit(X, y, groups=unit).adapt(X_support, y_support).predict(X)`. Importing this needs no scikit-learn;
making an estimator does. Everything behind it is the table problem: the same columns, training, calibration and
adaptation."""

from fewstep.apps.tables.estimators.classifier import MetaClassifier as MetaClassifier
from fewstep.apps.tables.estimators.regressor import MetaRegressor as MetaRegressor
