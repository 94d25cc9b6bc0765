"""Any model will do: five ways to write one perceptron give one and the same meta-gradient. Place: fewstep/maml.py."""

import os
import warnings
from functools import partial
from itertools import pairwise

import equinox as eqx
import flax.linen as linen
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from known import (
    KEY,
    assert_close,
    assert_same_bits,
    farthest,
    fast_meta_gradient,
    keys,
    mlp_apply,
    mlp_params,
    one,
    plain,
    slow_but,
    waves,
)

from fewstep import Learner, MetaParams, combine, init, meta_gradient, meta_step, nn, partition
from fewstep.variants import log_rates, meta_sgd

SIZES = (1, 5, 4, 1)
STEP = jnp.zeros((), jnp.int32)


def as_dict(params):
    return params, mlp_apply, lambda gradient: gradient


def as_flax_nnx(params):
    class Perceptron(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List(nnx.Linear(a, b, rngs=rngs) for a, b in pairwise(SIZES))

        def __call__(self, x):
            for layer in self.layers[:-1]:
                x = jnp.tanh(layer(x))
            return self.layers[-1](x)

    graph, state = nnx.split(Perceptron(nnx.Rngs(0)))
    for number, layer in enumerate(params):
        state["layers"][number]["kernel"].set_value(layer["w"])
        state["layers"][number]["bias"].set_value(layer["b"])

    def back(gradient):
        layers = gradient["layers"]
        return [{"w": layers[n]["kernel"].get_value(), "b": layers[n]["bias"].get_value()} for n in range(len(params))]

    return state, lambda state, x: nnx.merge(graph, state)(x), back


def as_flax_linen(params):
    class Perceptron(linen.Module):
        @linen.compact
        def __call__(self, x):
            for size in SIZES[1:-1]:
                x = jnp.tanh(linen.Dense(size)(x))
            return linen.Dense(SIZES[-1])(x)

    theta = {"params": {f"Dense_{n}": {"kernel": layer["w"], "bias": layer["b"]} for n, layer in enumerate(params)}}

    def back(gradient):
        layers = [gradient["params"][f"Dense_{n}"] for n in range(len(params))]
        return [{"w": layer["kernel"], "b": layer["bias"]} for layer in layers]

    return theta, Perceptron().apply, back


def as_equinox(params):
    class Perceptron(eqx.Module):
        layers: list

        def __call__(self, x):
            for layer in self.layers[:-1]:
                x = jnp.tanh(layer(x))
            return self.layers[-1](x)

    model = Perceptron([eqx.nn.Linear(a, b, key=jax.random.key(0)) for a, b in pairwise(SIZES)])
    weights = [layer["w"].T for layer in params] + [layer["b"] for layer in params]
    model = eqx.tree_at(lambda m: [x.weight for x in m.layers] + [x.bias for x in m.layers], model, weights)
    theta, rest = eqx.partition(model, eqx.is_inexact_array)

    def back(gradient):
        return [{"w": layer.weight.T, "b": layer.bias} for layer in gradient.layers]

    return theta, lambda theta, x: jax.vmap(eqx.combine(theta, rest))(x), back


def as_haiku(params):
    network = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP(SIZES[1:], activation=jnp.tanh)(x)))
    theta = {f"mlp/~/linear_{number}": dict(layer) for number, layer in enumerate(params)}
    return theta, network.apply, lambda gradient: [gradient[f"mlp/~/linear_{number}"] for number in range(len(params))]


def meta_gradient_of(theta, apply, inner=()):
    def loss(theta, examples, key):
        return jnp.mean(jnp.square(apply(theta, examples.inputs) - examples.targets))

    learner = Learner(loss, meta_sgd if inner else optax.sgd(0.05), 2)
    return fast_meta_gradient(learner, MetaParams(theta, inner(theta, 0.05) if inner else ()), waves(3), keys(3), STEP)


@pytest.mark.parametrize("write", slow_but([as_flax_nnx, as_flax_linen, as_equinox, as_haiku], as_flax_linen, as_equinox))
def test_a_model_of_another_framework_gives_the_meta_gradient_of_the_plain_one(write):
    params = mlp_params(SIZES)
    theta, apply, back = write(params)
    np.testing.assert_allclose(apply(theta, jnp.ones((2, 1))), mlp_apply(params, jnp.ones((2, 1))), rtol=1e-6)
    loss, gradient = meta_gradient_of(params, mlp_apply)
    other_loss, other = meta_gradient_of(theta, apply)
    np.testing.assert_allclose(other_loss, loss, rtol=1e-6)
    assert_close(back(other.theta), gradient.theta, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("write", [as_dict, as_flax_nnx, as_equinox])
def test_learned_rates_take_the_shape_of_any_model(write):
    theta, apply, back = write(mlp_params(SIZES))
    loss, gradient = meta_gradient_of(theta, apply, log_rates)
    fixed_loss, fixed = meta_gradient_of(theta, apply)
    np.testing.assert_allclose(loss, fixed_loss, rtol=1e-6)
    assert_close(back(gradient.theta), back(fixed.theta), rtol=1e-4, atol=1e-6)
    assert jax.tree.structure(gradient.inner) == jax.tree.structure(theta)


def test_the_built_in_perceptron_computes_what_a_loop_over_its_layers_computes():
    network = nn.mlp([2, 7, 5, 3], activation=jnp.tanh)
    params = network.init(jax.random.key(3))
    kernels = [layer for layer in jax.tree.leaves(params) if layer.ndim == 2]
    biases = [layer for layer in jax.tree.leaves(params) if layer.ndim == 1]
    assert [kernel.shape for kernel in kernels] == [(2, 7), (7, 5), (5, 3)]
    assert [bias.shape for bias in biases] == [(7,), (5,), (3,)]
    assert not any(np.any(bias) for bias in biases)
    for kernel in kernels:  # inside the Glorot bound, and using most of it
        bound = np.sqrt(6 / sum(kernel.shape))
        assert 0.5 * bound < np.abs(kernel).max() <= bound
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)
    shifted = jax.tree.map(lambda leaf: leaf + 0.1, params)
    layers = [{"w": kernel + 0.1, "b": bias + 0.1} for kernel, bias in zip(kernels, biases, strict=True)]
    np.testing.assert_allclose(network.apply(shifted, jnp.asarray(x)), mlp_apply(layers, jnp.asarray(x)), rtol=1e-5)


