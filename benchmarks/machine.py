"""What a record says of the machine it was made on. Used by speed.py, sine.py and images.py."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu_name() -> str:
    """The processor as Linux names it, or as Python does elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
