"""torch_func.py's gradient of the mean under `torch.compile`; it needs a C++ compiler. A peer of speed/sine.py."""

from __future__ import annotations

import shutil

import numpy as np

from benchmarks.peers.setting import Run
from benchmarks.peers.torch_common import meta_gradient_by, program_by
from benchmarks.peers.torch_func import compiled_gradient_of_mean, versions

__all__ = ["meta_gradient", "program", "versions"]

if not (shutil.which("g++") or shutil.which("clang++")):
    raise ModuleNotFoundError("a C++ compiler for torch.compile")


def meta_gradient(adaptation_steps: int, threads: int) -> tuple[float, list[np.ndarray]]:
    return meta_gradient_by(compiled_gradient_of_mean, adaptation_steps)


def program(adaptation_steps: int, sampling: str, threads: int) -> Run:
    return program_by(compiled_gradient_of_mean, adaptation_steps, sampling)
