"""A Gaussian process whose kernel is fitted on the meta-train tasks.

Every task is a draw of one process with k(x, x′) = a² + b² exp(−½ Σ_f (x_f − x′_f)² / l_f²) and noise σ², around a mean
that all tasks share: constant, or linear in the inputs. The numbers a, b, l and σ have the highest marginal likelihood,
summed over meta-train tasks (Rasmussen & Williams 2006, sections 2.2 and 5.4.1); a new task is conditioned on its support
set."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from fewstep.compare.episodes import Benchmark
from fewstep.compare.methods.method import Fitted, Method, Work
from fewstep.core.types import Episode
from fewstep.supervised.classical import as_arrays, one_output

TASKS, ROWS = 48, 40
"""So many meta-train tasks fit the kernel, by so many rows of each."""
ITERATIONS = 40
BOUND = 6.0
"""of logarithms of lengths and deviations"""
LEAST_NOISE = 1e-6
"""variance beside σ², for the numbers' sake"""


class Kernel(NamedTuple):
    """Logarithms; `lengths` [features]."""

    constant: float
    scale: float
    noise: float
    lengths: np.ndarray

    @staticmethod
    def of(numbers: np.ndarray) -> Kernel:
        return Kernel(float(numbers[0]), float(numbers[1]), float(numbers[2]), numbers[3:])

    def __call__(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """[..., rows, features] × [..., others, features] -> [..., rows, others], without the noise."""
        return np.exp(2 * self.constant) + np.exp(2 * self.scale) * self.likeness(left, right)

    def likeness(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        left, right = left / np.exp(self.lengths), right / np.exp(self.lengths)
        squares = (
            np.square(left).sum(-1)[..., :, None] + np.square(right).sum(-1)[..., None, :] - 2 * left @ right.swapaxes(-1, -2)
        )
        return np.exp(-0.5 * np.maximum(squares, 0.0))


def surprise(numbers: np.ndarray, x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[float, np.ndarray]:
    """(−log p of all tasks' rows, less a constant; its gradient). x [tasks, rows, features], y [tasks, rows, outputs], weight
    [tasks, rows]: a row of weight 0 has noise so great that it says nothing. Weights [tasks, rows, outputs] are those of single
    targets: outputs are independent draws of the process."""
    if weight.ndim == 3:
        each = [surprise(numbers, x, y[..., [output]], weight[..., output]) for output in range(y.shape[-1])]
        return sum(value for value, _ in each), np.sum([slope for _, slope in each], 0)
    kernel, outputs, counts = Kernel.of(numbers), y.shape[-1], weight > 0
    both = counts[:, :, None] & counts[:, None, :]
    like = np.where(both, np.exp(2 * kernel.scale) * kernel.likeness(x, x), 0.0)
    flat = np.where(both, np.exp(2 * kernel.constant), 0.0)
    noise = np.where(counts, np.exp(2 * kernel.noise) + LEAST_NOISE, 1.0)
    covariance = like + flat + noise[:, :, None] * np.eye(x.shape[1])
    inverse = np.linalg.inv(covariance)
    y = y * counts[..., None]
    solved = inverse @ y
    value = 0.5 * np.sum(y * solved) + 0.5 * outputs * np.sum(np.linalg.slogdet(covariance)[1])
    slope = 0.5 * (outputs * inverse - solved @ solved.swapaxes(-1, -2))  # of −log p, by the covariance
    by_like = slope * like
    lengths = np.zeros(x.shape[-1])
    for feature in range(x.shape[-1]):
        away = x[:, :, None, feature] - x[:, None, :, feature]
        lengths[feature] = np.sum(by_like * np.square(away)) / np.exp(2 * kernel.lengths[feature])
    own = np.einsum("tii,ti->", slope, np.where(counts, 2 * np.exp(2 * kernel.noise), 0.0))
    return float(value), np.array([2 * np.sum(slope * flat), 2 * np.sum(by_like), own, *lengths])


def fit_kernel(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> Kernel:
    """The kernel under which these rows of tasks are likeliest."""
    spread = np.log(np.sqrt(x.shape[-1]))  # squares add up over features: lengths start so that rows are half alike
    start = np.array([-0.5, -0.3, -1.0, *np.full(x.shape[-1], spread)])
    bounds = [(-BOUND, 3.0)] * 3 + [(-3.0, BOUND)] * x.shape[-1]
    found = minimize(surprise, start, (x, y, weight), "L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": ITERATIONS})
    return Kernel.of(found.x)


def linear_mean(benchmark: Benchmark, linear: bool) -> np.ndarray:
    """[features + 1, outputs]: what all tasks share, by least squares over all meta-train rows, or the constant alone."""
    x, y = with_one(np.asarray(benchmark.rows.inputs, np.float64)), benchmark.targets
    if not linear:
        return np.concatenate([np.zeros((x.shape[1] - 1, y.shape[1])), np.nanmean(y, 0)[None]])

    def solved(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.linalg.solve(x.T @ x + 1e-6 * len(x) * np.eye(x.shape[1]), x.T @ y)

    known = ~np.isnan(y)
    if known.all():
        return solved(x, y)
    return np.stack([solved(x[own], column[own]) for own, column in zip(known.T, y.T, strict=True)], 1)


def with_one(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x, np.ones((*x.shape[:-1], 1))], -1)


def fit_gaussian(work: Work) -> Fitted:
    mean = linear_mean(work.benchmark, work.choice["mean"] == "linear")
    support, query = as_arrays(work.benchmark.episodes(TASKS, draw=2))
    x, y, weight = (np.concatenate([a, b], 1)[:, :ROWS] for a, b in zip(support, query, strict=True))
    kernel = fit_kernel(x, y - with_one(x) @ mean, weight)

    def predict(episodes: Episode) -> np.ndarray:
        if np.ndim(episodes.support.weight) == 3:
            outputs = range(mean.shape[1])
            return np.concatenate([answers(one_output(episodes, output), mean[:, [output]]) for output in outputs], -1)
        return answers(episodes, mean)

    def answers(episodes: Episode, mean: np.ndarray) -> np.ndarray:
        support, query = as_arrays(episodes)
        x, queries, counts = np.asarray(support.inputs), np.asarray(query.inputs), np.asarray(support.weight) > 0
        shown = np.where(counts[:, :, None] & counts[:, None, :], kernel(x, x), 0.0)
        own = np.where(counts, np.exp(2 * kernel.noise) + LEAST_NOISE, 1.0)
        covariance = shown + own[:, :, None] * np.eye(x.shape[1])
        solved = np.linalg.solve(covariance, (support.targets - with_one(x) @ mean) * counts[..., None])
        return with_one(queries) @ mean + np.where(counts[:, None], kernel(queries, x), 0.0) @ solved

    rows, shots = x.shape[1], work.benchmark.settings.shot_range.most
    each = rows**3 + rows**2 * (4 + 3 * x.shape[-1])
    return Fitted(predict, operations=float(ITERATIONS * len(x) * each), adapt_operations=lambda: float(shots**3))


def numbers_alone(benchmark: Benchmark) -> str:
    return "it is for numbers, not for classes" if benchmark.classes else ""


GAUSSIAN = Method(
    "gp",
    "Gaussian process",
    "A smooth random function whose kernel is fitted on the meta-train tasks, conditioned on each task's support set.",
    "classical",
    fit_gaussian,
    lambda benchmark: ({"mean": "constant"}, {"mean": "linear"}),
    images=False,
    seeded=False,
    why_not=numbers_alone,
)
