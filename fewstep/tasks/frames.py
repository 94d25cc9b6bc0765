"""Arrays and frames in memory as columns (floor 1): NumPy, pandas and polars. Used by fewstep.estimators.

Needs neither pandas nor pyarrow: a pandas column is told by its methods, and goes over kind by kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from fewstep.errors import BadInput


def is_frame(values: Any) -> bool:
    """Whether these are named columns, a kind for each, and not one array."""
    return hasattr(values, "columns") and hasattr(values, "shape")


def names_of(frame: Any) -> tuple[str, ...]:
    """Names of a frame's columns, as text. Raises `BadInput` where two are the same."""
    names = tuple(map(str, frame.columns))
    if doubled := [name for name in names if names.count(name) > 1]:
        raise BadInput(f"X: expected columns of different names, found {doubled[0]!r} twice. Rename one of them.")
    return names


def columns_of(frame: Any, names: Sequence[str]) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """(the columns of a frame under these `names`; those that it declares to be categories)."""
    columns = [series_of(frame[column]).alias(name) for column, name in zip(frame.columns, names, strict=True)]
    declared = [is_categorical(frame[column]) for column in frame.columns]
    return pl.DataFrame(columns), tuple(name for name, yes in zip(names, declared, strict=True) if yes)


def is_categorical(column: Any) -> bool:
    """Whether a column says of itself that its values are categories, numbers though they may be."""
    if isinstance(column, pl.Series):
        return column.dtype in (pl.Categorical, pl.Enum)
    return str(column.dtype) == "category"


def series_of(values: Any) -> pl.Series:
    """A column of a frame, an array or a list [rows]; what is not known is null, or NaN among floats."""
    if isinstance(values, pl.Series):
        return values
    if hasattr(values, "isna"):
        return _of_pandas(values)
    array = np.asarray(values)
    return pl.Series(array.tolist(), strict=False) if array.dtype == object else pl.Series(array)


def _of_pandas(column: Any) -> pl.Series:
    kind = str(column.dtype)
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "iufb":
        return pl.Series(column.to_numpy())
    if kind.startswith("datetime64"):
        zone = getattr(column.dt, "tz", None)
        if zone is None:
            return pl.Series(column.to_numpy().astype("datetime64[us]"))
        moments = pl.Series(column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy().astype("datetime64[us]"))
        try:
            return moments.dt.replace_time_zone("UTC").dt.convert_time_zone(str(zone))
        except pl.exceptions.PolarsError:  # a fixed distance from UTC, which has no name
            return pl.Series(column.dt.strftime("%Y-%m-%dT%H:%M:%S.%f%z").tolist(), dtype=pl.String, strict=False)
    gaps = column.isna().to_numpy()
    return pl.Series([None if gap else value for gap, value in zip(gaps, column.tolist(), strict=True)], strict=False)
