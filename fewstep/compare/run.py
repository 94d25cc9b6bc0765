"""A comparison from beginning to end (floor 5): `compare(settings, directory)`, what `fewstep compare` calls.

Quick arms come first, so that there is a table to look at. Then a meta-step of each trained arm is timed, the rest of the
budget is planned, and all arms are trained seed by seed: whenever it stops, all arms have the same seeds. What is fitted is
kept in the folder, and not fitted again when the comparison goes on.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.compare.arms import Arm
from fewstep.compare.bench import SEARCH_PART, Bench, Lengths
from fewstep.compare.content import Known, content_of, interval, margin_of, question_of
from fewstep.compare.curves import by_shots, by_steps, by_tasks
from fewstep.compare.display import Display, clock
from fewstep.compare.ground import Ground, ground
from fewstep.compare.leaks import refuse_leaks
from fewstep.compare.plan import LAST_PART, NEEDED, Costs, Pace, Plan, TooShort, pace_of, planned
from fewstep.compare.recommended import RUN, save_recommended
from fewstep.compare.results import Verdict
from fewstep.compare.statistics import compared
from fewstep.compare.verdict import ranking, verdict
from fewstep.errors import BadInput, RunFailed
from fewstep.problems import PROBLEMS
from fewstep.runs import new_directory, open_run, write_json
from fewstep.runs.files import absolute_data, fingerprint

ASKED, STATE, PLAN, RESULT, PAGE = "comparison.json", "state.json", "plan.json", "compare.json", "compare.html"
FEW_TASKS = 100
"""With fewer tasks, a table is cross-fitted: every task is tested once."""
TOO_FEW = 20
QUICK: Lengths = Lengths({}, True)
FIRST_TABLE = 40.0
"""After so many seconds the first scores are shown, if not all quick arms are done before."""
ROUND_PART = 0.7
"""of the first round's time, which compiles and searches, that another one takes"""


def compare(
    settings: Any,
    directory: str | Path,
    *,
    budget_seconds: float = 600.0,
    seeds: int = 3,
    margin: float | None = None,
    seed: int = 0,
    quiet: bool = False,
    command: str = "",
    partial: Callable[[list[dict[str, Any]]], None] | None = None,
) -> dict[str, Any]:
    """Compares arms on the tasks of a Problem within a budget, writes `compare.json`, `compare.html` and the recommended run
    into `directory`, and returns what `compare.json` holds. Where the directory holds the same comparison, it goes on.

    `margin` is a difference in error that does not matter (by default 5 % of the error without learning); `seed` decides the
    split and the held-out episodes, `seeds` is how often everything is trained. `partial` is shown the first scores.

    Raises `BadInput` for what cannot be compared, a leak between tasks or a budget that is too small, and `Interrupted` on
    SIGINT or SIGTERM while an arm is trained: what is done is kept.
    """
    check(budget_seconds, seeds, margin)
    directory, asked = Path(directory), as_asked(settings, budget_seconds, seeds, margin, seed, command)
    begun = goes_on(directory, asked)
    display = Display(budget_seconds, spent_before(directory) if begun else 0.0, quiet)
    try:
        grounds = grounds_of(settings, seed, display)
        if not begun:
            new_directory(directory)
            write_json(directory / ASKED, asked)
        bench = Bench(directory, grounds, display.say)
        try:
            return Comparing(bench, display, budget_seconds, seeds, margin, command).whole(partial)
        except BadInput:
            if not begun:
                shutil.rmtree(directory)
            raise
        finally:
            if directory.is_dir():
                write_json(directory / STATE, {"spent": display.spent})
    finally:
        display.close()


def resume(directory: str | Path, quiet: bool = False, partial: Callable[..., None] | None = None) -> dict[str, Any]:
    """Goes on with the comparison in `directory`. Raises `BadInput` where there is none."""
    asked = read_asked(Path(directory))
    saved = {name: tuple(value) if isinstance(value, list) else value for name, value in asked["settings"].items()}
    options = {name: asked[name] for name in ("budget_seconds", "seeds", "margin", "seed", "command")}
    return compare(PROBLEMS[asked["problem"]](**saved), directory, quiet=quiet, partial=partial, **options)


