"""Settings that all problems for policies share, and those of policies in a simulator.

The defaults in a simulator are those of ProMP's code for locomotion, except for 20 tasks per meta-step instead of 40, and
learned inner rates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fewstep.apps.policies.environment import Environment, Simulation
from fewstep.apps.policies.meta_step import PolicySearch
from fewstep.apps.policies.model import PolicyProblem
from fewstep.apps.policies.networks import Policy, normalize_observations, policy_for
from fewstep.apps.policies.ppo import ProximalPolicy
from fewstep.apps.policies.training import PolicyTrainer
from fewstep.apps.policies.trpo import TrustRegion
from fewstep.core.types import Key, MetaParams, Params
from fewstep.errors import InputError
from fewstep.recipe.settings import MOST_UNITS, UNITS, check_counts
from fewstep.variants.lslr import layer_step_rates, lslr

FASTER = 8.0
"""The logarithms of the network's learned rates move so many times faster than θ does."""
DEVIATIONS = "log_deviation"
"""the parameters of a Gaussian policy that are not its network's"""


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """How a policy is learned that adapts in a few policy-gradient steps."""

    rollouts: int = 20
    """trajectories of a task for each adaptation step, and as many to judge it"""
    adaptation_steps: int = 1
    """K, adaptation steps while training"""
    inner_rate: float = 0.5
    """inner rate alpha; where it is learned, where it starts"""
    inner_optimizer: Literal["sgd", "lslr"] = "lslr"
    """plain gradient steps at a fixed rate (sgd), or at a learned one for each layer and step (lslr)"""
    later_rate: float = 0.5
    """when tested, updates after the first are so many times as large"""
    estimator: Literal["likelihood_ratio", "dice", "lvc", "naive"] = "likelihood_ratio"
    """the inner loss, whose second derivative is the meta-gradient's: naive is biased, dice is not, but noisier"""
    outer: Literal["ppo", "trpo"] = "ppo"
    """the outer step: a clipped loss for a few epochs (ProMP), or a trust region (as Finn et al. 2017)"""
    outer_rate: float = 2e-3
    """with ppo: outer rate beta of Adam"""
    epochs: int = 5
    """with ppo: outer steps on one batch of trajectories"""
    kl_limit: float = 0.01
    """with trpo: how far adapted policies may move in a meta-step"""
    deviation: float = 0.6
    """of actions before adapting"""
    learn_deviation: bool = False
    """let the outer loop change it: it hardly sees what exploring is good for, and makes it ever smaller; with trpo it always
    does"""
    discount: float = 0.99
    """gamma, of rewards to come"""
    trace: float = 0.9
    """lambda of generalized advantage estimation"""
    hidden: tuple[int, ...] = (64, 64)
    """units of the policy's hidden layers"""
    meta_batch_size: int = 20
    """tasks per meta-step"""
    meta_steps: int = 180
    """meta-steps of the whole run"""
    log_every: int = 5
    """meta-steps between two lines of the log, each with a look at validation tasks"""
    checkpoint_every: int = 0
    """meta-steps between two checkpoints: what a kill can cost; 0 for one at each line of the log"""
    rollbacks: int = 3
    """so often a run whose numbers stop being finite goes back to its best checkpoint, and takes steps half as large; 0 to
    stop"""

    def build(self, seed: int = 0, format: Any = None) -> PolicyProblem:
        """The PolicyProblem."""
        raise NotImplementedError

    def check(self, seed: int) -> None:
        """Raises `InputError` for the first setting, or the seed, that is out of range."""
        check_counts(self, seed)
        whole = "rollouts", "adaptation_steps", "epochs", "meta_batch_size", "meta_steps", "log_every"
        positive = "inner_rate", "later_rate", "outer_rate", "kl_limit", "deviation"
        expected = {name: ("at least 1", getattr(self, name) >= 1) for name in whole}
        expected |= {name: ("a positive number", 0 < getattr(self, name) < float("inf")) for name in positive}
        expected |= {name: ("between 0 and 1", 0 <= getattr(self, name) <= 1) for name in ("discount", "trace")}
        expected |= {name: ("at least 0", getattr(self, name) >= 0) for name in ("checkpoint_every", "rollbacks")}
        expected["hidden"] = (UNITS, all(1 <= units <= MOST_UNITS for units in self.hidden))
        for name, (what, fine) in expected.items():
            if not fine:
                raise InputError(f"--{name.replace('_', '-')} should be {what}, got {getattr(self, name)}.")

    def problem(
        self, name: str, environment: Environment | Simulation, protocol: dict[str, Any], **parts: Any
    ) -> PolicyProblem:
        """The PolicyProblem of these settings in an environment; `parts` are further fields of it."""
        policy = self.policy(environment)
        return PolicyProblem(
            name=name,
            settings=self,
            environment=environment,
            policy=policy,
            search=self.search(),
            init=partial(self.init, policy),
            meta_steps=self.meta_steps,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
            rollbacks=self.rollbacks,
            trainer=lambda: PolicyTrainer,
            later_rate=self.later_rate,
            protocol={
                **protocol,
                "horizon": environment.horizon,
                "rollouts": self.rollouts,
                "trained_adaptation_steps": self.adaptation_steps,
                "later_rate": self.later_rate,
                "actions": "sampled",
            },
            **parts,
        )

    def policy(self, environment: Environment | Simulation) -> Policy:
        """The policy that fits the environment's actions."""
        spread = {} if environment.discrete else {"deviation": self.deviation}
        return policy_for(environment.observation_size, environment.action_size, environment.discrete, self.hidden, **spread)

    def search(self) -> PolicySearch:
        """How it is learned."""
        proximal = ProximalPolicy(rate=self.outer_rate, epochs=self.epochs, optimizer=self.outer_optimizer)
        return PolicySearch(
            tasks=self.meta_batch_size,
            rollouts=self.rollouts,
            adaptation_steps=self.adaptation_steps,
            inner_rate=self.inner_rate,
            inner_optimizer=learned_rates if self.inner_optimizer == "lslr" else None,
            estimator=self.estimator,
            discount=self.discount,
            trace=self.trace,
            outer=proximal if self.outer == "ppo" else TrustRegion(kl_limit=self.kl_limit),
        )

    def init(self, policy: Policy, key: Key) -> MetaParams:
        """θ, and where the learned rates start."""
        theta = policy.init(key)
        if self.inner_optimizer == "sgd":
            return MetaParams(theta)
        logs = layer_step_rates(theta, self.inner_rate, self.adaptation_steps)
        return MetaParams(theta, of_the_network(lambda leaf: leaf / FASTER, logs))

    def outer_optimizer(self, rate: float) -> optax.GradientTransformation:
        """Adam, which leaves the deviations alone unless they are learned."""

        def without(updates: Any, _: Any) -> Any:
            if not isinstance(updates.theta, dict) or DEVIATIONS not in updates.theta:
                return updates
            kept = jnp.zeros_like(updates.theta[DEVIATIONS])
            return updates._replace(theta={**updates.theta, DEVIATIONS: kept})

        return optax.adam(rate) if self.learn_deviation else optax.chain(optax.adam(rate), optax.stateless(without))


