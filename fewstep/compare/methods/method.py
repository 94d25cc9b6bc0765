"""The type of a method: one way to predict a task from its support set, as a value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fewstep.core.types import MetaParams

Family = Literal["none", "classical", "joint", "meta", "in-context"]
Choice = Mapping[str, Any]
"""a method's decisive settings, by name"""
AnyBenchmark = Any
"""one element of what `Application.benchmark` returns"""


class Work(NamedTuple):
    """One fitting of a method."""

    benchmark: AnyBenchmark
    choice: Choice
    seed: int
    """of everything random but the split"""
    folder: Path
    """where its run is stored, if it is one"""
    meta_steps: int = 0
    """number of meta-steps to train"""
    planned: int = 0
    """length of its schedule in meta-steps"""
    base: MetaParams | None = None
    """trained parameters of the method that it depends on"""
    base_operations: float = 0.0
    base_seconds: float = 0.0
    """cost of training `base`"""
    late: Callable[[], bool] = lambda: False
    """whether the time is used up: training then saves its state and raises `OutOfTime`"""


class Saved(NamedTuple):
    """The parts of an ordinary run directory."""

    settings: Any
    problem: Any
    """a `Problem` or a `PolicyProblem`"""
    params: MetaParams
    environment_steps: int = 0
    """of a policy: what its training took"""


class Fitted(NamedTuple):
    """A fitted method, which predicts."""

    predict: Callable[[Any], Any]
    """episodes that lead with [episodes] -> outputs [episodes, queries, outputs] from their support sets and query inputs; of
    policies held-out tasks -> mean returns [tasks]"""
    operations: float = 0.0
    """floating-point operations of fitting it, counted or estimated; of policies environment steps"""
    adapt_operations: Callable[[], float] = lambda: 0.0
    """of adapting to one task"""
    parameters: int = 0
    meta_steps: int = 0
    saved: Saved | None = None
    """None if it cannot be an ordinary run"""
    steps: int | None = None
    """adaptation steps of a task, if it makes any"""
    after: Callable[[Any, int], Any] | None = None
    """`after(episodes, steps)`: what it predicts after other numbers of steps"""


@dataclass(frozen=True)
class Method:
    """One way to predict."""

    name: str
    title: str
    what: str
    """one sentence for a reader who does not know it"""
    family: Family
    fit: Callable[[Work], Fitted]
    grid: Callable[[AnyBenchmark], tuple[Choice, ...]] = lambda benchmark: ({},)
    """candidates for its decisive settings; the first is the default"""
    rows: bool = True
    """whether it predicts from rows of numbers"""
    images: bool = True
    """whether it predicts from images"""
    problem: Callable[[AnyBenchmark, Choice, int], tuple[Any, Any]] | None = None
    """`problem(benchmark, choice, meta-steps)`: what the training loop trains; None if it needs no training"""
    depends_on: str = ""
    """the method whose trained parameters it starts from"""
    needs: tuple[str, str] | None = None
    """(module, how to install it) beyond what fewstep itself needs"""
    seeded: bool = True
    """whether its result depends on the seed"""
    save: Callable[[Saved, Path, int], None] | None = None
    """writes an ordinary run of parameters that need no training; None to write that of a model that predicts"""
    why_not: Callable[[AnyBenchmark], str] = lambda benchmark: ""
    """why it cannot be used here, in words; "" if it can"""

    def absent(self, benchmark: AnyBenchmark) -> str:
        """Why it is left out, in words; "" if it takes part."""
        from importlib.util import find_spec

        if self.needs is not None and find_spec(self.needs[0]) is None:
            return f"not installed: {self.needs[1]}"
        return self.why_not(benchmark)