class Comparing:
    """One comparison under way."""

    def __init__(self, bench: Bench, display: Display, budget: float, seeds: int, margin: float | None, command: str):
        self.bench, self.display, self.budget, self.seeds, self.margin = bench, display, budget, seeds, margin
        self.command, self.folds = command, range(len(bench.grounds))
        self.paces: dict[str, Pace] = {}
        self.extra, self.round = 1.0, 0.0
        """seconds that a training took beside its meta-steps, and that a round of all arms takes; as seen so far"""
        self.left_out = {arm.name: why for arm in bench.arms() if (why := arm.absent(bench.grounds[0]))}

    def whole(self, partial: Callable[[list[dict[str, Any]]], None] | None) -> dict[str, Any]:
        """All of it: quick arms, the plan, all seeds, equal compute, the verdict and what is drawn of it."""
        self.score_quick(partial)
        plan = self.plan()
        self.left_out |= plan.left_out
        done = self.train(plan)
        plan = plan if done == plan.seeds else fewer_seeds(plan, done)
        known = Known(self.bench, self.counts(plan.seeds), plan.lengths())
        margin = margin_of(known, self.margin)
        question, in_words = question_of(plan.seeds)
        found = verdict(known.scores("validation"), known.scores("test"), margin, 0.95, question, known.about())
        ranked = ranking(known.scores("validation"), margin)
        names = list(dict.fromkeys([found.arm, "maml", found.runner_up or found.arm]))
        names = [name for name in names if name in known.scored and name not in found.comparison.diverged]
        arm, best = save_recommended(self.bench, ranked, plan.lengths(), plan.seeds)
        equal = self.equal_compute(plan, found)
        curves = self.curves(plan, known, names)
        content = content_of(
            self.bench,
            known,
            found,
            plan=plan,
            margin=margin,
            question=in_words,
            command=self.command,
            budget=self.budget,
            spent=self.display.spent,
            equal=equal,
            left_out=self.left_out,
            more_sentences=tuple(self.more_sentences(plan, found, arm, known)),
        )
        content |= {"run": {"arm": arm, "seed": best, "directory": RUN}, **curves}
        content |= {"probes": self.probes(plan, known)}
        write_json(self.bench.directory / RESULT, content)
        write_page(self.bench.directory / PAGE, content)
        return content

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
        rows = [
            {"name": arm.name, "title": arm.title, "validation": known.errors(arm.name, "validation").mean()} for arm in arms
        ]
        return sorted(rows, key=lambda row: (not math.isfinite(row["validation"]), row["validation"]))

    def plan(self) -> Plan:
        """The plan that was made when the comparison began, or a new one. Raises `BadInput` where the budget is too small."""
        path = self.bench.directory / PLAN
        if path.is_file():
            plan = Plan.from_json(json.loads(path.read_text(encoding="utf-8")))
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
                left_out[arm.name] = "not within the budget"
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
        self.left_out[arm.name] = "not within the budget"
        known = {name: why for name, why in self.left_out.items() if why == "not within the budget"}
        write_json(self.bench.directory / PLAN, replace(plan, left_out=known).to_json())

    @property
    def last_call(self) -> float:
        """Seconds after which no training begins."""
        return (1 - LAST_PART / 2) * self.budget

    def is_done(self, arms: Sequence[Arm], seed: int, lengths: Lengths) -> bool:
        folders = (self.bench.folder(arm, seed, fold, lengths) for arm in arms for fold in self.folds)
        return all((folder / "scores.json").is_file() for folder in folders)

    def equal_compute(self, plan: Plan, found: Verdict) -> dict[str, Any]:
        """arm -> its error where all arms may take as many operations as exact MAML at the planned meta-steps, by the first
        seed. What takes no less than that has its own error there; arms for which there was no time are left out."""
        comparison, lengths = found.comparison, plan.lengths(equal_compute=True)
        steps = {arm.name: self.steps_beneath(arm, plan.equal_compute) for arm in self.taking_part()}
        same = {name for name, count in steps.items() if count is None and name != "maml-from-joint"}
        equal = {name: interval(comparison.errors[name]) for name in same if name in comparison.errors}
        longer: dict[str, int] = {}
        for arm in self.taking_part():
            name, source = arm.name, arm if arm.problem is not None else self.bench.followed(arm)
            if (count := steps[name]) is None or source is None:
                continue
            takes = 0.0 if name != source.name else len(self.folds) * count * plan.paces[name].meta_step
            if self.display.spent + takes > self.last_call and not self.is_done([arm], 0, lengths):
                continue
            if source.name != name and source.name not in longer:
                continue
            for fold in self.folds:
                self.bench.scored(arm, 0, fold, lengths)
                self.display.step()
            longer[name] = 1
        if longer:
            known = Known(self.bench, longer, lengths)
            scores = known.scores("test")
            fine = [one for one in scores if np.isfinite(one.errors).all()]
            if fine:
                shown = compared(fine, fine[0].name, 1.0, question="models").errors
                equal |= {one.name: interval(shown[one.name]) for one in fine}
        return equal

    def steps_beneath(self, arm: Arm, equal: dict[str, int]) -> int | None:
        """To how many meta-steps an arm, or the one that it follows, goes for equal compute; None where it is as it is."""
        source = arm if arm.problem is not None else self.bench.followed(arm)
        return None if source is None or arm.name == "maml-from-joint" else equal.get(source.name)

    def curves(self, plan: Plan, known: Known, names: Sequence[str]) -> dict[str, Any]:
        """Learning curves of a few arms, as far as there is time."""
        lengths = plan.lengths()
        in_time = lambda: self.display.spent < self.budget  # noqa: E731
        fitted = {name: self.bench.fitted(self.bench.arm(name), self.lengths_of(name, lengths)) for name in names if in_time()}
        shots = by_shots(self.bench, fitted, in_time) if fitted else None
        steps = by_steps(self.bench, fitted, in_time) if fitted else None
        # What follows another would need that trained anew, too; an empirical prior knows all meta-train tasks.
        trained = [name for name in names if not self.bench.followed(self.bench.arm(name)) and name != "bayes-head"]

        def takes(name: str) -> bool:
            each = plan.paces[name].meta_step * plan.meta_steps if name in plan.paces else 1.0
            return self.display.spent + 2 * each + 5.0 < self.budget

        whole = {name: finite(known.errors(name, "test").mean()) for name in names}
        tasks = by_tasks(self.bench, trained, lengths, whole, takes)
        return {"by_shots": shots, "by_steps": steps, "by_tasks": tasks}

    def lengths_of(self, name: str, lengths: Lengths) -> Lengths:
        return lengths

    def probes(self, plan: Plan, known: Known) -> dict[str, Any]:
        """How tasks differ and what adaptation does, at the θ of exact MAML, where there is time and it did not diverge."""
        lengths, joint = plan.lengths(), "joint" if "joint" in known.scored else "joint-ridge"
        if "maml" not in known.scored or known.scored["maml"][0][0].diverged or self.display.spent > self.budget:
            return {}
        from fewstep.compare.probes import probe_all

        self.display.say("how tasks differ, what adaptation does")
        params = {
            name: open_run(self.bench.folder(self.bench.arm(name), 0, 0, lengths)).params()
            for name in ("maml", joint)
            if name in known.scored and not known.scored[name][0][0].diverged
        }
        first, maml = self.bench.grounds[0], self.bench.arm("maml")
        assert maml.problem is not None
        problem = maml.problem(first, known.first("maml")["choice"], plan.meta_steps)[1]
        return probe_all(problem, params["maml"], first.test.one_of_each(), params.get(joint), first.seed)

    def more_sentences(self, plan: Plan, found: Verdict, arm: str, known: Known) -> list[str]:
        """What the verdict does not know: which run was saved, what there was no time for, how tasks were split."""
        said = []
        if arm != found.arm:
            said.append(
                f"{self.bench.arm(found.arm).title} cannot be kept as a run that adapts to new tasks; the run that is saved is "
                f"the next best that can: {self.bench.arm(arm).title}."
            )
        if len(self.folds) > 1:
            said.append(
                f"There are few tasks, so they were split {len(self.folds)} times and every task was tested once; the arm was "
                "chosen on validation tasks that are test tasks of other splits, though never of the same."
            )
        if (count := len(known.tasks())) < TOO_FEW:
            said.append(f"{count} tasks say little about others: take all figures as hints, whatever their intervals.")
        if plan.notes:
            said.append(f"The budget left no time for: {', '.join(plan.notes)}.")
        if (part := plan.meta_steps / self.bench.grounds[0].settings.meta_steps) < 0.5:
            said.append(
                f"Every arm had {100 * part:.0f} % of the meta-steps of its recipe; a greater --budget may change the order."
            )
        return said


