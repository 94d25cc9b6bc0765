"""Assembles `compare.json`, and copies the recommended method to `OUT/run`, an ordinary run."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.compare.budget import Plan
from fewstep.compare.methods import Method
from fewstep.compare.results import About, Comparison, Question, Scores, Verdict
from fewstep.compare.runner import Lengths, Runner, Scored, read_scored, read_stored
from fewstep.runs import open_run, write_json
from fewstep.version import __version__

ADAPTATIONS = 1_000
"""so many adaptations are counted beside the training where methods are compared by cost"""
MARGIN_PART = 0.05
"""of the error without learning"""


class ScoreTable:
    """All that was scored of one comparison: method -> by seed, over all folds."""

    def __init__(self, runner: Runner, seeds: dict[str, int], lengths: Any):
        self.runner = runner
        self.scored: dict[str, list[list[Scored]]] = {}
        for name, count in seeds.items():
            method, folds = runner.method(name), range(len(runner.benchmarks))
            self.scored[name] = [[runner.scored(method, seed, fold, lengths) for fold in folds] for seed in range(count)]

    def errors(self, name: str, split: str) -> np.ndarray:
        """[seeds, tasks], tasks of all folds."""
        return np.stack([np.concatenate([getattr(one, split) for one in by_fold]) for by_fold in self.scored[name]])

    def mean(self, name: str, what: str) -> float:
        """A number of the records, mean over seeds, summed over folds where it is time or work of training."""
        by_seed = [[one.record[what] for one in by_fold] for by_fold in self.scored[name]]
        whole = what in ("train_seconds", "operations")
        return sum(sum(each) / (1 if whole else len(each)) for each in by_seed) / len(by_seed)

    def cost(self, name: str) -> float:
        return self.mean(name, "operations") + ADAPTATIONS * self.mean(name, "adapt_operations")

    def scores(self, split: str) -> list[Scores]:
        return [Scores(name, self.errors(name, split), self.cost(name)) for name in self.scored]

    def about(self) -> dict[str, About]:
        return {
            name: About(self.runner.method(name).title, self.mean(name, "train_seconds"), self.mean(name, "adapt_milliseconds"))
            for name in self.scored
        }

    def first(self, name: str) -> dict[str, Any]:
        return self.scored[name][0][0].record

    def notes(self, name: str) -> str:
        return "; ".join(
            dict.fromkeys(one.record["note"] for by_fold in self.scored[name] for one in by_fold if one.record["note"])
        )

    def tasks(self) -> list[str]:
        return [name for benchmark in self.runner.benchmarks for name in benchmark.test.names]


def margin_of(table: ScoreTable, requested: float | None) -> float:
    """Errors that differ by less are as good as equal. By default a part of what the best method could take from no
    learning."""
    if requested is not None:
        return requested
    metric = table.runner.benchmarks[0].metric
    errors = {name: float(table.errors(name, "validation").mean()) for name in table.scored}
    best = 0.0 if metric.from_zero else min((error for error in errors.values() if math.isfinite(error)), default=0.0)
    found = MARGIN_PART * (errors["prior"] - best)
    return max(found if math.isfinite(found) else 0.0, metric.least_margin) or MARGIN_PART


def question_of(seeds: int) -> tuple[Question, str]:
    return ("seeds", f"the method, over {seeds} seeds") if seeds > 1 else ("models", "these very models, of one seed")


def interval(found: Any) -> dict[str, float | None]:
    return {name: number(getattr(found, name)) for name in ("mean", "low", "high")}


def number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def protocol_of(runner: Runner, plan: Plan, budget: float, spent: float) -> dict[str, Any]:
    first = runner.benchmarks[0]
    counts = {
        split: sum(len(getattr(benchmark, split).names) for benchmark in runner.benchmarks) for split in ("validation", "test")
    }
    return {
        **first.protocol,
        "validation_tasks": counts["validation"],
        "test_tasks": counts["test"],
        "seeds": list(range(plan.seeds)),
        "meta_steps": plan.meta_steps,
        "split_seed": first.seed,
        "budget_s": round(budget, 1),
        "spent_s": round(spent, 1),
        "cross_fitted": len(runner.benchmarks) > 1,
        "folds": len(runner.benchmarks),
        "given_up": list(plan.notes),
        "interval": "95 %, over seeds and tasks",
    }


def method_entry(method: Method, table: ScoreTable, comparison: Comparison, equal: dict[str, Any]) -> dict[str, Any]:
    """One method of `compare.json`."""
    name, record = method.name, table.first(method.name)
    difference = comparison.differences.get(name)
    validation = number(table.errors(name, "validation").mean())
    return {
        **described(method),
        "settings": record["choice"],
        "searched": table.runner.searched(method),
        "diverged": comparison.diverged.get(name, 0) > 0,
        "note": table.notes(name),
        "error": interval(comparison.errors[name]),
        "validation": validation,
        "difference": None if difference is None else {**interval(difference), "outcome": difference.outcome},
        "equal_compute": equal.get(name),
        "seeds": len(table.scored[name]),
        "meta_steps": record["meta_steps"],
        "adaptation_steps": record["steps"],
        "train_seconds": table.mean(name, "train_seconds"),
        "train_operations": table.mean(name, "operations"),
        "adapt_operations": table.mean(name, "adapt_operations"),
        "adapt_milliseconds": table.mean(name, "adapt_milliseconds"),
        "parameters": record["parameters"],
    }


def described(method: Method) -> dict[str, Any]:
    return {"name": method.name, "title": method.title, "family": method.family, "what": method.what}


def left_out_entry(method: Method, why: str) -> dict[str, Any]:
    """A method that took no part, and why."""
    nothing = ("error", "validation", "difference", "equal_compute", "train_seconds", "train_operations", "adapt_milliseconds")
    rest = {"settings": {}, "searched": [], "diverged": False, "note": why, "meta_steps": 0, "parameters": 0}
    return {**described(method), **rest, **dict.fromkeys(nothing), "left_out": True}


def content_of(
    runner: Runner,
    table: ScoreTable,
    verdict: Verdict,
    *,
    plan: Plan,
    margin: float,
    question: str,
    command: str,
    budget: float,
    spent: float,
    equal: dict[str, Any],
    left_out: dict[str, str],
    how_short: tuple[str, ...],
    more_sentences: tuple[str, ...],
) -> dict[str, Any]:
    """The content of `compare.json`, but for its curves and probes."""
    comparison, first = verdict.comparison, runner.benchmarks[0]
    order = [verdict.method, *sorted(set(table.scored) - {verdict.method}, key=lambda name: rank(comparison, name))]
    return {
        "fewstep": __version__,
        "problem": first.problem.name,
        "command": command,
        "question": question,
        "metric": {"name": first.metric.name, "title": first.metric.title, "lower_is_better": True},
        "unit_of_work": first.metric.work,
        "margin": margin,
        "protocol": protocol_of(runner, plan, budget, spent),
        "verdict": {
            "outcome": verdict.outcome,
            "method": verdict.method,
            "runner_up": verdict.runner_up,
            "more_tasks": verdict.more_tasks,
            "sentences": [verdict.sentences[0], *how_short, *verdict.sentences[1:], *more_sentences],
        },
        "methods": [method_entry(runner.method(name), table, comparison, equal) for name in order]
        + [left_out_entry(runner.method(name), why) for name, why in left_out.items()],
        "tasks": table.tasks(),
        "by_task": {name: [number(value) for value in table.errors(name, "test").mean(0)] for name in order},
    }


def rank(comparison: Comparison, name: str) -> tuple[bool, float]:
    mean = comparison.errors[name].mean
    return not math.isfinite(mean), mean


RUN = "run"
COPIED = ("parameters.npz", "metrics.jsonl", "checkpoints", "config.json")
"""what is copied of a run; with the last of it, it is one"""
SOURCE = "copied_from.json"
"""the method and the seed that were copied, written last"""


def save_recommended(runner: Runner, ranked: Sequence[str], lengths: Lengths, seeds: int) -> tuple[str, int] | None:
    """Writes `OUT/run`: the first of the `ranked` methods that can be an ordinary run, by the seed that is best on
    meta-validation tasks of the first fold. Returns (method, seed); None if none can be one."""
    for name in ranked:
        method = runner.method(name)
        found = {seed: runner.folder(method, seed, 0, lengths) for seed in range(seeds if method.seeded else 1)}
        scored = {seed: read_scored(folder) for seed, folder in found.items()}
        candidates = {seed: one.validation.mean() for seed, one in scored.items() if one.record["run"] and not one.diverged}
        if candidates:
            best = min(candidates, key=candidates.__getitem__)
            copy_run(found[best], runner.directory / RUN, {"method": name, "seed": best})
            return name, best
    return None


def copy_run(source: Path, target: Path, of: dict[str, Any]) -> None:
    """A run directory of its own, unless it is a copy of the same run already."""
    marker = target / SOURCE
    if marker.is_file() and read_stored(marker, dict) == of:
        return
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        elif (source / name).exists():
            shutil.copy2(source / name, target / name)
    write_json(marker, of)


def calibrate(directory: Path) -> None:
    """Gives the recommended run its calibration, unless it has one."""
    if not (directory / "calibration.json").is_file():
        run = open_run(directory)
        run.calibrate(run.problem())
