"""One checkpoint as one file (floor 3): arrays by name and a record, with a digest of all of it. Used by checkpoint.py.

The layout is that of safetensors, which many tools read: eight bytes with the length of a header, the header as JSON (type,
shape and place of each array), the arrays one after the other. Text and numbers alone: reading one runs nothing. The header
begins with the SHA-256 of the whole file, taken with zeros in its own place.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.errors import BadInput
from fewstep.version import __version__
from fewstep.whole import sync_folder, whole

SUFFIX = ".safetensors"
FORMAT = 1
"""A later number is of files that this version cannot read."""
START = b'{"__metadata__":{"sha256":"'
NO_DIGEST = b"0" * 64
PLACE = slice(8 + len(START), 8 + len(START) + len(NO_DIGEST))


class Damaged(ValueError):
    """This file is not as it was written."""


def write(path: Path, leaves: dict[str, Any], record: dict[str, Any]) -> None:
    """Writes whole or not at all; on the disk before it gets its name."""
    with whole(path) as partial, partial.open("wb") as file:
        file.write(packed(leaves, record))
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def packed(leaves: dict[str, Any], record: dict[str, Any]) -> bytes:
    """The bytes of a checkpoint."""
    arrays = [np.ascontiguousarray(leaf) for leaf in leaves.values()]
    about = {"sha256": NO_DIGEST.decode(), "format": str(FORMAT), "fewstep": __version__, "record": json.dumps(record)}
    header = json.dumps({"__metadata__": about, **entries(leaves)}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    content = bytearray(b"".join([len(header).to_bytes(8, "little"), header, *(array.tobytes() for array in arrays)]))
    content[PLACE] = hashlib.sha256(content).hexdigest().encode()
    return bytes(content)


def read_record(path: Path) -> dict[str, Any]:
    """What a checkpoint holds beside its arrays. Raises as `read` does."""
    return _read(path)[1]


def read(path: Path, like: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays by name, record). Raises `Damaged` where the file is not as it was written, `BadInput` where a later version
    wrote it or its arrays have other names, shapes or types than those of `like`."""
    header, record, content = _read(path)
    known = entries(like)
    if header != known:
        raise BadInput(f"Checkpoint {path} is of another model: {_difference(header, known)}. Nothing was changed.")
    if sum(end - begin for begin, end in (entry["data_offsets"] for entry in known.values())) != len(content):
        raise Damaged
    found = {}
    for name, leaf in like.items():
        begin, end = known[name]["data_offsets"]
        found[name] = np.frombuffer(content[begin:end], np.dtype(leaf.dtype)).reshape(leaf.shape)
    return found, record


def entries(leaves: dict[str, Any]) -> dict[str, Any]:
    """What the header says of these arrays, or of anything with their shapes and types."""
    found, end = {}, 0
    for name, leaf in leaves.items():
        kind = np.dtype(leaf.dtype)
        begin, end = end, end + kind.itemsize * math.prod(leaf.shape)
        found[name] = {"dtype": _name_of(kind), "shape": list(leaf.shape), "data_offsets": [begin, end]}
    return found


def _name_of(kind: np.dtype) -> str:
    """F32, I32, U32, BOOL, BF16 ..., as safetensors has it."""
    if kind.kind == "b":
        return "BOOL"
    letter = {"f": "F", "i": "I", "u": "U"}.get(kind.kind)
    return f"{letter}{8 * kind.itemsize}" if letter else {"bfloat16": "BF16"}.get(kind.name, kind.name)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any], memoryview]:
    """(what the header says of arrays, record, all arrays as bytes)."""
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[:8], "little")
    digest, content[PLACE] = bytes(content[PLACE]), NO_DIGEST
    if content[8 : 8 + len(START)] != START or hashlib.sha256(content).hexdigest().encode() != digest:
        raise Damaged
    try:
        header = json.loads(content[8 : 8 + length])
        about = header.pop("__metadata__")
        format, record = int(about["format"]), json.loads(about["record"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # whoever writes such a thing can write its digest
        raise Damaged from error
    if format > FORMAT:
        raise BadInput(
            f"{path}: expected a checkpoint of format {FORMAT}, got {format}. It takes fewstep {about['fewstep']}, "
            "which wrote it, or a later one."
        )
    return header, record, memoryview(content)[8 + length :]


def _difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """The first array on which two headers do not agree, in words."""
    name = next(name for name in [*expected, *found] if found.get(name) != expected.get(name))
    both = (f"{each[name]['dtype']}{each[name]['shape']}" if name in each else "none" for each in (expected, found))
    return "of {} expected {}, found {}".format(name, *both)
