"""How many CPU cores this process may use (floor 0)."""

from __future__ import annotations

import os


def cpu_cores() -> int:
    """Those it was given, where the system says so; else all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
