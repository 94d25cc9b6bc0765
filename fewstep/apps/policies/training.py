"""Training of policies: meta-steps that collect their own trajectories, with validation tasks.

All randomness depends only on (seed, meta-step, task number), so a resumed run continues bit for bit. The best checkpoint has
the highest mean return on validation tasks after 1 to `updates` adaptation steps: a policy that is trained for longer may adapt
better in one step and degrade in three. The maximum of many estimates is biased, so the chosen policy is measured again on
other tasks (`chosen_returns` in the last record of the log).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fewstep.apps.policies.environment import Simulation
from fewstep.apps.policies.meta_step import scale_step
from fewstep.apps.policies.model import PolicyProblem, compiled_meta_step, returns_program
from fewstep.core.maml import MetaState
from fewstep.core.problem import StepStats, Validation
from fewstep.core.types import Key, MetaParams
from fewstep.errors import InputError
from fewstep.training.devices import AXIS, replicate, task_mesh
from fewstep.variants.outer import Slowed


class PolicyTrainer:
    """The `Trainer` of a `PolicyProblem`. It makes one meta-step at a time: that takes long enough."""

    validations = math.inf
    validate_first = False
    interruptible = True

    def __init__(self, problem: PolicyProblem, mesh: Mesh | None, seed: int, quiet: bool) -> None:
        self.problem, self.mesh = problem, mesh or self.mesh_of(problem, None)
        self._meta_step = compiled_meta_step(problem, self.mesh if self.mesh.size > 1 else None)
        self._returns: Any = None
        self._broken = False

    @staticmethod
    def mesh_of(problem: PolicyProblem, devices: int | None) -> Mesh:
        """So many devices of this process, or one where it is None. Raises `InputError` for several where the environment is a
        simulator, and where several processes train together."""
        if jax.process_count() > 1:
            raise InputError(f"--processes splits tasks of models that predict, and {problem.name} trains a policy.")
        if devices is not None and devices != 1 and isinstance(problem.environment, Simulation):
            raise InputError(
                f"--devices {devices}: expected 1, since {problem.name} acts in a simulator outside JAX, whose steps are not "
                "split over devices. Leave --devices out."
            )
        return task_mesh(1 if devices is None else devices)

    def place(self, state: MetaState) -> MetaState:
        return replicate(state, self.mesh) if self.mesh.size > 1 else jax.tree.map(jnp.asarray, state)

    def run(self, state: MetaState, key: Key, steps: int) -> tuple[MetaState, StepStats]:
        slowed: Any = state.opt_state
        after, info = self._meta_step(state._replace(opt_state=slowed.inner), key)
        info = jax.device_get(info)
        totals = {"environment_steps": int(info.environment_steps)}
        messages: tuple[str, ...] = ()
        if info.dropped:
            totals["dropped_trajectories"] = len(info.dropped)
            messages = () if self._broken else (f"a trajectory broke in {info.dropped[0]}. It is left out.",)
            self._broken = True
        if not info.outer.finite:
            return state, StepStats(0, False, totals=totals, messages=messages)
        if slowed.factor < 1:
            after = scale_step(state, after, slowed.factor)
        latest = {"returns": rounded(info.returns), "kl": float(info.outer.kl), "accepted": bool(info.outer.accepted)}
        stats = StepStats(1, True, totals=totals, latest=latest, messages=messages)
        return after._replace(opt_state=Slowed(after.opt_state, slowed.factor)), stats

    def validate(self, state: MetaState, key: Key) -> Validation:
        if self._returns is None:
            self._returns = returns_program(
                self.problem, self.problem.validation_tasks, self.problem.updates, key, place=self._split
            )
        found = self._mean(self._returns, state.params)
        return Validation(state, -float(np.mean(found[1:])), {"validation_returns": rounded(found)})

    def conclude(self, best: MetaState, key: Key) -> tuple[Mapping[str, Any], str]:
        """The best policy is measured on `remeasured_tasks` others."""
        problem = self.problem
        if not problem.remeasured_tasks:
            return {}, ""
        again = returns_program(
            problem, problem.remeasured_tasks, problem.updates, jax.random.fold_in(key, 1), place=self._split
        )
        found = rounded(self._mean(again, self.place(best).params))
        told = f"on {problem.remeasured_tasks} tasks that did not choose it, the policy of meta-step {int(best.step)} returns "
        told += f"{', '.join(f'{value:.3g}' for value in found)} after 0, 1, … updates"
        return {"chosen_meta_step": int(best.step), "chosen_returns": found}, told

    def diagnose(self, state: MetaState, key: Key) -> str:
        return f"A gradient is not finite at meta-step {int(state.step) + 1}. Try a smaller --inner-rate or --outer-rate."

    def words(self, record: Mapping[str, Any]) -> list[str]:
        found = ", ".join(f"{value:.3g}" for value in record["validation_returns"])
        return [f"returns after 0, 1, … updates: {found}", f"{record['environment_steps'] / 1e6:.3g} M environment steps"]

    def _mean(self, program: Any, params: MetaParams) -> np.ndarray:
        """[updates + 1] mean returns over tasks, without those in which all trajectories broke: their return is NaN."""
        return np.nanmean(np.asarray(jax.device_get(program(params)[0].returns), float), 0)

    def _split(self, tree: Any) -> Any:
        """What leads with tasks, these split over the devices where they divide them."""
        if self.mesh.size == 1:
            return tree
        even = all(leaf.shape[0] % self.mesh.size == 0 for leaf in jax.tree.leaves(tree))
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec(AXIS) if even else PartitionSpec()))


def rounded(values: Any) -> list[float]:
    return [round(float(value), 4) for value in values]
