"""What the command asks of libraries before they are loaded: that they write nothing to its terminal.

XLA reads its log level once, when jax is loaded, and `import fewstep` loads jax. As a library, fewstep leaves the level
alone."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path

COMMAND = "fewstep"
MODULE = "fewstep.cli"


def is_command(words: Sequence[str]) -> bool:
    """Whether the `words` that started this process call the command: by its name, or as `python -m fewstep.cli`."""
    first = next((number for number, word in enumerate(words) if number and (word == "-m" or not word.startswith("-"))), None)
    if first is None:
        return False
    return list(words[first : first + 2]) == ["-m", MODULE] or Path(words[first]).stem == COMMAND


def quiet_libraries(words: Sequence[str], environ: MutableMapping[str, str]) -> None:
    """Has XLA's C++ code write nothing that is not fatal, where this process is the command: it asks people to file bugs if a
    program takes long to compile, and its errors come as exceptions as well. What the user has set stands."""
    if is_command(words):
        environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


quiet_libraries(sys.orig_argv, os.environ)
