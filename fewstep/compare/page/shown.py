"""The arms of a comparison as its page shows them: in what order, under what name, in what color (floor 5). Used by whole.py
and parts.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fewstep.compare.page import charts
from fewstep.compare.page.markup import known

FAMILIES = {
    "none": "no learning",
    "classical": "classical",
    "joint": "joint training",
    "meta": "meta-learning",
    "in-context": "in context",
}
"""of arms, in the order of a legend"""


class Arms:
    """The arms of a comparison, the best first, and what is asked of them again and again."""

    def __init__(self, compare: Mapping[str, Any]):
        metric, verdict = compare.get("metric") or {}, compare.get("verdict") or {}
        self.metric: str = metric.get("title") or metric.get("name") or "error"
        self.word = named if (named := metric.get("name") or "error") and "error" not in named else "error"
        self.work: str = compare.get("unit_of_work") or "operations"
        self.axis = self.metric if len(self.metric) <= charts.MOST_LETTERS else metric.get("name") or "error"
        self.lower_is_better: bool = metric.get("lower_is_better", True)
        self.margin = compare.get("margin")
        self.recommended: str | None = verdict.get("arm")
        self.runner_up: str | None = verdict.get("runner_up")
        sign = 1 if self.lower_is_better else -1
        error = lambda arm: sign * arm["error"]["mean"] if has_error(arm) else float("inf")  # noqa: E731
        self.all: list[Mapping[str, Any]] = sorted(compare.get("arms") or (), key=error)
        self._by_name = {arm.get("name"): arm for arm in self.all}
        self.by_task: Mapping[str, Sequence[float]] = compare.get("by_task") or {}
        longest = max(map(len, self.by_task.values()), default=0)
        names = list(compare.get("tasks") or ())
        self.tasks = [*names, *(f"task {place}" for place in range(len(names), longest))]

    def title(self, name: Any) -> str:
        return self._by_name.get(name, {}).get("title") or str(name or "none of the arms")

    def look(self, name: Any) -> str:
        """The class of an arm's marks, by its family."""
        family = self._by_name.get(name, {}).get("family")
        return f"f-{family}" if family in FAMILIES else "f-other"

    def level(self) -> tuple[str, float] | None:
        """(title, error) of what no learning reaches."""
        found = self._by_name.get("prior", {})
        return (self.title("prior"), found["error"]["mean"]) if has_error(found) else None

    def scale(self) -> charts.Scale | None:
        """Of the whiskers; None where no arm has an error yet."""
        errors = [arm["error"] for arm in self.all if has_error(arm)]
        top = charts.top_of([error["mean"] for error in errors] or [0.0])
        near = [error for error in errors if error["mean"] <= top]
        values = [min(error[end], top) for error in near for end in ENDS if known(error.get(end))]
        return charts.scale_of(values, 4.0, charts.WHISKER - 4) if values else None

    def band(self) -> tuple[float, float] | None:
        """What differs from the recommended arm by less than the margin."""
        chosen = self._by_name.get(self.recommended, {})
        if not has_error(chosen) or not known(self.margin):
            return None
        middle = chosen["error"]["mean"]
        least = min(arm["error"]["mean"] for arm in self.all if has_error(arm))
        lowest = min(least, middle) / 2 if least > 0 else middle - self.margin
        return max(middle - self.margin, lowest), middle + self.margin

    def pair(self) -> tuple[str, str] | None:
        """(MAML, or the recommended arm where it is not there; the runner-up, or who else is the best)."""
        wanted = ["maml", self.recommended, self.runner_up, *(arm.get("name") for arm in self.all)]
        there = [name for name in dict.fromkeys(wanted) if name is not None and name in self.by_task]
        if len(there) < 2:
            return None
        return there[0], next((name for name in there[1:] if name == self.runner_up), there[1])

    def importance(self, arm: Mapping[str, Any]) -> int:
        """The order in which arms get a label in a crowded picture."""
        first = [self.recommended, "maml", self.runner_up, "prior"]
        return first.index(arm.get("name")) if arm.get("name") in first else len(first)


ENDS = ("mean", "low", "high")


def has_error(arm: Mapping[str, Any]) -> bool:
    return known((arm.get("error") or {}).get("mean"))
