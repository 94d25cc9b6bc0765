"""A comparison under way: quick arms, the plan, all arms seed by seed, and what is done with the time that is left.

Used by run.py. What is not within the budget is left out, and said to be. An arm that raises is left out by its reason; the
others go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from fewstep.compare.budget import LAST_PART, LEFT_OUT, NEEDED, Costs, Pace, Plan, pace_of, planned
from fewstep.compare.content import Known
from fewstep.compare.methods import Arm
from fewstep.compare.request import STATE
from fewstep.compare.runner import RECORD, SEARCH_PART, Bench, DamagedRecord, Lengths, read_kept
from fewstep.errors import NotTrusted
from fewstep.runs import write_json
from fewstep.storage.json import validate
from fewstep.training.loop import OutOfTime
from fewstep.training.progress import Display

PLAN = "plan.json"
QUICK: Lengths = Lengths({}, True)
FIRST_TABLE = 40.0
"""After so many seconds the first scores are shown, if not all quick arms are done before."""
QUICK_PART, TIMING_PART = 0.4, 0.5
"""of the budget, after which no quick arm begins, and no arm's program is compiled to be timed"""
JUDGING = 2.0
"""times as long as its meta-step the other programs of a trained arm take to compile, which validate and predict"""
FIRST_COMPILING = 10.0
"""seconds that compiling a program is expected to take, where no arm's was compiled yet"""
CLOSING_PART = 0.2
"""of the budget at most, which is kept for what follows the trainings"""
ROUND_PART = 0.7
"""of the first round's time, which compiles and searches, that another one takes"""


