"""Results as tables for people, by rich (floor 5)."""

from __future__ import annotations

import statistics
from typing import Any


def extremes(by_task: dict[str, list[float | None]]) -> str:
    """The median task and the worst three, after the last number of steps."""
    figures = {name: values[-1] for name, values in by_task.items() if values[-1] is not None}
    worst = sorted(figures, key=lambda name: -figures[name])[:3]
    listed = ", ".join(f"{name} {figures[name]:.4g}" for name in worst)
    return f"median task {statistics.median(figures.values()):.4g}; worst: {listed}" if figures else "no task stays finite"


def print_evaluation(result: dict[str, Any]) -> None:
    """One row per number of adaptation steps; the protocol under it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{result['problem']}: {result['tasks']} unseen task{'s' * (result['tasks'] != 1)} ({result['split']})",
        title_justify="left",
    )
    table.add_column("adaptation steps", justify="right")
    table.add_column(f"{result['metric']} (mean ± 95 % interval over tasks)", justify="right")
    for step, mean, half, diverged in zip(result["steps"], result["mean"], result["ci95"], result["diverged"], strict=True):
        if mean is None:
            table.add_row(str(step), f"diverged on {diverged} of {result['tasks']} tasks")
        else:
            table.add_row(str(step), f"{mean:.4g}" + (f" ± {half:.3g}" if half is not None else ""))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    if "by_task" in result:
        console.print(extremes(result["by_task"]))
    protocol = result["protocol"]
    console.print("protocol: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in protocol.items()))
