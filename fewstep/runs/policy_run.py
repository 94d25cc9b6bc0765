"""The run of a policy (floor 4): as any run, but what it is judged by are returns, and there are no rows to adapt it to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from fewstep.errors import BadInput
from fewstep.problems.policy_settings import PolicySettings
from fewstep.rl.problem import PolicyProblem
from fewstep.runs.config import write_settings
from fewstep.runs.files import new_directory, write_json
from fewstep.training.checkpoint import Checkpoints
from fewstep.training.policy_loop import train_policy
from fewstep.training.policy_report import evaluate_policies, ways_shown
from fewstep.types import MetaParams

TASKS = 40
"""test tasks, unless another number is asked for"""


@dataclass(frozen=True)
class PolicyRun:
    """A trained policy and the folder that holds all of it."""

    directory: Path
    config: dict[str, Any]
    settings: PolicySettings

    @property
    def seed(self) -> int:
        return self.config["seed"]

    def problem(self, with_data: bool = True) -> PolicyProblem:
        return self.settings.build(self.seed)

    def params(self, which: str = "best") -> MetaParams:
        """The meta-parameters of the 'best' checkpoint (on validation tasks) or of the 'last'."""
        problem = self.problem()
        like = jax.eval_shape(lambda: problem.search.outer.init(problem.init(jax.random.key(0))))
        with Checkpoints(self.directory / "checkpoints", "read") as checkpoints:
            state, _ = checkpoints.restore(like, which)
        return jax.tree.map(jax.numpy.asarray, state.params)

    def calibration(self) -> dict[str, Any]:
        """Raises `BadInput`: what asks for it would predict."""
        raise BadInput(
            f"{self.directory}: expected a run whose model predicts, got a policy ({self.config['problem']}). It adapts by "
            "acting: fewstep evaluate shows how well."
        )

    def resume(self, quiet: bool = False) -> PolicyRun:
        """Goes on from the last checkpoint to the planned number of meta-steps, bit for bit as if never stopped."""
        train_policy(self.problem(), self.directory, seed=self.seed, resume=True, quiet=quiet)
        return self

    def evaluate(
        self,
        steps: Sequence[Any] | None = None,
        tasks: int = TASKS,
        draws: int | None = None,
        which: str = "best",
        **changes: Any,
    ) -> dict[str, Any]:
        """The figures of `evaluation.json` on test tasks, after 0 to the most of `steps` updates."""
        updates = self._updates(steps)
        result = evaluate_policies(self.problem(), self.params(which), updates, tasks)
        return {"problem": result.pop("problem"), "preset": self.config["preset"], **result}

    def write_evaluation(self, steps: Sequence[Any] | None = None) -> dict[str, Any]:
        """Evaluates the best checkpoint; writes `evaluation.json` and `illustrations.json`, from which pictures are drawn."""
        result = self.evaluate(steps)
        write_json(self.directory / "evaluation.json", result)
        write_json(self.directory / "illustrations.json", ways_shown(self.problem(), self.params(), self._updates(steps)))
        return result

    def _updates(self, steps: Sequence[Any] | None) -> int:
        if steps is None:
            return self.problem().updates
        if "auto" in steps or max(steps) < 1:
            raise BadInput("--steps: of a policy expected numbers of updates, at least one of them above 0, such as 0,1,2,3.")
        return max(steps)


def train_policy_run(
    settings: PolicySettings,
    directory: str | Path,
    *,
    seed: int = 0,
    preset: str = "default",
    quiet: bool = False,
    announce: Callable[[Any], None] | None = None,
) -> PolicyRun:
    """Meta-trains the policy that `settings` describe into the new folder `directory`. Raises `BadInput` before anything is
    written."""
    problem = settings.build(seed)
    directory = new_directory(directory)
    if announce:
        announce(problem)
    config = write_settings(settings, problem.name, directory, seed, preset)
    train_policy(problem, directory, seed=seed, quiet=quiet)
    return PolicyRun(directory, config, settings)
