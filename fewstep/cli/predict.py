"""fewstep predict ADAPTED --inputs FILE --out FILE: predictions in the target's own units (floor 6)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from fewstep.cli.adapt import say_units
from fewstep.cli.arguments import parse, prepare_jax, say, say_notes
from fewstep.cli.writing import new_table, write_table
from fewstep.errors import BadInput


@dataclass(frozen=True)
class Predict:
    """Predict with an adapted model: the inputs file, with prediction, lower and upper (or class probabilities) added."""

    adapted: Annotated[str, tyro.conf.Positional]
    """the adapted model's folder"""
    inputs: str
    """a CSV, TSV or Parquet file, or a pattern of them, with the input columns; of several units, with the task column too; of
    images, a photo, or a folder or zip of photos"""
    out: str
    """the file to write: .csv, .tsv, .parquet, .arrow, .feather, .json or .jsonl"""
    level: float | None = None
    """which part of rows lower and upper enclose, such as 0.9; by default 0.95 where enough units were left to calibrate it. Of
    images: adds sets of classes that hold the right one so often"""
    json: bool = False
    """print one JSON object on stdout"""


def main(argv: list[str]) -> int:
    arguments = parse(Predict, argv, "fewstep predict")
    prepare_jax()
    import polars as pl

    from fewstep.adapted import open_adapted
    from fewstep.adapted.photos import is_photos
    from fewstep.tasks.infer_kinds import in_numbers
    from fewstep.tasks.kinds import read_words
    from fewstep.tasks.reading import read_table

    if is_photos(arguments.adapted):
        from fewstep.cli import photos

        return photos.predict(arguments.adapted, arguments.inputs, arguments.out, arguments.level, arguments.json)
    out = new_table(arguments.out)
    model = open_adapted(arguments.adapted)
    format = model.format
    table = in_numbers(read_table(arguments.inputs, labels=format.labels), format.how, arguments.inputs)
    notes: list[str] = []
    columns = model.columns(table, arguments.inputs, arguments.level, notes)
    if taken := [name for name in columns if name in table.columns]:
        raise BadInput(f"{arguments.inputs}: there is a column {taken[0]!r} already. Rename it, or it would be lost.")
    series = [pl.Series(name, values) for name, values in columns.items()]
    empty = [each.fill_nan(None) if each.name.startswith(("lower", "upper")) else each for each in series]
    result = table.with_columns(*empty)
    write_table(result, out)
    say_notes((*model.trained.said, *notes))
    asked = set(read_words(table, format.task, arguments.inputs)) if format.task in table.columns else {"it"}
    say_units("unlike anything trained on", {name: why for name, why in model.unlike.items() if name in asked})
    targets = [target.name for target in model.format.targets]
    if arguments.json:
        print(json.dumps({"predictions": str(out), "rows": table.height, "columns": list(columns), "notes": notes}))
    else:
        say(f"{table.height} predictions of {' and '.join(map(repr, targets))} -> {out}")
    return 0
