"""Looking ahead, against what is optimal. Place: fewstep/planning.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import solve_discrete_are

from fewstep.apps.robots.mpc import (
    Plan,
    Planner,
    cem,
    first_action,
    improve_plan,
    initial_plan,
    mppi,
    random_shooting,
    scale_to_limits,
    shift_plan,
)

STEP = 0.1
A, B = np.array([[1.0, STEP], [0.0, 1.0]]), np.array([[STEP**2 / 2], [STEP]])
Q, R = np.diag([1.0, 0.1]), np.array([[0.05]])
LIMITS = (jnp.full(1, -3.0), jnp.full(1, 3.0))


def dynamics(state, action):
    return jnp.asarray(A, state.dtype) @ state + jnp.asarray(B, state.dtype) @ action


def reward(state, action, after):
    return -(state @ jnp.asarray(Q, state.dtype) @ state + action @ jnp.asarray(R, state.dtype) @ action)


def cost_of(policy, state, steps=60):
    total = 0.0
    for _ in range(steps):
        action = np.asarray(policy(state))
        total += float(state @ Q @ state + action @ R @ action)
        state = A @ state + B @ action
    return total


@pytest.mark.parametrize(
    "planner",
    [
        pytest.param(Planner(25, 300, 6, 0.5, cem(0.1, 0.01)), id="elites"),
        pytest.param(Planner(25, 600, 8, 0.25, mppi(0.05)), id="weighted"),
    ],
)
def test_a_double_integrator_is_steered_nearly_as_well_as_by_the_optimal_regulator(planner):
    riccati = solve_discrete_are(A, B, Q, R)
    gain = np.linalg.solve(R + B.T @ riccati @ B, B.T @ riccati @ A)
    start = np.array([1.0, 0.0])
    optimal = cost_of(lambda state: -gain @ state, start)
    assert optimal == pytest.approx(float(start @ riccati @ start), rel=1e-2)
    step = jax.jit(lambda state, plan, key: improve_plan(planner, dynamics, reward, state, plan, LIMITS, key))
    plan, key = initial_plan(planner, 1), jax.random.key(0)

    def policy(state):
        nonlocal plan, key
        key, use = jax.random.split(key)
        found = step(jnp.asarray(state, jnp.float32), plan, use)
        plan = shift_plan(planner, found)
        return first_action(found, LIMITS)

    assert cost_of(policy, start) < 1.05 * optimal


def test_the_best_candidate_is_never_worse_than_the_plan_itself():
    planner = Planner(horizon=5, candidates=20)
    plan = Plan(jax.random.uniform(jax.random.key(1), (5, 1), minval=-1.0), jnp.full((5, 1), 0.6))

    def worth(plan):
        state, total = jnp.array([1.0, 0.0]), 0.0
        for action in scale_to_limits(plan.mean, LIMITS):
            total, state = total + reward(state, action, None), dynamics(state, action)
        return total

    found = improve_plan(planner, dynamics, reward, jnp.array([1.0, 0.0]), plan, LIMITS, jax.random.key(2))
    assert worth(found) >= worth(plan)


def test_candidates_that_the_model_leads_to_nonsense_are_worth_nothing():
    candidates = Planner(horizon=2, candidates=50)
    broken = lambda state, action: jnp.where(action > 0, jnp.nan, state + action)  # noqa: E731
    plan = initial_plan(candidates, 1)
    found = improve_plan(candidates, broken, lambda s, a, after: after[0], jnp.zeros(1), plan, LIMITS, jax.random.key(0))
    assert jnp.isfinite(found.mean).all() and (found.mean <= 0).all()


def test_what_improves_a_plan_does_as_its_formula_says():
    drawn = Plan(jnp.zeros((1, 1)), jnp.ones((1, 1)))
    candidates, returns = jnp.array([0.1, 0.2, 0.4, -0.9])[:, None, None], jnp.array([1.0, 3.0, 2.0, 0.0])
    assert random_shooting(candidates, returns, drawn).mean[0, 0] == jnp.float32(0.2)
    two = cem(0.5, 0.0)(candidates, returns, drawn)
    np.testing.assert_allclose([two.mean[0, 0], two.deviation[0, 0]], [0.3, 0.1], rtol=1e-5)
    weights = np.exp(np.array([1.0, 3.0, 2.0, 0.0]) / (0.5 * np.std([1.0, 3.0, 2.0, 0.0])))
    mean = mppi(0.5)(candidates, returns, drawn).mean[0, 0]
    np.testing.assert_allclose(mean, weights @ np.array([0.1, 0.2, 0.4, -0.9]) / weights.sum(), rtol=1e-4)


def test_a_plan_moves_on_with_time():
    planner = Planner(horizon=3, deviation=0.4)
    moved = shift_plan(planner, Plan(jnp.array([[1.0], [2.0], [3.0]]), jnp.zeros((3, 1))))
    assert moved.mean[:, 0].tolist() == [2.0, 3.0, 3.0] and moved.deviation[:, 0].tolist() == [jnp.float32(0.4)] * 3
