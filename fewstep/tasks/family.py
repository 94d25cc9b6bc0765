"""What a task family is (floor 1): a numbered collection of related tasks from which episodes are cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fewstep.types import Batch, Episode, Key


@dataclass(frozen=True)
class TaskFamily:
    """Related tasks with numbers for names, so that "task 17" is the same task whoever asks, and tasks can be counted."""

    episode: Callable[[jax.Array, Key], Episode]
    """`episode(task, key)`: an episode of that task; the key draws its examples. Pure, works under vmap and jit"""
    size: int | None = None
    """how many distinct tasks there are; None where they never run out"""
    examples: Callable[[jax.Array], Batch] | None = None
    """`examples(task)`: all there is of a task, where that is finite"""
    names: tuple[str, ...] | None = None
    """what people call the tasks, where they have names"""

    def sample_episode(self, key: Key) -> Episode:
        """An episode of a task drawn at random (lines 3, 5 and 7: support and query are of one and the same task)."""
        task_key, episode_key = jax.random.split(key)
        if self.size is None:  # any 31 bits name a task; cheaper than a draw below a bound
            task = (jax.random.bits(task_key, dtype=jnp.uint32) >> 1).astype(jnp.int32)
        else:
            task = jax.random.randint(task_key, (), 0, self.size)
        return self.episode(task, episode_key)

    def tasks(self, count: int) -> jax.Array:
        """The first `count` tasks, each once: fewer where there are no more."""
        return jnp.arange(count if self.size is None else min(count, self.size))
