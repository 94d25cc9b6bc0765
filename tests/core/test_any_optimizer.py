"""Any optax optimizer will do, inside and outside, without a compilation too many. Place: fewstep/maml.py."""

import inspect
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from known import KEY, STEP, assert_close, assert_same_bits, bowl_loss, bowls, fast_gradient, keys, plain, slow_but, steep_loss
from optax import contrib

from fewstep import Episode, InputError, Learner, check_meta_gradient, init, meta_gradient, meta_step
from fewstep.core.updates import differentiable

INNER = {
    "sgd": optax.sgd(0.05),
    "momentum": optax.sgd(0.05, momentum=0.9),
    "nesterov": optax.sgd(0.05, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.05, eps_root=1e-8),
    "adamw": optax.adamw(0.05, eps_root=1e-8),
    "nadam": optax.nadam(0.05, eps_root=1e-8),
    "adabelief": optax.adabelief(0.05, eps_root=1e-8),
    "yogi": optax.yogi(0.05),
    "adamax": optax.adamax(0.05),
    "amsgrad": optax.amsgrad(0.05, eps_root=1e-8),
    "adan": optax.adan(0.05, eps_root=1e-8),
    "adagrad": optax.adagrad(0.05),
    "adadelta": optax.adadelta(0.5),
    "rmsprop": optax.rmsprop(0.05),
    "rmsprop, centered": optax.rmsprop(0.05, centered=True, momentum=0.5),
    "lion": optax.lion(0.05),
    "signum": optax.signum(0.05),
    "lamb": optax.lamb(0.05, eps_root=1e-8),
    "lars": optax.lars(0.05),
    "novograd": optax.novograd(0.05),
    "sm3": optax.sm3(0.05),
    "fromage": optax.fromage(0.05),
    "optimistic": optax.optimistic_gradient_descent(0.05),
    "clipped sgd": optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.05)),
    "scheduled sgd": optax.sgd(optax.exponential_decay(0.05, 1, 0.5)),
    "part of the parameters": optax.masked(optax.adam(0.05, eps_root=1e-8), {"a": True, "b": False}),
    "two for two parts": optax.partition({"a": optax.sgd(0.05), "b": optax.set_to_zero()}, {"a": "a", "b": "b"}),
}
OUTER = {name: optimizer for name, optimizer in INNER.items() if "part" not in name} | {"radam": optax.radam(0.05)}


def theta():
    return {"a": jnp.array([0.3, -1.2]), "b": jnp.array([0.7])}


def bumpy(theta, bowl, key):
    return steep_loss(jnp.concatenate([theta["a"], theta["b"]]), bowl, key)


def count_traces(loss):
    """`loss`, and the list that grows by one whenever JAX traces it."""
    traces = []

    def counted(*arguments):
        traces.append(1)
        return loss(*arguments)

    return counted, traces


@pytest.mark.parametrize("name", slow_but(list(INNER), *list(INNER)[::3]))
def test_the_meta_gradient_through_any_inner_optimizer_is_finite_exact_and_compiled_once(float64, name):
    loss, traces = count_traces(bumpy)
    learner, episodes = Learner(loss, INNER[name], 2), bowls(2)
    compiled = jax.jit(lambda theta: meta_gradient(learner, plain(theta), episodes, keys(2), STEP))
    value, gradient = compiled(theta())
    traced = len(traces)
    flat, restore = ravel_pytree(theta())
    assert np.isfinite(value)
    assert np.isfinite(ravel_pytree(gradient)[0]).all()
    direction = np.random.default_rng(0).normal(size=flat.size)
    up, down = (compiled(restore(flat + side * 1e-6 * direction))[0] for side in (1, -1))
    slope = ravel_pytree(gradient)[0] @ direction
    np.testing.assert_allclose(slope, (up - down) / 2e-6, rtol=1e-5, atol=1e-7)
    assert len(traces) == traced > 0


@pytest.mark.parametrize("name", OUTER)
def test_any_outer_optimizer_lowers_the_meta_loss_and_is_compiled_once(name):
    loss, traces = count_traces(bowl_loss)
    learner, episodes, optimizer = Learner(loss, optax.sgd(0.1), 1), bowls(3), OUTER[name]

    @jax.jit
    def step(state):
        value, gradient = meta_gradient(learner, state.params, episodes, keys(3), STEP)
        return meta_step(optimizer, state, gradient), value

    state, first = step(init(optimizer, plain(jnp.array([3.0, -3.0, 4.0]))))
    values, traced = [float(first)], len(traces)
    for _ in range(39):
        state, value = step(state)
        values.append(float(value))
    assert np.isfinite(values).all()
    assert values[-1] < values[0]
    assert int(state.step) == 40
    assert len(traces) == traced > 0


def optimizers_of(module, prefix=""):
    """All that a module of optax makes by a learning rate alone: name -> function."""
    made = {}
    for name, make in inspect.getmembers(module, inspect.isfunction):
        parameters = inspect.signature(make).parameters
        needed = {key for key, each in parameters.items() if each.default is each.empty and key != "kwargs"}
        if "learning_rate" in parameters and needed <= {"learning_rate"} and not name.startswith(("_", "scale")):
            made[prefix + name] = make
    return made


