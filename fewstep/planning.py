"""Acting by looking ahead (floor 1): model-predictive control by sampling, for any model that says what comes next.

Candidate plans are drawn around the one of the step before, moved on by one; the model imagines each; what they were worth says
where the next ones are drawn. How it says so is a value: `best` (random shooting, as in Nagabandi et al. 2019, arXiv
1803.11347), `elites` (the cross-entropy method, Rubinstein 1999) or `weighted` (MPPI, Williams et al. 2017, arXiv 1707.02342).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fewstep.types import Key

Imagine = Callable[[jax.Array, jax.Array], jax.Array]
"""`(observation, action) -> the next observation`"""
Reward = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""`(observation, action, the next observation) -> scalar`, of one step"""


class Plan(NamedTuple):
    """Where candidates are drawn: actions of the steps ahead, in parts of their range from −1 to 1."""

    mean: jax.Array
    """[horizon, actions]"""
    deviation: jax.Array
    """[horizon, actions]"""


Improve = Callable[[jax.Array, jax.Array, Plan], Plan]
"""`(candidates [candidates, horizon, actions], returns [candidates], where they were drawn) -> where the next ones are`"""


def best(candidates: jax.Array, returns: jax.Array, drawn: Plan) -> Plan:
    """The candidate that is worth most, and around it as far as before."""
    return Plan(candidates[jnp.argmax(returns)], drawn.deviation)


def elites(share: float = 0.1, least: float = 0.05) -> Improve:
    """Mean and deviation of the best `share` of the candidates; no deviation falls below `least`."""

    def improve(candidates: jax.Array, returns: jax.Array, drawn: Plan) -> Plan:
        count = max(2, round(share * len(candidates)))
        chosen = candidates[jax.lax.top_k(returns, count)[1]]
        return Plan(jnp.mean(chosen, 0), jnp.maximum(jnp.std(chosen, 0), least))

    return improve


def weighted(temperature: float = 0.1) -> Improve:
    """The mean of all candidates by exp(return / (temperature · deviation of the returns)), and around it as far as before."""

    def improve(candidates: jax.Array, returns: jax.Array, drawn: Plan) -> Plan:
        weights = jax.nn.softmax(returns / (temperature * jnp.std(returns) + 1e-9))
        return Plan(jnp.einsum("c,cha->ha", weights, candidates), drawn.deviation)

    return improve


class Planner(NamedTuple):
    """How far and how hard it looks ahead."""

    horizon: int = 10
    candidates: int = 500
    """in each round"""
    rounds: int = 1
    """of drawing and improving at each step of control"""
    deviation: float = 0.6
    """of the first candidates, in parts of half an action's range"""
    improve: Improve = best
    persistence: float = 0.0
    """of a candidate's deviations from one step to the next: 0 for white noise. What moves a body pushes for longer than a step
    (Pinneri et al. 2020, arXiv 2008.06389)"""


def first_plan(planner: Planner, actions: int) -> Plan:
    """Before anything is known: around the middle of all ranges."""
    shape = planner.horizon, actions
    return Plan(jnp.zeros(shape), jnp.full(shape, planner.deviation))


def planned(planner: Planner, imagine: Imagine, reward: Reward, observation: jax.Array, plan: Plan, limits, key: Key) -> Plan:
    """The plan from this `observation` on, drawn around `plan`; its first action is the one to take (`action_of`). Pure.

    `limits` are (least, most) of the actions, both [actions]. A candidate that the model leads to numbers that are not finite
    is worth nothing.
    """

    def worth(candidate: jax.Array) -> jax.Array:
        def step(state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
            after = imagine(state, action)
            return after, reward(state, action, after)

        return jnp.sum(jax.lax.scan(step, observation, in_range(candidate, limits))[1])

    def round_of(plan: Plan, key: Key) -> tuple[Plan, None]:
        noise = lasting(jax.random.normal(key, (planner.candidates - 1, *plan.mean.shape)), planner.persistence)
        drawn = jnp.concatenate([plan.mean[None], plan.mean[None] + plan.deviation[None] * noise])  # the plan itself is one
        drawn = jnp.clip(drawn, -1.0, 1.0)
        returns = jax.vmap(worth)(drawn)
        finite = jnp.isfinite(returns)
        least = jnp.min(jnp.where(finite, returns, jnp.inf), initial=0.0)
        return planner.improve(drawn, jnp.where(finite, returns, least - 1e6), plan), None

    return jax.lax.scan(round_of, plan, jax.random.split(key, planner.rounds))[0]


def lasting(noise: jax.Array, persistence: float) -> jax.Array:
    """White noise [candidates, horizon, actions] made one whose neighbors in time correlate so much; of the same deviation."""

    def step(before: jax.Array, fresh: jax.Array) -> tuple[jax.Array, jax.Array]:
        now = persistence * before + (1 - persistence**2) ** 0.5 * fresh
        return now, now

    first, rest = noise[:, 0], jnp.moveaxis(noise[:, 1:], 1, 0)
    return jnp.concatenate([first[None], jax.lax.scan(step, first, rest)[1]]).swapaxes(0, 1)


def action_of(plan: Plan, limits) -> jax.Array:
    """[actions]: what to do now."""
    return in_range(plan.mean[0], limits)


def moved_on(planner: Planner, plan: Plan) -> Plan:
    """The plan of the next step: without the action that was taken, its last one repeated, drawn as far around as at first."""
    mean = jnp.concatenate([plan.mean[1:], plan.mean[-1:]])
    return Plan(mean, jnp.full_like(mean, planner.deviation))


def in_range(parts: jax.Array, limits) -> jax.Array:
    """Actions from parts between −1 and 1 of their range [..., actions]."""
    least, most = (jnp.broadcast_to(jnp.asarray(limit), parts.shape) for limit in limits)
    return (most + least) / 2 + parts * (most - least) / 2
