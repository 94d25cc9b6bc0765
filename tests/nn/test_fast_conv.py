"""Rewritten convolutions and pooling against XLA's own, with their derivatives. Place: fewstep/nn."""

import json
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax
from known import assert_close, slow_but

from fewstep import Examples, Learner, MetaParams, nn
from fewstep.core import losses
from fewstep.core.maml import adapt, meta_gradient
from fewstep.core.types import Episode
from fewstep.gradients import exact, stored
from fewstep.nn import fast_convolutions, fast_pooling
from fewstep.nn.conv4 import GROUP_SIZE, normalize
from fewstep.nn.fast_pool import largest
from fewstep.training.cost import estimate
from fewstep.training.devices import task_mesh
from fewstep.training.map_tasks import map_tasks
from fewstep.training.operations import operations
from fewstep.training.tuning import tune_learner

KEY = jax.random.key(0)
IMAGES_LAST, IMAGES_FIRST, SERIES = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("NWC", "WIO", "NWC")
CASES = {
    "plain": ((2, 9, 10, 4), (3, 3, 4, 6), (1, 1), "SAME", (1, 1), 1, IMAGES_LAST),
    "channels first": ((2, 4, 9, 10), (6, 4, 3, 3), (1, 1), "SAME", (1, 1), 1, IMAGES_FIRST),
    "odd padding, strides, dilation": ((2, 9, 10, 4), (3, 2, 4, 6), (2, 1), [(1, 0), (0, 2)], (1, 2), 1, IMAGES_LAST),
    "wide strides and dilation": ((2, 11, 13, 4), (5, 3, 4, 6), (3, 2), [(2, 1), (0, 2)], (2, 3), 1, IMAGES_LAST),
    "stride beyond the window": ((2, 7, 7, 4), (1, 1, 4, 6), (2, 2), "VALID", (1, 1), 1, IMAGES_LAST),
    "groups": ((2, 4, 9, 10), (6, 2, 3, 3), (2, 2), "VALID", (1, 1), 2, IMAGES_FIRST),
    "depthwise, mixed axes": ((2, 4, 9, 10), (8, 1, 3, 3), (1, 2), "SAME", (1, 1), 4, ("NCHW", "OIHW", "NHWC")),
    "series": ((2, 12, 4), (3, 4, 6), (2,), "SAME", (2,), 1, SERIES),
}

LOWERINGS = ("direct", "matrix", "places")
HARDEST = ("wide strides and dilation", "depthwise, mixed axes", "series")


def curve(case):
    _, _, strides, padding, dilation, groups, axes = CASES[case]

    def value(x, kernel):
        found = lax.conv_general_dilated(
            x, kernel, strides, padding, rhs_dilation=dilation, dimension_numbers=axes, feature_group_count=groups
        )
        return jnp.sum(jnp.sin(found))

    return value


def derivatives(value):
    """The value, its gradient, the gradient's forward and backward derivative: all convolutions that a meta-gradient has."""
    gradient = jax.grad(value, (0, 1))
    again = jax.grad(lambda x, kernel: sum(jnp.sum(jnp.cos(part)) for part in gradient(x, kernel)), (0, 1))
    return {
        "value": value,
        "gradient": gradient,
        "forward over reverse": lambda x, kernel: jax.jvp(gradient, (x, kernel), (x, kernel))[1],
        "reverse over reverse": again,
    }


@pytest.mark.parametrize(("lowering", "case"), slow_but(list(product(LOWERINGS, CASES)), *product(LOWERINGS, HARDEST)))
def test_rewritten_convolutions_equal_the_original_and_so_do_their_derivatives(float64, lowering, case):
    x, kernel = (jax.random.normal(key, shape) for key, shape in zip(jax.random.split(KEY), CASES[case][:2], strict=True))
    for name, function in derivatives(curve(case)).items():
        expected, found = jax.jit(function)(x, kernel), jax.jit(fast_convolutions(function, lowering))(x, kernel)
        for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-9, err_msg=name)


