"""JSON from files that anyone may have changed: checked against types by msgspec."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

LARGEST = 2**63
"""Integers of this size or beyond are no size and no seed."""
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=0)]


def read_json(path: Path, kind: Any = Any) -> Any:
    """The content of a JSON file of the type `kind`, as it stands in the file.

    Raises `ValueError` if it is damaged, is nested too deeply, holds numbers that are not finite or is of another type, and
    `OSError` if it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise ValueError("expected a file")
    try:
        # Not by msgspec, which refuses the halves of surrogate pairs that names of files may hold.
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_not_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if kind is not Any:
        validate(content, kind)
    return content


def _not_finite(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _finite(word: str) -> float:
    return float(word) if math.isfinite(float(word)) else _not_finite(word)


def validate(value: Any, kind: Any, name: str = "the content") -> Any:
    """`value`, plain data of JSON, as an instance of the type `kind`.

    Raises `ValueError` if it is of another type, if a number is not finite or if an integer is beyond 64 bits. The message
    begins with `name` and ends with the place in the JSON.
    """
    if is_dataclass(kind) and isinstance(value, dict) and (unknown := set(value) - {each.name for each in fields(kind)}):
        raise ValueError(f"{name}: unknown {', '.join(map(repr, sorted(unknown)))}")
    try:
        found = msgspec.convert(value, kind)
        usable = _usable(found)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name}: {error}") from None
    except RecursionError:
        raise ValueError(f"{name}: nested too deeply") from None
    if not usable:
        raise ValueError(f"{name}: expected finite numbers and integers of 64 bits")
    return found


def is_valid(value: Any, kind: Any) -> bool:
    """Whether `validate` accepts `value`."""
    try:
        validate(value, kind)
    except ValueError:
        return False
    return True


def _usable(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_usable, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_usable, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or abs(value) < LARGEST
