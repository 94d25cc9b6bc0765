"""What a method is: one way to predict a task from its support set, as a value. The methods stand beside this."""

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
"""what `Application.benchmark` returns: its methods know what that is"""


class Work(NamedTuple):
    """One fitting of a method."""

    benchmark: AnyBenchmark
    choice: Choice
    seed: int
    """of everything random but the split"""
    folder: Path
    """where its run, if it is one, is kept"""
    meta_steps: int = 0
    """so far it is trained"""
    planned: int = 0
    """so long its schedule is"""
    base: MetaParams | None = None
    """the trained parameters that it starts from, of the method that it follows"""
    base_operations: float = 0.0
    base_seconds: float = 0.0
    """what these took"""
    late: Callable[[], bool] = lambda: False
    """whether the time for this fitting is used up: a training then saves its state and raises `OutOfTime`"""


class Saved(NamedTuple):
    """What makes a method an ordinary run."""

    settings: Any
    problem: Any
    """a `Problem` or a `PolicyProblem`"""
    params: MetaParams
    environment_steps: int = 0
    """of a policy: what its training took"""


class Fitted(NamedTuple):
    """A method that can be asked."""

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
    """None where it cannot be an ordinary run"""
    steps: int | None = None
    """adaptation steps of a task, where it makes some"""
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
    """what is tried of its decisive settings; the first is usual"""
    rows: bool = True
    """whether it predicts from rows of numbers"""
    images: bool = True
    """whether it predicts from images"""
    problem: Callable[[AnyBenchmark, Choice, int], tuple[Any, Any]] | None = None
    """`problem(benchmark, choice, meta-steps)`: what the training loop trains for it; None where it needs none"""
    depends_on: str = ""
    """the method whose trained parameters it starts from"""
    needs: tuple[str, str] | None = None
    """(module, how to install it) beyond what fewstep itself needs"""
    seeded: bool = True
    """whether a seed has a say in it"""
    save: Callable[[Saved, Path, int], None] | None = None
    """writes an ordinary run of parameters that need no training; None to write that of a model that predicts"""
    why_not: Callable[[AnyBenchmark], str] = lambda benchmark: ""
    """why it cannot be used here, in words; "" where it can"""

    def absent(self, benchmark: AnyBenchmark) -> str:
        """Why it is left out, in words; "" where it takes part."""
        from importlib.util import find_spec

        if self.needs is not None and find_spec(self.needs[0]) is None:
            return f"not installed: {self.needs[1]}"
        return self.why_not(benchmark)
