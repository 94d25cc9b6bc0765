"""Parts of the page of a comparison: cells, figures and small tables, and how it orders, names and colors methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fewstep.compare.page import charts
from fewstep.compare.page.html import (
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
from fewstep.training.progress import duration

FAMILIES = {
    "none": "no learning",
    "classical": "classical",
    "joint": "joint training",
    "meta": "meta-learning",
    "in-context": "in context",
}
"""of methods, in the order of a legend"""


class Methods:
    """The methods of a comparison, the best first, and what is asked of them again and again."""

    def __init__(self, compare: Mapping[str, Any]):
        metric, verdict = compare.get("metric") or {}, compare.get("verdict") or {}
        self.metric: str = metric.get("title") or metric.get("name") or "error"
        self.word = named if (named := metric.get("name") or "error") and "error" not in named else "error"
        self.work: str = compare.get("unit_of_work") or "operations"
        self.axis = self.metric if len(self.metric) <= charts.MOST_LETTERS else metric.get("name") or "error"
        self.lower_is_better: bool = metric.get("lower_is_better", True)
        self.margin = compare.get("margin")
        self.recommended: str | None = verdict.get("method")
        self.runner_up: str | None = verdict.get("runner_up")
        sign = 1 if self.lower_is_better else -1
        error = lambda method: sign * method["error"]["mean"] if has_error(method) else float("inf")  # noqa: E731
        self.all: list[Mapping[str, Any]] = sorted(compare.get("methods") or (), key=error)
        self._by_name = {method.get("name"): method for method in self.all}
        self.by_task: Mapping[str, Sequence[float]] = compare.get("by_task") or {}
        longest = max(map(len, self.by_task.values()), default=0)
        names = list(compare.get("tasks") or ())
        self.tasks = [*names, *(f"task {place}" for place in range(len(names), longest))]

    def title(self, name: Any) -> str:
        return self._by_name.get(name, {}).get("title") or str(name or "none of the methods")

    def look(self, name: Any) -> str:
        """The class of a method's marks, by its family."""
        family = self._by_name.get(name, {}).get("family")
        return f"f-{family}" if family in FAMILIES else "f-other"

    def level(self) -> tuple[str, float] | None:
        """(title, error) of what no learning reaches."""
        found = self._by_name.get("prior", {})
        return (self.title("prior"), found["error"]["mean"]) if has_error(found) else None

    def scale(self) -> charts.Scale | None:
        """Of the whiskers; None where no method has an error yet."""
        errors = [method["error"] for method in self.all if has_error(method)]
        top = charts.top_of([error["mean"] for error in errors] or [0.0])
        near = [error for error in errors if error["mean"] <= top]
        values = [min(error[end], top) for error in near for end in ENDS if known(error.get(end))]
        return charts.scale_of(values, 4.0, charts.WHISKER - 4) if values else None

    def band(self) -> tuple[float, float] | None:
        """What differs from the recommended method by less than the margin."""
        chosen = self._by_name.get(self.recommended, {})
        if not has_error(chosen) or not known(self.margin):
            return None
        middle = chosen["error"]["mean"]
        least = min(method["error"]["mean"] for method in self.all if has_error(method))
        lowest = min(least, middle) / 2 if least > 0 else middle - self.margin
        return max(middle - self.margin, lowest), middle + self.margin

    def pair(self) -> tuple[str, str] | None:
        """(MAML, or the recommended method where it is not there; the runner-up, or who else is the best)."""
        wanted = ["maml", self.recommended, self.runner_up, *(method.get("name") for method in self.all)]
        there = [name for name in dict.fromkeys(wanted) if name is not None and name in self.by_task]
        if len(there) < 2:
            return None
        return there[0], next((name for name in there[1:] if name == self.runner_up), there[1])

    def importance(self, method: Mapping[str, Any]) -> int:
        """The order in which methods get a label in a crowded picture."""
        first = [self.recommended, "maml", self.runner_up, "prior"]
        return first.index(method.get("name")) if method.get("name") in first else len(first)


ENDS = ("mean", "low", "high")


def has_error(method: Mapping[str, Any]) -> bool:
    return known((method.get("error") or {}).get("mean"))


