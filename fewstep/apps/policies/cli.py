"""fewstep adapt RUN --out FOLDER: adapts a policy to a task by acting in it."""

from __future__ import annotations

import json as to_json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from fewstep.cli.adapted import say_going_on
from fewstep.cli.arguments import command_name, prepare_jax, say, say_notes

BROKEN_SHOWN = 3


@dataclass(frozen=True)
class Adapt:
    """Adapt a policy to a task by acting in it."""

    run: Annotated[str, tyro.conf.Positional]
    """the run's folder"""
    out: str
    """folder for the adapted policy"""
    task: str = ""
    """the task, as its family understands it (a velocity, 1 or -1, a goal x,y, JSON); by default an unseen one"""
    updates: int = 3
    """how often to adapt, each time on fresh trajectories"""
    rollouts: int | None = None
    """trajectories for each update; by default as trained"""
    env: str = ""
    """the environment to act in, module:factory; one of rl has to be named again, other runs bring theirs"""
    seed: int = 0
    """decides everything random"""
    json: bool = False
    """print one JSON object on stdout"""

    def __call__(self) -> int:
        prepare_jax()
        from fewstep.apps.policies.adapted import empty_folder
        from fewstep.apps.policies.run import adapt_policy, task_in_words
        from fewstep.runs import open_run
        from fewstep.supervised.findings import run_messages

        run, out = open_run(self.run, self.env), empty_folder(self.out)
        say_going_on(run)
        task = run.problem().read_task(self.task) if self.task else None
        policy, found = adapt_policy(run, task, self.updates, self.rollouts, self.seed, watched_updates)
        policy.save(out)
        about, notes = policy.about, broken_notes(found.messages)
        say_notes((*run_messages(run.bad_findings()), *notes))
        if self.json:
            print(to_json.dumps({"adapted": str(out), **about, "notes": notes}))
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


def watched_updates(numbers: Sequence[int]) -> Iterable[int]:
    """Tells how far a simulator's collections are, where that takes long."""
    from fewstep.training.progress import watched

    return watched(numbers, "collecting trajectories, adapting", 1)


def table(returns: Sequence[float], steps: Sequence[int]) -> str:
    """A line for each number of updates."""
    lines = [f"{'updates':>9}{'mean return':>14}{'environment steps':>20}"]
    lines += [f"{number:9}{value:14.2f}{count:20,}" for number, (value, count) in enumerate(zip(returns, steps, strict=True))]
    return "\n".join(lines)


def broken_notes(messages: Sequence[str]) -> list[str]:
    """What to say of trajectories that broke."""
    told = [f"a trajectory broke in {line}. It is left out." for line in messages[:BROKEN_SHOWN]]
    return [*told, *[f"... and {len(messages) - BROKEN_SHOWN} more"] * (len(messages) > BROKEN_SHOWN)]
