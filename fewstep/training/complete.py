"""What follows the last meta-step (floor 3): closed-form completions, the best one chosen on meta-validation tasks."""

from __future__ import annotations

import math

import jax

from fewstep.problem import Problem
from fewstep.training.evaluate import MOST_DRAWS, compiled_validation
from fewstep.types import MetaParams


def complete(problem: Problem, params: MetaParams) -> tuple[MetaParams, float]:
    """(`params`, or the one of `problem.completions(params)` whose headline metric on meta-validation tasks is lowest; that
    metric)."""
    draws = MOST_DRAWS if problem.images is None else 1  # tasks of images never run out: further draws of each are no better
    error, key = compiled_validation(problem, draws), jax.random.key(0)
    several = [params, *(problem.completions(params) if problem.completions else [])]
    errors = [float(error(candidate, key)) for candidate in several]
    best = min(range(len(several)), key=lambda number: (not math.isfinite(errors[number]), errors[number]))
    return several[best], errors[best]
