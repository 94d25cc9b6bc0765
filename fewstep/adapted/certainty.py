"""How sure the answers of adapted units are, by what was calibrated on other units (floor 4): intervals and probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fewstep.errors import BadInput
from fewstep.problem import needed_to_calibrate
from fewstep.trained import Trained
from fewstep.training.calibrate import STATED, nearest_entry
from fewstep.training.fit import Steps

WAIT = "so nothing is calibrated; wait until that ends, then adapt again"
UNFINISHED = {
    "training": f"the run was in training by another process when this model was adapted, {WAIT}",
    "calibrating": f"the run was being calibrated by another process when this model was adapted, {WAIT}",
    "uncalibrated": "the run was trained, and stopped before it was calibrated; `fewstep resume RUN` does it, then adapt again",
    "stopped": "the run was not trained to its end, so nothing is calibrated; `fewstep resume RUN` does it, then adapt again",
}


def uncalibrated(trained: Trained) -> str:
    """Why nothing is calibrated, and what to do, in words."""
    return UNFINISHED[trained.calibration.get("unfinished", "stopped")]


@dataclass(frozen=True)
class Certainty:
    """Of units that were adapted to so many `rows` [units] in so many `steps`."""

    trained: Trained
    rows: np.ndarray
    steps: Steps

    def level(self, asked: float | None) -> int | None:
        """The level of intervals in per cent: as asked, or the highest usual one that the calibration allows; None for none."""
        if asked is not None:
            percent = round(100 * asked) if 0 < asked < 1 else 0
            if not 50 <= percent <= 99 or abs(100 * asked - percent) > 1e-6:
                raise BadInput(f"--level should be between 0.50 and 0.99, in whole per cent, got {asked}.")
            if not self._allowed(percent):
                raise BadInput(self.why_none(percent))
            return percent
        return next((percent for percent in STATED if self._allowed(percent)), None)

    @property
    def finished(self) -> bool:
        """Whether the run was trained to its end, after which it is calibrated."""
        return self.trained.calibration.get("trained_steps", self.trained.trained_steps) is not None

    def why_none(self, percent: int) -> str:
        """In words."""
        if self.trained.problem.format.classes:
            return "There are no intervals of classes; their probabilities are calibrated."
        if not self.finished:
            return f"No intervals: {uncalibrated(self.trained)}."
        if self.trained.policy(self.steps) is None:
            trained = f"for {self.trained.trained_steps} adaptation steps and for auto"
            return f"No intervals: they are calibrated {trained}, not for {self.steps}."
        needed, found = needed_to_calibrate(percent / 100), self.calibrated_on()
        return (
            f"No intervals at {percent} %: expected at least {needed} calibration units, found {found} with enough rows. "
            f"{'Ask for a lower --level, or train' if found else 'Train'} on a table of more units."
        )

    def calibrated_on(self) -> int:
        """On how many units the intervals were calibrated, at the numbers of support rows that there are; the fewest."""
        entries = [nearest_entry(self.trained.calibration, rows) for rows in self._counts]
        return min((entry["tasks"] for entry in entries if entry), default=0)

    @property
    def _counts(self) -> set[int]:
        """The numbers of support rows that decide whether there are intervals: a fleet has them whatever is known of units
        without rows, whose intervals are calibrated by themselves."""
        counts = set(self.rows.tolist())
        return counts - {0} or counts

    def _allowed(self, percent: int) -> bool:
        return all(self.trained.factors(rows, percent, self.steps) is not None for rows in self._counts)

    def bounds(self, outputs: np.ndarray, spread: np.ndarray, owner: np.ndarray, percent: int) -> tuple[np.ndarray, np.ndarray]:
        """(lower, upper) [rows, outputs] in the targets' own units, of rows whose unit is number `owner` [rows]; NaN for units
        whose number of support rows was not calibrated."""
        none = [np.nan] * outputs.shape[1]
        by_unit = np.array([self.trained.factors(int(rows), percent, self.steps) or none for rows in self.rows])
        half, format = spread * by_unit[owner], self.trained.problem.format
        return format.restore(outputs - half), format.restore(outputs + half)

    def probabilities(self, outputs: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """[rows, classes] of log-probabilities, at the temperature of as many support rows as each row's unit has."""
        temperature = np.array([self.trained.temperature(int(rows), self.steps) for rows in self.rows])
        scaled = outputs / temperature[owner][:, None]
        powers = np.exp(scaled - scaled.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)


def significant(values: np.ndarray) -> np.ndarray:
    """Numbers with the seven digits that float32 has, so that a file shows no more than is known."""
    values = np.asarray(values, np.float64)
    size = np.floor(np.log10(np.clip(np.abs(values), 1e-30, 1e300)))  # the infinite stay as they are
    unit = 10.0 ** (6 - size)
    return np.round(values * unit) / unit


def span(numbers: np.ndarray) -> str:
    """'6', or '5 to 6'."""
    low, high = numbers.min(), numbers.max()
    return f"{low}" if low == high else f"{low} to {high}"
