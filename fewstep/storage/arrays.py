"""Pytrees as files of plain arrays: a name for every leaf, no pickle.

Files written whole or not at all, whatever happens in between.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED

import jax
import jax.numpy as jnp
import numpy as np


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Where to write, beside `path`: it takes this name when all is written, and is removed where that fails. On a full disk
    the half that was written would take the last of it."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Writes the names of a folder's files to the disk, on systems that open folders."""
    if hasattr(os, "O_DIRECTORY"):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def is_taken(path: Path) -> bool:
    """Whether a file or a folder that is not empty stands there."""
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree under their paths: plain names on disk, whatever the types of the containers."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def write_arrays(path: Path, tree: Any) -> None:
    """Writes the leaves of a pytree into one .npz file: whole or not at all."""
    arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in named_leaves(tree).items()}
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


@contextmanager
def arrays_in(path: Path, most: int | None = None) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of an .npz file by name, read as they are asked for.

    Raises `ValueError` where they unfold to more than `most` bytes, or, where that is not said, are compressed at all; and many
    kinds of errors where the file is damaged.
    """
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:  # np.load(path) leaves open what it cannot read
        parts = stored.zip.infolist()
        if most is None and any(part.compress_type != ZIP_STORED for part in parts):
            raise ValueError("compressed, as `write_arrays` writes none: it may unfold to any size")
        if most is not None and sum(part.file_size for part in parts) > most:
            raise ValueError(f"it unpacks to more than the {most:,} bytes that it may hold")
        yield stored


def read_arrays(path: Path, like: Any) -> Any:
    """A pytree of the structure of `like` from a file of `write_arrays`.

    Leaves may be longer than those of `like` along their first axis (an empirical prior has many centers), and differ in
    nothing else. Raises many kinds of errors where the file is damaged or of another model.
    """
    expected = named_leaves(like)
    with arrays_in(path) as stored:
        leaves = [jnp.asarray(stored[name]) for name in expected]
    for (name, known), leaf in zip(expected.items(), leaves, strict=True):
        if known.shape[1:] != leaf.shape[1:] or known.ndim != leaf.ndim:
            raise ValueError(f"{name} has shape {leaf.shape}, expected {known.shape}")
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
