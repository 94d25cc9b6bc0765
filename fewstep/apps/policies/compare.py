"""What methods that are policies stand on: the same held-out tasks, and as many trajectories of each, for every method.

Stands where `Benchmark` does for models that predict. What a method misses in a task is its cost, minus its return: in the
units of the rewards, and of either sign.

Methods that are policies: a few policy-gradient steps from untrained parameters, from one policy for all tasks, or
from where meta-learning leads. All are judged after as many updates, on as many trajectories.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fewstep.apps.policies.environment import Simulation
from fewstep.apps.policies.model import PolicyProblem, compiled_meta_step, returns_program, sample_tasks_of
from fewstep.apps.policies.problems import OwnEnvironment
from fewstep.apps.policies.run import task_in_words, task_to_json
from fewstep.apps.policies.settings import PolicySettings
from fewstep.compare.episodes import Training
from fewstep.compare.methods.method import Choice, Fitted, Method, Saved, Work
from fewstep.compare.results import Metric
from fewstep.core.maml import MetaState
from fewstep.core.types import MetaParams
from fewstep.errors import InputError
from fewstep.runs import open_run
from fewstep.runs.config import write_config
from fewstep.training import loop
from fewstep.training.checkpoint import Checkpoints, has_checkpoint

VALIDATION_TASKS, TEST_TASKS = 40, 40

MeanReturns = Callable[["HeldOutTasks"], np.ndarray]
"""mean returns [tasks] of a method"""


@dataclass(frozen=True)
class HeldOutTasks:
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
class PolicyBenchmark:
    """One problem for policies."""

    settings: PolicySettings
    """the recipe: what methods change fields of"""
    problem: PolicyProblem
    seed: int
    """of the held-out tasks; the seeds of trainings are others"""
    validation: HeldOutTasks
    test: HeldOutTasks
    problems: dict[PolicySettings, PolicyProblem] = field(default_factory=dict, compare=False)
    """by settings: what methods have made of the problem"""

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
        """What is told of how methods were judged."""
        about = {"updates": self.problem.updates, "trajectories_per_update": self.test.draws}
        return {"train_tasks": None, "episodes_per_task": 1, "shots": None, **about}

    def training(self, problem: PolicyProblem) -> Training:
        """How long a meta-step of `problem` takes is seen by this."""
        key, step = jax.random.key(0), compiled_meta_step(problem)

        def run(state: MetaState, length: int) -> MetaState:
            for _ in range(length):
                state, _ = step(state, key)
            return state

        return float(problem.environment_steps), run, problem.search.outer.init(problem.init(key))

    @staticmethod
    def most_steps(trained: int) -> int:
        """Up to how many updates methods are shown: more would take more trajectories."""
        return trained

    def returns(self, problem: PolicyProblem, params: MetaParams, held_out: HeldOutTasks) -> np.ndarray:
        """[tasks, updates + 1] mean returns after 0, 1, … updates, each on fresh trajectories."""
        key, updates = jax.random.key(held_out.key), self.problem.updates
        program = returns_program(problem, held_out.count, updates, key, held_out.draws, held_out.unseen)
        return np.asarray(program(params)[0].returns, np.float64)

    def errors(self, judge: MeanReturns, split: str) -> np.ndarray:
        """[tasks]: the cost of each 'validation' or 'test' task."""
        return -np.asarray(judge(getattr(self, split)))

    @property
    def validations(self) -> int:
        """How often a training that is validated five times, and then scored, is judged on a task."""
        return 5 * self.problem.validation_tasks + self.validation.count + self.test.count

    def params(self, folder: Path) -> MetaParams:
        """The trained parameters in the folder of a run of this comparison, whose environment was named for it."""
        env = self.settings.env if isinstance(self.settings, OwnEnvironment) else ""
        return open_run(folder, env).params()


def make_policy_benchmark(settings: PolicySettings, seed: int) -> PolicyBenchmark:
    """The benchmark of a comparison of policies. Raises `InputError` where the problem cannot be built."""
    problem = replace(settings.build(seed), evaluation_rollouts=settings.rollouts)
    simulated = isinstance(problem.environment, Simulation)

    def held_out(split: int, count: int, unseen: bool) -> HeldOutTasks:
        key = 1_000_000 * (seed + 1) + split
        drawn = sample_tasks_of(problem, count, jax.random.key(key), unseen)
        each = drawn if simulated else [jax.tree.map(lambda leaf, task=task: leaf[task], drawn) for task in range(count)]
        names = tuple(f"{number + 1}: {task_in_words(task_to_json(task))}" for number, task in enumerate(each))
        return HeldOutTasks(names, settings.rollouts, key, unseen)

    return PolicyBenchmark(settings, problem, seed, held_out(1, VALIDATION_TASKS, False), held_out(2, TEST_TASKS, True))


def make_benchmarks(
    settings: PolicySettings, seed: int, note: Callable[[str], None], *, budget: float, embeddings: str = ""
) -> tuple[PolicyBenchmark]:
    """The one benchmark of a comparison of policies."""
    if embeddings:
        raise InputError("--embeddings are of photos: leave them out, or compare on images.")
    return (make_policy_benchmark(settings, seed),)


RATES = (0.1, 0.03, 0.3, 0.01, 1.0)
"""of policy-gradient steps"""
NO_RATE = 1e-12
"""what trains without adapting: as many trajectories as meta-learning takes, and none is learned from twice"""
LOGGED = 5
"""A training is validated and saved so many times."""
PLAIN: dict[str, Any] = {"inner_optimizer": "sgd", "inner_rate": NO_RATE}


def adapts(benchmark: PolicyBenchmark, choice: Choice, meta_steps: int) -> tuple[PolicySettings, PolicyProblem]:
    """The recipe, over so many meta-steps."""
    return built(benchmark, benchmark.settings, meta_steps)


def does_not_adapt(benchmark: PolicyBenchmark, choice: Choice, meta_steps: int) -> tuple[PolicySettings, PolicyProblem]:
    """The same without adapting: one policy for all tasks."""
    return built(benchmark, replace(benchmark.settings, **PLAIN), meta_steps)


def built(benchmark: PolicyBenchmark, settings: PolicySettings, meta_steps: int) -> tuple[PolicySettings, PolicyProblem]:
    """The problem of these settings, over so many meta-steps: its programs are the same ones whatever their number."""
    if settings not in benchmark.problems:
        same = {name: getattr(benchmark.problem, name) for name in ("environment", "policy", "evaluation_rollouts")}
        benchmark.problems[settings] = replace(settings.build(benchmark.seed), **same)
    length = {"meta_steps": meta_steps, "log_every": max(1, -(-meta_steps // LOGGED))}
    settings, problem = replace(settings, **length), benchmark.problems[settings]
    return settings, replace(problem, settings=settings, remeasured_tasks=0, **length)


def train(work: Work, settings: PolicySettings, problem: PolicyProblem) -> MetaParams:
    """The best parameters of a training in the folder of `work`, or of what was trained there before."""
    work.folder.mkdir(parents=True, exist_ok=True)
    write_config(settings, problem, work.folder, work.benchmark.seed, "compare")
    loop.train(problem, work.folder, seed=work.seed, resume=has_checkpoint(work.folder), quiet=True, late=work.late)
    return work.benchmark.params(work.folder)


def as_fitted(
    benchmark: PolicyBenchmark,
    problem: PolicyProblem,
    params: MetaParams,
    updates: int,
    saved: Saved | None,
    trained: float = 0.0,
) -> Fitted:
    """What can be asked of a policy that is judged after so many updates."""

    def ask(held_out: HeldOutTasks, updates: int) -> np.ndarray:
        return benchmark.returns(problem, params, held_out)[:, updates]

    return Fitted(
        predict=lambda held_out: ask(held_out, updates),
        operations=trained,
        adapt_operations=lambda: float(updates * benchmark.test.draws * problem.environment.horizon),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params.theta)),
        saved=saved,
        steps=updates,
        after=ask,
    )


def steps_of(work: Work) -> float:
    """Environment steps of a training, where no trajectory ends early."""
    return float(work.benchmark.problem.environment_steps * work.meta_steps)


def fit_meta_learned(work: Work) -> Fitted:
    settings, problem = adapts(work.benchmark, work.choice, work.planned)
    params, updates = train(work, settings, problem), work.benchmark.problem.updates
    found = as_fitted(work.benchmark, problem, params, updates, Saved(settings, problem, params), steps_of(work))
    return found._replace(meta_steps=work.meta_steps)


def fit_joint(work: Work) -> Fitted:
    settings, problem = does_not_adapt(work.benchmark, work.choice, work.planned)
    theta = train(work, settings, problem).theta
    found = fit_descent(work._replace(base=MetaParams(theta), base_operations=steps_of(work)), moves=False)
    return found._replace(meta_steps=work.meta_steps, saved=Saved(settings, problem, MetaParams(theta)))


def fit_descent(work: Work, moves: bool = True) -> Fitted:
    """Plain policy-gradient steps from the parameters that it starts from, or from untrained ones where there are none; or no
    steps."""
    benchmark = work.benchmark
    rate, updates = (work.choice["rate"], benchmark.problem.updates) if moves else (0.0, 0)
    plain, problem = built(benchmark, replace(benchmark.settings, **PLAIN), 1)
    theta = problem.init(jax.random.key(work.seed)).theta if work.base is None else work.base.theta
    adjustable = replace(problem, search=replace(problem.search, inner_optimizer=optax.sgd))  # one program for all rates
    settings = replace(plain, inner_rate=rate or NO_RATE)
    saved = Saved(settings, replace(problem, settings=settings), MetaParams(theta), int(work.base_operations))
    return as_fitted(benchmark, adjustable, MetaParams(theta, jnp.asarray(rate)), updates, saved, work.base_operations)


def save_policy(saved: Saved, folder: Path, seed: int) -> None:
    """Writes an ordinary run directory of parameters that need no training of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(saved.settings, saved.problem, folder, seed, "compare")
    state, totals = saved.problem.initial_state(saved.params), {"environment_steps": saved.environment_steps}
    with Checkpoints(folder / "checkpoints", "new") as checkpoints:
        checkpoints.save(state, {"validation": None, "seconds": 0.0, "log_position": 0, "totals": totals})


