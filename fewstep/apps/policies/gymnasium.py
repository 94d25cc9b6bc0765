"""A user's own Gymnasium environment as a family of tasks, and a `Simulation` as a Gymnasium environment.

Any `gymnasium.Env` that can sample and set tasks:

    def sample_tasks(self, rng: numpy.random.Generator, n: int) -> list: ...   # n tasks of any type
    def set_task(self, task) -> None: ...            # or: a `reset` that takes options={"task": task}
    def sample_unseen_tasks(self, rng, n) -> list: ...     # optional: tasks that are held out for testing

It is named as `module:factory`, a function without arguments that creates one; several are created and stepped side by side. An
environment that raises, or returns numbers that are not finite, breaks only its own trajectory and is created again.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fewstep.apps.policies.environment import ResetResult, Simulation, StepResult, Tasks, parse_task
from fewstep.errors import InputError, TrainingError
from fewstep.simulators.mujoco import import_mujoco

if TYPE_CHECKING:
    import gymnasium

AT_ONCE = 512
"""environments that are made, at most"""
LOOKED_AT = 8
"""tasks that are drawn to see whether they differ"""
PROTOCOL = "A family of tasks needs sample_tasks(rng, n), and set_task(task) or reset(options={'task': task})."


def factory_of(name: str) -> Callable[[], Any]:
    """The function that `module:factory` names, in the folder one is in or installed. Raises `InputError` if there is
    none."""
    module, colon, factory = name.partition(":")
    if not (module and colon and factory):
        raise InputError(f"--env expected module:factory, such as my_tasks:make, got {name!r}.")
    if find_spec("gymnasium") is None:
        raise InputError("Environments need gymnasium, which is not installed. Try: pip install 'fewstep[rl]'")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), factory, None)
    except Exception as error:  # whatever a user's module raises while it is loaded
        raise InputError(f"--env {name}: the module {module} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(found):
        what = "none" if found is None else repr(found)
        raise InputError(f"--env {name}: expected a function {factory} in {module}, found {what}.")
    return found


def with_rendering(make: Callable[..., Any]) -> Callable[[], Any]:
    """The same factory, told to make environments that draw, where it takes a `render_mode`."""
    takes = "render_mode" in inspect.signature(make).parameters
    return (lambda: make(render_mode="rgb_array")) if takes else make


def gym_tasks(make: Callable[[], Any], horizon: int = 100, action_scale: float = 1.0, at_once: int = AT_ONCE) -> Simulation:
    """The Simulation of the environments that `make` makes.

    Observations are flattened as gymnasium does it. An action of 1 is `action_scale` of the way from the middle of a bounded
    range to its ends; where there are no bounds, it is itself. Raises `InputError` if the protocol is not met.
    """
    from gymnasium import spaces

    if not action_scale > 0:
        raise InputError(f"--action-scale should be a positive number, got {action_scale}.")
    first = _make(make)
    seen, acts = first.observation_space, first.action_space
    if not isinstance(acts, spaces.Box | spaces.Discrete):
        raise InputError(
            f"the environment's action_space: expected a Box or a Discrete, got {acts}. Wrap it into one of these."
        )
    try:
        observation_size = spaces.flatdim(seen)
    except (NotImplementedError, ValueError) as error:
        raise InputError(f"the environment's observation_space: expected one of a fixed size, got {seen}.") from error
    discrete = isinstance(acts, spaces.Discrete)
    bounded = not discrete and bool(acts.is_bounded("both"))
    runs = _Environments(make, seen, acts, action_scale if bounded else 1.0, bounded, [first])
    ends: Any = (acts.start, acts.start + acts.n - 1) if isinstance(acts, spaces.Discrete) else (acts.low, acts.high)
    return Simulation(
        sample_tasks=lambda random, count: _sample(first, "sample_tasks", random, count),
        sample_unseen=(lambda random, count: _sample(first, "sample_unseen_tasks", random, count))
        if first.has_wrapper_attr("sample_unseen_tasks")
        else None,
        begin=runs.begin,
        step=runs.step,
        observation_size=observation_size,
        action_size=int(acts.n) if isinstance(acts, spaces.Discrete) else int(np.prod(acts.shape)),
        horizon=horizon,
        discrete=discrete,
        action_limit=1 / action_scale if bounded else np.inf,
        action_range=(np.ravel(ends[0]), np.ravel(ends[1])) if discrete or bounded else None,
        at_once=at_once,
        snapshot=(lambda: np.asarray(runs.environments[0].render())) if first.render_mode == "rgb_array" else None,
        notes=_notes_on(_sample(first, "sample_tasks", np.random.default_rng(0), LOOKED_AT)),
    )


def read_own_task(simulation: Simulation, text: str) -> Any:
    """A task from JSON, an array where the environment draws arrays. Raises `InputError` if it is not of their shape."""
    task, known = parse_task(text), simulation.sample_tasks(np.random.default_rng(0), 1)[0]
    if not isinstance(known, np.ndarray | np.generic):
        return task
    try:
        found = np.asarray(task, known.dtype)
    except (TypeError, ValueError):
        found = None
    if found is None or found.shape != known.shape:
        raise InputError(f"--task: expected one such as the environment draws, {json.dumps(known.tolist())}, got {text!r}.")
    return found


@dataclass
class _Environments:
    """Environments side by side, each with the trajectory it is in."""

    make: Callable[[], Any]
    seen: Any
    acts: Any
    scale: float
    bounded: bool
    environments: list[Any]
    observations: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def begin(self, tasks: Tasks, seeds: Sequence[int]) -> ResetResult:
        self.environments += [_make(self.make) for _ in range(len(tasks) - len(self.environments))]
        self.observations = np.full((len(tasks), self._observed), np.nan, np.float32)
        messages: dict[int, str] = {}
        for row, (task, seed) in enumerate(zip(tasks, seeds, strict=True)):
            try:
                self.observations[row] = self._flat(_reset(self.environments[row], task, int(seed)))
            except Exception as error:  # whatever a user's environment raises
                self._broke(row, error, messages)
        return ResetResult(self.observations.copy(), messages)

    def step(self, actions: np.ndarray, active: np.ndarray) -> StepResult:
        rows = len(active)
        rewards, terminated, truncated = np.zeros(rows), np.zeros(rows, bool), np.zeros(rows, bool)
        messages: dict[int, str] = {}
        for row in np.flatnonzero(active):
            try:
                seen, reward, ended, cut, _ = self.environments[row].step(self._command(actions[row]))
                self.observations[row] = self._flat(seen)
                rewards[row], terminated[row], truncated[row] = float(reward), bool(ended), bool(cut)
            except Exception as error:  # whatever a user's environment raises
                rewards[row] = np.nan
                self._broke(int(row), error, messages)
        return StepResult(self.observations.copy(), rewards, terminated, truncated, messages)

    @property
    def _observed(self) -> int:
        from gymnasium import spaces

        return spaces.flatdim(self.seen)

    def _flat(self, observation: Any) -> np.ndarray:
        from gymnasium import spaces

        return np.asarray(spaces.flatten(self.seen, observation), np.float32)

    def _command(self, action: np.ndarray) -> Any:
        if not hasattr(self.acts, "low"):
            return self.acts.start + int(action)
        action = np.asarray(action, np.float64).reshape(self.acts.shape)
        if self.bounded:
            least, most = self.acts.low.astype(np.float64), self.acts.high.astype(np.float64)
            action = np.clip((least + most) / 2 + (most - least) / 2 * self.scale * action, least, most)
        return action.astype(self.acts.dtype)

    def _broke(self, row: int, error: Exception, messages: dict[int, str]) -> None:
        self.observations[row] = np.nan
        messages[row] = f"{type(error).__name__}: {error}"
        self.environments[row] = _make(self.make)  # what raised may be in any state


def _make(make: Callable[[], Any]) -> Any:
    """One more environment. Raises `InputError` for the first part of the protocol that it lacks."""
    import gymnasium

    try:
        environment = make()
    except Exception as error:  # whatever a user's function raises
        raise InputError(f"--env: making an environment failed: {type(error).__name__}: {error}") from error
    if not isinstance(environment, gymnasium.Env):
        raise InputError(f"--env: expected a function that makes a gymnasium.Env, got {type(environment).__name__} from it.")
    kind = type(environment.unwrapped).__name__
    if not environment.has_wrapper_attr("sample_tasks"):
        raise InputError(f"{kind} has no method sample_tasks(rng, n). {PROTOCOL}")
    takes = inspect.signature(environment.unwrapped.reset).parameters
    if not environment.has_wrapper_attr("set_task") and "options" not in takes:
        raise InputError(f"{kind} has no method set_task(task), and its reset takes no options. {PROTOCOL}")
    return environment


def _reset(environment: Any, task: Any, seed: int) -> Any:
    if environment.has_wrapper_attr("set_task"):
        environment.get_wrapper_attr("set_task")(task)
        return environment.reset(seed=seed)[0]
    return environment.reset(seed=seed, options={"task": task})[0]


def _sample(environment: Any, method: str, random: np.random.Generator, count: int) -> Tasks:
    call = f"{type(environment.unwrapped).__name__}.{method}(rng, {count})"
    try:
        tasks = environment.get_wrapper_attr(method)(random, count)
    except Exception as error:  # whatever a user's environment raises
        raise InputError(f"{call} should return {count} tasks, raised {type(error).__name__}: {error}") from error
    found = len(tasks) if hasattr(tasks, "__len__") else None
    if found != count:
        what = type(tasks).__name__ if found is None else found
        raise InputError(f"{call} should return {count} tasks, returned {what}.")
    return tasks


def _notes_on(tasks: Tasks) -> tuple[str, ...]:
    """What a person should know of such tasks."""
    import jax

    def same(one: Any, other: Any) -> bool:
        ours, theirs = jax.tree.flatten(one), jax.tree.flatten(other)
        return ours[1] == theirs[1] and all(np.array_equal(a, b) for a, b in zip(ours[0], theirs[0], strict=True))

    if all(same(tasks[0], task) for task in tasks):
        return (f"{len(tasks)} tasks that were drawn are all the same ({tasks[0]!r}): there is nothing to adapt to.",)
    return ()


def as_gymnasium(simulation: Simulation) -> gymnasium.Env:
    """One trajectory of it at a time. Without a task it is in the first that its own random numbers give.

    Its `step` raises `TrainingError` if the simulation runs away.
    """
    import_mujoco()  # says how to install what is missing
    import gymnasium
    from gymnasium import spaces

    limit = simulation.action_limit

    class Simulated(gymnasium.Env):
        """The thin class that gymnasium wants."""

        metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012
        observation_space = spaces.Box(-np.inf, np.inf, (simulation.observation_size,), np.float32)
        action_space = (
            spaces.Discrete(simulation.action_size)
            if simulation.discrete
            else spaces.Box(-limit, limit, (simulation.action_size,), np.float32)
        )
        task: Any = None
        taken = 0

        def sample_tasks(self, rng: np.random.Generator, n: int) -> Tasks:
            return simulation.sample(rng, n)

        def sample_unseen_tasks(self, rng: np.random.Generator, n: int) -> Tasks:
            return simulation.sample(rng, n, unseen=True)

        def set_task(self, task: Any) -> None:
            self.task = task

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
            super().reset(seed=seed)
            if options and "task" in options:
                self.task = options["task"]
            task = simulation.sample(self.np_random, 1)[0] if self.task is None else self.task
            self.taken = 0
            return simulation.begin([task], [int(self.np_random.integers(2**32))]).observations[0].copy(), {"task": task}

        def step(self, action: Any):
            found = simulation.step(np.asarray(action)[None], np.ones(1, bool))
            self.taken += 1
            if not (np.all(np.isfinite(found.observations[0])) and np.isfinite(found.rewards[0])):
                raise TrainingError(f"The simulation ran away at step {self.taken}. {found.messages.get(0, '')}".strip())
            truncated = bool(found.truncated[0]) or self.taken >= simulation.horizon
            return found.observations[0].copy(), float(found.rewards[0]), bool(found.terminated[0]), truncated, {}

    return Simulated()
