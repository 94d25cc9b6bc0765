"""Trajectories in PyTorch: a Gaussian policy, how it is rolled out, what its actions were worth. Used by torch_maml_trpo.py.

Tensors are [tasks, rollouts, steps, …] as they are collected, then [tasks, rows, …].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewstep.apps.policies.environment import Simulation, Tasks

Weights = list[Tensor]
"""kernel [inputs, outputs] and bias [outputs] of each layer, then log-deviation [actions]; adapted ones begin with [tasks]"""
RIDGE, GROWTH, TRIES, UNSOLVED = 1e-5, 10.0, 8, 0.1
"""of the baseline, as in fewstep/apps/policies/advantages.py"""
LEAST_LOG_DEVIATION = math.log(1e-6)


class Seen(NamedTuple):
    """Trajectories, and the policy that drew them."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    weight: Tensor
    terminated: Tensor
    mean: Tensor
    log_deviation: Tensor


class Scored(NamedTuple):
    """What the losses look at: [tasks, rows, …]."""

    observations: Tensor
    actions: Tensor
    advantages: Tensor
    weight: Tensor
    mean: Tensor
    log_deviation: Tensor
    log_probability: Tensor


def policy(weights: Weights, observations: Tensor) -> tuple[Tensor, Tensor]:
    """(mean [tasks, rows, actions], log-deviation, which broadcasts to it)."""
    *layers, log_deviation = weights
    x = observations
    for number in range(0, len(layers), 2):
        kernel, bias = layers[number], layers[number + 1]
        shared = kernel.ndim == 2
        x = torch.nn.functional.linear(x, kernel.T, bias) if shared else torch.baddbmm(bias[:, None], x, kernel)
        if number + 2 < len(layers):
            x = torch.tanh(x)
    return x, log_deviation.clamp(min=LEAST_LOG_DEVIATION).unsqueeze(-2)


def log_probability(mean: Tensor, log_deviation: Tensor, actions: Tensor) -> Tensor:
    score = (actions - mean) * torch.exp(-log_deviation)
    return -(0.5 * score**2 + log_deviation + 0.5 * math.log(2 * math.pi)).sum(-1)


@torch.no_grad()
def collected(simulation: Simulation, weights: Weights, tasks: Tasks, rollouts: int, random: np.random.Generator) -> Seen:
    """Trajectories of all tasks: one batch through the policy and one call of the simulator in each step."""
    rows, steps, dtype = len(tasks) * rollouts, simulation.horizon, weights[0].dtype
    seeds = random.integers(2**31, size=rows).tolist()
    last = simulation.begin([task for task in tasks for _ in range(rollouts)], seeds).observations
    alive = np.ones(rows, bool)
    observations = torch.zeros(rows, steps, simulation.observation_size, dtype=dtype)
    actions, mean = (torch.zeros(rows, steps, simulation.action_size, dtype=dtype) for _ in range(2))
    rewards, weight, terminated = (np.zeros((rows, steps), np.float32) for _ in range(3))
    for step in range(steps):
        now = torch.from_numpy(last).to(dtype)
        drawn, log_deviation = policy(weights, now.view(len(tasks), rollouts, -1))
        acted = (drawn + torch.exp(log_deviation) * torch.randn_like(drawn)).view(rows, -1)
        observations[:, step], actions[:, step], mean[:, step] = now, acted, drawn.view(rows, -1)
        outcome = simulation.step(acted.numpy(), alive)
        weight[alive, step] = 1
        rewards[alive, step] = outcome.rewards[alive]
        terminated[alive, step] = outcome.terminated[alive]
        last = np.where(alive[:, None], outcome.observations, last)
        alive = alive & ~outcome.terminated
        if not alive.any():
            break
    numbers = (torch.from_numpy(array).to(dtype) for array in (rewards, weight, terminated))
    parts = (part.view(len(tasks), rollouts, *part.shape[1:]) for part in (observations, actions, *numbers, mean))
    return Seen(*parts, log_deviation=weights[-1].clamp(min=LEAST_LOG_DEVIATION))


