"""The application `policies`, as `fewstep.application.Application` describes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from fewstep.apps.rows.application import ROWS
from fewstep.errors import InputError

if TYPE_CHECKING:
    from fewstep.core.types import MetaParams

TASKS = 40
"""test tasks, unless another number is asked for"""


class PoliciesApplication:
    """Tasks are goals, velocities or directions in one environment. What counts are returns; there are no rows to adapt to."""

    name = "policies"
    capabilities = frozenset({"environments"})
    commands: Mapping[str, Command] = {
        "adapt": ROWS["adapt"]._replace(target="fewstep.apps.policies.cli:Adapt"),
        "play": Command(
            "fewstep.apps.policies.play:Play", "a moving picture of what adaptation changes: of a robot, of a policy"
        ),
    }
    evaluation: Mapping[str, str] = {"steps": "", "tasks": ""}

    @property
    def problems(self) -> Mapping[str, type[Settings]]:
        from fewstep.apps.policies.problems import LOCOMOTION, Nav2d, OwnEnvironment

        return {"nav2d": Nav2d, **LOCOMOTION, "rl": OwnEnvironment}

    @property
    def presets(self) -> Mapping[str, Presets]:
        from fewstep.apps.policies.problems import LOCOMOTION_PRESETS, NAV2D_PRESETS, OWN_ENVIRONMENT_PRESETS

        return {"nav2d": NAV2D_PRESETS, **LOCOMOTION_PRESETS, "rl": OWN_ENVIRONMENT_PRESETS}

    @property
    def figures(self) -> Mapping[str, Callable[[Contents], Any]]:
        from fewstep.apps.policies.plots import FIGURES

        return FIGURES

    @property
    def methods(self) -> Sequence[Any]:
        return resolve("fewstep.apps.policies.compare:POLICIES")  # type: ignore[return-value]

    def build(self, settings: Settings, seed: int, saved: Saved | None = None, trusted: str = "") -> Any:
        """The PolicyProblem, in its own environment or in that of `trusted`, module:factory. Raises `InputError` if the
        environment cannot be made, or is not of the sizes that a saved policy was trained for."""
        from fewstep.apps.policies.run import build_problem

        return build_problem(settings, seed, saved, trusted)

    def candidates(self, settings: Settings) -> Mapping[str, Settings]:
        return {}

    def sources(self, settings: Settings) -> Mapping[str, Source]:
        return {}

    def named_code(self, settings: Settings) -> str:
        return getattr(settings, "env", "")

    def describe(self, problem: Any) -> Sequence[str]:
        return problem.notes

    def record(self, problem: Any) -> Json:
        """The sizes of observations and actions."""
        from fewstep.apps.policies.run import sizes_of

        return {"sizes": sizes_of(problem)}

    def calibrate(self, problem: Any, params: MetaParams, directory: Path) -> Json:
        """Nothing: returns need no calibration."""
        return {}

    def check_calibration(self, calibration: Json, problem: Any) -> None:
        pass

    def evaluate(self, problem: Any, params: MetaParams, calibration: Json, options: EvaluationOptions) -> Json:
        """Mean returns on test tasks, after 0 to the most of the `steps` updates."""
        from fewstep.apps.policies.report import evaluate_policies
        from fewstep.training.progress import working

        updates, tasks = updates_of(problem, options.steps), options.tasks or TASKS
        with working(f"evaluating on {tasks} unseen tasks", options.quiet):
            result = evaluate_policies(problem, params, updates, tasks)
        result["environment_steps"]["training"] = options.record()["totals"]["environment_steps"]
        return result

    def illustrate(self, problem: Any, params: MetaParams, calibration: Json, result: Json) -> Json:
        """The ways that a few policies take, before adaptation and after each update."""
        from fewstep.apps.policies.report import ways_shown

        return ways_shown(problem, params, max(result["steps"]))

    def adapt(self, run: Any, support: Any = None, **options: Any) -> AdaptedModel:
        """Acts in the task `support`, or in an unseen one, and adapts by turns."""
        from fewstep.apps.policies.run import adapt_policy

        return adapt_policy(run, support, **options)[0]

    def open_adapted(self, directory: Path) -> AdaptedModel:
        from fewstep.apps.policies.adapted import open_policy

        return open_policy(directory)

    def benchmark(self, settings: Settings, seed: int, say: Callable[[str], None], **options: Any) -> Sequence[Any]:
        """The same held-out tasks for all methods, and as many trajectories."""
        return resolve("fewstep.apps.policies.compare:make_benchmarks")(settings, seed, say, **options)

    def example(self, folder: Path) -> Example:
        import numpy as np

        from fewstep.apps.policies.problems import Nav2d

        settings = Nav2d(meta_batch_size=2, rollouts=3, hidden=(4,), meta_steps=4, log_every=2)
        return Example(settings, np.array([0.1, 0.4], np.float32), (0.0, 0.0), {"rollouts": 0, "discount": 2.0})


def updates_of(problem: Any, steps: Sequence[Any] | None) -> int:
    """The most updates after which policies are evaluated."""
    if steps is None:
        return problem.updates
    if "auto" in steps or max(steps) < 1:
        raise InputError("--steps: of a policy expected numbers of updates, at least one of them above 0, such as 0,1,2,3.")
    return max(steps)


APPLICATION = PoliciesApplication()
