"""Sine waves (Finn et al. 2017, section 5.1): y = A sin(x + φ), one wave a task (floor 1). Used by problems/sine.py."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fewstep.tasks.family import TaskFamily
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


def sine_wave(key: Key) -> SineWave:
    """A ~ U(0.1, 5), φ ~ U(0, π)."""
    amplitude_key, phase_key = jax.random.split(key)
    return SineWave(
        jax.random.uniform(amplitude_key, minval=AMPLITUDES[0], maxval=AMPLITUDES[1]),
        jax.random.uniform(phase_key, minval=PHASES[0], maxval=PHASES[1]),
    )


def sine_waves(key: Key, shots: int, queries: int, told: bool = False) -> TaskFamily:
    """The family of all sine waves, numbered by `key`: families of different keys share no task.

    Inputs [points, 1] are x ~ U(−5, 5), targets [points, 1]. With `told`, the inputs are (x, A, φ), [points, 3]:
    what an oracle sees that need not adapt.
    """

    def episode(task: jax.Array, episode_key: Key) -> Episode:
        wave = sine_wave(jax.random.fold_in(key, task))
        x = jax.random.uniform(episode_key, (shots + queries, 1), minval=INPUTS[0], maxval=INPUTS[1])
        examples = sine_examples(wave, x, told)
        return Episode(jax.tree.map(lambda leaf: leaf[:shots], examples), jax.tree.map(lambda leaf: leaf[shots:], examples))

    return TaskFamily(episode)


def sine_examples(wave: SineWave, x: jax.Array, told: bool = False) -> Examples:
    """Points of one wave at x [points, 1]."""
    inputs = jnp.concatenate([x, jnp.full_like(x, wave.amplitude), jnp.full_like(x, wave.phase)], 1) if told else x
    return Examples(inputs, wave(x), jnp.ones(x.shape[0], x.dtype))
