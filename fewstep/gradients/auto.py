"""Chooses between the two ways to the exact meta-gradient by the memory that the faster one would take (floor 1)."""

from __future__ import annotations

import os

import jax

from fewstep.gradients.exact import exact
from fewstep.gradients.stored import stored
from fewstep.maml import Learner
from fewstep.types import Episode, Key, MetaParams

SHARE = 0.25
"""of a device's memory, that what `stored` keeps may take"""
UNKNOWN_MEMORY = 8 * 2**30
"""bytes of the machine's memory that are counted on if the system does not say how many it has (Windows)"""


def auto(learner: Learner, params: MetaParams, episode: Episode, key: Key, step: jax.Array) -> tuple[jax.Array, MetaParams]:
    """(objective, its exact gradient) of one task: `stored` where what it keeps of `Learner.tasks_at_once` tasks fits into a
    quarter of the device's memory, else `exact`."""
    way = stored if has_room(learner, params, episode, key) else exact
    return way(learner, params, episode, key, step)


def has_room(learner: Learner, params: MetaParams, episode: Episode, key: Key) -> bool:
    """Whether `auto` takes `stored`; all but the learner may be shapes alone."""
    return (learner.tasks_at_once or 1) * stored_bytes(learner, params, episode, key) <= SHARE * device_memory()


def stored_bytes(learner: Learner, params: MetaParams, episode: Episode, key: Key) -> int:
    """What `stored` keeps of one task's adaptation steps, by the shapes that reverse mode would keep of one inner gradient."""

    def kept_of(theta, batch, key):
        return jax.vjp(lambda theta: jax.grad(learner.loss)(theta, batch, key), theta)[1]

    kept = jax.eval_shape(kept_of, params.theta, episode.support, key)
    return learner.adaptation_steps * bytes_of(kept)


def bytes_of(tree) -> int:
    """Of all arrays of a pytree, or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def device_memory() -> int:
    """Bytes of one device; of the machine's memory an equal share for each device that its processor is shown as."""
    device = jax.local_devices()[0]
    known = device.memory_stats() or {}
    if "bytes_limit" in known:
        return int(known["bytes_limit"])
    known = hasattr(os, "sysconf")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if known else UNKNOWN_MEMORY
    return memory // jax.local_device_count()
