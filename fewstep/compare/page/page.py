"""A comparison as one HTML page: works offline, on a phone, in the dark and on paper, and runs no script.

`page` reads what `compare.json` holds and fills the template page.html, which escapes all text. What is missing there is
left out here, so there is a page while methods still train."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, Template

from fewstep.compare.page import charts, components
from fewstep.compare.page.components import FAMILIES, Methods
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
    methods = Methods(compare)
    return template().render(
        methods=methods,
        FAMILIES=FAMILIES,
        swatch=components.swatch,
        title=f"Is meta-learning worth it on “{compare.get('problem', 'these tasks')}”?",
        verdict=compare.get("verdict") or {},
        headline=headline(compare, methods),
        facts=components.facts(compare),
        **table(compare, methods),
        curves=curves(compare, methods),
        pair=pair(methods),
        worst=components.worst_tasks(methods),
        costs=costs(methods),
        families=[family for family in FAMILIES if any(method.get("family") == family for method in methods.all)],
        probes=probes(compare),
        protocol=protocol(compare, methods),
        command=compare.get("command"),
        searches=components.searches(methods),
        version=f"fewstep {compare['fewstep']}" if compare.get("fewstep") else "fewstep",
    )


def headline(compare: Compare, methods: Methods) -> str:
    """What to do, in a line."""
    found = compare.get("verdict") or {}
    method, more = methods.title(found.get("method")), found.get("more_tasks")
    return {
        "method": f"Take {method}.",
        "equivalent": f"Take {method}: others do as well.",
        "inconclusive": "Inconclusive"
        + (f": about {counted(int(more), 'more task')} would tell." if known(more) else " so far."),
    }.get(found.get("outcome", ""), "Still being compared.")


COLUMNS = ("Difference", "At equal compute", "To train", "To adapt")


def table(compare: Compare, methods: Methods) -> dict[str, Any]:
    """All methods, the best first, with the columns that say something."""
    scale, band, word = methods.scale(), methods.band(), methods.word.capitalize()
    cells = {name: [components.cell(methods, method, name) for method in methods.all] for name in COLUMNS}
    used = [name for name in COLUMNS if any(cell is not None for cell in cells[name])]
    notes = [
        f"{word}: {methods.metric}, {'lower' if methods.lower_is_better else 'higher'} is better; in brackets 95 % intervals."
    ]
    if band is not None:
        notes.append(f"Shaded: less than the margin of {number(compare['margin'])} from the recommended method.")
    if "Difference" in used:
        notes.append(f"Difference: the {methods.word} less the recommended method's, on the same tasks.")
    rows = [
        (method, components.error(methods, method, scale, band), [(name, cells[name][place]) for name in used])
        for place, method in enumerate(methods.all)
    ]
    axis = charts.whisker_axis(scale) if scale else ""
    return {"word": word, "notes": notes, "used": ["Method", "Error", *used], "axis": axis, "rows": rows}


CURVES = (
    ("by_shots", "shots", "shots", "support examples of a task"),
    ("by_steps", "steps", "adaptation steps", "adaptation steps"),
    ("by_tasks", "tasks", "meta-train tasks", "meta-train tasks"),
)


def curves(compare: Compare, methods: Methods) -> list[tuple[str, dict[str, str], Markup]]:
    """(title, looks of the lines, chart): would more rows a task help, more steps, or more tasks?"""
    figures = []
    for field, along, over, axis in CURVES:
        title = f"{methods.word.capitalize()} over {over}"
        given = compare.get(field) or {}
        places, by_method = given.get(along) or (), given.get("methods") or {}
        series = {
            name: [(at, value) for at, value in zip(places, values, strict=False) if known(at) and known(value)]
            for name, values in by_method.items()
        }
        series = {name: line for name, line in series.items() if line}
        if series:
            looks = components.looks(methods, series)
            named = {methods.title(name): line for name, line in series.items()}
            drawn = charts.lines(named, looks, axis, methods.axis, f"{title}: {components.in_words(named)}", methods.level())
            figures.append((title, looks, drawn))
    return figures


def pair(methods: Methods) -> dict[str, Any] | None:
    """One method against another, task by task."""
    found = methods.pair()
    if found is None:
        return None
    (ours, theirs), points, better = found, [], 0
    for name, a, b in zip(methods.tasks, methods.by_task[theirs], methods.by_task[ours], strict=False):
        if known(a) and known(b):
            better += b < a
            points.append((a, b, f"{name}: {methods.title(ours)} {number(b)}, {methods.title(theirs)} {number(a)}"))
    if not points:
        return None
    title = f"{methods.title(ours)} against {methods.title(theirs)}"
    count = f"{methods.title(ours)} has the smaller {methods.word} on {better:,} of {counted(len(points), 'task')}"
    count += ": the points below the line."
    shown = points[: components.MOST_POINTS]
    count += f" Drawn are the first {len(shown):,}." * (len(shown) < len(points))
    axes = f"{methods.word} of {methods.title(theirs)}", f"{methods.word} of {methods.title(ours)}"
    return {"title": title, "count": count, "drawn": charts.scatter(shown, methods.look(ours), *axes, title)}


COSTS = (
    ("train_operations", "{work} to train", "training"),
    ("train_seconds", "seconds to train", "training"),
    ("adapt_milliseconds", "milliseconds to adapt to a task", "adapting"),
)


def costs(methods: Methods) -> dict[str, Markup]:
    """Title -> chart of errors against costs of training and of adapting: operations if they are known, else seconds."""
    figures = {}
    for field, axis, against in COSTS:
        axis, title = axis.format(work=methods.work), f"{methods.word.capitalize()} against {against}"
        drawn = components.costs(methods, field, axis)
        if len(drawn) > 1 and title not in figures:
            figures[title] = charts.costs(drawn, axis, methods.axis, f"{title}, by {axis}")
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


def protocol(compare: Compare, methods: Methods) -> list[tuple[str, str]]:
    """How all of this was measured."""
    rows = [("question", compare["question"])] if compare.get("question") else []
    rows += [(methods.word, methods.metric)] if compare.get("metric") else []
    rows += [("margin", number(compare["margin"]))] if known(compare.get("margin")) else []
    told = {name: value for name, value in (compare.get("protocol") or {}).items() if value not in (None, "", [])}
    return rows + [(name.removesuffix("_s").replace("_", " "), components.plain(name, value)) for name, value in told.items()]
