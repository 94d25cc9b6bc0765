"""What does not fit together is refused by name, before anything is compiled. Place: fewstep/sound.py."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from known import KEY, STEP, assert_same_bits, fast_adapt, fast_meta_gradient, keys, one

from fewstep import (
    Episode,
    InputError,
    Learner,
    MetaParams,
    adapt,
    adaptation_path,
    check_meta_gradient,
    init,
    meta_gradient,
    meta_step,
    task_loss,
    variants,
)


def loss(theta, batch, key):
    return jnp.mean(jnp.square(batch["x"] @ theta["w"] + theta["b"] - batch["y"]))


THETA = {"w": jnp.ones(2), "b": jnp.zeros(())}
BATCH = {"x": jnp.ones((3, 5, 2)), "y": jnp.zeros((3, 5))}
EPISODES = Episode(BATCH, BATCH)
TASK, SGD = one(EPISODES, 0), optax.sgd(0.1)
CALLS = {
    "adapt": lambda learner, params: adapt(learner, params, TASK.support, KEY),
    "adaptation_path": lambda learner, params: adaptation_path(learner, params, TASK.support, KEY),
    "task_loss": lambda learner, params: task_loss(learner, params, TASK, KEY, STEP),
    "meta_gradient": lambda learner, params: meta_gradient(learner, params, EPISODES, keys(3), STEP),
    "check_meta_gradient": lambda learner, params: check_meta_gradient(learner, params, TASK, KEY),
    "init": lambda learner, params: init(optax.adam(0.1), params),
}
LEAVES = {
    "an integer array": (jnp.zeros((), jnp.int32), r"got int32\[\]\. .*fewstep\.partition"),
    "a Python integer": (0, r"got the int 0\. .*partition"),
    "a Boolean": (jnp.array(True), r"got bool\[\]\. .*partition"),
    "a key": (KEY, r"got key<fry>\[\]\. .*same numbers for all tasks"),
    "a function": (jnp.tanh, r"got the function tanh\. .*partition"),
    "a text": ("relu", r"got the str 'relu'\. .*partition"),
    "a complex array": (jnp.ones(2, complex), r"got complex64\[2\]\. .*two arrays"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("leaf", LEAVES)
def test_a_leaf_that_cannot_be_learned_is_named_by_its_path_and_its_kind(call, leaf):
    value, message = LEAVES[leaf]
    with pytest.raises(InputError, match=r"^parameters\.theta\['odd'\]: expected floating-point numbers, " + message):
        CALLS[call](Learner(loss, SGD, 2), MetaParams(THETA | {"odd": value}))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("params", "message"),
    [
        (THETA, r"parameters: expected fewstep\.MetaParams\(theta\), got an object of type dict"),
        (MetaParams({}), r"parameters\.theta: expected at least one array to learn"),
        (MetaParams(THETA, jnp.arange(3)), r"parameters\.inner: expected floating-point numbers, got int32\[3\]"),
    ],
)
def test_what_are_no_meta_parameters_is_refused(call, params, message):
    with pytest.raises(InputError, match=message):
        CALLS[call](Learner(loss, SGD, 2), params)


@pytest.mark.parametrize("steps", [-1, 2.5, True, "2", None, jnp.array(2)])
def test_a_number_of_adaptation_steps_is_a_whole_number_from_0_on(steps):
    with pytest.raises(InputError, match=r"Learner\.adaptation_steps: expected a whole number from 0 on"):
        Learner(loss, SGD, steps)
    if steps is not None:  # None stands for the learner's own number
        for call in (adapt, adaptation_path):
            with pytest.raises(InputError, match=r"^steps: expected a whole number from 0 on"):
                call(Learner(loss, SGD, 2), MetaParams(THETA), TASK.support, KEY, steps)


def test_a_whole_number_of_numpy_is_a_number_of_steps():
    learner, params = Learner(loss, SGD, np.int64(2)), MetaParams(THETA)
    assert_same_bits(
        fast_adapt(learner, params, TASK.support, KEY), fast_adapt(learner, params, TASK.support, KEY, np.int32(2))
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": None}, r"Learner\.loss: expected a function"),
        ({"inner_optimizer": 0.1}, r"Learner\.inner_optimizer: expected an optax optimizer.*got the float 0\.1"),
        ({"tasks_at_once": 0}, r"Learner\.tasks_at_once: expected a whole number from 1 on"),
    ],
)
def test_a_field_of_a_learner_that_is_of_another_kind_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        Learner(**{"loss": loss, "inner_optimizer": SGD, **fields})


@pytest.mark.parametrize("call", [call for call in CALLS if call != "init"])
@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda theta, batch, key: (loss(theta, batch, key), 1), "got tuple. Return the loss alone"),
        (lambda theta, batch, key: jnp.square(batch["x"] @ theta["w"]), r"got float32\[5\]. Take the mean"),
        (lambda theta, batch, key: jnp.sum(batch["x"] > 0), r"got int32\[\]"),
        (lambda theta, batch, key: loss(theta, batch, key) + 0j, r"got complex64\[\]"),
    ],
)
def test_a_loss_that_is_not_one_number_is_named_wherever_it_is_used(call, made, message):
    with pytest.raises(InputError, match=f"^loss: expected one floating-point number for a task's support set, {message}"):
        CALLS[call](Learner(made, SGD, 2), MetaParams(THETA))


RATES = {"w": jnp.zeros(2), "b": jnp.zeros(())}
BY_STEP = variants.per_step(SGD, ["b"])
LEARNED = {
    "lslr, none": (variants.lslr, (), r"lslr: .*like the parameters.*got nothing\. .*layer_step_rates"),
    "lslr, of one array": (variants.lslr, {"w": jnp.zeros(2)}, r"lslr: .*like the parameters.*got PyTreeDef"),
    "lslr, no axis of steps": (
        variants.lslr,
        RATES,
        r"lslr: MetaParams\.inner\['b'\]: expected log rates \[steps\].*float32\[\]",
    ),
    "Meta-SGD, none": (variants.meta_sgd, (), r"meta_sgd: .*got nothing\. .*log_rates"),
    "Meta-SGD, other shape": (
        variants.meta_sgd,
        RATES | {"w": jnp.zeros(3)},
        r"meta_sgd: .*\['w'\].*\(2,\).*float32\[3\]",
    ),
    "Meta-SGD, too large": (variants.meta_sgd, RATES | {"b": jnp.zeros(2)}, r"meta_sgd: .*\['b'\].*shape \(\).*float32\[2\]"),
    "Meta-Curvature, none": (variants.meta_curvature, (), r"meta_curvature: .*got nothing\. .*curvature"),
    "Meta-Curvature, rates": (variants.meta_curvature, RATES, r"meta_curvature: .*\['b'\]: expected its Curvature"),
    "Meta-Curvature, of other parameters": (
        variants.meta_curvature,
        variants.curvature({"w": jnp.ones(3), "b": jnp.ones(1)}, 0.1),
        r"meta_curvature: MetaParams\.inner\['b'\]: expected its Curvature",
    ),
    "ALFA, none": (variants.alfa, (), r"alfa: .*dictionary of network, rate, decay, got an object of type tuple"),
    "ALFA, rates": (variants.alfa, RATES, r"alfa: .*got entries \['b', 'w'\]\. .*alfa_start"),
    "ALFA, of one array": (
        variants.alfa,
        variants.alfa_start({"w": jnp.ones(2)}, 0.1, 2),
        r"alfa: .*, 2\].*got \[2, 1\]",
    ),
    "by step, none": (BY_STEP, (), r"per_step: .*dictionary of inner, after"),
    "by step, of others": (BY_STEP, variants.step_values(THETA, ["w"], 2), r"per_step: .*\['after'\]\['b'\]: expected values"),
    "an optimizer that was not made": (
        optax.sgd,
        (),
        r"inner optimizer: .*not the function that makes it: optax\.sgd\(0\.01\)",
    ),
    "no optimizer": (lambda inner: 0.1, (), r"Learner\.inner_optimizer: .*a function that returns the float 0\.1"),
}


@pytest.mark.parametrize("call", [adapt, task_loss, meta_gradient])
@pytest.mark.parametrize("case", LEARNED)
def test_a_variant_without_what_it_learns_says_what_makes_it(call, case):
    optimizer, inner, message = LEARNED[case]
    with pytest.raises(InputError, match=message):
        CALLS[call.__name__](Learner(loss, optimizer, 2), MetaParams(THETA, inner))


def test_parameters_without_what_a_variant_reads_are_refused():
    learner = Learner(loss, SGD, 2, adaptation_step=variants.adapt_only("context"), start=variants.fresh_context)
    with pytest.raises(InputError, match=r"expected parameters with the entry 'context', got entries \['b', 'w'\]"):
        adapt(learner, MetaParams(THETA), TASK.support, KEY)
    with pytest.raises(InputError, match=r"pulled: expected MetaParams\.inner as one number"):
        adapt(Learner(loss, variants.l2_to_init, 1), MetaParams(THETA), TASK.support, KEY)


OLD = jax.random.PRNGKey(0)


@pytest.mark.parametrize("key", [0, None, keys(3), jax.random.split(OLD, 3), jnp.float32(0)])
def test_a_key_is_a_single_one_of_jax(key):
    for call in (
        lambda: adapt(Learner(loss, SGD, 1), MetaParams(THETA), TASK.support, key),
        lambda: task_loss(Learner(loss, SGD, 1), MetaParams(THETA), TASK, key, STEP),
        lambda: check_meta_gradient(Learner(loss, SGD, 1), MetaParams(THETA), TASK, key),
    ):
        with pytest.raises(InputError, match=r"^key: expected a single key"):
            call()


@pytest.mark.parametrize(
    ("episodes", "keys", "message"),
    [
        (EPISODES, [0, 1, 2], "keys: expected one key for each task, got an object of type list"),
        (EPISODES, OLD, "keys: expected one key for each task, got a single key"),
        (EPISODES, keys(4).reshape(2, 2), r"keys: expected one key for each task, got keys of the shape \(2, 2\)"),
        (EPISODES, keys(2), r"episodes\.support\['x'\]: expected the task axis first, of 2 tasks"),
        (jax.tree.map(lambda leaf: leaf[:0], EPISODES), keys(3)[:0], "expected at least one task, got none"),
        (tuple(EPISODES), keys(3), r"episodes: expected fewstep\.Episode"),
        (EPISODES._asdict(), keys(3), r"episodes: expected fewstep\.Episode"),
        (Episode(None, BATCH), keys(3), "support: expected arrays, got none, and the loss raises TypeError"),
        (Episode(BATCH | {"f": jnp.tanh}, BATCH), keys(3), r"episodes\.support\['f'\]: .*got the function tanh"),
        (Episode(BATCH | {"f": np.array(["a"] * 3)}, BATCH), keys(3), r"episodes\.support\['f'\]: expected an array"),
    ],
)
def test_a_meta_batch_that_is_none_is_refused_by_name(episodes, keys, message):
    with pytest.raises(InputError, match=message):
        meta_gradient(Learner(loss, SGD, 1), MetaParams(THETA), episodes, keys, STEP)


def test_keys_of_the_old_kind_serve_as_well():
    learner, params = Learner(loss, SGD, 2), MetaParams(THETA)
    expected = fast_meta_gradient(learner, params, EPISODES, keys(3), STEP)  # a loss without randomness
    assert_same_bits(fast_meta_gradient(learner, params, EPISODES, jax.random.split(OLD, 3), STEP), expected)


@pytest.mark.parametrize(
    ("gradient", "message"),
    [
        (THETA, "gradient: expected a pytree like the meta-parameters"),
        ((1.0, MetaParams(THETA)), r"fewstep\.meta_gradient returns \(meta-loss, gradient\)"),
        (MetaParams(THETA | {"w": jnp.ones(3)}), r"gradient\.theta\['w'\]: expected the shape \(2,\), got \(3,\)"),
    ],
)
def test_a_gradient_unlike_the_parameters_is_refused_by_the_meta_step(gradient, message):
    optimizer = optax.sgd(0.1)
    with pytest.raises(InputError, match=message):
        meta_step(optimizer, init(optimizer, MetaParams(THETA)), gradient)


def test_an_outer_optimizer_and_a_state_in_the_wrong_place_are_refused():
    params = MetaParams(THETA)
    for call in (lambda: init(optax.adam, params), lambda: init(params, optax.adam(0.1))):
        with pytest.raises(InputError, match=r"outer optimizer: expected an optax optimizer such as optax\.adam\(1e-3\)"):
            call()
    with pytest.raises(InputError, match=r"state: expected what fewstep\.init"):
        meta_step(optax.adam(0.1), params, params)


def test_an_error_of_the_users_own_stays_what_it_is():
    def wrong(theta, batch, key):
        return batch["z"].mean()

    with pytest.raises(KeyError, match="z"):
        adapt(Learner(wrong, SGD, 2), MetaParams(THETA), TASK.support, KEY)
    with pytest.raises(KeyError, match="z"):
        meta_gradient(Learner(wrong, SGD, 2), MetaParams(THETA), EPISODES, keys(3), STEP)


def test_checks_trace_nothing_in_an_adaptation_that_is_right():
    traces = []

    def counted(theta, batch, key):
        traces.append(1)
        return loss(theta, batch, key)

    learner = Learner(counted, SGD, 5)
    jax.make_jaxpr(lambda: adapt(learner, MetaParams(THETA), TASK.support, KEY))()
    assert len(traces) == 2  # the first step, and the body of the loop over the others


def test_plain_numbers_and_numpy_arrays_are_parameters_too():
    def spread(theta, batch, key):
        return loss({"w": jnp.stack([jnp.asarray(part) for part in theta["w"]]), "b": theta["b"]}, batch, key)

    expected = adaptation_path(Learner(loss, SGD, 2), MetaParams(THETA), TASK.support, KEY)
    from_numpy = adaptation_path(Learner(loss, SGD, 2), MetaParams(jax.tree.map(np.asarray, THETA)), TASK.support, KEY)
    assert_same_bits(from_numpy, expected)
    path = adaptation_path(Learner(spread, SGD, 2), MetaParams({"w": [1.0, 1.0], "b": 0.0}), TASK.support, KEY)
    np.testing.assert_allclose(np.stack(path["w"], 1), expected["w"], rtol=1e-6)


@pytest.mark.parametrize("rate", [0.0, -0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("make", [variants.log_rates, lambda theta, rate: variants.layer_step_rates(theta, rate, 2)])
def test_learned_rates_begin_at_a_positive_number(make, rate):
    with pytest.raises(InputError, match="expected a positive inner rate"):
        make(jnp.ones(2), rate)
