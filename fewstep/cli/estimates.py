"""fewstep train PROBLEM --dry-run: what a meta-step takes, before a run (floor 6)."""

from __future__ import annotations

import json
from typing import Any

from fewstep.application import Application
from fewstep.cli.arguments import say
from fewstep.cli.tables import WIDTH
from fewstep.errors import BadInput


def print_estimates(owner: Application, settings: Any, seed: int, as_json: bool) -> int:
    """Compiles one meta-step of each adapter's problem by each way to its gradient, and prints what it takes.

    Raises `BadInput` where the way that the settings ask for does not fit in memory, with the settings that would.
    """
    found = {name: of_problem(owner.build(each, seed)) for name, each in owner.candidates(settings).items()}
    if as_json:
        print(json.dumps(found))
    else:
        for name, estimates in found.items():
            print_one(f"adapter {name}" if len(found) > 1 else "", estimates)
    for estimates in found.values():
        refuse_what_does_not_fit(estimates)
    return 0


def of_problem(problem: Any) -> dict[str, Any]:
    """As plain data: by way, `bytes`, `operations`, `over_first_order` and `tasks_at_once`; `chosen`; `memory`."""
    import jax

    from fewstep.gradients.auto import has_room
    from fewstep.training.estimate import estimate
    from fewstep.training.plan import fitted, shapes_of

    devices = jax.local_device_count()
    params, episode, tasks = shapes_of(problem, devices)
    settings = problem.settings
    asked = settings.meta_gradient if settings.adapter == "gradient" else "stored"
    estimates = estimate(problem.learner, params, episode, tasks, asked)
    first = max(estimates.ways["first-order"].operations, 1)
    learner = fitted(problem.learner, params, episode, tasks)
    chosen = ("stored" if has_room(learner, params, episode, jax.random.key(0)) else "exact") if asked == "auto" else asked
    ways = {
        name: {
            "bytes": way.temporary + estimates.given,
            "operations": way.operations * devices,
            "over_first_order": way.operations / first,
            "tasks_at_once": way.tasks_at_once,
        }
        for name, way in estimates.ways.items()
    }
    return {"ways": ways, "chosen": chosen, "memory": estimates.memory, "devices": devices}


def print_one(title: str, estimates: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"one meta-step{', ' if title else ''}{title}", title_justify="left")
    for heading in ("meta-gradient", "memory of a device", "operations", "over first order", "tasks side by side"):
        table.add_column(heading, justify="right")
    for name, way in estimates["ways"].items():
        table.add_row(
            name + (" (taken)" if name == estimates["chosen"] else ""),
            in_bytes(way["bytes"]),
            f"{way['operations'] / 1e9:.3g} GFLOP",
            f"{way['over_first_order']:.2f} x",
            str(way["tasks_at_once"]),
        )
    Console(highlight=False, markup=False, width=WIDTH).print(table)
    devices = f"{estimates['devices']} devices of {in_bytes(estimates['memory'])}"
    say(f"{devices}; operations are those of matrix products, of all devices together")


def refuse_what_does_not_fit(estimates: dict[str, Any]) -> None:
    chosen, memory = estimates["chosen"], estimates["memory"]
    needed = estimates["ways"][chosen]["bytes"]
    if needed <= memory:
        return
    fitting = [name for name, way in estimates["ways"].items() if way["bytes"] <= memory and name != "first-order"]
    ways = [f"--meta-gradient {name}" for name in fitting]
    hint = " or ".join([*ways, "--tasks-at-once 1", "a smaller --meta-batch-size"])
    raise BadInput(
        f"a meta-step by --meta-gradient {chosen} takes {in_bytes(needed)} of a device that has {in_bytes(memory)}. Try {hint}."
    )


def in_bytes(size: float) -> str:
    """1234567 as '1.2 MiB'."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB"
