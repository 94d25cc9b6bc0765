"""TensorFlow as its tutorials teach MAML: one meta-step in a `tf.function`, tasks in a Python loop inside it, nested tapes.

Unlike the best-known of them, it draws fresh tasks in every call, support and query points of one and the same task.
A peer of speed/sine.py.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import tensorflow as tf

from benchmarks.peers.setting import (
    ADAM_EPSILON,
    AMPLITUDES,
    INNER_RATE,
    INPUTS,
    OUTER_RATE,
    PHASES,
    SHOTS,
    TASKS,
    Episodes,
    Run,
    fixed_episodes,
    fixed_weights,
)


def versions() -> dict[str, str]:
    found = {"tensorflow": tf.__version__}
    with suppress(PackageNotFoundError):
        found["keras"] = version("keras")
    return found


def meta_gradient(adaptation_steps: int, threads: int) -> tuple[float, list[np.ndarray]]:
    weights = start()
    loss, gradients = tf.function(lambda: loss_and_gradients(weights, fixed(), adaptation_steps))()
    return float(loss), [gradient.numpy() for gradient in gradients]


def program(adaptation_steps: int, sampling: str, threads: int) -> Run:
    weights, episodes = start(), fixed()
    optimizer = tf.keras.optimizers.Adam(OUTER_RATE, epsilon=ADAM_EPSILON)

    @tf.function
    def meta_step() -> tf.Tensor:
        loss, gradients = loss_and_gradients(weights, draw() if sampling == "in" else episodes, adaptation_steps)
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return loss

    def run(n: int) -> float:
        for _ in range(n):
            loss = meta_step()
        return float(loss)

    return run


def loss_and_gradients(weights: list[tf.Variable], episodes: Episodes, adaptation_steps: int):
    """(meta-loss, meta-gradient) with an outer tape around all tasks and an inner tape around every adaptation step."""
    with tf.GradientTape(persistent=True) as outer:
        loss = 0.0
        for task in range(TASKS):
            support_x, support_y, query_x, query_y = (array[task] for array in episodes)
            adapted = [tf.convert_to_tensor(weight) for weight in weights]
            for _ in range(adaptation_steps):
                with tf.GradientTape(persistent=True) as inner:
                    inner.watch(adapted)
                    support_loss = mean_squared_error(adapted, support_x, support_y)
                gradients = inner.gradient(support_loss, adapted)
                adapted = [w - INNER_RATE * g for w, g in zip(adapted, gradients, strict=True)]
            loss += mean_squared_error(adapted, query_x, query_y) / TASKS
    return loss, outer.gradient(loss, weights)


def mean_squared_error(weights, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    *hidden, last = zip(weights[::2], weights[1::2], strict=True)
    for kernel, bias in hidden:
        x = tf.nn.relu(x @ kernel + bias)
    return tf.reduce_mean(tf.square(x @ last[0] + last[1] - y))


def draw() -> Episodes:
    """A fresh meta-batch of sine waves, drawn by operations of the graph."""
    amplitude = tf.random.uniform((TASKS, 1, 1), *AMPLITUDES)
    phase = tf.random.uniform((TASKS, 1, 1), *PHASES)
    x = tf.random.uniform((TASKS, 2 * SHOTS, 1), *INPUTS)
    y = amplitude * tf.sin(x + phase)
    return Episodes(x[:, :SHOTS], y[:, :SHOTS], x[:, SHOTS:], y[:, SHOTS:])


def fixed() -> Episodes:
    return Episodes(*map(tf.constant, fixed_episodes()))


def start() -> list[tf.Variable]:
    return [tf.Variable(array) for array in fixed_weights()]
