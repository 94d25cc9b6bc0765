"""fewstep update ADAPTED --support MORE: adapt again from θ, to old and new rows together (floor 6)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fewstep.cli.adapt import tell
from fewstep.cli.arguments import prepare_jax


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

    def __call__(self) -> int:
        prepare_jax()
        from fewstep.adapted.folder import open_units
        from fewstep.tasks.reading import read_table

        model = open_units(Path(self.adapted))
        model = model.update(read_table(self.support, labels=model.format.labels), self.support)
        if self.out is None:
            model.save_update(self.adapted)
        else:
            model.save(self.out)
        tell(model, self.out or self.adapted, self.json)
        return 0
