"""Some parameters adapt and others do not: by name, by low rank, or by values of their own for each step.

Place: fewstep/variants/partial.py, partial.py, lora.py, per_step.py.
"""

from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from known import (
    KEY,
    STEP,
    assert_close,
    assert_same_bits,
    farthest,
    fast_adapt,
    fast_gradient,
    fast_meta_gradient,
    fast_path,
    finite_differences,
    keys,
    mlp_loss,
    mlp_params,
    one,
    plain,
    waves,
)

from fewstep import Episode, Examples, InputError, Learner, MetaParams
from fewstep.core.maml import task_loss
from fewstep.core.types import Network
from fewstep.gradients import exact, first_order, stored
from fewstep.nn import mlp
from fewstep.variants import curvature, layer_step_rates, log_rates, lslr, meta_curvature, meta_sgd, multi_step_loss
from fewstep.variants.lora import merged, with_lora
from fewstep.variants.partial import Begun, adapt_only, chosen, divided, paths_of
from fewstep.variants.per_step import per_step, step_values

SIZES = (1, 3, 1)
BODY, HEAD = ["0"], ["1"]
"""the names of the two layers of a perceptron, which is a plain list"""
RATE = 0.1
OPTIMIZERS = {
    "descent": (optax.sgd(RATE), lambda theta: ()),
    "momentum": (optax.sgd(RATE, 0.9), lambda theta: ()),
    "meta_sgd": (meta_sgd, lambda theta: log_rates(theta, RATE)),
    "lslr": (lslr, lambda theta: layer_step_rates(theta, RATE, 2)),
    "meta_curvature": (meta_curvature, lambda theta: curvature(theta, RATE)),
}


def learner_and_params(name, steps=2, **changes):
    """A learner with one of the inner optimizers, whose learned part is moved apart from its start."""
    optimizer, start = OPTIMIZERS[name]
    theta, rng = mlp_params(SIZES), np.random.default_rng(8)
    inner = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape), start(theta))
    return Learner(mlp_loss, optimizer, steps, **changes), MetaParams(theta, inner)


slope_of = jax.jit(lambda loss, *arguments: jax.grad(loss)(*arguments), static_argnums=0)


def descend(loss, theta, support, layers, steps, key=KEY):
    """Gradient descent, step after step, on some layers of a perceptron alone; each step has a key as `adapt` gives it."""
    for step_key in jax.random.split(key, steps):
        slope = slope_of(loss, theta, support, step_key)
        down = lambda leaf, slope: leaf - RATE * slope  # noqa: E731
        theta = [jax.tree.map(down, part, slope[i]) if i in layers else part for i, part in enumerate(theta)]
    return theta


# Names


def tree():
    """Parameters as those of a small convolutional network."""
    zero = jnp.zeros(2)
    layers = {"layers": {i: {"kernel": zero, "bias": zero} for i in (0, 1, 10)}, "scales": {0: zero, 1: zero}}
    return {"body": layers, "head": {"kernel": zero, "bias": zero}, "pair": (zero, [zero])}


def test_paths_are_the_words_on_the_way_to_each_leaf_in_the_order_of_leaves():
    assert paths_of(mlp_params(SIZES)) == ("0.b", "0.w", "1.b", "1.w")
    assert paths_of(MetaParams(jnp.ones(1), {"rates": [jnp.ones(1)]})) == ("theta", "inner.rates.0")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["head"], {"head.kernel", "head.bias"}),
        (["head.kernel"], {"head.kernel"}),
        (["body.layers.1"], {"body.layers.1.kernel", "body.layers.1.bias"}),  # and not those of body.layers.10
        (["scales"], {"body.scales.0", "body.scales.1"}),
        (["scales", "head.bias"], {"body.scales.0", "body.scales.1", "head.bias"}),
        (["pair.1"], {"pair.1.0"}),
        ("pair", {"pair.0", "pair.1.0"}),
        ([], set()),
    ],
)
def test_a_name_means_a_leaf_or_all_below_it_or_a_part_of_a_path(names, expected):
    params = tree()
    found = chosen(params, names)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    assert {path for path, among in zip(paths_of(params), jax.tree.leaves(found), strict=True) if among} == expected


