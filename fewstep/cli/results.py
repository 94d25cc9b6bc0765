"""fewstep results RUN ...: figures of several runs in one table, and why some stand in columns of their own."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fewstep.cli.arguments import parse, say_notes
from fewstep.cli.output import WIDTH, short, titled, wrapped
from fewstep.storage.tables import new_file


@dataclass(frozen=True)
class Results:
    """Put the figures of several runs side by side. What was measured in different ways never shares a column."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """the runs' folders"""
    plot: str | None = None
    """a picture to draw: every run after each adaptation step, and what those of one preset come to together (.png)"""
    markdown: bool = False
    """as a Markdown table"""
    json: bool = False
    """print one JSON object on stdout"""


def main(argv: list[str]) -> int:
    arguments = parse(Results, argv, "fewstep results")
    from fewstep.errors import InputError
    from fewstep.runs.results import NoFigures, columns_of, differences, read_result

    if not arguments.runs:
        raise InputError("expected the folders of one or more runs, as in: fewstep results runs/*")
    picture = None if arguments.plot is None else new_file(arguments.plot, (".png",))
    results, lacking = [], []
    names = Counter(Path(run).name for run in arguments.runs)
    for run in arguments.runs:
        try:
            results.append(read_result(run, run if names[Path(run).name] > 1 else ""))
        except NoFigures as error:
            lacking.append(error)
    if not results:
        raise lacking[0]
    say_notes(f"left out: {error}" for error in lacking)
    columns = columns_of(results)
    apart = differences(columns)
    if picture is not None:
        draw(columns, picture)
    if arguments.json:
        listed = [{"conditions": each.conditions, "results": [one._asdict() for one in each.results]} for each in columns]
        print(json.dumps({"columns": listed, "differences": apart}))
        return 0
    rows = [[one.name, *(cell(one) if one in column.results else "" for column in columns)] for one in results]
    heads = [f"{letter(number)}: {column.conditions['metric'].replace('_', ' ')}" for number, column in enumerate(columns)]
    if arguments.markdown:
        for row in (["run", *heads], ["---"] * (len(heads) + 1), *rows):
            print(f"| {' | '.join(row)} |")
        print()
    else:
        print_rows(heads, rows)
    if any(one.over_classes for one in results):
        print("in brackets: half the width of the 95 % interval over classes")
    print("\n".join([*in_the_middle(columns), *explained(columns, apart), *found_of(results)]))
    return 0


def methods_of(column: Any) -> dict[str, list[Any]]:
    """Preset -> of each of its runs the figures after each adaptation step; runs measured after other steps are left out."""
    steps, found = column.results[0].by_steps[0], {}
    for result in column.results:
        if result.by_steps[0] == steps:
            found.setdefault(result.method, []).append(result.by_steps[1])
    return found


def draw(columns: Any, path: Path) -> None:
    """Draws a panel for each column."""
    import matplotlib

    matplotlib.use("agg")
    from fewstep.plots.seeds import Panel, seeds_figure

    panels = []
    for number, column in enumerate(columns):
        metric, tasks = column.conditions["metric"].replace("_", " "), column.conditions["unseen_tasks"]
        figure = f"{letter(number)}: {metric} on {tasks} unseen tasks of {column.conditions['problem']}"
        panels.append(Panel(figure, column.results[0].by_steps[0], methods_of(column)))
    seeds_figure(panels).savefig(path, dpi=130)


def in_the_middle(columns: Any) -> list[str]:
    """Of ten and more runs of a preset, their interquartile mean after each adaptation step."""
    import numpy as np

    from fewstep.supervised.evaluate import SEEDS, over_seeds

    lines = []
    for number, column in enumerate(columns):
        for method, runs in methods_of(column).items():
            table = np.array(runs, float)  # None, of a run that diverged, is NaN
            found = [over_seeds(values) for values in table.T if len(table) >= SEEDS and np.isfinite(table).all()]
            if found:
                start = f"{letter(number)}, {method}: interquartile mean of {len(runs)} runs [95 % interval by bootstrap]: "
                ends = (f"{each.mean:.4g} [{each.low:.4g}, {each.high:.4g}]" for each in found if each is not None)
                said = (f"after {step} {text}" for step, text in zip(column.results[0].by_steps[0], ends, strict=True))
                lines += wrapped(start, said)
    return lines


def found_of(results: Any) -> list[str]:
    """What each run's evaluation found: a line or two an answer."""
    said = (f"{one.name}: {text}" for one in results for text in one.findings)
    return [line for text in said for line in textwrap.wrap(text, WIDTH, subsequent_indent="  ")]


def cell(result: Any) -> str:
    """'0.9862 ± 0.0033 (0.0037)'."""
    if result.mean is None:
        return "diverged"
    intervals = f" ± {result.half:.2g}" if result.half is not None else ""
    return short(result.mean) + intervals + (f" ({result.over_classes:.2g})" if result.over_classes else "")


def letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else str(number + 1)


def print_rows(heads: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console

    table = titled("results, mean ± 95 % interval over unseen tasks")
    for head in ("run", *heads):
        table.add_column(head, justify="left" if head == "run" else "right")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False, emoji=False, width=WIDTH).print(table)


def explained(columns: Any, apart: dict[str, list[Any]]) -> list[str]:
    """What all results have in common, and what keeps them in different columns."""
    same = (f"{name.replace('_', ' ')} {value}" for name, value in columns[0].conditions.items() if name not in apart)
    lines = wrapped("the same for all: ", same)
    if len(columns) > 1:
        lines.append(f"{len(columns)} columns, since these differ and their figures cannot be compared:")
    for name, values in apart.items():
        said = (f"{letter(number)} {'-' if value is None else value}" for number, value in enumerate(values))
        lines += wrapped(f"  {name.replace('_', ' ')}: ", said)
    return lines
