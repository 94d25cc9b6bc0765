"""MAML (Finn, Abbeel & Levine 2017, arXiv 1703.03400): Algorithm 1, whole.

The names follow the paper's lines. Two seams take every variant, both plain values: how one task is fitted (the *inner
optimizer*, or the whole *adaptation step*) and the *task gradient* (how θ's gradient of one task is taken). Everything is
written for one task and mapped over tasks by `vmap` in one place, `task_gradients`. This file needs jax, optax, `types`,
`varying`, `updates` and, for its complaints, `sound`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.ad_checkpoint import checkpoint_name

from fewstep.core.types import Batch, Episode, Key, Loss, MetaParams, Params, Start
from fewstep.core.updates import differentiable
from fewstep.core.validation import (
    check_inputs,
    checked,
    require_episode,
    require_finite,
    require_gradient,
    require_learner,
    require_outer_optimizer,
)
from fewstep.core.varying import axes_of, of_one_task, task_axes, varying

InnerOptimizer = optax.GradientTransformation | Callable[[Any], optax.GradientTransformation]
AdaptationStep = Callable[["Learner", optax.GradientTransformation, tuple[Params, Any], Batch, Key], tuple[Params, Any]]
InnerGradient = Callable[[Loss], Callable[[Params, Batch, Key], Params]]
Objective = Callable[["Learner", MetaParams, Episode, Key, jax.Array], jax.Array]
TaskGradient = Callable[["Learner", MetaParams, Episode, Key, jax.Array], tuple[jax.Array, MetaParams]]

UNROLL = 8
"""Inner loops up to this length are unrolled inside their `scan`: a fifth faster on CPU, and soon compiled."""
INNER_GRADIENT = "inner gradient"
"""Under this name a step that is done again on the way back finds its gradient, which is kept."""


def adaptation_step(
    learner: Learner, optimizer: optax.GradientTransformation, state: tuple[Params, Any], support: Batch, key: Key
) -> tuple[Params, Any]:
    """θ′ ← θ′ − α ∇L(θ′, support): one step of the inner optimizer (lines 5–6). `state` is (θ′, optimizer state)."""
    adapted, opt_state = state
    gradient = checkpoint_name(learner.inner_gradient(learner.loss)(adapted, support, key), INNER_GRADIENT)
    updates, opt_state = optimizer.update(gradient, opt_state, adapted)
    return optax.apply_updates(adapted, updates), opt_state


def task_loss(learner: Learner, params: MetaParams, episode: Episode, key: Key, step: jax.Array) -> jax.Array:
    """L(θ′, query) of one task, after adapting to its support set alone (line 8, inside the sum)."""
    del step  # the meta-step: only objectives that change during training look at it
    require_episode(episode, key)
    adapt_key, query_key = jax.random.split(key)
    adapted = adapt(learner, params, episode.support, adapt_key)
    return learner.loss(adapted, episode.query, query_key)


def task_gradient(
    learner: Learner, params: MetaParams, episode: Episode, key: Key, step: jax.Array
) -> tuple[jax.Array, MetaParams]:
    """(objective, its gradient) of one task, differentiated through the whole inner loop: exact, second order."""
    params = of_one_task(learner, params, episode, key)
    return jax.value_and_grad(learner.objective, argnums=1)(learner, params, episode, key, step)


@dataclass(frozen=True)
class Learner:
    """How one task is learned, and how learning to learn it is judged. Variants replace fields: `dataclasses.replace`."""

    loss: Loss
    """L(params, batch, key) -> scalar"""
    inner_optimizer: InnerOptimizer
    """any optax transformation; or, to learn part of it, a function from `MetaParams.inner` to one"""
    adaptation_steps: int = 1
    """K, the number of adaptation steps; 0 is ordinary training on the query sets"""
    adaptation_step: AdaptationStep = adaptation_step
    """one step of the inner loop: of the inner optimizer, or something else that brings θ′ closer to the support set"""
    start: Start | None = None
    """what the inner loop starts from, by (θ, support, key), where that is not θ itself: a head for the task's own classes"""
    inner_gradient: InnerGradient = jax.grad
    """how ∇L is taken inside the inner loop, and so what its own derivative is: see `fewstep.gradients`"""
    rematerialize: bool = False
    """of each adaptation step keep θ′ and the inner gradient alone, and do the rest again on the way back"""
    objective: Objective = task_loss
    """what the outer loop minimizes, for one task"""
    task_gradient: TaskGradient = task_gradient
    """How the gradient of one task with respect to the meta-parameters is taken. By default by plain reverse mode, which keeps
    the activations of all adaptation steps. `gradients.auto` takes `gradients.exact` instead if these would not fit."""
    tasks_at_once: int | None = None
    """so many tasks of a meta-batch are mapped together, one such chunk after the other; None for all"""

    def __post_init__(self) -> None:
        require_learner(self.loss, self.inner_optimizer, self.adaptation_steps, self.tasks_at_once)

    def optimizer(self, inner: Any) -> optax.GradientTransformation:
        """The inner optimizer, with its learned part put in, and with derivatives where a gradient is zero."""
        if isinstance(self.inner_optimizer, optax.GradientTransformation):
            return differentiable(self.inner_optimizer)
        return differentiable(self.inner_optimizer(inner))


