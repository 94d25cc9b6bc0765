"""JAX without a library, as a competent user writes it: one meta-step under `jax.jit`, a Python loop over meta-steps.

Both orders of `grad` and `vmap` are built, and the faster is timed. A peer of speed/sine.py.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.peers.setting import (
    AMPLITUDES,
    INNER_RATE,
    INPUTS,
    OUTER_RATE,
    PHASES,
    SHOTS,
    TASKS,
    Episodes,
    Run,
    fastest,
    fixed_episodes,
    fixed_weights,
)


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("jax", "optax")}


def meta_gradient(adaptation_steps: int, threads: int) -> tuple[float, list[np.ndarray]]:
    episodes, params = Episodes(*map(jnp.asarray, fixed_episodes())), start()
    results = [jax.jit(gradient)(params, episodes) for gradient in gradients(adaptation_steps)]
    (loss, gradient), (_, other) = results
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), gradient, other)
    return float(loss), [np.asarray(gradient[name][part]) for name in sorted(gradient) for part in ("w", "b")]


def program(adaptation_steps: int, sampling: str, threads: int) -> Run:
    return fastest([partial(build, gradient, sampling) for gradient in gradients(adaptation_steps)], n=200)


def build(gradient, sampling: str) -> Run:
    optimizer = optax.adam(OUTER_RATE)

    @partial(jax.jit, donate_argnums=(0, 1))
    def meta_step(params, opt_state, key, episodes):
        if sampling == "in":
            key, draw_key = jax.random.split(key)
            episodes = draw(draw_key)
        loss, grads = gradient(params, episodes)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, key, loss

    params, key, episodes = start(), jax.random.key(0), Episodes(*map(jnp.asarray, fixed_episodes()))
    opt_state = optimizer.init(params)

    def run(n: int) -> float:
        nonlocal params, opt_state, key
        for _ in range(n):
            params, opt_state, key, loss = meta_step(params, opt_state, key, episodes)
        return float(loss)

    return run


def gradients(adaptation_steps: int):
    """`(params, episodes) -> (meta-loss, meta-gradient)`, twice: the gradient of the mean, the mean of the gradients."""

    def task_loss(params, episode):
        adapted = params
        for _ in range(adaptation_steps):
            grads = jax.grad(mean_squared_error)(adapted, episode.support_x, episode.support_y)
            adapted = jax.tree.map(lambda p, g: p - INNER_RATE * g, adapted, grads)
        return mean_squared_error(adapted, episode.query_x, episode.query_y)

    def gradient_of_mean(params, episodes):
        return jax.value_and_grad(lambda params: jnp.mean(jax.vmap(task_loss, (None, 0))(params, episodes)))(params)

    def mean_of_gradients(params, episodes):
        every_task = jax.vmap(jax.value_and_grad(task_loss), (None, 0))(params, episodes)
        return jax.tree.map(lambda leaf: jnp.mean(leaf, 0), every_task)

    return gradient_of_mean, mean_of_gradients


def mean_squared_error(params, x, y):
    *hidden, last = (params[name] for name in sorted(params))
    for layer in hidden:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return jnp.mean((x @ last["w"] + last["b"] - y) ** 2)


def draw(key) -> Episodes:
    """A fresh meta-batch of sine waves."""
    amplitude_key, phase_key, x_key = jax.random.split(key, 3)
    amplitude = jax.random.uniform(amplitude_key, (TASKS, 1, 1), minval=AMPLITUDES[0], maxval=AMPLITUDES[1])
    phase = jax.random.uniform(phase_key, (TASKS, 1, 1), minval=PHASES[0], maxval=PHASES[1])
    x = jax.random.uniform(x_key, (TASKS, 2 * SHOTS, 1), minval=INPUTS[0], maxval=INPUTS[1])
    y = amplitude * jnp.sin(x + phase)
    return Episodes(x[:, :SHOTS], y[:, :SHOTS], x[:, SHOTS:], y[:, SHOTS:])


def start():
    weights = [jnp.asarray(array) for array in fixed_weights()]
    return {f"layer{i}": {"w": weights[2 * i], "b": weights[2 * i + 1]} for i in range(len(weights) // 2)}
