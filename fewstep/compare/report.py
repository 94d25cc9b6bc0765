"""What is told of a comparison whose methods are trained: the verdict, equal compute, curves, probes, the run to take.

Used by run.py. What takes time beyond the verdict is done as far as there is time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.compare.budget import LAST_PART, LEFT_OUT, Plan
from fewstep.compare.content import RUN, Known, calibrate, content_of, interval, margin_of, question_of, save_recommended
from fewstep.compare.curves import by_shots, by_steps, by_tasks
from fewstep.compare.episodes import TOO_FEW
from fewstep.compare.methods import Method
from fewstep.compare.results import Verdict
from fewstep.compare.runner import read_kept
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


def tell(made: Session, plan: Plan, asked_margin: float | None, command: str) -> dict[str, Any]:
    """What `compare.json` holds, written beside the page and the recommended run. The verdict and the table are written first,
    and once more with what takes longer. Raises `InputError` if there was time for no two methods."""
    require_two(made)
    known = Known(made.runner, made.counts(plan.seeds), plan.lengths())
    margin = margin_of(known, asked_margin)
    question, in_words = question_of(plan.seeds)
    metric = made.runner.benchmarks[0].metric
    found = verdict(known.scores("validation"), known.scores("test"), margin, 0.95, question, known.about(), metric)
    before = told_before(made.runner.directory / RESULT)

    def written(run: tuple[str, int] | None, equal: dict[str, Any], drawn: dict[str, Any]) -> dict[str, Any]:
        content = content_of(
            made.runner,
            known,
            found,
            plan=plan,
            margin=margin,
            question=in_words,
            command=command,
            budget=made.budget,
            spent=made.display.spent,
            equal=equal,
            left_out=made.left_out,
            how_short=tuple(how_short(made, plan)),
            more_sentences=tuple(more_sentences(made, plan, found, run and run[0], known)),
        )
        content["run"] = None if run is None else {"method": run[0], "seed": run[1], "directory": RUN}
        content |= {name: drawn.get(name) or before.get(name, drawn.get(name)) for name in DRAWN}
        write_json(made.runner.directory / RESULT, content)
        write_page(made.runner.directory / PAGE, content)
        return content

    run = save_recommended(made.runner, ranking(known.scores("validation"), margin), plan.lengths(), plan.seeds)
    content = written(run, {}, {})
    if run is not None and made.runner.benchmarks[0].predicts and made.display.spent + made.closing(run[0]) < made.budget:
        made.display.say("calibrating the recommended run")
        calibrate(made.runner.directory / RUN)
    if made.display.spent > made.budget:
        return content
    equal = equal_compute(made, plan, found)
    names = list(dict.fromkeys([found.method, "maml", found.runner_up or found.method]))
    names = [name for name in names if name in known.scored and name not in found.comparison.diverged]
    return written(run, equal, {**curves(made, plan, known, names), "probes": probes(made, plan, known)})


def require_two(made: Session) -> None:
    """Raises `InputError` if fewer than two methods are fitted; what is fitted is kept."""
    if len(made.taking_part()) > 1:
        return
    spent, budget = duration(round(made.display.spent)), rounded(made.budget)
    raise InputError(
        f"--budget {budget} is too small: after {spent} there is no method to compare with no learning. "
        f"What was fitted is kept in {made.runner.directory}. {go_on(made)}"
    )


def go_on(made: Session) -> str:
    """How a comparison is given more time."""
    return f"Go on with a greater budget: fewstep compare --resume {made.runner.directory} --budget {rounded(3 * made.budget)}"


def told_before(path: Path) -> dict[str, Any]:
    """What was told of the comparison the last time: it may go on without time to draw its curves again."""
    return read_kept(path, dict, "Remove it: it is then written again.") if path.is_file() else {}


def equal_compute(made: Session, plan: Plan, found: Verdict) -> dict[str, Any]:
    """method -> its error where all methods may take as many operations as exact MAML at the planned meta-steps, by the first
    seed. What takes no less than that has its own error there; methods for which there was no time are left out."""
    comparison, lengths = found.comparison, plan.lengths(equal_compute=True)
    steps = {method.name: steps_beneath(made, method, plan.equal_compute) for method in made.taking_part()}
    same = {name for name, count in steps.items() if count is None and name != "maml-from-joint"}
    equal = {name: interval(comparison.errors[name]) for name in same if name in comparison.errors}
    longer: dict[str, int] = {}
    for method in made.taking_part():
        name, source = method.name, method if method.problem is not None else made.runner.followed(method)
        if (count := steps[name]) is None or source is None:
            continue
        takes = 0.0 if name != source.name else len(made.folds) * count * plan.paces[name].meta_step
        if made.display.spent + takes > made.last_call and not made.is_done([method], 0, lengths):
            continue
        if source.name != name and source.name not in longer:
            continue
        try:
            made.score(method, 0, lengths)
        except OutOfTime:
            break
        if made.left_out.pop(name, None) is None:  # it did not fail
            longer[name] = 1
    if longer:
        known = Known(made.runner, longer, lengths)
        scores = known.scores("test")
        fine = [one for one in scores if np.isfinite(one.errors).all()]
        if fine:
            shown = compared(fine, fine[0].name, 1.0, question="models").errors
            equal |= {one.name: interval(shown[one.name]) for one in fine}
    return equal


def steps_beneath(made: Session, method: Method, equal: dict[str, int]) -> int | None:
    """To how many meta-steps a method, or the one that it depends_on, goes for equal compute; None where it is as it is."""
    source = method if method.problem is not None else made.runner.followed(method)
    return None if source is None or method.name == "maml-from-joint" else equal.get(source.name)


def curves(made: Session, plan: Plan, known: Known, names: Sequence[str]) -> dict[str, Any]:
    """Learning curves of a few methods, as far as there is time."""
    lengths = plan.lengths()
    in_time = lambda: made.display.spent < (1 - LAST_PART / 4) * made.budget  # noqa: E731
    fitted = {name: made.runner.fitted(made.runner.method(name), lengths) for name in names if in_time()}
    shots = by_shots(made.runner, fitted, in_time) if fitted else None
    steps = by_steps(made.runner, fitted, in_time) if fitted else None
    # What depends_on another would need that trained anew, too; an empirical prior knows all meta-train tasks.
    trained = [name for name in names if not made.runner.followed(made.runner.method(name)) and name != "bayes-head"]

    def takes(name: str) -> bool:
        each = plan.paces[name].meta_step * plan.meta_steps if name in plan.paces else 1.0
        return made.display.spent + 2 * each + 5.0 < made.budget

    whole = {name: finite(known.errors(name, "test").mean()) for name in names}
    tasks = by_tasks(made.runner, trained, lengths, whole, takes)
    return {"by_shots": shots, "by_steps": steps, "by_tasks": tasks}


def probes(made: Session, plan: Plan, known: Known) -> dict[str, Any]:
    """How tasks differ and what adaptation does, at the θ of exact MAML, where there is time and it did not diverge."""
    lengths, joint = plan.lengths(), "joint" if "joint" in known.scored else "joint-ridge"
    if (
        not made.runner.benchmarks[0].predicts
        or "maml" not in known.scored
        or known.scored["maml"][0][0].diverged
        or made.display.spent > (1 - LAST_PART / 2) * made.budget
    ):
        return {}
    from fewstep.compare.diagnostics import probe_all

    made.display.say("how tasks differ, what adaptation does")
    params = {
        name: made.runner.benchmarks[0].params(made.runner.folder(made.runner.method(name), 0, 0, lengths))
        for name in ("maml", joint)
        if name in known.scored and not known.scored[name][0][0].diverged
    }
    first, maml = made.runner.benchmarks[0], made.runner.method("maml")
    assert maml.problem is not None
    problem = maml.problem(first, known.first("maml")["choice"], plan.meta_steps)[1]
    return probe_all(problem, params["maml"], first.test.one_of_each(), params.get(joint), first.seed)


def more_sentences(made: Session, plan: Plan, found: Verdict, method: str | None, known: Known) -> list[str]:
    """What the verdict does not know: which run was saved, what there was no time for, how tasks were split."""
    said, count = [], len(known.tasks())
    if method not in (None, found.method):
        said.append(
            f"{made.runner.method(found.method).title} cannot be kept as a run that adapts to new tasks; the run that is saved "
            f"is the next best that can: {made.runner.method(method).title}."
        )
    if method is None:
        said.append("None of the methods that were fitted can be kept as a run that adapts to new tasks.")
    if len(made.folds) > 1:
        said.append(
            f"There are few tasks, so they were split {len(made.folds)} times and {count} tasks were tested, once each; the "
            "method was chosen on validation tasks that may be test tasks of other splits, though never of the same."
        )
    if count < TOO_FEW:
        said.append(f"{count} tasks say little about others: take all figures as hints, whatever their intervals.")
    if plan.notes:
        said.append(f"The budget left no time for: {', '.join(plan.notes)}.")
    for name, why in made.left_out.items():
        if why.startswith("failed"):
            said.append(f"{made.runner.method(name).title} {why}.")
    if left_out := [name for name, why in made.left_out.items() if why == LEFT_OUT]:
        methods = "; ".join(made.runner.method(name).title for name in left_out)
        if not plan.meta_steps:
            said.append("The budget left no time to train a network, so this says nothing of meta-learning.")
        said.append(f"Nothing is known of methods that the budget left out: {methods}. {go_on(made)}")
    return said


def how_short(made: Session, plan: Plan) -> list[str]:
    """What stands before all else that depends_on from trainings where these are short."""
    if not plan.meta_steps:
        return []
    if (part := plan.meta_steps / made.runner.benchmarks[0].settings.meta_steps) >= SHORT:
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
