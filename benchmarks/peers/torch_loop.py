"""PyTorch without a library: a loop over tasks, `autograd.grad(create_graph=True)` in each. A peer of speed/sine.py."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import torch
from torch import nn
from torch.nn.functional import linear, mse_loss, relu

from benchmarks.peers.setting import INNER_RATE, Run
from benchmarks.peers.torch_common import Accumulate, map_tasks, meta_gradient_by, program_by


def versions() -> dict[str, str]:
    return {"torch": version("torch")}


def forward(params: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    *hidden, last = zip(params[::2], params[1::2], strict=True)
    for weight, bias in hidden:
        x = relu(linear(x, weight, bias))
    return linear(x, *last)


def loop(net: nn.Module, adaptation_steps: int) -> Accumulate:
    theta = list(net.parameters())

    def query_loss(support_x, support_y, query_x, query_y) -> torch.Tensor:
        adapted = theta
        for _ in range(adaptation_steps):
            gradients = torch.autograd.grad(mse_loss(forward(adapted, support_x), support_y), adapted, create_graph=True)
            adapted = [p - INNER_RATE * g for p, g in zip(adapted, gradients, strict=True)]
        return mse_loss(forward(adapted, query_x), query_y)

    return map_tasks(query_loss)


def meta_gradient(adaptation_steps: int, threads: int) -> tuple[float, list[np.ndarray]]:
    return meta_gradient_by(loop, adaptation_steps)


def program(adaptation_steps: int, sampling: str, threads: int) -> Run:
    return program_by(loop, adaptation_steps, sampling)