def test_the_built_in_perceptron_draws_other_weights_for_another_key():
    network = nn.mlp([2, 7, 3])
    first, again, other = (network.init(jax.random.key(seed)) for seed in (0, 0, 1))
    assert farthest(first, again) == 0
    assert farthest(first, other) > 0.1
    assert_close(plain(first), plain(again))


class Odd(eqx.Module):
    """A model with leaves of all kinds."""

    layer: eqx.nn.Linear
    activation: object
    count: jax.Array
    nothing: None
    rate: float


def test_a_model_of_any_leaves_is_learned_in_its_arrays_of_real_numbers_and_carried_in_the_rest():
    model = Odd(eqx.nn.Linear(1, 1, key=KEY), jnp.tanh, jnp.array(3), None, 0.5)
    theta, rest = partition(model)
    expected, others = eqx.partition(model, eqx.is_inexact_array)
    assert_same_bits(theta, expected)
    assert jax.tree.structure(rest) == jax.tree.structure(others)
    assert jax.tree.leaves(combine(theta, rest)) == jax.tree.leaves(model)

    def odd_loss(theta, batch, key):
        whole = combine(theta, rest)
        outputs = jax.vmap(lambda x: whole.activation(whole.layer(x)))(batch.inputs)
        return jnp.mean(jnp.square(outputs - batch.targets)) * whole.count * whole.rate

    learner = Learner(odd_loss, meta_sgd, 2)
    params = MetaParams(theta, log_rates(theta, 0.1))
    _, gradient = fast_meta_gradient(learner, params, waves(3), keys(3), STEP)
    state = meta_step(optax.sgd(0.1), init(optax.sgd(0.1), params), gradient)
    moved = combine(state.params.theta, rest)
    assert moved.activation is jnp.tanh and int(moved.count) == 3 and moved.rate == 0.5
    assert np.any(moved.layer.weight != model.layer.weight)


def dropped_out_by_nnx():
    """The recipe for flax.nnx: random numbers are given with the call."""

    class Perceptron(nnx.Module):
        def __init__(self, rngs):
            self.first, self.last = nnx.Linear(1, 16, rngs=rngs), nnx.Linear(16, 1, rngs=rngs)
            self.dropout = nnx.Dropout(0.5)

        def __call__(self, x, rngs):
            return self.last(self.dropout(jnp.tanh(self.first(x)), rngs=rngs))

    graph, theta = nnx.split(Perceptron(nnx.Rngs(0)))
    return theta, lambda theta, x, key: nnx.merge(graph, theta)(x, nnx.Rngs(key))


def dropped_out_by_keras():
    """The recipe for Keras: the state of each seed generator is made from the loss's key."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("needs Keras with its JAX backend")
    layers = keras.layers
    model = keras.Sequential([layers.Input((1,)), layers.Dense(16, activation="tanh"), layers.Dropout(0.5), layers.Dense(1)])
    theta = [variable.value for variable in model.trainable_variables]

    def apply(theta, x, key):
        state = [
            jax.random.key_data(jax.random.fold_in(key, number)) if "seed_generator" in variable.path else variable.value
            for number, variable in enumerate(model.non_trainable_variables)
        ]
        return model.stateless_call(theta, state, x, training=True)[0]

    return theta, apply


@pytest.mark.parametrize("write", [dropped_out_by_nnx, dropped_out_by_keras])
def test_by_the_recipe_dropout_of_a_framework_draws_from_the_key_of_the_loss(write):
    theta, apply = write()

    def loss(theta, examples, key):
        return jnp.mean(jnp.square(apply(theta, examples.inputs, key) - examples.targets))

    task = one(waves(1), 0)
    with jax.numpy_rank_promotion("allow"):  # Keras adds its biases so
        outputs = [apply(theta, task.query.inputs, key) for key in (*keys(3), keys(3)[0])]
        assert_same_bits(outputs[3], outputs[0])
        assert min(farthest(outputs[a], outputs[b]) for a, b in ((0, 1), (0, 2), (1, 2))) > 1e-3
        learner = Learner(loss, optax.sgd(0.01), 2)
        jax.make_jaxpr(partial(meta_gradient, learner))(MetaParams(theta), waves(3), keys(3), STEP)  # without a warning
