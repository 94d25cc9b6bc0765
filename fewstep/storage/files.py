"""Files and folders of a run: new ones that overwrite nothing, JSON written whole or not at all, fingerprints."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from fewstep.errors import InputError
from fewstep.storage.arrays import atomic_write, is_taken


class Source(NamedTuple):
    """What a problem is built from."""

    path: str
    """of a file or folder, or a pattern of files"""
    hashed: bool = True
    """whether a run is bound to its content"""


def new_directory(directory: str | Path) -> Path:
    """Makes a new folder for a run. Raises `InputError` where it holds something already or cannot be written."""
    directory = Path(directory)
    if is_taken(directory):
        if (directory / "config.json").exists():
            what = f"already holds a run: `fewstep resume {directory}` goes on with it. For a new one choose another folder"
        else:
            what = "already exists and is not empty. Choose another folder, or remove this one"
        raise InputError(f"--out {directory} {what}; nothing was changed.")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--out {directory} cannot be made: {error.strerror}. Choose a folder that you may write to."
        ) from error
    if not os.access(directory, os.W_OK):
        raise InputError(f"--out {directory} cannot be written to. Choose a folder that you may write to.")
    return directory


def write_json(path: Path, content: Any) -> None:
    """Writes whole or not at all."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # a path that is no UTF-8, as JSON escapes it


def is_there(data: str | Path) -> bool:
    """Whether there is such a file or folder, or a file of such a pattern."""
    return Path(data).exists() or any(glob.iglob(str(data), recursive=True))


def fingerprint(data: str | Path) -> str:
    """The SHA-256 of a file, of all files of a pattern and their names, or of the names and sizes of all files in a folder, by
    which changed data is noticed."""
    if Path(data).is_file():
        return _digest(Path(data))
    if Path(data).is_dir():
        files = sorted(path for path in Path(data).rglob("*") if path.is_file())
        listed = (f"{path.relative_to(data).as_posix()} {path.stat().st_size}" for path in files)
        return hashlib.sha256("\n".join(listed).encode("utf-8", "surrogateescape")).hexdigest()
    paths = [Path(name) for name in sorted(glob.glob(str(data), recursive=True)) if Path(name).is_file()]
    return hashlib.sha256(
        "\n".join(f"{path.name} {_digest(path)}" for path in paths).encode("utf-8", "surrogateescape")
    ).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def absolute(settings: Any, sources: Mapping[str, Source]) -> Any:
    """The settings, whose `sources` hold from any working directory."""
    return replace(settings, **{name: str(Path(source.path).resolve()) for name, source in sources.items()})


def fingerprints(sources: Mapping[str, Source]) -> dict[str, str]:
    """The digests of the sources to which a run is bound, by the name of the setting."""
    return {name: fingerprint(source.path) for name, source in sources.items() if source.hashed}
