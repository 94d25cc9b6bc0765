"""A pytest plugin: which functions of fewstep the tests of one process call. Used by mutants.py.

Writes the sorted list of "path::qualified name" of the checkout FEWSTEP_TREE to the file FEWSTEP_CALLED. Functions inside a
function count as the outer one.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

ROOT = Path(os.environ["FEWSTEP_TREE"])
FEWSTEP = str(ROOT / "fewstep") + os.sep
seen = set()


def note(frame, event, argument) -> None:
    if event == "call":
        seen.add(frame.f_code)


def pytest_configure(config) -> None:
    threading.setprofile(note)
    sys.setprofile(note)


def pytest_unconfigure(config) -> None:
    sys.setprofile(None)
    found = set()
    for code in seen:
        if code.co_filename.startswith(FEWSTEP):
            name = code.co_qualname.partition(".<locals>")[0]
            found.add(f"{Path(code.co_filename).relative_to(ROOT)}::{name}")
    Path(os.environ["FEWSTEP_CALLED"]).write_text(json.dumps(sorted(found)))