@pytest.mark.parametrize("name", ["hea", "layers.0", "body.layers.", "body.layers.2", ""])
def test_a_name_that_means_nothing_is_refused_with_all_that_there_are(name):
    with pytest.raises(InputError) as refusal:
        chosen(tree(), ["head", name])
    assert repr(name) in str(refusal.value)
    assert all(path in str(refusal.value) for path in paths_of(tree()))


def test_no_more_than_twenty_names_are_listed():
    with pytest.raises(InputError, match=r"leaf19 and 7 more\. Give"):
        chosen({f"leaf{i:02}": jnp.zeros(1) for i in range(27)}, ["none"])


def test_a_step_that_moves_what_is_not_there_says_so():
    learner = Learner(mlp_loss, optax.sgd(RATE), 2, adaptation_step=adapt_only(["head"]))
    with pytest.raises(InputError, match=r"'head'; there are: 0\.b, 0\.w, 1\.b, 1\.w"):
        fast_meta_gradient(learner, plain(mlp_params(SIZES)), waves(2), keys(2), STEP)


# Some leaves move


@pytest.mark.parametrize(
    ("name", "way"),
    [("descent", stored), ("meta_sgd", first_order), ("lslr", exact), ("meta_curvature", stored)],
)
def test_where_everything_moves_it_is_maml(float64, name, way):
    learner, params = learner_and_params(name, task_gradient=way)
    partial = replace(learner, adaptation_step=adapt_only(BODY + HEAD))
    found, expected = (fast_meta_gradient(each, params, waves(2), keys(2), STEP) for each in (partial, learner))
    assert_close(found, expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nothing_of_the_body_changes_where_the_head_moves(name):
    learner, params = learner_and_params(name, adaptation_step=adapt_only(HEAD))
    path = fast_path(learner, params, one(waves(1), 0).support, KEY)
    assert_same_bits(path[0], jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (3, *leaf.shape)), params.theta[0]))
    assert all(jnp.all(jnp.any(leaf[1:] != leaf[:-1], axis=tuple(range(1, leaf.ndim)))) for leaf in jax.tree.leaves(path[1]))


@pytest.mark.parametrize(
    ("names", "name", "way"),
    [
        *((HEAD, name, stored) for name in OPTIMIZERS),
        (HEAD, "lslr", exact),
        (BODY, "meta_sgd", stored),
        (BODY, "momentum", exact),
    ],
)
def test_the_meta_gradient_is_that_of_finite_differences(float64, names, name, way):
    learner, params = learner_and_params(name, 3, adaptation_step=adapt_only(names), task_gradient=way)
    episode = one(waves(1), 0)
    found = jax.jit(way, static_argnums=0)(learner, params, episode, KEY, STEP)[1]
    expected = finite_differences(lambda params: task_loss(learner, params, episode, KEY, STEP), params)
    assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_first_order_is_the_query_gradient_where_adaptation_ends(float64):
    learner, params = learner_and_params("descent", adaptation_step=adapt_only(HEAD), task_gradient=first_order)
    episode = one(waves(1), 0)
    adapted = descend(mlp_loss, params.theta, episode.support, [1], 2)
    found = jax.jit(first_order, static_argnums=0)(learner, params, episode, KEY, STEP)[1].theta
    assert_close(found, slope_of(mlp_loss, adapted, episode.query, KEY))


@pytest.mark.parametrize("steps", [0, 1, 4, 12])
@pytest.mark.parametrize(("names", "layers"), [(HEAD, [2]), (BODY, [0]), (["w"], None)], ids=["last", "first", "kernels"])
def test_steps_are_those_of_descent_on_the_chosen_leaves_alone(float64, names, layers, steps):
    """BOIL is the second: the first layer of three moves, the last does not."""
    theta, support = mlp_params((1, 3, 2, 1)), one(waves(1), 0).support
    names = ["2"] if layers == [2] else names
    expected = theta
    for _ in range(steps):
        slope = slope_of(mlp_loss, expected, support, KEY)
        moving = jax.tree.unflatten(
            jax.tree.structure(theta),
            [path[-1] == "w" if layers is None else int(path[0]) in layers for path in paths_of(theta)],
        )
        expected = jax.tree.map(lambda leaf, slope, moves: leaf - RATE * slope * moves, expected, slope, moving)
    learner = Learner(mlp_loss, optax.sgd(RATE), 5, adaptation_step=adapt_only(names))
    assert_close(fast_adapt(learner, plain(theta), support, KEY, steps), expected)