def fewer_seeds(plan: Plan, done: int) -> Plan:
    return replace(plan, seeds=done, notes=(*plan.notes, f"{plan.seeds - done} of {plan.seeds} planned seeds"))


def finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def rounded(seconds: float) -> str:
    """'45s' or '4m', as --budget takes it."""
    return f"{math.ceil(seconds / 5) * 5}s" if seconds < 90 else f"{math.ceil(seconds / 60)}m"


def check(budget: float, seeds: int, margin: float | None) -> None:
    if not 0 < budget < math.inf:
        raise BadInput(f"--budget should be a positive time such as 90s, 10m or 2h, got {budget}.")
    if seeds < 1:
        raise BadInput(f"--seeds should be at least 1, got {seeds}.")
    if margin is not None and not 0 < margin < math.inf:
        raise BadInput(f"--margin should be a positive number in the units of the error, got {margin}.")


def grounds_of(settings: Any, seed: int, display: Display) -> tuple[Ground, ...]:
    """The split, or where tasks are few all splits of a cross-fitting. Raises `BadInput` for a leak."""
    first = ground(settings, seed)
    for note in first.problem.notes:
        display.note(f"note: {note}")
    refuse_leaks(first)
    splits = first.problem.splits
    assert splits is not None
    parts = [family.size for family in (splits.train, splits.validation, splits.test, splits.calibration) if family]
    count = sum(size for size in parts if size is not None)
    if first.problem.name != "table" or count >= FEW_TASKS:
        return (first,)
    if count < TOO_FEW:
        display.note(f"note: {count} tasks are few; no comparison of so few can tell much about others")
    folds = min(round(1 / first.settings.test_fraction), count)  # type: ignore[attr-defined]
    return tuple(ground(settings, seed, fold) for fold in range(folds))


