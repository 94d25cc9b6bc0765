"""Checkpoints of the outer loop, by orbax (floor 3): the last and the best, written atomically and in the background."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from fewstep.arrays import named_leaves
from fewstep.errors import BadInput
from fewstep.maml import MetaState


class Checkpoints:
    """The folder `RUN/checkpoints`: one subfolder a checkpoint, named by its meta-step. Keeps the last two and the best.

    Beside the MetaState, a checkpoint holds a small record as JSON (validation loss, position in the log, ...).
    Use as a context manager: leaving it waits for writes under way. Mode "new" makes the folder; "resume" and "read" raise
    `BadInput` where there is none; "read" changes nothing, not even what a training under way has half written.
    """

    def __init__(self, directory: Path, mode: Literal["new", "resume", "read"]):
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax tells every step, and each error before it raises it
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as policies

        self._ocp = ocp
        alone: dict[str, Any] = {}  # of many processes, this one alone writes and reads: θ is the same in all
        if jax.process_count() > 1:
            only = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
            alone = {"multiprocessing_options": only}
            if mode == "new":  # which orbax does not do for some of many
                Path(directory).mkdir(parents=True, exist_ok=True)
        self._alone = alone
        self.directory = Path(directory).resolve()
        if mode != "new" and not self.directory.is_dir():
            raise BadInput(f"{self.directory.parent} holds no checkpoint yet. Train it again.")
        if mode == "read":  # without a policy of what to keep: orbax refuses one where nothing may be removed
            options = ocp.CheckpointManagerOptions(best_fn=_score, read_only=True, create=False, save_interval_steps=0, **alone)
        else:
            best = policies.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
            keep = policies.AnyPreservationPolicy([policies.LatestN(2), best])
            options = ocp.CheckpointManagerOptions(
                best_fn=_score, preservation_policy=keep, cleanup_tmp_directories=True, create=not alone, **alone
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
        state = jax.device_get(state)  # plain arrays: on whatever devices they are read, they never ask for those of today
        args = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(named_leaves(state)), record=self._ocp.args.JsonSave(record)
        )
        self._manager.save(step, args=args, metrics={"validation": float(record["validation"])})

    def forget_after(self, step: int) -> None:
        """Removes the checkpoints of later meta-steps: the run goes back to this one."""
        self._manager.wait_until_finished()
        for later in self._manager.all_steps():
            if later > step:
                self._manager.delete(later)

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
                # Compared before anything is read: orbax gives up on a wrong shape only in the middle of its reading.
                stored = (
                    self._ocp.StandardCheckpointer(**self._alone).metadata(self.directory / str(step) / "state").item_metadata
                )
                if stored is None or shapes(stored.tree) != shapes(abstract):
                    raise ValueError("other shapes")
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


def has_checkpoint(run: Path) -> bool:
    """Whether a whole checkpoint is in this run directory: orbax names unfinished ones by more than a number."""
    found = run / "checkpoints"
    return found.is_dir() and any(path.name.isdigit() for path in found.iterdir())


def _score(metrics: Any) -> float:
    """The higher, the better."""
    return -metrics["validation"]


def shapes(leaves: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in leaves.items()}


@contextlib.contextmanager
def _quiet():
    """Silences the warnings that orbax logs before it raises."""
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
