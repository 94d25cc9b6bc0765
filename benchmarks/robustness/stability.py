"""How often a training falls over: 20 seeds at every point of a grid of inner rates, outer rates and adaptation steps, for MAML
as published and for the default recipe. See docs/variants.md.

    python -m benchmarks.robustness.stability sine
    python -m benchmarks.robustness.stability omniglot --omniglot ../shared/data/omniglot
    python -m benchmarks.robustness.stability draw                         # -> docs/images/stability.png, from the records

A run *diverges* where its numbers stop being finite and its recipe has no way on, and where adaptation to unseen tasks
ends in numbers that are not finite; it is *worse than none* where unseen tasks are worse after adaptation than before it.
Many runs are one compiled program, made of the parts that `fewstep train` is made of: the meta-steps, the guard of inner
rates, the ways back; what is kept is the best of eleven states on meta-validation tasks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.tree_utils import tree_set

from benchmarks.records import Options, read, write
from fewstep.apps.images.omniglot import Omniglot
from fewstep.apps.sine.settings import Sine
from fewstep.core import maml
from fewstep.core.maml import MetaState
from fewstep.core.problem import Problem
from fewstep.core.types import Key, MetaParams
from fewstep.plots.style import axes_of
from fewstep.recipe.settings import PLAIN_MAML, LearningSettings
from fewstep.supervised.evaluate import task_errors
from fewstep.supervised.inner_rate_guard import guard_factor, with_lower_rates
from fewstep.training.devices import AXIS, meta_batch, task_mesh
from fewstep.training.loop import FACTOR
from fewstep.training.tuning import tune
from fewstep.variants import averaged, evaluated, with_params

SEEDS = 20
PERIODS = 10
"""A run is validated so often, and may go back each time."""


class Grid(NamedTuple):
    """What is tried."""

    settings: LearningSettings
    inner_rates: tuple[float, ...]
    outer_rates: tuple[float, ...]
    steps: tuple[int, ...]
    validation_tasks: int
    test_tasks: int


GRIDS = {
    "sine": Grid(
        Sine(meta_steps=500), (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0), (1e-4, 1e-3, 1e-2), (1, 3, 10), 200, 100
    ),
    "omniglot": Grid(
        Omniglot(
            filters=8, joint_steps=0, variation="none", train_ways=0, queries=1, test_queries=3, meta_batch_size=4,
            meta_steps=100,
        ),
        (0.001, 0.01, 0.1, 0.4, 1.0),
        (1e-4, 1e-3, 1e-2),
        (1, 3, 10),
        16,
        50,
    ),
}  # fmt: skip
NAMES = {"maml": "MAML as published", "default": "default recipe"}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "maml": {"sine": PLAIN_MAML, "omniglot": {**PLAIN_MAML, "head": "shared"}},
    "default": {"sine": {}, "omniglot": {}},
}


class Run(NamedTuple):
    """How one training ended."""

    failed: jax.Array
    """whether it stopped, its numbers not being finite"""
    before: jax.Array
    """mean query loss of unseen tasks before adaptation, of what is kept of the run"""
    after: jax.Array
    lowered: jax.Array
    """whether its inner rates were lowered"""
    back: jax.Array
    """how often it went back"""


class Progress(NamedTuple):
    """What a run carries from one period to the next."""

    state: MetaState
    good: MetaState
    """of the lowest loss of meta-validation tasks so far"""
    loss: jax.Array
    """that loss"""
    failed: jax.Array
    lowered: jax.Array
    back: jax.Array


def main() -> None:
    parser = Options(__doc__, "robustness/stability_{part}.json")
    parser.add_argument("part", choices=[*GRIDS, "draw"])
    parser.add_argument("--omniglot", default="")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--meta-steps", type=int)
    parser.add_argument("--picture", type=Path, default=Path("docs/images/stability.png"))
    arguments = parser.parse_args()
    if arguments.part == "draw":
        return draw({part: read(arguments.out.with_name(f"stability_{part}.json")) for part in GRIDS}, arguments.picture)
    jax.config.update("jax_num_cpu_devices", 2)
    grid = GRIDS[arguments.part]
    changes = {"data_dir": arguments.omniglot} if arguments.part == "omniglot" else {}
    changes |= {"meta_steps": arguments.meta_steps} if arguments.meta_steps else {}
    grid = grid._replace(settings=replace(grid.settings, **changes))
    record = {
        "part": arguments.part,
        "seeds": arguments.seeds,
        "meta_steps": grid.settings.meta_steps,
        "inner_rates": grid.inner_rates,
        "outer_rates": grid.outer_rates,
        "adaptation_steps": grid.steps,
        "recipes": {name: tried(grid, part[arguments.part], arguments.seeds, name) for name, part in RECIPES.items()},
    }
    write(arguments.out, record, indent=None)


def tried(grid: Grid, recipe: dict[str, Any], seeds: int, name: str) -> dict[str, Any]:
    """All runs of a recipe: shares over seeds, [steps, outer rates, inner rates], and their totals."""
    started, by_steps = time.monotonic(), []
    cells = np.array([(inner, outer) for outer in grid.outer_rates for inner in grid.inner_rates], np.float32)
    for steps in grid.steps:
        # Built at rates of 1, by which rates are then multiplied: all rates are one program.
        settings = replace(grid.settings, **recipe)
        average = settings.average
        settings = replace(settings, adaptation_steps=steps, outer_rate=1.0, inner_rate=1.0, average=0.0)
        problem = tune(settings.build(0))
        one = lambda cell: one_run(problem, grid, average, *cell)  # noqa: E731, B023
        rates = np.repeat(cells, seeds, 0)
        found = on_all_cores(one, (rates[:, 0], rates[:, 1], np.tile(np.arange(seeds), len(cells))))
        by_steps.append(jax.tree.map(lambda leaf: leaf.reshape(len(grid.outer_rates), len(grid.inner_rates), seeds), found))
        print(f"{name}, {steps} steps: {found.failed.mean():.3f} failed, {time.monotonic() - started:.0f} s", flush=True)
    run = jax.tree.map(lambda *leaves: np.stack(leaves), *by_steps)
    diverged = run.failed | ~np.isfinite(run.after)
    worse = ~diverged & (run.after >= run.before)
    share = lambda what: np.round(what.mean(-1), 4).tolist()  # noqa: E731
    return {
        "runs": diverged.size,
        "diverged": float(diverged.mean()),
        "worse_than_none": float(worse.mean()),
        "rates_lowered": float(run.lowered.mean()),
        "went_back": float((run.back > 0).mean()),
        "diverged_by_cell": share(diverged),
        "worse_by_cell": share(worse),
        "loss_by_cell": np.median(np.where(diverged, np.inf, run.after), -1).astype(np.float64).round(4).tolist(),
        "seconds": round(time.monotonic() - started),
    }


def on_all_cores(function: Callable[[Any], Any], arguments: tuple[np.ndarray, ...]) -> Any:
    """`function` of each, one after the other on each core: [runs]."""
    mesh, count = task_mesh(), len(arguments[0])
    order = np.random.default_rng(0).permutation(np.arange(-(-count // mesh.size) * mesh.size) % count)  # equal work for all
    split = jax.sharding.PartitionSpec(AXIS)
    program = jax.jit(
        jax.shard_map(lambda part: jax.lax.map(function, part), mesh=mesh, in_specs=(split,), out_specs=split, check_vma=False)
    )
    found = jax.device_get(program(jax.tree.map(lambda leaf: jnp.asarray(leaf[order]), arguments)))
    place = np.zeros(count, int)
    place[order] = np.arange(len(order))
    return jax.tree.map(lambda leaf: leaf[place], found)


def one_run(problem: Problem, grid: Grid, average: float, inner_rate: jax.Array, outer_rate: jax.Array, seed: jax.Array) -> Run:
    """A training of `problem`, built at rates of 1 and without an average, at these rates. Pure."""
    assert problem.splits is not None
    init_key, train_key, judge_key = jax.random.split(jax.random.key(seed), 3)
    params, learner = problem.init(init_key), problem.learner
    if problem.lower_rates is None:
        learner = replace(learner, inner_optimizer=optax.sgd(inner_rate))
    else:
        params = with_lower_rates(problem.lower_rates, inner_rate, params)
    problem = replace(problem, learner=learner, outer_optimizer=at_rate(problem.outer_optimizer, outer_rate, average))
    validation, test = problem.splits.validation.tasks(grid.validation_tasks), problem.splits.test.tasks(grid.test_tasks)
    steps = (0, learner.adaptation_steps)

    def losses(params: MetaParams, family: Any, tasks: jax.Array) -> jax.Array:
        return jnp.mean(task_errors(problem, params, family, tasks, steps, judge_key).query_loss, 0)

    def lowered_by(judged: MetaParams, gained: jax.Array) -> jax.Array:
        if problem.lower_rates is None:
            return jnp.ones(())
        return jax.lax.cond(gained, lambda: jnp.ones(()), lambda: guard_factor(problem, judged, judge_key)[0])

    def period(carry: Progress, _: None) -> tuple[Progress, None]:
        state = carry.state
        before, after = losses(evaluated(state), problem.splits.validation, validation)
        factor = lowered_by(evaluated(state), after < before)
        if problem.lower_rates is not None:
            state = with_params(state, partial(with_lower_rates, problem.lower_rates, factor))
        # What adaptation did before the rates were lowered says nothing of the state that is gone on with.
        after = jnp.where((factor < 1) | jnp.isnan(after), jnp.inf, after)
        better = ~carry.failed & ((after < carry.loss) | (factor < 1))
        good = jax.tree.map(lambda old, new: jnp.where(better, new, old), carry.good, state)
        state, finite = meta_steps(problem, state, train_key, problem.meta_steps // PERIODS)
        again = ~finite & (carry.back < problem.rollbacks) & (state.step > good.step)
        if problem.rollbacks:
            factor = FACTOR ** (carry.back + 1.0)
            back = good._replace(opt_state=tree_set(good.opt_state, factor=factor))
            state = jax.tree.map(lambda old, new: jnp.where(again, old, new), back, state)
        return Progress(
            state,
            good,
            jnp.where(better, after, carry.loss),
            carry.failed | (~finite & ~again),
            carry.lowered | (factor < 1),
            carry.back + again,
        ), None

    state = maml.init(problem.outer_optimizer, params)
    no = jnp.array(False)
    start = Progress(state, state, jnp.array(jnp.inf), no, no, jnp.zeros((), jnp.int32))
    end = jax.lax.scan(period, start, None, PERIODS + 1)[0]
    before, after = losses(evaluated(end.good), problem.splits.test, test)
    return Run(end.failed, before, after, end.lowered, end.back)


def meta_steps(problem: Problem, state: MetaState, key: Key, count: int) -> tuple[MetaState, jax.Array]:
    """(the state after `count` meta-steps, whether all were finite); after one that is not, and after the last of the run, none
    is taken."""
    drawn = jax.vmap(lambda step: meta_batch(problem, step, key))(state.step + jnp.arange(count))

    def one(carry: tuple[MetaState, jax.Array], batch: Any) -> tuple[tuple[MetaState, jax.Array], None]:
        state, finite = carry
        loss, gradient = maml.meta_gradient(problem.learner, state.params, *batch, state.step)
        goes_on = state.step < problem.meta_steps
        finite &= ~goes_on | (jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradient)))
        taken = maml.meta_step(problem.outer_optimizer, state, gradient)
        return (jax.tree.map(lambda old, new: jnp.where(finite & goes_on, new, old), state, taken), finite), None

    return jax.lax.scan(one, (state, jnp.array(True)), drawn)[0]


def at_rate(optimizer: optax.GradientTransformation, rate: jax.Array, average: float) -> optax.GradientTransformation:
    """`optimizer`, built at an outer rate of 1, at this one. What the inner optimizer learns has an outer rate of its own."""
    of_theta = optax.stateless(
        lambda updates, params: updates._replace(theta=jax.tree.map(lambda leaf: rate * leaf, updates.theta))
    )
    chained = optax.chain(optimizer, of_theta)
    return averaged(chained, average) if average else chained


def draw(records: dict[str, Any], out: Path) -> None:
    """The share of runs that diverge or end worse than without adaptation: a heat map for each recipe and number of steps."""
    rows = [(part, name) for part in records for name in RECIPES]
    columns = max(len(record["adaptation_steps"]) for record in records.values())
    figure, axes = axes_of(columns, len(rows), (3.4 * columns + 0.8, 2.0 * len(rows)))
    for line, (part, name) in zip(axes, rows, strict=True):
        record, found = records[part], records[part]["recipes"][name]
        shares = np.array(found["diverged_by_cell"]) + np.array(found["worse_by_cell"])
        for place, axis in enumerate(line):
            if place >= len(shares):
                axis.axis("off")
                continue
            axis.spines[["top", "right"]].set_visible(True)
            shown = axis.imshow(shares[place], vmin=0, vmax=1, cmap="magma_r", aspect="auto", origin="lower")
            for (y, x), share in np.ndenumerate(shares[place]):
                if share:
                    axis.text(
                        x, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color="w" if share > 0.5 else "k"
                    )
            axis.set_xticks(range(len(record["inner_rates"])), [f"{rate:g}" for rate in record["inner_rates"]], fontsize=7)
            axis.set_yticks(range(len(record["outer_rates"])), [f"{rate:g}" for rate in record["outer_rates"]], fontsize=7)
            steps = record["adaptation_steps"][place]
            axis.set_title(f"{part}, {NAMES[name]}, {steps} step{'s' * (steps != 1)}", fontsize=9)
            if place == 0:
                axis.set_ylabel("outer rate", fontsize=8)
            axis.set_xlabel("inner rate at the start" if name == "default" else "inner rate", fontsize=8)
    bar = figure.colorbar(shown, ax=axes, shrink=0.4, aspect=30)
    seeds = {record["seeds"] for record in records.values()}
    bar.set_label(f"share of {min(seeds)} runs that diverge or end worse than without adaptation", fontsize=8)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