def test_convolutions_are_found_in_loops_branches_calls_and_custom_derivatives(float64):
    value = curve("plain")

    def nested(x, kernel):
        step = jax.checkpoint(jax.jit(lambda carry, _: (carry + jax.nn.relu(value(x, kernel)), None)))
        total = lax.scan(step, 0.0, None, length=2)[0]
        total = lax.cond(total > 1e9, lambda: total, lambda: total + value(x, 2 * kernel))
        return lax.fori_loop(0, 2, lambda _, carry: carry + value(carry * x, kernel), total)

    x, kernel = (jax.random.normal(key, shape) for key, shape in zip(jax.random.split(KEY), CASES["plain"][:2], strict=True))
    rewritten = fast_convolutions(nested, "matrix")
    np.testing.assert_allclose(jax.jit(rewritten)(x, kernel), jax.jit(nested)(x, kernel), rtol=1e-10)
    assert "conv_general_dilated" in str(jax.make_jaxpr(nested)(x, kernel))
    assert "conv_general_dilated" not in str(jax.make_jaxpr(rewritten)(x, kernel))


def test_a_function_without_convolutions_stays_as_it_is():
    called = []
    function = lambda x: called.append(1) or jnp.sin(x)  # noqa: E731
    np.testing.assert_array_equal(fast_convolutions(function)(jnp.ones(3)), jnp.sin(jnp.ones(3)))
    assert len(called) == 2  # traced, then called itself


def test_a_convolution_inside_a_linear_solver_is_rewritten_too(float64):
    """Conjugate gradients, as implicit meta-gradients take them, hand several programs over by name."""
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 1, 1))

    def blurred(x):
        return 12 * x + jax.lax.conv_general_dilated(
            x, kernel + kernel[::-1, ::-1], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    solve = lambda x: jax.scipy.sparse.linalg.cg(blurred, x, tol=1e-12)[0]  # noqa: E731
    x = jax.random.normal(jax.random.key(1), (1, 5, 4, 1))
    found = jax.jit(fast_convolutions(solve, "matrix"))(x)
    np.testing.assert_allclose(blurred(found), x, atol=1e-9)


POOLS = {"side by side": ((1, 2, 2, 1), (1, 2, 2, 1), "VALID"), "overlapping": ((1, 3, 3, 1), (1, 2, 2, 1), "SAME")}


@pytest.mark.parametrize("case", POOLS)
def test_rewritten_pooling_equals_the_original_and_its_gradient_goes_to_the_first_of_equals(float64, case):
    window, strides, padding = POOLS[case]
    x = jnp.round(2 * jax.random.normal(KEY, (2, 7, 9, 3)))  # many equal ones
    value = lambda x: jnp.sum(jnp.sin(0.3 + lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)))  # noqa: E731
    fast = fast_pooling(value)
    np.testing.assert_array_equal(fast(x), value(x))
    np.testing.assert_array_equal(jax.grad(fast)(x), jax.grad(value)(x))
    assert "reduce_window" not in str(jax.make_jaxpr(fast)(x))


def test_one_place_of_every_window_has_the_slope_however_what_is_pooled_is_rounded_on_the_way():
    """Compiled quickly, XLA computes what is pooled once for the largest and once for its slope, rounded otherwise."""
    quick = {"xla_backend_optimization_level": 0}
    quick |= {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}
    x, scale, weight = (jax.random.normal(key, (6, 4, 4, 4)) for key in jax.random.split(KEY, 3))

    def value(x, scale, shift):
        pooled = largest(jax.nn.relu(x * scale + shift) + shift, (1, 2, 2, 1), (1, 2, 2, 1), (1, 1, 1, 1))
        return jnp.sum(pooled * weight[:, :2, :2])

    program = jax.jit(jax.grad(value, (0, 1, 2)), compiler_options=quick)
    slopes = program(x, scale, jnp.asarray(0.5))
    with jax.disable_jit():
        expected = jax.grad(value, (0, 1, 2))(x, scale, jnp.asarray(0.5))
    assert_close(slopes, expected, 1e-5)


