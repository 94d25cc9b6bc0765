"""First-order MAML (Finn et al. 2017, section 5.2): the inner gradient is a constant. A value for `Learner.task_gradient`."""

from __future__ import annotations

from dataclasses import replace

import jax

from fewstep.maml import Learner, task_gradient
from fewstep.types import Episode, Key, Loss, MetaParams


def first_order(
    learner: Learner, params: MetaParams, episode: Episode, key: Key, step: jax.Array
) -> tuple[jax.Array, MetaParams]:
    """(loss, ∇L(θ′, query) as if θ′ were θ plus a constant). Learned inner rates still get their exact gradient
    of that linearized path."""
    return task_gradient(replace(learner, inner_gradient=_constant_gradient), params, episode, key, step)


def _constant_gradient(loss: Loss):
    def gradient(params, batch, key):
        return jax.lax.stop_gradient(jax.grad(loss)(params, batch, key))

    return gradient
