"""The application `robots`, as `fewstep.application.Application` describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewstep.application import Command, Example, Presets, Source
from fewstep.apps.rows.application import ROWS, SupervisedApplication


class RobotsApplication(SupervisedApplication):
    """Tasks are robots with one fault each; examples are steps of control."""

    name = "robots"
    commands: Mapping[str, Command] = {
        **ROWS,
        "play": Command("fewstep.apps.robots.cli:Play", "a moving picture of what adaptation changes: of a robot, of a policy"),
        "gather": Command(
            "fewstep.apps.robots.cli:Collect", "drive a run's robots by its model, and keep what they live through"
        ),
    }

    @property
    def problems(self) -> Mapping[str, type[Any]]:
        from fewstep.apps.robots.settings import RobotFaults

        return {"robot-faults": RobotFaults}

    @property
    def presets(self) -> Mapping[str, Presets]:
        from fewstep.apps.robots.settings import PRESETS

        return {"robot-faults": PRESETS}

    @property
    def methods(self) -> Sequence[Any]:
        """Those on rows, but for the one whose cost grows with the number of targets."""
        return [method for method in super().methods if method.name != "mixed"]

    def sources(self, settings: Any) -> Mapping[str, Source]:
        """The data, and the files that stand for a robot or a family of faults, if no known one is named."""
        named = {"robot": settings.robot, "family": settings.family}
        found = {name: Source(path) for name, path in named.items() if path and (Path(path).is_file() or Path(path).suffix)}
        return found | ({"data": Source(settings.data)} if settings.data else {})

    def example(self, folder: Path) -> Example:
        import polars as pl

        from fewstep.apps.robots.settings import RobotFaults

        settings = RobotFaults(
            robots=(6, 3, 3), runs=1, shots=4, queries=4, meta_batch_size=2, meta_steps=4, hidden=(8,), log_every=2
        )
        format = settings.build(0).format
        rows = {name: [0.0, 0.1, 0.2, 0.3] for name in (*format.input_names, *(target.name for target in format.targets))}
        support = pl.DataFrame(rows)
        return Example(settings, support, support, {"inner_rate": -1.0, "runs": 0})


APPLICATION = RobotsApplication()