def test_a_function_may_choose_leaves_one_by_one_or_whole_parts(float64):
    """Moving the body by name is moving what is not the head, and moving its part of the tree."""
    by_name, params = learner_and_params("descent", adaptation_step=adapt_only(BODY))
    complement = adapt_only(lambda params: jax.tree.map(lambda among: not among, chosen(params, HEAD)))
    support = one(waves(1), 0).support
    expected = fast_adapt(by_name, params, support, KEY)
    assert farthest(expected, params.theta) > 1e-3
    for step in (complement, adapt_only(lambda params: [True, False])):
        assert_same_bits(fast_adapt(replace(by_name, adaptation_step=step), params, support, KEY), expected)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_a_linear_head_goes_to_its_least_squares_solution_as_descent_on_a_quadratic_does(float64, steps):
    """h* + (I − 2α ΦᵀΦ / n)^K (h − h*), with Φ the features and a constant one."""
    theta, support = mlp_params(SIZES), one(waves(1, shots=12), 0).support
    features = np.tanh(support.inputs @ theta[0]["w"] + theta[0]["b"][None])
    features = np.concatenate([features, np.ones((12, 1))], axis=1)
    head = np.concatenate([theta[1]["w"], theta[1]["b"][None]])
    best = np.linalg.lstsq(features, support.targets)[0]
    shrink = np.eye(4) - 2 * RATE * features.T @ features / 12
    expected = best + np.linalg.matrix_power(shrink, steps) @ (head - best)
    learner = Learner(mlp_loss, optax.sgd(RATE), steps, adaptation_step=adapt_only(HEAD))
    adapted = fast_adapt(learner, plain(theta), support, KEY)
    assert_close(adapted[1], {"w": expected[:3], "b": expected[3]})


def test_tasks_side_by_side_have_the_mean_of_their_gradients(float64):
    learner, params = learner_and_params("lslr", adaptation_step=adapt_only(HEAD))
    episodes, task_keys = waves(3), keys(3)
    alone = [fast_gradient(learner, params, one(episodes, i), task_keys[i], STEP) for i in range(3)]
    expected = jax.tree.map(lambda *leaves: sum(leaves) / 3, *alone)
    assert_close(fast_meta_gradient(learner, params, episodes, task_keys, STEP), expected)


def test_the_inner_optimizer_sees_no_slope_where_nothing_moves(float64):
    """A limit on the size of the whole gradient is then one on the gradient of the head."""
    theta, support = mlp_params(SIZES), one(waves(1), 0).support
    slope = slope_of(mlp_loss, theta, support, KEY)[1]
    limit = 0.5 * float(optax.tree.norm(slope))
    optimizer = optax.chain(optax.clip_by_global_norm(limit), optax.sgd(1.0))
    adapted = fast_adapt(Learner(mlp_loss, optimizer, 1, adaptation_step=adapt_only(HEAD)), plain(theta), support, KEY)
    assert_close(adapted[1], jax.tree.map(lambda leaf, slope: leaf - 0.5 * slope, theta[1], slope))


def test_a_body_that_looks_at_the_key_does_so_in_every_step(float64):
    def noisy(theta, examples, key):
        away = 0.3 * jax.random.normal(key, examples.inputs.shape)
        return mlp_loss(theta, examples._replace(inputs=examples.inputs + away), key)

    theta, support = mlp_params(SIZES), one(waves(1), 0).support
    expected = descend(noisy, theta, support, [1], 4)
    assert_close(
        fast_adapt(Learner(noisy, optax.sgd(RATE), 4, adaptation_step=adapt_only(HEAD)), plain(theta), support, KEY), expected
    )
    assert farthest(expected, descend(mlp_loss, theta, support, [1], 4)) > 1e-3