MOST_POINTS = 2000
"""of a scatter plot: a page is for people"""
WORST = 8
"""so many of the worst tasks are listed"""
OUTCOMES = {
    "better": "▼ better",
    "worse": "▲ worse",
    "equivalent": "≈ equivalent",
    "inconclusive": "? inconclusive",
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


def error(methods: Methods, method: Mapping[str, Any], scale: charts.Scale | None, band: tuple[float, float] | None) -> Markup:
    if not has_error(method) or scale is None:
        why = "diverged" if method.get("diverged") else "left out" if method.get("left_out") else "not measured yet"
        return element("span", why, class_="caution")
    given = method["error"]
    low, middle, high = (given[end] if known(given.get(end)) else given["mean"] for end in ("low", "mean", "high"))
    drawn = charts.whisker(low, middle, high, scale, band, methods.look(method.get("name")))
    diverged = element("span", " diverged on some seeds", class_="caution") if method.get("diverged") else None
    return joined(drawn, element("span", interval(given), diverged, class_="figure"))


def cell(methods: Methods, method: Mapping[str, Any], column: str) -> Markup | None:
    """What a column says of a method; None where it says nothing."""
    if column == "Difference":
        given = method.get("difference") or {}
        outcome = given.get("outcome")
        told = element("span", OUTCOMES.get(outcome, outcome), class_=f"outcome o-{outcome.split()[0]}") if outcome else None
        shown = interval(given, signed=True)
        return joined(shown, " ", told) if shown is not None or told is not None else None
    if column == "At equal compute":
        return interval(method.get("equal_compute"))
    if column == "To train":
        found = [duration(method["train_seconds"])] if known(method.get("train_seconds")) else []
        found += [f"{number(method['train_operations'])} {methods.work}"] if method.get("train_operations") else []
    else:
        found = [duration(method["adapt_milliseconds"] / 1000)] if known(method.get("adapt_milliseconds")) else []
    return joined(found[0], [element("span", each, class_="what") for each in found[1:]]) if found else None


def costs(methods: Methods, field: str, axis: str) -> list[charts.Cost]:
    """The methods that have an error and this cost, those first whose names matter most."""
    found = []
    for method in sorted(methods.all, key=methods.importance):
        if known(method.get(field)) and has_error(method):
            error, cost, name = method["error"], method[field], method.get("name")
            low, high = (error[end] if known(error.get(end)) else error["mean"] for end in ("low", "high"))
            told = f"{methods.title(name)}: {methods.word} {number(error['mean'])}, {number(cost)} {axis}"
            found.append(charts.Cost(str(name), cost, error["mean"], low, high, methods.look(name), told))
    return found


def looks(methods: Methods, names: Iterable[str]) -> dict[str, str]:
    """The classes of lines, by the methods' titles: of one family only the first is drawn through and filled."""
    found: dict[str, str] = {}
    for name in names:
        look = methods.look(name)
        found[methods.title(name)] = look + " second" * (look in found.values())
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


def worst_tasks(methods: Methods) -> dict[str, Any] | None:
    """The tasks of the largest error of the recommended method, and what others reach there."""
    errors = methods.by_task
    first = next((name for name in (methods.recommended, *errors) if name is not None and name in errors), None)
    if first is None:
        return None
    sign = 1 if methods.lower_is_better else -1
    order = sorted(
        (place for place, value in enumerate(errors[first]) if known(value)), key=lambda place: -sign * errors[first][place]
    )
    columns = [name for name in dict.fromkeys((first, methods.runner_up, "prior")) if name is not None and name in errors]
    if not order:
        return None
    decimals, rows = decimals_of(max(abs(errors[first][order[0]]) / 10, 1e-9)), []
    for place in order[:WORST]:
        values = [errors[name][place] if place < len(errors[name]) else None for name in columns]
        rows.append((methods.tasks[place], [datum(value, decimals) for value in values]))
    return {"titles": [methods.title(name) for name in columns], "rows": rows}


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


def searches(methods: Methods) -> list[tuple[str, str, list[str], list[tuple[str, Markup]]]]:
    """(title, settings, sizes, all that were tried with their error on meta-validation tasks) of each method that has some."""
    rows = []
    for method in methods.all:
        tried = [(settings(each.get("settings") or {}), datum(each.get("validation"))) for each in method.get("searched") or ()]
        if not tried and not method.get("settings"):
            continue
        sizes = ("meta_steps", "meta-step"), ("parameters", "parameter")
        counts = [counted(method[field], one) for field, one in sizes if method.get(field)]
        rows.append((methods.title(method.get("name")), settings(method.get("settings") or {}), counts, tried))
    return rows
