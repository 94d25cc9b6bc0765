"""A chunk of meta-steps as one compiled program: Algorithm 1, lines 3–8, repeated."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from fewstep.core import maml
from fewstep.core.maml import MetaState
from fewstep.core.problem import Problem
from fewstep.core.types import Key
from fewstep.training.devices import mean_gradient, meta_batches
from fewstep.training.jit import jit_hoisted

SAMPLED_BYTES = 2**21
"""Episodes are sampled ahead up to this size."""


class Chunk(NamedTuple):
    """What one compiled call returns in addition to the state."""

    steps: jax.Array
    """meta-steps made; fewer than requested if the meta-loss became non-finite"""
    meta_loss: jax.Array
    """summed over these steps"""
    gradient_norm: jax.Array
    """summed over these steps"""
    dropped: jax.Array
    """tasks dropped in these steps"""
    finite: jax.Array


def compiled_chunk(problem: Problem, mesh: Mesh) -> Callable[[MetaState, Key, int], tuple[MetaState, Chunk]]:
    """`(state, key, length) -> (state, Chunk)`: `length` meta-steps in one compiled call.

    The length is a run-time value, so chunks of any length share one program and give the same bits. Episodes are sampled for
    several meta-steps at a time, since on CPU sampling one task costs about as much as sampling hundreds. A meta-step with a
    non-finite loss or gradient is not applied and ends the chunk.
    """
    ahead = meta_steps_per_sample(problem)
    sample, gradient_of = meta_batches(problem, mesh, ahead), mean_gradient(problem, mesh)

    def run(state: MetaState, key: Key, length: jax.Array) -> tuple[MetaState, Chunk]:
        def unfinished(carry):
            _, chunk = carry
            return (chunk.steps < length) & chunk.finite

        def block(carry):
            first = carry[0].step // ahead * ahead  # a chunk may begin in the middle of a block
            sampled = sample(first, key)
            within = lambda carry: unfinished(carry) & (carry[0].step < first + ahead)  # noqa: E731
            return jax.lax.while_loop(within, partial(one_meta_step, sampled), carry)

        def one_meta_step(sampled, carry):
            state, chunk = carry
            episodes, keys = jax.tree.map(lambda leaf: leaf[state.step % ahead], sampled)
            loss, gradient, dropped = gradient_of(state.params, episodes, keys, state.step)
            norm = optax.tree.norm(gradient)
            finite = jnp.isfinite(loss) & jnp.isfinite(norm)
            state = jax.lax.cond(finite, lambda: maml.meta_step(problem.outer_optimizer, state, gradient), lambda: state)
            made = finite.astype(jnp.int32)
            loss, norm = jnp.where(finite, loss, 0.0), jnp.where(finite, norm, 0.0)
            sums = chunk.meta_loss + loss, chunk.gradient_norm + norm, chunk.dropped + dropped
            return state, Chunk(chunk.steps + made, *sums, finite)

        none = jnp.zeros((), jnp.int32)
        nothing = Chunk(none, jnp.zeros(()), jnp.zeros(()), none, jnp.array(True))
        return jax.lax.while_loop(unfinished, block, (state, nothing))

    program = jit_hoisted(run)
    return lambda state, key, length: program(state, key, jnp.asarray(length, jnp.int32))


def meta_steps_per_sample(problem: Problem) -> int:
    """How many meta-batches fit into `SAMPLED_BYTES`, between 1 and 64; fewer if that divides the meta-steps between two
    checkpoints, since a call that begins in the middle of a block samples it again."""
    assert problem.splits is not None
    episode = jax.eval_shape(problem.splits.train.sample_episode, jax.random.key(0))
    size = problem.meta_batch_size * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(episode))
    most = max(1, min(64, SAMPLED_BYTES // max(size, 1)))
    every = problem.checkpoint_every
    return math.ceil(every / math.ceil(every / most)) if every else most
