"""MAML with TRPO in PyTorch (Finn et al. 2017, Algorithm 3), what speed/policies.py compares fewstep with.

What it computes is what fewstep computes, which is checked first; how, is what PyTorch offers: an inner step with
`create_graph`, products with the Hessian of the divergence by a second backward pass through it (as in pytorch-maml-rl and
learn2learn), a line search that adapts anew. It runs in two ways:

* `in_batches`: all tasks and rollouts side by side, each task's own weights by batched products, as well as we can write it;
* `one_by_one`: as the public codes do it, a loop over tasks, and over environments in every step.

How trajectories are collected and what their actions were worth stands in `torch_trajectories.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.torch_trajectories import (
    Scored,
    Weights,
    average,
    collected,
    collected_one_by_one,
    log_probability,
    policy,
    scored,
)
from benchmarks.records import clocks
from fewstep.apps.policies.environment import Simulation


class Settings(NamedTuple):
    """Sizes, rates and limits; the words are those of fewstep's `PolicySearch` and `TrustRegion`."""

    tasks: int
    rollouts: int
    adaptation_steps: int
    inner_rate: float
    discount: float
    trace: float
    kl_limit: float
    damping: float
    iterations: int
    shrink: float
    tries: int


class Done(NamedTuple):
    """What a meta-step led to."""

    theta: Weights
    collecting: np.ndarray
    """[2] seconds of it, by `clocks`"""
    tries: int
    """of the line search"""


def in_batches(simulation: Simulation, settings: Settings, theta: Weights, random: np.random.Generator) -> Done:
    """One meta-step, everything side by side."""
    tasks = simulation.sample_tasks(random, settings.tasks)
    collecting, batches, weights = np.zeros(2), [], theta
    for number in range(settings.adaptation_steps + 1):
        started = clocks()
        seen = collected(simulation, weights, tasks, settings.rollouts, random)
        collecting += clocks() - started
        batches.append(scored(seen, settings.discount, settings.trace))
        if number < settings.adaptation_steps:
            weights = detached(adapted(theta if number == 0 else weights, batches[-1:], settings.inner_rate, False))
    found, tries = outer_step(theta, batches[:-1], batches[-1], settings)
    return Done(found, collecting, tries)


def one_by_one(
    environments: Sequence[Any], sample_tasks: Callable, horizon: int, settings: Settings, theta: Weights, random: Any
) -> Done:
    """One meta-step, task by task and environment by environment; `environments` are Gymnasium's, one for each rollout."""
    collecting, by_task = np.zeros(2), []
    for task in sample_tasks(random, settings.tasks):
        batches, weights = [], theta
        for number in range(settings.adaptation_steps + 1):
            started = clocks()
            seen = collected_one_by_one(environments, weights, task, horizon, random)
            collecting += clocks() - started
            batches.append(scored(seen, settings.discount, settings.trace))
            if number < settings.adaptation_steps:
                weights = detached(adapted(weights, batches[-1:], settings.inner_rate, False))
        by_task.append(batches)
    batches = [Scored(*(torch.cat(parts) for parts in zip(*each, strict=True))) for each in zip(*by_task, strict=True)]
    found, tries = outer_step(theta, batches[:-1], batches[-1], settings, by_task=True)
    return Done(found, collecting, tries)


def surrogate(weights: Weights, batch: Scored) -> Tensor:
    """[tasks]: minus the mean of π / π_old · A."""
    ratio = torch.exp(log_probability(*policy(weights, batch.observations), batch.actions) - batch.log_probability)
    return -average(ratio * batch.advantages, batch.weight)


def judged(weights: Weights, batch: Scored) -> tuple[Tensor, Tensor]:
    """(surrogate, divergence) [tasks], of one pass through the policy."""
    mean, log_deviation = policy(weights, batch.observations)
    ratio = torch.exp(log_probability(mean, log_deviation, batch.actions) - batch.log_probability)
    squares = torch.exp(2 * batch.log_deviation) + (batch.mean - mean) ** 2
    apart = log_deviation - batch.log_deviation + 0.5 * squares * torch.exp(-2 * log_deviation) - 0.5
    return -average(ratio * batch.advantages, batch.weight), average(apart.sum(-1), batch.weight)


