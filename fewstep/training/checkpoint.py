"""Checkpoints of the outer loop, by orbax (floor 3): the last and the best, written atomically and in the background."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fewstep.errors import BadInput
from fewstep.maml import MetaState


class Checkpoints:
    """The folder `RUN/checkpoints`: one subfolder a checkpoint, named by its meta-step. Keeps the last two and the best.

    Beside the MetaState, a checkpoint holds a small record as JSON (validation loss, position in the log, ...).
    Use as a context manager: leaving it waits for writes under way.
    """

    def __init__(self, directory: Path):
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax tells every step of every write
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as policies

        self._ocp = ocp
        self.directory = Path(directory).resolve()
        keep = policies.AnyPreservationPolicy(
            [
                policies.LatestN(2),
                policies.BestN(
                    get_metric_fn=lambda metrics: -metrics["validation"], n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep, best_fn=lambda metrics: -metrics["validation"], cleanup_tmp_directories=True
        )
        try:
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        except Exception as error:  # it reads what all checkpoints scored, and raises many kinds where one is damaged
            raise BadInput(
                f"A checkpoint in {self.directory} is damaged ({type(error).__name__}). Nothing was changed; remove the folder "
                "of the damaged one (often the newest) to fall back on another."
            ) from error

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception) -> None:
        self._manager.close()

    def save(self, state: MetaState, record: dict[str, Any]) -> None:
        """Writes `state` under its meta-step, in the background. `record["validation"]` decides which is best."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        args = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(named_leaves(state)), record=self._ocp.args.JsonSave(record)
        )
        self._manager.save(step, args=args, metrics={"validation": float(record["validation"])})

    def restore(self, like: MetaState, which: str = "best") -> tuple[MetaState, dict[str, Any]]:
        """(MetaState, record) of the 'best' or the 'last' checkpoint.

        Raises `BadInput` where there is none, or where it cannot be read or does not fit `like`.
        """
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise BadInput(f"{self.directory} holds no checkpoint: expected a run that was trained. Train it again.")
        step = self._manager.best_step() if which == "best" else steps[-1]
        step = steps[-1] if step is None else step
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), named_leaves(like))
        args = self._ocp.args.Composite(state=self._ocp.args.StandardRestore(abstract), record=self._ocp.args.JsonRestore())
        try:
            with _quiet():
                restored = self._manager.restore(step, args=args)
        except Exception as error:  # orbax raises many kinds for a damaged checkpoint
            others = [s for s in steps if s != step]
            advice = f"remove that folder to fall back on checkpoint {others[-1]}" if others else "train again"
            raise BadInput(
                f"Checkpoint {self.directory / str(step)} cannot be read: it is damaged or of another model "
                f"({type(error).__name__}). Nothing was changed; {advice}."
            ) from error
        leaves = [np.asarray(restored["state"][name]) for name in named_leaves(like)]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), restored["record"]


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree under their paths: plain names on disk, whatever the types of the containers."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


@contextlib.contextmanager
def _quiet():
    """Silences the warnings that orbax logs before it raises."""
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