# `lbfgs` and others that have to be told the loss are refused, see below; `galore` differentiates singular vectors of a matrix
# without full rank, which has no derivative.
OTHER = ("lbfgs", "polyak_sgd", "contrib.momo", "contrib.momo_adam", "contrib.sophia", "contrib.galore")
ALL = {name: make for name, make in (optimizers_of(optax) | optimizers_of(contrib, "contrib.")).items() if name not in OTHER}
X = np.random.default_rng(0).normal(size=(1, 8, 2))
DEAD = {"w": np.ones((2, 3)) * [0.5, -1.0, 1.5], "b": np.array([0.1, 0.2, -100.0]), "v": np.ones(3), "unused": np.ones(2)}


def partly_dead(params, batch, key):
    """A network whose last unit is never on; nothing looks at `unused`."""
    hidden = jax.nn.relu(batch @ params["w"] + params["b"][None])
    return jnp.mean((hidden @ params["v"] - jnp.sum(batch, -1)) ** 2)


@pytest.mark.filterwarnings("ignore:Specifying a key", "ignore:`optimistic_adam` is deprecated")
@pytest.mark.parametrize("name", slow_but(list(ALL), "adam", "adafactor", "radam"))
def test_the_meta_gradient_of_a_network_with_dead_units_is_exact_through_all_optimizers_of_optax(float64, name):
    learner = Learner(
        partly_dead, ALL[name](learning_rate=0.01), 3 if "radam" in name else 2
    )  # radam changes in its third step
    flat, restore = ravel_pytree(jax.tree.map(jnp.asarray, DEAD))
    value_and_slope = jax.jit(lambda flat: meta_gradient(learner, plain(restore(flat)), Episode(X, X + 0.1), keys(1), STEP))
    slope = ravel_pytree(value_and_slope(flat)[1])[0]
    direction = np.random.default_rng(0).normal(size=flat.size)
    up, down = (value_and_slope(flat + side * 1e-6 * direction)[0] for side in (1, -1))
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(slope @ direction, (up - down) / 2e-6, rtol=1e-6)


def test_optimizers_that_have_to_be_told_the_loss_are_refused_by_name_of_what_is_missing():
    for optimizer in (optax.lbfgs(), optax.polyak_sgd(), contrib.momo()):
        learner = Learner(partly_dead, optimizer, 2)
        with pytest.raises(InputError, match=r"inner optimizer: it cannot be used .*missing .*'value'"):
            meta_gradient(learner, plain(DEAD), Episode(X, X), keys(1), STEP)


def test_clipping_by_the_global_norm_has_a_derivative_where_the_whole_gradient_is_zero(float64):
    """As on a support set whose rows all weigh 0: adaptation stays where it is, so that the meta-gradient is the query's."""

    def of_rows(params, batch, key):
        x, weight = batch
        return jnp.sum(weight * (x @ params - 1) ** 2)

    learner = Learner(of_rows, optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)), 2)
    episode = Episode((X[0], jnp.zeros(8)), (X[0], jnp.ones(8)))
    found = fast_gradient(learner, plain(jnp.ones(2)), episode, KEY, STEP)
    assert_close(found[1].theta, jax.grad(of_rows)(jnp.ones(2), episode.query, KEY))


def test_updates_keep_their_values_and_an_optimizer_without_roots_its_program():
    gradient, theta = {"a": jnp.array([0.0, 1e-20, 3.0])}, {"a": jnp.ones(3)}
    for name in ("adam", "lamb", "radam", "rmsprop"):
        optimizer = ALL[name](learning_rate=0.01)
        guarded = differentiable(optimizer)
        update = jax.jit(optimizer.update)(gradient, optimizer.init(theta), theta)
        assert_same_bits(jax.jit(guarded.update)(gradient, guarded.init(theta), theta), update)
    plain_sgd = optax.sgd(0.1, momentum=0.9)
    programs = [jax.make_jaxpr(made.update)(gradient, plain_sgd.init(theta)) for made in (plain_sgd, differentiable(plain_sgd))]
    assert str(programs[0]) == str(programs[1])


def steep(x, power):
    """|x|^power, whose derivative of order `power`, rounded up, is not a number at zero."""
    return jnp.sqrt(jnp.sum(x**2)) if power == 1 else jnp.sum(jnp.abs(x) ** power)


def test_the_check_names_the_inner_optimizer_where_its_update_has_no_derivative():
    bent = optax.stateless(
        lambda updates, params: jax.tree.map(lambda leaf: -0.1 * jnp.arccos(1 - jnp.tanh(leaf) ** 2), updates)
    )
    learner, episode = Learner(partly_dead, bent, 1), Episode(X[0], X[0] + 0.1)
    found = check_meta_gradient(learner, plain(DEAD), episode, KEY)
    assert not found.passed and "inner optimizer has no derivative. Give it eps_root" in str(found)


@pytest.mark.slow
def test_the_check_names_the_loss_where_that_has_no_derivative_and_passes_adam_on_a_dead_unit():
    learner, episode = Learner(partly_dead, optax.sgd(0.1), 1), Episode(X[0], X[0] + 0.1)
    at_zero, kinds = (
        plain(DEAD | {"unused": np.zeros(2)}),
        {0: (1.0, "neither is the first-order"), 1: (1.5, "no second deriv")},
    )
    for steps, (power, reason) in kinds.items():
        bent_loss = lambda params, *given, power=power: partly_dead(params, *given) + steep(params["unused"], power)  # noqa: E731
        by_descent = replace(learner, loss=bent_loss, adaptation_steps=steps)
        found = check_meta_gradient(by_descent, at_zero, episode, KEY)
        assert not found.passed and reason in str(found)
    found = check_meta_gradient(replace(learner, inner_optimizer=optax.adam(0.01)), plain(DEAD), episode, KEY)
    assert found.passed and not found.reason
