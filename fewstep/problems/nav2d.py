"""2D navigation as a problem for policies (floor 3): see tasks/navigation.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fewstep.problems.policy_settings import PolicySettings
from fewstep.rl.problem import PolicyProblem
from fewstep.tasks.navigation import navigation, normalized, read_goal


@dataclass(frozen=True, kw_only=True)
class Nav2d(PolicySettings):
    """A point that is to find its goal from rewards alone; every task has another goal (reinforcement learning)."""

    squared: bool = False
    """reward the squared distance, as the paper's text says, and not the distance, as its code does"""

    def build(self, seed: int = 0, format: Any = None) -> PolicyProblem:
        """The PolicyProblem; nothing is read or simulated."""
        self.check(seed)
        reward = "minus the squared distance" if self.squared else "minus the distance"
        return self.problem(
            "nav2d",
            navigation(self.squared),
            {"reward": reward},
            normalized=partial(normalized, squared=self.squared),
            places=lambda observations: observations[..., :2],
            goal=lambda task: task,
            read_task=read_goal,
        )


PRESETS: dict[str, tuple[Nav2d, str]] = {
    "default": (Nav2d(), "ProMP with learned inner rates: two minutes on two cores"),
    "maml": (
        replace(
            Nav2d(),
            inner_rate=0.1,
            inner_optimizer="sgd",
            outer="trpo",
            deviation=1.0,
            learn_deviation=True,
            trace=1.0,
            meta_steps=500,
        ),
        "MAML with TRPO as published, 500 meta-steps at a fixed inner rate",
    ),
}
