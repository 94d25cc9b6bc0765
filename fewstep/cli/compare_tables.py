"""A comparison for people at a terminal (floor 6): the verdict in sentences, then a table of all arms."""

from __future__ import annotations

import sys
import textwrap
from typing import Any

from fewstep.cli.tables import WIDTH, titled


def print_first(rows: list[dict[str, Any]]) -> None:
    """What the quick arms do on validation tasks, while the others are still trained. On stderr."""
    from rich.console import Console

    metric = rows[0]["metric"]
    table = titled(f"first, without training: {metric} on validation tasks")
    for name in ("arm", metric):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for row in rows:
        table.add_row(row["title"], short(row["validation"]))
    Console(file=sys.stderr, highlight=False, markup=False, emoji=False, width=WIDTH).print(table)


def print_comparison(found: dict[str, Any]) -> None:
    """The verdict, the table, and how it was got."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False, width=WIDTH)
    print("\n".join(textwrap.wrap(" ".join(found["verdict"]["sentences"]), WIDTH)) + "\n")
    console.print(arms_table(found))
    for arm in found["arms"]:
        if arm["note"]:
            print("\n".join(textwrap.wrap(f"{arm['title']}: {arm['note']}", WIDTH, subsequent_indent="  ")))
    protocol = found["protocol"]
    print(
        "\n".join(
            textwrap.wrap(
                f"{found['metric']['title']}; margin {found['margin']:.3g}; question: {found['question']}. "
                f"{protocol['test_tasks']} test tasks, {judged(protocol)}; {protocol['meta_steps']} meta-steps; "
                f"{protocol['spent_s']:.0f} s of {protocol['budget_s']:.0f} s.",
                WIDTH,
            )
        )
    )


def judged(protocol: dict[str, Any]) -> str:
    """On what arms were judged, of each test task."""
    if "updates" in protocol:
        return f"{protocol['updates']} updates in each, {protocol['trajectories_per_update']} trajectories for every update"
    return f"{protocol['episodes_per_task']} episodes of each with {protocol['shots']} support examples"


def arms_table(found: dict[str, Any]) -> Any:
    """A row for each arm that took part, the recommended one first."""
    table = titled(f"{found['problem']}: {found['metric']['name']} on unseen tasks")
    table.add_column("arm")
    for name in (
        f"{found['metric']['name']}\n(95 % interval)",
        "beside the chosen\n(95 % interval)",
        "",
        "equal\ncompute",
        "training",
        "adapting",
    ):
        table.add_column(name, justify="left" if not name else "right")
    for arm in found["arms"]:
        if arm.get("left_out"):
            continue
        difference = arm["difference"]
        table.add_row(
            arm["title"],
            with_bounds(arm["error"]),
            "" if difference is None else with_bounds(difference, signed=True),
            "chosen" if difference is None else difference["outcome"],
            short(arm["equal_compute"]["mean"]) if arm["equal_compute"] else "",
            f"{arm['train_seconds']:.1f} s",
            f"{arm['adapt_milliseconds']:.2g} ms",
        )
    return table


def with_bounds(found: dict[str, float | None], signed: bool = False) -> str:
    if found["mean"] is None:
        return "diverged"
    mean = f"{found['mean']:+.3f}" if signed else f"{found['mean']:.3f}"
    if found["low"] is None or found["high"] is None:
        return mean
    bounds = (f"{found[end]:+.3f}" if signed else f"{found[end]:.3f}" for end in ("low", "high"))
    return f"{mean} ({' … '.join(bounds)})"


def short(value: float | None) -> str:
    return "diverged" if value is None or value != value else f"{value:.3f}"
