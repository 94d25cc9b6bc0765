"""First-order MAML (Finn et al. 2017, section 5.2): the inner gradient is a constant. A value for `Learner.task_gradient`.

Derivative-order annealing (Antoniou, Edwards & Storkey 2019, MAML++, arXiv 1810.09502, section 4): first order in the first
part of a training, second order after it. A value for `Learner.task_gradient`.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from fewstep.core.maml import Learner, TaskGradient, task_gradient
from fewstep.core.types import Episode, Key, Loss, MetaParams


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


def annealed(way: TaskGradient, until: int) -> TaskGradient:
    """`first_order` in the meta-steps before `until`, `way` from there on.

    Early meta-steps are then cheap, and free of the large second derivatives that a θ which adapts badly may have. Both ways
    are part of one compiled program, whose memory is that of the larger one.
    """
    length = jnp.full(1, until)  # an array is an argument of a compiled program, for which a number is a constant

    def gradient(
        learner: Learner, params: MetaParams, episode: Episode, key: Key, step: jax.Array
    ) -> tuple[jax.Array, MetaParams]:
        def by(way: TaskGradient):
            return lambda *arguments: way(learner, *arguments)

        # The meta-step is the same for all tasks, so under vmap this stays one branch, not both.
        return jax.lax.cond(step < length[0], by(first_order), by(way), params, episode, key, step)

    return gradient