class Comparing:
    """One comparison under way."""

    def __init__(self, bench: Bench, display: Display, budget: float, seeds: int):
        self.bench, self.display, self.budget, self.seeds = bench, display, budget, seeds
        self.folds = range(len(bench.grounds))
        self.paces: dict[str, Pace] = {}
        self.extra, self.round, self.quick = 1.0, 0.0, 0.0
        """seconds that a training took beside its meta-steps, that a round of all arms takes, and another one of the quick ones
        alone; as seen so far"""
        self.left_out = {arm.name: why for arm in bench.arms() if (why := arm.absent(bench.grounds[0]))}
        self.until = math.inf
        """seconds after which no fitting begins or goes on"""
        bench.late = lambda: self.display.spent > self.until

    def score_quick(self, partial: Callable[[list[dict[str, Any]]], None] | None) -> None:
        """Scores all arms that need no training by the first seed, as far as there is time: the first one always, the second
        one within the budget. Shows them when they are done, or those that are done after a while."""
        done: list[Arm] = []
        for number, arm in enumerate(self.quick_arms()):
            self.until = (math.inf, self.budget)[number] if number < 2 else QUICK_PART * self.budget
            began = self.display.spent
            if not self.in_time(arm, 0, QUICK):
                continue
            self.quick += ROUND_PART * (self.display.spent - began) if arm.seeded else 0.0
            done.append(arm)
            if len(done) == 2:
                self.time_needed()
            if partial is not None and len(done) > 1 and self.display.spent > FIRST_TABLE:
                partial(self.first_table(done))
                partial = None
        if partial is not None and done:
            partial(self.first_table(done))

    def taking_part(self) -> list[Arm]:
        return [arm for arm in self.bench.arms() if arm.name not in self.left_out]

    def quick_arms(self) -> list[Arm]:
        return [arm for arm in self.taking_part() if arm.problem is None and not self.bench.followed(arm)]

    def counts(self, seeds: int) -> dict[str, int]:
        return {arm.name: seeds if arm.seeded else 1 for arm in self.taking_part()}

    def in_time(self, arm: Arm, seed: int, lengths: Lengths) -> bool:
        """Whether the arm is fitted and scored by this seed on all folds. If it is not, it is left out."""
        try:
            self.score(arm, seed, lengths)
        except OutOfTime:
            self.left_out[arm.name] = LEFT_OUT
        return arm.name not in self.left_out

    def score(self, arm: Arm, seed: int, lengths: Lengths) -> None:
        """Fits and scores an arm by one seed on all folds. An arm that raises is left out. Raises `OutOfTime` when the time is
        used up, or if the next fold would take longer than there is time."""
        longest = 0.0
        for fold in self.folds:
            began = self.display.spent
            if began + longest > self.until and not self.is_done([arm], seed, lengths):
                raise OutOfTime
            self.attempted(arm, lambda fold=fold: self.bench.scored(arm, seed, fold, lengths))
            if arm.name in self.left_out:
                return
            longest = max(longest, self.display.spent - began)
            self.display.step()
            self.keep_time()

    def attempted(self, arm: Arm, work: Callable[[], Any]) -> Any:
        """What `work` for this arm returns; None if it raises, and the arm is then left out by that reason. What is no fault of
        the arm alone (a full disk, a damaged file of the comparison) is raised."""
        try:
            return work()
        except (OutOfTime, OSError, DamagedRecord, NotTrusted):
            raise
        except Exception as error:  # whatever an arm's library or a user's code raises
            if arm.name == self.bench.arms()[0].name:
                raise  # without no learning there is nothing to compare with
            self.left_out[arm.name] = why = f"failed: {type(error).__name__}: {' '.join(str(error).split())}"[:500]
            self.display.note(f"note: {arm.title} {why}. The other arms go on.")
            return None

    def keep_time(self) -> None:
        """Writes what was spent so far, for the case that this process is killed."""
        write_json(self.bench.directory / STATE, {"spent": self.display.spent})

    def first_table(self, arms: Sequence[Arm]) -> list[dict[str, Any]]:
        """Mean errors of the quick arms on meta-validation tasks."""
        known = Known(self.bench, {arm.name: 1 for arm in arms}, QUICK)
        metric = self.bench.grounds[0].metric.name
        rows = [
            {"name": arm.name, "title": arm.title, "metric": metric, "validation": known.errors(arm.name, "validation").mean()}
            for arm in arms
        ]
        return sorted(rows, key=lambda row: (not math.isfinite(row["validation"]), row["validation"]))

    def plan(self) -> Plan:
        """The plan that was made when the comparison began, or a new one. If arms are trained already, others are trained as
        long; of a greater budget than before, arms that were left out are tried again."""
        path = self.bench.directory / PLAN
        plan = validate(read_kept(path, Plan), Plan) if path.is_file() else None
        if plan is None or not plan.meta_steps:
            plan = self.new_plan()
        elif self.budget > plan.budget:
            self.paces |= plan.paces
            left_out = self.time_trained()
            plan = replace(plan, seeds=self.seeds, paces=self.paces, left_out=left_out, notes=(), budget=self.budget)
        self.paces = plan.paces
        write_json(path, asdict(plan))
        trained = sum(name not in plan.left_out for name in plan.paces)
        followers = len(self.followers())
        self.display.plan(
            self.display.done + len(self.folds) * (plan.seeds * (trained + followers) + len(plan.equal_compute)),
            self.budget - self.display.spent,
        )
        return plan

    def followers(self) -> list[Arm]:
        return [arm for arm in self.taking_part() if arm.problem is None and self.bench.followed(arm)]

    def new_plan(self) -> Plan:
        left_out = self.time_trained()
        plan = self.fitting(self.paces)
        return replace(plan, left_out={**left_out, **plan.left_out}, budget=self.budget)

    def time_trained(self) -> dict[str, str]:
        """Times a meta-step of every arm that is trained, as far as there is time; the others, and why they are left out."""
        left_out = {}
        for arm in self.trained():
            if arm.name not in self.paces and not self.may_compile():
                left_out[arm.name] = LEFT_OUT
            else:
                self.time(arm)
        return left_out

    def trained(self) -> list[Arm]:
        """Arms that are trained, first those without which a comparison says little."""
        return sorted((arm for arm in self.taking_part() if arm.problem is not None), key=lambda arm: arm.name not in NEEDED)

    def time(self, arm: Arm) -> None:
        if arm.name not in self.paces:
            self.display.say(f"{arm.title}: how long a meta-step takes")
            if (pace := self.attempted(arm, lambda: pace_of(arm, self.bench.grounds[0]))) is not None:
                self.paces[arm.name] = pace
            self.keep_time()

    def time_needed(self) -> None:
        """Times the arms without which a comparison says little, before other quick arms take their time."""
        if not (self.bench.directory / PLAN).is_file():
            for arm in self.trained():
                if arm.name in NEEDED and self.may_compile():
                    self.time(arm)

    def may_compile(self) -> bool:
        """Whether there is time to compile another arm's program, which nothing interrupts."""
        longest = max([FIRST_COMPILING, *(pace.compiling for pace in self.paces.values())])
        return self.display.spent + longest <= TIMING_PART * self.budget

    def fitting(self, paces: dict[str, Pace]) -> Plan:
        """The plan for arms of these paces."""
        compiling = float(np.mean([pace.compiling for pace in paces.values()])) if paces else 0.0
        grids = {name: len(self.bench.arm(name).grid(self.bench.grounds[0])) for name in paces}
        self.extra = 0.3 + 0.1 * compiling
        if (first := self.bench.grounds[0]).judgings:
            known = self.bench.scored(self.bench.arm("prior"), 0, 0, QUICK)  # what judging takes
            self.extra += first.judgings * known.record["adapt_milliseconds"] / 1000
        compiling *= JUDGING
        followers = tuple(arm.name for arm in self.followers())
        costs = Costs(paces, grids, followers, len(self.folds), self.extra, compiling, self.quick)
        left = self.last_call - LAST_PART / 2 * self.budget - self.display.spent
        return planned(costs, left, self.bench.grounds[0].settings.meta_steps, self.seeds)

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
        """Trains all arms seed by seed; returns how many seeds of all arms were within the budget. Where trainings take longer
        than was planned, settings are not searched any more and then arms are left out, in the first round, and after it whole
        rounds. A training for which the time runs out keeps its state."""
        self.until = self.last_call
        needed = [arm for arm in self.trained() if arm.name in NEEDED]
        arms = [*needed, *self.followers(), *(arm for arm in self.trained() if arm not in needed)]
        for seed in range(plan.seeds):
            began = self.display.spent
            arms = [arm for arm in arms if arm.name not in self.left_out and (arm.seeded or not seed)]
            if seed and not self.is_done(arms, seed, plan.lengths()) and began + self.round > self.last_call:
                return seed
            for arm in arms:
                try:
                    self.train_one(arm, seed, plan)
                except OutOfTime:
                    if seed:
                        return seed
                    self.left_out[arm.name] = LEFT_OUT
            if not seed:
                self.retry_quick()
            self.round = self.display.spent - began if seed else ROUND_PART * (self.display.spent - began) + self.quick
            if not seed:
                arms = [*(arm for arm in self.quick_arms() if arm.seeded), *arms]
        return plan.seeds

    def retry_quick(self) -> None:
        """Scores quick arms that were left out before the trainings, if there is time now."""
        for arm in [arm for arm in self.bench.arms() if arm.problem is None and not self.bench.followed(arm)]:
            if self.left_out.get(arm.name) == LEFT_OUT:
                del self.left_out[arm.name]
                self.in_time(arm, 0, QUICK)

    def train_one(self, arm: Arm, seed: int, plan: Plan) -> None:
        """One arm by one seed, on all folds. Raises `OutOfTime` if there is no time for it."""
        lengths, each = plan.lengths(), 0.0
        if arm.name in plan.paces:
            each = plan.meta_steps * plan.paces[arm.name].meta_step
        if (followed := self.bench.followed(arm)) is not None and followed.name in self.left_out:
            self.left_out[arm.name] = self.left_out[followed.name]
            return
        if not seed and not self.is_done([arm], seed, lengths):
            tried = (len(arm.grid(self.bench.grounds[0])) - 1) * (self.extra + SEARCH_PART * each) if each else 0.0
            once = len(self.folds) * (self.extra + each)
            needs = once if arm.name in NEEDED else once * plan.seeds
            needs += JUDGING * plan.paces[arm.name].compiling if each else 0.0
            if self.display.spent + needs > self.last_call:
                raise OutOfTime
            if self.display.spent + once * plan.seeds + len(self.folds) * tried > self.last_call:
                lengths = lengths._replace(search=False)
        started = self.display.spent
        self.score(arm, seed, lengths)
        if each:
            self.extra = 0.5 * self.extra + 0.5 * max(0.0, (self.display.spent - started) / len(self.folds) - each)

    @property
    def last_call(self) -> float:
        """Seconds after which no training begins or goes on."""
        return self.budget - max(LAST_PART / 2 * self.budget, min(self.closing("maml"), CLOSING_PART * self.budget))

    def closing(self, name: str) -> float:
        """Seconds that it takes to calibrate the run of this arm, which compiles about as much as a meta-step of it."""
        return JUDGING * self.paces[name].compiling if name in self.paces else FIRST_COMPILING / 2

    def is_done(self, arms: Sequence[Arm], seed: int, lengths: Lengths) -> bool:
        folders = (self.bench.folder(arm, seed, fold, lengths) for arm in arms for fold in self.folds)
        return all((folder / RECORD).is_file() for folder in folders)
