"""What commands say of the run that they adapt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewstep.cli.arguments import command_name, say

if TYPE_CHECKING:
    from fewstep.runs import Run


def say_going_on(run: Run) -> None:
    """Says that the best checkpoint so far is taken, if a run is being trained, or was stopped before its end."""
    from fewstep.runs import activity, is_trained

    now = activity(run.directory)
    if now or not is_trained(run.directory):
        why = now or f"the run was not trained to its end (`{command_name()} resume {run.directory}` goes on with it)"
        say(f"note: {why}; its best checkpoint so far is taken", json=True)
