"""Learning curves of a few methods: by support examples, by adaptation steps and by meta-train tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from fewstep.compare.episodes import Benchmark
from fewstep.compare.methods import Fitted
from fewstep.compare.runner import Lengths, Runner
from fewstep.core.tasks import TaskFamily
from fewstep.core.types import Episode
from fewstep.errors import TrainingError
from fewstep.training.loop import OutOfTime

STEPS = (0, 1, 2, 3, 5, 10, 20)
PARTS = (0.25, 0.5)
"""of the meta-train tasks, beside all of them"""
LEAST_TASKS = 4


def by_shots(runner: Runner, fitted: dict[str, Fitted], in_time: Callable[[], bool]) -> dict[str, Any] | None:
    """Mean errors on meta-test tasks by the number of support examples; None where episodes have no room for others."""
    benchmark = runner.benchmarks[0]
    counts = benchmark.shot_counts
    if len(counts) < 2 or not in_time():
        return None
    found: dict[str, list[float | None]] = {name: [] for name in fitted}
    for shots in counts:
        if not in_time():
            return None
        runner.say(f"{shots} support examples")
        held_out = benchmark.at_shots(shots)
        for name, one in fitted.items():
            found[name].append(finite(held_out.errors(one.predict, benchmark.unit, benchmark.classes)))
    return {"shots": list(counts), "methods": found}


def by_steps(runner: Runner, fitted: dict[str, Fitted], in_time: Callable[[], bool]) -> dict[str, Any] | None:
    """Mean errors on meta-test tasks by the number of adaptation steps, of methods that make some."""
    benchmark = runner.benchmarks[0]
    moving = {name: one for name, one in fitted.items() if one.steps and one.after}
    if not moving or not in_time():
        return None
    most = max(one.steps or 0 for one in moving.values())
    beyond = benchmark.most_steps(most)
    steps = [count for count in STEPS if count <= beyond] if most > 1 else [0, 1]
    found: dict[str, list[float | None]] = {name: [] for name in moving}
    for count in steps:
        if not in_time():
            return None
        runner.say(f"{count} adaptation steps")
        for name, one in moving.items():
            found[name].append(finite(benchmark.errors(after(one, count), "test")))
    return {"steps": steps, "methods": found}


def after(one: Fitted, steps: int) -> Callable[[Episode], Any]:
    """How a method predicts after so many adaptation steps."""
    ask = one.after
    assert ask is not None
    return lambda episodes: ask(episodes, steps)


def by_tasks(
    runner: Runner, names: Sequence[str], lengths: Lengths, known: dict[str, float | None], in_time: Callable[[str], bool]
) -> dict[str, Any] | None:
    """Mean errors on meta-test tasks by the number of meta-train tasks: each method is trained again on parts of them, by the
    first seed; `known` are its errors after all of them. Methods for which there is no time are left out."""
    whole = runner.benchmarks[0]
    size = whole.train_tasks
    if size is None:
        return None
    counts = [count for part in PARTS if (count := int(part * size)) >= LEAST_TASKS]
    found: dict[str, list[float | None]] = {}
    for name in names:
        if not counts or not in_time(name):
            continue
        errors = []
        try:
            for count in counts:
                runner.say(f"{runner.method(name).title}, {count} meta-train tasks")
                errors.append(on_part(runner, name, lengths, part_of(whole, count), count))
        except OutOfTime:
            break
        found[name] = [*errors, known[name]]
    return {"tasks": [*counts, size], "methods": found} if found else None


def on_part(runner: Runner, name: str, lengths: Lengths, benchmark: Benchmark, count: int) -> float | None:
    """The error of a method that saw so many meta-train tasks; kept in a folder of its own, beside the others."""
    directory = runner.directory / "methods" / "by-tasks" / str(count)
    part = Runner(directory, (benchmark,), runner.say, runner.late)
    try:
        return finite(part.scored(part.method(name), 0, 0, lengths._replace(search=False)).test)
    except TrainingError:
        return None


def part_of(benchmark: Benchmark, count: int) -> Benchmark:
    """The same benchmark with so many of its meta-train tasks, drawn at random."""
    splits = benchmark.problem.splits
    assert splits is not None and splits.train.size is not None
    numbers = np.sort(np.random.default_rng(benchmark.seed).permutation(splits.train.size)[:count])
    problem = replace(benchmark.problem, splits=replace(splits, train=subset(splits.train, numbers)))
    return Benchmark(benchmark.settings, problem, benchmark.seed, benchmark.validation, benchmark.test, benchmark.images)


def subset(family: TaskFamily, numbers: np.ndarray) -> TaskFamily:
    """The tasks with these numbers alone."""
    place = jnp.asarray(numbers)
    examples = family.examples
    return replace(
        family,
        episode=lambda task, key, shots=None: family.episode(place[task], key, shots),
        size=len(numbers),
        examples=None if examples is None else lambda task: examples(place[task]),
        names=None if family.names is None else tuple(family.names[number] for number in numbers),
        lengths=None if family.lengths is None else family.lengths[numbers],
        resized=None,
    )


def finite(errors: np.ndarray) -> float | None:
    mean = float(np.mean(errors))
    return mean if np.isfinite(mean) else None
