"""Parts of the page of a comparison: cells, figures, small tables (floor 5). Used by whole.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fewstep.compare.display import duration
from fewstep.compare.page import charts
from fewstep.compare.page.markup import (
    Child,
    Markup,
    counted,
    datum,
    decimals_of,
    element,
    interval,
    joined,
    known,
    number,
    short,
)
from fewstep.compare.page.shown import Arms, has_error

MOST_POINTS = 2000
"""of a scatter plot: a page is for people"""
WORST = 8
"""so many of the worst tasks are listed"""
OUTCOMES = {
    "better": "▼ better",
    "worse": "▲ worse",
    "equivalent": "≈ equivalent",
    "cannot tell": "? cannot tell",
    "diverged": "diverged",
}


def facts(compare: Mapping[str, Any]) -> list[tuple[str, Child]]:
    """What the verdict rests on, in a few words."""
    given = compare.get("protocol") or {}
    found: list[tuple[str, Child]] = [("question", compare["question"])] if compare.get("question") else []
    for field, name in (("train_tasks", "meta-train tasks"), ("test_tasks", "held-out tasks"), ("shots", "shots")):
        if given.get(field) is not None:
            found.append((name, short(given[field]) if known(given[field]) else str(given[field])))
    if given.get("seeds"):
        found.append(("seeds", str(len(given["seeds"]))))
    if known(given.get("spent_s")):
        budget = f" of {duration(given['budget_s'])}" if known(given.get("budget_s")) else ""
        found.append(("time", duration(given["spent_s"]) + budget))
    return found


def error(arms: Arms, arm: Mapping[str, Any], scale: charts.Scale | None, band: tuple[float, float] | None) -> Markup:
    if not has_error(arm) or scale is None:
        why = "diverged" if arm.get("diverged") else "left out" if arm.get("left_out") else "not measured yet"
        return element("span", why, class_="caution")
    given = arm["error"]
    low, middle, high = (given[end] if known(given.get(end)) else given["mean"] for end in ("low", "mean", "high"))
    drawn = charts.whisker(low, middle, high, scale, band, arms.look(arm.get("name")))
    diverged = element("span", " diverged on some seeds", class_="caution") if arm.get("diverged") else None
    return joined(drawn, element("span", interval(given), diverged, class_="figure"))


def cell(arms: Arms, arm: Mapping[str, Any], column: str) -> Markup | None:
    """What a column says of an arm; None where it says nothing."""
    if column == "Difference":
        given = arm.get("difference") or {}
        outcome = given.get("outcome")
        told = element("span", OUTCOMES.get(outcome, outcome), class_=f"outcome o-{outcome.split()[0]}") if outcome else None
        shown = interval(given, signed=True)
        return joined(shown, " ", told) if shown is not None or told is not None else None
    if column == "At equal compute":
        return interval(arm.get("equal_compute"))
    if column == "To train":
        found = [duration(arm["train_seconds"])] if known(arm.get("train_seconds")) else []
        found += [f"{number(arm['train_operations'])} {arms.work}"] if arm.get("train_operations") else []
    else:
        found = [duration(arm["adapt_milliseconds"] / 1000)] if known(arm.get("adapt_milliseconds")) else []
    return joined(found[0], [element("span", each, class_="what") for each in found[1:]]) if found else None


def costs(arms: Arms, field: str, axis: str) -> list[charts.Cost]:
    """The arms that have an error and this cost, those first whose names matter most."""
    found = []
    for arm in sorted(arms.all, key=arms.importance):
        if known(arm.get(field)) and has_error(arm):
            error, cost, name = arm["error"], arm[field], arm.get("name")
            low, high = (error[end] if known(error.get(end)) else error["mean"] for end in ("low", "high"))
            told = f"{arms.title(name)}: {arms.word} {number(error['mean'])}, {number(cost)} {axis}"
            found.append(charts.Cost(str(name), cost, error["mean"], low, high, arms.look(name), told))
    return found


def looks(arms: Arms, names: Iterable[str]) -> dict[str, str]:
    """The classes of lines, by the arms' titles: of one family only the first is drawn through and filled."""
    found: dict[str, str] = {}
    for name in names:
        look = arms.look(name)
        found[arms.title(name)] = look + " second" * (look in found.values())
    return found


def swatch(order: int, look: str) -> Markup:
    """The line and the mark of `charts.lines` of this order, as a legend shows them."""
    mark = charts.mark(charts.MARKS[order % len(charts.MARKS)], 12, 6, f"dot {look}")
    line = charts.rule(0, 6, 24, 6, f"line {look}")
    return element("svg", line, mark, viewBox="0 0 24 12", class_="swatch", aria_hidden="true")


def in_words(series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Lines for who does not see them: where each begins and ends."""
    told = []
    for name, line in series.items():
        ends = [f"{number(height)} at {short(at)}" for at, height in (line[0], line[-1])]
        told.append(f"{name} from {ends[0]} to {ends[1]}" if len(line) > 1 else f"{name} {ends[0]}")
    return "; ".join(told)


def worst_tasks(arms: Arms) -> dict[str, Any] | None:
    """The tasks of the largest error of the recommended arm, and what others reach there."""
    errors = arms.by_task
    first = next((name for name in (arms.recommended, *errors) if name is not None and name in errors), None)
    if first is None:
        return None
    sign = 1 if arms.lower_is_better else -1
    order = sorted(
        (place for place, value in enumerate(errors[first]) if known(value)), key=lambda place: -sign * errors[first][place]
    )
    columns = [name for name in dict.fromkeys((first, arms.runner_up, "prior")) if name is not None and name in errors]
    if not order:
        return None
    decimals, rows = decimals_of(max(abs(errors[first][order[0]]) / 10, 1e-9)), []
    for place in order[:WORST]:
        values = [errors[name][place] if place < len(errors[name]) else None for name in columns]
        rows.append((arms.tasks[place], [datum(value, decimals) for value in values]))
    return {"titles": [arms.title(name) for name in columns], "rows": rows}


def plain(name: str, value: Any) -> str:
    """A value of the protocol in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or (isinstance(value, float) and not known(value)):
        return "–"
    if known(value):
        return duration(value) if name.endswith("_s") else short(value)
    if isinstance(value, list | tuple):
        return ", ".join(plain(name, each) for each in value)
    return str(value)


def settings(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {plain(name, value)}" for name, value in given.items()) or "none"


def searches(arms: Arms) -> list[tuple[str, str, list[str], list[tuple[str, Markup]]]]:
    """(title, settings, sizes, all that were tried with their error on meta-validation tasks) of each arm that has some."""
    rows = []
    for arm in arms.all:
        tried = [(settings(each.get("settings") or {}), datum(each.get("validation"))) for each in arm.get("searched") or ()]
        if not tried and not arm.get("settings"):
            continue
        sizes = ("meta_steps", "meta-step"), ("parameters", "parameter")
        counts = [counted(arm[field], one) for field, one in sizes if arm.get(field)]
        rows.append((arms.title(arm.get("name")), settings(arm.get("settings") or {}), counts, tried))
    return rows
