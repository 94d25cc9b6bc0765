"""A `Simulation` as a Gymnasium environment (floor 1), with the protocol of gym_tasks: for other libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fewstep.errors import RunFailed
from fewstep.tasks.robots import imported_mujoco
from fewstep.tasks.simulation import Simulation, Tasks

if TYPE_CHECKING:
    import gymnasium


def as_gymnasium(simulation: Simulation) -> gymnasium.Env:
    """One trajectory of it at a time. Without a task it is in the first that its own random numbers give.

    Its `step` raises `RunFailed` where the simulation runs away.
    """
    imported_mujoco()  # says how to install what is missing
    import gymnasium
    from gymnasium import spaces

    limit = simulation.action_limit

    class Simulated(gymnasium.Env):
        """The thin class that gymnasium wants."""

        metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012
        observation_space = spaces.Box(-np.inf, np.inf, (simulation.observed,), np.float32)
        action_space = (
            spaces.Discrete(simulation.actions)
            if simulation.discrete
            else spaces.Box(-limit, limit, (simulation.actions,), np.float32)
        )
        task: Any = None
        taken = 0

        def sample_tasks(self, rng: np.random.Generator, n: int) -> Tasks:
            return simulation.drawn(rng, n)

        def sample_unseen_tasks(self, rng: np.random.Generator, n: int) -> Tasks:
            return simulation.drawn(rng, n, unseen=True)

        def set_task(self, task: Any) -> None:
            self.task = task

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
            super().reset(seed=seed)
            if options and "task" in options:
                self.task = options["task"]
            task = simulation.drawn(self.np_random, 1)[0] if self.task is None else self.task
            self.taken = 0
            return simulation.begin([task], [int(self.np_random.integers(2**32))]).observations[0].copy(), {"task": task}

        def step(self, action: Any):
            found = simulation.step(np.asarray(action)[None], np.ones(1, bool))
            self.taken += 1
            if not (np.all(np.isfinite(found.observations[0])) and np.isfinite(found.rewards[0])):
                raise RunFailed(f"The simulation ran away at step {self.taken}. {found.said.get(0, '')}".strip())
            truncated = bool(found.truncated[0]) or self.taken >= simulation.horizon
            return found.observations[0].copy(), float(found.rewards[0]), bool(found.terminated[0]), truncated, {}

    return Simulated()
