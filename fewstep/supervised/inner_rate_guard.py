"""Lowers learned inner rates if adaptation makes meta-validation tasks worse.

A gradient step of rate α along a direction of curvature λ multiplies the distance to the minimum of the support loss by 1 − αλ:
adaptation overshoots if αλ ≥ 2. Well below that, it may still overfit the support set. The training loop calls the guard if
meta-validation tasks do not gain by adaptation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fewstep.core.maml import Learner, MetaState, adapt, started
from fewstep.core.problem import LowerRates, Problem, Validation
from fewstep.core.types import Batch, Key, MetaParams, Params
from fewstep.supervised.evaluate import compiled_validation
from fewstep.training.jit import jit_hoisted
from fewstep.training.map_tasks import map_tasks
from fewstep.variants import evaluated, with_params

TASKS = 64
"""Maximum number of meta-validation tasks that are used."""
ITERATIONS = 10
"""of the power method"""
TARGET, LEAST, MOST = 1.0, 0.1, 0.5
"""Rates are lowered until αλ is 1, where one step solves the steepest direction: by factors between a tenth and a half, since
curvature also grows on the way."""
MOST_TIMES = 10
"""maximum number of reductions in a row"""


class AdaptationEffect(NamedTuple):
    """The effect of adaptation on tasks."""

    before: jax.Array
    """mean query loss before adaptation"""
    after: jax.Array
    """mean query loss after adaptation"""
    curvature: jax.Array
    """largest αλ of all tasks at the start of adaptation"""


def adaptation_effect(problem: Problem, params: MetaParams, key: Key) -> AdaptationEffect:
    """The effect of adaptation on `TASKS` meta-validation tasks, the same each time. Pure."""
    assert problem.splits is not None
    family, learner = problem.splits.validation, problem.learner

    def one_task(task: jax.Array) -> AdaptationEffect:
        episode_key, adapt_key = jax.random.split(jax.random.fold_in(key, task))
        support, query = family.episode(task, episode_key)
        start = started(learner, params, support, adapt_key)
        adapted = adapt(learner, params, support, adapt_key)
        before, after = (learner.loss(each, query, adapt_key) for each in (start, adapted))
        return AdaptationEffect(before, after, step_curvature(learner, params, start, support, adapt_key))

    tasks = family.tasks(TASKS)
    found = map_tasks(one_task, tasks, tasks.shape[0])
    return AdaptationEffect(jnp.mean(found.before), jnp.mean(found.after), jnp.nanmax(found.curvature))


def step_curvature(learner: Learner, params: MetaParams, start: Params, support: Batch, key: Key) -> jax.Array:
    """αλ of largest magnitude: the leading eigenvalue of I − J by the power method, with J the Jacobian of one adaptation step
    at `start`. For gradient descent J = I − αH, so each iteration is a Hessian-vector product. This generalizes αλ to learned
    rates, learned matrices and partial adaptation."""
    optimizer = learner.optimizer(params.inner)

    def step(point: Params) -> Params:
        return learner.adaptation_step(learner, optimizer, (point, optimizer.init(point)), support, key)[0]

    def iterate(_, carry):
        vector, _ = carry
        moved = jax.tree.map(jnp.subtract, vector, jax.jvp(step, (start,), (vector,))[1])
        return normal(moved), optax.tree.vdot(vector, moved)

    # A fixed random direction, with a component along every eigenvector.
    first = normal(optax.tree.random_like(jax.random.key(0), start, jax.random.normal))
    return jax.lax.fori_loop(0, ITERATIONS, iterate, (first, jnp.zeros(())))[1]


def normal(tree: Params) -> Params:
    """Normalizes a tree to length 1; zeros stay 0."""
    length = optax.tree.norm(tree)
    return jax.tree.map(lambda leaf: leaf / jnp.where(length > 0, length, 1.0), tree)


def shrink_factor(found: AdaptationEffect) -> jax.Array:
    """The factor for learned rates: 1 if tasks gain by adaptation."""
    by_curvature = jnp.where(found.curvature > TARGET, TARGET / found.curvature, 1.0)
    return jnp.where(found.after < found.before, 1.0, jnp.clip(by_curvature, LEAST, MOST))


def guard_factor(problem: Problem, params: MetaParams, key: Key) -> tuple[jax.Array, AdaptationEffect]:
    """(factor for learned rates, effect of adaptation before it is applied). The factor is 1 if tasks gain by adaptation, or if
    they do not even at the smallest rates, which are then not the cause. Pure."""
    assert problem.lower_rates is not None
    lower = problem.lower_rates

    def look(carry):
        times, factor, first, found = carry
        factor = jnp.where(times == 0, factor, factor * shrink_factor(found))
        found = adaptation_effect(problem, with_lower_rates(lower, factor, params), key)
        return times + 1, factor, jax.tree.map(lambda old, new: jnp.where(times == 0, new, old), first, found), found

    def harmful(carry):
        times, _, _, found = carry
        return (times == 0) | ~(found.after < found.before) & (times <= MOST_TIMES)

    shapes = jax.eval_shape(lambda params: adaptation_effect(problem, params, key), params)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    _, factor, first, found = jax.lax.while_loop(harmful, look, (0, jnp.ones(()), nothing, nothing))
    return jnp.where(found.after < found.before, factor, 1.0), first


def with_lower_rates(lower: LowerRates, factor: jax.Array, params: MetaParams) -> MetaParams:
    """`params` with learned inner rates multiplied by `factor`."""
    return params._replace(inner=lower(params.inner, factor))


def compiled_guarded_validation(problem: Problem) -> Callable[[MetaState, Key], Validation]:
    """`(state, key) -> Validation`, with learned inner rates of the state lowered if adaptation overshoots.

    The state is unchanged if tasks gain by adaptation on average, or if no rate can be lowered."""
    steps, lower = problem.learner.adaptation_steps, problem.lower_rates
    validate = compiled_validation(problem, steps=(steps,) if lower is None else (0, steps))
    guard = jit_hoisted(partial(guard_factor, problem))

    def errors(state: MetaState, key: Key) -> list[float]:
        return jax.device_get(validate(jax.device_get(evaluated(state)), key)).tolist()

    def guarded(state: MetaState, key: Key) -> Validation:
        found = errors(state, key)
        if lower is None or steps == 0 or found[-1] < found[0]:
            return Validation(state, found[-1])
        factor, seen = jax.device_get(guard(jax.device_get(evaluated(state)), key))
        if factor == 1:
            return Validation(state, found[-1])
        message = (
            f"Meta-validation tasks do not gain by adaptation: their loss is {seen.before:.3g} before and {seen.after:.3g} "
            f"after it (rate times curvature is {seen.curvature:.3g}; gradient descent bears 2). The inner rates that are "
            f"learned are lowered to {factor:.2g} of what they were (--no-lower-rates leaves them alone)."
        )
        state = with_params(state, partial(with_lower_rates, lower, factor))
        return Validation(state, errors(state, key)[-1], message=message)

    return guarded
