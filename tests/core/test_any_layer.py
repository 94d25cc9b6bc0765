"""Layers of all kinds give an exact meta-gradient: checked by finite differences in float64. Place: fewstep/gradients."""

import warnings
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from known import slow_but

from fewstep import Episode, InputError, Learner, MetaParams, check_meta_gradient, meta_gradient
from fewstep.gradients import exact, stored

KEY = jax.random.key(0)
WORDS, WIDTH, LENGTH = 11, 8, 5


def sentences(key, count=6):
    words, targets = jax.random.split(key)
    return {
        "words": jax.random.randint(words, (count, LENGTH), 0, WORDS),
        "targets": jax.random.normal(targets, (count,)),
    }


def weights(shapes):
    keys = jax.random.split(KEY, len(shapes))
    return {name: 0.5 * jax.random.normal(k, shape) for k, (name, shape) in zip(keys, shapes.items(), strict=True)}


EMBEDDED = {"words": (WORDS, WIDTH), "out": (WIDTH, 1)}


def read(params, batch):
    """[examples, length, width] embeddings: a gather, whose derivative scatters."""
    return params["words"][batch["words"]]


def judged(params, hidden, batch):
    return jnp.mean(jnp.square((hidden @ params["out"])[:, 0] - batch["targets"]))


def attention(params, batch, key):
    x = read(params, batch)
    split = lambda name: (x @ params[name]).reshape(*x.shape[:2], 2, WIDTH // 2)  # noqa: E731
    mixed = jax.nn.dot_product_attention(split("query"), split("key"), split("value"), is_causal=True)
    return judged(params, mixed.reshape(x.shape)[:, -1], batch)


def gru(params, batch, key):
    def cell(state, x):
        both = jnp.concatenate([state, x], axis=1)
        update, reset = jnp.split(jax.nn.sigmoid(both @ params["gates"]), 2, axis=1)
        news = jnp.tanh(jnp.concatenate([reset * state, x], axis=1) @ params["news"])
        return (1 - update) * state + update * news, None

    x = read(params, batch)
    state, _ = jax.lax.scan(cell, jnp.zeros_like(x[:, 0]), x.swapaxes(0, 1))
    return judged(params, state, batch)


def lstm(params, batch, key):
    cell = eqx.combine(params["cell"], LSTM_REST)

    def one(sentence):
        start = jnp.zeros(WIDTH, sentence.dtype), jnp.zeros(WIDTH, sentence.dtype)
        return jax.lax.scan(lambda state, x: (cell(x, state), None), start, sentence)[0][0]

    return judged(params, jax.vmap(one)(read(params, batch)), batch)


LSTM, LSTM_REST = eqx.partition(eqx.nn.LSTMCell(WIDTH, WIDTH, key=KEY), eqx.is_inexact_array)


def normalized(over):
    def loss(params, batch, key):
        x = jnp.tanh(read(params, batch)).reshape(-1, LENGTH, 2, WIDTH // 2)
        centered = x - jnp.mean(x, over, keepdims=True)
        x = centered * jax.lax.rsqrt(jnp.mean(jnp.square(centered), over, keepdims=True) + 1e-3)
        return judged(params, jnp.tanh(x.reshape(-1, LENGTH, WIDTH)).mean(1), batch)

    return loss


def dropout(params, batch, key):
    x = jnp.tanh(read(params, batch).mean(1))
    kept = jax.random.bernoulli(key, 0.7, x.shape)
    return judged(params, jnp.where(kept, x / 0.7, 0.0), batch)


def spectrum(params, batch, key):
    """A loss by way of complex numbers: of a signal's power at each frequency."""
    power = jnp.square(jnp.abs(jnp.fft.rfft(read(params, batch), axis=1)))
    return judged(params, jnp.log1p(power.mean(1)), batch)


def log_sum_exp_of_sorted(params, batch, key):
    """Order statistics, a cumulative sum, and a softmax with a temperature that is learned."""
    x = jnp.sort(read(params, batch).mean(-1), axis=1).cumsum(1)
    weight = jax.nn.softmax(x * jnp.exp(params["temperature"][0]), axis=1)
    return jnp.mean(jnp.square(jnp.sum(weight * x, 1) - batch["targets"])) + jnp.mean(jax.nn.logsumexp(x, axis=1))


SQUARE = {name: (WIDTH, WIDTH) for name in ("query", "key", "value")}
LAYERS = {
    "attention": (attention, weights(EMBEDDED | SQUARE)),
    "GRU": (gru, weights(EMBEDDED | {"gates": (2 * WIDTH, 2 * WIDTH), "news": (2 * WIDTH, WIDTH)})),
    "LSTM": (lstm, weights(EMBEDDED) | {"cell": LSTM}),
    "batch normalization": (normalized((0, 1)), weights(EMBEDDED)),
    "group normalization": (normalized((1, 3)), weights(EMBEDDED)),
    "layer normalization": (normalized((2, 3)), weights(EMBEDDED)),
    "dropout": (dropout, weights(EMBEDDED)),
    "complex spectrum": (spectrum, weights(EMBEDDED)),
    "sorting and softmax": (log_sum_exp_of_sorted, weights({"words": (WORDS, WIDTH), "temperature": (1,)})),
}


@pytest.mark.parametrize("layer", slow_but(LAYERS, "batch normalization", "dropout"))
def test_the_exact_meta_gradient_of_any_layer_passes_finite_differences(layer):
    loss, theta = LAYERS[layer]
    episode = Episode(sentences(jax.random.key(1)), sentences(jax.random.key(2)))
    learner, params = Learner(loss, optax.sgd(0.1), 2), MetaParams(theta)
    found = check_meta_gradient(learner, params, episode, KEY)
    assert found.passed, str(found)
    assert found.draws == (layer == "dropout")
    assert found.float32_error < 1e-3
    gradients = [
        jax.jit(lambda params, way=way: way(learner, params, episode, KEY, jnp.zeros((), int)))(params)
        for way in (exact, stored)
    ]
    for one, other in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def many(episode, tasks=3):
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * tasks), episode)


