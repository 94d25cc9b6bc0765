"""A trained model with its compiled programs, which adapt and predict many units in one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.application import LAYOUT
from fewstep.core import maml
from fewstep.core.problem import Problem
from fewstep.core.types import Examples, MetaParams, Params
from fewstep.supervised.conformal import LEVELS, nearest_entry
from fewstep.supervised.findings import run_messages
from fewstep.supervised.fit import OOD_FEATURES, Steps, adapt_task, deviation
from fewstep.training.jit import jit_hoisted
from fewstep.training.map_tasks import map_tasks

if TYPE_CHECKING:
    from fewstep.runs import Run


UNITS_AT_ONCE = 256
KEY_SEED = 0


class Report(NamedTuple):
    """Diagnostics of adaptation by unit; arrays lead with [units]."""

    steps: np.ndarray
    """adaptation steps made"""
    ood_features: np.ndarray
    """[units, features]"""


class Predictions(NamedTuple):
    """Predictions of rows; both arrays are [units, rows, outputs]."""

    outputs: np.ndarray
    """standardized means, or log-probabilities of classes"""
    deviation: np.ndarray
    """before calibration; 1 for classes"""


@dataclass(frozen=True)
class Trained:
    """Meta-parameters and everything needed to adapt them, without data or a run directory."""

    problem: Problem
    params: MetaParams
    calibration: dict[str, Any]
    config: dict[str, Any]
    """problem, settings, seed and format, as in `config.json`, to build the problem again"""
    findings: tuple[str, ...] = ()
    """unfavorable findings of the run's evaluation"""
    directory: Path | None = None
    """the folder that it was opened from"""

    @staticmethod
    def of(run: Run, which: str = "best") -> Trained:
        """The trained model of a run directory."""
        calibration = run.calibration() if which == "best" else {"tasks": 0, "by_shots": []}
        problem, params = run.problem(with_data=False), run.params(which)
        return Trained(problem, params, calibration, run.config, run.bad_findings(), run.directory)

    def about(self) -> dict[str, Any]:
        """Its part of `adapted.json`: the application that opens the folder, the run, its calibration and findings."""
        return {
            "application": self.config["application"],
            "package": self.config["package"],
            "layout": LAYOUT,
            "run": self.config,
            "calibration": self.calibration,
            "findings": list(self.findings),
        }

    @property
    def messages(self) -> tuple[str, ...]:
        """The findings as one message, or none."""
        return run_messages(self.findings)

    @property
    def trained_steps(self) -> int:
        return self.problem.learner.adaptation_steps

    def policy(self, steps: Steps) -> str | None:
        """The calibration's name for this choice of steps; None if it was not calibrated."""
        return "auto" if steps == "auto" else "trained" if steps == self.trained_steps else None

    @cached_property
    def _programs(self) -> dict[Any, Callable[..., Any]]:
        return {}

    def program(self, make: Callable[..., Callable[..., Any]], *choices: Any) -> Callable[..., Any]:
        """The program `make(problem, *choices)`, cached for this model."""
        if (make, choices) not in self._programs:
            self._programs[make, choices] = make(self.problem, *choices)
        return self._programs[make, choices]

    def report(self, support: Examples, steps: Steps) -> Report:
        """Adapts to units whose `support` sets lead with [units, rows]; rows of weight 0 are padding."""
        return Report(*jax.device_get(self.program(report_program, steps)(self.params, support)))

    def predict(self, support: Examples, inputs: np.ndarray, steps: Steps) -> Predictions:
        """Adapts to units and predicts `inputs` [units, rows, features] of each, in one compiled call."""
        return Predictions(*jax.device_get(self.program(predict_program, steps)(self.params, support, inputs)))

    def adapt(self, support: Examples, steps: Steps) -> Params:
        """θ′ of one unit, whose `support` leads with [rows]."""
        taken = int(self.report(jax.tree.map(lambda leaf: np.asarray(leaf)[None], support), steps).steps[0])
        fitted = jax.jit(
            lambda params, support: maml.adapt(self.problem.learner, params, support, jax.random.key(KEY_SEED), taken)
        )
        return fitted(self.params, support)

    def quantiles(self, rows: int, level: int, steps: Steps) -> list[float] | None:
        """Half widths [outputs] of intervals at `level` per cent, in deviations, for this number of support rows; None if the
        calibration has none."""
        entry = self._entry(rows, steps)
        by_output = [] if entry is None else [by_level[LEVELS.index(level)] for by_level in entry.get("factors", ())]
        return None if not by_output or None in by_output else by_output

    def temperature(self, rows: int, steps: Steps) -> float:
        """The divisor of log-probabilities for this number of support rows."""
        entry = self._entry(rows, steps)
        return 1.0 if entry is None else entry.get("temperature", 1.0)

    def can_detect_ood(self, rows: int, steps: Steps) -> bool:
        """Whether there is an OOD threshold for units with this number of rows."""
        entry = self._entry(rows, steps)
        return entry is not None and entry["likeness"]["limit"] is not None

    def ood_reason(self, rows: int, ood_features: np.ndarray, steps: Steps) -> str | None:
        """Why a unit is out of distribution; None if it is not, or if there is no threshold."""
        entry = self._entry(rows, steps)
        if rows == 0 or entry is None or not self.can_detect_ood(rows, steps):
            return None
        ood_limits = entry["likeness"]
        ood_scores = (ood_features - np.array(ood_limits["center"])) / np.array(ood_limits["scale"])
        worst = int(ood_scores.argmax())  # the first NaN, if there is one
        if ood_scores[worst] <= ood_limits["limit"]:
            return None
        found, usual = float(np.exp(ood_features[worst])), ood_limits["usual"][worst]
        name = next(iter(self.problem.metrics)).replace("_", " ")
        words = {
            "error before": f"before adaptation the {name} on its rows is {found:.3g}",
            "error after": f"after adaptation the {name} on its rows is still {found:.3g}",
            "change": f"the change of its predictions by adaptation is {self._unit(found)}",
        }[OOD_FEATURES[worst]]
        compared = self._unit(usual) if OOD_FEATURES[worst] == "change" else f"{usual:.3g}"
        if "known_tasks" in ood_limits:  # too few calibration units
            return f"{words}; on all {ood_limits['known_tasks']} meta-train and meta-validation units it is at most {compared}"
        return f"{words}; on {ood_limits['level']} % of comparable units it is at most {compared}"

    def _unit(self, standardized: float) -> str:
        format = self.problem.format
        return f"{standardized * (1.0 if format.classes or len(format.targets) > 1 else format.units[0]):.3g}"

    def _entry(self, rows: int, steps: Steps) -> dict[str, Any] | None:
        policy = self.policy(steps)
        entry = nearest_entry(self.calibration, rows)
        return None if entry is None or policy is None else entry[policy]


def report_program(problem: Problem, steps: Steps) -> Callable[..., Any]:
    """`(params, support) -> fields of a Report` for many units."""

    def one_unit(params, support):
        fitted = adapt_task(problem, params, support, jax.random.key(KEY_SEED), steps)
        return fitted.steps, fitted.ood_features

    return jit_hoisted(lambda params, support: map_tasks(lambda unit: one_unit(params, unit), support, UNITS_AT_ONCE))


def predict_program(problem: Problem, steps: Steps) -> Callable[..., Any]:
    """`(params, support, inputs) -> fields of Predictions` for many units."""

    def one_unit(params, support, inputs):
        fitted = adapt_task(problem, params, support, jax.random.key(KEY_SEED), steps)
        outputs = problem.predict(fitted.params, inputs)
        if problem.format.classes:
            return outputs, jnp.ones_like(outputs)
        return outputs, deviation(problem, fitted, inputs)

    def all_units(params, support, inputs):
        return map_tasks(lambda unit: one_unit(params, unit[0], unit[1]), (support, inputs), UNITS_AT_ONCE)

    return jit_hoisted(all_units)
