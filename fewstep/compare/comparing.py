"""A comparison under way (floor 5): quick arms, the plan, all arms seed by seed, and what is done with the time that is left.

Used by run.py. What is not within the budget is left out, and said to be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fewstep.compare.arms import Arm
from fewstep.compare.bench import SEARCH_PART, Bench, Lengths
from fewstep.compare.content import Known
from fewstep.compare.display import Display, clock
from fewstep.compare.kept import RECORD, read_kept
from fewstep.compare.plan import LAST_PART, LEFT_OUT, NEEDED, Costs, Pace, Plan, Saved, TooShort, pace_of, planned
from fewstep.compare.policy_ground import PolicyGround
from fewstep.errors import BadInput
from fewstep.runs import write_json

PLAN = "plan.json"
QUICK: Lengths = Lengths({}, True)
FIRST_TABLE = 40.0
"""After so many seconds the first scores are shown, if not all quick arms are done before."""
ROUND_PART = 0.7
"""of the first round's time, which compiles and searches, that another one takes"""


class Comparing:
    """One comparison under way."""

    def __init__(self, bench: Bench, display: Display, budget: float, seeds: int):
        self.bench, self.display, self.budget, self.seeds = bench, display, budget, seeds
        self.folds = range(len(bench.grounds))
        self.paces: dict[str, Pace] = {}
        self.extra, self.round = 1.0, 0.0
        """seconds that a training took beside its meta-steps, and that a round of all arms takes; as seen so far"""
        self.left_out = {arm.name: why for arm in bench.arms() if (why := arm.absent(bench.grounds[0]))}

    def score_quick(self, partial: Callable[[list[dict[str, Any]]], None] | None) -> None:
        """Scores all arms that need no training, and shows them when they are done, or those that are done after a while.
        Raises `BadInput` as soon as it is known that the budget is too small for the others."""
        done: list[Arm] = []
        for arm in self.taking_part():
            if arm.problem is not None or self.bench.followed(arm):
                continue
            self.score(arm, self.seeds, QUICK)
            done.append(arm)
            if len(done) == 2:
                self.require_time()
            if partial is not None and len(done) > 1 and self.display.spent > FIRST_TABLE:
                partial(self.first_table(done))
                partial = None
        if partial is not None:
            partial(self.first_table(done))

    def taking_part(self) -> list[Arm]:
        return [arm for arm in self.bench.arms() if arm.name not in self.left_out]

    def counts(self, seeds: int) -> dict[str, int]:
        return {arm.name: seeds if arm.seeded else 1 for arm in self.taking_part()}

    def score(self, arm: Arm, seeds: int, lengths: Lengths) -> None:
        for seed in range(seeds if arm.seeded else 1):
            for fold in self.folds:
                self.bench.scored(arm, seed, fold, lengths)
                self.display.step()

    def first_table(self, arms: Sequence[Arm]) -> list[dict[str, Any]]:
        """Mean errors of the quick arms on meta-validation tasks."""
        known = Known(self.bench, {arm.name: self.seeds if arm.seeded else 1 for arm in arms}, QUICK)
        metric = self.bench.grounds[0].metric.name
        rows = [
            {"name": arm.name, "title": arm.title, "metric": metric, "validation": known.errors(arm.name, "validation").mean()}
            for arm in arms
        ]
        return sorted(rows, key=lambda row: (not math.isfinite(row["validation"]), row["validation"]))

    def plan(self) -> Plan:
        """The plan that was made when the comparison began, or a new one. Raises `BadInput` where the budget is too small."""
        path = self.bench.directory / PLAN
        if path.is_file():
            plan = Plan.from_json(read_kept(path, Saved))
        else:
            plan = self.new_plan()
            write_json(path, plan.to_json())
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
        left_out = {}
        for arm in self.trained():
            compiling = max((pace.compiling for pace in self.paces.values()), default=0.0)
            if arm.name not in NEEDED and self.display.spent + compiling > self.budget / 2:
                left_out[arm.name] = LEFT_OUT
            else:
                self.paces[arm.name] = self.pace(arm)
        plan = self.fitting(self.paces)
        return replace(plan, left_out={**left_out, **plan.left_out})

    def trained(self) -> list[Arm]:
        """Arms that are trained, first those without which there is no comparison."""
        return sorted((arm for arm in self.taking_part() if arm.problem is not None), key=lambda arm: arm.name not in NEEDED)

    def pace(self, arm: Arm) -> Pace:
        self.display.say(f"{arm.title}: how long a meta-step takes")
        return self.paces.get(arm.name) or pace_of(arm, self.bench.grounds[0])

    def fitting(self, paces: dict[str, Pace]) -> Plan:
        """The plan for arms of these paces. Raises `BadInput`, saying what would do, where the budget is too small for it."""
        compiling = float(np.mean([pace.compiling for pace in paces.values()]))
        grids = {name: len(self.bench.arm(name).grid(self.bench.grounds[0])) for name in paces}
        self.extra = 0.3 + 0.3 * compiling
        if isinstance(first := self.bench.grounds[0], PolicyGround):
            known = self.bench.scored(self.bench.arm("prior"), self.seeds - 1, 0, QUICK)  # judged after all was compiled
            self.extra += first.judgings * known.record["adapt_milliseconds"] / 1000
        costs = Costs(paces, grids, len(self.followers()), len(self.folds), self.extra, compiling)
        left = (1 - LAST_PART) * self.budget - self.display.spent
        try:
            return planned(costs, left, self.bench.grounds[0].settings.meta_steps, self.seeds)
        except TooShort as error:
            least = (self.budget + error.seconds / (1 - LAST_PART)) * 1.1
            raise BadInput(
                f"--budget {clock(self.budget)} is too small to train even joint training and MAML once; the least that would "
                f"do here is about {rounded(least)}. A smaller --meta-batch-size or network needs less."
            ) from error

    def require_time(self) -> None:
        """Refuses a budget that is too small for the arms without which there is no comparison."""
        if not (self.bench.directory / PLAN).is_file():
            self.paces |= {arm.name: self.pace(arm) for arm in self.trained() if arm.name in NEEDED}
            self.fitting(self.paces)

    def trained_plan(self) -> Plan:
        """Plans and trains; the plan as it turned out."""
        plan = self.plan()
        self.left_out |= plan.left_out
        done = self.train(plan)
        if done == plan.seeds:
            return plan
        return replace(plan, seeds=done, notes=(*plan.notes, f"{plan.seeds - done} of {plan.seeds} planned seeds"))

    def train(self, plan: Plan) -> int:
        """Trains all arms seed by seed; returns how many seeds of all arms were within the budget. Where trainings take longer
        than was planned, settings are not searched any more and then arms are left out, in the first round, and after it whole
        rounds."""
        arms = [arm for arm in self.taking_part() if arm.problem is not None or self.bench.followed(arm)]
        for seed in range(plan.seeds):
            began = self.display.spent
            if seed and not self.is_done(arms, seed, plan.lengths()) and began + self.round > self.last_call:
                return seed
            for arm in arms:
                self.train_one(arm, seed, plan)
            self.round = (self.display.spent - began) * (1.0 if seed else ROUND_PART)
            arms = [arm for arm in arms if arm.name not in self.left_out]
        return plan.seeds

    def train_one(self, arm: Arm, seed: int, plan: Plan) -> None:
        """One arm by one seed, on all folds, as far as there is time."""
        lengths, each = plan.lengths(), 0.0
        if arm.name in plan.paces:
            each = plan.meta_steps * plan.paces[arm.name].meta_step
        if not seed and not self.is_done([arm], seed, lengths) and not self.is_begun(arm):
            tried = (len(arm.grid(self.bench.grounds[0])) - 1) * (self.extra + SEARCH_PART * each) if each else 0.0
            once = len(self.folds) * (self.extra + each)
            late = self.display.spent + once * plan.seeds > self.last_call
            if late and arm.name not in NEEDED:
                self.leave_out(arm, plan)
                return
            if self.display.spent + once * plan.seeds + len(self.folds) * tried > self.last_call:
                lengths = lengths._replace(search=False)
        started = self.display.spent
        for fold in self.folds:
            self.bench.scored(arm, seed, fold, lengths)
            self.display.step()
        if each:
            self.extra = 0.5 * self.extra + 0.5 * max(0.0, (self.display.spent - started) / len(self.folds) - each)

    def is_begun(self, arm: Arm) -> bool:
        """Whether its settings were chosen before: then it takes part, whatever the time."""
        return (self.bench.directory / "arms" / arm.name / "searched0.json").is_file()

    def leave_out(self, arm: Arm, plan: Plan) -> None:
        """It takes no part any more, nor when the comparison goes on."""
        self.left_out[arm.name] = LEFT_OUT
        known = {name: why for name, why in self.left_out.items() if why == LEFT_OUT}
        write_json(self.bench.directory / PLAN, replace(plan, left_out=known).to_json())

    @property
    def last_call(self) -> float:
        """Seconds after which no training begins."""
        return (1 - LAST_PART / 2) * self.budget

    def is_done(self, arms: Sequence[Arm], seed: int, lengths: Lengths) -> bool:
        folders = (self.bench.folder(arm, seed, fold, lengths) for arm in arms for fold in self.folds)
        return all((folder / RECORD).is_file() for folder in folders)


def rounded(seconds: float) -> str:
    """'45s' or '4m', as --budget takes it."""
    return f"{math.ceil(seconds / 5) * 5}s" if seconds < 90 else f"{math.ceil(seconds / 60)}m"
