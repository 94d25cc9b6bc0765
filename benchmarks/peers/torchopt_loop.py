"""TorchOpt: `MetaSGD` adapts the network in place for each task, then the network is put back. A peer of speed/sine.py."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import torch
import torchopt
from torch import nn
from torch.nn.functional import mse_loss

from benchmarks.peers.setting import INNER_RATE, TASKS, Episodes, Run
from benchmarks.peers.torch_common import Accumulate, meta_gradient_by, program_by


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "torchopt")}


def loop(net: nn.Module, adaptation_steps: int) -> Accumulate:
    inner_optimizer = torchopt.MetaSGD(net, lr=INNER_RATE)

    def accumulate(episodes: Episodes) -> torch.Tensor:
        total = torch.zeros(())
        net_state = torchopt.extract_state_dict(net, by="reference")
        optimizer_state = torchopt.extract_state_dict(inner_optimizer, by="reference")
        for support_x, support_y, query_x, query_y in zip(*(array.unbind() for array in episodes), strict=True):
            for _ in range(adaptation_steps):
                inner_optimizer.step(mse_loss(net(support_x), support_y))
            loss = mse_loss(net(query_x), query_y) / TASKS
            loss.backward()
            total += loss.detach()
            torchopt.recover_state_dict(net, net_state)
            torchopt.recover_state_dict(inner_optimizer, optimizer_state)
        return total

    return accumulate


def meta_gradient(adaptation_steps: int, threads: int) -> tuple[float, list[np.ndarray]]:
    return meta_gradient_by(loop, adaptation_steps)


def program(adaptation_steps: int, sampling: str, threads: int) -> Run:
    return program_by(loop, adaptation_steps, sampling)
