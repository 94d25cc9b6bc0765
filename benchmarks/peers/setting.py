"""What all programs of the benchmark share: the sizes, the fixed weights and episodes, and the count of operations.

NumPy alone, so that every peer can import it under any interpreter. Used by speed/sine.py, worker.py and each file of
peers/."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

TASKS = 25
"""tasks in a meta-batch"""
SHOTS = QUERIES = 10
"""support and query points of a task"""
SIZES = (1, 40, 40, 1)
"""units of the network's layers, ReLU between them"""
INNER_RATE, OUTER_RATE = 0.01, 1e-3
"""alpha of the inner SGD, beta of the outer Adam"""
AMPLITUDES, PHASES, INPUTS = (0.1, 5.0), (0.0, np.pi), (-5.0, 5.0)
"""y = A sin(x + phi): the ranges from which A, phi and x are drawn, all uniform"""
ADAM_EPSILON = 1e-8

Run = Callable[[int], float]
"""`run(n)` makes n meta-steps and returns the meta-loss of the last one, or their mean"""


class Episodes(NamedTuple):
    """A meta-batch; every array is [TASKS, points, 1] float32."""

    support_x: np.ndarray
    support_y: np.ndarray
    query_x: np.ndarray
    query_y: np.ndarray


def fixed_episodes() -> Episodes:
    """The meta-batch on which all programs are compared, and on which they run with sampling out."""
    draw = np.random.default_rng(0).uniform
    amplitude, phase = draw(*AMPLITUDES, (TASKS, 1, 1)), draw(*PHASES, (TASKS, 1, 1))
    x = draw(*INPUTS, (TASKS, SHOTS + QUERIES, 1))
    y = amplitude * np.sin(x + phase)
    parts = x[:, :SHOTS], y[:, :SHOTS], x[:, SHOTS:], y[:, SHOTS:]
    return Episodes(*(part.astype(np.float32) for part in parts))


def fixed_weights() -> list[np.ndarray]:
    """[kernel, bias, kernel, bias, ...], kernels [fan in, fan out]: where all programs start."""
    random = np.random.default_rng(1)
    weights = []
    for fan_in, fan_out in pairwise(SIZES):
        bound = np.sqrt(6 / (fan_in + fan_out))
        weights += [random.uniform(-bound, bound, (fan_in, fan_out)), random.uniform(-0.1, 0.1, fan_out)]
    return [array.astype(np.float32) for array in weights]


def operations(adaptation_steps: int) -> int:
    """Floating-point operations of one meta-step, exact second order; biases, activations and Adam are not counted.

    A forward pass over the 10 points of one task is F = 2 * (40 + 1600 + 40) * 10: a multiplication and an addition
    per weight and point. A gradient costs 3F (forward F, backward 2F). An adaptation step is a gradient, 3F, and the
    reverse pass through it costs twice as much again, 6F: 9F together. The query loss and its gradient add 3F.
    """
    forward = 2 * sum(a * b for a, b in pairwise(SIZES)) * SHOTS
    return TASKS * (9 * forward * adaptation_steps + 3 * forward)


def fastest(makers: Iterable[Callable[[], Run]], n: int = 20) -> Run:
    """A fresh program by the maker whose program makes n meta-steps in the least time, best of three after a first call."""

    def seconds(make: Callable[[], Run]) -> float:
        run = make()
        run(2)
        return min(_timed(run, n) for _ in range(3))

    return min(makers, key=seconds)()


def _timed(run: Run, n: int) -> float:
    start = time.perf_counter()
    run(n)
    return time.perf_counter() - start
