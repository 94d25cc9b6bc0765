"""RL² (Duan et al. 2016, arXiv 1611.02779): a recurrent policy, which adapts by remembering. A rival in docs/policies.md.

A trial is several trajectories of one task in a row. The policy is a gated recurrent unit (Cho et al. 2014) that is given
the observation, the last reward, the last action and whether a trajectory begins; what it remembers goes on from one to
the next. It is trained by PPO (Schulman et al. 2017) on whole trials, with a value head on the same memory. A meta-step
takes as many steps of the environment as one of the policies it is compared with. Used by policies.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fewstep import nn
from fewstep.apps.policies.environment import Environment, Simulation
from fewstep.apps.policies.networks import FAR, LEAST_DEVIATION, STATISTICS, Gaussian, gaussian, update_statistics
from fewstep.apps.policies.simulated import generator_of

UNITS = 64
GAUSSIAN = gaussian(1, 1)
"""for its densities alone"""


@dataclass(frozen=True)
class Recurrent:
    """How it is trained."""

    trials: int = 200
    """in a meta-step, each of a task of its own"""
    trajectories: int = 4
    """of a trial: the first without experience"""
    epochs: int = 5
    parts: int = 20
    """into which the trials are cut, an Adam step for each"""
    rate: float = 1e-3
    """of Adam; it falls to 0 along a line"""
    clip: float = 0.2
    discount: float = 0.99
    trace: float = 0.95
    deviation: float = 0.6
    """of actions at the beginning"""


class Trials(NamedTuple):
    """Leaves [steps of all trajectories, trials, ...]."""

    inputs: jax.Array
    actions: jax.Array
    rewards: jax.Array
    log_probability: jax.Array
    values: jax.Array
    weight: jax.Array


def begin(key: jax.Array, observed: int, actions: int, deviation: float) -> dict[str, Any]:
    """Parameters."""
    keys, inputs = jax.random.split(key, 3), observed + actions + 2
    return {
        "gates": nn.GLOROT(keys[0], (inputs + UNITS, 3 * UNITS), jnp.float32),
        "shift": jnp.zeros(3 * UNITS),
        "action": 0.01 * nn.GLOROT(keys[1], (UNITS, actions), jnp.float32),
        "value": nn.GLOROT(keys[2], (UNITS, 1), jnp.float32),
        "log_deviation": jnp.full(actions, math.log(deviation)),
        STATISTICS: {"count": jnp.zeros(()), "mean": jnp.zeros(observed + 1), "variance": jnp.ones(observed + 1)},
    }


def remembered(theta: dict[str, Any], memory: jax.Array, inputs: jax.Array, weight: jax.Array) -> jax.Array:
    """The memory [rows, units] after `inputs` [rows, ...]; as it was where `weight` [rows] is 0."""
    seen = theta[STATISTICS]
    observed = len(seen["mean"])
    scale = jnp.maximum(jnp.sqrt(seen["variance"]), LEAST_DEVIATION)
    near = jnp.clip((inputs[:, :observed] - seen["mean"][None]) / scale[None], -FAR, FAR)  # rewards, too
    row, width = jnp.concatenate([near, inputs[:, observed:]], 1), 2 * UNITS
    both = jnp.concatenate([row, memory], 1) @ theta["gates"][:, :width] + theta["shift"][None, :width]
    reset, update = jnp.split(jax.nn.sigmoid(both), 2, axis=1)
    fresh = jnp.tanh(jnp.concatenate([row, reset * memory], 1) @ theta["gates"][:, width:] + theta["shift"][None, width:])
    return jnp.where(weight[:, None] > 0, (1 - update) * fresh + update * memory, memory)


def judged(theta: dict[str, Any], memory: jax.Array, actions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(log density of `actions`, value) [rows]."""
    mean = memory @ theta["action"]
    drawn = Gaussian(mean, jnp.broadcast_to(theta["log_deviation"], mean.shape))
    return GAUSSIAN.log_probability(drawn, actions), (memory @ theta["value"])[:, 0]


def acted(theta: dict[str, Any], memory: jax.Array, inputs: jax.Array, weight: jax.Array, key: jax.Array):
    """(memory, actions, log density, value) in one step of control of all rows."""
    memory = remembered(theta, memory, inputs, weight)
    mean = memory @ theta["action"]
    actions = mean + jnp.exp(theta["log_deviation"])[None] * jax.random.normal(key, mean.shape)
    return memory, actions, *judged(theta, memory, actions)


_acted = jax.jit(acted)


