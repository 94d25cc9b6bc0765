"""fewstep predict ADAPTED --inputs FILE --out FILE: predictions in the target's own units (floor 5)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fewstep.cli.arguments import parse, prepare_jax, say
from fewstep.errors import BadInput

COLUMN = "prediction"


@dataclass(frozen=True)
class Predict:
    """Predict with an adapted model: the rows of the inputs file, with a column `prediction` added."""

    adapted: Annotated[str, tyro.conf.Positional]
    """the adapted model's folder"""
    inputs: str
    """a CSV, TSV or Parquet file with the input columns"""
    out: str
    """the file to write: .csv, .tsv or .parquet"""
    json: bool = False
    """print one JSON object on stdout"""


def main(argv: list[str]) -> int:
    arguments = parse(Predict, argv, "fewstep predict")
    prepare_jax()
    import polars as pl

    from fewstep.adapted import open_adapted
    from fewstep.tasks.columns import read_table

    out = Path(arguments.out)
    if out.suffix.lower() not in (".csv", ".tsv", ".parquet"):
        raise BadInput(f"--out {out} should end in .csv, .tsv or .parquet.")
    if out.exists():
        raise BadInput(f"--out {out} already exists. Choose another name, or remove it; nothing was changed.")
    model = open_adapted(arguments.adapted)
    table = read_table(arguments.inputs)
    if COLUMN in table.columns:
        raise BadInput(f"{arguments.inputs}: there is a column {COLUMN!r} already. Rename it, or it would be lost.")
    result = table.with_columns(pl.Series(COLUMN, model.predict(table, arguments.inputs)))
    partial = out.with_name(out.name + ".partial")
    try:
        with partial.open("wb") as file:
            if out.suffix.lower() == ".parquet":
                result.write_parquet(file)
            else:
                result.write_csv(file, separator="\t" if out.suffix.lower() == ".tsv" else ",")
        partial.replace(out)
    except OSError as error:
        raise BadInput(
            f"--out {out} cannot be written: {error.strerror}. Choose a folder that exists and may be written to."
        ) from error
    if arguments.json:
        print(json.dumps({"predictions": str(out), "rows": table.height}))
    else:
        say(f"{table.height} predictions of {model.format.target!r} -> {out}")
    return 0
