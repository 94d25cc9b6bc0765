"""The settings that all problems share: the numbers of Algorithm 1 and of the recipes. Used by learners.py and by all
problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fewstep.core.problem import Problem
from fewstep.core.tasks import Shots
from fewstep.errors import InputError
from fewstep.supervised.columns import TableFormat

LARGEST = 2**31 - 1
"""integer of a device"""
MOST_UNITS = 10**6
UNITS = f"numbers of units from 1 to {MOST_UNITS:,}"
ALL = ("all",)
"""what adaptation moves where nothing else is asked for"""
PLAIN_MAML: dict[str, Any] = {
    "inner_optimizer": "sgd",
    "outer_rate": 1e-3,
    "outer_decay": 0.999,
    "outer_schedule": "constant",
    "multi_step": 0.0,
    "first_order_until": 0.0,
    "average": 0.0,
    "clip": 0.0,
    "warm_up": 0.0,
    "rollbacks": 0,
    "lower_rates": False,
}
"""Settings of MAML as published, without anything of the recipes that came after it."""


@dataclass(frozen=True)
class LearningSettings:
    """The numbers of Algorithm 1 and of the default recipe. A field's docstring is its help text."""

    shots: int | tuple[int, int] = 10
    """examples in a task's support set, K in the paper; a range 3:50 draws the number anew for each task of training"""
    queries: int = 10
    """examples in a task's query set during training"""
    meta_batch_size: int = 25
    """tasks per meta-step"""
    meta_steps: int = 40_000
    """meta-steps of the whole run"""
    adapter: Literal["gradient", "bayes-head", "ridge-head", "in-context"] = "gradient"
    """how a task is fitted: by gradient steps on all weights, by Bayes' rule or by ridge regression on the last layer, in
    closed form, or not at all: by a network that reads the support set with what it is asked"""
    adaptation_steps: int = 5
    """adaptation steps in training; Bayes' rule needs one, whatever is set here"""
    ridge: float = 1.0
    """with ridge-head: lambda, how strongly the last layer is pulled to where it starts; the outer loop learns it"""
    body_steps: int = 0
    """with bayes-head: gradient steps on the features, after Bayes' rule and before it is applied again"""
    inner_rate: float = 0.03
    """inner rate alpha; where rates are learned, their starting value"""
    inner_optimizer: Literal["sgd", "meta-sgd", "lslr", "meta-curvature", "alfa"] = "meta-sgd"
    """what a gradient step is: alpha alone (sgd), learned rates per parameter (meta-sgd) or per layer and step (lslr), learned
    matrices per layer, or rates and decays that a small network sets for each task and step (alfa)"""
    adapt: tuple[str, ...] = ALL
    """what adaptation moves: all parameters, the head, the body, or parameters by name such as scales shifts"""
    lora: int = 0
    """adaptation moves the head and, beside each matrix of the body, a product of two thin ones of this rank; 0 for none"""
    context: int = 0
    """adaptation moves so many numbers beside the inputs, and no weights (CAVIA); 0 for none. Not of images"""
    per_step: tuple[str, ...] = ()
    """parameters by name, such as scales shifts, that take learned values in each adaptation step (MAML++)"""
    outer_rate: float = 4e-3
    """outer rate beta of Adam"""
    inner_outer_rate: float = 1.2e-2
    """outer rate of what the inner optimizer learns (its rates, its matrices); faster than theta avoids poor solutions"""
    outer_decay: float = 0.99
    """second decay of the outer Adam (b2); the usual 0.999 forgets too slowly for meta-gradients of a few tasks"""
    outer_schedule: Literal["cosine", "constant"] = "cosine"
    """how the outer rate changes over the run"""
    warm_up: float = 0.0
    """the outer rate climbs from 0 during this first part of the run; 0 for none"""
    multi_step: float = 0.3
    """judge every adaptation step during this first part of the run, less and less (MAML++); 0 never"""
    first_order_until: float = 0.0
    """leave second derivatives out during this first part of the run (MAML++); 0 never"""
    average: float = 0.0
    """validate and keep a moving average of the parameters with this decay; 0 for the parameters themselves"""
    clip: float = 1.0
    """largest norm of one task's meta-gradient; 0 for no limit"""
    inner_clip: float = 0.0
    """largest norm of a gradient in the inner loop; 0 for no limit"""
    bootstrap: int = 0
    """judge adaptation by its distance to where so many further steps lead, and one on the query set; 0 by the query loss"""
    meta_gradient: Literal["auto", "exact", "stored", "first-order", "reptile", "implicit", "evolution"] = "auto"
    """exact in memory that does not grow with the steps (exact), exact and faster where memory allows (stored), whichever fits
    (auto), without second derivatives (first-order), towards the adapted parameters (reptile), at the minimum that adaptation
    is pulled to (implicit), or from values of the loss after adaptation alone (evolution)"""
    proximal: float = 1.0
    """with implicit: lambda, how strongly adaptation is pulled to where it started"""
    directions: int = 16
    """with evolution: random directions in which each task's loss is tried, up and down"""
    deviation: float = 0.03
    """with evolution: how far, in the units of the parameters"""
    tasks_at_once: int = 0
    """tasks of a meta-batch that are computed side by side; 0 for as many as are fast and fit in memory"""
    bad_tasks: Literal["stop", "drop"] = "stop"
    """where the loss of a task is not a finite number: stop the run, or drop the task, count it and go on"""
    rollbacks: int = 3
    """so often a run whose numbers stop being finite goes back to its best checkpoint, with half the outer rate; 0 to stop"""
    lower_rates: bool = True
    """where meta-validation tasks do not gain by adaptation, lower the inner rates that are learned, as curvature says"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """of matrix products; all else is float32. bfloat16 is for GPUs; it is checked against float32 before training"""
    hidden: tuple[int, ...] = (40, 40)
    """units of the hidden layers"""
    log_every: int = 500
    """meta-steps between two lines of the log"""
    checkpoint_every: int = 0
    """meta-steps between two checkpoints: what a kill can cost; 0 for about twenty in a run"""

    @property
    def shot_range(self) -> Shots:
        return Shots(self.shots, self.shots) if isinstance(self.shots, int) else Shots(*self.shots)

    def build(self, seed: int = 0, format: Any = None) -> Problem:
        """The Problem. With a saved `format` the model alone: no data is read."""
        raise NotImplementedError

    def candidates(self) -> Mapping[str, LearningSettings]:
        """The settings among which a training chooses, by adapter."""
        return {self.adapter: self}

    @staticmethod
    def read_format(saved: dict[str, Any]) -> Any:
        """The format that `config.json` records."""
        return TableFormat.from_json(saved)

    def check(self, seed: int) -> None:
        """Raises `InputError` for the first setting, or the seed, that is out of range."""
        check_counts(self, seed)
        for name in ("queries", "meta_batch_size", "meta_steps", "log_every"):
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        least, most = self.shot_range
        fine = most >= 1 and 0 <= least <= most
        _require(self, "shots", fine, "at least 1, or a range such as 3:50 from the least to the most")
        _require(self, "body_steps", 0 <= self.body_steps <= 100, "between 0 and 100")
        _require(self, "adaptation_steps", 0 <= self.adaptation_steps <= 1000, "between 0 and 1000")
        for name in ("tasks_at_once", "checkpoint_every"):
            _require(self, name, getattr(self, name) >= 0, "at least 0")
        for name in ("inner_rate", "outer_rate", "inner_outer_rate", "ridge"):
            _require(self, name, 0 < getattr(self, name) < float("inf"), "a positive number")
        _require(self, "outer_decay", 0 <= self.outer_decay < 1, "between 0 and 1")
        _require(self, "multi_step", 0 <= self.multi_step <= 1, "between 0 and 1, a part of the run")
        _require(self, "first_order_until", 0 <= self.first_order_until <= 1, "between 0 and 1, a part of the run")
        _require(self, "warm_up", 0 <= self.warm_up < 1, "between 0 and 1, a part of the run, and less than 1")
        _require(self, "rollbacks", self.rollbacks >= 0, "at least 0")
        _require(self, "average", 0 <= self.average < 1, "between 0 and 1, and less than 1")
        for name in ("clip", "inner_clip"):
            _require(self, name, 0 <= getattr(self, name) <= 1e15, "between 0 (no limit) and 1e15")
        _require(self, "hidden", all(1 <= units <= MOST_UNITS for units in self.hidden), UNITS)
        if self.adapter in ("bayes-head", "in-context") and not self.hidden:
            raise InputError(f"--adapter {self.adapter} needs at least one layer of --hidden units, got none.")
        for name in ("lora", "context", "bootstrap"):
            _require(self, name, getattr(self, name) >= 0, "at least 0 (0 for none)")
        _require(self, "directions", self.directions >= 1, "at least 1")
        for name in ("proximal", "deviation"):
            _require(self, name, 0 < getattr(self, name) < float("inf"), "a positive number")
        for setting, against, why in self.contradictions():
            raise InputError(f"{setting} does not go with {against}: {why}.")

    @property
    def for_gradients(self) -> str:
        """The first setting that only gradient steps know, as given; "" for none."""
        given = {
            "--adapt": self.adapt != ALL and " ".join(self.adapt),
            "--lora": self.lora,
            "--context": self.context,
            "--per-step": " ".join(self.per_step),
            "--bootstrap": self.bootstrap,
            "--inner-clip": self.inner_clip,
            "--meta-gradient": self.meta_gradient in ("reptile", "implicit", "evolution") and self.meta_gradient,
            "--inner-optimizer": self.inner_optimizer == "alfa" and "alfa",
        }
        return next((f"{name} {value}" for name, value in given.items() if value), "")

    def contradictions(self) -> Iterator[tuple[str, str, str]]:
        """(setting, the one that it does not go with, why)."""
        way = f"--meta-gradient {self.meta_gradient}"
        multi_step = self.multi_step > 0 and self.adaptation_steps > 1 and f"--multi-step {self.multi_step:g}"
        first_order = self.first_order_until > 0 and f"--first-order-until {self.first_order_until:g}"
        partial = self.adapt != ALL or self.lora or self.context or self.per_step
        if self.adapter != "gradient" and self.for_gradients:
            yield f"--adapter {self.adapter}", self.for_gradients, "it takes no such step; give --adapter gradient"
        if self.meta_gradient in ("reptile", "implicit"):
            if self.inner_optimizer != "sgd":
                yield way, f"--inner-optimizer {self.inner_optimizer}", "nothing would learn it; give --inner-optimizer sgd"
            if partial:
                yield way, self.for_gradients, "what adaptation leaves alone would not be learned; give --adapt all"
            if multi_step:
                yield way, multi_step, "only the end of adaptation has a part in it; give --multi-step 0"
        if self.meta_gradient in ("reptile", "implicit", "evolution"):
            if first_order:
                yield way, first_order, "there are no second derivatives to leave out; give --first-order-until 0"
            if self.bootstrap:
                yield way, f"--bootstrap {self.bootstrap}", "a distance to a moving target has to be differentiated; choose one"
        if self.bootstrap and multi_step:
            yield f"--bootstrap {self.bootstrap}", multi_step, "both say what is judged; give --multi-step 0"
        if self.context and (self.lora or self.adapt != ALL):
            yield f"--context {self.context}", "--lora or --adapt", "all of them say what adaptation moves; choose one"


def check_counts(settings: Any, seed: int) -> None:
    """Raises `InputError` for a seed that is out of range, or a number that the integers of a device do not hold."""
    if not 0 <= seed <= LARGEST:
        raise InputError(f"--seed should lie between 0 and {LARGEST}, got {seed}.")
    for name, value in vars(settings).items():
        for count in value if isinstance(value, tuple) else (value,):
            if isinstance(count, int) and abs(count) > LARGEST:
                raise InputError(f"--{name.replace('_', '-')} should be at most {LARGEST}, got {count}.")


def _require(settings: LearningSettings, name: str, fine: bool, expected: str) -> None:
    if not fine:
        raise InputError(f"--{name.replace('_', '-')} should be {expected}, got {getattr(settings, name)}.")
