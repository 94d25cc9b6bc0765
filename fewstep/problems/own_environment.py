"""A user's own Gymnasium environment as a problem for policies (floor 3): see tasks/gym_tasks.py for what it has to bring."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fewstep.problems.simulated_settings import SimulatedSettings, as_published
from fewstep.rl.problem import PolicyProblem
from fewstep.tasks.gym_tasks import factory_of, gym_tasks, read_task


@dataclass(frozen=True, kw_only=True)
class OwnEnvironment(SimulatedSettings):
    """Your own Gymnasium environment: --env module:factory, with sample_tasks(rng, n) and set_task(task) (the extra [rl])."""

    env: str = ""
    """module:factory, a function without arguments that makes one environment"""
    action_scale: float = 1.0
    """an action of 1 is so much of the way from the middle of the actions' range to its ends"""

    def build(self, seed: int = 0, format: Any = None) -> PolicyProblem:
        """The PolicyProblem; one environment is made. Raises `BadInput` where it does not meet the protocol."""
        self.check(seed)
        simulation = gym_tasks(factory_of(self.env), self.horizon, self.action_scale)
        problem = self.in_simulator("rl", simulation, {"env": self.env})
        return replace(problem, read_task=partial(read_task, simulation))


PRESETS: dict[str, tuple[OwnEnvironment, str]] = {
    "default": (OwnEnvironment(), "ProMP with learned inner rates, on 20 tasks a meta-step"),
    "maml": (as_published(OwnEnvironment()), "MAML with TRPO as published, 500 meta-steps at a fixed inner rate"),
}
