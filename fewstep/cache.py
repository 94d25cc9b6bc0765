"""What fewstep keeps for a user between runs (floor 0): compiled programs, measurements of the machine, prepared images."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory(name: str) -> Path:
    """The user's folder of that name, in `$XDG_CACHE_HOME/fewstep` or `~/.cache/fewstep`; it may not exist yet. All that lies
    in it can be made again."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "fewstep" / name
