"""fewstep and PyTorch, each making meta-steps of MAML with TRPO on the same problem. Used by speed/policies.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.records import clocked, clocks

Step = Callable[[], dict[str, Any]]
"""makes a meta-step: by `clocks` seconds of all of it and of collecting, lengths tried by the line search, environment steps"""


def problem_of(name: str, normalize: bool = False) -> Any:
    """fewstep's PolicyProblem: the preset `maml`, with observations as they are unless they are to be normalized."""
    from fewstep.application import presets

    settings: Any = presets()[name]["maml"][0]
    return (settings if normalize or name == "nav2d" else replace(settings, normalize=False)).build(0)


def fewstep_program(name: str, normalize: bool = False) -> Step:
    """Meta-steps as `fewstep train` makes them. Collecting is timed by itself, right after each of them."""
    import jax

    from fewstep.apps.policies.environment import Simulation
    from fewstep.apps.policies.model import compiled_meta_step
    from fewstep.apps.policies.simulated import collect_simulated
    from fewstep.apps.policies.trajectories import collect
    from fewstep.cli.arguments import prepare_jax

    prepare_jax()
    problem = problem_of(name, normalize)
    search, environment, policy = problem.search, problem.environment, problem.policy
    state, key, meta_step = search.outer.init(problem.init(jax.random.key(0))), jax.random.key(1), compiled_meta_step(problem)

    @jax.jit
    def inside(thetas: Any, keys: Any) -> Any:
        def one(theta: Any, key: Any) -> Any:
            task_key, key = jax.random.split(key)
            return collect(environment, policy, theta, environment.sample_task(task_key), key, search.rollouts)

        return jax.vmap(one)(thetas, keys)

    def collected(thetas: Any) -> Any:
        if not isinstance(environment, Simulation):
            return inside(thetas, jax.random.split(key, search.tasks))
        tasks = environment.sample(np.random.default_rng(0), search.tasks)
        return collect_simulated(environment, policy, thetas, tasks, search.rollouts, key).trajectories

    times = search.adaptation_steps + 1
    steps = times * search.tasks * search.rollouts * environment.horizon

    def step() -> dict[str, Any]:
        nonlocal state
        started = clocks()
        state, info = jax.block_until_ready(meta_step(state, key))
        whole = clocks() - started
        assert info.outer.finite
        thetas = jax.tree.map(lambda leaf: jax.numpy.repeat(leaf[None], search.tasks, 0), state.params.theta)
        jax.block_until_ready(thetas)
        collecting = times * clocked(lambda: collected(thetas))
        return told(whole, collecting, info.outer.tries, steps)

    return step


def torch_program(name: str, cores: int, one_by_one: bool = False) -> Step:
    """Meta-steps of PyTorch, from the weights that fewstep begins with."""
    import torch

    from benchmarks.peers import torch_maml_trpo as peer

    torch.set_num_threads(cores)
    torch.manual_seed(0)
    problem = problem_of(name)
    settings, simulation, theta = settings_of(problem), simulation_of(name), weights_of(problem)
    random = np.random.default_rng(0)
    if one_by_one:
        environments = [environment_of(name) for _ in range(settings.rollouts)]
        meta_step = partial(peer.one_by_one, environments, simulation.sample_tasks, simulation.horizon)
    else:
        meta_step = partial(peer.in_batches, simulation)
    steps = (settings.adaptation_steps + 1) * settings.tasks * settings.rollouts * simulation.horizon

    def step() -> dict[str, Any]:
        nonlocal theta
        started = clocks()
        theta, collecting, tries = meta_step(settings, theta, random)
        return told(clocks() - started, collecting, tries, steps)

    return step


def told(whole: np.ndarray, collecting: np.ndarray, tries: Any, steps: int) -> dict[str, Any]:
    return {"whole": whole.tolist(), "collecting": collecting.tolist(), "tries": int(tries), "steps": steps}


def settings_of(problem: Any) -> Any:
    """Those of fewstep's problem, for PyTorch."""
    from benchmarks.peers.torch_maml_trpo import Settings

    search, outer = problem.search, problem.search.outer
    assert search.estimator == "likelihood_ratio" and search.inner_optimizer is None and not search.bootstrap
    values = {name: getattr(search if hasattr(search, name) else outer, name) for name in Settings._fields}
    return Settings(**values)


def simulation_of(name: str) -> Any:
    """The simulator that PyTorch steps: for half-cheetah fewstep's own."""
    from benchmarks.peers.task_environments import navigation_in_numpy
    from fewstep.apps.policies.locomotion import locomotion

    return navigation_in_numpy() if name == "nav2d" else locomotion(name)


def environment_of(name: str) -> Any:
    """One Gymnasium environment of the problem."""
    from benchmarks.peers.task_environments import HalfCheetahVelocity, Navigation

    return Navigation() if name == "nav2d" else HalfCheetahVelocity()


def weights_of(problem: Any) -> list[Any]:
    """fewstep's initial weights as PyTorch's tensors."""
    import jax
    import torch

    return [torch.from_numpy(np.array(leaf)) for leaf in in_order(problem.init(jax.random.key(0)).theta)]


def in_order(theta: Any) -> list[Any]:
    """The leaves of fewstep's θ in the order of PyTorch's weights."""
    layers = theta["mean"]["layers"]
    return [*(layers[number][part] for number in sorted(layers) for part in ("kernel", "bias")), theta["log_deviation"]]
