"""Settings of sine waves, the demonstration of the MAML paper (section 5.1), and the Problem built from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.apps.sine.tasks import INPUTS, Ranges, sine_examples, sine_wave, sine_waves
from fewstep.core.problem import Illustration, Problem, Splits
from fewstep.errors import InputError
from fewstep.recipe.settings import PLAIN_MAML, LearningSettings
from fewstep.supervised.columns import InputColumn, TableFormat, TargetColumn
from fewstep.supervised.model import supervised

GRID = np.linspace(-5.0, 5.0, 100, dtype=np.float32)[:, None]
TEST_QUERIES = 100

INITIALIZATIONS = {
    "glorot": jax.nn.initializers.glorot_uniform(),
    "normal": jax.nn.initializers.truncated_normal(0.1),
}


@dataclass(frozen=True)
class Sine(LearningSettings):
    """y = A sin(omega x + phi): amplitude and phase differ by task (Finn et al. 2017), by choice the frequency too."""

    initialization: Literal["glorot", "normal"] = "glorot"
    """how weights start: glorot (uniform within the Glorot bound) or normal (standard deviation 0.1, truncated)"""

    frequencies: tuple[float, float] = (1.0, 1.0)
    """omega of y = A sin(omega x + phi) is drawn from this range for each task; 0.8 1.2 as in Li et al. 2017 (Meta-SGD)"""

    def build(self, seed: int = 0, format: TableFormat | None = None) -> Problem:
        """The Problem, the same for all seeds: a seed decides which of the endless meta-train tasks a run meets."""
        del format  # the columns of a sine table are always x and y
        self.check(seed)
        if self.initialization not in INITIALIZATIONS:
            raise InputError(f"--initialization should be one of {', '.join(INITIALIZATIONS)}, got {self.initialization}.")
        if not 0 < self.frequencies[0] <= self.frequencies[1] < float("inf"):
            raise InputError(f"--frequencies should be two positive numbers, the lesser first, got {self.frequencies}.")
        ranges = Ranges(frequencies=self.frequencies)
        train_key, validation_key, test_key, calibration_key = map(jax.random.key, range(4))
        waves = partial(sine_waves, shots=self.shot_range, ranges=ranges)
        test = waves(test_key, queries=TEST_QUERIES)

        def illustrate(task: int) -> Illustration:
            support = test.episode(jnp.asarray(task), jax.random.fold_in(jax.random.key(0), task), self.shot_range.most).support
            wave = sine_wave(jax.random.fold_in(test_key, task), ranges)
            truth = sine_examples(wave, jnp.asarray(GRID)).targets[:, 0]
            title = f"A = {float(wave.amplitude):.2f}, φ = {float(wave.phase):.2f}"
            title += f", ω = {float(wave.frequency):.2f}" * (self.frequencies != (1.0, 1.0))
            flat = GRID[:, 0]
            return Illustration(title, support, np.asarray(support.inputs[:, 0]), jnp.asarray(GRID), flat, np.asarray(truth))

        return supervised(
            self,
            TableFormat((InputColumn("x", "number", span=INPUTS),), (TargetColumn("y"),)),
            layers={"kernel_init": INITIALIZATIONS[self.initialization]},
            name="sine",
            baselines=("mean", "nearest"),
            protocol={"queries": TEST_QUERIES, "frequencies": "{:g} to {:g}".format(*self.frequencies)},
            splits=Splits(
                waves(train_key, queries=self.queries),
                waves(validation_key, queries=TEST_QUERIES),
                test,
                waves(calibration_key, queries=TEST_QUERIES),
            ),
            illustrate=illustrate,
            shot_counts=tuple(sorted({max(1, self.shot_range.most // 2), self.shot_range.most})),
            **({"evaluation_steps": (0, 1, 5, 10)} if self.adapter == "gradient" else {}),
        )


PUBLISHED = Sine(adaptation_steps=1, inner_rate=0.01, **PLAIN_MAML)

PRESETS = {
    "default": (Sine(), "five adaptation steps with learned rates, about a minute"),
    "one-step": (
        Sine(
            adaptation_steps=1,
            inner_optimizer="meta-curvature",
            meta_steps=60_000,
            outer_rate=1.5e-3,
            inner_outer_rate=1.5e-3,
            outer_decay=0.999,
            clip=3.0,
            log_every=1_000,
        ),
        "the best recipe for exactly one adaptation step (Meta-Curvature), about a minute",
    ),
    "tutorial": (
        replace(PUBLISHED, meta_batch_size=4, meta_steps=2_000, log_every=200),
        "the widely read tutorial's settings: 2,000 meta-steps of 4 tasks, a few seconds",
    ),
    "paper": (
        replace(PUBLISHED, meta_steps=70_000, log_every=1_000, initialization="normal"),
        "Finn et al. 2017: 70,000 meta-steps of 25 tasks, alpha 0.01, one step",
    ),
}