@jax.jit
def bend(x):
    """A part with a derivative of its own, in a program of its own that is called more than once."""
    return jax.nn.relu(x) + 0.1 * jnp.sin(x)


def crooked_loss(theta, examples, key):
    """A loss of what programs are made of: calls, a loop, a branch, integers, and a constant of its own."""
    x = bend(examples.inputs @ theta[0]["w"] + theta[0]["b"][None])
    x, _ = jax.lax.scan(lambda x, _: (bend(x) + 0.1, None), x, None, length=2)
    x = jax.lax.cond(jnp.sum(x) > 0, lambda x: 2 * x, lambda x: x, x) + np.linspace(0, 1, 3)[None]
    order = jnp.argsort(examples.inputs[:, 0])
    y = bend(x @ theta[1]["w"] + theta[1]["b"][None])[order]
    return jnp.mean(jnp.square(y - examples.targets[order]))


@pytest.mark.parametrize(
    ("loss", "way"),
    [(jax.jit(crooked_loss), stored), (jax.checkpoint(crooked_loss), exact)],
    ids=["jit", "again"],
)
def test_calls_loops_branches_and_integers_are_divided_too(float64, loss, way):
    theta, episode = mlp_params(SIZES), one(waves(1), 0)
    learner = Learner(loss, optax.sgd(RATE), 3, adaptation_step=adapt_only(HEAD))

    def objective(theta):
        return crooked_loss(descend(crooked_loss, theta, episode.support, [1], 3), episode.query, KEY)

    value, gradient = jax.jit(way, static_argnums=0)(learner, plain(theta), episode, KEY, STEP)
    assert_close((value, gradient.theta), jax.jit(jax.value_and_grad(objective))(theta))


def test_plain_numbers_among_the_parameters_do_not_change_what_is_divided():
    """They have no type of their own in the first step, and that of their gradient after it."""

    def loss(theta, x, key):
        return jnp.mean(jnp.square(theta["moves"] * jnp.sin(theta["stays"] * x) - 1))

    theta, x = {"moves": 0.5, "stays": 2.0}, jnp.linspace(0, 1, 8, dtype=jnp.bfloat16)
    expected = theta["moves"]
    for _ in range(3):
        expected -= RATE * jax.grad(loss)({**theta, "moves": jnp.float32(expected)}, x, KEY)["moves"]
    adapted = fast_adapt(Learner(loss, optax.sgd(RATE), 3, adaptation_step=adapt_only("moves")), plain(theta), x, KEY)
    assert_close(adapted, {"moves": expected, "stays": 2.0}, rtol=1e-3)


def test_what_is_divided_is_the_function_and_nothing_of_its_second_part_is_in_the_first():
    def function(changing, given):
        return {"sum": bend(given) @ changing + bend(changing), "given": jnp.sin(given), "one": 1.0}

    changing, given = jnp.arange(3.0), jnp.linspace(-1, 1, 9).reshape(3, 3)
    early, late = divided(function, (changing,), (given,))
    known = early(given)
    assert_close(late(known, changing), function(changing, given), rtol=1e-6)
    lines = {eqn.primitive.name for eqn in jax.make_jaxpr(lambda changing: late(known, changing))(2 * changing).eqns}
    assert "dot_general" in lines
    assert len(known) == 2  # of the two sines, of the matrix and of what is returned as it is, only what is asked for


def test_every_step_is_judged_by_the_multi_step_loss(float64):
    learner, params = learner_and_params("descent", 3, adaptation_step=adapt_only(HEAD), objective=multi_step_loss(until=10))
    episode = one(waves(1), 0)
    expected = np.mean(
        [mlp_loss(descend(mlp_loss, params.theta, episode.support, [1], k), episode.query, KEY) for k in (1, 2, 3)]
    )
    np.testing.assert_allclose(
        fast_gradient(learner, params, episode, KEY, STEP)[0], expected, rtol=1e-6
    )  # weights are in float32


def test_two_steps_that_move_the_same_leaves_are_one_value():
    assert adapt_only(["a", "b"]) == adapt_only(("a", "b"))
    assert hash(adapt_only("a")) == hash(adapt_only(["a"]))


# What it costs

WIDTHS, OUTPUTS, ROWS = (16, 128, 128), 4, 8


