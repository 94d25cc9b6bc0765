"""How a problem whose model predicts is trained: Algorithm 1, a chunk of meta-steps in each compiled call.

What follows the last meta-step: closed-form completions, the best one chosen on meta-validation tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fewstep.core.maml import MetaState
from fewstep.core.problem import Problem, StepStats, Validation
from fewstep.core.types import Key, MetaParams
from fewstep.supervised.evaluate import MOST_DRAWS, compiled_validation
from fewstep.supervised.inner_rate_guard import compiled_guarded_validation
from fewstep.training import multihost
from fewstep.training.chunk import compiled_chunk
from fewstep.training.devices import replicate, training_mesh
from fewstep.training.divergence import why_not_finite
from fewstep.training.jit import cached
from fewstep.training.tuning import prepare

CHECKPOINTS = 20
"""A run is validated and saved about so many times, evenly spread; `Problem.checkpoint_every` has it saved more often."""


class SupervisedTrainer:
    """The `Trainer` of a `Problem`."""

    validations: float = CHECKPOINTS
    interruptible = False

    def __init__(self, problem: Problem, mesh: Mesh | None, seed: int, quiet: bool) -> None:
        self.mesh = mesh or self.mesh_of(problem, None)
        self.problem = prepare(problem, self.mesh, seed, quiet)
        self.validate_first = bool(problem.rollbacks or problem.lower_rates)

    @staticmethod
    def mesh_of(problem: Problem, devices: int | None) -> Mesh:
        """So many devices of each process that takes part, all of them where it is None."""
        return training_mesh(devices)

    def place(self, state: MetaState) -> MetaState:
        return replicate(state, self.mesh)

    def run(self, state: MetaState, key: Key, steps: int) -> tuple[MetaState, StepStats]:
        with multihost.reporting_lost_processes():
            state, chunk = cached(self.problem, compiled_chunk, self.mesh)(state, key, steps)
            chunk = jax.device_get(chunk)
        means = {"meta_loss": float(chunk.meta_loss), "gradient_norm": float(chunk.gradient_norm)}
        latest = {"outer_rate": float(jnp.asarray(self.problem.outer_rate(int(state.step))))}
        return state, StepStats(
            int(chunk.steps), bool(chunk.finite), means, {"dropped_tasks": int(chunk.dropped)}, latest=latest
        )

    def validate(self, state: MetaState, key: Key) -> Validation:
        return cached(self.problem, compiled_guarded_validation)(state, key)

    def conclude(self, best: MetaState, key: Key) -> tuple[Mapping[str, Any], str]:
        return {}, ""

    def diagnose(self, state: MetaState, key: Key) -> str:
        return why_not_finite(self.problem, state, key)

    def words(self, record: Mapping[str, Any]) -> list[str]:
        loss = "meta-loss" if self.problem.unit == "meta-step" else "loss"
        parts = [f"{loss} {record['meta_loss']:.4g}"]
        if "validation" in record:
            parts.append(f"validation {self.problem.metric.replace('_', ' ')} {record['validation']:.4g}")
        parts.append(f"outer rate {record['outer_rate']:.2g}")
        if "dropped_tasks" in record:
            parts.append(f"{record['dropped_tasks']} tasks not finite, dropped")
        return parts


def finalize(problem: Problem, params: MetaParams) -> tuple[MetaParams, float]:
    """(`params`, or the one of `problem.completions(params)` whose headline metric on meta-validation tasks is lowest; that
    metric)."""
    draws = MOST_DRAWS if problem.images is None else 1  # tasks of images never run out: further draws of each are no better
    error, key = compiled_validation(problem, draws), jax.random.key(0)
    several = [params, *(problem.completions(params) if problem.completions else [])]
    errors = [float(error(candidate, key)) for candidate in several]
    best = min(range(len(several)), key=lambda number: (not math.isfinite(errors[number]), errors[number]))
    return several[best], errors[best]
