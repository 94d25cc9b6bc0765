"""Settings that all families of tasks for policies share (floor 3). Used by problems/nav2d.py and
simulated_settings.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from fewstep.apps.policies.training import PolicyTrainer
from fewstep.errors import BadInput
from fewstep.nn.policies import Policy, policy_for
from fewstep.problems.settings import MOST_UNITS, UNITS, check_counts
from fewstep.rl.meta_step import PolicySearch
from fewstep.rl.problem import PolicyProblem
from fewstep.rl.proximal_policy import ProximalPolicy
from fewstep.rl.trust_region import TrustRegion
from fewstep.tasks.environments import Environment
from fewstep.tasks.simulation import Simulation
from fewstep.types import Key, MetaParams, Params
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
        """Raises `BadInput` for the first setting, or the seed, that is out of range."""
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
                raise BadInput(f"--{name.replace('_', '-')} should be {what}, got {getattr(self, name)}.")

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
            trainer=PolicyTrainer,
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
        return policy_for(environment.observed, environment.actions, environment.discrete, self.hidden, **spread)

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