def flops(learner, theta, episode):
    """Of one task's meta-gradient, as XLA counts them."""
    lowered = jax.jit(stored, static_argnums=0).lower(learner, plain(theta), episode, KEY, STEP)
    return lowered.compile().cost_analysis()["flops"]


def test_the_body_is_gone_through_once_however_many_steps_the_head_makes():
    theta = mlp_params((*WIDTHS, OUTPUTS))
    rng = np.random.default_rng(3)
    rows = lambda size: jnp.asarray(rng.normal(size=(ROWS, size)), jnp.float32)  # noqa: E731
    support, query = (Examples(rows(WIDTHS[0]), rows(OUTPUTS), jnp.ones(ROWS)) for _ in "sq")
    first, second = (2 * ROWS * a * b for a, b in pairwise(WIDTHS))
    # Forward, and backward to kernels and to what comes in, but for the inputs; the same for support and query sets.
    body = 2 * (3 * (first + second) - first)
    head, steps = 2 * ROWS * WIDTHS[-1] * OUTPUTS, 5
    share = body + (9 * steps + 3) * head  # at most 9 forward passes for each step that is differentiated, as in stored.py
    maml = Learner(mlp_loss, optax.sgd(0.1), steps)
    anil = replace(maml, adaptation_step=adapt_only([str(len(WIDTHS) - 1)]))
    episode = Episode(support, query)
    few, more, all_moving = (
        flops(learner, theta, episode) for learner in (anil, replace(anil, adaptation_steps=2 * steps - 1), maml)
    )
    assert 0.8 * share < few < 1.2 * share
    assert more - few < 1.2 * (steps - 1) * 9 * head
    assert few < all_moving / 4


def test_the_first_step_hands_on_what_the_others_need_but_not_where_steps_are_done_again():
    learner, params = learner_and_params("descent", adaptation_step=adapt_only(HEAD))
    support = one(waves(1), 0).support
    state = params.theta, learner.optimizer(()).init(params.theta)
    (adapted, begun), (again, opt_state) = (
        each.adaptation_step(each, each.optimizer(()), state, support, KEY)
        for each in (learner, replace(learner, rematerialize=True))
    )
    assert isinstance(begun, Begun)
    assert all(adapted[0][name] is leaf for name, leaf in params.theta[0].items())
    assert_same_bits((again, opt_state), (adapted, state[1]))


# Low rank


def linear_stack():
    """A body of two square kernels without anything else, as a network."""

    def init(key):
        rng = np.random.default_rng(2)
        return [{"w": jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]))} for shape in ((3, 3), (3, 3))]

    return Network(init, lambda params, x: jnp.tanh(x @ params[0]["w"]) @ params[1]["w"])


def loss_of(network):
    return lambda params, examples, key: jnp.mean(jnp.square(network.apply(params, examples.inputs) - examples.targets))


def cubes(tasks):
    """Episodes of a regression from three numbers to three."""
    rng = np.random.default_rng(6)
    sets = (Examples(*(jnp.asarray(rng.normal(size=(tasks, 5, 3))) for _ in "xy"), jnp.ones((tasks, 5))) for _ in "sq")
    return Episode(*sets)


def test_a_network_with_low_rank_parts_starts_as_the_network_itself():
    network = mlp((2, 8, 1))
    params = with_lora(network, 3).init(KEY)
    assert {path: (part["down"].shape, part["up"].shape) for path, part in params["lora"].items()} == {
        "layers.0.kernel": ((2, 3), (3, 8)),
        "layers.1.kernel": ((8, 3), (3, 1)),
    }
    assert_same_bits(merged(params), params["base"])
    x = jnp.linspace(-1, 1, 10).reshape(5, 2)
    assert_same_bits(with_lora(network, 3).apply(params, x), network.apply(params["base"], x))


def test_down_is_drawn_anew_for_every_array_with_a_variance_of_one_over_its_inputs():
    network = Network(lambda key: {"a": jnp.ones((400, 2)), "b": jnp.ones((5, 80, 2)), "c": jnp.ones(7)}, lambda p, x: x)
    first, second = (part["down"] for part in with_lora(network, 50).init(KEY)["lora"].values())
    assert first.shape == second.shape == (400, 50)
    assert farthest(first, second) > 0.1
    for down in (first, second):
        np.testing.assert_allclose(jnp.var(down), 1 / 400, rtol=0.03)  # of 20,000 numbers: three standard errors


