"""The meta-gradient inside a user's `jax.shard_map` or `jax.pmap`, against one device. Place: fewstep/maml.py, varying.py."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec
from known import STEP, assert_close, keys, one, plain

import fewstep
from fewstep import Episode, Learner, adapt, adaptation_path, meta_gradient, task_loss
from fewstep.core.maml import sum_over_tasks
from fewstep.gradients import annealed, auto, clipped, evolution, exact, first_order, implicit, reptile, stored, truncated
from fewstep.variants import bootstrapped, multi_step_loss, proximal

WAYS = {
    "stored": stored,
    "exact": exact,
    "auto": auto,
    "first order": first_order,
    "truncated": truncated(1),
    "clipped": clipped(stored, 0.1),
    "annealed": annealed(exact, 1),
    "implicit": implicit(1.0, tolerance=2.0),
    "reptile": reptile,
    "evolution": evolution(0.1, 2),
}
FEW = ["chunks", "implicit", "evolution"]
"""learners that the fast tests compile"""
HERE, EVERYWHERE = PartitionSpec("tasks"), PartitionSpec()


def noisy(params, batch, key):
    """A loss that its key changes too."""
    return jnp.mean(jnp.tanh(batch @ params["w"])) ** 2 + jnp.mean(batch) * jax.random.uniform(key) * jnp.sum(params["w"])


def learners():
    """One for each way, and some whose loops carry what begins as zeros, or who learn more than θ."""
    adam = Learner(noisy, optax.adam(0.05, eps_root=1e-6), 2)
    pulled = Learner(noisy, proximal(optax.sgd(0.1), 1.0), 2)
    named = {name: replace(pulled if name == "implicit" else adam, task_gradient=way) for name, way in WAYS.items()}
    return named | {
        "chunks": replace(adam, task_gradient=exact, tasks_at_once=1),
        "every step judged": replace(adam, objective=multi_step_loss(10)),
        "bootstrapped": replace(adam, objective=bootstrapped(2)),
        "no step": replace(adam, adaptation_steps=0),
    }


def mean_gradients(names, axis=None):
    """A function of (params, episodes, keys): the meta-gradient of each of these learners, or its mean over a mesh's axis."""

    def found(params, episodes, keys):
        each = {name: meta_gradient(learners()[name], params, episodes, keys, STEP) for name in names}
        return each if axis is None else jax.tree.map(lambda leaf: jax.lax.pmean(leaf, axis), each)

    return found


def sharded(function, devices, check, axis="tasks", **specs):
    mesh = jax.make_mesh((devices,), (axis,), axis_types=(AxisType.Auto,))
    specs = {"in_specs": (EVERYWHERE, HERE, HERE), "out_specs": EVERYWHERE} | specs
    return jax.jit(jax.shard_map(function, mesh=mesh, check_vma=check, **specs))


def batch(tasks=4):
    x = jax.random.normal(jax.random.key(0), (tasks, 8, 3))
    return plain({"w": jnp.ones((3, 2))}), Episode(x, x + 0.1), keys(tasks)


def assert_as_on_one_device(devices, names, checks=(True, False)):
    """In `jax.shard_map`, whether or not JAX follows how values vary."""
    given = batch(2 * devices)
    expected = jax.jit(mean_gradients(names))(*given)
    for check in checks:
        assert_close(sharded(mean_gradients(names, "tasks"), devices, check)(*given), expected)


def test_ways_give_in_shard_map_what_one_device_gives(float64):
    assert_as_on_one_device(2, FEW, checks=[True])


@pytest.mark.slow
def test_every_way_gives_in_shard_map_what_one_device_gives(float64):
    assert_as_on_one_device(2, list(learners()))


