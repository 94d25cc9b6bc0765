"""Two clocks at once, for machines that others use too: waiting lengthens only the first. Used by policy_speed.py."""

from __future__ import annotations

import time

import numpy as np


def clocks() -> np.ndarray:
    """[2] seconds: of the wall, and of the processor, all threads of this process together."""
    return np.array([time.perf_counter(), time.process_time()])