class MetaState(NamedTuple):
    """All that the outer loop carries, hence all that a checkpoint holds."""

    params: MetaParams
    opt_state: optax.OptState
    step: jax.Array
    """int32 scalar: meta-steps done"""


def adapt(learner: Learner, params: MetaParams, support: Batch, key: Key, steps: int | None = None) -> Params:
    """Inner loop (lines 5–6): fits θ to one task, from its support set alone. `steps` defaults to the learner's K.

    Raises `InputError` where parameters, support set, key, loss and inner optimizer do not fit together.
    """
    return _inner_loop(learner, params, support, key, steps, keep=lambda adapted: None)[1]


def adaptation_path(learner: Learner, params: MetaParams, support: Batch, key: Key, steps: int | None = None) -> Params:
    """The inner loop with every point it passes: each leaf gains a leading axis [steps + 1], from θ to θ′."""
    start, _, path = _inner_loop(learner, params, support, key, steps, keep=lambda adapted: adapted)
    start = jax.tree.map(jnp.asarray, start)  # plain numbers too
    if path is None:
        return jax.tree.map(lambda leaf: leaf[None], start)
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, path)


def started(learner: Learner, params: MetaParams, support: Batch, key: Key) -> Params:
    """What a task's inner loop starts from: θ, or what `Learner.start` makes of it."""
    return params.theta if learner.start is None else learner.start(params.theta, support, key)


def start_and_back(
    learner: Learner, params: MetaParams, support: Batch, key: Key
) -> tuple[Params, Callable[[Params], tuple[Params]]]:
    """(what `started` gives, the way back): a gradient there becomes one of θ, for gradients that skip the inner loop."""
    return jax.vjp(lambda theta: started(learner, MetaParams(theta, params.inner), support, key), params.theta)


def _inner_loop(learner, params, support, key, steps, keep):
    """(start, θ′, what `keep` kept after each step): the scan that both views of the inner loop share."""
    steps = learner.adaptation_steps if steps is None else steps
    with checked(learner, params, support, key, steps):
        axes = task_axes(learner, params, (support,), key)
        params, support = varying((params, support), axes)
        start = started(learner, params, support, key)
        if steps == 0:
            return start, start, None
        return start, *_steps_from(start, learner, params.inner, support, key, steps, keep, axes)


def _steps_from(start, learner, inner, support, key, steps, keep, axes):
    """(θ′, what `keep` kept after each step) of at least one adaptation step."""
    optimizer = learner.optimizer(inner)
    state = varying((start, optimizer.init(start)), axes)

    def one_step(state, key):
        state = learner.adaptation_step(learner, optimizer, state, support, key)
        return state, keep(state[0])

    keys = jax.random.split(key, steps)
    if learner.rematerialize:
        # Not unrolled, and no step before the scan: in one piece of program XLA finds that a step is done twice, and
        # keeps the first time in memory after all.
        keep_gradient = jax.checkpoint_policies.save_only_these_names(INNER_GRADIENT)
        state, kept = jax.lax.scan(jax.checkpoint(one_step, policy=keep_gradient, prevent_cse=False), state, keys)
        return state[0], kept

    # The first step stands before the scan: there all tasks still share θ, and under vmap the products of their
    # examples with θ are one matrix product. A scan would give every task its own copy of θ from the start.
    state, first = one_step(state, keys[0])
    state, rest = jax.lax.scan(one_step, state, keys[1:], unroll=min(max(steps - 1, 1), UNROLL))
    return state[0], jax.tree.map(lambda head, tail: jnp.concatenate([head[None], tail]), first, rest)


def meta_gradient(
    learner: Learner, params: MetaParams, episodes: Episode, keys: Key, step: jax.Array
) -> tuple[jax.Array, MetaParams]:
    """(meta-loss, ∇θ meta-loss): means over a meta-batch (line 8). Leaves of `episodes` and `keys` lead with the task axis.

    The paper sums over tasks; the mean is the same up to the outer rate, and independent of the meta-batch size.
    Raises `InputError` where parameters, episodes, loss and inner optimizer do not fit together, and `TrainingError`, which
    names the tasks, where the loss or the gradient of some is not finite. A compiled program cannot raise: there one such
    task makes the means NaN or infinite. `finite_meta_gradient` leaves such tasks out and says which they are.
    """
    check_inputs(learner, params, episodes, keys)
    loss, gradient, _ = _mean_over_tasks(learner, params, episodes, keys, step, drop=False)
    finite = lambda: _mean_over_tasks(learner, params, episodes, keys, step, drop=True)[2]  # noqa: E731
    require_finite((loss, gradient), finite, params, episodes)
    return loss, gradient