def adapted(weights: Weights, supports: Sequence[Scored], rate: float, create_graph: bool) -> Weights:
    """θ′ of every task, [tasks, …]; `weights` are θ, or have tasks already. Without `create_graph` it is data."""
    for number, support in enumerate(supports):
        tasks = len(support.weight)
        if not create_graph:
            weights = [weight.detach() for weight in weights]
        if number == 0 and weights[0].ndim == 2:
            weights = [weight.expand(tasks, *weight.shape) for weight in weights]
        if not create_graph:
            weights = [weight.requires_grad_() for weight in weights]
        with torch.enable_grad():
            gradients = torch.autograd.grad(surrogate(weights, support).sum(), weights, create_graph=create_graph)
            weights = [weight - rate * gradient for weight, gradient in zip(weights, gradients, strict=True)]
    return weights


def detached(weights: Weights) -> Weights:
    return [weight.detach() for weight in weights]


def through_adaptation(
    theta: Weights, supports: Sequence[Scored], query: Scored, settings: Settings, create_graph: bool, by_task: bool = False
) -> tuple[Tensor, Tensor]:
    """(surrogate, divergence) of the adapted policies, means over tasks; all at once or in a loop over tasks."""
    if not by_task:
        found, apart = judged(adapted(theta, supports, settings.inner_rate, create_graph), query)
        return found.mean(), apart.mean()
    parts = []
    for number in range(len(query.weight)):
        *own, last = (Scored(*(leaf[number : number + 1] for leaf in batch)) for batch in (*supports, query))
        parts.append(judged(adapted(theta, own, settings.inner_rate, create_graph), last))
    found, apart = (torch.cat(each) for each in zip(*parts, strict=True))
    return found.mean(), apart.mean()


def meta_gradient(
    theta: Weights, supports: Sequence[Scored], query: Scored, settings: Settings, by_task: bool = False
) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """(surrogate, its gradient, v -> Hv), raveled; H the Hessian of the divergence in θ, not damped."""
    theta = [weight.detach().requires_grad_() for weight in theta]
    found, apart = through_adaptation(theta, supports, query, settings, True, by_task)
    gradient = raveled(torch.autograd.grad(found, theta, retain_graph=True))
    slope = raveled(torch.autograd.grad(apart, theta, create_graph=True))
    return found.detach(), gradient, lambda v: raveled(torch.autograd.grad(slope @ v, theta, retain_graph=True))


def outer_step(
    theta: Weights, supports: Sequence[Scored], query: Scored, settings: Settings, by_task: bool = False
) -> tuple[Weights, int]:
    """(θ after one step of TRPO through adaptation, lengths tried)."""
    before, gradient, product = meta_gradient(theta, supports, query, settings, by_task)

    def damped(v: Tensor) -> Tensor:
        return product(v) + settings.damping * v

    direction = conjugate_gradients(damped, gradient, settings.iterations)
    step = direction * torch.sqrt(2 * settings.kl_limit / (direction @ damped(direction)).clamp(min=1e-12))
    start = raveled(theta)
    for tries in range(settings.tries):
        candidate = as_weights(start - settings.shrink**tries * step, theta)
        with torch.no_grad():
            found, apart = through_adaptation(candidate, supports, query, settings, False, by_task)
        if found < before and apart <= settings.kl_limit:
            return candidate, tries + 1
    return theta, settings.tries


def conjugate_gradients(product: Callable[[Tensor], Tensor], target: Tensor, iterations: int) -> Tensor:
    x, residual, along, left = torch.zeros_like(target), target, target, target @ target
    for _ in range(iterations):
        moved = product(along)
        bend = along @ moved
        if left <= 1e-20 or bend <= 0:
            break
        length = left / bend
        x, residual = x + length * along, residual - length * moved
        now = residual @ residual
        along, left = residual + now / left * along, now
    return x


def raveled(weights: Sequence[Tensor]) -> Tensor:
    return torch.cat([weight.reshape(-1) for weight in weights])


def as_weights(flat: Tensor, like: Weights) -> Weights:
    parts = flat.split([weight.numel() for weight in like])
    return [part.view(weight.shape) for part, weight in zip(parts, like, strict=True)]
