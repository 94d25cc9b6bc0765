"""Files written whole or not at all (floor 0), whatever happens in between."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
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
