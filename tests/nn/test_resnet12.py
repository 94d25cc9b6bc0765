"""The residual network against its formula. Place: fewstep/nn/resnet12.py."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from known import KEY, STEP, assert_close, plain

from fewstep import Episode, Examples, InputError, Learner, nn
from fewstep.core import losses
from fewstep.gradients import exact, stored

TINY = (4, 4, 4, 4)


def images(count, image=(16, 16, 3), seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, *image)))


def wide(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


def uneven(params, seed=1):
    """Parameters none of which is 0 or 1 by their start."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape), params)


@pytest.mark.parametrize(("image", "filters"), [((16, 16, 1), TINY), ((33, 20, 3), (4, 8, 16, 32)), ((9, 8, 2), (4, 4, 6))])
def test_features_are_as_many_as_the_last_filters(image, filters):
    network = nn.resnet12(image, filters)
    params = jax.eval_shape(network.init, KEY)
    features = jax.eval_shape(network.apply, params, jnp.zeros((5, *image)))
    assert features.shape == (5, filters[-1])


@pytest.mark.parametrize(("channels", "filters"), [(3, (64, 160, 320, 640)), (1, TINY)])
def test_a_block_has_three_convolutions_a_shortcut_and_a_scale_and_shift_for_each(channels, filters):
    params = jax.eval_shape(nn.resnet12((84, 84, channels), filters).init, KEY)
    pairs = zip((channels, *filters[:-1]), filters, strict=True)
    expected = sum(9 * before * after + 2 * 9 * after**2 + before * after + 4 * 2 * after for before, after in pairs)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def by_formula(params, x):
    """The features with batch normalization, written down anew in lax."""

    def convolved(part, x):
        kernel = part["convolve"]["kernel"]
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        mean, variance = x.mean((0, 1, 2), keepdims=True), x.var((0, 1, 2), keepdims=True)
        return (x - mean) / jnp.sqrt(variance + 1e-5) * part["scale"] + part["shift"]

    by_number = lambda parts: [part for _, part in sorted(parts.items())]  # noqa: E731
    leaky = lambda x: jnp.maximum(x, 0.1 * x)  # noqa: E731
    for block in by_number(params["blocks"]):
        first, second, third = by_number(block["path"])
        inside = convolved(third, leaky(convolved(second, leaky(convolved(first, x)))))
        x = leaky(inside + convolved(block["shortcut"], x))
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return x.mean((1, 2))


def test_features_are_those_of_the_formula(float64):
    network, x = nn.resnet12((7, 4, 3), (4, 5), "batch"), images(3, (7, 4, 3))
    params = uneven(wide(network.init(KEY)))
    np.testing.assert_allclose(jax.jit(network.apply)(params, x), jax.jit(by_formula)(params, x), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("normalization", "alone"), [("group", True), ("batch", False)])
def test_group_normalization_looks_at_each_image_alone_and_batch_normalization_at_all(float64, normalization, alone):
    network, x = nn.resnet12((16, 16, 3), TINY, normalization), images(4)
    params = uneven(wide(network.init(KEY)))
    apply = jax.jit(network.apply)
    apart = np.max(np.abs(apply(params, x)[:1] - apply(params, x.at[1:].add(images(3, seed=9)))[:1]))
    assert apart < 1e-12 if alone else apart > 1e-3


@pytest.mark.parametrize(
    ("image", "filters", "said"), [((15, 84, 3), TINY, "at least 16 by 16"), ((84, 84, 3), (20,), "of 16")]
)
def test_what_cannot_be_built_is_refused(image, filters, said):
    with pytest.raises(InputError, match=said):
        nn.resnet12(image, filters)


def classified(count, seed):
    targets = jnp.eye(4)[jnp.arange(count) % 4]
    return Examples(images(count, seed=seed), targets, jnp.ones(count))


@pytest.mark.slow
def test_its_exact_meta_gradient_is_the_stored_one(float64):
    network = nn.resnet12((16, 16, 3), TINY)
    loss = losses.cross_entropy(lambda params, x: jax.nn.log_softmax(network.apply(params, x)))
    learner, episode = Learner(loss, optax.sgd(0.05), 1), Episode(classified(3, 2), classified(4, 3))
    params = plain(uneven(wide(network.init(KEY))))
    found, expected = (
        jax.jit(lambda params, way=way: way(replace(learner, task_gradient=way), params, episode, KEY, STEP))(params)
        for way in (exact, stored)
    )
    assert_close(found, expected, rtol=1e-8, atol=1e-12)
