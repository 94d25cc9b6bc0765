"""Reads pickled arrays as data; refuses pickles that would run code."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fewstep.errors import InputError


@contextmanager
def require_undamaged(what: str, path: Path) -> Iterator[None]:
    """Whatever a damaged file makes numpy, zipfile or pickle raise becomes `InputError`."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        words = str(error) or type(error).__name__
        raise InputError(f"{path}: expected {what}, but it cannot be read: {words}. Download or unpack it again.") from error


class _Kind:
    """Stands in for a pickled numpy.dtype: numbers and words only, and none of the rest that a real one takes on trust."""

    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch(r"[<>=|]?[biufcSUO]\d*", code):
            raise InputError(f"expected a pickle of arrays of numbers and words, but it holds one of {code!r}")
        self.dtype = np.dtype("O" if "O" in code else code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """A pickled array, whose dtype is a `_Kind`."""

    def __setstate__(self, state: Any) -> None:
        version, shape, kind, fortran, content = state
        super().__setstate__((version, shape, kind.dtype, fortran, content))


def _bytes(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 writes bytes for Python 2. Other codecs do more than encode."""
    if encoding.replace("-", "") != "latin1":
        raise InputError(f"expected a pickle of arrays, numbers and words, but it asks for the codec {encoding!r}")
    return text.encode("latin1")


def _scalar(kind: _Kind, raw: str | bytes) -> Any:
    return np.frombuffer(_bytes(raw) if isinstance(raw, str) else raw, kind.dtype)[0]


def _from_buffer(raw: bytes, kind: _Kind, shape: tuple[int, ...], order: Literal["C", "F"]) -> np.ndarray:
    return np.frombuffer(raw, kind.dtype).reshape(shape, order=order)


PLAIN = (list, dict, set, frozenset, tuple, str, bytes, bytearray, int, float, complex, bool)
HARMLESS: dict[tuple[str, str], Any] = {
    **{("builtins", kind.__name__): kind for kind in PLAIN},
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("_codecs", "encode"): _bytes,
    ("numpy", "dtype"): _Kind,
    ("numpy", "ndarray"): object,  # only named as what to make; called, it could be pointed at any memory
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(0, np.uint8),
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
}
"""all that a pickle may ask for by name"""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = module.replace("__builtin__", "builtins").replace("numpy._core", "numpy.core"), name
        if known not in HARMLESS:
            raise InputError(
                f"expected a pickle of arrays, numbers and words, but it asks for {module}.{name}, which may run code"
            )
        return HARMLESS[known]


def load_pickle(path: Path) -> Any:
    """What a pickle of Python 2 or 3 holds, with names as text. Raises `InputError` if it is more than data, or damaged."""
    with require_undamaged("a pickle", path), path.open("rb") as file:
        try:
            data = _Unpickler(file, encoding="latin1").load()  # bytes of Python 2, arrays among them, come through it whole
        except InputError as error:
            raise InputError(f"{path}: {error}. It was not loaded. Get the file from the authors of the data set.") from None
    return {word(key): value for key, value in data.items()} if isinstance(data, dict) else data


def word(name: Any) -> str:
    return name.decode("latin1") if isinstance(name, bytes) else str(name)


def words(names: Iterable[Any]) -> list[str]:
    return [word(name) for name in names]
