"""higher: `innerloop_ctx` for each task. A peer of speed/sine.py."""

from __future__ import annotations

from importlib.metadata import version

import higher
import numpy as np
import torch
from torch import nn
from torch.nn.functional import mse_loss

from benchmarks.peers.setting import INNER_RATE, Run
from benchmarks.peers.torch_common import Accumulate, map_tasks, meta_gradient_by, program_by


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "higher")}


def loop(net: nn.Module, adaptation_steps: int) -> Accumulate:
    inner_optimizer = torch.optim.SGD(net.parameters(), lr=INNER_RATE)

    def query_loss(support_x, support_y, query_x, query_y) -> torch.Tensor:
        with higher.innerloop_ctx(net, inner_optimizer, copy_initial_weights=False) as (adapted, optimizer):
            for _ in range(adaptation_steps):
                optimizer.step(mse_loss(adapted(support_x), support_y))
            return mse_loss(adapted(query_x), query_y)

    return map_tasks(query_loss)


def meta_gradient(adaptation_steps: int, threads: int) -> tuple[float, list[np.ndarray]]:
    return meta_gradient_by(loop, adaptation_steps)


def program(adaptation_steps: int, sampling: str, threads: int) -> Run:
    return program_by(loop, adaptation_steps, sampling)
