"""Reinforcement learning in parts: environments, rollouts, advantages, inner loop, outer steps. Place: fewstep/rl."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from fewstep import InputError, MetaParams
from fewstep.apps.policies.adaptation import adapted_on, collected_path, slower_after_first
from fewstep.apps.policies.advantages import (
    discount_to_go,
    generalized_advantages,
    linear_baseline,
    normalized,
    scored,
    solve_positive,
)
from fewstep.apps.policies.environment import Environment, Transition
from fewstep.apps.policies.meta_step import PolicySearch, collect_scored, evaluate_policy, policy_meta_step, support_and_query
from fewstep.apps.policies.nav2d import navigation, standing_still, straight_there
from fewstep.apps.policies.nav2d import normalized as normalized_return
from fewstep.apps.policies.networks import Categorical, Gaussian, policy_for
from fewstep.apps.policies.ppo import ProximalPolicy
from fewstep.apps.policies.surrogates import mean_kl
from fewstep.apps.policies.trajectories import Trajectories, collect, returns, steps_taken
from fewstep.apps.policies.trpo import TrustRegion, conjugate_gradients, divergence_product, trust_region_step

SMALL = PolicySearch(tasks=3, rollouts=4, inner_rate=0.5)
NAV = navigation(horizon=12)
POLICY = policy_for(2, 2, hidden=(6,))


def params_of(policy=POLICY, seed=0):
    return MetaParams(policy.init(jax.random.key(seed)))


@pytest.fixture(scope="module")
def evidence():
    """(params, supports, queries) of three tasks."""
    params = params_of()
    keys = jax.random.split(jax.random.key(1), SMALL.tasks)
    supports, queries = jax.jit(jax.vmap(lambda key: support_and_query(SMALL, NAV, POLICY, params, key)))(keys)
    return params, supports, queries


def test_navigation_moves_by_a_tenth_at_most_pays_the_distance_after_the_move_and_ends_within_a_hundredth():
    goal, key = jnp.array([0.1, -0.05]), jax.random.key(0)
    moved = NAV.step(jnp.zeros(2), jnp.array([3.0, 0.5]), goal, key)
    np.testing.assert_allclose(moved.state, [0.1, 0.05], rtol=1e-6)
    np.testing.assert_allclose(moved.reward, -0.1, rtol=1e-5)
    assert not moved.terminated
    arrived = NAV.step(moved.state, jnp.array([0.05, -0.95]), goal, key)
    np.testing.assert_allclose(arrived.state, [0.105, -0.045], rtol=1e-5)
    assert arrived.terminated
    beside = NAV.step(jnp.zeros(2), jnp.array([1.0, -0.35]), goal, key)  # near along one axis alone
    assert not beside.terminated
    squared = navigation(squared=True).step(jnp.zeros(2), jnp.array([3.0, 0.5]), goal, key)
    np.testing.assert_allclose(squared.reward, -0.01, rtol=1e-5)


def test_goals_lie_within_half_a_unit_and_standing_still_costs_38():
    goals = jax.vmap(NAV.sample_task)(jax.random.split(jax.random.key(0), 20_000))
    assert float(jnp.abs(goals).max()) <= 0.5
    still = jax.vmap(standing_still)(goals)
    assert float(still.mean()) == pytest.approx(-38.26, abs=0.3)  # 100 times the mean distance, (√2 + asinh 1) / 6
    oracle = jax.vmap(straight_there)(goals)
    assert bool(jnp.all(oracle <= 0)) and -1 < float(oracle.mean()) < -0.3
    np.testing.assert_allclose(normalized_return(still[0], goals[0]), 0, atol=1e-6)
    np.testing.assert_allclose(normalized_return(oracle[0], goals[0]), 1, rtol=1e-6)


def test_the_oracles_return_is_that_of_an_oracle_in_the_environment():
    goal = jnp.array([0.33, -0.42])
    oracle = POLICY._replace(
        distribution=lambda params, seen: Gaussian((params[None] - seen) / 0.1, jnp.zeros_like(seen)),
        sample=lambda drawn, key: drawn.mean,
    )
    rolled = collect(navigation(), oracle, goal, goal, jax.random.key(0), 2)
    np.testing.assert_allclose(returns(rolled), straight_there(goal)[None].repeat(2), rtol=1e-4)
    assert float(steps_taken(rolled)) == 10  # five of each: 0.42 in strides of 0.1


def counting(ends_after):
    """A state that counts its steps, a reward of 1 in each, and an end of its own after so many."""

    return Environment(
        lambda key: jnp.zeros(()), lambda task, key: jnp.zeros(1), lambda state, task: state,
        lambda state, action, task, key: Transition(state + 1, jnp.ones(()), (state + 1 >= ends_after)[0]), 1, 1, horizon=5,
    )  # fmt: skip


def test_steps_after_the_end_weigh_nothing_and_change_nothing():
    policy = policy_for(1, 1, hidden=(4,))
    rolled = collect(counting(3), policy, policy.init(jax.random.key(0)), jnp.zeros(()), jax.random.key(1), 2)
    np.testing.assert_array_equal(rolled.weight, [[1, 1, 1, 0, 0]] * 2)
    np.testing.assert_array_equal(rolled.terminated, [[0, 0, 1, 0, 0]] * 2)
    np.testing.assert_array_equal(rolled.rewards, [[1, 1, 1, 0, 0]] * 2)
    np.testing.assert_array_equal(rolled.observations[..., 0], [[0, 1, 2, 3, 3]] * 2)
    np.testing.assert_array_equal(returns(rolled), [3, 3])
    cut = collect(counting(9), policy, policy.init(jax.random.key(0)), jnp.zeros(()), jax.random.key(1), 2)
    np.testing.assert_array_equal(cut.weight, np.ones((2, 5)))
    assert not cut.terminated.any()
    np.testing.assert_array_equal(cut.last_observation, [[5], [5]])


def test_what_was_stored_while_collecting_is_what_the_policy_says_of_it():
    params = params_of().theta
    rolled = collect(NAV, POLICY, params, jnp.array([0.3, 0.2]), jax.random.key(0), 3)
    distribution = POLICY.distribution(params, rolled.observations)
    np.testing.assert_allclose(distribution.mean, rolled.distribution.mean, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(POLICY.log_probability(distribution, rolled.actions), rolled.log_probability, rtol=1e-4)
    assert float(mean_kl(POLICY, distribution, rolled)) == pytest.approx(0, abs=1e-6)


def test_a_policy_is_chosen_by_the_action_space_and_an_environment_without_steps_is_refused():
    assert isinstance(policy_for(2, 3).distribution(policy_for(2, 3).init(jax.random.key(0)), jnp.ones((1, 2))), Gaussian)
    chooser = policy_for(2, 3, discrete=True)
    drawn = chooser.distribution(chooser.init(jax.random.key(0)), jnp.ones((7, 2)))
    assert isinstance(drawn, Categorical)
    assert chooser.sample(drawn, jax.random.key(1)).shape == (7,)
    with pytest.raises(InputError, match="at least 1 for `horizon`, got 0"):
        navigation(horizon=0)


def test_densities_divergences_and_entropies_are_those_of_their_definitions():
    p, q = Gaussian(jnp.array([0.3, -1.0]), jnp.array([0.1, -0.4])), Gaussian(jnp.array([0.0, 0.5]), jnp.array([0.3, 0.2]))
    axis = jnp.linspace(-12, 12, 801)
    grid = jnp.stack(jnp.meshgrid(axis, axis), axis=-1)
    area = float(axis[1] - axis[0]) ** 2
    wide = [Gaussian(*(jnp.broadcast_to(leaf, grid.shape) for leaf in drawn)) for drawn in (p, q)]
    log_p, log_q = (POLICY.log_probability(drawn, grid) for drawn in wide)
    np.testing.assert_allclose(jnp.sum(jnp.exp(log_p)) * area, 1, rtol=1e-4)
    np.testing.assert_allclose(jnp.sum(jnp.exp(log_p) * (log_p - log_q)) * area, POLICY.kl(p, q), rtol=1e-3)
    np.testing.assert_allclose(-jnp.sum(jnp.exp(log_p) * log_p) * area, POLICY.entropy(p), rtol=1e-3)
    chooser = policy_for(2, 3, discrete=True)
    p, q = Categorical(jnp.array([0.2, -1.0, 0.5])), Categorical(jnp.array([1.0, 0.0, 0.0]))
    chance, other = jax.nn.softmax(p.logits), jax.nn.softmax(q.logits)
    every = [chooser.log_probability(Categorical(p.logits[None]), jnp.array([action]))[0] for action in range(3)]
    np.testing.assert_allclose(jnp.exp(jnp.array(every)), chance, rtol=1e-5)
    np.testing.assert_allclose(chooser.kl(p, q), jnp.sum(chance * jnp.log(chance / other)), rtol=1e-5)
    np.testing.assert_allclose(chooser.entropy(p), -jnp.sum(chance * jnp.log(chance)), rtol=1e-5)


def some_trajectories(rewards, weight, terminated, observations=None):
    rewards = jnp.asarray(rewards, jnp.float32)
    seen = jnp.zeros((*rewards.shape, 1)) if observations is None else observations
    nothing = jnp.zeros_like(rewards)
    return Trajectories(seen, nothing[..., None], rewards, nothing, (), jnp.asarray(weight, jnp.float32),
                        jnp.asarray(terminated, jnp.float32), seen[:, -1])  # fmt: skip


def test_generalized_advantages_are_the_written_out_sum_with_termination_and_truncation_apart():
    rewards = [[1.0, 2.0, 3.0, 0.0], [1.0, 2.0, 3.0, 4.0]]
    weight, ended = [[1, 1, 1, 0], [1, 1, 1, 1]], [[0, 0, 1, 0], [0, 0, 0, 0]]
    values = np.array([[0.5, -0.3, 0.8, 9.0], [0.1, 0.2, 0.3, 0.4]], np.float32)
    after, gamma, trace = np.array([7.0, -2.0], np.float32), 0.9, 0.7
    found = generalized_advantages(
        some_trajectories(rewards, weight, ended), jnp.asarray(values), jnp.asarray(after), gamma, trace
    )
    for row, length, end in ((0, 3, 0.0), (1, 4, after[1])):  # the first terminated: nothing after it, whatever `after` says
        value = [*values[row][:length], end]
        errors = [rewards[row][t] + gamma * value[t + 1] - value[t] for t in range(length)]
        for t in range(length):
            expected = sum((gamma * trace) ** later * error for later, error in enumerate(errors[t:]))
            np.testing.assert_allclose(found[row, t], expected, rtol=1e-5)
    assert float(found[0, 3]) == 0


def test_returns_to_go_and_normalized_advantages_look_at_the_steps_taken_alone():
    weight = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    rewards = jnp.array([[1.0, 2.0, 99.0], [3.0, 4.0, 5.0]])
    np.testing.assert_allclose(discount_to_go(rewards, weight, 0.5), [[2, 2, 0], [6.25, 6.5, 5]])
    found = normalized(rewards, weight)
    kept = np.array([1, 2, 3, 4, 5.0])
    np.testing.assert_allclose(found[np.asarray(weight) > 0], (kept - kept.mean()) / kept.std(), rtol=1e-5)
    assert float(found[0, 2]) == 0


def test_the_baseline_is_the_ridge_regression_of_the_returns_and_survives_features_that_say_the_same():
    seen = jax.random.normal(jax.random.key(0), (6, 20, 1))
    trajectories = some_trajectories(np.zeros((6, 20)), np.ones((6, 20)), np.zeros((6, 20)), seen)
    time = np.broadcast_to(np.arange(20) / 100, (6, 20))
    targets = 2 * seen[..., 0] - seen[..., 0] ** 2 + 3 * time + 0.5
    weights = linear_baseline(trajectories, targets)
    columns = np.stack([seen[..., 0], seen[..., 0] ** 2, time, time**2, time**3, np.ones_like(time)], -1)
    np.testing.assert_allclose(columns @ np.asarray(weights), targets, atol=0.02)
    stuck = some_trajectories(np.ones((6, 20)), np.ones((6, 20)), np.zeros((6, 20)))  # observations all 0
    assert np.all(np.isfinite(scored(stuck).advantages))


def test_elimination_and_conjugate_gradients_solve_positive_systems():
    root = jax.random.normal(jax.random.key(0), (8, 8))
    matrix, vector = root @ root.T + jnp.eye(8), jnp.arange(8.0)
    solution = np.linalg.solve(np.asarray(matrix, float), vector)
    np.testing.assert_allclose(solve_positive(matrix, vector), solution, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(conjugate_gradients(lambda v: matrix @ v, vector, 30), solution, rtol=1e-2, atol=1e-2)


def test_adapting_on_what_was_collected_is_the_path_that_was_collected():
    search = replace(SMALL, adaptation_steps=2)
    params, goal, learner = params_of(), jnp.array([0.3, 0.2]), search.learner(POLICY)
    path = collected_path(
        learner, params, lambda theta, key: collect_scored(search, NAV, POLICY, theta, goal, key, 4), jax.random.key(0)
    )
    again = adapted_on(learner, params, path.supports)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), again, path.adapted)


def test_updates_after_the_first_are_half_as_large_where_asked():
    optimizer = slower_after_first(SMALL.learner(POLICY), 0.5).optimizer(())
    state, sizes = optimizer.init(jnp.ones(1)), []
    for _ in range(3):
        update, state = optimizer.update(jnp.ones(1), state)
        sizes.append(float(-update[0]))  # type: ignore
    assert sizes == [0.5, 0.25, 0.25]


def test_products_with_the_divergences_hessian_are_those_of_the_dense_hessian(evidence):
    params, supports, queries = evidence
    learner = SMALL.learner(POLICY)
    flat, back = ravel_pytree(params)

    def divergence(flat):
        def one(supports, query):
            adapted = adapted_on(learner, back(flat), supports)
            drawn = POLICY.distribution(adapted, query.trajectories.observations)
            return mean_kl(POLICY, drawn, query.trajectories)

        return jnp.mean(jax.vmap(one)(supports, queries))

    dense = jax.jit(jax.hessian(divergence))(flat)
    product = jax.jit(jax.vmap(divergence_product(learner, POLICY, params, supports, queries)))
    np.testing.assert_allclose(product(jnp.eye(len(flat))), dense, atol=2e-4 * float(jnp.abs(dense).max()))
    assert float(jnp.linalg.norm(jax.grad(divergence)(flat))) < 1e-3 * float(jnp.linalg.norm(dense))


def test_the_divergence_stays_within_its_limit_and_the_surrogate_improves(evidence):
    params, supports, queries = evidence
    for limit in (0.001, 0.01, 0.1):
        outer = TrustRegion(kl_limit=limit)
        step = jax.jit(partial(trust_region_step, outer, SMALL.learner(POLICY), POLICY))
        state, taken = step(outer.init(params), supports, queries)
        assert bool(taken.accepted)
        assert 0 < float(taken.kl) <= limit
        assert float(taken.improvement) > 0
        learner = SMALL.learner(POLICY)
        drawn = [
            POLICY.distribution(adapted_on(learner, state.params, support), query.trajectories.observations)
            for support, query in zip(_apart(supports), _apart(queries), strict=True)
        ]
        kl = np.mean([mean_kl(POLICY, d, q.trajectories) for d, q in zip(drawn, _apart(queries), strict=True)])
        assert kl == pytest.approx(float(taken.kl), rel=1e-2)


def _apart(by_task):
    return [jax.tree.map(lambda leaf, task=task: leaf[task], by_task) for task in range(SMALL.tasks)]


def test_a_step_that_cannot_improve_leaves_the_parameters_where_they_are(evidence):
    params, supports, queries = evidence
    outer = TrustRegion()
    step = jax.jit(partial(trust_region_step, outer, SMALL.learner(POLICY), POLICY))
    for advantages in (jnp.zeros_like(queries.advantages), jnp.full_like(queries.advantages, jnp.nan)):
        state, taken = step(outer.init(params), supports, queries._replace(advantages=advantages))
        assert not bool(taken.accepted)
        jax.tree.map(np.testing.assert_array_equal, state.params, params)
    assert not bool(taken.finite)


def test_tasks_in_another_order_with_their_keys_give_the_same_support_query_and_step(evidence):
    """What a task sees depends on its key alone: no baseline, no normalization and no draw is shared."""
    params, supports, queries = evidence
    order = jnp.array([2, 0, 1])
    keys = jax.random.split(jax.random.key(1), SMALL.tasks)[order]
    found = jax.jit(jax.vmap(lambda key: support_and_query(SMALL, NAV, POLICY, params, key)))(keys)
    moved = jax.tree.map(lambda leaf: leaf[order], (supports, queries))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, moved)
    one = jax.jit(lambda key: support_and_query(SMALL, NAV, POLICY, params, key))(keys[0])  # and alone
    jax.tree.map(lambda leaf, whole: np.testing.assert_allclose(leaf, whole[0], rtol=1e-3, atol=1e-4), one, found)


@pytest.mark.parametrize("outer", [TrustRegion(), ProximalPolicy(epochs=2)])
def test_the_same_key_gives_the_same_bits_and_another_one_other_bits(outer):
    search = replace(SMALL, outer=outer)
    step = jax.jit(partial(policy_meta_step, search, NAV, POLICY))

    def run(seed):
        state = outer.init(params_of())
        for _ in range(2):
            state, info = step(state, jax.random.key(seed))
        return state, info

    first, again, other = run(0), run(0), run(1)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert int(first[0].step) == 2
    assert not np.array_equal(first[1].returns, other[1].returns)
    assert 0 < int(first[1].environment_steps) <= 2 * 3 * 4 * 12


def test_proximal_steps_lower_the_surrogate_and_a_large_rate_is_told():
    search = replace(SMALL, outer=ProximalPolicy(rate=1e-2))
    _, info = jax.jit(partial(policy_meta_step, search, NAV, POLICY))(search.outer.init(params_of()), jax.random.key(0))
    assert float(info.outer.improvement) > 0
    assert bool(info.outer.finite)
    search = replace(SMALL, outer=ProximalPolicy(rate=float("nan")))
    kept, info = jax.jit(partial(policy_meta_step, search, NAV, POLICY))(search.outer.init(params_of()), jax.random.key(0))
    assert not bool(info.outer.finite)
    jax.tree.map(np.testing.assert_array_equal, kept.params, params_of())


def test_a_policy_over_choices_is_trained_by_the_same_program():
    def step(state, action, task, key):
        return Transition(state, (action == task).astype(jnp.float32), jnp.zeros((), bool))

    bandit = Environment(
        lambda key: jax.random.randint(key, (), 0, 3), lambda task, key: jnp.ones(1), lambda state, task: state, step,
        observation_size=1, action_size=3, horizon=4, discrete=True,
    )  # fmt: skip
    policy = policy_for(1, 3, discrete=True, hidden=(8,))
    search = PolicySearch(tasks=6, rollouts=20, inner_optimizer=optax.sgd(2.0), outer=ProximalPolicy(rate=0.02))
    state = search.outer.init(params_of(policy))
    meta_step = jax.jit(partial(policy_meta_step, search, bandit, policy))
    for _ in range(15):
        state, info = meta_step(state, jax.random.key(0))
    assert float(info.returns[1]) > float(info.returns[0]) + 1  # of 4, a third of it by chance


@pytest.mark.slow
def test_navigation_is_learned_to_be_learned_in_half_a_minute():
    search = PolicySearch(tasks=10, rollouts=10, inner_rate=0.5, trace=0.9, outer=ProximalPolicy(rate=5e-3))
    environment, policy = navigation(), policy_for(2, 2, hidden=(32, 32))
    state = search.outer.init(params_of(policy))
    meta_step = jax.jit(partial(policy_meta_step, search, environment, policy))
    for _ in range(30):
        state, _ = meta_step(state, jax.random.key(0))
    goals = jax.vmap(environment.sample_task)(jax.random.split(jax.random.key(99), 20))  # never seen in training
    evaluate = jax.jit(jax.vmap(partial(evaluate_policy, search, environment, policy, steps=1), (None, 0, 0)))
    found = np.asarray(evaluate(state.params, goals, jax.random.split(jax.random.key(5), 20)).returns).mean(0)
    print("return before and after one update:", found)
    assert found[1] > found[0] + 15
    assert found[1] > np.asarray(jax.vmap(standing_still)(goals)).mean() + 10
