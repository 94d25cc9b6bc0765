"""Results of a comparison after training: the verdict, equal compute, curves, probes and the recommended run.

Everything beyond the verdict is computed only if time is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.compare.budget import LAST_PART, LEFT_OUT, Plan
from fewstep.compare.content import RUN, ScoreTable, calibrate, content_of, interval, margin_of, question_of, save_recommended
from fewstep.compare.curves import by_shots, by_steps, by_tasks
from fewstep.compare.episodes import TOO_FEW
from fewstep.compare.methods import Method
from fewstep.compare.results import Verdict
from fewstep.compare.runner import read_stored
from fewstep.compare.session import Session
from fewstep.compare.statistics import compared
from fewstep.compare.verdict import ranking, verdict
from fewstep.errors import InputError
from fewstep.runs import write_json
from fewstep.storage.arrays import atomic_write
from fewstep.training.loop import OutOfTime
from fewstep.training.progress import duration, rounded

RESULT, PAGE = "compare.json", "compare.html"
DRAWN = ("by_shots", "by_steps", "by_tasks", "probes")
"""what takes longer than the verdict"""
SHORT = 0.5
"""of a recipe: trainings that are shorter say so beside what is recommended"""


def write_report(session: Session, plan: Plan, requested_margin: float | None, command: str) -> dict[str, Any]:
    """What `compare.json` holds, written beside the page and the recommended run. The verdict and the table are written first,
    and once more with what takes longer. Raises `InputError` if there was time for no two methods."""
    require_two(session)
    table = ScoreTable(session.runner, session.counts(plan.seeds), plan.lengths())
    margin = margin_of(table, requested_margin)
    question, in_words = question_of(plan.seeds)
    metric = session.runner.benchmarks[0].metric
    found = verdict(table.scores("validation"), table.scores("test"), margin, 0.95, question, table.about(), metric)
    before = read_earlier_result(session.runner.directory / RESULT)

    def written(run: tuple[str, int] | None, equal: dict[str, Any], drawn: dict[str, Any]) -> dict[str, Any]:
        content = content_of(
            session.runner,
            table,
            found,
            plan=plan,
            margin=margin,
            question=in_words,
            command=command,
            budget=session.budget,
            spent=session.display.spent,
            equal=equal,
            left_out=session.left_out,
            how_short=tuple(how_short(session, plan)),
            more_sentences=tuple(more_sentences(session, plan, found, run and run[0], table)),
        )
        content["run"] = None if run is None else {"method": run[0], "seed": run[1], "directory": RUN}
        content |= {name: drawn.get(name) or before.get(name, drawn.get(name)) for name in DRAWN}
        write_json(session.runner.directory / RESULT, content)
        write_page(session.runner.directory / PAGE, content)
        return content

    run = save_recommended(session.runner, ranking(table.scores("validation"), margin), plan.lengths(), plan.seeds)
    content = written(run, {}, {})
    if (
        run is not None
        and session.runner.benchmarks[0].predicts
        and session.display.spent + session.closing(run[0]) < session.budget
    ):
        session.display.say("calibrating the recommended run")
        calibrate(session.runner.directory / RUN)
    if session.display.spent > session.budget:
        return content
    equal = equal_compute(session, plan, found)
    names = list(dict.fromkeys([found.method, "maml", found.runner_up or found.method]))
    names = [name for name in names if name in table.scored and name not in found.comparison.diverged]
    return written(run, equal, {**curves(session, plan, table, names), "probes": probes(session, plan, table)})


def require_two(session: Session) -> None:
    """Raises `InputError` if fewer than two methods are fitted; what is fitted is kept."""
    if len(session.taking_part()) > 1:
        return
    spent, budget = duration(round(session.display.spent)), rounded(session.budget)
    raise InputError(
        f"--budget {budget} is too small: after {spent} there is no method to compare with no learning. "
        f"What was fitted is kept in {session.runner.directory}. {go_on(session)}"
    )


def go_on(session: Session) -> str:
    """How a comparison is given more time."""
    budget = rounded(3 * session.budget)
    return f"Go on with a greater budget: fewstep compare --resume {session.runner.directory} --budget {budget}"


def read_earlier_result(path: Path) -> dict[str, Any]:
    """What was told of the comparison the last time: it may go on without time to draw its curves again."""
    return read_stored(path, dict, "Remove it: it is then written again.") if path.is_file() else {}


def equal_compute(session: Session, plan: Plan, found: Verdict) -> dict[str, Any]:
    """method -> its error where all methods may take as many operations as exact MAML at the planned meta-steps, by the first
    seed. What takes no less than that has its own error there; methods for which there was no time are left out."""
    comparison, lengths = found.comparison, plan.lengths(equal_compute=True)
    steps = {method.name: equal_compute_steps(session, method, plan.equal_compute) for method in session.taking_part()}
    same = {name for name, count in steps.items() if count is None and name != "maml-from-joint"}
    equal = {name: interval(comparison.errors[name]) for name in same if name in comparison.errors}
    longer: dict[str, int] = {}
    for method in session.taking_part():
        name, source = method.name, method if method.problem is not None else session.runner.dependency(method)
        if (count := steps[name]) is None or source is None:
            continue
        takes = 0.0 if name != source.name else len(session.folds) * count * plan.paces[name].meta_step
        if session.display.spent + takes > session.last_call and not session.is_done([method], 0, lengths):
            continue
        if source.name != name and source.name not in longer:
            continue
        try:
            session.score(method, 0, lengths)
        except OutOfTime:
            break
        if session.left_out.pop(name, None) is None:  # it did not fail
            longer[name] = 1
    if longer:
        table = ScoreTable(session.runner, longer, lengths)
        scores = table.scores("test")
        fine = [one for one in scores if np.isfinite(one.errors).all()]
        if fine:
            shown = compared(fine, fine[0].name, 1.0, question="models").errors
            equal |= {one.name: interval(shown[one.name]) for one in fine}
    return equal


def equal_compute_steps(session: Session, method: Method, equal: dict[str, int]) -> int | None:
    """To how many meta-steps a method, or the one that it follows, goes for equal compute; None where it is as it is."""
    source = method if method.problem is not None else session.runner.dependency(method)
    return None if source is None or method.name == "maml-from-joint" else equal.get(source.name)


def curves(session: Session, plan: Plan, table: ScoreTable, names: Sequence[str]) -> dict[str, Any]:
    """Learning curves of a few methods, as far as there is time."""
    lengths = plan.lengths()
    in_time = lambda: session.display.spent < (1 - LAST_PART / 4) * session.budget  # noqa: E731
    fitted = {name: session.runner.fitted(session.runner.method(name), lengths) for name in names if in_time()}
    shots = by_shots(session.runner, fitted, in_time) if fitted else None
    steps = by_steps(session.runner, fitted, in_time) if fitted else None
    # What follows another would need that trained anew, too; an empirical prior knows all meta-train tasks.
    trained = [name for name in names if not session.runner.dependency(session.runner.method(name)) and name != "bayes-head"]

    def takes(name: str) -> bool:
        each = plan.paces[name].meta_step * plan.meta_steps if name in plan.paces else 1.0
        return session.display.spent + 2 * each + 5.0 < session.budget

    whole = {name: finite(table.errors(name, "test").mean()) for name in names}
    tasks = by_tasks(session.runner, trained, lengths, whole, takes)
    return {"by_shots": shots, "by_steps": steps, "by_tasks": tasks}


def probes(session: Session, plan: Plan, table: ScoreTable) -> dict[str, Any]:
    """How tasks differ and what adaptation does, at the θ of exact MAML, where there is time and it did not diverge."""
    lengths, joint = plan.lengths(), "joint" if "joint" in table.scored else "joint-ridge"
    if (
        not session.runner.benchmarks[0].predicts
        or "maml" not in table.scored
        or table.scored["maml"][0][0].diverged
        or session.display.spent > (1 - LAST_PART / 2) * session.budget
    ):
        return {}
    from fewstep.compare.diagnostics import probe_all

    session.display.say("how tasks differ, what adaptation does")
    params = {
        name: session.runner.benchmarks[0].params(session.runner.folder(session.runner.method(name), 0, 0, lengths))
        for name in ("maml", joint)
        if name in table.scored and not table.scored[name][0][0].diverged
    }
    first, maml = session.runner.benchmarks[0], session.runner.method("maml")
    assert maml.problem is not None
    problem = maml.problem(first, table.first("maml")["choice"], plan.meta_steps)[1]
    return probe_all(problem, params["maml"], first.test.one_of_each(), params.get(joint), first.seed)


def more_sentences(session: Session, plan: Plan, found: Verdict, method: str | None, table: ScoreTable) -> list[str]:
    """What the verdict does not know: which run was saved, what there was no time for, how tasks were split."""
    said, count = [], len(table.tasks())
    if method not in (None, found.method):
        said.append(
            f"{session.runner.method(found.method).title} cannot be kept as a run that adapts to new tasks; the run that is "
            f"saved is the next best that can: {session.runner.method(method).title}."
        )
    if method is None:
        said.append("None of the methods that were fitted can be kept as a run that adapts to new tasks.")
    if len(session.folds) > 1:
        said.append(
            f"There are few tasks, so they were split {len(session.folds)} times and {count} tasks were tested, once each; the "
            "method was chosen on validation tasks that may be test tasks of other splits, though never of the same."
        )
    if count < TOO_FEW:
        said.append(f"{count} tasks say little about others: take all figures as hints, whatever their intervals.")
    if plan.notes:
        said.append(f"The budget left no time for: {', '.join(plan.notes)}.")
    for name, why in session.left_out.items():
        if why.startswith("failed"):
            said.append(f"{session.runner.method(name).title} {why}.")
    if left_out := [name for name, why in session.left_out.items() if why == LEFT_OUT]:
        methods = "; ".join(session.runner.method(name).title for name in left_out)
        if not plan.meta_steps:
            said.append("The budget left no time to train a network, so this says nothing of meta-learning.")
        said.append(f"Nothing is known of methods that the budget left out: {methods}. {go_on(session)}")
    return said


def how_short(session: Session, plan: Plan) -> list[str]:
    """What stands before all else that follows from trainings where these are short."""
    if not plan.meta_steps:
        return []
    if (part := plan.meta_steps / session.runner.benchmarks[0].settings.meta_steps) >= SHORT:
        return []
    return [
        f"This holds for trainings of {100 * part:.0f} % of the meta-steps of a recipe, which the budget had time for: methods "
        "that learn slowly, as meta-learning does, may come first with a greater --budget."
    ]


def finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def write_page(path: Path, content: dict[str, Any]) -> None:
    """The page beside the JSON."""
    from fewstep.compare.page import page

    with atomic_write(path) as partial:
        partial.write_text(page(content), encoding="utf-8")
