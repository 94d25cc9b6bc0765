"""A running comparison: quick methods first, then the plan, then all methods seed by seed.

A method that does not fit in the budget, or that raises an exception, is left out with the reason; the others continue.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from fewstep.compare.budget import LAST_PART, LEFT_OUT, NEEDED, Costs, Pace, Plan, pace_of, planned
from fewstep.compare.content import ScoreTable
from fewstep.compare.methods import Method
from fewstep.compare.request import STATE
from fewstep.compare.runner import RECORD, SEARCH_PART, DamagedRecord, Lengths, Runner, read_stored
from fewstep.errors import NotTrusted
from fewstep.runs import write_json
from fewstep.storage.json import validate
from fewstep.training.loop import OutOfTime
from fewstep.training.progress import Display

PLAN = "plan.json"
QUICK: Lengths = Lengths({}, True)
FIRST_TABLE = 40.0
"""After so many seconds the first scores are shown, if not all quick methods are done before."""
QUICK_PART, TIMING_PART = 0.4, 0.5
"""of the budget, after which no quick method begins, and no method's program is compiled to be timed"""
VALIDATION_PROGRAMS = 2.0
"""times as long as its meta-step the other programs of a trained method take to compile, which validate and predict"""
FIRST_COMPILING = 10.0
"""seconds that compiling a program is expected to take, where no method's was compiled yet"""
CLOSING_PART = 0.2
"""of the budget at most, which is kept for what follows the trainings"""
ROUND_PART = 0.7
"""of the first round's time, which compiles and searches, that another one takes"""


