"""Known problems with closed forms, a plain multi-layer perceptron, and helpers to compare pytrees. Used by all tests."""

from itertools import combinations, pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from PIL import Image

from fewstep import Episode, Examples, MetaParams, adapt, adaptation_path, init, meta_gradient, runs
from fewstep.core.maml import task_gradient, task_gradients
from fewstep.gradients import first_order
from fewstep.runs.config import write_config
from fewstep.storage.arrays import write_arrays
from fewstep.training.checkpoint import Checkpoints

TINY = ["--meta-steps", "60", "--log-every", "20", "--hidden", "8", "--adaptation-steps", "2"]
TINY += ["--inner-optimizer", "sgd", "--multi-step", "0", "--clip", "0"]  # soon compiled
KEY, STEP = jax.random.key(0), jnp.zeros((), jnp.int32)


# The functions of Algorithm 1, compiled: the learner (and a number of steps) is part of the program.
fast_adapt = jax.jit(adapt, static_argnums=(0, 4))
fast_path = jax.jit(adaptation_path, static_argnums=(0, 4))
fast_gradient = jax.jit(task_gradient, static_argnums=0)
fast_gradients = jax.jit(task_gradients, static_argnums=0)
fast_first_order = jax.jit(first_order, static_argnums=0)
fast_meta_gradient = jax.jit(meta_gradient, static_argnums=0)


def untrained(settings, folder):
    """A run as if trained, with the parameters that it would begin with: nothing is compiled."""
    folder.mkdir()
    problem = settings.build(0)
    write_config(settings, problem, folder, 0, "default")
    write_arrays(folder / "parameters.npz", problem.init(jax.random.key(0)))
    return runs.open_run(folder)


def slow_but(values, *fast):
    """`values` to parametrize a test by: all in the slow slice but the `fast` ones."""
    assert set(fast) <= set(values)
    as_words = [value if isinstance(value, tuple) else (value,) for value in values]
    marks = [() if value in fast else pytest.mark.slow for value in values]
    return [pytest.param(*words, marks=mark) for words, mark in zip(as_words, marks, strict=True)]


class Bowl(NamedTuple):
    """A quadratic task: ½ (θ − center)ᵀ matrix (θ − center)."""

    matrix: jax.Array
    center: jax.Array


def bowl_loss(theta, bowl, key):
    away = theta - bowl.center
    return 0.5 * jnp.dot(away, bowl.matrix @ away)


def steep_loss(theta, bowl, key):
    """A bowl with steep sides: its curvature changes from place to place, so no shortcut through a constant Hessian holds."""
    return bowl_loss(theta, bowl, key) + 0.1 * jnp.sum((theta - bowl.center) ** 4)


def bowls(tasks, size=3, seed=0):
    """Episodes [tasks] of quadratic tasks: the support and the query set differ in their centers alone."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(tasks, size, size))
    matrix = roots @ roots.transpose(0, 2, 1) / size + 0.5 * np.eye(size)
    support, query = rng.normal(size=(2, tasks, size))
    return Episode(Bowl(jnp.asarray(matrix), jnp.asarray(support)), Bowl(jnp.asarray(matrix), jnp.asarray(query)))


def bowl_closed_form(theta, episode, rate, steps):
    """(θ_K, exact gradient, first-order gradient) of one quadratic task under K steps of plain gradient descent."""
    theta, matrix = np.asarray(theta, np.float64), np.asarray(episode.support.matrix, np.float64)
    shrink = np.linalg.matrix_power(np.eye(len(theta)) - rate * matrix, steps)
    support, query = (np.asarray(bowl.center, np.float64) for bowl in episode)
    adapted = support + shrink @ (theta - support)
    first_order = matrix @ (adapted - query)
    return adapted, shrink @ first_order, first_order


def mlp_params(sizes=(1, 4, 1), seed=0):
    """Weights of a perceptron as a plain list of dicts, in the present default precision."""
    rng = np.random.default_rng(seed)
    return [
        {"w": jnp.asarray(rng.normal(size=(a, b)) / np.sqrt(a)), "b": jnp.asarray(0.1 * rng.normal(size=b))}
        for a, b in pairwise(sizes)
    ]


def mlp_apply(params, x):
    for layer in params[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"][None])
    return x @ params[-1]["w"] + params[-1]["b"][None]


def mlp_loss(params, examples, key):
    return jnp.mean(jnp.square(mlp_apply(params, examples.inputs) - examples.targets))


def waves(tasks, shots=5, queries=6, seed=0):
    """Episodes [tasks] of a regression: y = a sin(x + p), in the present default precision."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-3, 3, size=(tasks, shots + queries, 1))
    amplitude, phase = rng.uniform(0.5, 2, size=(tasks, 1, 1)), rng.uniform(0, 3, size=(tasks, 1, 1))
    whole = Examples(jnp.asarray(x), jnp.asarray(amplitude * np.sin(x + phase)), jnp.ones(x.shape[:2]))
    return Episode(jax.tree.map(lambda leaf: leaf[:, :shots], whole), jax.tree.map(lambda leaf: leaf[:, shots:], whole))


