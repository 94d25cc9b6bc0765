"""higher: `innerloop_ctx` for each task. A peer of speed.py."""

from __future__ import annotations

from importlib.metadata import version

import higher
import numpy as np
import torch
from setting import INNER_RATE, TASKS, Episodes, Run
from torch import nn
from torch.nn.functional import mse_loss

from peers.torch_common import Accumulate, meta_gradient_by, program_by


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "higher")}


def loop(net: nn.Module, adaptation_steps: int) -> Accumulate:
    inner_optimizer = torch.optim.SGD(net.parameters(), lr=INNER_RATE)

    def accumulate(episodes: Episodes) -> torch.Tensor:
        total = torch.zeros(())
        for support_x, support_y, query_x, query_y in zip(*(array.unbind() for array in episodes), strict=True):
            with higher.innerloop_ctx(net, inner_optimizer, copy_initial_weights=False) as (adapted, optimizer):
                for _ in range(adaptation_steps):
                    optimizer.step(mse_loss(adapted(support_x), support_y))
                loss = mse_loss(adapted(query_x), query_y) / TASKS
                loss.backward()
            total += loss.detach()
        return total

    return accumulate


def meta_gradient(adaptation_steps: int, threads: int) -> tuple[float, list[np.ndarray]]:
    return meta_gradient_by(loop, adaptation_steps)


def program(adaptation_steps: int, sampling: str, threads: int) -> Run:
    return program_by(loop, adaptation_steps, sampling)