def test_kernels_of_four_axes_are_taken_as_matrices(float64):
    rng = np.random.default_rng(4)
    base = {"k": jnp.asarray(rng.normal(size=(2, 3, 4, 5)))}
    params = {"base": base, "lora": {"k": {"down": rng.normal(size=(24, 2)), "up": rng.normal(size=(2, 5))}}}
    expected = base["k"] + np.einsum(
        "xyir,ro->xyio", params["lora"]["k"]["down"].reshape(2, 3, 4, 2), params["lora"]["k"]["up"]
    )
    assert_close(merged(params), {"k": expected})


def test_what_adapts_at_full_rank_from_the_identity_is_the_kernel_itself(float64):
    """W + I U: descent on U alone is that on W, and so are θ′ and the meta-gradient with respect to W."""
    network, episodes = linear_stack(), cubes(3)
    low = with_lora(network, 3)
    params = low.init(KEY)
    params["lora"] = {path: {**part, "down": jnp.eye(3)} for path, part in params["lora"].items()}
    maml = Learner(loss_of(network), optax.sgd(RATE), 3)
    lora = Learner(loss_of(low), optax.sgd(RATE), 3, adaptation_step=adapt_only(["up"]))
    support = one(episodes, 0).support
    adapted = fast_adapt(lora, plain(params), support, KEY)
    assert_same_bits(adapted["base"], params["base"])
    assert_close(merged(adapted), fast_adapt(maml, plain(params["base"]), support, KEY))
    loss, gradient = fast_meta_gradient(lora, plain(params), episodes, keys(3), STEP)
    expected = fast_meta_gradient(maml, plain(params["base"]), episodes, keys(3), STEP)
    assert_close((loss, gradient.theta["base"]), (expected[0], expected[1].theta))


def test_merging_an_adapted_network_changes_nothing_of_what_it_says(float64):
    network = mlp((1, 6, 1), jnp.tanh)
    low = with_lora(network, 2)
    params, support = low.init(KEY), one(waves(1), 0).support
    adapted = fast_adapt(
        Learner(loss_of(low), optax.sgd(RATE), 3, adaptation_step=adapt_only(["lora"])), plain(params), support, KEY
    )
    assert_same_bits(adapted["base"], params["base"])
    assert farthest(merged(adapted), params["base"]) > 1e-3
    assert_same_bits(network.apply(merged(adapted), support.inputs), low.apply(adapted, support.inputs))
    for path, part in adapted["lora"].items():
        name, leaf = path.split(".")[1:]
        change = merged(adapted)["layers"][int(name)][leaf] - params["base"]["layers"][int(name)][leaf]
        assert np.linalg.matrix_rank(change, tol=1e-12) <= part["up"].shape[0]


def test_a_rank_of_nothing_is_refused():
    with pytest.raises(InputError, match="rank of at least 1, got 0"):
        with_lora(mlp((1, 2, 1)), 0)


# Values for each step

SHIFTS = ["0.b"]


def moved_by_hand(theta, support, after, steps):
    """Descent on all leaves but the shifts of the first layer, which become `after[k]` after step k."""
    for k in range(steps):
        slope = slope_of(mlp_loss, theta, support, KEY)
        theta = jax.tree.map(lambda leaf, slope: leaf - RATE * slope, theta, slope)
        theta[0]["b"] = after[min(k, len(after) - 1)]
    return theta


def uneven_values(theta, steps):
    return jnp.asarray(np.random.default_rng(9).normal(size=(steps, *theta[0]["b"].shape)))


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_chosen_leaves_take_their_value_of_each_step_and_beyond_the_trained_steps_the_last(float64, steps):
    theta, support = mlp_params(SIZES), one(waves(1), 0).support
    after = uneven_values(theta, 3)
    params = MetaParams(theta, {"inner": (), "after": {"0.b": after}})
    adapted = fast_adapt(Learner(mlp_loss, per_step(optax.sgd(RATE), SHIFTS), 3), params, support, KEY, steps)
    assert_close(adapted, moved_by_hand(jax.tree.map(lambda leaf: leaf, theta), support, after, steps))


