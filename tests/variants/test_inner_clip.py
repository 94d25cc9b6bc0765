"""Inner steps of bounded length. Place: fewstep/variants/inner_clip.py."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fewstep import Episode, Learner, MetaParams, adapt, meta_gradient
from fewstep.apps.robots.settings import RobotFaults
from fewstep.apps.sine.settings import Sine
from fewstep.variants import clip_inner_gradient, log_rates, meta_sgd

THETA = jnp.array([3.0, -4.0])
KEY = jax.random.key(0)


def bowl(params, batch, key):
    """½ c |θ|² of a task whose curvature is its batch."""
    return 0.5 * batch * jnp.sum(jnp.square(params))


def learner(limit, steps=1, optimizer=None):
    optimizer = optimizer or optax.sgd(0.1)
    return Learner(bowl, clip_inner_gradient(optimizer, limit) if limit else optimizer, steps)


def test_a_long_gradient_is_shortened_to_the_limit_and_a_short_one_is_left_as_it_is():
    adapted = adapt(learner(2.0), MetaParams(THETA), jnp.array(1e6), KEY)
    np.testing.assert_allclose(adapted, THETA - 0.1 * 2.0 * THETA / 5.0, rtol=1e-6)
    short = [adapt(learner(limit), MetaParams(THETA), jnp.array(0.7), KEY) for limit in (7.3, 0.0)]
    np.testing.assert_array_equal(*short)


@pytest.mark.parametrize("curvature", [0.5, 30.0])
def test_the_meta_gradient_is_that_of_finite_differences(curvature):
    rates = log_rates(THETA, 0.1)

    def loss(theta):
        params = MetaParams(theta, rates)
        found = adapt(learner(3.0, 3, meta_sgd), params, jnp.array(curvature, theta.dtype), KEY)
        return bowl(found, jnp.array(1.0, theta.dtype), KEY)

    gradient = jax.grad(loss)(THETA)
    with jax.enable_x64(True):
        wide, step = jnp.asarray(np.asarray(THETA, np.float64)), 1e-5
        for place in range(2):
            change = jnp.zeros(2, jnp.float64).at[place].set(step)
            difference = (loss(wide + change) - loss(wide - change)) / (2 * step)
            assert float(gradient[place]) == pytest.approx(float(difference), rel=1e-4)


def test_an_empty_support_set_gives_numbers():
    episode = Episode(jnp.zeros(1), jnp.ones(1))
    loss, gradient = meta_gradient(
        learner(1.0, 2), MetaParams(THETA), episode, jax.random.split(KEY, 1), jnp.zeros((), jnp.int32)
    )
    assert float(loss) == pytest.approx(12.5)
    np.testing.assert_allclose(gradient.theta, THETA)


def test_however_steep_the_task_adaptation_goes_no_further_than_its_steps_allow():
    adapted = adapt(learner(2.0, 5), MetaParams(THETA), jnp.array(1e20), KEY)
    assert float(jnp.linalg.norm(adapted - THETA)) <= 5 * 0.1 * 2.0 * (1 + 1e-5)


def test_the_setting_bounds_the_learner_of_a_problem():
    for settings in (Sine(inner_clip=1.0), RobotFaults(inner_clip=8.0)):
        assert settings.inner_clip and not type(settings)().inner_clip
    with pytest.raises(Exception, match=r"--inner-clip should be between 0 \(no limit\) and 1e15"):
        Sine(inner_clip=-1.0).build()
    with pytest.raises(Exception, match="--adapter bayes-head does not go with --inner-clip 1"):
        Sine(inner_clip=1.0, adapter="bayes-head").build()
    problem = Sine(inner_clip=1e-6, inner_optimizer="sgd", inner_rate=1.0, multi_step=0.0).build()
    params = problem.init(KEY)
    episode = problem.splits.test.episode(jnp.array(0), KEY)
    adapted = adapt(problem.learner, params, episode.support, KEY, 1)
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, adapted, params.theta))
    assert 0 < float(moved) < 2e-6
