"""The run of a policy (floor 4): as any run, but what it is judged by are returns, and there are no rows to adapt it to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fewstep.errors import BadInput, NotTrusted
from fewstep.problems.own_environment import OwnEnvironment
from fewstep.problems.policy_settings import PolicySettings
from fewstep.rl.acting import AdaptedPolicy, Shape
from fewstep.rl.problem import AdaptedTo, PolicyProblem, adapted_to, unseen_task
from fewstep.runs.config import write_settings
from fewstep.runs.files import new_directory, write_json
from fewstep.runs.lock import only_one
from fewstep.runs.state import going_on
from fewstep.tasks.gym_tasks import factory_of, gym_tasks, read_task
from fewstep.tasks.simulation import Simulation
from fewstep.training.checkpoint import Checkpoints, has_checkpoint
from fewstep.training.log import working
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
    built: PolicyProblem | None = field(default=None, repr=False)
    """the problem; None where building it would run a module that has not been named"""
    elsewhere: bool = False
    """whether that is in another environment than it was trained in"""

    @property
    def seed(self) -> int:
        return self.config["seed"]

    def problem(self, with_data: bool = True) -> PolicyProblem:
        """The problem of this run. Raises `NotTrusted` where that would run code that only its folder names."""
        if self.built is None:
            raise not_trusted(self.directory, self.config["settings"]["env"])
        return self.built

    def params(self, which: str = "best") -> MetaParams:
        """The meta-parameters of the 'best' checkpoint (on validation tasks) or of the 'last'."""
        return self.checkpoint(which)[0]

    def checkpoint(self, which: str = "best") -> tuple[MetaParams, dict[str, Any]]:
        """(meta-parameters, what was recorded with them) of the 'best' or the 'last' checkpoint."""
        problem = self.problem()
        if (now := going_on(self.directory)) and not has_checkpoint(self.directory):
            raise BadInput(f"{self.directory} holds no checkpoint yet: {now}. Wait until it has made one.")
        like = jax.eval_shape(lambda: problem.search.outer.init(problem.init(jax.random.key(0))))
        with Checkpoints(self.directory / "checkpoints", "read") as checkpoints:
            state, record = checkpoints.restore(like, which)
        return jax.tree.map(jax.numpy.asarray, state.params), record

    def calibration(self) -> dict[str, Any]:
        """Raises `BadInput`: what asks for it would predict."""
        raise BadInput(
            f"{self.directory}: expected a run whose model predicts, got a policy ({self.config['problem']}). It adapts by "
            "acting: `fewstep adapt RUN --task ... --out FOLDER`."
        )

    def adapt(
        self,
        task: Any = None,
        updates: int = 3,
        rollouts: int | None = None,
        seed: int = 0,
        watch: Callable[[Sequence[int]], Iterable[int]] = iter,
    ) -> tuple[AdaptedPolicy, AdaptedTo]:
        """Acts in one `task` (an unseen one is drawn where there is none) and adapts by turns: (the best policy on its own, how
        it went).

        `rollouts` trajectories for each update, by default as trained, and as many at last. The best is that whose own
        trajectories brought most: each policy is judged on those that were collected with it, which it was not adapted to, so
        choosing takes no more steps of the environment. Raises `BadInput` where counts are too small.
        """
        problem = self.problem()
        rollouts = problem.search.rollouts if rollouts is None else rollouts
        for name, value, least in (("updates", updates, 1), ("rollouts", rollouts, 1), ("seed", seed, 0)):
            if value < least:
                raise BadInput(f"--{name} should be at least {least}, got {value}.")
        task_key, key = jax.random.split(jax.random.key(seed))
        task = unseen_task(problem, task_key) if task is None else task
        found = adapted_to(problem, self.params(), task, updates, rollouts, key, watch)
        kept = best_update(np.asarray(found.judged.returns, float))
        about = {
            "run": plain({name: self.config[name] for name in ("problem", "preset", "settings", "seed")}),
            "env": problem.protocol.get("env", ""),
            "task": plain(task),
            "updates": updates,
            "kept": kept,
            "returns": np.round(np.asarray(found.judged.returns, float), 4).tolist(),
            "environment_steps": np.asarray(found.judged.steps).astype(int).tolist(),
        }
        return AdaptedPolicy(shape_of(problem), found.path[kept], about), found

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
        return self._evaluated(*self.checkpoint(which), updates, tasks)

    def write_evaluation(self, steps: Sequence[Any] | None = None, quiet: bool = False) -> dict[str, Any]:
        """Evaluates the best checkpoint; writes `evaluation.json` and `illustrations.json`, from which pictures are drawn."""
        updates, (params, record) = self._updates(steps), self.checkpoint()
        with working(f"evaluating on {TASKS} unseen tasks", quiet):
            result = self._evaluated(params, record, updates, TASKS)
            write_json(self.directory / "evaluation.json", result)
        with working("computing what pictures show", quiet):
            write_json(self.directory / "illustrations.json", ways_shown(self.problem(), params, updates))
        return result

    def _evaluated(self, params: MetaParams, record: dict[str, Any], updates: int, tasks: int) -> dict[str, Any]:
        result = evaluate_policies(self.problem(), params, updates, tasks)
        result["environment_steps"]["training"] = record["environment_steps"]
        return {"problem": result.pop("problem"), "preset": self.config["preset"], **result}

    def _updates(self, steps: Sequence[Any] | None) -> int:
        if steps is None:
            return self.problem().updates
        if "auto" in steps or max(steps) < 1:
            raise BadInput("--steps: of a policy expected numbers of updates, at least one of them above 0, such as 0,1,2,3.")
        return max(steps)


def open_policy_run(directory: Path, config: dict[str, Any], settings: PolicySettings, env: str = "") -> PolicyRun:
    """The run in `directory`, in its own environment or in that of `env`, module:factory. Code that is not fewstep's is run
    where it is named here, and not otherwise.

    Raises `BadInput` where the environment cannot be made, or is not of the sizes that the policy was trained for.
    """
    own = settings.env if isinstance(settings, OwnEnvironment) else ""
    if own and not env:
        return PolicyRun(directory, config, settings)
    if own:
        built = replace(settings, env=env).build(config["seed"])
    else:
        built = settings.build(config["seed"])
        built = moved(built, env) if env else built
    fits(config, built, directory)
    return PolicyRun(directory, config, settings, built, elsewhere=env != own)


def not_trusted(directory: Path, env: str) -> NotTrusted:
    """Why code that only a folder names is not run."""
    return NotTrusted(
        f"{directory} was trained in what {env} makes, and this would run that code as it is found here. If you trust it, "
        f"name it again (in Python: open_run(..., env={env!r})):",
        f"--env {env}",
    )


def moved(problem: PolicyProblem, env: str) -> PolicyProblem:
    """The same policy in a user's environment: a robot of its own, say."""
    scale = getattr(problem.settings, "action_scale", 1.0)
    simulation = gym_tasks(factory_of(env), problem.environment.horizon, scale)
    return replace(
        problem,
        environment=simulation,
        normalized=None,
        places=None,
        goal=None,
        read_task=partial(read_task, simulation),
        protocol={**problem.protocol, "env": env},
    )


