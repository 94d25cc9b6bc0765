"""What arms that are policies stand on (floor 5): the same held-out tasks, and as many trajectories of each, for every arm.

Stands where `Ground` does for models that predict. What an arm misses in a task is its cost, minus its return: in the units of
the rewards, and of either sign.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fewstep.apps.policies.run import as_json, task_in_words
from fewstep.compare.ground import Training
from fewstep.compare.results import Metric
from fewstep.errors import BadInput
from fewstep.maml import MetaState
from fewstep.problems.own_environment import OwnEnvironment
from fewstep.problems.policy_settings import PolicySettings
from fewstep.rl.problem import PolicyProblem, drawn_tasks, meta_step_of, returns_of
from fewstep.runs import open_run
from fewstep.tasks.simulation import Simulation
from fewstep.types import MetaParams

VALIDATION_TASKS, TEST_TASKS = 40, 40

Judge = Callable[["HeldTasks"], np.ndarray]
"""mean returns [tasks] of an arm"""


@dataclass(frozen=True)
class HeldTasks:
    """Tasks that training does not see, by the key that draws them: whoever asks gets the same ones."""

    names: tuple[str, ...]
    """[tasks]"""
    draws: int
    """trajectories of each for every update, and as many to judge what came of it"""
    key: int
    unseen: bool
    """whether they are held out, where the environment has such; else they are drawn as those of training are"""

    @property
    def count(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class PolicyGround:
    """One problem for policies."""

    settings: PolicySettings
    """the recipe: what arms change fields of"""
    problem: PolicyProblem
    seed: int
    """of the held-out tasks; the seeds of trainings are others"""
    validation: HeldTasks
    test: HeldTasks
    problems: dict[PolicySettings, PolicyProblem] = field(default_factory=dict, compare=False)
    """by settings: what arms have made of the problem"""

    predicts = False
    """policies adapt by acting: nothing is calibrated"""
    shot_counts: tuple[int, ...] = ()
    train_tasks: None = None

    @property
    def metric(self) -> Metric:
        updates = self.problem.updates
        title = f"minus the return of a trajectory after {updates} updates, mean over trajectories of sampled actions"
        return Metric("cost", title, from_zero=False, support="trajectories", work="environment steps")

    @property
    def protocol(self) -> dict[str, Any]:
        """What is told of how arms were judged."""
        about = {"updates": self.problem.updates, "trajectories_per_update": self.test.draws}
        return {"train_tasks": None, "episodes_per_task": 1, "shots": None, **about}

    def training(self, problem: PolicyProblem) -> Training:
        """How long a meta-step of `problem` takes is seen by this."""
        key, step = jax.random.key(0), meta_step_of(problem)

        def run(state: MetaState, length: int) -> MetaState:
            for _ in range(length):
                state, _ = step(state, key)
            return state

        return float(problem.environment_steps), run, problem.search.outer.init(problem.init(key))

    @staticmethod
    def most_steps(trained: int) -> int:
        """Up to how many updates arms are shown: more would take more trajectories."""
        return trained

    def returns(self, problem: PolicyProblem, params: MetaParams, held: HeldTasks) -> np.ndarray:
        """[tasks, updates + 1] mean returns after 0, 1, … updates, each on fresh trajectories."""
        key, updates = jax.random.key(held.key), self.problem.updates
        program = returns_of(problem, held.count, updates, key, held.draws, held.unseen)
        return np.asarray(program(params)[0].returns, np.float64)

    def errors(self, judge: Judge, split: str) -> np.ndarray:
        """[tasks]: the cost of each 'validation' or 'test' task."""
        return -np.asarray(judge(getattr(self, split)))

    @property
    def judgings(self) -> int:
        """How often a training that is validated five times, and then scored, is judged on a task."""
        return 5 * self.problem.judged_tasks + self.validation.count + self.test.count

    def params(self, folder: Path) -> MetaParams:
        """The trained parameters in the folder of a run of this comparison, whose environment was named for it."""
        env = self.settings.env if isinstance(self.settings, OwnEnvironment) else ""
        return open_run(folder, env).params()


def policy_ground(settings: PolicySettings, seed: int) -> PolicyGround:
    """The ground of a comparison of policies. Raises `BadInput` where the problem cannot be built."""
    problem = replace(settings.build(seed), judged_rollouts=settings.rollouts)
    simulated = isinstance(problem.environment, Simulation)

    def held(split: int, count: int, unseen: bool) -> HeldTasks:
        key = 1_000_000 * (seed + 1) + split
        drawn = drawn_tasks(problem, count, jax.random.key(key), unseen)
        each = drawn if simulated else [jax.tree.map(lambda leaf, task=task: leaf[task], drawn) for task in range(count)]
        names = tuple(f"{number + 1}: {task_in_words(as_json(task))}" for number, task in enumerate(each))
        return HeldTasks(names, settings.rollouts, key, unseen)

    return PolicyGround(settings, problem, seed, held(1, VALIDATION_TASKS, False), held(2, TEST_TASKS, True))


def grounds(
    settings: PolicySettings, seed: int, note: Callable[[str], None], *, budget: float, embeddings: str = ""
) -> tuple[PolicyGround]:
    """The one ground of a comparison of policies."""
    if embeddings:
        raise BadInput("--embeddings are of photos: leave them out, or compare on images.")
    return (policy_ground(settings, seed),)
