"""What a Problem consists of: task families, a model, a learner and the numbers that make a run reproducible; and
what the training loop asks of any problem: `Trainable` and `Trainer`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from fewstep.core import maml
from fewstep.core.losses import RowError
from fewstep.core.maml import Learner, MetaState
from fewstep.core.tasks import TaskFamily
from fewstep.core.types import Examples, Key, LeaveOneOut, MetaParams, Metric, Params

LowerRates = Callable[[Any, jax.Array], Any]
"""`(MetaParams.inner, factor) -> MetaParams.inner`, whose learned rates are times the factor"""


class Illustration(NamedTuple):
    """One unseen task as a picture shows it; x and y are in the units of the user's own data."""

    title: str
    support: Examples
    support_x: np.ndarray
    """[shots]"""
    inputs: jax.Array
    """[points, features], where the model is asked"""
    x: np.ndarray
    """[points]"""
    truth: np.ndarray
    """[points]"""
    x_label: str = ""
    """what x is, where it is no column of the data"""


@dataclass(frozen=True)
class Splits:
    """Disjoint families of meta-train, meta-validation, meta-calibration and meta-test tasks."""

    train: TaskFamily
    validation: TaskFamily
    test: TaskFamily
    calibration: TaskFamily | None = None
    """tasks that calibrate intervals and probabilities, and serve for nothing else"""
    left_out: int = 0
    """how many tasks are in none: too few examples to be queried"""


def needed_to_calibrate(level: float) -> int:
    """The fewest calibration units, or classes, that allow conformal prediction at a `level` between 0 and 1.

    n of them allow n / (n + 1)."""
    return math.ceil(level / (1 - level) - 1e-9)


class WarmStart(NamedTuple):
    """What is trained first, and what meta-training takes over from it."""

    problem: Problem
    transfer: Callable[[Key, MetaParams], MetaParams]
    """`transfer(key, solution)`: the meta-parameters before meta-training"""


class StepStats(NamedTuple):
    """What one call of `Trainer.run` did. Numbers are Python's."""

    steps: int
    """meta-steps made; fewer than asked for where numbers stopped being finite, or where a trainer makes one at a time"""
    finite: bool
    """whether all numbers of these meta-steps, and of the one that would follow, are finite"""
    means: Mapping[str, float] = {}
    """sums over these meta-steps; the log shows means over all meta-steps since its last line"""
    counts: Mapping[str, int] = {}
    """in these meta-steps; the log shows their sums since its last line, where these are not 0"""
    totals: Mapping[str, int] = {}
    """in these meta-steps; the log and the checkpoints show their sums over the whole run"""
    latest: Mapping[str, Any] = {}
    """of the last meta-step, as the log shows it"""
    messages: tuple[str, ...] = ()
    """for people"""


class Validation(NamedTuple):
    """What meta-validation tasks say of a run."""

    state: MetaState
    """to go on with; another one than was validated where the validation changed it"""
    value: float
    """the metric that chooses the best checkpoint; lower is better"""
    record: Mapping[str, Any] = {}
    """what else the log shows"""
    message: str = ""
    """a warning; not empty where `state` was changed"""