def as_asked(settings: Any, budget: float, seeds: int, margin: float | None, seed: int, command: str) -> dict[str, Any]:
    """What `comparison.json` holds: all that makes two comparisons the same one."""
    name = next((name for name, kind in PROBLEMS.items() if type(settings) is kind), None)
    if name is None:
        raise BadInput(
            f"compare: expected the settings of a problem such as Sine() or Table(...), got {type(settings).__name__}."
        )
    data = getattr(settings, "data", None)
    return {
        "problem": name,
        "settings": json.loads(json.dumps(asdict(absolute_data(settings)))),
        "budget_seconds": budget,
        "seeds": seeds,
        "margin": margin,
        "seed": seed,
        "command": command,
        "data_sha256": fingerprint(data) if data else None,
    }


def goes_on(directory: Path, asked: dict[str, Any]) -> bool:
    """Whether the same comparison was begun in this folder. Raises `BadInput` where another one was."""
    if not (directory / ASKED).is_file():
        return False
    known = read_asked(directory)
    if other := [name for name in asked if name != "command" and known.get(name) != asked[name]]:
        raise BadInput(
            f"--out {directory} holds another comparison (its {', '.join(other)} differ). Choose another folder, or go on with "
            f"that one: fewstep compare --resume {directory}"
        )
    return True


def read_asked(directory: Path) -> dict[str, Any]:
    path = directory / ASKED
    if not path.is_file():
        raise BadInput(f"{directory}: expected the folder of a comparison, found no {ASKED} in it.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path} is damaged ({error}). Remove the folder and compare again.") from error


def spent_before(directory: Path) -> float:
    path = directory / STATE
    return json.loads(path.read_text(encoding="utf-8"))["spent"] if path.is_file() else 0.0


def write_page(path: Path, content: dict[str, Any]) -> None:
    """The page beside the JSON."""
    from fewstep.compare.page import page

    path.write_text(page(content), encoding="utf-8")


__all__ = ["RunFailed", "compare", "resume"]