EPISODES = many(Episode(sentences(jax.random.key(1)), sentences(jax.random.key(2))))
KEYS = jax.random.split(KEY, 3)


def simple(params, batch, key):
    return judged(params, read(params, batch).mean(1), batch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": lambda p, b, k: (read(p, b).mean((1, 2)) - b["targets"]) ** 2}, r"support set, got float32\[6\].*mean over"),
        ({"loss": lambda p, b, k: jnp.sum(b["words"])}, r"one floating-point number.*got int32\[\]"),
        ({"loss": lambda p, b, k: (simple(p, b, k), 1)}, r"one floating-point number.*got tuple"),
        ({"theta": {"step": jnp.zeros((), jnp.int32)}}, r"parameters\.theta\['step'\]: expected floating-point.*int32"),
        ({"episodes": EPISODES._replace(support=sentences(KEY))}, r"episodes\.support\['targets'\]: expected the task axis"),
        ({"keys": KEY}, r"one key for each task.*jax\.random\.split"),
        (
            {"optimizer": optax.masked(optax.scale(-0.1), {"words": True})},
            r"inner optimizer: it cannot be used on these parameters",
        ),
        (
            {"optimizer": optax.stateless(lambda updates, _: jax.tree.map(jnp.sum, updates))},
            r"inner optimizer\['out'\]: expected an update of shape \(8, 1\), got \(\)",
        ),
        ({"optimizer": optax.stateless(lambda updates, _: {"out": updates["out"]})}, r"updates like the parameters"),
    ],
)
def test_what_does_not_fit_together_is_named_by_its_path(change, message):
    theta = weights(EMBEDDED) | change.get("theta", {})
    learner = Learner(change.get("loss", simple), change.get("optimizer", optax.sgd(0.1)), 1)
    with pytest.raises(InputError, match=message):
        meta_gradient(
            learner, MetaParams(theta), change.get("episodes", EPISODES), change.get("keys", KEYS), jnp.zeros((), int)
        )


def one_mask(params, batch, key):
    """Dropout whose mask is drawn from a key of its own, as that of a model which keeps its seed beside its weights."""
    return dropout(params, batch, jax.random.key(7))


@pytest.mark.parametrize("wrapped", [lambda loss: loss, jax.jit, jax.checkpoint])
def test_a_loss_that_draws_without_its_key_is_warned_of(wrapped):
    learner = Learner(wrapped(one_mask), optax.sgd(0.1), 1)
    with pytest.warns(UserWarning, match="draws random numbers and does not look at its key"):
        jax.make_jaxpr(lambda: meta_gradient(learner, MetaParams(weights(EMBEDDED)), EPISODES, KEYS, jnp.zeros((), int)))()
    for loss in (simple, wrapped(dropout), lambda p, b, k: dropout(p, b, jax.random.fold_in(k, 1))):  # no warning
        right = Learner(loss, optax.sgd(0.1), 1)
        jax.make_jaxpr(partial(meta_gradient, right))(MetaParams(weights(EMBEDDED)), EPISODES, KEYS, jnp.zeros((), int))


@pytest.mark.parametrize(
    ("loss", "draws", "looks_at_key", "said"),
    [
        (
            lambda p, b, k: jnp.sum(jnp.square(p * jax.random.bernoulli(k, 0.5, (4,)) - b)),
            True,
            True,
            "same random numbers in both",
        ),
        (lambda p, b, k: jnp.sum(jnp.square(p * jax.random.bernoulli(KEY, 0.5, (4,)) - b)), True, False, "share one draw"),
        (lambda p, b, k: jnp.sum(jnp.square(p - b)), False, False, "does not look at its key"),
    ],
)
def test_the_check_says_what_a_loss_draws_and_gives_float32_and_float64_the_same_draws(loss, draws, looks_at_key, said):
    learner, task = Learner(loss, optax.sgd(0.1), 1), Episode(jnp.arange(4.0), jnp.ones(4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said by another test
        found = check_meta_gradient(learner, MetaParams(jnp.array([0.3, -1.2, 0.7, 2.0])), task, jax.random.key(3))
    assert (found.passed, found.draws, found.looks_at_key) == (True, draws, looks_at_key)
    assert found.float32_error < 1e-5  # with other masks: about 1
    assert said in str(found)
