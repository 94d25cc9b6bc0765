"""What a task family is: a numbered collection of related tasks from which episodes are cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.core.prefetch import OnHost
from fewstep.core.types import Batch, Episode, Key


class DrawEpisode(Protocol):
    def __call__(self, task: jax.Array, key: Key, shots: jax.Array | int | None = None, /) -> Episode: ...


class Shots(NamedTuple):
    """How many support examples episodes have: from `least` to `most`, drawn anew for each, evenly on a logarithmic scale."""

    least: int
    most: int

    @property
    def shown(self) -> int | str:
        """As results say it: 10, or '3 to 50'."""
        return self.most if self.least == self.most else f"{self.least} to {self.most}"

    def draw(self, key: Key) -> jax.Array:
        """A number of support examples; small ones are the likelier, since one more tells more there."""
        reach = jnp.log(jnp.array([self.least + 1.0, self.most + 2.0]))
        count = jnp.exp(jax.random.uniform(key, minval=reach[0], maxval=reach[1])).astype(jnp.int32) - 1
        return jnp.clip(count, self.least, self.most)


@dataclass(frozen=True)
class TaskFamily:
    """Related tasks with numbers for names, so that "task 17" is the same task whoever asks, and tasks can be counted."""

    episode: DrawEpisode
    """`episode(task, key, shots=None)`: an episode of that task; the key draws its examples, and how many of them are support
    examples unless `shots` says so (at most as many as the family was made for). Pure, works under vmap and jit"""
    size: int | None = None
    """how many distinct tasks there are; None where they never run out"""
    examples: Callable[[jax.Array], Batch] | None = None
    """`examples(task)`: all there is of a task, where that is finite"""
    names: tuple[str, ...] | None = None
    """what people call the tasks, where they have names"""
    lengths: np.ndarray | None = None
    """[tasks]: how many examples there are of each, where that is finite"""
    resized: Callable[[int], TaskFamily] | None = None
    """`resized(most)`: the same family with room for so many shots, to be given to `episode`"""
    describe: Callable[[jax.Array], jax.Array] | None = None
    """`describe(task)`: what the task consists of, such as the numbers of its classes; by it results are told apart"""
    gaps: bool = False
    """whether examples lack some of their targets: weights are [examples, outputs]"""
    on_host: OnHost | None = None
    """what episodes are cut from, where that stays on the host"""

    def sample_episode(self, key: Key) -> Episode:
        """An episode of a task drawn at random (lines 3, 5 and 7: support and query are of one and the same task)."""
        task_key, episode_key = jax.random.split(key)
        if self.size is None:  # any 31 bits name a task; cheaper than a draw below a bound
            task = (jax.random.bits(task_key, dtype=jnp.uint32) >> 1).astype(jnp.int32)
        else:
            task = jax.random.randint(task_key, (), 0, self.size)
        return self.episode(task, episode_key)

    def tasks(self, count: int, shots: int = 0) -> jax.Array:
        """The first `count` tasks, each once: fewer where there are no more. Only those with more than `shots` examples."""
        if self.lengths is not None:
            return jnp.asarray(np.flatnonzero(self.lengths > shots)[:count])
        return jnp.arange(count if self.size is None else min(count, self.size))