def images(tasks, size, count):
    labels = jnp.tile(jnp.eye(5), (tasks, count // 5, 1))
    return Examples(jax.random.normal(KEY, (tasks, count, size, size, 1)), labels, jnp.ones((tasks, count)))


@pytest.mark.parametrize("reduction", slow_but(["pool", "stride"], "stride"))
@pytest.mark.parametrize("way", [exact, pytest.param(stored, marks=pytest.mark.slow)])
def test_a_planned_meta_gradient_of_conv4_equals_the_plain_one(float64, reduction, way):
    network = nn.conv4((16, 16, 1), 5, filters=4, reduction=reduction, layers=2)
    loss = losses.cross_entropy(lambda params, x: jax.nn.log_softmax(network.apply(params, x)))
    params = MetaParams(jax.tree.map(lambda leaf: leaf.astype(jnp.float64), network.init(KEY)))
    episodes = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), Episode(images(3, 16, 5), images(3, 16, 10)))
    learner = Learner(loss, optax.sgd(0.1), 2, task_gradient=way)
    planned = tune_learner(learner, params, jax.tree.map(lambda leaf: leaf[0], episodes), 3)
    assert planned.tasks_at_once == 1
    keys, step = jax.random.split(KEY, 3), jnp.zeros((), jnp.int32)
    expected, found = (
        jax.jit(lambda params, learner=each: meta_gradient(learner, params, episodes, keys, step))(params)
        for each in (learner, planned)
    )
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("normalization", ["group", "batch"])
def test_conv4_normalizes_and_pools_down_to_logits(normalization):
    network = nn.conv4((28, 28, 1), 5, filters=16, normalization=normalization)
    params = network.init(KEY)
    assert network.apply(params, jnp.ones((3, 28, 28, 1))).shape == (3, 5)
    apart = network.apply(params, images(1, 28, 5).inputs[0])
    alone = network.apply(params, images(1, 28, 5).inputs[0][:1])
    alike = np.allclose(apart[:1], alone, atol=1e-4)
    assert alike == (normalization == "group")  # by batch, an image's logits depend on the others


def test_normalization_by_group_is_that_of_flax():
    x = jax.random.normal(KEY, (3, 7, 5, 32)) * jnp.arange(1.0, 33.0)[None, None, None]
    theirs = nnx.GroupNorm(32, num_groups=None, group_size=GROUP_SIZE, epsilon=1e-5, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(normalize(x, "group"), theirs(x), rtol=1e-4, atol=1e-5)


def test_normalization_by_batch_leaves_each_channel_with_mean_0_and_variance_1():
    found = normalize(3 + jax.random.normal(KEY, (6, 7, 5, 8)) * jnp.arange(1.0, 9.0)[None, None, None], "batch")
    np.testing.assert_allclose(found.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(found.var((0, 1, 2)), 1, rtol=1e-4)


def test_operations_count_products_loops_by_their_length_and_nothing_that_is_not_needed():
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert operations(lambda a, b: a @ b, a, b) == 2 * 3 * 4 * 5
    unused = lambda a, b: (a @ b, jnp.sin(a))[1]  # noqa: E731
    assert operations(unused, a, b) == 0
    square = jnp.ones((4, 4))
    assert operations(lambda x: lax.scan(lambda x, _: (x @ x, x), x, None, length=7)[0], square) == 7 * 2 * 4**3
    assert operations(lambda x: lax.scan(lambda c, _: (c + 1, x @ x), 0.0, None, length=7)[0], square) == 0
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))
    convolve = lambda x, kernel: lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=IMAGES_LAST)  # noqa: E731
    pairs = 4 * 3 - 1  # along one axis: the last window reaches over the edge
    assert operations(convolve, x, kernel) == 2 * (2 * 5) * 3 * pairs**2


