"""A model adapted to one task, in memory and on disk (floor 4): parameters, how to read rows, how it was got. No code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from fewstep import maml
from fewstep.errors import BadInput
from fewstep.runs import Run, new_directory, settings_of, write_json
from fewstep.tasks.columns import TableFormat
from fewstep.tasks.table import bucket, pad
from fewstep.training.checkpoint import read_arrays, write_arrays
from fewstep.types import Examples, Params

FILE, PARAMETERS = "adapted.json", "parameters.npz"


@dataclass(frozen=True)
class Adapted:
    """θ′ of one task, ready to predict."""

    params: Params
    predict_standardized: Callable[[Params, jax.Array], jax.Array]
    format: TableFormat
    protocol: dict[str, Any]
    run: dict[str, Any]
    """the `config.json` of the run it came from"""

    def predict(self, table: pl.DataFrame, source: str = "the inputs") -> np.ndarray:
        """Predictions [rows], in the target's own units. Raises `BadInput` where a training column is missing."""
        inputs = self.format.encode_inputs(table, source)
        size = bucket(inputs.shape[0])
        padded = np.pad(inputs, [(0, size - inputs.shape[0]), (0, 0)])
        outputs = jax.jit(self.predict_standardized)(self.params, padded)
        return self.format.restore_target(np.asarray(outputs)[: inputs.shape[0], 0])

    def save(self, directory: str | Path) -> None:
        """Writes the adapted model into a new folder."""
        directory = new_directory(directory)
        write_arrays(directory / PARAMETERS, self.params)
        write_json(directory / FILE, {"run": self.run, "protocol": self.protocol})


def adapt(
    run: Run, table: pl.DataFrame, source: str = "the support set", steps: int | None = None, which: str = "best"
) -> Adapted:
    """Adapts a trained run to the rows of one task. Raises `BadInput` for missing columns, gaps, or rows of several tasks."""
    problem = run.problem(with_data=False)
    format = problem.format
    if format.task and format.task in table.columns and table[format.task].n_unique() > 1:
        names = table[format.task].unique().sort().head(3).to_list()
        raise BadInput(
            f"{source}: expected the rows of one task, found {table[format.task].n_unique()} values of {format.task!r} "
            f"({', '.join(map(str, names))}, ...). Keep the rows of one of them."
        )
    inputs, targets = format.encode_inputs(table, source), format.encode_target(table, source)
    support = pad(Examples(inputs, targets, np.ones(len(inputs), np.float32)), bucket(len(inputs)))  # type: ignore[arg-type]
    steps = problem.learner.adaptation_steps if steps is None else steps
    fit = jax.jit(lambda params, support: maml.adapt(problem.learner, params, support, jax.random.key(0), steps))
    params = fit(run.params(which), support)
    if not all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(params)):
        raise BadInput(
            f"{source}: adaptation in {steps} steps does not stay finite on these rows. "
            "Try fewer --steps, or look for extreme values."
        )
    protocol = {"support_rows": len(inputs), "adaptation_steps": steps, "trained_shots": run.settings.shots}
    return Adapted(params, problem.predict, format, protocol, run.config)


def open_adapted(directory: str | Path) -> Adapted:
    """Opens a folder written by `Adapted.save`. Raises `BadInput` where it is none or is damaged."""
    directory = Path(directory)
    if not (directory / FILE).is_file():
        hint = " It is a trained run: adapt it first." if (directory / "config.json").is_file() else ""
        raise BadInput(f"{directory}: expected the folder of an adapted model (`fewstep adapt` makes one), found none.{hint}")
    try:
        saved = json.loads((directory / FILE).read_text(encoding="utf-8"))
        settings = settings_of(saved["run"], directory / FILE)
        problem = settings.build(saved["run"]["seed"], TableFormat.from_json(saved["run"]["format"]))
        like = jax.eval_shape(lambda: problem.init(jax.random.key(0)).theta)
        params = read_arrays(directory / PARAMETERS, like)
    except BadInput:
        raise
    except Exception as error:  # damaged archives raise many kinds
        raise BadInput(f"{directory}: the adapted model is damaged ({type(error).__name__}). Adapt again.") from error
    return Adapted(params, problem.predict, problem.format, saved["protocol"], saved["run"])