def rates(benchmark: PolicyBenchmark) -> tuple[Choice, ...]:
    return tuple({"rate": rate} for rate in RATES)


UNTRAINED = Method(
    "prior",
    "No learning",
    "The untrained policy, in every task.",
    "none",
    lambda work: fit_descent(work, moves=False)._replace(saved=None),
    save=save_policy,
)
SCRATCH = Method(
    "scratch",
    "Trained from scratch",
    "The untrained policy after a few policy-gradient steps in the task, of a chosen rate.",
    "none",
    fit_descent,
    rates,
    save=save_policy,
)
JOINT = Method(
    "joint",
    "One policy for all tasks",
    "The same policy trained on all tasks at once, on as many environment steps; it does not adapt.",
    "joint",
    fit_joint,
    save=save_policy,
    problem=does_not_adapt,
)
FINETUNED = Method(
    "joint-finetuned",
    "One policy, fine-tuned",
    "The policy for all tasks after a few policy-gradient steps in the task, of a chosen rate.",
    "joint",
    fit_descent,
    rates,
    save=save_policy,
    depends_on="joint",
)
META_LEARNED = Method(
    "maml",
    "MAML",
    "A starting point from which a few policy-gradient steps lead to a good policy, by the recipe of the problem's settings.",
    "meta",
    fit_meta_learned,
    save=save_policy,
    problem=adapts,
)
POLICIES = (UNTRAINED, SCRATCH, JOINT, FINETUNED, META_LEARNED)
