"""What follows the last meta-step (floor 3): closed-form completions, the best one chosen on meta-validation tasks."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fewstep.problem import Problem
from fewstep.training.evaluate import task_errors
from fewstep.types import MetaParams

VALIDATION_TASKS = 1000
DRAWS = 10
"""support sets of each meta-validation task"""


def complete(problem: Problem, params: MetaParams) -> MetaParams:
    """`params`, or the one of `problem.completions(params)` whose headline metric on meta-validation tasks is lowest."""
    if problem.completions is None:
        return params
    assert problem.splits is not None
    family, steps = problem.splits.validation, problem.learner.adaptation_steps
    tasks = family.tasks(VALIDATION_TASKS)

    @jax.jit
    def error(params: MetaParams) -> jax.Array:
        errors = task_errors(problem, params, family, tasks, [steps], jax.random.key(0), DRAWS)
        return jnp.mean(errors.metrics[next(iter(problem.metrics))])

    return min([params, *problem.completions(params)], key=lambda candidate: float(error(candidate)))