class Trainer(Protocol):
    """A problem on the devices where it is trained: all that the training loop calls."""

    mesh: Mesh
    """the devices over which the tasks of a meta-batch are split"""
    validations: float
    """how many validations a run has, about; infinite for one at each line of the log"""
    validate_first: bool
    """whether a run is validated before its first meta-step"""
    interruptible: bool
    """whether `run` and `validate` may be left at any point, by an exception: a signal does not wait for their end"""

    def __init__(self, problem: Any, mesh: Mesh | None, seed: int, quiet: bool) -> None:
        """`mesh` defaults to `mesh_of(problem, None)`."""

    @staticmethod
    def mesh_of(problem: Any, devices: int | None) -> Mesh:
        """So many devices, or the usual ones where it is None. Raises `InputError` where the problem cannot use them."""
        ...

    def place(self, state: MetaState) -> MetaState:
        """The same state where `run` takes it: on the devices of `mesh`."""
        ...

    def run(self, state: MetaState, key: Key, steps: int) -> tuple[MetaState, StepStats]:
        """At most so many meta-steps; `key` is that of the whole run. A meta-step that is not finite is not made."""
        ...

    def validate(self, state: MetaState, key: Key) -> Validation:
        """On the same tasks each time: `key` is that of the whole run."""
        ...

    def conclude(self, best: MetaState, key: Key) -> tuple[Mapping[str, Any], str]:
        """(what the last line of the log shows, a sentence for people or "") of the best state, after the last meta-step."""
        ...

    def diagnose(self, state: MetaState, key: Key) -> str:
        """Why the meta-step after `state` is not finite, and what to try."""
        ...

    def words(self, record: Mapping[str, Any]) -> list[str]:
        """A record of the log as people read it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """What `training.loop.train` trains: a `Problem` whose model predicts, or one of policies."""

    name: str
    settings: Any
    """the frozen dataclass it was built from: what `config.json` records"""
    init: Callable[[Key], MetaParams]
    trainer: Callable[[], type[Trainer]]
    """returns the class that trains it, which is imported by this call"""
    meta_steps: int
    log_every: int
    """meta-steps between two lines of the log"""
    checkpoint_every: int = 0
    """meta-steps between two checkpoints; 0 for one at each validation"""
    rollbacks: int = 0
    """so often a run that stops being finite goes back to its best checkpoint, with half the outer rate; needs an
    `initial_state` that holds a `variants.Slowed`"""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """what a result says of how it was got: shots, queries, trained adaptation steps ..."""
    notes: tuple[str, ...] = ()
    """what a person should know of the data: what was left out, imputed, inferred"""
    questions: tuple[str, ...] = ()
    """what the user has to say before it is trained: expected, got, what to do"""
    unit: str = "meta-step"
    """what people call a meta-step of it"""
    warm_start: WarmStart | None = None
    """a training before this one, from whose solution it begins; None where it begins at random"""

    @property
    def metric(self) -> str:
        """What validation measures, lower is better."""
        raise NotImplementedError

    def initial_state(self, params: MetaParams) -> MetaState:
        """The state before the first meta-step, from these parameters."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Problem(Trainable):
    """A problem whose model predicts. Built from a settings dataclass by `settings.build(seed)`."""

    learner: Learner
    predict: Callable[[Params, jax.Array], jax.Array]
    """`predict(params, inputs) -> outputs`, the model itself: standardized means, or log-probabilities of classes"""
    metrics: Mapping[str, Metric]
    """the first is the headline; lower is better"""
    outer_rate: optax.Schedule
    """β by meta-step, for the log"""
    outer_optimizer: optax.GradientTransformation
    meta_batch_size: int
    format: Any
    """how files become examples, and predictions become files: `TableFormat` or `ImageFormat`"""
    bad_tasks: Literal["stop", "drop"] = "stop"
    """what follows where the loss or the gradient of a task is not finite: the run stops, or goes on without that task"""
    lower_rates: LowerRates | None = None
    """how learned inner rates become smaller where adaptation makes things worse; None to leave them alone"""
    evaluation_steps: tuple[int | Literal["auto"], ...] = (0, 1, 5, 10)
    """numbers of adaptation steps after which it is evaluated where nothing else is asked for"""
    splits: Splits | None = None
    """None where a saved model is opened without its data"""
    completions: Callable[[MetaParams], Sequence[MetaParams]] | None = None
    """what may be made of trained parameters in closed form; the best on meta-validation tasks, or none, is kept"""
    validation_tasks: int = 1000
    """how many meta-validation tasks choose checkpoints"""
    images: Any = None
    """where tasks are of images: how unseen ones are examined"""
    illustrate: Callable[[int], Illustration] | None = None
    """the n-th meta-test task, drawn for people"""
    row_error: RowError | None = None
    """the headline metric of single examples; None where a loss knows no examples"""
    leave_one_out: LeaveOneOut | None = None
    """each support example as predicted by all others"""
    deviation: Callable[[Params, jax.Array], jax.Array] | None = None
    """`deviation(params, inputs) -> [examples, outputs]` of single targets, where the model knows it"""
    shot_counts: tuple[int, ...] = ()
    """numbers of support examples at which results are given beside the trained one, and intervals calibrated"""
    baselines: tuple[str, ...] = ()
    """the cheapest models of this kind, by name in `supervised/baselines.py`, beside which a trained one is evaluated"""
    made: dict[Any, Any] = field(default_factory=dict, init=False, compare=False, repr=False)
    """what was made of this very value once, such as its programs (`training.programs.once`); a changed one begins anew"""

    @property
    def metric(self) -> str:
        return next(iter(self.metrics))

    def initial_state(self, params: MetaParams) -> MetaState:
        return maml.init(self.outer_optimizer, params)
