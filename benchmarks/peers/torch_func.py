"""PyTorch's own function transforms: `vmap` over tasks, `grad` in the inner loop, `functional_call`. A peer of speed/sine.py.

The meta-gradient is built in three ways (backward through vmap, the gradient of the mean, the mean of the gradients),
and the fastest is timed.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import version

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, grad_and_value, vmap
from torch.nn.functional import mse_loss

from benchmarks.peers.setting import INNER_RATE, Episodes, Run, fastest
from benchmarks.peers.torch_common import Accumulate, MakeAccumulate, meta_gradient_by, program_by


def versions() -> dict[str, str]:
    return {"torch": version("torch")}


def meta_gradient(adaptation_steps: int, threads: int) -> tuple[float, list[np.ndarray]]:
    loss, gradients = meta_gradient_by(VARIANTS[0], adaptation_steps)
    for variant in VARIANTS[1:]:
        for gradient, other in zip(gradients, meta_gradient_by(variant, adaptation_steps)[1], strict=True):
            np.testing.assert_allclose(gradient, other, rtol=1e-3, atol=1e-5)
    return loss, gradients


def program(adaptation_steps: int, sampling: str, threads: int) -> Run:
    return fastest(partial(program_by, variant, adaptation_steps, sampling) for variant in VARIANTS)


def task_loss_of(net: nn.Module, adaptation_steps: int):
    """`(params, *episode) -> query loss` of one task after its inner loop."""

    def loss(params: dict, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return mse_loss(functional_call(net, params, (x,)), y)

    def task_loss(params: dict, *episode: torch.Tensor) -> torch.Tensor:
        support_x, support_y, query_x, query_y = episode
        for _ in range(adaptation_steps):
            gradients = grad(loss)(params, support_x, support_y)
            params = {name: params[name] - INNER_RATE * gradients[name] for name in params}
        return loss(params, query_x, query_y)

    return task_loss


IN_DIMS = (None, 0, 0, 0, 0)


def backward_through_vmap(net: nn.Module, adaptation_steps: int) -> Accumulate:
    params, every_task = dict(net.named_parameters()), vmap(task_loss_of(net, adaptation_steps), IN_DIMS)

    def accumulate(episodes: Episodes) -> torch.Tensor:
        loss = every_task(params, *episodes).mean()
        loss.backward()
        return loss.detach()

    return accumulate


def gradient_of_mean(net: nn.Module, adaptation_steps: int, transform=lambda function: function) -> Accumulate:
    every_task = vmap(task_loss_of(net, adaptation_steps), IN_DIMS)
    return put_in_grad(net, transform(grad_and_value(lambda params, *episodes: every_task(params, *episodes).mean())))


def mean_of_gradients(net: nn.Module, adaptation_steps: int) -> Accumulate:
    every_task = vmap(grad_and_value(task_loss_of(net, adaptation_steps)), IN_DIMS)

    def mean(params: dict, *episodes: torch.Tensor):
        gradients, losses = every_task(params, *episodes)
        return {name: gradient.mean(0) for name, gradient in gradients.items()}, losses.mean()

    return put_in_grad(net, mean)


def put_in_grad(net: nn.Module, gradient_and_loss) -> Accumulate:
    """Calls `gradient_and_loss(params, *episodes)` and leaves the gradient where the optimizer looks for it."""
    parameters = dict(net.named_parameters())
    detached = {name: parameter.detach() for name, parameter in parameters.items()}  # shares the storage Adam updates

    def accumulate(episodes: Episodes) -> torch.Tensor:
        gradients, loss = gradient_and_loss(detached, *episodes)
        for name, parameter in parameters.items():
            parameter.grad = gradients[name]
        return loss

    return accumulate


VARIANTS: tuple[MakeAccumulate, ...] = (backward_through_vmap, gradient_of_mean, mean_of_gradients)
compiled_gradient_of_mean: MakeAccumulate = partial(gradient_of_mean, transform=torch.compile)
