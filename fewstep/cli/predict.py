"""fewstep predict ADAPTED --inputs FILE --out FILE: predictions in the target's own units (floor 6)."""

from __future__ import annotations

import json as to_json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fewstep.cli.adapt import say_units
from fewstep.cli.arguments import prepare_jax, say, say_notes
from fewstep.cli.writing import new_table, write_table
from fewstep.errors import BadInput


@dataclass(frozen=True)
class Predict:
    """Predict with an adapted model: the inputs file, with prediction, lower and upper (or class probabilities) added."""

    adapted: Annotated[str, tyro.conf.Positional]
    """the adapted model's folder"""
    inputs: str
    """a CSV, TSV or Parquet file, or a pattern of them, with the input columns; of several units, with the task column too"""
    out: str
    """the file to write: .csv, .tsv, .parquet, .arrow, .feather, .json or .jsonl"""
    level: float | None = None
    """which part of rows lower and upper enclose, such as 0.9; by default 0.95 where enough units were left to calibrate it"""
    json: bool = False
    """print one JSON object on stdout"""

    def __call__(self) -> int:
        prepare_jax()
        import polars as pl

        from fewstep.adapted.folder import open_units
        from fewstep.tasks.infer_kinds import in_numbers
        from fewstep.tasks.kinds import read_words
        from fewstep.tasks.reading import read_table

        out = new_table(self.out)
        model = open_units(Path(self.adapted))
        format = model.format
        table = in_numbers(read_table(self.inputs, labels=format.labels), format.how, self.inputs)
        notes: list[str] = []
        columns = model.columns(table, self.inputs, self.level, notes)
        if taken := [name for name in columns if name in table.columns]:
            raise BadInput(f"{self.inputs}: there is a column {taken[0]!r} already. Rename it, or it would be lost.")
        series = [pl.Series(name, values) for name, values in columns.items()]
        empty = [each.fill_nan(None) if each.name.startswith(("lower", "upper")) else each for each in series]
        result = table.with_columns(*empty)
        write_table(result, out)
        say_notes((*model.trained.said, *notes))
        asked = set(read_words(table, format.task, self.inputs)) if format.task in table.columns else {"it"}
        say_units("unlike anything trained on", {name: why for name, why in model.unlike.items() if name in asked})
        targets = [target.name for target in model.format.targets]
        if self.json:
            print(to_json.dumps({"predictions": str(out), "rows": table.height, "columns": list(columns), "notes": notes}))
        else:
            say(f"{table.height} predictions of {' and '.join(map(repr, targets))} -> {out}")
        return 0
