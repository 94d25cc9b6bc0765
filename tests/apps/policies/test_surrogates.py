"""Policy gradients of adapted policies against exact ones, by enumeration of all trajectories. Place: fewstep/rl.

The oracle is a Markov decision process with two states and two actions, played for two or three steps: all its
trajectories can be written down with their probabilities. Trajectories weighted with these are what infinitely many
samples would be, so a surrogate's derivatives on them are the limits of its estimates. No one else's code is needed, only
sums."""

from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fewstep.apps.policies.adaptation import adapted_on, policy_learner
from fewstep.apps.policies.advantages import normalized
from fewstep.apps.policies.networks import Categorical, categorical_of
from fewstep.apps.policies.surrogates import INNER, decayed_dice, dice, likelihood_ratio, lvc, naive
from fewstep.apps.policies.trajectories import Scored, Trajectories
from fewstep.core.maml import adaptation_step
from fewstep.core.types import MetaParams

STATES = ACTIONS = 2
STEPS = 3
RATE = 0.4
MOVES = np.array([[[0.8, 0.2], [0.3, 0.7]], [[0.5, 0.5], [0.9, 0.1]]])
"""probability of the next state by [state, action, next state]"""
PAYS = np.array([[1.0, 0.2], [0.1, 2.0]])
"""reward by [state, action], all above 0"""
START = np.array([0.6, 0.4])


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def tabular():
    """A policy with one logit for each state and action; an observation is the state, one-hot."""
    return categorical_of(
        lambda key: jax.random.normal(key, (STATES, ACTIONS)), lambda params, seen: Categorical(seen @ params)
    )


THETA = np.array([[0.3, -0.2], [-0.5, 0.4]])
POLICY = tabular()


def paths():
    """(states, actions) of all trajectories, both [trajectories, STEPS]."""
    every = np.array(list(product(range(STATES), range(ACTIONS), repeat=STEPS)))
    return every[:, 0::2], every[:, 1::2]


def probabilities(theta):
    """[trajectories], differentiable in θ: the definition, written out."""
    states, actions = paths()
    chosen = jax.nn.softmax(theta)[states, actions]
    moved = MOVES[states[:, :-1], actions[:, :-1], states[:, 1:]]
    return START[states[:, 0]] * jnp.prod(chosen, axis=1) * np.prod(moved, axis=1)


def expected_return(theta):
    """J(θ), exactly."""
    states, actions = paths()
    return jnp.sum(probabilities(theta) * PAYS[states, actions].sum(1))


def loss(theta):
    """What a surrogate's mean over steps stands for: −J / STEPS."""
    return -expected_return(theta) / STEPS


def every_trajectory(theta, baseline: float | np.ndarray = 0.0):
    """All trajectories of π_θ, weighted with their probabilities; advantages are what is yet to come, minus a baseline."""
    states, actions = paths()
    rewards = jnp.asarray(PAYS[states, actions])
    seen = jnp.asarray(np.eye(STATES)[states])
    distribution = POLICY.distribution(theta, seen)
    weight = jnp.broadcast_to(probabilities(theta)[:, None], rewards.shape)
    trajectories = Trajectories(
        seen, jnp.asarray(actions), rewards, POLICY.log_probability(distribution, jnp.asarray(actions)), distribution,
        weight, jnp.zeros_like(rewards), seen[:, -1],
    )  # fmt: skip
    return Scored(trajectories, jnp.cumsum(rewards[:, ::-1], axis=1)[:, ::-1] - baseline)


def value_baseline(theta):
    """V of each state with so many steps to go, at the trajectories' states: independent of the actions taken there."""
    states, _ = paths()
    chosen = np.asarray(jax.nn.softmax(theta))
    values, found = np.zeros(STATES), []
    for _ in range(STEPS):
        values = (chosen * (PAYS + MOVES @ values)).sum(1)
        found.append(values)
    return np.stack([found[STEPS - 1 - step][states[:, step]] for step in range(STEPS)], axis=1)


def hessian(surrogate, scored):
    return np.asarray(jax.jit(jax.hessian(lambda theta: surrogate(POLICY, theta, *scored)))(THETA)).reshape(4, 4)


def gradient(surrogate, scored):
    return np.asarray(jax.jit(jax.grad(lambda theta: surrogate(POLICY, theta, *scored)))(THETA)).ravel()


@cache
def exact_hessian():
    return np.asarray(jax.jit(jax.hessian(loss))(THETA)).reshape(4, 4)


