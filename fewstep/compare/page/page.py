"""A comparison as one HTML page: works offline, on a phone, in the dark and on paper, and runs no script.

`page` reads what `compare.json` holds and fills the template page.html, which escapes all text. What is missing there is
left out here, so there is a page while arms still train."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, Template

from fewstep.compare.page import charts, components
from fewstep.compare.page.components import FAMILIES, Arms
from fewstep.compare.page.html import Markup, counted, datum, interval, known, number

Compare = Mapping[str, Any]
"""what compare.json holds"""


@cache
def template() -> Template:
    places = PackageLoader("fewstep.compare", "page")
    environment = Environment(loader=places, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html")


def page(compare: Compare) -> str:
    """The whole page of `compare`, the content of compare.json (run.py says what it holds)."""
    arms = Arms(compare)
    return template().render(
        arms=arms,
        FAMILIES=FAMILIES,
        swatch=components.swatch,
        title=f"Is meta-learning worth it on “{compare.get('problem', 'these tasks')}”?",
        verdict=compare.get("verdict") or {},
        headline=headline(compare, arms),
        facts=components.facts(compare),
        **table(compare, arms),
        curves=curves(compare, arms),
        pair=pair(arms),
        worst=components.worst_tasks(arms),
        costs=costs(arms),
        families=[family for family in FAMILIES if any(arm.get("family") == family for arm in arms.all)],
        probes=probes(compare),
        protocol=protocol(compare, arms),
        command=compare.get("command"),
        searches=components.searches(arms),
        version=f"fewstep {compare['fewstep']}" if compare.get("fewstep") else "fewstep",
    )


def headline(compare: Compare, arms: Arms) -> str:
    """What to do, in a line."""
    found = compare.get("verdict") or {}
    arm, more = arms.title(found.get("arm")), found.get("more_tasks")
    return {
        "arm": f"Take {arm}.",
        "equivalent": f"Take {arm}: others do as well.",
        "cannot_tell": "Cannot tell yet" + (f": about {counted(int(more), 'more task')} would." if known(more) else "."),
    }.get(found.get("outcome", ""), "Still being compared.")


COLUMNS = ("Difference", "At equal compute", "To train", "To adapt")


def table(compare: Compare, arms: Arms) -> dict[str, Any]:
    """All arms, the best first, with the columns that say something."""
    scale, band, word = arms.scale(), arms.band(), arms.word.capitalize()
    cells = {name: [components.cell(arms, arm, name) for arm in arms.all] for name in COLUMNS}
    used = [name for name in COLUMNS if any(cell is not None for cell in cells[name])]
    notes = [f"{word}: {arms.metric}, {'lower' if arms.lower_is_better else 'higher'} is better; in brackets 95 % intervals."]
    if band is not None:
        notes.append(f"Shaded: less than the margin of {number(compare['margin'])} from the recommended arm.")
    if "Difference" in used:
        notes.append(f"Difference: the {arms.word} less the recommended arm's, on the same tasks.")
    rows = [
        (arm, components.error(arms, arm, scale, band), [(name, cells[name][place]) for name in used])
        for place, arm in enumerate(arms.all)
    ]
    axis = charts.whisker_axis(scale) if scale else ""
    return {"word": word, "notes": notes, "used": ["Arm", "Error", *used], "axis": axis, "rows": rows}


CURVES = (
    ("by_shots", "shots", "shots", "support examples of a task"),
    ("by_steps", "steps", "adaptation steps", "adaptation steps"),
    ("by_tasks", "tasks", "meta-train tasks", "meta-train tasks"),
)


def curves(compare: Compare, arms: Arms) -> list[tuple[str, dict[str, str], Markup]]:
    """(title, looks of the lines, chart): would more rows a task help, more steps, or more tasks?"""
    figures = []
    for field, along, over, axis in CURVES:
        title = f"{arms.word.capitalize()} over {over}"
        given = compare.get(field) or {}
        places, by_arm = given.get(along) or (), given.get("arms") or {}
        series = {
            name: [(at, value) for at, value in zip(places, values, strict=False) if known(at) and known(value)]
            for name, values in by_arm.items()
        }
        series = {name: line for name, line in series.items() if line}
        if series:
            looks = components.looks(arms, series)
            named = {arms.title(name): line for name, line in series.items()}
            drawn = charts.lines(named, looks, axis, arms.axis, f"{title}: {components.in_words(named)}", arms.level())
            figures.append((title, looks, drawn))
    return figures


def pair(arms: Arms) -> dict[str, Any] | None:
    """One arm against another, task by task."""
    found = arms.pair()
    if found is None:
        return None
    (ours, theirs), points, better = found, [], 0
    for name, a, b in zip(arms.tasks, arms.by_task[theirs], arms.by_task[ours], strict=False):
        if known(a) and known(b):
            better += b < a
            points.append((a, b, f"{name}: {arms.title(ours)} {number(b)}, {arms.title(theirs)} {number(a)}"))
    if not points:
        return None
    title = f"{arms.title(ours)} against {arms.title(theirs)}"
    count = f"{arms.title(ours)} has the smaller {arms.word} on {better:,} of {counted(len(points), 'task')}"
    count += ": the points below the line."
    shown = points[: components.MOST_POINTS]
    count += f" Drawn are the first {len(shown):,}." * (len(shown) < len(points))
    axes = f"{arms.word} of {arms.title(theirs)}", f"{arms.word} of {arms.title(ours)}"
    return {"title": title, "count": count, "drawn": charts.scatter(shown, arms.look(ours), *axes, title)}


COSTS = (
    ("train_operations", "{work} to train", "training"),
    ("train_seconds", "seconds to train", "training"),
    ("adapt_milliseconds", "milliseconds to adapt to a task", "adapting"),
)


def costs(arms: Arms) -> dict[str, Markup]:
    """Title -> chart of errors against costs of training and of adapting: operations if they are known, else seconds."""
    figures = {}
    for field, axis, against in COSTS:
        axis, title = axis.format(work=arms.work), f"{arms.word.capitalize()} against {against}"
        drawn = components.costs(arms, field, axis)
        if len(drawn) > 1 and title not in figures:
            figures[title] = charts.costs(drawn, axis, arms.axis, f"{title}, by {axis}")
    return figures


def probes(compare: Compare) -> list[tuple[str, Any, str, list[tuple[Any, Markup]]]]:
    """(title, value, sentence, further values) of each measurement of what the tasks are like."""
    return [
        (
            probe.get("title") or name.replace("_", " ").capitalize(),
            interval({"mean": probe.get("value"), **probe}) or "–",
            probe.get("says") or "",
            [(at, datum(value)) for at, value in probe.get("points") or () if known(value)],
        )
        for name, probe in (compare.get("probes") or {}).items()
    ]


def protocol(compare: Compare, arms: Arms) -> list[tuple[str, str]]:
    """How all of this was measured."""
    rows = [("question", compare["question"])] if compare.get("question") else []
    rows += [(arms.word, arms.metric)] if compare.get("metric") else []
    rows += [("margin", number(compare["margin"]))] if known(compare.get("margin")) else []
    told = {name: value for name, value in (compare.get("protocol") or {}).items() if value not in (None, "", [])}
    return rows + [(name.removesuffix("_s").replace("_", " "), components.plain(name, value)) for name, value in told.items()]
