"""The verdict in plain sentences: a method chosen on meta-validation tasks, what meta-test tasks say of it.

The method is the cheapest of those that are, for sure, not behind the best by more than the margin; where no cheaper one is
sure enough, it is the best. Meta-test tasks change nothing of that: they say how good it is, and how far one may rely on
it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import log10

import numpy as np

from fewstep.compare.results import About, Comparison, Metric, Question, Scores, Verdict
from fewstep.compare.statistics import FEW_TASKS, compared, difference_of, layout, upper
from fewstep.errors import InputError, TrainingError
from fewstep.training.progress import duration

ERROR = Metric("error", "error")
NO_LEARNING = "prior"
"""the method that learns nothing from a task"""
POOLED = ("pooled", "joint")
"""methods that learn of all tasks at once, and do not adapt to any"""
ADAPTING = (
    "joint-ridge",
    "joint-finetuned",
    "maml",
    "maml-from-joint",
    "fomaml",
    "anil",
    "reptile",
    "bayes-head",
    "in-context",
)
"""networks that learn from all tasks and adapt to one"""


def verdict(
    validation: Sequence[Scores],
    test: Sequence[Scores],
    margin: float,
    confidence: float = 0.95,
    question: Question = "seeds",
    about: Mapping[str, About] | None = None,
    metric: Metric = ERROR,
) -> Verdict:
    """Chooses on `validation`, reports on `test`. `about` has titles and costs for people; `metric` says what the errors are.

    Raises `InputError` as `compared` does, and where the methods are not the same ones; `TrainingError` where all methods
    diverged.
    """
    if {method.name for method in validation} != {method.name for method in test}:
        raise InputError("The same methods should be measured on meta-validation and on meta-test tasks.")
    finite = {method.name for method in test if np.isfinite(method.errors).all()}
    ranked = ranking(validation, margin, confidence)
    kept = [name for name in ranked if name in finite]
    if not kept:
        raise TrainingError("Every method diverged. Look at the data for extreme values, or lower the inner and outer rates.")
    comparison = compared(test, kept[0], margin, confidence, question)
    same = [name for name, found in comparison.differences.items() if found.outcome == "equivalent"]
    unlike = all(found.outcome in ("worse", "diverged") for found in comparison.differences.values())
    told = comparison.regret <= margin and (unlike or comparison.tasks >= FEW_TASKS)
    outcome = ("equivalent" if same else "method") if told else "inconclusive"
    words = _Words(comparison, {method.name: method.cost for method in test}, about or {}, metric, ranked[0])
    return Verdict(
        outcome,
        comparison.chosen,
        kept[1] if len(kept) > 1 else None,
        None if told else comparison.more_tasks,
        tuple(words.sentences(told, same)),
        comparison,
    )


def ranking(validation: Sequence[Scores], margin: float, confidence: float = 0.95) -> list[str]:
    """The methods that did not diverge: the chosen one, then the others from the best on."""
    known = {method.name: method for method in validation if np.isfinite(method.errors).all()}
    order = sorted(known, key=lambda name: (known[name].errors.mean(), known[name].cost))
    if not order:
        return []
    best = known[order[0]].errors
    fine = [name for name in order if upper(layout(difference_of(known[name].errors, best)), 1 - confidence) <= margin]
    chosen = min(fine, key=lambda name: known[name].cost)
    return [chosen, *(name for name in order if name != chosen)]


class _Words:
    """A comparison in words."""

    def __init__(
        self, comparison: Comparison, costs: dict[str, float], about: Mapping[str, About], metric: Metric, first: str
    ) -> None:
        self.comparison, self.costs, self.about, self.metric, self.first = comparison, costs, about, metric, first
        self.method = comparison.chosen

    def title(self, name: str) -> str:
        return self.about[name].title if name in self.about else name

    def listed(self, names: Sequence[str]) -> str:
        titles = [self.title(name) for name in names]
        return titles[0] if len(titles) == 1 else f"{', '.join(titles[:-1])} and {titles[-1]}"

    def number(self, value: float) -> str:
        """As many digits as the margin is worth."""
        return f"{value:.{max(0, 1 - int(np.floor(log10(self.comparison.margin))))}f}"

    def sentences(self, told: bool, same: list[str]) -> Iterator[str]:
        found, level = self.comparison, f"{100 * self.comparison.confidence:g} %"
        error = found.errors[self.method]
        if told:
            yield f"Take {self.title(self.method)}."
        else:
            yield f"These tasks cannot tell which method is best; {self.title(self.method)} is the choice so far."
        yield (
            f"On a new task its {self.metric.name} is about {self.number(error.mean)} "
            f"({level} interval {self.number(error.low)} to {self.number(error.high)})."
        )
        yield from self._without_learning(told)
        if told and self.method in POOLED and not found.errors.keys().isdisjoint(ADAPTING):
            yield (
                "It does not adapt to a task, and no method tried here that adapts is better by more than the margin of "
                f"{self.number(self.comparison.margin)}: these tasks show no need of meta-learning."
            )
        if told:
            yield from self._equivalent(same)
        yield self._how_sure(told, level)
        yield from self._cost()
        yield from self._what_would_change_it(told)
        yield from self._diverged()
        yield from self._few()

    def _without_learning(self, told: bool) -> Iterator[str]:
        if self.method == NO_LEARNING:
            carries = f"what it takes from a task's {self.metric.support} does not carry over"
            yield (
                f"No method that learns is worth its cost here: {carries}."
                if told
                else "That learning helps at all is not shown."
            )
        elif (found := self.comparison.differences.get(NO_LEARNING)) and found.outcome != "diverged":
            without = self.comparison.errors[NO_LEARNING].mean
            taken = f"{100 * found.mean / without:.0f} %" if self.metric.from_zero else self.number(found.mean)
            beside = f"{self.title(NO_LEARNING)} has {self.number(without)}"
            if found.outcome == "worse":
                yield f"{beside}, so it takes {taken} of that {self.metric.name} away."
            else:
                yield f"{beside}; that learning helps at all is not shown."

    def _equivalent(self, same: list[str]) -> Iterator[str]:
        margin = self.number(self.comparison.margin)
        dearer = [name for name in same if self.costs[name] >= self.costs[self.method]]
        cheaper = sorted(set(same) - set(dearer), key=self.costs.__getitem__)
        if dearer:
            verb = "does" if len(dearer) == 1 else "do"
            more = "more" if all(self.costs[name] > self.costs[self.method] for name in dearer) else "no fewer"
            take = f"take{'s' * (verb == 'does')} {more} {self.metric.work}"
            yield f"{self.listed(dearer)} {verb} as well, within the margin of {margin}, and {take}."
        if cheaper:
            times = self.costs[self.method] / max(self.costs[cheaper[0]], 1e-30)
            how_much = f"{times:.0f} times " * (1.5 < times < 1e6)
            yield (
                f"{self.title(cheaper[0])} is as good within the margin of {margin} on the test tasks and {how_much}cheaper, "
                "which the validation tasks were too few to show: where its cost matters, take it instead."
            )

    def _how_sure(self, told: bool, level: str) -> str:
        found = self.comparison
        over = f"{found.tasks} test tasks"
        if found.question == "seeds":
            over += f" and {found.seeds} seeds" if found.seeds > 1 else " and one seed; another seed may come out differently"
        else:
            over += "; it speaks of these trained models, not of the method trained again"
        if len(found.errors) == 1:
            return f"There is no other method to compare it with, over {over}."
        if told:
            return f"How sure: with {level} confidence no other method is better{self._by(found.regret)}, over {over}."
        rivals = self._rivals()
        if not rivals:
            return (
                f"With {level} confidence no other method is better{self._by(found.regret)} on tasks like these, over {over}; "
                "so few do not show the kinds of task that are rare, on which methods may differ."
            )
        return (
            f"{self.listed(rivals)} may be better by up to {self.number(found.regret)}, which is more than the margin of "
            f"{self.number(found.margin)}, at {level} confidence over {over}."
        )

    def _by(self, regret: float) -> str:
        """' by more than 0.04 (margin 0.05)'; only the margin where all others are worse."""
        margin = f"(margin {self.number(self.comparison.margin)})"
        return f" by more than {self.number(regret)} {margin}" if float(self.number(regret)) > 0 else f" {margin}"

    def _rivals(self) -> list[str]:
        """Methods that may be better than the chosen one by more than the margin, the likeliest first."""
        found = self.comparison.differences
        return sorted(
            (name for name, one in found.items() if one.behind > self.comparison.margin), key=lambda name: -found[name].behind
        )

    def _cost(self) -> Iterator[str]:
        if self.method in self.about:
            cost = self.about[self.method]
            adapt = duration(cost.adapt_milliseconds / 1000)
            yield f"It costs {duration(cost.train_seconds)} to train and {adapt} to adapt to a task."

    def _what_would_change_it(self, told: bool) -> Iterator[str]:
        found = self.comparison
        better = [name for name, one in found.differences.items() if one.outcome == "better"]
        if better and not told:
            yield (
                f"On the test tasks {self.listed(better)} did better than the method that the validation tasks chose: "
                "validation tasks are too few, or unlike the test tasks."
            )
        if not told:
            yield (
                f"About {_rounded(found.more_tasks):,} more test tasks would tell."
                if found.more_tasks
                else "More tasks alone would not tell, since results differ too much from seed to seed: give more --seeds."
            )
        elif nearest := [name for name, one in found.differences.items() if one.outcome in ("inconclusive", "better")]:
            nearest.sort(key=lambda name: found.differences[name].mean)
            few, smaller = self.listed(nearest[:3]), ", so a smaller margin may prefer another" * bool(better)
            yield (
                f"What could change it: beside {few} it is not shown to be better, only not to be worse by more than the "
                f"margin{smaller}."
            )
        else:
            more = f"another number of {self.metric.support}"
            yield f"What could change it: tasks unlike these, {more}, or a smaller margin."

    def _diverged(self) -> Iterator[str]:
        if self.first != self.method:
            yield f"{self.title(self.first)} was chosen on the validation tasks, but diverged on test tasks."
        for name, count in self.comparison.diverged.items():
            seeds = f"{count} of its seeds" if count > 1 else "a seed"
            yield f"{self.title(name)} diverged on {seeds} (no finite error there) and is compared with nothing."

    def _few(self) -> Iterator[str]:
        tasks = self.comparison.tasks
        if tasks < FEW_TASKS:
            yield (
                f"Only {tasks} test tasks: this says little about tasks unlike them, and nothing about rare ones; "
                "intervals rest on few tasks and may be too narrow where errors differ much between tasks. "
                "What holds is the order of methods that differ by far."
            )


def _rounded(count: int) -> int:
    """Up, to two digits: nobody knows it better."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return -(-count // unit) * unit
