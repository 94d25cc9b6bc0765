"""A linear mixed-effects model: what statisticians use for units with few rows each, fitted by statsmodels.

y = (β + u_task)·z(x) + ε: all tasks share β, and each has its own random effects u ~ N(0, G) on the constant and on the few
inputs that tell most. A new task's u is predicted from its support set by the best linear unbiased predictor (Laird & Ware
1982, Biometrics 38(4), equation 3.3), u = G Zᵀ (Z G Zᵀ + σ² I)⁻¹ (y − X β).
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from fewstep.compare.episodes import Benchmark
from fewstep.compare.methods.classical import few_outputs
from fewstep.compare.methods.gaussian_process import numbers_alone, with_one
from fewstep.compare.methods.method import Fitted, Method, Work
from fewstep.core.types import Episode
from fewstep.errors import TrainingError
from fewstep.supervised.classical import as_arrays

TASKS = 150
"""meta-train tasks that it is fitted on, by the rows of one episode of each"""


class Mixed(NamedTuple):
    """Of one target."""

    shared: np.ndarray
    """β [features + 1], the constant last"""
    spread: np.ndarray
    """G [effects, effects]"""
    noise: float
    """σ²"""
    effects: np.ndarray
    """[effects] which features tasks differ in; the constant's number is that of the features"""

    def predict(self, x: np.ndarray, y: np.ndarray, queries: np.ndarray) -> np.ndarray:
        """[queries], for a task's support rows x [rows, features], y [rows]."""
        known, wanted = with_one(x), with_one(queries)
        z = known[:, self.effects]
        covariance = z @ self.spread @ z.T + self.noise * np.eye(len(x))
        own = self.spread @ z.T @ np.linalg.solve(covariance, y - known @ self.shared)
        return wanted @ self.shared + wanted[:, self.effects] @ own


def fit_mixed_model(x: np.ndarray, y: np.ndarray, task: np.ndarray, slopes: int) -> Mixed:
    """Fitted by restricted maximum likelihood to rows of many tasks: x [rows, features], y [rows], task [rows]. Raises
    `TrainingError` where statsmodels finds nothing."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    design = with_one(x)
    varying = np.flatnonzero(design[:, :-1].std(0) > 1e-9)
    fixed = np.append(varying, x.shape[1])
    shared = np.linalg.lstsq(design[:, fixed], y, rcond=None)[0]
    effects = np.append(most_varying(design, y - design[:, fixed] @ shared, task, varying, slopes), x.shape[1]).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a spread of 0 in some direction is an answer, not an error
        try:
            model: Any = MixedLM(y, design[:, fixed], task, exog_re=design[:, effects])
            found = model.fit(reml=True, method=["lbfgs", "bfgs"])
            spread = np.asarray(found.cov_re, np.float64).reshape(effects.size, effects.size)
        except (np.linalg.LinAlgError, ValueError) as error:
            raise TrainingError(f"statsmodels finds no estimate ({error})") from error
    whole = np.zeros(x.shape[1] + 1)
    whole[fixed] = np.asarray(found.fe_params)
    if not (np.isfinite(whole).all() and np.isfinite(spread).all() and found.scale > 0):
        raise TrainingError("statsmodels finds no finite estimate")
    return Mixed(whole, spread, float(found.scale), effects)


def most_varying(design: np.ndarray, residual: np.ndarray, task: np.ndarray, features: np.ndarray, count: int) -> np.ndarray:
    """[count] the features whose slopes within tasks differ most from task to task, by what they explain of the residual."""
    explained = np.zeros(design.shape[1])
    for own in (task == number for number in np.unique(task)):
        z = design[own] - design[own].mean(0)
        explained += np.square(z.T @ (residual[own] - residual[own].mean())) / (np.square(z).sum(0) + 1.0)
    return features[np.argsort(-explained[features], kind="stable")[:count]]


def fit_mixed(work: Work) -> Fitted:
    support, query = as_arrays(work.benchmark.episodes(TASKS, draw=3))
    x, y, weight = (np.concatenate([a, b], 1) for a, b in zip(support, query, strict=True))
    task = np.broadcast_to(np.arange(len(x))[:, None], x.shape[:2])
    has = np.broadcast_to(weight if weight.ndim == 3 else weight[..., None], y.shape) > 0
    models = [
        fit_mixed_model(x[own], column[own], task[own], work.choice["slopes"])
        for own, column in zip(np.moveaxis(has, -1, 0), np.moveaxis(y, -1, 0), strict=True)
    ]

    def predict(episodes: Episode) -> np.ndarray:
        support, query = as_arrays(episodes)
        answers = np.zeros(query.targets.shape)
        for number in range(len(answers)):
            rows, targets, weight = (np.asarray(leaf[number]) for leaf in support)
            for output, model in enumerate(models):
                own = (weight if weight.ndim == 1 else weight[:, output]) > 0
                answers[number, :, output] = model.predict(rows[own], targets[own, output], np.asarray(query.inputs[number]))
        return answers

    shots, effects = work.benchmark.settings.shot_range.most, work.choice["slopes"] + 1
    return Fitted(
        predict,
        operations=100.0 * float(has.sum()) * (x.shape[-1] + effects**2),
        adapt_operations=lambda: float(shots**3),
    )


def linear_enough(benchmark: Benchmark) -> str:
    return numbers_alone(benchmark) or few_outputs(benchmark)


MIXED = Method(
    "mixed",
    "Linear mixed effects",
    "A linear model that all tasks share, with a constant and a few slopes of each task's own, shrunk as tasks are alike.",
    "classical",
    fit_mixed,
    lambda benchmark: tuple({"slopes": count} for count in (1, 4) if count <= benchmark.problem.format.features),
    images=False,
    needs=("statsmodels", "pip install 'fewstep[compare]' (statsmodels)"),
    seeded=False,
    why_not=linear_enough,
)
