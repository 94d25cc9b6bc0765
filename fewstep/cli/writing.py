"""Files that commands write (floor 6): new ones, and tables whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.errors import BadInput
from fewstep.whole import whole

if TYPE_CHECKING:
    import polars as pl

SUFFIXES = (".csv", ".tsv", ".parquet", ".arrow", ".feather", ".json", ".jsonl")


def new_table(out: str) -> Path:
    """The file that `--out` names. Raises `BadInput` where it exists or has no ending of a table."""
    return new_file(out, SUFFIXES)


def new_file(out: str, suffixes: Sequence[str]) -> Path:
    """The file that `--out` names. Raises `BadInput` where it exists or ends in none of `suffixes`."""
    path = Path(out)
    if path.suffix.lower() not in suffixes:
        raise BadInput(f"--out {path} should end in {' or '.join(filter(None, (', '.join(suffixes[:-1]), suffixes[-1])))}.")
    if path.exists():
        raise BadInput(f"--out {path} already exists. Choose another name, or remove it; nothing was changed.")
    return path


def write_table(table: pl.DataFrame, out: Path) -> None:
    """Writes `table` to `out`. Raises `BadInput` where it cannot be written there, or the format cannot hold its columns."""
    from polars.exceptions import PolarsError

    try:
        with whole(out) as partial, partial.open("wb") as file:
            match out.suffix.lower():
                case ".parquet":
                    table.write_parquet(file)
                case ".arrow" | ".feather":
                    table.write_ipc(file)
                case ".json":
                    table.write_json(file)
                case ".jsonl":
                    table.write_ndjson(file)
                case suffix:
                    table.write_csv(file, separator="\t" if suffix == ".tsv" else ",")
    except PolarsError as error:
        raise BadInput(
            f"--out {out} cannot hold the columns: {error}. Choose a .parquet file, or leave columns out."
        ) from error
    except OSError as error:
        raise BadInput(
            f"--out {out} cannot be written: {error.strerror}. Choose a folder that exists and may be written to."
        ) from error


def moving_picture(out: str, seed: int) -> Path:
    """The file that `--out` of `fewstep play` names. Raises `BadInput` if it cannot be written, or for a seed below 0."""
    path = new_file(out, (".gif", ".webp"))
    if not path.parent.is_dir():
        raise BadInput(f"--out {path}: there is no folder {path.parent}.")
    if seed < 0:
        raise BadInput(f"--seed should be at least 0, got {seed}.")
    return path
