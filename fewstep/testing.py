"""Checks for applications, ours and other people's.

    from fewstep.testing import check_application
    check_application(fewstep_bowls.APPLICATION, tmp_path)

One battery that every application passes, as scikit-learn's `check_estimator` is for estimators. Each step that fails
names the member of `fewstep.application.Application` that is at fault."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fewstep import runs
from fewstep.application import (
    AdaptedModel,
    Application,
    Example,
    application,
    application_of_problem,
    missing,
    open_adapted,
    problem_of,
    resolve,
)
from fewstep.errors import InputError
from fewstep.plots import draw
from fewstep.training import loop
from fewstep.training.loop import OutOfTime

EVALUATION = ("problem", "metric", "tasks", "steps", "mean", "ci95", "protocol")
"""what the content of an `evaluation.json` has to have"""


class CheckFailed(AssertionError):
    """An application does not do what the protocol says. The message names the member at fault."""


def check_application(app: Application, folder: Path) -> None:
    """Trains, stops and resumes, evaluates, adapts, saves, opens, predicts and compares with the application's own example, in
    the empty `folder`. Raises `CheckFailed` for the first step that fails."""
    check_members(app)
    with step("example"):
        example = app.example(new(folder / "data"))
    check_settings(app, example)
    run = check_training(app, example, folder)
    check_resuming(app, example, run, folder)
    check_evaluation(app, run)
    check_adaptation(app, example, run, folder)
    check_benchmark(app, example)


@contextmanager
def step(member: str) -> Iterator[None]:
    """Whatever is raised within is the fault of this member."""
    try:
        yield
    except CheckFailed:
        raise
    except Exception as error:
        raise CheckFailed(f"{member}: {type(error).__name__}: {error}") from error


def require(member: str, fine: bool, expected: str) -> None:
    """Raises `CheckFailed` unless it is `fine`."""
    if not fine:
        raise CheckFailed(f"{member}: expected {expected}")


def check_members(app: Application) -> None:
    """All members are there, and what they name can be imported."""
    if absent := missing(app):
        raise CheckFailed(f"{absent[0]}: expected a member of this name; absent: {', '.join(absent)}")
    require("name", application(app.name) is app, "the name of the entry point that gives this application")
    with step("problems"):
        problems = app.problems
        require("problems", all(kind.__doc__ for kind in problems.values()), "settings with docstrings, their line of help")
        require("problems", all(application_of_problem(name) is app for name in problems), "names that no other one has")
    with step("presets"):
        presets = app.presets
        require("presets", set(presets) == set(problems), "presets of each problem")
        require("presets", all("default" in known for known in presets.values()), "a preset named default of each problem")
        fine = all(type(settings) is problems[name] for name, known in presets.items() for settings, _ in known.values())
        require("presets", fine, "settings of the problem's own type")
    for name, command in app.commands.items():
        with step(f"commands[{name!r}]"):
            require(f"commands[{name!r}]", callable(resolve(command.target)), "a class that can be called")


def check_settings(app: Application, example: Example) -> None:
    """The example's settings are known, and bad ones are refused before anything is built."""
    with step("problems"):
        require("problems", problem_of(example.settings)[0] is app, "the type of the example's settings among its values")
    for name, value in example.bad.items():
        try:
            app.build(replace(example.settings, **{name: value}), 0)
        except InputError:
            continue
        except Exception as error:
            raise CheckFailed(
                f"build: expected InputError for {name}={value!r}, got {type(error).__name__}: {error}"
            ) from error
        raise CheckFailed(f"build: expected InputError for {name}={value!r}, got a problem")


def check_training(app: Application, example: Example, folder: Path) -> runs.Run:
    """A tiny training ends, and its run opens without data as it was written."""
    with step("build"):
        app.build(example.settings, 0)
    with step("describe"):
        lines = app.describe(app.build(example.settings, 0))
        require("describe", all(isinstance(line, str) for line in lines), "lines of text")
    with step("build"):
        run = runs.train(example.settings, folder / "run", quiet=True)
    assert run is not None
    with step("build"):
        opened = runs.open_run(folder / "run")
        require("build", same(opened.params(), run.params()), "the same parameters from a run that is opened")
    require("record", json_like(app.record(run.problem())), "a value that JSON has")
    return run


