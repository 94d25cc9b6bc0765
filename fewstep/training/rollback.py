"""What follows where a run's numbers stop being finite (floor 3): back to its best checkpoint, with smaller outer
steps. The last one may be on its way out already."""

from __future__ import annotations

import math

import jax

from fewstep.errors import RunFailed
from fewstep.maml import MetaState
from fewstep.problem import Trainer
from fewstep.types import Key
from fewstep.variants import slowdown, slower

FACTOR = 0.5
"""of the outer rate, each time"""


def rolled_back(trainer: Trainer, rollbacks: int, good: MetaState, failed: MetaState, key: Key) -> tuple[MetaState, str]:
    """(the state to go on from, what a person should know) after the meta-step that follows `failed` was not finite.

    `good` is the best state that was saved. Raises `RunFailed` with the reason where the run went back `rollbacks` times
    already, and where smaller steps would not help: no meta-step was made since `good`.
    """
    reason = trainer.diagnose(jax.device_get(failed), key)
    factor, then = slowdown(failed), slowdown(good)
    if not rollbacks or factor is None or then is None or int(failed.step) == int(good.step):
        raise RunFailed(reason)
    times = round(math.log(factor, FACTOR))
    if times >= rollbacks:
        raise RunFailed(f"{reason} The run went back {times} times, with half the outer rate each time (--rollbacks).")
    told = f"{reason} Going back to meta-step {int(good.step)}, with {FACTOR * factor:g} of the outer rate."
    return slower(good, FACTOR * factor / then), told
