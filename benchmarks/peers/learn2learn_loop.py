"""learn2learn's MAML, unmodified: `clone` and `adapt` for each task. A peer of speed/sine.py.

Where the installed package cannot be imported, its MAML is loaded from a checkout, named by the environment variable
LEARN2LEARN_CHECKOUT. The package's own `__init__` imports environments and compiled samplers that MAML does not need.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import nn
from torch.nn.functional import mse_loss

from benchmarks.peers.setting import INNER_RATE, Run
from benchmarks.peers.torch_common import Accumulate, map_tasks, meta_gradient_by, program_by


def load_maml():
    """The class `learn2learn.algorithms.MAML`."""
    if checkout := os.environ.get("LEARN2LEARN_CHECKOUT"):
        for name in ("learn2learn", "learn2learn.algorithms"):
            package = ModuleType(name)
            package.__path__ = [str(Path(checkout, *name.split(".")))]
            sys.modules[name] = package
    return import_module("learn2learn.algorithms.maml").MAML


MAML = load_maml()


def versions() -> dict[str, str]:
    return {"torch": version("torch"), "learn2learn": import_module("learn2learn._version").__version__}


def loop(net: nn.Module, adaptation_steps: int) -> Accumulate:
    maml = MAML(net, lr=INNER_RATE)

    def query_loss(support_x, support_y, query_x, query_y) -> torch.Tensor:
        learner = maml.clone()
        for _ in range(adaptation_steps):
            learner.adapt(mse_loss(learner(support_x), support_y))
        return mse_loss(learner(query_x), query_y)

    return map_tasks(query_loss)


def meta_gradient(adaptation_steps: int, threads: int) -> tuple[float, list[np.ndarray]]:
    return meta_gradient_by(loop, adaptation_steps)


def program(adaptation_steps: int, sampling: str, threads: int) -> Run:
    return program_by(loop, adaptation_steps, sampling)
