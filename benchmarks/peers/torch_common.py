"""What the PyTorch peers share: the network, the sampler and the outer loop. No peer by itself.

A peer brings `accumulate(episodes) -> meta-loss`, which leaves the meta-gradient in `.grad` of the parameters; one that
loops over tasks brings the loop's body, and `map_tasks` makes the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from benchmarks.peers.setting import (
    ADAM_EPSILON,
    AMPLITUDES,
    INPUTS,
    OUTER_RATE,
    PHASES,
    SHOTS,
    SIZES,
    TASKS,
    Episodes,
    Run,
    fixed_episodes,
    fixed_weights,
)

Accumulate = Callable[[Episodes], torch.Tensor]
MakeAccumulate = Callable[[nn.Module, int], Accumulate]
"""`(net, adaptation_steps) -> accumulate`"""


def map_tasks(query_loss: Callable[..., torch.Tensor]) -> Accumulate:
    """The loop over tasks that most libraries document: `query_loss(support_x, support_y, query_x, query_y)` of each adapted
    task, its gradient added to `.grad` before the next task begins."""

    def accumulate(episodes: Episodes) -> torch.Tensor:
        total = torch.zeros(())
        for episode in zip(*(array.unbind() for array in episodes), strict=True):
            loss = query_loss(*episode) / TASKS
            loss.backward()
            total += loss.detach()
        return total

    return accumulate


def network() -> nn.Sequential:
    """The network, with the fixed weights."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(SIZES):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    net = nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for parameter, array in zip(net.parameters(), fixed_weights(), strict=True):
            parameter.copy_(torch.from_numpy(array.T if array.ndim == 2 else array))
    return net


def fixed() -> Episodes:
    return Episodes(*map(torch.from_numpy, fixed_episodes()))


def draw() -> Episodes:
    """A fresh meta-batch of sine waves."""
    amplitude = torch.empty(TASKS, 1, 1).uniform_(*AMPLITUDES)
    phase = torch.empty(TASKS, 1, 1).uniform_(*PHASES)
    x = torch.empty(TASKS, 2 * SHOTS, 1).uniform_(*INPUTS)
    y = amplitude * torch.sin(x + phase)
    return Episodes(x[:, :SHOTS], y[:, :SHOTS], x[:, SHOTS:], y[:, SHOTS:])


def meta_gradient_by(make: MakeAccumulate, adaptation_steps: int) -> tuple[float, list[np.ndarray]]:
    """(meta-loss, gradients) on the fixed meta-batch, in setting.py's layout."""
    net = network()
    loss = make(net, adaptation_steps)(fixed())
    gradients = [parameter.grad.numpy() for parameter in net.parameters()]
    return loss.item(), [gradient.T if gradient.ndim == 2 else gradient for gradient in gradients]


def program_by(make: MakeAccumulate, adaptation_steps: int, sampling: str) -> Run:
    """The outer loop: Adam on what `accumulate` leaves in `.grad`."""
    net = network()
    accumulate = make(net, adaptation_steps)
    optimizer = torch.optim.Adam(net.parameters(), lr=OUTER_RATE, eps=ADAM_EPSILON)
    episodes = fixed()

    def run(n: int) -> float:
        for _ in range(n):
            optimizer.zero_grad()
            loss = accumulate(draw() if sampling == "in" else episodes)
            optimizer.step()
        return loss.item()

    return run