@pytest.mark.parametrize(("name", "steps"), [("lslr", 2), ("momentum", 0)])
def test_values_start_where_the_leaves_of_theta_are_and_then_those_do_not_move(float64, name, steps):
    learner, params = learner_and_params(name, steps)
    values = step_values(params.theta, SHIFTS, steps, params.inner)
    assert_same_bits(values["after"], {"0.b": jnp.broadcast_to(params.theta[0]["b"], (max(steps, 1), 3))})
    stay = replace(learner, adaptation_step=adapt_only(["0.w", "1"]))
    found, expected = (
        fast_meta_gradient(each, given, waves(2), keys(2), STEP)
        for each, given in (
            (replace(learner, inner_optimizer=per_step(learner.inner_optimizer, SHIFTS)), params._replace(inner=values)),
            (stay, params),
        )
    )
    assert_close((found[0], found[1].inner["inner"]), (expected[0], expected[1].inner))
    # The leaf of θ is there before the first step alone; its values after each make up the rest of the whole gradient.
    parts = found[1].theta[0]["b"] + (jnp.sum(found[1].inner["after"]["0.b"], axis=0))
    assert_close((parts, found[1].theta[1]), (expected[1].theta[0]["b"], expected[1].theta[1]), rtol=1e-8)


@pytest.mark.parametrize("way", [stored, exact])
def test_the_gradient_of_values_is_that_of_finite_differences(float64, way):
    learner, params = learner_and_params("meta_sgd", 2)
    learner = replace(learner, inner_optimizer=per_step(learner.inner_optimizer, SHIFTS))
    values = step_values(params.theta, SHIFTS, 2, params.inner)
    values["after"] = {"0.b": uneven_values(params.theta, 2)}
    params, episode = params._replace(inner=values), one(waves(1), 0)
    found = jax.jit(way, static_argnums=0)(learner, params, episode, KEY, STEP)[1]
    expected = finite_differences(lambda params: task_loss(learner, params, episode, KEY, STEP), params)
    assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert all(jnp.any(slope != 0) for slope in found.inner["after"]["0.b"])


def test_values_of_leaves_beside_those_that_move(float64):
    """Shifts by step, a head that moves by gradient, kernels of the body that stay."""
    theta, support = mlp_params(SIZES), one(waves(1), 0).support
    after = uneven_values(theta, 3)
    params = MetaParams(theta, {"inner": (), "after": {"0.b": after}})
    learner = Learner(mlp_loss, per_step(optax.sgd(RATE), SHIFTS), 3, adaptation_step=adapt_only(SHIFTS + HEAD))
    expected = theta
    for k in range(3):
        slope = slope_of(mlp_loss, expected, support, KEY)
        head = jax.tree.map(lambda leaf, slope: leaf - RATE * slope, expected[1], slope[1])
        expected = [{"w": theta[0]["w"], "b": after[k]}, head]
    assert_close(fast_adapt(learner, params, support, KEY), expected)


def test_the_optimizer_counts_its_steps_in_one_integer_and_is_given_no_slope_of_the_chosen(float64):
    theta = mlp_params(SIZES)
    limit = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
    optimizer = per_step(limit, SHIFTS)(step_values(theta, SHIFTS, 2))
    state = optimizer.init(theta)
    slope = jax.tree.map(jnp.zeros_like, theta)
    slope[0]["b"], slope[1]["b"] = jnp.full(3, 100.0), jnp.full(1, 0.5)
    for made in range(2):
        assert (state.step.dtype, state.step.shape, int(state.step)) == (jnp.int32, (), made)
        updates, state = optimizer.update(slope, state, theta)
        expected = jax.tree.map(jnp.zeros_like, theta)
        expected[1]["b"] = jnp.full(1, -0.5)
        assert_close(updates, expected)


def test_values_of_what_is_not_there_are_refused():
    with pytest.raises(InputError, match="'scales'; there are"):
        step_values(mlp_params(SIZES), ["scales"], 3)
