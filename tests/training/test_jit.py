"""Programs whose data are arguments: the numbers of jit, and one program for all data of one shape (training/programs)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewstep.training import jit
from fewstep.training.jit import jit_hoisted


@pytest.fixture(autouse=True)
def no_programs(monkeypatch):
    monkeypatch.setattr(jit, "_programs", {})


def table(seed, rows=5):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, 3)))


def looked_up(data):
    """A function that closes over `data`, inside a loop and under vmap, as an episode of a table does."""

    def function(row, weights):
        def step(total, place):
            return total + data[place % data.shape[0]] @ weights["w"], None

        return jax.vmap(lambda first: jax.lax.scan(step, 0.0, first + jnp.arange(4))[0])(row), {"sum": data.sum()}

    return function


def test_a_program_gives_what_jit_gives():
    rows, weights = jnp.arange(6), {"w": jnp.array([1.0, -2.0, 0.5])}
    expected, actual = jax.jit(looked_up(table(0)))(rows, weights), jit_hoisted(looked_up(table(0)))(rows, weights)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for left, right in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-6)


def test_other_data_of_the_same_shape_is_the_same_program_with_its_own_numbers():
    rows, weights = jnp.arange(6), {"w": jnp.ones(3)}
    found = [jit_hoisted(looked_up(table(seed)))(rows, weights) for seed in range(3)]
    assert len(jit._programs) == 1
    assert next(iter(jit._programs.values()))._cache_size() == 1
    for seed, (_, extra) in enumerate(found):
        np.testing.assert_allclose(extra["sum"], table(seed).sum(), rtol=1e-6)


def test_data_of_another_shape_and_another_function_are_other_programs():
    rows, weights = jnp.arange(6), {"w": jnp.ones(3)}
    jit_hoisted(looked_up(table(0)))(rows, weights)
    jit_hoisted(looked_up(table(0, rows=7)))(rows, weights)
    jit_hoisted(lambda row, weights: looked_up(table(0))(row + 1, weights))(rows, weights)
    assert len(jit._programs) == 3


def test_arguments_of_a_new_shape_are_traced_again():
    double = jit_hoisted(lambda x: 2 * x + table(0).sum())
    for shape in ((2,), (3, 1), (2,)):
        np.testing.assert_allclose(double(jnp.ones(shape)), 2 + table(0).sum() * np.ones(shape), rtol=1e-6)
    assert len(jit._programs) == 2


def test_no_number_of_the_data_is_compiled_into_the_program():
    data = jnp.asarray([12345.678, 2.0, 3.0])
    program = jit_hoisted(lambda x: x + data)
    program(jnp.ones(3))
    text = next(iter(jit._programs))[0]
    assert "12345" not in text


def test_the_oldest_program_goes_where_there_are_many(monkeypatch):
    monkeypatch.setattr(jit, "MOST_PROGRAMS", 2)
    for power in (2, 3, 4):
        np.testing.assert_allclose(jit_hoisted(lambda x, power=power: x**power)(jnp.full(2, 3.0)), 3.0**power, rtol=1e-6)
    assert len(jit._programs) == 2