def fits(config: dict[str, Any], problem: PolicyProblem, directory: Path) -> None:
    """Raises `BadInput` where the environment is not of the sizes that `config.json` records (older ones record none)."""
    expected, found = config.get("sizes"), sizes_of(problem)
    if expected and not isinstance(expected, dict):
        raise BadInput(f"{directory}: expected sizes of its environment, but they are damaged. Restore it or train again.")
    if expected and expected != found:
        said = ", ".join(
            f"{name} {found[name]}, expected {expected.get(name)}" for name in found if found[name] != expected.get(name)
        )
        raise BadInput(f"{directory}: the environment does not fit the policy: {said}. Name the one that it was trained in.")


def shape_of(problem: PolicyProblem) -> Shape:
    """What the problem's policy takes and gives."""
    environment, settings = problem.environment, problem.settings
    ends = environment.action_range if isinstance(environment, Simulation) else None
    least, most = (None, None) if ends is None else (tuple(np.asarray(end).tolist()) for end in ends)
    limit = environment.action_limit if isinstance(environment, Simulation) and ends is not None else None
    limit = limit if limit is not None and np.isfinite(limit) else None
    normalized = getattr(settings, "normalize", False)
    sizes = environment.observed, environment.actions, environment.discrete
    return Shape(*sizes, tuple(settings.hidden), normalized, limit, least, most)


def best_update(returns: np.ndarray) -> int:
    """The number of updates after which the mean return [updates + 1] is greatest, of several the last; NaN is never the best
    unless all are."""
    known = np.where(np.isnan(returns), -np.inf, returns)
    return len(known) - 1 - int(np.argmax(known[::-1]))


def plain(task: Any) -> Any:
    """A task as JSON has it, or None where it has none."""
    try:
        task = jax.tree.map(lambda leaf: leaf.tolist() if hasattr(leaf, "tolist") else leaf, task)
        return json.loads(json.dumps(task, allow_nan=False))
    except (TypeError, ValueError):
        return None


def task_in_words(task: Any) -> str:
    """A plain task as people read it, numbers with four digits."""
    if isinstance(task, float):
        return f"{task:.4g}"
    if isinstance(task, list):
        return "(" + ", ".join(map(task_in_words, task)) + ")"
    return "as drawn" if task is None else str(task)


def sizes_of(problem: PolicyProblem) -> dict[str, Any]:
    environment = problem.environment
    return {name: getattr(environment, name) for name in ("observed", "actions", "discrete")}


def write_policy_config(
    settings: PolicySettings, problem: PolicyProblem, directory: Path, seed: int, preset: str
) -> dict[str, Any]:
    """Writes `config.json` of a policy's run, and returns what it holds."""
    return write_settings(settings, problem.name, directory, seed, preset, {"sizes": sizes_of(problem)})


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
    config = write_policy_config(settings, problem, directory, seed, preset)
    with only_one(directory):
        train_policy(problem, directory, seed=seed, quiet=quiet)
    return PolicyRun(directory, config, settings, problem)


def resume_policy_run(run: PolicyRun, *, quiet: bool = False) -> PolicyRun:
    """Goes on from the last checkpoint to the planned number of meta-steps, bit for bit as if never stopped. Raises `BadInput`
    where another environment was named than it began in."""
    problem = run.problem()
    if run.elsewhere:
        raise BadInput(f"{run.directory} goes on in the environment that it began in, got another one by --env.")
    with only_one(run.directory):
        train_policy(problem, run.directory, seed=run.seed, resume=has_checkpoint(run.directory), quiet=quiet)
    return run
