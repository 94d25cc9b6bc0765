"""fewstep update ADAPTED --support MORE: adapt again from θ, to old and new rows together (floor 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from fewstep.cli.adapt import tell
from fewstep.cli.arguments import parse, prepare_jax
from fewstep.errors import BadInput


@dataclass(frozen=True)
class Update:
    """Adapt again, to the rows known so far and those of a file; new units join the others."""

    adapted: Annotated[str, tyro.conf.Positional]
    """the adapted model's folder"""
    support: str
    """a CSV, TSV or Parquet file, or a pattern of them: the new rows, with the columns of the old ones"""
    out: str | None = None
    """folder for the updated model; by default the old one is written over"""
    json: bool = False
    """print one JSON object on stdout"""


def main(argv: list[str]) -> int:
    arguments = parse(Update, argv, "fewstep update")
    prepare_jax()
    from fewstep.adapted import open_adapted
    from fewstep.adapted.photos import is_photos
    from fewstep.tasks.reading import read_table

    if is_photos(arguments.adapted):
        raise BadInput(
            f"{arguments.adapted}: update is for models of tables. Of photos, adapt anew: fewstep adapt RUN --support "
            "FOLDER, with the old and the new photos in it."
        )
    model = open_adapted(arguments.adapted)
    model = model.update(read_table(arguments.support, labels=model.format.labels), arguments.support)
    if arguments.out is None:
        model.save_update(arguments.adapted)
    else:
        model.save(arguments.out)
    tell(model, arguments.out or arguments.adapted, arguments.json)
    return 0