@pytest.mark.parametrize(("stride", "padding", "groups"), [(1, "SAME", 1), (2, "SAME", 1), (2, "VALID", 1), (1, "SAME", 3)])
def test_both_gradients_of_a_convolution_take_as_many_operations_as_it_does_itself(stride, padding, groups):
    """Each product of it appears once in either; what padding and dilation add to their convolutions is none."""
    x, kernel = jnp.ones((4, 9, 8, 3)), jnp.ones((3, 3, 3 // groups, 6))
    convolve = lambda x, kernel: lax.conv_general_dilated(  # noqa: E731
        x, kernel, (stride, stride), padding, dimension_numbers=IMAGES_LAST, feature_group_count=groups
    )
    forward = operations(convolve, x, kernel)
    for number in (0, 1):
        back = lambda cotangent, number=number: jax.vjp(convolve, x, kernel)[1](cotangent)[number]  # noqa: E731
        assert operations(back, convolve(x, kernel)) == forward


@pytest.mark.parametrize(("steps", "queries"), slow_but([(1, 8), (5, 8), (5, 64)], (1, 8)))
def test_operations_of_the_ways_stand_in_the_ratio_that_theory_gives(steps, queries):
    """Over first order (3 s + 1) / (s + 1) and (11 s + 3) / (3 s + 3), s = steps · support / queries; layer 1 takes less."""
    network = nn.mlp([32] * 8, jnp.tanh)
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)  # noqa: E731
    batch = lambda count: Examples(shape(count, 32), shape(count, 32), shape(count))  # noqa: E731
    learner = Learner(losses.mean_squared_error(network.apply), optax.sgd(0.1), steps)
    found = estimate(learner, MetaParams(jax.eval_shape(network.init, KEY)), Episode(batch(8), batch(queries)), 2).ways
    s = steps * 8 / queries
    ratios = {name: found[name].operations / found["first-order"].operations for name in ("stored", "exact")}
    np.testing.assert_allclose(ratios["stored"], (3 * s + 1) / (s + 1), rtol=0.12)
    np.testing.assert_allclose(ratios["exact"], (11 * s + 3) / (3 * s + 3), rtol=0.12)


def small_conv4():
    """(a learner, its parameters, an episode of one task) with convolutions."""
    network = nn.conv4((8, 8, 1), 3, 4, layers=2)
    learner = Learner(
        losses.cross_entropy(lambda params, x: jax.nn.log_softmax(network.apply(params, x))),
        optax.sgd(0.1),
        2,
        task_gradient=exact,
    )
    examples = Examples(jax.random.normal(KEY, (6, 8, 8, 1)), jnp.tile(jnp.eye(3), (2, 1)), jnp.ones(6))
    return network, learner, MetaParams(network.init(KEY)), Episode(examples, examples)


@pytest.mark.slow
def test_convolutions_are_measured_once_and_the_choice_is_remembered_and_changes_no_gradient(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _, learner, params, episode = small_conv4()
    mesh, step = task_mesh(1), jnp.zeros((), jnp.int32)
    episodes, keys = jax.tree.map(lambda leaf: leaf[None], (episode, KEY))
    plain = meta_gradient(learner, params, episodes, keys, step)
    measured = tune_learner(learner, params, episode, 1, mesh, quiet=False)
    assert "measuring convolutions on this machine, once" in capsys.readouterr().err
    found = meta_gradient(measured, params, episodes, keys, step)
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-5)
    (remembered,) = (tmp_path / "fewstep" / "lowerings").iterdir()
    written = remembered.read_text()
    tune_learner(learner, params, episode, 1, mesh, quiet=False)
    assert capsys.readouterr().err == "" and remembered.read_text() == written
    remembered.write_text("{ damaged")
    monkeypatch.setattr("fewstep.training.autotune_convolutions.seconds_of", lambda *given: 1.0)  # it has been measured above
    tune_learner(learner, params, episode, 1, mesh, quiet=False)
    assert "measuring" in capsys.readouterr().err and set(json.loads(remembered.read_text())) == set(json.loads(written))


def test_a_choice_by_signature_is_followed_convolution_by_convolution():
    asked = []

    def choice(signature):
        asked.append(signature)
        return "matrix" if len(asked) == 1 else "direct"

    value = curve("plain")
    x, kernel = (jax.random.normal(key, shape) for key, shape in zip(jax.random.split(KEY), CASES["plain"][:2], strict=True))
    text = str(jax.make_jaxpr(fast_convolutions(jax.grad(value, (0, 1)), choice))(x, kernel))
    assert len(asked) == 3 and "conv_general_dilated" in text and "dot_general" in text


@pytest.mark.parametrize("devices", [1, 2])
def test_a_function_of_each_task_mapped_over_tasks_is_the_same_with_convolutions_as_one_by_one(devices, monkeypatch):
    network, learner, params, episode = small_conv4()
    monkeypatch.setattr("fewstep.training.map_tasks.task_mesh", lambda: task_mesh(min(devices, jax.device_count())))
    supports = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, leaf - 1]), episode.support.inputs)

    def one_task(inputs):
        adapted = adapt(learner, params, episode.support._replace(inputs=inputs), KEY)
        return network.apply(adapted, inputs)

    found = jax.jit(lambda inputs: map_tasks(one_task, inputs, 2))(supports)
    expected = jnp.stack([one_task(inputs) for inputs in supports])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
