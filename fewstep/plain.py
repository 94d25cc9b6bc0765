"""Plain data from files that anyone may have changed (floor 0): JSON read strictly, values of the types that were written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

LARGEST = 2**63
"""beyond any size or seed"""


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises `ValueError` where it is damaged, nested without end or holds numbers that are not finite,
    `OSError` where it cannot be read."""
    if path.exists() and not path.is_file():
        raise ValueError("expected a file")
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refused, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refused(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _finite(word: str) -> float:
    return float(word) if math.isfinite(float(word)) else _refused(word)


def require_a(value: Any, hint: Any, name: str) -> None:
    """Raises `ValueError` where `value` is not of the type that `hint` says."""
    if not is_a(value, hint):
        shown = repr(value)
        raise ValueError(f"{name} is {shown[:60]}{'...' if len(shown) > 60 else ''}")


def is_a(value: Any, hint: Any) -> bool:
    """Whether `value` is of a type: of numbers and words, literals, unions, tuples (lists of JSON too), dictionaries."""
    origin, of = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if is_typeddict(hint):
        hints = get_type_hints(hint)
        known = isinstance(value, dict) and hint.__required_keys__ <= set(value)
        return known and all(is_a(value[name], each) for name, each in hints.items() if name in value)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in of)
    if origin in (Union, UnionType):
        return any(is_a(value, each) for each in of)
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            return False
        every = of[:1] * len(value) if of[1:] == (...,) else of
        return len(value) == len(every) and all(map(is_a, value, every))
    if origin is dict:
        return isinstance(value, dict) and all(is_a(name, of[0]) and is_a(each, of[1]) for name, each in value.items())
    if hint is float:
        return type(value) in (int, float) and abs(value) < LARGEST**16 and math.isfinite(value)
    if hint is int:
        return type(value) is int and abs(value) < LARGEST
    return type(value) is hint