@cache
def exact_gradient():
    return np.asarray(jax.jit(jax.grad(loss))(THETA)).ravel()


def test_the_enumerated_trajectories_are_all_there_are():
    assert float(jnp.sum(probabilities(THETA))) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", INNER)
def test_every_estimators_gradient_is_the_gradient_of_the_expected_return(name):
    scored = every_trajectory(THETA)
    np.testing.assert_allclose(gradient(INNER[name], scored), exact_gradient(), atol=1e-12)


@pytest.mark.parametrize("name", INNER)
def test_a_baseline_changes_no_estimators_gradient(name):
    scored = every_trajectory(THETA, value_baseline(THETA))
    np.testing.assert_allclose(gradient(INNER[name], scored), exact_gradient(), atol=1e-12)


def test_dice_has_the_exact_second_derivative_without_a_baseline():
    np.testing.assert_allclose(hessian(dice, every_trajectory(THETA)), exact_hessian(), atol=1e-12)


@pytest.mark.parametrize("baseline", [0.7, "value"])
def test_dice_has_the_exact_second_derivative_with_an_independent_baseline(baseline):
    scored = every_trajectory(THETA, value_baseline(THETA) if baseline == "value" else baseline)
    np.testing.assert_allclose(hessian(dice, scored), exact_hessian(), atol=1e-12)


def test_the_naive_estimator_misses_the_outer_products_of_the_scores_and_is_too_large_by_them():
    """H[naive] − H[−J] = E[Σ_t A_t s_t s_tᵀ + cross terms] / STEPS, s the scores: above 0 where rewards are."""
    scored = every_trajectory(THETA)

    def log_probability(theta, seen, action):
        return POLICY.log_probability(POLICY.distribution(theta, seen), action)

    score = jax.jit(jax.vmap(jax.jacobian(log_probability), (None, 0, 0)))
    trajectories = scored.trajectories
    scores = score(THETA, trajectories.observations.reshape(-1, STATES), trajectories.actions.reshape(-1)).reshape(-1, STEPS, 4)
    before = jnp.cumsum(scores, axis=1) - scores
    weighted = probabilities(THETA)[:, None] * scored.advantages / STEPS
    own = jnp.einsum("nt,nti,ntj->ij", weighted, scores, scores)
    cross = jnp.einsum("nt,nti,ntj->ij", weighted, scores, before)
    bias = hessian(naive, scored) - exact_hessian()
    np.testing.assert_allclose(bias, own + cross + cross.T, atol=1e-12)
    np.testing.assert_allclose(hessian(lvc, scored) - exact_hessian(), cross + cross.T, atol=1e-12)
    assert np.linalg.eigvalsh(own).min() > -1e-12
    assert np.trace(bias) > 0.1


def test_dice_that_forgets_nothing_is_dice_and_one_that_forgets_all_is_lvc():
    scored = every_trajectory(THETA)
    np.testing.assert_allclose(hessian(decayed_dice(1.0), scored), exact_hessian(), atol=1e-12)
    np.testing.assert_allclose(hessian(decayed_dice(0.0), scored), hessian(lvc, scored), atol=1e-12)


def test_the_ratio_and_lvc_are_one_where_the_trajectories_were_drawn():
    scored = every_trajectory(THETA)
    np.testing.assert_allclose(hessian(likelihood_ratio, scored), hessian(lvc, scored), atol=1e-12)


def test_lvc_is_exact_for_one_step_and_nearer_than_the_naive_estimator_for_three():
    scored = every_trajectory(THETA)
    first = jax.tree.map(lambda leaf: leaf[:, :1], scored.trajectories._replace(last_observation=scored.advantages))
    exact = jax.jit(jax.hessian(lambda theta: -jnp.sum(START[:, None] * jax.nn.softmax(theta) * PAYS)))(THETA).reshape(4, 4)
    np.testing.assert_allclose(hessian(lvc, Scored(first, first.rewards)), exact, atol=1e-12)
    errors = {name: np.linalg.norm(hessian(INNER[name], scored) - exact_hessian()) for name in INNER}
    print("distance from the exact second derivative:", {name: f"{error:.4f}" for name, error in errors.items()})
    assert errors["dice"] < 1e-12 < errors["lvc"] < errors["naive"]