def one(tree, index):
    """The `index`-th entry along the leading axis of every leaf."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def keys(count, seed=7):
    return jax.random.split(jax.random.key(seed), count)


def plain(theta):
    return MetaParams(theta)


def assert_close(actual, expected, rtol=1e-9, atol=1e-12):
    """Two pytrees agree: the same structure, and every leaf within the tolerance."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    paths = jax.tree_util.tree_leaves_with_path(actual)
    for (path, left), right in zip(paths, jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol, atol, err_msg=jax.tree_util.keystr(path))


def assert_same_bits(actual, expected):
    """Two pytrees agree to the last bit."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for left, right in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        left, right = np.asarray(left), np.asarray(right)
        assert left.dtype == right.dtype
        assert left.tobytes() == right.tobytes(), f"differ by {np.max(np.abs(left - right))}"


def farthest(actual, expected):
    """The largest difference between two pytrees, relative to the size of the second."""
    left, right = ravel_pytree(actual)[0], ravel_pytree(expected)[0]
    return float(jnp.max(jnp.abs(left - right)) / jnp.max(jnp.abs(right)))


def finite_differences(function, tree, width=1e-5):
    """The gradient of a scalar function of a pytree by central differences, coordinate by coordinate. Needs float64."""
    flat, restore = ravel_pytree(tree)
    assert flat.dtype == np.float64
    value = jax.jit(lambda flat: function(restore(flat)))
    sides = [(value(flat.at[i].add(width)), value(flat.at[i].add(-width))) for i in range(flat.size)]
    return restore(jnp.stack([(up - down) / (2 * width) for up, down in sides]))


def draw_bowls(task, key):
    """An episode of the numbered bowl; the key moves the centers of its support and query sets a little."""
    shape, noise = jax.random.split(jax.random.key(11))[0], 0.1 * jax.random.normal(key, (2, 3))
    a, center = jax.random.normal(jax.random.fold_in(shape, task), (2, 3))
    matrix = jnp.diag(0.5 + jnp.abs(a))
    return Episode(Bowl(matrix, center + noise[0]), Bowl(matrix, center + noise[1]))


def bowl_problem(**changes):
    """A Problem of quadratic tasks: small enough to be compiled in a moment, whole enough to be trained and saved."""
    import optax

    from fewstep import Learner
    from fewstep.core.problem import Problem, Splits
    from fewstep.core.tasks import TaskFamily
    from fewstep.supervised.columns import InputColumn, TableFormat, TargetColumn
    from fewstep.supervised.model import supervised_trainer

    schedule = optax.cosine_decay_schedule(0.05, 40)
    return Problem(
        **{
            "name": "bowls",
            "settings": None,
            "trainer": supervised_trainer,
            "init": lambda key: plain(jax.random.normal(key, (3,))),
            "learner": Learner(bowl_loss, optax.sgd(0.1), 2),
            "predict": lambda theta, inputs: inputs,
            "metrics": {"height": lambda theta, bowl: bowl_loss(theta, bowl, KEY)},
            "outer_rate": schedule,
            "outer_optimizer": optax.adam(schedule),
            "meta_batch_size": 4,
            "meta_steps": 40,
            "log_every": 10,
            "protocol": {"shots": 1},
            "format": TableFormat((InputColumn("x", "number"),), (TargetColumn("y"),)),
            "splits": Splits(*(TaskFamily(draw_bowls, size) for size in (None, 30, 20))),
            **changes,
        }
    )


def unit_rows(units=12, rows=15, seed=0):
    """A table of yearly waves: unit, date (weekly), depth, and flow = 10000 + 1000 · wave, another wave for each unit.

    `rows` of each unit, or a list with a number for each.
    """
    import datetime

    import polars as pl

    rng = np.random.default_rng(seed)
    table = []
    for unit in range(units):
        amplitude, phase = rng.uniform(0.5, 2), rng.uniform(0, np.pi)
        count = rows if isinstance(rows, int) else rows[unit]
        for week in np.sort(rng.permutation(53)[:count]):
            wave = amplitude * np.sin(2 * np.pi * week / 52.18 + phase)
            day = datetime.date(2016, 1, 3) + datetime.timedelta(weeks=int(week))
            table.append((f"unit-{unit:02}", day, float(rng.normal(5, 2)), 10_000 + 1_000 * float(wave)))
    return pl.DataFrame(table, schema=["unit", "day", "depth", "flow"], orient="row")


def assert_legible(figure, found):
    """Nothing of what is written, (text, its box in pixels), lies upon other words or beyond the edge of the figure."""
    for text, box in found:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, text
    for (text, box), (other, beside) in combinations(found, 2):
        assert not box.shrunk(0.98, 0.9).overlaps(beside.shrunk(0.98, 0.9)), (text, other)


def write_photos(folder, classes, seed=0, photos=6):
    """Folders of photos, 14 x 10 pixels: each class has a color and a pattern."""
    for number in classes:
        pattern = np.random.default_rng(number).integers(0, 256, (10, 14, 3))
        for photo in range(photos):
            noise = np.random.default_rng([seed, number, photo]).normal(0, 12, pattern.shape)
            path = folder / f"class{number:02d}" / f"{photo}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(pattern + noise, 0, 255).astype(np.uint8)).save(path)
    return folder


def state_of(problem):
    return init(problem.outer_optimizer, problem.init(jax.random.key(0)))


def last(directory, problem, which="last"):
    with Checkpoints(directory / "checkpoints", "read") as checkpoints:
        return checkpoints.restore(state_of(problem), which)
