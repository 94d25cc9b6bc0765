"""Sine waves (Finn et al. 2017, section 5.1): y = A sin(x + φ), one wave a task (floor 1). Used by problems/sine.py."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fewstep.tasks.family import Shots, TaskFamily
from fewstep.types import Episode, Examples, Key

AMPLITUDES = (0.1, 5.0)
PHASES = (0.0, jnp.pi)
INPUTS = (-5.0, 5.0)


class SineWave(NamedTuple):
    """One task: amplitude A and phase φ, in radians."""

    amplitude: jax.Array
    phase: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.amplitude * jnp.sin(x + self.phase)


def sine_wave(key: Key, amplitudes: tuple[float, float] = AMPLITUDES) -> SineWave:
    """A ~ U(0.1, 5), φ ~ U(0, π)."""
    amplitude_key, phase_key = jax.random.split(key)
    return SineWave(
        jax.random.uniform(amplitude_key, minval=amplitudes[0], maxval=amplitudes[1]),
        jax.random.uniform(phase_key, minval=PHASES[0], maxval=PHASES[1]),
    )


def sine_waves(
    key: Key, shots: int | Shots, queries: int, told: bool = False, amplitudes: tuple[float, float] = AMPLITUDES, room: int = 0
) -> TaskFamily:
    """The family of all sine waves, numbered by `key`: families of different keys share no task.

    Inputs [points, 1] are x ~ U(−5, 5), targets [points, 1]. Where there are fewer shots than the most, the rest has weight 0.
    With `told`, the inputs are (x, A, φ), [points, 3]: what an oracle sees that need not adapt. `amplitudes` other than the
    paper's make tasks unlike those of training.
    """
    count = shots if isinstance(shots, Shots) else Shots(shots, shots)
    most = max(count.most, room, 1)

    def episode(task: jax.Array, episode_key: Key, shots: jax.Array | int | None = None) -> Episode:
        wave = sine_wave(jax.random.fold_in(key, task), amplitudes)
        if shots is None and count.least < count.most:
            episode_key, count_key = jax.random.split(episode_key)
            shots = count.draw(count_key)
        x = jax.random.uniform(episode_key, (most + queries, 1), minval=INPUTS[0], maxval=INPUTS[1])
        examples = sine_examples(wave, x, told)
        support, query = (
            jax.tree.map(lambda leaf, part=part: leaf[part], examples) for part in (slice(most), slice(most, None))
        )
        if shots is not None or count.most < most:
            known = count.most if shots is None else shots
            support = support._replace(weight=(jnp.arange(most) < known).astype(x.dtype))
        return Episode(support, query)

    return TaskFamily(episode, resized=lambda room: sine_waves(key, count, queries, told, amplitudes, room))


def sine_examples(wave: SineWave, x: jax.Array, told: bool = False) -> Examples:
    """Points of one wave at x [points, 1]."""
    inputs = jnp.concatenate([x, jnp.full_like(x, wave.amplitude), jnp.full_like(x, wave.phase)], 1) if told else x
    return Examples(inputs, wave(x), jnp.ones(x.shape[0], x.dtype))
