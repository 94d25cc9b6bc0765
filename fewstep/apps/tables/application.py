"""The application `tables`, as `fewstep.application.Application` describes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fewstep.application import Command, Example, Presets, Source
from fewstep.apps.rows.application import ROWS, SupervisedApplication, of_rows


class TablesApplication(SupervisedApplication):
    """Tasks are the units that a column of the table names."""

    name = "tables"
    commands: Mapping[str, Command] = {
        **ROWS,
        "sample-table": Command("fewstep.apps.tables.sample:SampleTable", "write a table to try it all on", ""),
    }

    @property
    def problems(self) -> Mapping[str, type[Any]]:
        from fewstep.apps.tables.settings import Table

        return {"table": Table}

    @property
    def presets(self) -> Mapping[str, Presets]:
        from fewstep.apps.tables.settings import PRESETS

        return {"table": PRESETS}

    @property
    def methods(self) -> Sequence[Any]:
        return of_rows()

    def sources(self, settings: Any) -> Mapping[str, Source]:
        return {"data": Source(settings.data)} if settings.data else {}

    def describe(self, problem: Any) -> Sequence[str]:
        """How columns were understood, how tasks are split, which intervals that allows; and the notes."""
        from fewstep.supervised.conformal import allowed_intervals

        settings, splits = problem.settings, problem.splits
        lines = list(problem.format.describe())
        held_out = {"meta-train": splits.train, "meta-validation": splits.validation}
        held_out |= {"calibration": splits.calibration, "meta-test": splits.test}
        counts = ", ".join(f"{family.size} {split}" for split, family in held_out.items() if family is not None)
        lines.append(f"tasks ({settings.task or '@file'}): {counts}")
        if not problem.format.classes:
            lines.append(allowed_intervals(splits.calibration.size if splits.calibration else 0))
        lines.append(f"support set: {problem.protocol['support']}")
        if not settings.time and any(column.kind == "date" for column in problem.format.inputs):
            lines.append("(--time COLUMN makes it a forecast: the support set then always precedes what is asked for)")
        if splits.left_out:
            lines.append(
                f"left out, with no more rows than --shots {settings.shot_range.least}: {splits.left_out} of the tasks"
            )
        return [*lines, *problem.notes]

    def benchmark(self, settings: Any, seed: int, say: Callable[[str], None], **options: Any) -> Sequence[Any]:
        """As for all rows; with few tasks every task is tested once, on one of several splits."""
        return super().benchmark(settings, seed, say, cross_fitted=True, **options)

    def example(self, folder: Path) -> Example:
        import numpy as np
        import polars as pl

        from fewstep.apps.tables.settings import Table

        random = np.random.default_rng(0)
        slope, x = np.repeat(random.normal(size=24), 8), random.normal(size=192)
        units = [f"unit {number // 8}" for number in range(192)]
        table = pl.DataFrame({"unit": units, "x": x, "y": slope * x})
        table.write_csv(folder / "table.csv")
        settings = Table(
            data=str(folder / "table.csv"),
            task="unit",
            inputs=("x",),
            target=("y",),
            adapter="gradient",
            shots=3,
            queries=4,
            adaptation_steps=1,
            hidden=(8,),
            meta_batch_size=2,
            meta_steps=4,
            log_every=2,
        )
        support = table.head(5).with_columns(unit=pl.lit("new"))
        return Example(settings, support, support.drop("y"), {"inner_rate": -1.0, "target": ("missing",)})


APPLICATION = TablesApplication()
