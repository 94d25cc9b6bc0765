"""Results as tables for people, by rich: no line is longer than 100 characters."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterable
from typing import Any

from fewstep.plots.style import in_words

WIDTH = 100
MOST_METRICS = 3
"""So many metrics stand side by side with their intervals; where there are more, each has a row and no interval."""
LONGEST_NAME = 28


def print_evaluation(result: dict[str, Any]) -> None:
    """Errors by number of adaptation steps and by number of shots, the worst tasks, and under them the protocol."""
    from rich.console import Console

    from fewstep.supervised.findings import findings

    console = Console(highlight=False, markup=False, emoji=False, width=WIDTH)  # a column may be called [bold]
    single = len(result.get("metrics", {})) < MOST_METRICS
    tables = [by_steps(result, result.get("metrics", {}) if single else {})]
    tables += [] if single else [by_metric(result)]
    if result.get("by_shots", {}).get("shots"):
        tables.append(by_shots(result))
    for table in tables:
        console.print(table)
    lines = extremes(result) if "by_task" in result else of_classes(result) if "by_class" in result else []
    if chosen := result.get("chosen_from"):
        lines += choice(chosen)
    if taken := result.get("environment_steps"):
        lines.append(steps_taken(taken))
    lines += wrapped("protocol: ", (f"{name.replace('_', ' ')} {value}" for name, value in result["protocol"].items()))
    lines += (line for finding in findings(result) for line in textwrap.wrap(finding.text, WIDTH, subsequent_indent="  "))
    print("\n".join(lines))


def by_steps(result: dict[str, Any], others: dict[str, Any]) -> Any:
    """A row for each number of adaptation steps; a column for the headline metric and for each of `others`."""
    table = titled(f"{result['problem']}: {result['tasks']} unseen task{'s' * (result['tasks'] != 1)} ({result['split']})")
    table.add_column("adaptation steps", justify="right")
    summaries = {result["metric"]: result, **others}
    for name in summaries:
        table.add_column(f"{named(name)}\n(mean ± 95 % interval)", justify="right")
    by_class = result.get("ci95_by_class")
    if by_class:
        table.columns[1].header = f"{named(result['metric'])}\n(mean ± over episodes)"
        table.add_column(f"± over classes\n({result['classes']} of them)", justify="right")
    for place, step in enumerate(result["steps"]):
        cells = [mean_of(summary, place, result["tasks"]) for summary in summaries.values()]
        cells += ["" if by_class[place] is None else f"{by_class[place]:.3g}"] if by_class else []
        table.add_row(str(step), *cells)
    return table


def by_metric(result: dict[str, Any]) -> Any:
    """A row for each metric beside the headline; a column for each number of adaptation steps, with means."""
    table = titled("means by number of adaptation steps")
    table.add_column("metric")
    for step in result["steps"]:
        table.add_column(str(step), justify="right")
    for name, summary in result["metrics"].items():
        table.add_row(named(name), *(short(mean) for mean in summary["mean"]))
    return table


def by_shots(result: dict[str, Any]) -> Any:
    """A row for each number of shots: errors before adaptation, after the trained steps and after 'auto' steps, intervals."""
    found = result["by_shots"]
    intervals = [entry for entry in found["intervals"] if entry]
    single = all(len(entry["coverage"]) == 1 for entry in intervals)
    table = titled(f"by number of shots, in other episodes: {named(result['metric'])}")
    for name in ("shots", "tasks", "before", "after ± 95 %", "auto"):
        table.add_column(name, justify="right")
    if intervals:
        table.add_column(f"in {intervals[0]['level']} % intervals", justify="right")
        if single:  # widths of several targets are in several units: evaluation.json has them
            table.add_column("their width", justify="right")
    columns = (found[name] for name in ("shots", "tasks", "before", "mean", "ci95", "auto", "intervals"))
    for shots, tasks, before, mean, half, auto, entry in zip(*columns, strict=True):
        cells = [str(shots), str(tasks), short(before), with_interval(mean, half), short(auto)]
        if intervals:
            cells.append(coverage(entry))
        if intervals and single:
            cells.append(short(entry["width"][0]) if entry else "")
        table.add_row(*cells)
    return table


def coverage(entry: dict[str, Any] | None) -> str:
    """'95.9 % ± 2.6', or of several targets the least and the greatest: '82.9 to 86.4 %'."""
    if not entry:
        return "too few units"
    covered, half = [100 * share for share in entry["coverage"]], entry["ci95"][0]
    if len(covered) > 1:
        return f"{min(covered):.1f} to {max(covered):.1f} %"
    return f"{covered[0]:.1f} %" + (f" ± {100 * half:.1f}" if half is not None else "")


def extremes(result: dict[str, Any]) -> list[str]:
    """The median task and the worst three, after the trained number of steps, or the last one where that was not measured."""
    steps, trained = result["steps"], result["protocol"].get("trained_adaptation_steps")
    place = steps.index(trained) if trained in steps else len(steps) - 1
    figures = {name: values[place] for name, values in result["by_task"].items() if values[place] is not None}
    after = f"after {steps[place]} step{'s' * (steps[place] != 1)}"
    if not figures:
        return [f"{after} no task stays finite"]
    worst = sorted(figures, key=lambda name: -figures[name])[:3]
    listed = (f"{name[:LONGEST_NAME]} {figures[name]:.4g}" for name in worst)
    return wrapped(f"{after}: median task {statistics.median(figures.values()):.4g}; worst: ", listed)


def of_classes(result: dict[str, Any]) -> list[str]:
    """The classes told worst, how far probabilities can be believed, and how strangers are told."""
    steps = result["protocol"]["chosen_adaptation_steps"]
    worst = sorted(result["by_class"], key=result["by_class"].__getitem__)[:3]
    after = f"after {steps} step{'s' * (steps != 1)}, chosen on meta-validation tasks"
    lines = wrapped(f"{after}; worst classes: ", (f"{name} {result['by_class'][name]:.3g}" for name in worst))
    if found := result.get("calibration"):
        lines.append(f"probabilities: calibration error {found['ece']:.3f} (before the temperature {found['ece_before']:.3f})")
    if found := result.get("none_of_these"):
        told, lost = found["told"], 1 - found["accepted"]
        lines.append(f"none of these: {told:.0%} of strangers are told, {lost:.0%} of the classes' own images taken for such")
        if not found.get("tells", True):
            lines.append("  (too few: predict leaves the column none_of_these out)")
    for level, found in result.get("sets", {}).items():
        lines.append(f"sets at {level} %: {found['coverage']:.1%} hold the right class, of {found['classes']:.2f} classes each")
    return lines


def steps_taken(counts: dict[str, Any]) -> str:
    """How many environment steps the policy was trained for, and what an update takes."""
    least, most = min(counts["by_update"]), max(counts["by_update"])
    each = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    return f"environment steps: {counts['training']:,} to train it, {each} of a task for each update"


def choice(errors: dict[str, float]) -> list[str]:
    """Which candidate was the best on meta-validation tasks, and by how much."""
    best = min(errors, key=errors.__getitem__)
    listed = (f"{name} {error:.4g}" for name, error in errors.items())
    return wrapped(f"{best} was chosen, by the finished models on meta-validation tasks: ", listed)


def titled(title: str) -> Any:
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold")


def mean_of(summary: dict[str, Any], place: int, tasks: int) -> str:
    mean, half = summary["mean"][place], summary["ci95"][place]
    return f"diverged on {summary['diverged'][place]} of {tasks} tasks" if mean is None else with_interval(mean, half)


def with_interval(mean: float | None, half: float | None) -> str:
    if mean is None or half is None:
        return short(mean)
    return f"{short(mean)} ± {half if half > 1e-9 * abs(mean) else 0:.3g}"  # what is the same in all tasks differs by rounding


def short(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.4g}"


def named(metric: str) -> str:
    name = in_words(metric)
    half = LONGEST_NAME // 2  # names of targets differ at their ends as often as at their beginnings
    return name if len(name) <= LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"


def wrapped(start: str, parts: Iterable[str]) -> list[str]:
    """The parts, separated by commas, in as few lines as hold them; a part is never broken."""
    lines = [start]
    for number, part in enumerate(parts):
        if number:
            lines[-1] += ","
        if number and len(lines[-1]) + 1 + len(part) + 1 > WIDTH:
            lines.append("  " + part)
        else:
            lines[-1] += (" " if number else "") + part
    return lines
