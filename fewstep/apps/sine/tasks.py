"""Tasks of sine waves (Finn et al. 2017, section 5.1): y = A sin(ωx + φ), one wave per task."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fewstep.core.tasks import Shots, TaskFamily
from fewstep.core.types import Episode, Examples, Key

INPUTS = (-5.0, 5.0)


class Ranges(NamedTuple):
    """Where the waves of a family differ: each is drawn evenly from (least, most)."""

    amplitudes: tuple[float, float] = (0.1, 5.0)
    phases: tuple[float, float] = (0.0, jnp.pi)
    frequencies: tuple[float, float] = (1.0, 1.0)
    """Li et al. 2017 (Meta-SGD, arXiv 1707.09835, section 4.1) draw them from 0.8 to 1.2"""


PUBLISHED = Ranges()
"""those of Finn et al. 2017"""


class SineWave(NamedTuple):
    """One task: amplitude A, phase φ in radians, and frequency ω in radians."""

    amplitude: jax.Array
    phase: jax.Array
    frequency: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.amplitude * jnp.sin(self.frequency * x + self.phase)


def sine_wave(key: Key, ranges: Ranges = PUBLISHED) -> SineWave:
    """A wave drawn at random; by default A ~ U(0.1, 5), φ ~ U(0, π), ω = 1."""
    amplitude_key, phase_key = jax.random.split(key)

    def draw(key: Key, least: float, most: float) -> jax.Array:
        return jnp.asarray(least) if least == most else jax.random.uniform(key, minval=least, maxval=most)

    keys = amplitude_key, phase_key, jax.random.fold_in(key, 2)
    return SineWave(*(draw(key, *limits) for key, limits in zip(keys, ranges, strict=True)))


def sine_waves(
    key: Key, shots: int | Shots, queries: int, oracle: bool = False, ranges: Ranges = PUBLISHED, room: int = 0
) -> TaskFamily:
    """The family of all sine waves, numbered by `key`: families of different keys share no task.

    Inputs [points, 1] are x ~ U(−5, 5), targets [points, 1]. Where there are fewer shots than the most, the rest has weight 0.
    With `oracle`, the inputs are (x, A, φ), [points, 3]: what an oracle sees that need not adapt. Other `ranges`
    than the paper's make tasks unlike those of training.
    """
    count = shots if isinstance(shots, Shots) else Shots(shots, shots)
    most = max(count.most, room, 1)

    def episode(task: jax.Array, episode_key: Key, shots: jax.Array | int | None = None) -> Episode:
        wave = sine_wave(jax.random.fold_in(key, task), ranges)
        if shots is None and count.least < count.most:
            episode_key, count_key = jax.random.split(episode_key)
            shots = count.draw(count_key)
        x = jax.random.uniform(episode_key, (most + queries, 1), minval=INPUTS[0], maxval=INPUTS[1])
        examples = sine_examples(wave, x, oracle)
        support, query = (
            jax.tree.map(lambda leaf, part=part: leaf[part], examples) for part in (slice(most), slice(most, None))
        )
        if shots is not None or count.most < most:
            known = count.most if shots is None else shots
            support = support._replace(weight=(jnp.arange(most) < known).astype(x.dtype))
        return Episode(support, query)

    return TaskFamily(episode, resized=lambda room: sine_waves(key, count, queries, oracle, ranges, room))


def sine_examples(wave: SineWave, x: jax.Array, oracle: bool = False) -> Examples:
    """Points of one wave at x [points, 1]."""
    inputs = jnp.concatenate([x, jnp.full_like(x, wave.amplitude), jnp.full_like(x, wave.phase)], 1) if oracle else x
    return Examples(inputs, wave(x), jnp.ones(x.shape[0], x.dtype))
