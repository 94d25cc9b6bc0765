"""What fewstep keeps for a user between runs: compiled programs, measurements of the machine, prepared images."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO


def cache_directory(name: str) -> Path:
    """The user's folder of that name, in `$XDG_CACHE_HOME/fewstep` or `~/.cache/fewstep`; it may not exist yet. All that lies
    in it can be made again."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "fewstep" / name


def keep(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file of the cache whole, or not at all. A folder that cannot be written costs only that its content is made anew
    next time."""
    partial = path.with_name(f"{path.name}.{time.time_ns()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            write(file)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
