"""Truncated meta-gradients: exact through the last adaptation steps, first order through those before them.

Shaban, Cheng, Hatch & Boots (2019), Truncated back-propagation for bilevel optimization, arXiv 1810.10667.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import optax

from fewstep.core.maml import Learner, TaskGradient, adaptation_step, task_gradient
from fewstep.core.types import Batch, Episode, Key, MetaParams, Params
from fewstep.errors import InputError
from fewstep.gradients.exact import with_flat_memory


def truncated(last: int) -> TaskGradient:
    """The task gradient that knows second derivatives of the `last` adaptation steps alone: 0 is `first_order`, all is `exact`.

    Each step left out saves its Hessian-vector product. Raises `InputError` where an adaptation step is not one of the inner
    optimizer.
    """
    if last < 0:
        raise InputError(f"expected a number of adaptation steps from 0 on, got {last}")

    def gradient(learner: Learner, params: MetaParams, episode: Episode, key: Key, step: jax.Array):
        if learner.adaptation_step is not adaptation_step:
            raise InputError("truncated: expected adaptation steps of the inner optimizer, the learner has others")
        first = max(learner.adaptation_steps - last, 0)
        counting = replace(
            learner,
            inner_optimizer=lambda inner: counted(learner.optimizer(inner)),
            adaptation_step=lambda *arguments: truncated_step(first, *arguments),
        )
        return task_gradient(with_flat_memory(counting), params, episode, key, step)

    return gradient


def counted(optimizer: optax.GradientTransformation) -> Any:
    """`optimizer` with the number of steps made beside its state."""
    return optax.GradientTransformation(lambda params: (optimizer.init(params), 0), optimizer.update)  # type: ignore[arg-type]


def truncated_step(
    first: int, learner: Learner, optimizer: optax.GradientTransformation, state: tuple[Params, Any], support: Batch, key: Key
) -> tuple[Params, Any]:
    """One adaptation step; the inner gradients of the `first` ones are constants."""
    adapted, (opt_state, made) = state
    smooth = lambda theta: learner.inner_gradient(learner.loss)(theta, support, key)  # noqa: E731
    rough = lambda theta: jax.lax.stop_gradient(smooth(theta))  # noqa: E731
    # The number of steps is the same for all tasks, so under vmap this stays one branch, not both.
    given = replace(learner, inner_gradient=lambda loss: lambda theta, *rest: jax.lax.cond(made < first, rough, smooth, theta))
    adapted, opt_state = adaptation_step(given, optimizer, (adapted, opt_state), support, key)
    return adapted, (opt_state, made + 1)