@pytest.mark.slow
def test_eight_devices_give_what_one_gives():
    code = (
        "import jax; jax.config.update('jax_enable_x64', True); assert jax.device_count() == 8; "
        "import test_sharding_by_hand as here; here.assert_as_on_one_device(8, list(here.learners()))"
    )
    paths = os.pathsep.join(
        [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(fewstep.__file__).parents[1])]
    )
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize("names", [["exact"], pytest.param(list(WAYS), marks=pytest.mark.slow)])
def test_ways_give_in_pmap_what_one_device_gives(float64, names):
    params, *tasks = batch()
    split = jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), tasks)
    mapped = jax.pmap(mean_gradients(names, "tasks"), axis_name="tasks", in_axes=(None, 0, 0))
    found = jax.tree.map(lambda leaf: leaf[0], mapped(params, *split))
    assert_close(found, jax.jit(mean_gradients(names))(params, *tasks))


def test_no_way_sums_over_devices_by_itself(float64):
    """Under `check_vma` the sums that JAX adds stand in the program: there are none, whatever the learner."""
    for name, learner in learners().items():

        def by_itself(params, episodes, keys, learner=learner):
            return learner.task_gradient(learner, params, one(episodes, 0), keys[0], STEP)

        for function in (by_itself, lambda *given, name=name: mean_gradients([name])(*given)):
            stacked = lambda *given, function=function: jax.tree.map(lambda leaf: leaf[None], function(*given))  # noqa: E731
            program = str(jax.make_jaxpr(sharded(stacked, 2, True, out_specs=HERE))(*jax.eval_shape(batch)))
            assert "psum" not in program, name


def test_adaptation_and_sums_with_dropped_tasks_are_those_of_one_device(float64):
    learner = replace(learners()["chunks"], tasks_at_once=1)
    params, episodes, task_keys = batch(4)
    lost = episodes._replace(support=episodes.support.at[3].set(jnp.nan))

    def of_each(params, episodes, keys):
        adapted = jax.vmap(lambda episode, key: adapt(learner, params, episode.support, key))(episodes, keys)
        path = jax.vmap(lambda episode, key: adaptation_path(learner, params, episode.support, key))(episodes, keys)
        return adapted, path

    def summed(params, episodes, keys):
        loss, gradient, weight = sum_over_tasks(learner, params, episodes, keys, STEP, jnp.ones(len(keys)), drop=True)
        return loss, gradient, jnp.sum(weight)

    def everywhere(*given):
        return jax.tree.map(lambda leaf: jax.lax.psum(leaf, "tasks"), summed(*given))

    assert_close(sharded(of_each, 2, True, out_specs=HERE)(*batch()), jax.jit(of_each)(*batch()))
    found = sharded(everywhere, 2, True)(params, lost, task_keys)
    assert float(found[2]) == 3
    assert_close(found, jax.jit(summed)(params, lost, task_keys))


def test_a_loss_that_sums_over_parts_of_one_task_keeps_its_sums(float64):
    """Examples of each task split over devices: there the gradient with respect to θ is a sum over devices, and stays one."""
    learner, params, episodes, task_keys = learners()["exact"], *batch(2)

    def split_loss(params, batch, key):
        mean = jax.lax.pmean(jnp.mean(jnp.tanh(batch @ params["w"])), "examples")
        return mean**2 + jax.lax.pmean(jnp.mean(batch), "examples") * jax.random.uniform(key) * jnp.sum(params["w"])

    splits = PartitionSpec(None, "examples")
    found = sharded(
        lambda *given: meta_gradient(replace(learner, loss=split_loss), *given, STEP),
        2,
        True,
        axis="examples",
        in_specs=(EVERYWHERE, splits, EVERYWHERE),
    )(params, episodes, task_keys)
    assert_close(found, jax.jit(lambda *given: meta_gradient(learner, *given, STEP))(params, episodes, task_keys))


def test_a_derivative_taken_by_the_user_is_the_sum_over_devices_as_everywhere_in_jax(float64):
    params, episodes, task_keys = batch(2)
    learner = learners()["stored"]

    def losses(params, episodes, keys):
        return jnp.sum(jax.vmap(lambda episode, key: task_loss(learner, params, episode, key, STEP))(episodes, keys))

    found = sharded(jax.grad(losses), 2, True)(params, episodes, task_keys)
    assert_close(found, jax.jit(jax.grad(losses))(params, episodes, task_keys))
