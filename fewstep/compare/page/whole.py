"""A comparison as one HTML page (floor 5): works offline, on a phone, in the dark and on paper, and runs no script.

`page` reads what `compare.json` holds. What is missing there is left out here, so there is a page while arms still train. All
words of users (names of tasks, commands) are escaped, by `markup.element`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from fewstep.compare.page import charts, parts
from fewstep.compare.page.markup import Markup, counted, datum, element, interval, known, number
from fewstep.compare.page.shown import Arms

Compare = Mapping[str, Any]
"""what compare.json holds"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""nothing is loaded and no script runs, whatever a task is called"""


def page(compare: Compare) -> str:
    """The whole page of `compare`, the content of compare.json (run.py says what it holds)."""
    title = f"Is meta-learning worth it on “{compare.get('problem', 'these tasks')}”?"
    arms = Arms(compare)
    sections = [
        verdict(compare, arms, title),
        table(compare, arms),
        curves(compare, arms),
        by_task(arms),
        compute(arms),
        probes(compare),
        protocol(compare, arms),
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} fewstep"),
        element("link", rel="icon", href="data:,"),
        element("style", Markup(resources.files("fewstep.compare.page").joinpath("page.css").read_text(encoding="utf-8"))),
    )
    version = f"fewstep {compare['fewstep']}" if compare.get("fewstep") else "fewstep"
    foot = element("footer", f"Written by {version}. All numbers, with all digits: compare.json beside this page.")
    return f"<!DOCTYPE html>\n{element('html', head, element('body', element('main', sections), foot), lang='en')}\n"


def section(name: str, title: str, *children: Any) -> Markup:
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, *children, id=name, aria_labelledby=f"{name}-title")


def verdict(compare: Compare, arms: Arms, title: str) -> Markup:
    """What to do, in a line; then the sentences; then what they rest on."""
    found = compare.get("verdict") or {}
    arm, more = arms.title(found.get("arm")), found.get("more_tasks")
    told = {
        "arm": f"Take {arm}.",
        "equivalent": f"Take {arm}: others do as well.",
        "cannot_tell": "Cannot tell yet" + (f": about {counted(int(more), 'more task')} would." if known(more) else "."),
    }.get(found.get("outcome", ""), "Still being compared.")
    facts = parts.facts(compare)
    return element(
        "header",
        element("p", title, class_="question"),
        element("h1", told),
        [element("p", sentence, class_="sentence") for sentence in found.get("sentences") or ()],
        element("dl", [element("div", element("dt", name), element("dd", value)) for name, value in facts], class_="facts")
        if facts
        else None,
    )


COLUMNS = ("Arm", "Error", "Difference", "At equal compute", "To train", "To adapt")


def table(compare: Compare, arms: Arms) -> Markup | None:
    """All arms, the best first: rows on a wide screen, cards on a narrow one. Roles are written out, since the cards' layout
    takes from a table what it means to a screen reader."""
    if not arms.all:
        return None
    scale, band, word = arms.scale(), arms.band(), arms.word.capitalize()
    used = [
        name for name in COLUMNS if name in ("Arm", "Error") or any(parts.cell(arms, arm, name) is not None for arm in arms.all)
    ]
    heads = []
    for name in used:
        axis = charts.whisker_axis(scale) if name == "Error" and scale else None
        heads.append(element("th", word if name == "Error" else name, axis, scope="col", role="columnheader"))
    rows = []
    for arm in arms.all:
        cells = [element("th", parts.described(arms, arm), scope="row", role="rowheader")]
        cells.append(element("td", parts.error(arms, arm, scale, band), role="cell", data_label=word))
        for name in used[2:]:
            shown = parts.cell(arms, arm, name)
            empty = "empty" if shown is None else None
            cells.append(element("td", shown or "–", role="cell", data_label=name, class_=empty))
        chosen = arm.get("name") == arms.recommended
        rows.append(element("tr", cells, role="row", class_="recommended" if chosen else None))
    body = [element("thead", element("tr", heads, role="row"), role="rowgroup"), element("tbody", rows, role="rowgroup")]
    notes = [f"{word}: {arms.metric}, {'lower' if arms.lower_is_better else 'higher'} is better; in brackets 95 % intervals."]
    if band is not None:
        notes.append(f"Shaded: less than the margin of {number(compare['margin'])} from the recommended arm.")
    if "Difference" in used:
        notes.append(f"Difference: the {arms.word} less the recommended arm's, on the same tasks.")
    return section("arms", "The arms", element("p", " ".join(notes), class_="note"), element("table", body, role="table"))


CURVES = (
    ("by_shots", "shots", "shots", "support examples of a task"),
    ("by_steps", "steps", "adaptation steps", "adaptation steps"),
    ("by_tasks", "tasks", "meta-train tasks", "meta-train tasks"),
)