def check_resuming(app: Application, example: Example, run: runs.Run, folder: Path) -> None:
    """A training that runs out of time after its first meta-steps goes on bit for bit."""
    calls = iter([False, True])
    with step("build"):
        problem, stopped = app.build(example.settings, 0), new(folder / "stopped")
        runs.write_config(example.settings, problem, stopped, 0, "default")
        with suppress(OutOfTime):
            loop.train(problem, stopped, seed=0, quiet=True, late=lambda: next(calls, True))
        resumed = runs.resume(runs.open_run(stopped), quiet=True)
    assert resumed is not None
    require("build", same(resumed.params("last"), run.params("last")), "the same bits as of a training that never stopped")


def check_evaluation(app: Application, run: runs.Run) -> None:
    """The figures are there, are plain data, and change nothing when they are measured again; pictures are drawn of them."""
    with step("evaluate"):
        result = run.write_evaluation(quiet=True)
    require("evaluate", all(name in result for name in EVALUATION), f"{', '.join(EVALUATION)} in its result")
    require("evaluate", json_like(result), "a value that JSON has")
    require("evaluate", len(result["mean"]) == len(result["steps"]) == len(result["ci95"]), "a mean for each number of steps")
    with step("evaluate"):
        again = run.evaluate()
    require("evaluate", again["mean"] == result["mean"], "the same figures when they are measured again")
    for option, value in {"steps": (1,), "tasks": 1, "draws": 1}.items():
        if option not in app.evaluation:
            given: dict[str, Any] = {option: value}
            refused("evaluation", lambda given=given: run.evaluate(**given))
    with step("figures"):
        require("figures", bool(draw(run.directory)), "at least one picture of a run that is evaluated")


def check_adaptation(app: Application, example: Example, run: runs.Run, folder: Path) -> None:
    """An adapted model predicts the same after it was saved and opened."""
    with step("adapt"):
        model = run.adapt(example.support)
    require("adapt", isinstance(model, AdaptedModel), "a model with the methods predict and save")
    with step("adapt"):
        before = model.predict(example.inputs)
        model.save(folder / "adapted")
    with step("open_adapted"):
        after = open_adapted(folder / "adapted").predict(example.inputs)
    require("open_adapted", same(before, after), "the same predictions from a model that is opened")
    refused("open_adapted", lambda: open_adapted(run.directory))


def check_benchmark(app: Application, example: Example) -> None:
    """There is something to compare on, and the first method, which learns nothing, has an error for each task."""
    with step("benchmark"):
        benchmarks = app.benchmark(example.settings, 0, lambda text: None, budget=600.0)
        require("benchmark", len(benchmarks) > 0, "at least one split")
    with step("methods"):
        methods = list(app.methods)
        names = [method.name for method in methods]
        require("methods", len(set(names)) == len(names) and "maml" in names, "different names, maml among them")
        late = [method.name for place, method in enumerate(methods) if method.depends_on in names[place + 1 :]]
        require("methods", not late, "methods that start from another one behind it")


def refused(member: str, work: Callable[[], Any]) -> None:
    """Raises `CheckFailed` unless `work` raises `InputError`."""
    try:
        work()
    except InputError:
        return
    raise CheckFailed(f"{member}: expected InputError, nothing was raised")


def same(one: Any, other: Any) -> bool:
    """Whether two trees of arrays are the same bits."""
    leaves = jax.tree.leaves(one), jax.tree.leaves(other)
    return len(leaves[0]) == len(leaves[1]) and all(np.array_equal(left, right) for left, right in zip(*leaves, strict=True))


def json_like(value: Any) -> bool:
    """Whether JSON has this value."""
    try:
        return bool(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return False


def new(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
