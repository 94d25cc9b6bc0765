"""Diagnosis of a non-finite meta-step: finds the task that caused it and suggests a remedy."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fewstep.core.maml import MetaState, adaptation_path, finite_tasks, task_gradients
from fewstep.core.problem import Problem
from fewstep.core.types import Key, MetaParams
from fewstep.training.devices import meta_batch


def why_not_finite(problem: Problem, state: MetaState, key: Key) -> str:
    """The error message for the meta-step after `state`, whose meta-loss or meta-gradient is not finite."""
    learner, (episodes, keys) = problem.learner, meta_batch(problem, state.step, key)
    trained: MetaParams = jax.tree.map(jnp.asarray, state.params)  # a state fetched from the device cannot be indexed by step

    def support_losses(episode, key):
        path = adaptation_path(learner, trained, episode.support, key)
        return jax.vmap(lambda params: learner.loss(params, episode.support, key))(path)

    @jax.jit
    def measure(episodes, keys):
        measured = task_gradients(learner, trained, episodes, keys, state.step)
        return jax.vmap(support_losses)(episodes, keys), finite_tasks(measured)

    losses, finite = measure(episodes, keys)  # [tasks, steps + 1], [tasks]
    bad = int(jnp.argmin(finite)) if not bool(jnp.all(finite)) else int(jnp.argmax(losses[:, -1]))
    before, after = float(losses[bad, 0]), float(losses[bad, -1])
    rate = getattr(problem.settings, "inner_rate", None)
    grew = not (jnp.isfinite(losses[bad, -1]) and after <= before)
    head = f"Meta-loss or meta-gradient is not finite at meta-step {int(state.step)} (task {bad} of the meta-batch): "
    if grew:
        cause = f"support loss went from {before:.3g} to {after:.3g} within {learner.adaptation_steps} adaptation steps."
        advice = "The inner rate is probably too large"
        advice += f"; try --inner-rate {rate / 10:g} instead of {rate:g}." if rate else "; try a smaller one."
    else:
        cause = f"support loss is {before:.3g} before and {after:.3g} after adaptation."
        advice = "Look for extreme values in the data of this task, or try a smaller --outer-rate."
    return f"{head}{cause} {advice}"
