"""A pull towards where a task started (Rajeswaran, Finn, Kakade & Levine 2019, iMAML, arXiv 1909.04630, equation 3).

Adaptation to L(φ) + λ/2 |φ − θ|² stays near θ however many steps it takes, so few examples cannot lead it far astray. It is
what `gradients.implicit` needs, and does the same at test time as in training.
"""

from __future__ import annotations

from typing import Any

import jax
import optax

from fewstep.core.types import Params
from fewstep.errors import InputError


def proximal(optimizer: optax.GradientTransformation, strength: float) -> optax.GradientTransformation:
    """`optimizer`, as a value for `Learner.inner_optimizer`, on the gradient of L + λ/2 |φ − θ|², with λ = `strength`.

    Its state is (the start θ, the state of `optimizer`): θ is what the inner loop starts from, made for the task or not.
    """
    if not strength > 0:
        raise InputError(f"expected a positive strength of the pull, got {strength}")

    def update(updates: Params, state: tuple[Params, Any], params: Params = None) -> tuple[Params, tuple[Params, Any]]:
        start, opt_state = state
        pulled = jax.tree.map(lambda leaf, here, there: leaf + strength * (here - there), updates, params, start)
        updates, opt_state = optimizer.update(pulled, opt_state, params)
        return updates, (start, opt_state)

    return optax.GradientTransformation(lambda params: (params, optimizer.init(params)), update)  # type: ignore[arg-type]