@pytest.mark.parametrize("judged", ["normalized", "minus their mean"])
def test_a_batchs_own_deviation_biases_every_estimator_and_its_own_mean_only_scales_them(judged):
    """Batches of two trajectories, all 4,096 of them with their probabilities: exact expectations. Biases are printed.

    Divided by their own deviation, advantages estimate another scale: errors are measured beyond the best one.
    """
    scored = every_trajectory(THETA)
    count = len(scored.advantages)
    chance = np.asarray(probabilities(THETA))
    pairs = np.array(list(product(range(count), repeat=2)))
    likely = jnp.asarray(chance[pairs].prod(1))

    def batch(pair):
        some = jax.tree.map(lambda leaf: leaf[pair], scored)
        weight = jnp.ones((2, STEPS))
        own = some.advantages - jnp.mean(some.advantages, 0)[None]
        advantages = normalized(some.advantages, weight) if judged == "normalized" else own
        return Scored(some.trajectories._replace(weight=weight), advantages)

    def expected(derivative):
        return np.asarray(jnp.einsum("p,p...->...", likely, jax.jit(jax.vmap(derivative))(jnp.asarray(pairs))))

    for name, surrogate in INNER.items():

        def value(theta, pair, surrogate=surrogate):
            return surrogate(POLICY, theta, *batch(pair))

        slope = expected(lambda pair, value=value: jax.grad(value)(jnp.asarray(THETA), pair)).ravel()
        curve = expected(lambda pair, value=value: jax.hessian(value)(jnp.asarray(THETA), pair)).reshape(4, 4)
        scale = slope @ exact_gradient() / (exact_gradient() @ exact_gradient())
        errors = [
            float(np.linalg.norm(found / scale - exact) / np.linalg.norm(exact))
            for found, exact in ((slope, exact_gradient()), (curve, exact_hessian()))
        ]
        print(f"{judged}, {name}: relative bias of the gradient {errors[0]:.3f}, of the second derivative {errors[1]:.3f}")
        # The other trajectory of the batch is independent, so half of the mean is a fair baseline: only the scale is lost.
        assert (errors[0] < 1e-10) == (judged == "minus their mean")
        assert (errors[1] < 1e-10) == (judged == "minus their mean" and name == "dice")


def exact_meta_gradient(theta):
    """∇ −J(θ − α ∇(−J/STEPS)(θ)) / STEPS."""
    return jax.grad(lambda theta: loss(theta - RATE * jax.grad(loss)(theta)))(theta)


@pytest.mark.parametrize("name", INNER)
def test_the_meta_gradient_is_exact_with_dice_and_biased_as_said_with_the_others(name):
    learner = policy_learner(POLICY, INNER[name], optax.sgd(RATE))
    assert learner.adaptation_step is adaptation_step
    supports = jax.tree.map(lambda leaf: leaf[None], every_trajectory(THETA))
    query = every_trajectory(adapted_on(learner, MetaParams(THETA), supports))

    def outer(theta):
        return likelihood_ratio(POLICY, adapted_on(learner, MetaParams(theta), supports), *query)

    exact, found = exact_meta_gradient(THETA), jax.grad(outer)(THETA)
    error = float(jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact))
    print(f"{name}: relative error of the meta-gradient {error:.4f}")
    curvature = hessian(INNER[name], every_trajectory(THETA)) - exact_hessian()
    post = np.asarray(jax.grad(loss)(adapted_on(learner, MetaParams(THETA), supports))).ravel()
    np.testing.assert_allclose((found - exact).ravel(), -RATE * curvature @ post, atol=1e-12)
    assert (error < 1e-10) == (name == "dice")


def test_many_sampled_trajectories_lead_to_the_enumerated_second_derivative():
    """The same surrogate on samples instead of probabilities: within four standard errors, entry by entry."""
    scored = every_trajectory(THETA)
    drawn = np.random.default_rng(0).choice(len(scored.advantages), 4000, p=np.asarray(probabilities(THETA)))

    def one(number):
        sample = jax.tree.map(lambda leaf: leaf[number][None], scored)
        sample = sample._replace(trajectories=sample.trajectories._replace(weight=jnp.ones((1, STEPS))))
        return jax.hessian(lambda theta: dice(POLICY, theta, *sample))(jnp.asarray(THETA)).reshape(4, 4)

    every = np.asarray(jax.vmap(one)(jnp.arange(len(scored.advantages))))[drawn]
    error = every.std(0) / np.sqrt(len(drawn))
    assert np.all(np.abs(every.mean(0) - exact_hessian()) < 4 * error + 1e-12)
