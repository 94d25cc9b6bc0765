"""One checkpoint as one safetensors file (floor 3): arrays by name and a record, with a digest of all of it. Used by
checkpoint.py.

The metadata of the file has one entry: the SHA-256 of the whole file, computed with zeros in its own place, then JSON with the
format, the version of fewstep and the record. Text and numbers alone: reading a file runs nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from fewstep.errors import BadInput
from fewstep.version import __version__
from fewstep.whole import sync_folder, whole

SUFFIX = ".safetensors"
FORMAT = 2
START = b'{"__metadata__":{"fewstep":"'
EARLIER_START = b'{"__metadata__":{"sha256":"'
NO_DIGEST = b"0" * 64
PLACE = slice(8 + len(START), 8 + len(START) + len(NO_DIGEST))


class Damaged(ValueError):
    """This file is not as it was written."""


def write(path: Path, leaves: dict[str, Any], record: dict[str, Any]) -> None:
    """Writes the whole file or nothing; it is on the disk before it gets its name."""
    with whole(path) as partial, partial.open("wb") as file:
        file.write(packed(leaves, record))
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def packed(leaves: dict[str, Any], record: dict[str, Any]) -> bytearray:
    """The bytes of a checkpoint."""
    about = json.dumps({"format": FORMAT, "fewstep": __version__, "record": record})
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in leaves.items()}
    content = bytearray(save(arrays, {"fewstep": NO_DIGEST.decode() + about}))
    content[PLACE] = _digest(content)
    return content


def read_record(path: Path) -> dict[str, Any]:
    """What a checkpoint holds beside its arrays. Raises as `read` does."""
    return _read(path)[0]


def read(path: Path, like: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays by name, record).

    Raises `Damaged` if the file is not as it was written; `BadInput` if a version of fewstep with another format wrote it, or
    if the names, shapes or types of its arrays are not those of `like`.
    """
    record, content = _read(path)
    try:
        arrays = dict(deserialize(content))
    except SafetensorError as error:  # a forged header
        raise Damaged from error
    found = {name: f"{array['dtype']}{array['shape']}" for name, array in arrays.items()}
    expected = {name: f"{_type_name(np.dtype(leaf.dtype))}{list(leaf.shape)}" for name, leaf in like.items()}
    if odd := next((name for name in [*expected, *found] if found.get(name) != expected.get(name)), None):
        difference = f"of {odd} expected {expected.get(odd, 'none')}, found {found.get(odd, 'none')}"
        raise BadInput(f"Checkpoint {path} is of another model: {difference}. Nothing was changed.")
    return {name: np.frombuffer(arrays[name]["data"], leaf.dtype).reshape(leaf.shape) for name, leaf in like.items()}, record


def _type_name(dtype: np.dtype) -> str:
    """F32, I32, U32, BOOL, BF16 ..., as safetensors has it."""
    known = {"bool": "BOOL", "bfloat16": "BF16"}
    return known.get(dtype.name) or f"{dtype.kind.upper()}{8 * dtype.itemsize}"


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    """(record, content of the file), the digest checked."""
    content = path.read_bytes()
    length, start = int.from_bytes(content[:8], "little"), content[8 : PLACE.start]
    if start.startswith(EARLIER_START):
        raise BadInput(f"{path}: expected a checkpoint of format {FORMAT}, found an earlier one. Train the run again.")
    if start != START or content[PLACE] != _digest(content):
        raise Damaged
    try:
        about = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["fewstep"][len(NO_DIGEST) :])
        format, version, record = about["format"], about["fewstep"], about["record"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # whoever writes such a thing can write its digest
        raise Damaged from error
    if format != FORMAT:
        raise BadInput(
            f"{path}: expected a checkpoint of format {FORMAT}, got {format}. It takes fewstep {version}, which wrote it, or a "
            "later one."
        )
    return record, content


def _digest(content: bytes | bytearray) -> bytes:
    """SHA-256 of a checkpoint, with zeros in the place of the digest."""
    view, digest = memoryview(content), hashlib.sha256()
    for piece in (view[: PLACE.start], NO_DIGEST, view[PLACE.stop :]):
        digest.update(piece)
    return digest.hexdigest().encode()