def inside(environment: Environment, theta: dict[str, Any], tasks: Any, key: jax.Array, trajectories: int) -> Trials:
    """Trials of `tasks` [rows, ...] in an environment of pure functions. Pure."""
    rows = len(jax.tree.leaves(tasks)[0])

    def step(carry, key):
        memory, state, active, action, reward, first = carry
        act_key, step_key = jax.random.split(key)
        observation = jax.vmap(environment.observe)(state, tasks)
        inputs = jnp.concatenate([observation, reward[:, None], action, first[:, None]], 1)
        weight = active.astype(jnp.float32)
        memory, action, log_probability, value = acted(theta, memory, inputs, weight, act_key)
        after = jax.vmap(environment.step)(state, action, tasks, jax.random.split(step_key, rows))
        state = jax.tree.map(lambda new, old: jnp.where(active[:, None], new, old), after.state, state)
        reward = jnp.where(active, after.reward, 0)
        carry = memory, state, active & ~after.terminated, jnp.clip(action, -1, 1), reward, jnp.zeros(rows)
        return carry, Trials(inputs, action, reward, log_probability, value, weight)

    def trajectory(carry, key):
        memory, action, reward = carry
        start_key, steps_key = jax.random.split(key)
        state = jax.vmap(environment.reset)(tasks, jax.random.split(start_key, rows))
        carry = memory, state, jnp.ones(rows, bool), action, reward, jnp.ones(rows)
        (memory, _, _, action, reward, _), seen = jax.lax.scan(step, carry, jax.random.split(steps_key, environment.horizon))
        return (memory, action, reward), seen

    carry = jnp.zeros((rows, UNITS)), jnp.zeros((rows, environment.action_size)), jnp.zeros(rows)
    _, seen = jax.lax.scan(trajectory, carry, jax.random.split(key, trajectories))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), seen)


def outside(simulation: Simulation, theta: dict[str, Any], tasks: Any, key: jax.Array, trajectories: int) -> Trials:
    """Trials of `tasks` in a simulator, side by side. One that breaks stands still until its next trajectory."""
    rows, steps = len(tasks), []
    memory, action, reward = jnp.zeros((rows, UNITS)), np.zeros((rows, simulation.action_size)), np.zeros(rows)
    random = generator_of(key)
    for number in range(trajectories):
        observation = simulation.begin(tasks, random.integers(2**32, size=rows).tolist()).observations
        active, first = np.ones(rows, bool), np.ones(rows)
        for step in range(simulation.horizon):
            inputs = np.concatenate([observation, reward[:, None], action, first[:, None]], 1).astype(np.float32)
            weight = active.astype(np.float32)
            act_key = jax.random.fold_in(key, number * simulation.horizon + step)
            memory, drawn, *judgement = _acted(theta, memory, inputs, weight, act_key)
            outcome = simulation.step(np.asarray(drawn), active)
            fine = np.isfinite(outcome.observations).all(1) & np.isfinite(outcome.rewards)
            reward = np.where(active & fine, outcome.rewards, 0)
            steps.append((inputs, np.asarray(drawn), reward.astype(np.float32), *map(np.asarray, judgement), weight))
            observation = np.where((active & fine)[:, None], outcome.observations, observation)
            active = active & fine & ~outcome.terminated & ~outcome.truncated
            action, first = np.clip(np.asarray(drawn), -10, 10), np.zeros(rows)
    return Trials(*(jnp.asarray(np.stack(part)) for part in zip(*steps, strict=True)))


