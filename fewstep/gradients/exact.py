"""Exact meta-gradients in memory that does not grow with the inner steps. Values for `Learner.task_gradient`.

The derivative of a chain of adaptation steps is a chain of Hessian-vector products. Reverse mode through the inner
gradient (`stored`) keeps all that its forward and backward pass left behind, for every step. But a Hessian is symmetric:
the product may as well be the *forward* derivative of the gradient, H v = ∂/∂ε ∇L(θ + ε v), for which nothing needs to be
kept but θ (Pearlmutter 1994; as a rule for meta-gradients: Kemaev et al. 2025, MixFlow-MG, arXiv 2505.00793).

Exact meta-gradients by reverse mode through the whole inner loop. A value for `Learner.task_gradient`.

Chooses between the two ways to the exact meta-gradient by the memory that the faster one would take.
"""

from __future__ import annotations

import os
from dataclasses import replace

import jax
import jax.numpy as jnp

from fewstep.core.maml import Learner, task_gradient
from fewstep.core.types import Batch, Episode, Key, Loss, MetaParams, Params
from fewstep.gradients.custom_rules import own_rules


def exact(learner: Learner, params: MetaParams, episode: Episode, key: Key, step: jax.Array) -> tuple[jax.Array, MetaParams]:
    """(objective, its gradient) of one task: second order, through all adaptation steps.

    Of each step θ′ and the inner gradient are kept, no activation; the step is done again on the way back. Costs at most 11
    forward passes of the support set a step, where `stored` takes 9 and `first_order` 3.
    """
    return task_gradient(with_flat_memory(learner), params, episode, key, step)


def with_flat_memory(learner: Learner) -> Learner:
    """The same learner, whose adaptation steps are differentiated as `exact` says."""
    flat = forward_over_reverse if learner.inner_gradient is jax.grad else learner.inner_gradient
    return replace(learner, inner_gradient=flat, rematerialize=True)


def forward_over_reverse(loss: Loss):
    """∇L, as `jax.grad(loss)`, whose own derivative is the forward derivative of ∇L: a value for `Learner.inner_gradient`.

    Where a part of the loss has a derivative rule of its own (see own_rules.py), the Jacobian of ∇L may not be symmetric, or
    have no forward derivative. ∇L is then left to reverse mode.
    """

    def gradient(params: Params, batch: Batch, key: Key) -> Params:
        if own_rules(loss, params, batch, key):
            return jax.grad(loss)(params, batch, key)
        leaves, structure = jax.tree.flatten(batch)
        smooth = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in map(jnp.asarray, leaves)]
        floats = [leaf for leaf, is_smooth in zip(leaves, smooth, strict=True) if is_smooth]
        others = [leaf for leaf, is_smooth in zip(leaves, smooth, strict=True) if not is_smooth]

        def of_parts(params, floats, others, key):
            float_leaves, other_leaves = iter(floats), iter(others)
            whole = [next(float_leaves if is_smooth else other_leaves) for is_smooth in smooth]
            return loss(params, jax.tree.unflatten(structure, whole), key)

        # What the loss closes over (a learned part of the inner loop) becomes an argument, and has derivatives too.
        converted, closed_over = jax.closure_convert(of_parts, params, floats, others, key)
        return _gradient(converted)(params, (floats, closed_over), (others, key))

    return gradient


def _gradient(loss):
    """∇_params of `loss(params, floats, others, key, *closed over)` as a function of `(params, (floats, closed over), (others,
    key))`, which may be differentiated with respect to the first two."""

    def value(params, given, fixed):
        (floats, closed_over), (others, key) = given, fixed
        return loss(params, floats, others, key, *closed_over)

    @jax.custom_vjp
    def gradient(params, given, fixed):
        return jax.grad(value)(params, given, fixed)

    def forward(params, given, fixed):
        # Behind a barrier: JAX (0.10) mixes up what is kept where it is an argument itself, inside a scan some of whose
        # constants are differentiated. Leaf by leaf: what goes through one together varies alike over the devices of a mesh.
        return gradient(params, given, fixed), jax.tree.map(jax.lax.optimization_barrier, (params, given, fixed))

    def backward(kept, cotangent):
        params, given, fixed = kept
        # One forward derivative along the cotangent gives both: of ∇_params the Hessian's product, of ∇_given the mixed one's.
        both = lambda moved: jax.grad(value, argnums=(0, 1))(moved, given, fixed)  # noqa: E731
        return *jax.jvp(both, (params,), (cotangent,))[1], None

    gradient.defvjp(forward, backward)
    return gradient


stored = task_gradient
"""(objective, its gradient) of one task: second order. All that the inner loop computes is kept in memory until the way back:
the fastest where there is room for it, 9 forward passes of the support set for each adaptation step."""


SHARE = 0.25
"""of a device's memory, that what `stored` keeps may take"""
UNKNOWN_MEMORY = 8 * 2**30
"""bytes of the machine's memory that are counted on if the system does not say how many it has (Windows)"""


def auto(learner: Learner, params: MetaParams, episode: Episode, key: Key, step: jax.Array) -> tuple[jax.Array, MetaParams]:
    """(objective, its exact gradient) of one task: `stored` where what it keeps of `Learner.tasks_at_once` tasks fits into a
    quarter of the device's memory, else `exact`."""
    way = stored if has_room(learner, params, episode, key) else exact
    return way(learner, params, episode, key, step)


def has_room(learner: Learner, params: MetaParams, episode: Episode, key: Key) -> bool:
    """Whether `auto` takes `stored`; all but the learner may be shapes alone."""
    return (learner.tasks_at_once or 1) * stored_bytes(learner, params, episode, key) <= SHARE * device_memory()


def stored_bytes(learner: Learner, params: MetaParams, episode: Episode, key: Key) -> int:
    """What `stored` keeps of one task's adaptation steps, by the shapes that reverse mode would keep of one inner gradient."""

    def kept_of(theta, batch, key):
        return jax.vjp(lambda theta: jax.grad(learner.loss)(theta, batch, key), theta)[1]

    kept = jax.eval_shape(kept_of, params.theta, episode.support, key)
    return learner.adaptation_steps * bytes_of(kept)


def bytes_of(tree) -> int:
    """Of all arrays of a pytree, or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def device_memory() -> int:
    """Bytes of one device; of the machine's memory an equal share for each device that its processor is shown as."""
    device = jax.local_devices()[0]
    known = device.memory_stats() or {}
    if "bytes_limit" in known:
        return int(known["bytes_limit"])
    known = hasattr(os, "sysconf")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if known else UNKNOWN_MEMORY
    return memory // jax.local_device_count()
