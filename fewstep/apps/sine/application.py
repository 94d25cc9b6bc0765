"""The application `sine`, as `fewstep.application.Application` describes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewstep.application import Example, Presets
from fewstep.apps.rows.application import SupervisedApplication


class SineApplication(SupervisedApplication):
    """Amplitude and phase differ by task; there is no data to read."""

    name = "sine"

    @property
    def problems(self) -> Mapping[str, type[Any]]:
        from fewstep.apps.sine.settings import Sine

        return {"sine": Sine}

    @property
    def presets(self) -> Mapping[str, Presets]:
        from fewstep.apps.sine.settings import PRESETS

        return {"sine": PRESETS}

    def example(self, folder: Path) -> Example:
        import polars as pl

        from fewstep.apps.sine.settings import Sine

        settings = Sine(shots=5, queries=5, meta_batch_size=2, meta_steps=4, adaptation_steps=1, hidden=(8,), log_every=2)
        support = pl.DataFrame({"x": [-1.0, 0.0, 1.0], "y": [0.5, 0.1, -0.4]})
        return Example(settings, support, support.select("x"), {"inner_rate": -1.0, "meta_steps": 0})


APPLICATION = SineApplication()