def curves(compare: Compare, arms: Arms) -> Markup | None:
    """Would more rows a task help, more steps, or more tasks?"""
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
            looks = parts.looks(arms, series)
            named = {arms.title(name): line for name, line in series.items()}
            drawn = charts.lines(named, looks, axis, arms.axis, f"{title}: {parts.in_words(named)}", arms.level())
            figures.append(parts.figure(title, parts.legend(looks), drawn))
    if not figures:
        return None
    return section("curves", "What more data or more steps would do", element("div", figures, class_="figures"))


def by_task(arms: Arms) -> Markup | None:
    """One arm against another, task by task, and the tasks that go worst."""
    pair, errors = arms.pair(), arms.by_task
    figures = []
    if pair is not None:
        (ours, theirs), names = pair, arms.tasks
        points, better = [], 0
        for name, a, b in zip(names, errors[theirs], errors[ours], strict=False):
            if known(a) and known(b):
                better += b < a
                told = f"{name}: {arms.title(ours)} {number(b)}, {arms.title(theirs)} {number(a)}"
                points.append((a, b, told))
        if points:
            title = f"{arms.title(ours)} against {arms.title(theirs)}"
            count = f"{arms.title(ours)} has the smaller {arms.word} on {better:,} of {counted(len(points), 'task')}"
            count += ": the points below the line."
            shown = points[: parts.MOST_POINTS]
            count += f" Drawn are the first {len(shown):,}." * (len(shown) < len(points))
            look, axes = arms.look(ours), (f"{arms.word} of {arms.title(theirs)}", f"{arms.word} of {arms.title(ours)}")
            figures.append(parts.figure(title, element("p", count, class_="note"), charts.scatter(shown, look, *axes, title)))
    worst = parts.worst_tasks(arms)
    if worst is not None:
        figures.append(worst)
    return section("by-task", "Task by task", element("div", figures, class_="figures")) if figures else None


COSTS = (
    ("train_operations", "{work} to train", "training"),
    ("train_seconds", "seconds to train", "training"),
    ("adapt_milliseconds", "milliseconds to adapt to a task", "adapting"),
)


def compute(arms: Arms) -> Markup | None:
    """Errors against what it costs to train each arm, and to adapt it: operations where they are known, else seconds."""
    figures = {}
    for field, axis, against in COSTS:
        axis, title = axis.format(work=arms.work), f"{arms.word.capitalize()} against {against}"
        drawn = parts.costs(arms, field, axis)
        if len(drawn) > 1 and title not in figures:
            picture = charts.costs(drawn, axis, arms.axis, f"{title}, by {axis}")
            figures[title] = parts.figure(title, parts.families(arms), picture)
    if not figures:
        return None
    note = element("p", "Further down is better, further left is cheaper; bars are 95 % intervals.", class_="note")
    return section("compute", "What it costs", note, element("div", list(figures.values()), class_="figures"))


def probes(compare: Compare) -> Markup | None:
    """What the tasks are like, one measurement a card."""
    cards = []
    for name, probe in (compare.get("probes") or {}).items():
        title = probe.get("title") or name.replace("_", " ").capitalize()
        points = [(at, value) for at, value in probe.get("points") or () if known(value)]
        extra = [element("li", element("span", at), " ", datum(value)) for at, value in points]
        cards.append(
            element(
                "div",
                element("h3", title),
                element("p", interval({"mean": probe.get("value"), **probe}) or "–", class_="value"),
                element("p", probe["says"]) if probe.get("says") else None,
                element("ul", extra, class_="points") if extra else None,
                class_="card",
            )
        )
    return section("probes", "What these tasks are like", element("div", cards, class_="cards")) if cards else None


def protocol(compare: Compare, arms: Arms) -> Markup | None:
    """How all of this was measured, and what each arm's search tried."""
    given = dict(compare.get("protocol") or {})
    rows = [("question", compare["question"])] if compare.get("question") else []
    rows += [(arms.word, arms.metric)] if compare.get("metric") else []
    rows += [("margin", number(compare["margin"]))] if known(compare.get("margin")) else []
    told = {name: value for name, value in given.items() if value not in (None, "", [])}
    rows += [(name.removesuffix("_s").replace("_", " "), parts.plain(name, value)) for name, value in told.items()]
    searches = parts.searches(arms)
    if not rows and not compare.get("command") and searches is None:
        return None
    facts = element(
        "dl", [element("div", element("dt", name), element("dd", value)) for name, value in rows], class_="protocol"
    )
    command = element("pre", element("code", compare["command"])) if compare.get("command") else None
    return section("protocol", "How it was measured", command, facts if rows else None, searches)
