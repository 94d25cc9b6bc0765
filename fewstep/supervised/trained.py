"""A trained model with its compiled programs: many units adapted, and asked, in one call."""

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
from fewstep.supervised.findings import said_of_run
from fewstep.supervised.fit import SIGNS, Steps, adapt_task, deviation
from fewstep.training.jit import jit_hoisted
from fewstep.training.map_tasks import map_tasks

if TYPE_CHECKING:
    from fewstep.runs import Run


UNITS_AT_ONCE = 256
KEY_SEED = 0


class Report(NamedTuple):
    """What adaptation says of each unit; arrays lead with [units]."""

    steps: np.ndarray
    """adaptation steps made"""
    signs: np.ndarray
    """[units, signs]"""


class Answer(NamedTuple):
    """What a model says of rows; both [units, rows, outputs]."""

    outputs: np.ndarray
    """standardized means, or log-probabilities of classes"""
    deviation: np.ndarray
    """before calibration; 1 for classes"""


@dataclass(frozen=True)
class Trained:
    """Meta-parameters and all that is needed to adapt them: no data, no run directory."""

    problem: Problem
    params: MetaParams
    calibration: dict[str, Any]
    config: dict[str, Any]
    """what opens it again: problem, settings, seed and format, as in `config.json`"""
    findings: tuple[str, ...] = ()
    """what the run's evaluation says against it"""
    directory: Path | None = None
    """the folder that it was opened from"""

    @staticmethod
    def of(run: Run, which: str = "best") -> Trained:
        """The trained model of a run directory."""
        calibration = run.calibration() if which == "best" else {"tasks": 0, "by_shots": []}
        problem, params = run.problem(with_data=False), run.params(which)
        return Trained(problem, params, calibration, run.config, run.bad_findings(), run.directory)

    def about(self) -> dict[str, Any]:
        """What `adapted.json` holds of it: the application that opens the folder, the run, its calibration and findings."""
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
        """The findings as one line for people, or none."""
        return said_of_run(self.findings)

    @property
    def trained_steps(self) -> int:
        return self.problem.learner.adaptation_steps

    def policy(self, steps: Steps) -> str | None:
        """Under which name the calibration knows this choice of steps; None where it was not calibrated."""
        return "auto" if steps == "auto" else "trained" if steps == self.trained_steps else None

    @cached_property
    def _programs(self) -> dict[Any, Callable[..., Any]]:
        return {}

    def program(self, make: Callable[..., Callable[..., Any]], *choices: Any) -> Callable[..., Any]:
        """The program `make(problem, *choices)`, made once for this model however often it is asked for."""
        if (make, choices) not in self._programs:
            self._programs[make, choices] = make(self.problem, *choices)
        return self._programs[make, choices]

    def report(self, support: Examples, steps: Steps) -> Report:
        """Adapts to units whose `support` sets lead with [units, rows]; rows of weight 0 are padding."""
        return Report(*jax.device_get(self.program(reporting, steps)(self.params, support)))

    def answer(self, support: Examples, inputs: np.ndarray, steps: Steps) -> Answer:
        """Adapts to units and predicts `inputs` [units, rows, features] of each, in one compiled call."""
        return Answer(*jax.device_get(self.program(answering, steps)(self.params, support, inputs)))

    def adapt(self, support: Examples, steps: Steps) -> Params:
        """θ′ of one unit, whose `support` leads with [rows]."""
        taken = int(self.report(jax.tree.map(lambda leaf: np.asarray(leaf)[None], support), steps).steps[0])
        fitted = jax.jit(
            lambda params, support: maml.adapt(self.problem.learner, params, support, jax.random.key(KEY_SEED), taken)
        )
        return fitted(self.params, support)

    def quantiles(self, rows: int, level: int, steps: Steps) -> list[float] | None:
        """By how many deviations [outputs] intervals of `level` per cent reach, after so many support rows; None where the
        calibration does not say."""
        entry = self._entry(rows, steps)
        by_output = [] if entry is None else [by_level[LEVELS.index(level)] for by_level in entry.get("factors", ())]
        return None if not by_output or None in by_output else by_output

    def temperature(self, rows: int, steps: Steps) -> float:
        """By what log-probabilities are divided, after so many support rows."""
        entry = self._entry(rows, steps)
        return 1.0 if entry is None else entry.get("temperature", 1.0)

    def can_detect_ood(self, rows: int, steps: Steps) -> bool:
        """Whether a unit of so many rows can be said to be unlike those of training."""
        entry = self._entry(rows, steps)
        return entry is not None and entry["likeness"]["limit"] is not None

    def ood_reason(self, rows: int, signs: np.ndarray, steps: Steps) -> str | None:
        """Why a unit is unlike those of training, in words; None where it is not, or where nothing is known to compare with."""
        entry = self._entry(rows, steps)
        if rows == 0 or entry is None or not self.can_detect_ood(rows, steps):
            return None
        ood_limits = entry["likeness"]
        ood_scores = (signs - np.array(ood_limits["center"])) / np.array(ood_limits["scale"])
        worst = int(ood_scores.argmax())  # the first that is no number, if one is
        if ood_scores[worst] <= ood_limits["limit"]:
            return None
        found, usual = float(np.exp(signs[worst])), ood_limits["usual"][worst]
        name = next(iter(self.problem.metrics)).replace("_", " ")
        words = {
            "error before": f"before adaptation the {name} on its rows is {found:.3g}",
            "error after": f"after adaptation the {name} on its rows is still {found:.3g}",
            "change": f"the change of its predictions by adaptation is {self._unit(found)}",
        }[SIGNS[worst]]
        compared = self._unit(usual) if SIGNS[worst] == "change" else f"{usual:.3g}"
        if "known_tasks" in ood_limits:  # too few units calibrated
            return f"{words}; on all {ood_limits['known_tasks']} meta-train and meta-validation units it is at most {compared}"
        return f"{words}; on {ood_limits['level']} % of comparable units it is at most {compared}"

    def _unit(self, standardized: float) -> str:
        format = self.problem.format
        return f"{standardized * (1.0 if format.classes or len(format.targets) > 1 else format.units[0]):.3g}"

    def _entry(self, rows: int, steps: Steps) -> dict[str, Any] | None:
        policy = self.policy(steps)
        entry = nearest_entry(self.calibration, rows)
        return None if entry is None or policy is None else entry[policy]


def reporting(problem: Problem, steps: Steps) -> Callable[..., Any]:
    """`(params, support)` of many units -> the fields of a Report."""

    def one_unit(params, support):
        fitted = adapt_task(problem, params, support, jax.random.key(KEY_SEED), steps)
        return fitted.steps, fitted.signs

    return jit_hoisted(lambda params, support: map_tasks(lambda unit: one_unit(params, unit), support, UNITS_AT_ONCE))


def answering(problem: Problem, steps: Steps) -> Callable[..., Any]:
    """`(params, support, inputs)` of many units -> the fields of an Answer."""

    def one_unit(params, support, inputs):
        fitted = adapt_task(problem, params, support, jax.random.key(KEY_SEED), steps)
        outputs = problem.predict(fitted.params, inputs)
        if problem.format.classes:
            return outputs, jnp.ones_like(outputs)
        return outputs, deviation(problem, fitted, inputs)

    def all_units(params, support, inputs):
        return map_tasks(lambda unit: one_unit(params, unit[0], unit[1]), (support, inputs), UNITS_AT_ONCE)

    return jit_hoisted(all_units)