def learned_rates(inner: Params) -> optax.GradientTransformation:
    """The inner optimizer, from what is learned of it."""
    return lslr(of_the_network(lambda leaf: FASTER * leaf, inner))


def of_the_network(change: Callable[[jax.Array], jax.Array], rates: Params) -> Params:
    """`rates` with those of the network changed, and that of the deviations as it was."""
    if isinstance(rates, dict) and DEVIATIONS in rates:
        return {**jax.tree.map(change, rates), DEVIATIONS: rates[DEVIATIONS]}
    return jax.tree.map(change, rates)


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
            raise InputError(f"--horizon should be at least 1, got {self.horizon}.")

    def policy(self, environment: Environment | Simulation) -> Policy:
        sizes = environment.observation_size, environment.action_size
        return simulated_policy(*sizes, environment.discrete, self.hidden, self.deviation, self.normalize)

    @property
    def validation_tasks(self) -> int:
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
            validation_tasks=self.validation_tasks,
            evaluation_rollouts=self.rollouts,
        )


def as_published(settings: Any) -> Any:
    """The settings with the inner and outer steps of Finn et al. 2017."""
    return replace(settings, inner_optimizer="sgd", outer="trpo", meta_steps=500)


@lru_cache(maxsize=16)  # programs are compiled for a policy: those of a training serve its evaluation too
def simulated_policy(
    observation_size: int, action_size: int, discrete: bool, hidden: tuple[int, ...], deviation: float, normalize: bool
) -> Policy:
    """The policy that fits the actions; where it is to `normalize` observations, it counts what they are like."""
    policy = policy_for(observation_size, action_size, discrete, hidden, **({} if discrete else {"deviation": deviation}))
    return normalize_observations(policy, observation_size) if normalize else policy
