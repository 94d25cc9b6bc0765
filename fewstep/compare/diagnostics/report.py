"""All probes of one comparison: what `compare` calls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.compare.diagnostics.adaptation import dimension, gains, ladder
from fewstep.compare.diagnostics.gradients import coherence, diversity, second_order
from fewstep.core import maml
from fewstep.core.maml import task_loss
from fewstep.core.problem import Problem
from fewstep.core.types import Episode, MetaParams
from fewstep.variants.partial import PartialStep

MOST_TASKS = 64


def probe_all(
    problem: Problem, params: MetaParams, episodes: Episode, joint: MetaParams | None = None, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """All probes that apply, by name, as compare.json wants them. `params` is a meta-learned θ and `joint` a jointly trained
    one, at which the diversity of tasks is measured; without it that is measured at θ too. Of `episodes` 64 at most are used.

    Where a number does not exist (a gradient that is 0, tasks without rows to split), its probe is left out.
    """
    episodes = jax.tree.map(lambda leaf: jnp.asarray(leaf[:MOST_TASKS]), episodes)
    learner, key = replace(problem.learner, objective=task_loss, tasks_at_once=None), jax.random.key(seed)
    at_joint = params if joint is None else params._replace(theta=joint.theta)
    found = diversity(learner, at_joint, episodes, key)
    found |= coherence(learner, params, episodes, key)
    found |= gains(learner, params, episodes, key) | dimension(learner, params, episodes, key)
    if learner.adaptation_step is maml.adaptation_step:
        found |= ladder(learner, params, episodes, key)
    if learner.adaptation_step is maml.adaptation_step or isinstance(learner.adaptation_step, PartialStep):
        found |= second_order(learner, params, episodes, key)
    return {name: probe._asdict() for name, probe in found.items() if np.isfinite(probe.value)}
