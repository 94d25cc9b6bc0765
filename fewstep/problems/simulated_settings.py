"""Settings of policies whose environment is a simulator (floor 3): those of all policies, with the defaults of ProMP's code for
locomotion but twenty tasks a meta-step, not forty, and learned inner rates. Used by locomotion.py and own_environment.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from fewstep.errors import BadInput
from fewstep.nn.normalized import normalizing
from fewstep.nn.policies import Policy, policy_for
from fewstep.problems.policy_settings import PolicySettings
from fewstep.rl.problem import PolicyProblem
from fewstep.tasks.environments import Environment
from fewstep.tasks.simulation import Simulation

FEWEST_JUDGED, MOST_JUDGED = 10, 40
"""validation tasks"""
JUDGED_PART = 0.25
"""of the trajectories of meta-steps, at most so many are for validation: a fifth of all"""


@dataclass(frozen=True, kw_only=True)
class SimulatedSettings(PolicySettings):
    """How a policy is learned in a simulator."""

    inner_rate: float = 0.1
    """inner rate alpha; where it is learned, where it starts"""
    later_rate: float = 0.3
    """when tested, updates after the first are so many times as large"""
    outer_rate: float = 1e-3
    """with ppo: outer rate beta of Adam"""
    deviation: float = 1.0
    """of actions before adapting"""
    learn_deviation: bool = True
    """let the outer loop change it; with trpo it always does"""
    trace: float = 1.0
    """lambda of generalized advantage estimation"""
    meta_steps: int = 100
    """meta-steps of the whole run"""
    log_every: int = 10
    """meta-steps between two lines of the log, each with a look at validation tasks"""
    horizon: int = 100
    """steps after which a trajectory is cut off"""
    action_scale: float = 0.1
    """an action of 1 is so much of the actuators' range"""
    normalize: bool = True
    """give the policy observations by their mean and deviation, which are counted while training and saved with it"""

    def check(self, seed: int) -> None:
        super().check(seed)
        if self.horizon < 1:
            raise BadInput(f"--horizon should be at least 1, got {self.horizon}.")

    def policy(self, environment: Environment | Simulation) -> Policy:
        observed, actions = environment.observed, environment.actions
        return simulated_policy(observed, actions, environment.discrete, self.hidden, self.deviation, self.normalize)

    @property
    def judged_tasks(self) -> int:
        """Validation tasks: 40, or as many as take no more than a fifth of all trajectories, but at least 10. Of each there are
        `rollouts` trajectories for each update and at last."""
        trained = self.log_every * self.meta_batch_size * (1 + self.adaptation_steps)
        return int(np.clip(JUDGED_PART * trained / (1 + PolicyProblem.updates), FEWEST_JUDGED, MOST_JUDGED))

    def in_simulator(self, name: str, simulation: Simulation, protocol: dict[str, Any]) -> PolicyProblem:
        """The PolicyProblem of these settings in a simulator."""
        protocol = {**protocol, "action_scale": self.action_scale, "normalized_observations": self.normalize}
        if simulation.sample_unseen is not None:
            protocol["test_tasks"] = "held out"
        return self.problem(
            name,
            simulation,
            protocol,
            notes=simulation.notes,
            judged_tasks=self.judged_tasks,
            judged_rollouts=self.rollouts,
        )


def as_published(settings: Any) -> Any:
    """The settings with the inner and outer steps of Finn et al. 2017."""
    return replace(settings, inner_optimizer="sgd", outer="trpo", meta_steps=500)


@lru_cache(maxsize=16)  # programs are compiled for a policy: those of a training serve its evaluation too
def simulated_policy(
    observed: int, actions: int, discrete: bool, hidden: tuple[int, ...], deviation: float, normalize: bool
) -> Policy:
    """The policy that fits the actions; where it is to `normalize` observations, it counts what they are like."""
    policy = policy_for(observed, actions, discrete, hidden, **({} if discrete else {"deviation": deviation}))
    return normalizing(policy, observed) if normalize else policy
