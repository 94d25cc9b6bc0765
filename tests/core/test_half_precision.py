"""Optimizers of parameters in half precision: as in float32, refused, or said to lose updates. Place: fewstep/half.py."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from known import STEP, keys

from fewstep import Episode, InputError, Learner, MetaParams, init, meta_gradient, meta_step

PRECISE = {"SGD": optax.sgd(0.05), "Adam with ε = 0.01": optax.adam(0.05, eps=1e-2), "lion": optax.lion(0.01)}
ROUGH = {
    "Adam": optax.adam(0.01),
    "AdamW": optax.adamw(0.01),
    "RMSProp": optax.rmsprop(0.01),
    "Adam, ε = 1e-4": optax.adam(0.01, eps=1e-4),
}


def half(dtype=jnp.float16):
    return {"used": jnp.ones(2, dtype), "unused": jnp.ones(2, dtype)}


@pytest.mark.parametrize("name", ROUGH)
def test_an_optimizer_whose_constants_round_to_0_in_float16_is_refused_inside_and_outside(name):
    optimizer = ROUGH[name]
    for message, call in {
        r"outer optimizer\.theta\['unused'\]: for gradients of .* in float16 .*in_half_precision": lambda: init(
            optimizer, MetaParams(half())
        ),
        r"inner optimizer\['unused'\]: for gradients of": lambda: meta_gradient(
            Learner(lambda theta, batch, key: jnp.sum(theta["used"] * batch), optimizer, 1),
            MetaParams(half()),
            Episode(*[jnp.ones((1, 2), jnp.float16)] * 2),
            keys(1),
            STEP,
        ),
    }.items():
        with pytest.raises(InputError, match=message):
            call()
    with pytest.raises(InputError, match="outer optimizer"):
        jax.jit(lambda params: init(optimizer, params))(MetaParams(half()))
    init(optimizer, MetaParams(jax.tree.map(jnp.float32, half())))


@pytest.mark.parametrize("name", PRECISE)
def test_an_optimizer_that_is_not_refused_in_float16_follows_float32_where_gradients_are_small_or_zero(name):
    optimizer, slope = PRECISE[name], {"used": np.array([3e-3, 0.5]), "unused": np.zeros(2)}
    states = [init(optimizer, MetaParams(half(dtype))) for dtype in (jnp.float16, jnp.float32)]
    of_type = lambda leaf, like: leaf.astype(like.dtype)  # noqa: E731
    step = jax.jit(lambda state: meta_step(optimizer, state, jax.tree.map(of_type, MetaParams(slope), state.params)))
    for _ in range(5):
        states = [step(state) for state in states]
    moved = [jax.tree.map(lambda leaf: np.asarray(leaf, np.float32) - 1, state.params.theta) for state in states]
    for ours, expected in zip(*map(jax.tree.leaves, moved), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0.5, atol=4e-3)


def test_an_update_that_bfloat16_rounds_away_is_said_and_float32_is_not_looked_at():
    with pytest.warns(UserWarning, match=r"an update of -0\.001 to a parameter of 1 in bfloat16 is rounded to no update"):
        init(optax.adam(1e-3), MetaParams(half(jnp.bfloat16)))
    assert jnp.bfloat16(1) - jnp.bfloat16(1e-3) == 1
    updates = []
    plain = optax.sgd(0.1)
    watched = optax.GradientTransformation(plain.init, lambda *arguments: updates.append(1) or plain.update(*arguments))
    init(watched, MetaParams(half(jnp.float32)))
    assert not updates