class Session:
    """One comparison under way."""

    def __init__(self, runner: Runner, display: Display, budget: float, seeds: int):
        self.runner, self.display, self.budget, self.seeds = runner, display, budget, seeds
        self.folds = range(len(runner.benchmarks))
        self.paces: dict[str, Pace] = {}
        self.extra, self.round, self.quick = 1.0, 0.0, 0.0
        """seconds that a training took beside its meta-steps, that a round of all methods takes, and another one of the quick
        ones alone; as seen so far"""
        self.left_out = {method.name: why for method in runner.methods() if (why := method.absent(runner.benchmarks[0]))}
        self.until = math.inf
        """seconds after which no fitting begins or goes on"""
        runner.late = lambda: self.display.spent > self.until

    def score_quick(self, partial: Callable[[list[dict[str, Any]]], None] | None) -> None:
        """Scores all methods that need no training by the first seed, as far as there is time: the first one always, the second
        one within the budget. Shows them when they are done, or those that are done after a while."""
        done: list[Method] = []
        for number, method in enumerate(self.quick_methods()):
            self.until = (math.inf, self.budget)[number] if number < 2 else QUICK_PART * self.budget
            began = self.display.spent
            if not self.in_time(method, 0, QUICK):
                continue
            self.quick += ROUND_PART * (self.display.spent - began) if method.seeded else 0.0
            done.append(method)
            if len(done) == 2:
                self.time_needed()
            if partial is not None and len(done) > 1 and self.display.spent > FIRST_TABLE:
                partial(self.first_table(done))
                partial = None
        if partial is not None and done:
            partial(self.first_table(done))

    def taking_part(self) -> list[Method]:
        return [method for method in self.runner.methods() if method.name not in self.left_out]

    def quick_methods(self) -> list[Method]:
        return [method for method in self.taking_part() if method.problem is None and not self.runner.dependency(method)]

    def counts(self, seeds: int) -> dict[str, int]:
        return {method.name: seeds if method.seeded else 1 for method in self.taking_part()}

    def in_time(self, method: Method, seed: int, lengths: Lengths) -> bool:
        """Whether the method is fitted and scored by this seed on all folds. If it is not, it is left out."""
        try:
            self.score(method, seed, lengths)
        except OutOfTime:
            self.left_out[method.name] = LEFT_OUT
        return method.name not in self.left_out

    def score(self, method: Method, seed: int, lengths: Lengths) -> None:
        """Fits and scores a method by one seed on all folds. A method that raises is left out. Raises `OutOfTime` when the time
        is used up, or if the next fold would take longer than there is time."""
        longest = 0.0
        for fold in self.folds:
            began = self.display.spent
            if began + longest > self.until and not self.is_done([method], seed, lengths):
                raise OutOfTime
            self.attempted(method, lambda fold=fold: self.runner.scored(method, seed, fold, lengths))
            if method.name in self.left_out:
                return
            longest = max(longest, self.display.spent - began)
            self.display.step()
            self.keep_time()

    def attempted(self, method: Method, work: Callable[[], Any]) -> Any:
        """What `work` for this method returns; None if it raises, and the method is then left out by that reason. What is no
        fault of the method alone (a full disk, a damaged file of the comparison) is raised."""
        try:
            return work()
        except (OutOfTime, OSError, DamagedRecord, NotTrusted):
            raise
        except Exception as error:  # whatever a method's library or a user's code raises
            if method.name == self.runner.methods()[0].name:
                raise  # without no learning there is nothing to compare with
            self.left_out[method.name] = why = f"failed: {type(error).__name__}: {' '.join(str(error).split())}"[:500]
            self.display.note(f"note: {method.title} {why}. The other methods go on.")
            return None

    def keep_time(self) -> None:
        """Writes what was spent so far, for the case that this process is killed."""
        write_json(self.runner.directory / STATE, {"spent": self.display.spent})

    def first_table(self, methods: Sequence[Method]) -> list[dict[str, Any]]:
        """Mean errors of the quick methods on meta-validation tasks."""
        known = ScoreTable(self.runner, {method.name: 1 for method in methods}, QUICK)
        metric = self.runner.benchmarks[0].metric.name
        rows = [
            {
                "name": method.name,
                "title": method.title,
                "metric": metric,
                "validation": known.errors(method.name, "validation").mean(),
            }
            for method in methods
        ]
        return sorted(rows, key=lambda row: (not math.isfinite(row["validation"]), row["validation"]))

    def plan(self) -> Plan:
        """The plan that was made when the comparison began, or a new one. If methods are trained already, others are trained as
        long; of a greater budget than before, methods that were left out are tried again."""
        path = self.runner.directory / PLAN
        plan = validate(read_stored(path, Plan), Plan) if path.is_file() else None
        if plan is None or not plan.meta_steps:
            plan = self.new_plan()
        elif self.budget > plan.budget:
            self.paces |= plan.paces
            left_out = self.time_trained()
            plan = replace(plan, seeds=self.seeds, paces=self.paces, left_out=left_out, notes=(), budget=self.budget)
        self.paces = plan.paces
        write_json(path, asdict(plan))
        trained = sum(name not in plan.left_out for name in plan.paces)
        dependents = len(self.dependents())
        self.display.plan(
            self.display.done + len(self.folds) * (plan.seeds * (trained + dependents) + len(plan.equal_compute)),
            self.budget - self.display.spent,
        )
        return plan

    def dependents(self) -> list[Method]:
        return [method for method in self.taking_part() if method.problem is None and self.runner.dependency(method)]

    def new_plan(self) -> Plan:
        left_out = self.time_trained()
        plan = self.fitting(self.paces)
        return replace(plan, left_out={**left_out, **plan.left_out}, budget=self.budget)

    def time_trained(self) -> dict[str, str]:
        """Times a meta-step of every method that is trained, as far as there is time; the others, and why they are left out."""
        left_out = {}
        for method in self.trained():
            if method.name not in self.paces and not self.may_compile():
                left_out[method.name] = LEFT_OUT
            else:
                self.time(method)
        return left_out

    def trained(self) -> list[Method]:
        """Methods that are trained, first those without which a comparison says little."""
        return sorted(
            (method for method in self.taking_part() if method.problem is not None),
            key=lambda method: method.name not in NEEDED,
        )

    def time(self, method: Method) -> None:
        if method.name not in self.paces:
            self.display.say(f"{method.title}: how long a meta-step takes")
            if (pace := self.attempted(method, lambda: pace_of(method, self.runner.benchmarks[0]))) is not None:
                self.paces[method.name] = pace
            self.keep_time()

    def time_needed(self) -> None:
        """Times the methods without which a comparison says little, before other quick methods take their time."""
        if not (self.runner.directory / PLAN).is_file():
            for method in self.trained():
                if method.name in NEEDED and self.may_compile():
                    self.time(method)

    def may_compile(self) -> bool:
        """Whether there is time to compile another method's program, which nothing interrupts."""
        longest = max([FIRST_COMPILING, *(pace.compiling for pace in self.paces.values())])
        return self.display.spent + longest <= TIMING_PART * self.budget

    def fitting(self, paces: dict[str, Pace]) -> Plan:
        """The plan for methods of these paces."""
        compiling = float(np.mean([pace.compiling for pace in paces.values()])) if paces else 0.0
        grids = {name: len(self.runner.method(name).grid(self.runner.benchmarks[0])) for name in paces}
        self.extra = 0.3 + 0.1 * compiling
        if (first := self.runner.benchmarks[0]).validations:
            known = self.runner.scored(self.runner.method("prior"), 0, 0, QUICK)  # what judging takes
            self.extra += first.validations * known.record["adapt_milliseconds"] / 1000
        compiling *= VALIDATION_PROGRAMS
        dependents = tuple(method.name for method in self.dependents())
        costs = Costs(paces, grids, dependents, len(self.folds), self.extra, compiling, self.quick)
        left = self.last_call - LAST_PART / 2 * self.budget - self.display.spent
        return planned(costs, left, self.runner.benchmarks[0].settings.meta_steps, self.seeds)

    def trained_plan(self) -> Plan:
        """Plans and trains; the plan as it turned out."""
        plan = self.plan()
        self.left_out |= plan.left_out
        done = self.train(plan)
        self.until = self.budget
        if done == plan.seeds:
            return plan
        return replace(plan, seeds=done, notes=(*plan.notes, f"{plan.seeds - done} of {plan.seeds} planned seeds"))

    def train(self, plan: Plan) -> int:
        """Trains all methods seed by seed; returns how many seeds of all methods were within the budget. Where trainings take
        longer than was planned, settings are not searched any more and then methods are left out, in the first round, and after
        it whole rounds. A training for which the time runs out keeps its state."""
        self.until = self.last_call
        needed = [method for method in self.trained() if method.name in NEEDED]
        methods = [*needed, *self.dependents(), *(method for method in self.trained() if method not in needed)]
        for seed in range(plan.seeds):
            began = self.display.spent
            methods = [method for method in methods if method.name not in self.left_out and (method.seeded or not seed)]
            if seed and not self.is_done(methods, seed, plan.lengths()) and began + self.round > self.last_call:
                return seed
            for method in methods:
                try:
                    self.train_one(method, seed, plan)
                except OutOfTime:
                    if seed:
                        return seed
                    self.left_out[method.name] = LEFT_OUT
            if not seed:
                self.retry_quick()
            self.round = self.display.spent - began if seed else ROUND_PART * (self.display.spent - began) + self.quick
            if not seed:
                methods = [*(method for method in self.quick_methods() if method.seeded), *methods]
        return plan.seeds

    def retry_quick(self) -> None:
        """Scores quick methods that were left out before the trainings, if there is time now."""
        for method in [
            method for method in self.runner.methods() if method.problem is None and not self.runner.dependency(method)
        ]:
            if self.left_out.get(method.name) == LEFT_OUT:
                del self.left_out[method.name]
                self.in_time(method, 0, QUICK)

    def train_one(self, method: Method, seed: int, plan: Plan) -> None:
        """One method by one seed, on all folds. Raises `OutOfTime` if there is no time for it."""
        lengths, each = plan.lengths(), 0.0
        if method.name in plan.paces:
            each = plan.meta_steps * plan.paces[method.name].meta_step
        if (dependency := self.runner.dependency(method)) is not None and dependency.name in self.left_out:
            self.left_out[method.name] = self.left_out[dependency.name]
            return
        if not seed and not self.is_done([method], seed, lengths):
            tried = (len(method.grid(self.runner.benchmarks[0])) - 1) * (self.extra + SEARCH_PART * each) if each else 0.0
            once = len(self.folds) * (self.extra + each)
            needs = once if method.name in NEEDED else once * plan.seeds
            needs += VALIDATION_PROGRAMS * plan.paces[method.name].compiling if each else 0.0
            if self.display.spent + needs > self.last_call:
                raise OutOfTime
            if self.display.spent + once * plan.seeds + len(self.folds) * tried > self.last_call:
                lengths = lengths._replace(search=False)
        started = self.display.spent
        self.score(method, seed, lengths)
        if each:
            self.extra = 0.5 * self.extra + 0.5 * max(0.0, (self.display.spent - started) / len(self.folds) - each)

    @property
    def last_call(self) -> float:
        """Seconds after which no training begins or goes on."""
        return self.budget - max(LAST_PART / 2 * self.budget, min(self.closing("maml"), CLOSING_PART * self.budget))

    def closing(self, name: str) -> float:
        """Seconds that it takes to calibrate the run of this method, which compiles about as much as a meta-step of it."""
        return VALIDATION_PROGRAMS * self.paces[name].compiling if name in self.paces else FIRST_COMPILING / 2

    def is_done(self, methods: Sequence[Method], seed: int, lengths: Lengths) -> bool:
        folders = (self.runner.folder(method, seed, fold, lengths) for method in methods for fold in self.folds)
        return all((folder / RECORD).is_file() for folder in folders)
