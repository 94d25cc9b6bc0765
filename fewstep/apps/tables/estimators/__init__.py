"""Meta-learning with the conventions of scikit-learn: fit on many units, adapt to a new one from a few rows, predict.

`MetaRegressor().fit(X, y, groups=unit).adapt(X_support, y_support).predict(X)`. Importing this module does not need
scikit-learn; creating an estimator does. The estimators use the table problem: the same columns, training, calibration and
adaptation.
"""

from fewstep.apps.tables.estimators.classifier import MetaClassifier as MetaClassifier
from fewstep.apps.tables.estimators.regressor import MetaRegressor as MetaRegressor