def finite_meta_gradient(
    learner: Learner, params: MetaParams, episodes: Episode, keys: Key, step: jax.Array
) -> tuple[jax.Array, MetaParams, jax.Array]:
    """(meta-loss, ∇θ meta-loss, finite): as `meta_gradient`, over the tasks alone whose loss and gradient are finite.

    `finite` [tasks], bool, says which tasks of the meta-batch those are: `jnp.sum(~finite)` were left out. Where none is
    finite, the meta-loss is NaN and the gradient 0, a sum over nothing. Works inside `jax.jit`.
    """
    check_inputs(learner, params, episodes, keys)
    return _mean_over_tasks(learner, params, episodes, keys, step, drop=True)


def _mean_over_tasks(learner, params, episodes, keys, step, drop):
    """(mean loss, mean gradient in the types of the parameters, [tasks] which count)."""
    loss, gradient, weight = sum_over_tasks(learner, params, episodes, keys, step, jnp.ones(keys.shape[0]), drop)
    tasks = jnp.sum(weight)
    mean = lambda total, like: (total / jnp.maximum(tasks, 1).astype(total.dtype)).astype(jnp.result_type(like))  # noqa: E731
    return loss / tasks.astype(loss.dtype), jax.tree.map(mean, gradient, params), weight > 0


def sum_over_tasks(
    learner: Learner,
    params: MetaParams,
    episodes: Episode,
    keys: Key,
    step: jax.Array,
    weight: jax.Array,
    drop: bool = False,
) -> tuple[jax.Array, MetaParams, jax.Array]:
    """(Σ loss, Σ gradient, weight [tasks]) over a meta-batch, each task times its `weight` [tasks], which may be 0.

    With `drop`, a task whose loss or gradient is not finite has weight 0, in the result too. Chunks of `tasks_at_once` follow
    one another and are added up, so that a meta-batch need not fit in memory as a whole. Sums of half-precision numbers are
    in float32: a sum of many tasks may be beyond the range of float16 where their mean is not.
    """
    tasks = keys.shape[0]
    chunk = min(learner.tasks_at_once or tasks, tasks)

    def one_chunk(episodes, keys, weight):
        measured = task_gradients(learner, params, episodes, keys, step)
        if drop:
            weight = jnp.where(finite_tasks(measured), weight, 0)

        def weighted(leaf):
            leaf = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
            by_task = weight.astype(leaf.dtype).reshape((-1,) + (1,) * (leaf.ndim - 1))
            return jnp.sum(jnp.where(by_task == 0, 0, by_task * leaf), axis=0)

        return *jax.tree.map(weighted, measured), weight

    if chunk == tasks:
        return one_chunk(episodes, keys, weight)
    one_chunk = jax.jit(one_chunk, inline=True)  # traced once, though looked at twice below
    number = jnp.arange(-(-tasks // chunk) * chunk)
    filler, number = number >= tasks, jnp.minimum(number, tasks - 1)  # fillers repeat the last task and count nothing
    parts = jax.tree.map(lambda leaf: leaf[number].reshape(-1, chunk, *leaf.shape[1:]), (episodes, keys, weight))
    parts = (*parts[:2], jnp.where(filler.reshape(-1, chunk), 0, parts[2]))
    shapes = jax.eval_shape(one_chunk, *jax.tree.map(lambda leaf: leaf[0], parts))[:2]
    nothing = jax.tree.map(lambda leaf: varying(jnp.zeros(leaf.shape, leaf.dtype), axes_of(leaf)), shapes)

    def add_chunk(total, part):
        *found, weight = one_chunk(*part)
        return jax.tree.map(jnp.add, total, tuple(found)), weight

    (loss, gradient), weight = jax.lax.scan(add_chunk, nothing, parts)
    return loss, gradient, weight.reshape(-1)[:tasks]


def finite_tasks(measured: tuple[jax.Array, MetaParams]) -> jax.Array:
    """[tasks]: whether the loss and all of the gradient are numbers, of what `task_gradients` returns."""
    finite = [jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim))) for leaf in jax.tree.leaves(measured)]
    return jnp.all(jnp.stack(finite), axis=0)


def task_gradients(
    learner: Learner, params: MetaParams, episodes: Episode, keys: Key, step: jax.Array
) -> tuple[jax.Array, MetaParams]:
    """(losses [tasks], gradients [tasks, ...]) of tasks side by side: `vmap` stands outside the gradient."""

    def one_task(episode, key):
        return learner.task_gradient(learner, of_one_task(learner, params, episode, key), episode, key, step)

    return jax.vmap(one_task)(episodes, keys)


def meta_step(outer_optimizer: optax.GradientTransformation, state: MetaState, gradient: MetaParams) -> MetaState:
    """θ ← θ − β ∇θ meta-loss (line 8): one step of the outer optimizer.

    Raises `InputError` for a gradient that is not like the parameters.
    """
    require_gradient(outer_optimizer, state, gradient)
    updates, opt_state = outer_optimizer.update(gradient, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    return MetaState(params, opt_state, state.step + 1)


def init(outer_optimizer: optax.GradientTransformation, params: MetaParams) -> MetaState:
    """The state before the first meta-step (line 1).

    Raises `InputError` for parameters that cannot be learned, and for float16 where the outer optimizer needs more precision.
    """
    require_outer_optimizer(outer_optimizer, params)
    return MetaState(params, outer_optimizer.init(params), jnp.zeros((), jnp.int32))
