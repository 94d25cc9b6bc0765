"""Opens the environment of a policy's run, and adapts the policy to a task by acting in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fewstep.application import Saved
from fewstep.apps.policies.adapted import AdaptedPolicy, Shape
from fewstep.apps.policies.environment import Simulation
from fewstep.apps.policies.gymnasium import factory_of, gym_tasks, read_own_task
from fewstep.apps.policies.model import AdaptationResult, PolicyProblem, adapt_to_task, unseen_task
from fewstep.apps.policies.problems import OwnEnvironment
from fewstep.apps.policies.settings import PolicySettings
from fewstep.errors import InputError, NotTrusted
from fewstep.runs import Run


def build_problem(settings: PolicySettings, seed: int, saved: Saved | None = None, env: str = "") -> PolicyProblem:
    """The problem in its own environment or in that of `env`, module:factory. Code that is not fewstep's is run if it is named
    here, and not otherwise.

    Raises `InputError` if the environment cannot be made, or is not of the sizes that a saved policy was trained for.
    """
    own = settings.env if isinstance(settings, OwnEnvironment) else ""
    if own and not env:
        raise not_trusted(saved.directory if saved else Path("."), own)
    if own:
        built = replace(settings, env=env).build(seed)
    else:
        built = settings.build(seed)
        built = in_user_environment(built, env) if env else built
    if saved is not None:
        require_sizes(saved, built)
    return built


def not_trusted(directory: Path, env: str) -> NotTrusted:
    """Why code that only a folder names is not run."""
    return NotTrusted(
        f"{directory} was trained in what {env} makes, and this would run that code as it is found here. If you trust it, "
        f"name it again (in Python: open_run(..., env={env!r})):",
        f"--env {env}",
    )


def in_user_environment(problem: PolicyProblem, env: str) -> PolicyProblem:
    """The same policy in a user's environment: a robot of its own, say."""
    scale = getattr(problem.settings, "action_scale", 1.0)
    simulation = gym_tasks(factory_of(env), problem.environment.horizon, scale)
    return replace(
        problem,
        environment=simulation,
        normalized=None,
        places=None,
        goal=None,
        read_task=partial(read_own_task, simulation),
        protocol={**problem.protocol, "env": env},
    )


def require_sizes(saved: Saved, problem: PolicyProblem) -> None:
    """Raises `InputError` if the environment is not of the sizes that `config.json` records."""
    expected, found = saved.config.get("sizes"), sizes_of(problem)
    if not isinstance(expected, dict):
        raise InputError(
            f"{saved.directory}: expected sizes of its environment, but they are damaged. Restore it or train again."
        )
    if expected != found:
        differing = ", ".join(
            f"{name} {found[name]}, expected {expected.get(name)}" for name in found if found[name] != expected.get(name)
        )
        raise InputError(
            f"{saved.directory}: the environment does not fit the policy: {differing}. Name the one that it was trained in."
        )


def sizes_of(problem: PolicyProblem) -> dict[str, Any]:
    """What `config.json` records of the environment."""
    environment = problem.environment
    return {"observed": environment.observation_size, "actions": environment.action_size, "discrete": environment.discrete}


def adapt_policy(
    run: Run,
    task: Any = None,
    updates: int = 3,
    rollouts: int | None = None,
    seed: int = 0,
    watch: Callable[[Sequence[int]], Iterable[int]] = iter,
    problem: PolicyProblem | None = None,
) -> tuple[AdaptedPolicy, AdaptationResult]:
    """Acts in one `task` (an unseen one is sampled if there is none) and adapts by turns: (the best policy on its own, how it
    went).

    `rollouts` trajectories for each update, by default as trained, and as many at last. The best is that whose own trajectories
    have the greatest mean return: each policy is judged on those that were collected with it, which it was not adapted to, so
    choosing takes no more steps of the environment. Raises `InputError` if counts are too small.
    """
    problem = run.problem() if problem is None else problem
    assert problem is not None
    rollouts = problem.search.rollouts if rollouts is None else rollouts
    for name, value, least in (("updates", updates, 1), ("rollouts", rollouts, 1), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"--{name} should be at least {least}, got {value}.")
    task_key, key = jax.random.split(jax.random.key(seed))
    task = unseen_task(problem, task_key) if task is None else task
    found = adapt_to_task(problem, run.params(), task, updates, rollouts, key, watch)
    kept = best_update(np.asarray(found.judged.returns, float))
    about = {
        "run": task_to_json(
            {name: run.config[name] for name in ("application", "package", "problem", "preset", "settings", "seed")}
        ),
        "env": problem.protocol.get("env", ""),
        "task": task_to_json(task),
        "updates": updates,
        "kept": kept,
        "returns": np.round(np.asarray(found.judged.returns, float), 4).tolist(),
        "environment_steps": np.asarray(found.judged.steps).astype(int).tolist(),
    }
    return AdaptedPolicy(shape_of(problem), found.path[kept], about), found


def shape_of(problem: PolicyProblem) -> Shape:
    """What the problem's policy takes and gives."""
    environment, settings = problem.environment, problem.settings
    ends = environment.action_range if isinstance(environment, Simulation) else None
    least, most = (None, None) if ends is None else (tuple(np.asarray(end).tolist()) for end in ends)
    limit = environment.action_limit if isinstance(environment, Simulation) and ends is not None else None
    limit = limit if limit is not None and np.isfinite(limit) else None
    normalized = getattr(settings, "normalize", False)
    sizes = environment.observation_size, environment.action_size, environment.discrete
    return Shape(*sizes, tuple(settings.hidden), normalized, limit, least, most)


def best_update(returns: np.ndarray) -> int:
    """The number of updates after which the mean return [updates + 1] is greatest, of several the last; NaN is never the best
    unless all are."""
    known = np.where(np.isnan(returns), -np.inf, returns)
    return len(known) - 1 - int(np.argmax(known[::-1]))


def task_to_json(task: Any) -> Any:
    """A task as JSON has it, or None if it has none."""
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
