"""Base class of applications whose models predict, from rows of numbers or from images.

A subclass defines its problems; the defaults are those of rows of numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.application import (
    AdaptedModel,
    Command,
    Contents,
    EvaluationOptions,
    Example,
    Json,
    Presets,
    Saved,
    Settings,
    Source,
    resolve,
)

if TYPE_CHECKING:
    from fewstep.core.types import MetaParams

ROWS: Mapping[str, Command] = {
    "adapt": Command("fewstep.apps.rows.cli:Adapt", "fit a run to new tasks from a few examples of each, or by acting in one"),
    "update": Command("fewstep.apps.rows.cli:Update", "adapt again, to old and new examples together", "adapted"),
    "predict": Command(
        "fewstep.apps.rows.cli:Predict", "predict with an adapted model: numbers, classes, intervals", "adapted"
    ),
}
"""the commands of models that adapt to the rows of a table"""


class SupervisedApplication:
    """An application whose problems are `fewstep.core.problem.Problem`s on rows of numbers."""

    name: str = ""
    capabilities: frozenset[str] = frozenset({"calibration", "data", "processes", "rates", "estimates"})
    commands: Mapping[str, Command] = ROWS
    evaluation: Mapping[str, str] = {"steps": "", "tasks": "", "draws": "", "shots": "shots"}

    @property
    def problems(self) -> Mapping[str, type[Settings]]:
        raise NotImplementedError

    @property
    def presets(self) -> Mapping[str, Presets]:
        raise NotImplementedError

    @property
    def figures(self) -> Mapping[str, Callable[[Contents], Any]]:
        """Curves, pages of unseen tasks, and those that adaptation misses most."""
        from fewstep.apps.rows.plots import unseen_tasks, worst_tasks
        from fewstep.plots.curves import adaptation, by_shots, training

        pages = {"unseen_tasks": unseen_tasks, "worst_tasks": worst_tasks}
        return {"training": training, "adaptation": adaptation, "shots": by_shots, **pages}

    @property
    def methods(self) -> Sequence[Any]:
        """Those on rows, but for the one that is for tables alone."""
        return [method for method in of_rows() if method.name != "tabpfn"]

    def build(self, settings: Settings, seed: int, saved: Saved | None = None, trusted: str = "") -> Any:
        """The Problem, as the settings build it."""
        del trusted
        return settings.build(seed) if saved is None else settings.build(seed, settings.read_format(saved.config["format"]))

    def candidates(self, settings: Settings) -> Mapping[str, Settings]:
        return settings.candidates()

    def sources(self, settings: Settings) -> Mapping[str, Source]:
        """None: tasks are drawn."""
        return {}

    def named_code(self, settings: Settings) -> str:
        return ""

    def describe(self, problem: Any) -> Sequence[str]:
        """The notes that were made when the problem was built."""
        return problem.notes

    def record(self, problem: Any) -> Json:
        """How files become examples, and which tasks are in which split."""
        return {"format": problem.format.to_json(), "tasks": names_of_tasks(problem)}

    def calibrate(self, problem: Any, params: MetaParams, directory: Path) -> Json:
        from fewstep.supervised.conformal import calibrate

        return calibrate(problem, params)

    def check_calibration(self, calibration: Json, problem: Any) -> None:
        from fewstep.supervised.conformal import require_calibration

        require_calibration(calibration, problem)

    def evaluate(self, problem: Any, params: MetaParams, calibration: Json, options: EvaluationOptions) -> Json:
        """Errors after several numbers of steps; of the evaluation that is kept also beside classical models and by shots."""
        from fewstep.supervised import report
        from fewstep.training.progress import working

        steps, tasks = options.steps or problem.evaluation_steps, options.tasks or 1000
        with working("evaluating on unseen tasks, beside the cheapest classics", options.quiet):
            result = report.measure(problem, params, steps, tasks, options.draws, beside=options.full)
        result["protocol"] |= self.trained_protocol(options.trained or problem.settings)
        if options.full:
            with working("measuring by number of support examples", options.quiet or not problem.shot_counts):
                result |= report.measure_more(problem, params, calibration)
        return result

    def trained_protocol(self, settings: Settings) -> Json:
        """What the protocol of a result says of the training."""
        return {"trained_shots": settings.shot_range.shown}

    def illustrate(self, problem: Any, params: MetaParams, calibration: Json, result: Json) -> Json:
        """A few unseen tasks before and after adaptation, and those with the greatest errors."""
        from fewstep.supervised import report

        if problem.illustrate is None:
            return {}
        return report.drawings(problem, params, tuple(result["steps"]), calibration, report.worst_tasks(result))

    def adapt(self, run: Any, support: Any, **options: Any) -> AdaptedModel:
        """Adapts to the rows of a `polars.DataFrame`, or of a file of rows."""
        from fewstep.storage.tables import read_table
        from fewstep.supervised.adapted import adapt

        if isinstance(support, str | Path):
            labels = run.problem(with_data=False).format.labels
            return adapt(run, read_table(str(support), labels=labels), str(support), **options)
        return adapt(run, support, **options)

    def open_adapted(self, directory: Path) -> AdaptedModel:
        from fewstep.supervised.adapted_folder import open_units

        return open_units(directory)

    def benchmark(self, settings: Settings, seed: int, say: Callable[[str], None], **options: Any) -> Sequence[Any]:
        """The same held-out episodes for all methods."""
        return resolve("fewstep.compare.splits:make_benchmarks")(settings, seed, say, **options)

    def example(self, folder: Path) -> Example:
        raise NotImplementedError


def of_rows() -> Sequence[Any]:
    """All methods that predict from rows of numbers."""
    return resolve("fewstep.compare.methods:OF_ROWS")  # type: ignore[return-value]


def names_of_tasks(problem: Any) -> dict[str, list[str]] | None:
    """Which tasks are in which split, if tasks have names."""
    families = {field.name: vars(problem.splits)[field.name] for field in fields(problem.splits) if field.name != "left_out"}
    return {split: list(family.names) for split, family in families.items() if family and family.names} or None