@torch.no_grad()
def collected_one_by_one(environments: Sequence[Any], weights: Weights, task: Any, steps: int, random: Any) -> Seen:
    """Trajectories of one task, its environments stepped in a loop; tensors begin with one task."""
    rows, dtype = len(environments), weights[0].dtype
    last = []
    for environment in environments:
        environment.set_task(task)
        last.append(environment.reset(seed=int(random.integers(2**31)))[0])
    last, alive = np.stack(last), np.ones(rows, bool)
    seen, acted, means, rewards, weight, terminated = [], [], [], [], [], []
    for _ in range(steps):
        now = torch.from_numpy(last).to(dtype)
        mean, log_deviation = policy(weights, now[None])
        action = mean + torch.exp(log_deviation) * torch.randn_like(mean)
        seen.append(now)
        acted.append(action[0])
        means.append(mean[0])
        weight.append(alive.astype(np.float32))
        commands, paid, ended = action[0].numpy(), np.zeros(rows, np.float32), np.zeros(rows, bool)
        last = last.copy()
        for row in np.flatnonzero(alive).tolist():
            last[row], paid[row], ended[row], _, _ = environments[row].step(commands[row])
        rewards.append(paid)
        terminated.append(ended.astype(np.float32))
        alive = alive & ~ended
        if not alive.any():
            break
    parts = [torch.stack(part, 1) for part in (seen, acted, means)]
    numbers = [torch.from_numpy(np.stack(part, 1)).to(dtype) for part in (rewards, weight, terminated)]
    if len(rewards) < steps:  # all had ended: of one length with other tasks
        short = steps - len(rewards)
        parts = [torch.nn.functional.pad(part, (0, 0, 0, short)) for part in parts]
        numbers = [torch.nn.functional.pad(part, (0, short)) for part in numbers]
    observations, actions, mean = (part[None] for part in parts)
    log_deviation = weights[-1].clamp(min=LEAST_LOG_DEVIATION)
    paid, taken, ended = (part[None] for part in numbers)
    return Seen(observations, actions, paid, taken, ended, mean, log_deviation)


@torch.no_grad()
def scored(seen: Seen, discount: float, trace: float) -> Scored:
    """Linear baseline of each task, generalized advantages, normalized; after the horizon comes nothing."""
    weight, rewards = seen.weight, seen.rewards * seen.weight
    steps = weight.shape[-1]
    to_go, after = torch.empty_like(rewards), torch.zeros_like(rewards[..., 0])
    for step in reversed(range(steps)):
        after = rewards[..., step] + discount * after
        to_go[..., step] = after
    clipped = seen.observations.clamp(-10, 10)
    moment = (torch.arange(steps, dtype=weight.dtype) / 100).expand(weight.shape)[..., None]
    known = torch.cat([clipped, clipped**2, moment, moment**2, moment**3, torch.ones_like(moment)], -1).flatten(1, 2)
    weighted, count = known * weight.flatten(1)[..., None], weight.flatten(1).sum(1).clamp(min=1)
    squares = weighted.transpose(1, 2) @ known / count[:, None, None]
    products = (weighted.transpose(1, 2) @ to_go.flatten(1)[..., None])[..., 0] / count[:, None]
    values = (known @ ridge_regression(squares, products)[..., None])[..., 0].view(weight.shape)
    goes_on = torch.nn.functional.pad(weight[..., 1:], (0, 1))
    following = torch.nn.functional.pad(values[..., 1:], (0, 1)) * goes_on * (1 - seen.terminated)
    errors = (seen.rewards + discount * following - values) * weight
    advantages, later = torch.empty_like(rewards), torch.zeros_like(after)
    for step in reversed(range(steps)):
        later = errors[..., step] + discount * trace * goes_on[..., step] * later
        advantages[..., step] = later
    weight, advantages = weight.flatten(1), advantages.flatten(1)
    centered = advantages - average(advantages, weight)[:, None]
    advantages = weight * centered / (average(centered**2, weight).sqrt() + 1e-8)[:, None]
    observations, actions, mean = (part.flatten(1, 2) for part in (seen.observations, seen.actions, seen.mean))
    log_deviation = seen.log_deviation.expand(len(mean), -1)[:, None]
    old = log_probability(mean, log_deviation, actions)
    return Scored(observations, actions, advantages, weight, mean, log_deviation, old)


def ridge_regression(squares: Tensor, products: Tensor) -> Tensor:
    """[tasks, features]; the ridge, in parts of the diagonal, grows until every system can be solved."""
    scale = squares.diagonal(dim1=-2, dim2=-1).clamp(min=1e-12).rsqrt()
    squares, products = squares * scale[:, :, None] * scale[:, None], products * scale
    found, open_, ridge = torch.zeros_like(products), torch.ones(len(products), dtype=torch.bool), RIDGE
    for _ in range(TRIES + 1):
        system = squares + ridge * torch.eye(squares.shape[-1], dtype=squares.dtype)
        solution = torch.linalg.solve_ex(system, products[..., None])[0]
        left = (system @ solution)[..., 0] - products
        solved = open_ & (left.norm(dim=-1) <= UNSOLVED * products.norm(dim=-1))
        found[solved] = solution[solved, :, 0]
        open_, ridge = open_ & ~solved, GROWTH * ridge
        if not open_.any():
            break
    return scale * found


def average(values: Tensor, weight: Tensor) -> Tensor:
    """[tasks]: the mean over the steps that were taken."""
    return (weight * values).sum(-1) / weight.sum(-1).clamp(min=1e-8)
