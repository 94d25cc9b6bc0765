"""A policy that is adapted to a task by acting in it (floor 6). Used by `fewstep adapt`; `fewstep play`: policy_play.py."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fewstep.cli.arguments import command_name, say, say_notes
from fewstep.errors import BadInput

if TYPE_CHECKING:
    from fewstep.runs import PolicyRun, Run

BROKEN_SHOWN = 3


def adapt(run: PolicyRun, arguments: Any) -> int:
    """Adapts a policy to a task, tells how it went, writes the folder `--out`; `arguments` are those of `fewstep adapt`."""
    from fewstep.rl.acting import empty_folder
    from fewstep.runs.policy_run import task_in_words
    from fewstep.runs.run import bad_findings_in
    from fewstep.training.findings import said_of_run

    if arguments.support:
        run.calibration()  # says that it is a policy
    if arguments.steps is not None:
        raise BadInput("--steps is for models that predict; of a policy say --updates.")
    out = empty_folder(arguments.out)
    say_going_on(run)
    task = run.problem().read_task(arguments.task) if arguments.task else None
    policy, found = run.adapt(task, arguments.updates, arguments.rollouts, arguments.seed, watch=watched_updates)
    policy.save(out)
    about, notes = policy.about, broken(found.said)
    say_notes((*said_of_run(bad_findings_in(run.directory)), *notes))
    if arguments.json:
        print(json.dumps({"adapted": str(out), **about, "notes": notes}))
        return 0
    say(f"task {task_in_words(about['task'])} of {about['env'] or about['run']['problem']}:")
    say(table(about["returns"], about["environment_steps"]))
    kept, updates = about["kept"], about["updates"]
    if kept < updates:
        after = "before adapting" if not kept else f"after {kept} update{'s' * (kept > 1)}"
        say(f"kept: the policy {after}, which brought more than the one after {updates}")
    *before, last = about["environment_steps"]
    say(f"adapted in {sum(before):,} environment steps ({last:,} more to see what came of it) -> {out}")
    say(f"watch it: {command_name()} play {out} --out film.gif")
    return 0


def say_going_on(run: Run | PolicyRun) -> None:
    """Says that the best checkpoint so far is taken, if a run is being trained, or was stopped before its end."""
    from fewstep.runs import going_on, is_trained

    now = going_on(run.directory)
    if now or not is_trained(run.directory):
        why = now or f"the run was not trained to its end (`{command_name()} resume {run.directory}` goes on with it)"
        say(f"note: {why}; its best checkpoint so far is taken", json=True)


def watched_updates(numbers: Sequence[int]) -> Iterable[int]:
    """Tells how far a simulator's collections are, where that takes long."""
    from fewstep.training.log import watched

    return watched(numbers, "collecting trajectories, adapting", 1)


def table(returns: Sequence[float], steps: Sequence[int]) -> str:
    """A line for each number of updates."""
    lines = [f"{'updates':>9}{'mean return':>14}{'environment steps':>20}"]
    lines += [f"{number:9}{value:14.2f}{count:20,}" for number, (value, count) in enumerate(zip(returns, steps, strict=True))]
    return "\n".join(lines)


def broken(said: Sequence[str]) -> list[str]:
    """What to say of trajectories that broke."""
    told = [f"a trajectory broke in {line}. It is left out." for line in said[:BROKEN_SHOWN]]
    return [*told, *[f"... and {len(said) - BROKEN_SHOWN} more"] * (len(said) > BROKEN_SHOWN)]
