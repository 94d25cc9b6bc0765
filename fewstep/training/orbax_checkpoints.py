"""Checkpoints as earlier versions wrote them, by orbax (floor 3): a folder each. Read, and not written any more."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fewstep.errors import BadInput
from fewstep.training.checkpoint_file import Damaged


def read_record(folder: Path) -> dict[str, Any]:
    """What a checkpoint holds beside its arrays. Raises `Damaged` where that cannot be read."""
    try:
        return json.loads((folder / "record" / "metadata").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Damaged from error


def read(folder: Path, like: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays by name, record). Raises `BadInput` where it cannot be read or its arrays have other names or shapes."""
    import orbax.checkpoint as ocp

    abstract = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in like.items()}
    try:
        with _quiet():
            # Compared before anything is read: orbax gives up on a wrong shape only in the middle of its reading.
            stored = ocp.StandardCheckpointer().metadata(folder / "state").item_metadata
            if stored is None or _shapes(stored.tree) != _shapes(abstract):
                raise ValueError("other shapes")
            found = ocp.StandardCheckpointer().restore(folder / "state", abstract)
            return {name: np.asarray(found[name]) for name in like}, read_record(folder)
    except Exception as error:  # orbax raises many kinds for a damaged checkpoint
        raise BadInput(
            f"Checkpoint {folder} cannot be read: it is damaged or of another model ({type(error).__name__}). Nothing was "
            "changed; remove that folder to fall back on another one, or train again."
        ) from error


def _shapes(leaves: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in leaves.items()}


@contextlib.contextmanager
def _quiet():
    """Silences what orbax logs of each step, and of an error before it raises it."""
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