def worth(settings: Recurrent, trials: Trials, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(advantages, what the values should have been) [steps, trials], over whole trials, in units of `scale`."""

    def step(later, now):
        next_value, next_advantage = later
        reward, value, weight = now
        advantage = reward + settings.discount * next_value - value + settings.discount * settings.trace * next_advantage
        kept = jnp.where(weight > 0, advantage, next_advantage), jnp.where(weight > 0, value, next_value)
        return (kept[1], kept[0]), jnp.where(weight > 0, advantage, 0)

    zero = jnp.zeros_like(trials.values[0])
    parts = trials.rewards / scale, trials.values, trials.weight
    advantages = jax.lax.scan(step, (zero, zero), parts, reverse=True)[1]
    return advantages, advantages + trials.values


@partial(jax.jit, static_argnums=(0, 1))
def improved(settings: Recurrent, optimizer: optax.GradientTransformation, theta, opt_state, trials: Trials, scale, key):
    """(θ, the optimizer's state) after PPO's epochs on the trials of one meta-step."""
    advantages, targets = worth(settings, trials, scale)
    count = jnp.sum(trials.weight)
    centered = advantages - jnp.sum(advantages * trials.weight) / count
    advantages = centered / (jnp.sqrt(jnp.sum(trials.weight * centered**2) / count) + 1e-8)

    def loss(theta, part):
        trials, advantages, targets = part

        def step(memory, now):
            memory = remembered(theta, memory, now.inputs, now.weight)
            return memory, judged(theta, memory, now.actions)

        log_probability, values = jax.lax.scan(step, jnp.zeros((trials.weight.shape[1], UNITS)), trials)[1]
        ratio = jnp.exp(log_probability - trials.log_probability)
        clipped = jnp.clip(ratio, 1 - settings.clip, 1 + settings.clip)
        gained = jnp.minimum(ratio * advantages, clipped * advantages)
        return jnp.sum(trials.weight * (0.5 * (values - targets) ** 2 - gained)) / jnp.sum(trials.weight)

    def update(carry, rows):
        theta, opt_state = carry
        part = jax.tree.map(lambda leaf: leaf[:, rows], (trials, advantages, targets))
        gradient = jax.grad(loss)(theta, part)
        gradient = {**gradient, STATISTICS: jax.tree.map(jnp.zeros_like, gradient[STATISTICS])}
        updates, opt_state = optimizer.update(gradient, opt_state, theta)
        return (optax.apply_updates(theta, updates), opt_state), None

    orders = jax.vmap(lambda key: jax.random.permutation(key, settings.trials))(jax.random.split(key, settings.epochs))
    rows = orders.reshape(settings.epochs * settings.parts, -1)
    (theta, opt_state), _ = jax.lax.scan(update, (theta, opt_state), rows)
    observed = trials.inputs.shape[-1] - trials.actions.shape[-1] - 1
    return update_statistics(theta, trials.inputs[..., :observed], trials.weight), opt_state


def collector(environment: Environment | Simulation, trajectories: int) -> tuple[Callable[..., Any], Callable[..., Trials]]:
    """`(key, n) -> tasks` and `(theta, tasks, key) -> Trials`."""
    if isinstance(environment, Simulation):
        draw = lambda key, n: environment.sample(generator_of(key), n)  # noqa: E731
        return draw, lambda theta, tasks, key: outside(environment, theta, tasks, key, trajectories)
    roll = jax.jit(lambda theta, tasks, key: inside(environment, theta, tasks, key, trajectories))
    return lambda key, n: jax.vmap(environment.sample_task)(jax.random.split(key, n)), roll


def trained(
    settings: Recurrent,
    environment: Environment | Simulation,
    meta_steps: int,
    seed: int,
    watch: Callable[[int, np.ndarray], None] = lambda *_: None,
) -> dict[str, Any]:
    """The θ whose trials, of tasks drawn for this meta-step alone, returned the most after their first trajectory;
    `watch(meta-step, mean returns by trajectory)` after each meta-step."""
    draw, roll = collector(environment, settings.trajectories)
    theta = begin(jax.random.key(seed), environment.observation_size, environment.action_size, settings.deviation)
    falling = optax.linear_schedule(settings.rate, 0.0, meta_steps * settings.epochs * settings.parts)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(falling))
    opt_state, scale, best, kept = optimizer.init(theta), None, -math.inf, theta
    for number in range(meta_steps):
        task_key, roll_key, order_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), number), 3)
        trials = roll(theta, draw(task_key, settings.trials), roll_key)
        if scale is None:  # of rewards: what they add up to then differs by about 1
            scale = jnp.std(worth(settings, trials, jnp.ones(()))[1]) + 1e-8
        returns = by_trajectory(trials, settings.trajectories).mean(0)
        if returns[1:].mean() > best:
            best, kept = returns[1:].mean(), theta
        theta, opt_state = improved(settings, optimizer, theta, opt_state, trials, scale, order_key)
        watch(number + 1, returns)
    return kept


def by_trajectory(trials: Trials, trajectories: int) -> np.ndarray:
    """float64 [trials, trajectories]: returns."""
    rewards = np.asarray(trials.rewards, np.float64)
    return rewards.reshape(trajectories, -1, rewards.shape[1]).sum(1).T


def tested(
    settings: Recurrent, environment: Environment | Simulation, theta: dict[str, Any], tasks: Any, trials: int, key: jax.Array
) -> np.ndarray:
    """float64 [tasks, trajectories]: mean returns of the first, second, … trajectory in each task, over `trials`."""
    _, roll = collector(environment, settings.trajectories)
    many = np.repeat(tasks, trials, axis=0) if isinstance(environment, Simulation) else jnp.repeat(tasks, trials, axis=0)
    found = by_trajectory(roll(theta, many, key), settings.trajectories)
    return found.reshape(len(tasks), trials, -1).mean(1)
