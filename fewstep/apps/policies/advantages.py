"""Advantages of the actions of one task's trajectories.

The baseline is a linear function of observation and time (Duan et al. 2016, arXiv 1604.06778). It is fitted by least squares to
the same trajectories, separately for each task and adaptation step: a baseline shared by tasks would leak information between
them. All of it is data, constant in θ.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fewstep.apps.policies.trajectories import Scored, Trajectories, mean_over_steps

RIDGE = 1e-5
"""in parts of each feature's mean square, to begin with"""
GROWTH, TRIES = 10.0, 8
"""the ridge grows so many times, so often at most, until the system can be solved"""
UNSOLVED = 0.1
"""of the right-hand side's norm: so much may be left over"""


def scored(
    trajectories: Trajectories, discount: float = 0.99, trace: float = 1.0, normalize: bool = True, bootstrap: bool = False
) -> Scored:
    """Trajectories with their advantages: linear baseline, generalized advantage estimation, normalized.

    Without `bootstrap` the horizon is where the task itself ends, as in rllab: nothing comes after it (the time is among the
    features). With it, trajectories that were cut off would have gone on, worth what the baseline says.
    """
    weights = linear_baseline(trajectories, discount_to_go(trajectories.rewards, trajectories.weight, discount))
    values = predicted(weights, trajectories.observations)
    after = last_value(weights, trajectories) if bootstrap else jnp.zeros_like(values[:, 0])
    advantages = generalized_advantages(trajectories, values, after, discount, trace)
    advantages = normalized(advantages, trajectories.weight) if normalize else advantages
    return Scored(trajectories, jax.lax.stop_gradient(advantages))


def discount_to_go(rewards: jax.Array, weight: jax.Array, discount: float) -> jax.Array:
    """Σ γ^(s − t) r_s over s ≥ t: [rollouts, steps], from rewards of that shape."""

    def step(after: jax.Array, reward: jax.Array) -> tuple[jax.Array, jax.Array]:
        return (now := reward + discount * after), now

    rewards = rewards * weight
    return jax.lax.scan(step, jnp.zeros_like(rewards[:, 0]), rewards.T, reverse=True)[1].T


def generalized_advantages(
    trajectories: Trajectories, values: jax.Array, after: jax.Array, discount: float, trace: float
) -> jax.Array:
    """A_t = Σ (γλ)^l δ_(t+l), δ_t = r_t + γ V_(t+1) − V_t (Schulman et al. 2016, arXiv 1506.02438, equation 16).

    `values` [rollouts, steps] are V of the observations, `after` [rollouts] V of what would have come after the last step. A
    trajectory that terminated is worth nothing beyond; one that was cut off is worth `after`. [rollouts, steps], 0 after it.
    """
    rewards, weight, terminated = trajectories.rewards, trajectories.weight, trajectories.terminated
    goes_on = jnp.concatenate([weight[:, 1:], jnp.zeros_like(weight[:, :1])], axis=1)
    following = jnp.concatenate([values[:, 1:], after[:, None]], axis=1)
    following = jnp.where(goes_on > 0, following, after[:, None]) * (1 - terminated)
    errors = (rewards + discount * following - values) * weight

    def step(later: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        error, goes_on = now
        return (advantage := error + discount * trace * goes_on * later), advantage

    return jax.lax.scan(step, jnp.zeros_like(after), (errors.T, goes_on.T), reverse=True)[1].T


def normalized(advantages: jax.Array, weight: jax.Array) -> jax.Array:
    """Mean 0 and variance 1 over the steps that were taken; 0 elsewhere."""
    centered = advantages - mean_over_steps(advantages, weight)
    return weight * centered / (jnp.sqrt(mean_over_steps(centered**2, weight)) + 1e-8)


def features(observations: jax.Array, time: jax.Array) -> jax.Array:
    """[o, o², t/100, (t/100)², (t/100)³, 1] of observations [..., observed] at steps `time` [...]: [..., 2 observed + 4]."""
    seen = jnp.clip(observations, -10, 10)  # as in rllab's LinearFeatureBaseline
    time = time[..., None] / 100
    return jnp.concatenate([seen, seen**2, time, time**2, time**3, jnp.ones_like(time)], axis=-1)


def linear_baseline(trajectories: Trajectories, targets: jax.Array) -> jax.Array:
    """Weights [2 observed + 4] of the baseline that fits `targets` [rollouts, steps] best, over the steps that were taken."""
    known = _features(trajectories.observations)
    weighted = known * trajectories.weight[..., None]
    count = jnp.maximum(jnp.sum(trajectories.weight), 1)
    return ridge_regression(
        jnp.einsum("rsf,rsg->fg", weighted, known) / count, jnp.einsum("rsf,rs->f", weighted, targets) / count
    )


def predicted(weights: jax.Array, observations: jax.Array) -> jax.Array:
    """V [rollouts, steps] of observations [rollouts, steps, observed]."""
    return _features(observations) @ weights


def last_value(weights: jax.Array, trajectories: Trajectories) -> jax.Array:
    """V [rollouts] of what would have come after each trajectory's last step."""
    return features(trajectories.last_observation, jnp.sum(trajectories.weight, axis=1)) @ weights


def ridge_regression(squares: jax.Array, products: jax.Array) -> jax.Array:
    """w [features] with (squares + ridge) w = products; the ridge, in parts of the diagonal, grows until that can be solved."""
    scale = jax.lax.rsqrt(jnp.maximum(jnp.diag(squares), 1e-12))
    squares, products = squares * scale[:, None] * scale[None], products * scale

    def solve(ridge: jax.Array) -> tuple[jax.Array, jax.Array]:
        solution = solve_positive(squares + ridge * jnp.eye(len(products), dtype=squares.dtype), products)
        left = jnp.linalg.norm(squares @ solution + ridge * solution - products)
        return solution, left <= UNSOLVED * jnp.linalg.norm(products)  # False if it is not a number, too

    def grow(state):
        tries, ridge, *_ = state
        return tries + 1, GROWTH * ridge, *solve(GROWTH * ridge)

    ridge = jnp.asarray(RIDGE, squares.dtype)
    state = jnp.zeros((), jnp.int32), ridge, *solve(ridge)
    solution, solved = jax.lax.while_loop(lambda state: (state[0] < TRIES) & ~state[3], grow, state)[2:]
    return scale * jnp.where(solved, solution, 0)


def solve_positive(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """The solution of a small positive definite system, [n, n] and [n], by elimination; no pivoting is needed for these.

    In plain operations, because LAPACK's calls, mapped over tasks, can wait for each other forever on the CPU's thread pool.
    """

    def eliminate(number: jax.Array, rows: jax.Array) -> jax.Array:
        pivot = rows[number] / rows[number, number]
        return (rows - rows[:, number][:, None] * pivot[None]).at[number].set(pivot)

    rows = jnp.concatenate([matrix, vector[:, None]], axis=1)
    return jax.lax.fori_loop(0, len(vector), eliminate, rows)[:, -1]


def _features(observations: jax.Array) -> jax.Array:
    time = jnp.broadcast_to(jnp.arange(observations.shape[1], dtype=observations.dtype)[None], observations.shape[:2])
    return features(observations, time)
