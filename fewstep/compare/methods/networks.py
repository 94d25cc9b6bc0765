"""Methods that are networks: each is a Problem with other settings, trained by the training loop or derived from a
trained one. Searched numbers (rates, steps, λ) are arguments of compiled programs, so that a search compiles nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fewstep.compare.episodes import Benchmark
from fewstep.compare.methods.method import Choice, Fitted, Saved, Work
from fewstep.core.maml import adapt, started
from fewstep.core.problem import Problem
from fewstep.core.types import Episode, MetaParams
from fewstep.errors import TrainingError
from fewstep.recipe.settings import LearningSettings
from fewstep.recipe.variants import VARIANTS
from fewstep.runs.config import write_config
from fewstep.storage.arrays import write_arrays
from fewstep.supervised.training import finalize
from fewstep.training import loop
from fewstep.training.checkpoint import Checkpoints, has_checkpoint
from fewstep.training.cost import meta_step_operations
from fewstep.training.jit import cached, jit_hoisted
from fewstep.training.map_tasks import map_tasks
from fewstep.training.operations import operations
from fewstep.training.tuning import shapes_of
from fewstep.variants import evaluated

TASKS_AT_ONCE = 128
LOGGED = 5
"""A training is validated and saved so many times."""
SHARED = ("splits", "images", "notes", "validation_tasks", "illustrate", "shot_counts")
"""what the Problems of all methods have in common"""
SGD: dict[str, Any] = {"inner_optimizer": "sgd", "multi_step": 0.0, "first_order_until": 0.0}


def predictor(problem: Problem) -> Callable[[MetaParams, Episode, int], jax.Array]:
    """`(params, episodes, steps) -> outputs [episodes, queries, outputs]`: one program for any number of adaptation steps."""
    learner = replace(problem.learner, rematerialize=True)  # its state keeps its form from step to step, as a loop needs

    def one(params: MetaParams, steps: jax.Array, part: Any) -> jax.Array:
        support, inputs = part
        key, optimizer = jax.random.key(0), learner.optimizer(params.inner)
        start = started(learner, params, support, key)

        def step(_: Any, state: Any) -> Any:
            return learner.adaptation_step(learner, optimizer, state, support, key)

        adapted, _ = jax.lax.fori_loop(0, steps, step, (start, optimizer.init(start)))
        return problem.predict(adapted, inputs)

    def all_episodes(params: MetaParams, support: Any, inputs: Any, steps: jax.Array) -> jax.Array:
        return map_tasks(lambda part: one(params, steps, part), (support, inputs), TASKS_AT_ONCE)

    program = jit_hoisted(all_episodes)
    return lambda params, episodes, steps: program(params, episodes.support, episodes.query.inputs, jnp.asarray(steps))


def as_fitted(
    problem: Problem, params: MetaParams, steps: int, settings: LearningSettings, trained: float = 0.0, meta_steps: int = 0
) -> Fitted:
    """What can be asked of a network with these parameters, adapted in so many steps."""
    ask = cached(problem, predictor)

    def adapting() -> float:
        support, key = shapes_of(problem, 1)[1].support, jax.eval_shape(lambda: jax.random.key(0))
        fit = lambda params, support, key: adapt(problem.learner, params, support, key, steps)  # noqa: E731
        return float(operations(fit, params, support, key))

    return Fitted(
        predict=lambda episodes: ask(params, episodes, steps),
        operations=trained,
        adapt_operations=adapting,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params.theta)),
        meta_steps=meta_steps,
        saved=Saved(settings, problem, params),
        steps=steps,
        after=lambda episodes, steps: ask(params, episodes, steps),
    )


def save_run(saved: Saved, folder: Any, seed: int) -> None:
    """Writes an ordinary run directory of parameters that need no training of their own; `seed` is that of the split."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(saved.settings, saved.problem, folder, seed, "compare")
    write_arrays(folder / "parameters.npz", saved.params)


def with_length(settings: LearningSettings, meta_steps: int) -> LearningSettings:
    """`settings` of a training of so many meta-steps, validated `LOGGED` times."""
    return replace(settings, meta_steps=meta_steps, log_every=max(1, -(-meta_steps // LOGGED)))


def with_settings(**fields: Any) -> Callable[[Benchmark, Choice, int], tuple[LearningSettings, Problem]]:
    """A factory of Problems: the benchmark's recipe with `fields` and the choice replaced."""

    def problem(benchmark: Benchmark, choice: Choice, meta_steps: int) -> tuple[LearningSettings, Problem]:
        names = {name: value for name, value in {**fields, **choice}.items() if hasattr(benchmark.settings, name)}
        if names.get("adapter", "gradient") != "gradient":
            names["inner_clip"] = 0.0  # for gradient steps alone
        settings = with_length(replace(benchmark.settings, **names), meta_steps)
        made = model_of(benchmark, settings)
        if settings.adapter != "gradient" or settings.inner_optimizer != "sgd" or not settings.adaptation_steps:
            return settings, made
        if settings not in benchmark.free:
            rate = jnp.full(1, settings.inner_rate)  # an array is an argument of the compiled program, a number is not
            learner = replace(made.learner, inner_optimizer=lambda inner: optax.sgd(rate[0]))
            benchmark.free[settings] = replace(made, learner=learner)
        return settings, benchmark.free[settings]

    return problem


def model_of(benchmark: Benchmark, settings: LearningSettings) -> Problem:
    """The Problem of other `settings` on the tasks of this benchmark, whose data is not read again; made once."""
    if settings not in benchmark.models:
        if settings.adapter == "bayes-head":  # which makes its empirical prior of the tasks
            benchmark.models[settings] = replace(settings.build(benchmark.seed), splits=benchmark.problem.splits)
        else:
            known = {name: getattr(benchmark.problem, name) for name in SHARED}
            benchmark.models[settings] = replace(settings.build(benchmark.seed, benchmark.problem.format), **known)
    return benchmark.models[settings]


def joint_images(benchmark: Benchmark, choice: Choice, meta_steps: int) -> tuple[LearningSettings, Problem]:
    """A classifier of all meta-train classes at once; the settings are those of what is made of it, prototypes."""
    settings = with_length(replace(benchmark.settings, **SGD, head="prototype", adaptation_steps=0, **choice), meta_steps)  # type: ignore[call-arg]
    key = replace(settings, joint_steps=meta_steps)  # type: ignore[call-arg]
    if key not in benchmark.models:
        warm_start = key.build(benchmark.seed).warm_start
        assert warm_start is not None
        benchmark.models[key] = replace(warm_start.problem, log_every=settings.log_every)
    return settings, benchmark.models[key]


def train(work: Work, method: Callable[[Benchmark, Choice, int], tuple[LearningSettings, Problem]]) -> tuple[Saved, float]:
    """(the method trained to `work.meta_steps` of a schedule of `work.planned`, or further from its checkpoint; the operations
    of it). Raises `TrainingError` where it diverges."""
    settings, problem = method(work.benchmark, work.choice, work.planned)
    if work.base is not None:
        problem = initialized_from(problem, work.base)
    work.folder.mkdir(parents=True, exist_ok=True)
    write_config(settings, model_of(work.benchmark, settings), work.folder, work.benchmark.seed, "compare")
    resume = has_checkpoint(work.folder)
    loop.train(problem, work.folder, seed=work.seed, meta_steps=work.meta_steps, resume=resume, quiet=True, late=work.late)
    params = best_of(problem, work)
    if problem.completions is not None and work.meta_steps == work.planned:
        params = finalize(problem, params)[0]
    write_arrays(work.folder / "parameters.npz", params)
    return Saved(settings, problem, params), float(cached(problem, meta_step_operations)) * work.meta_steps


def best_of(problem: Problem, work: Work) -> MetaParams:
    """The parameters of the best checkpoint. Raises `TrainingError` where none is finite."""
    from fewstep.core import maml

    like = jax.eval_shape(lambda: maml.init(problem.outer_optimizer, problem.init(jax.random.key(0))))
    with Checkpoints(work.folder / "checkpoints", "read") as checkpoints:
        state, record = checkpoints.restore(like, "best")
    if not np.isfinite(record["validation"]):
        raise TrainingError("its error on meta-validation tasks is not finite: adaptation diverges on some of them.")
    return jax.tree.map(jnp.asarray, evaluated(state))


def initialized_from(problem: Problem, base: MetaParams) -> Problem:
    """`problem` whose θ begins where `base` ends; of images the network up to its features."""

    def init(key: jax.Array) -> MetaParams:
        params = problem.init(key)
        return params._replace(theta=replace_body(params.theta, base.theta))

    return replace(problem, init=init)


def replace_body(theta: Any, trained: Any) -> Any:
    """θ with the trained one in its place; of images its body alone, whose head is for other classes."""
    return {**theta, "body": trained["body"]} if "body" in theta else trained


def fit_trained(method: Callable[[Benchmark, Choice, int], tuple[LearningSettings, Problem]], work: Work) -> Fitted:
    saved, count = train(work, method)
    steps = saved.problem.learner.adaptation_steps
    count += work.base_operations
    return as_fitted(saved.problem, saved.params, steps, saved.settings, count, work.meta_steps)


def fit_reptile(work: Work) -> Fitted:
    """Reptile adapts in more steps than it was trained with, as published: their number is chosen, too."""
    steps = work.choice["steps"]
    saved, count = train(work, with_settings(**VARIANTS["reptile"].settings))
    fitted = as_fitted(saved.problem, saved.params, steps, saved.settings, count, work.meta_steps)
    settings = replace(saved.settings, adaptation_steps=steps)
    return fitted._replace(saved=Saved(settings, replace(saved.problem, settings=settings), saved.params))


def fit_joint_images(work: Work) -> Fitted:
    """Prototypes of what joint training has learned to see: `saved` is the run, `base` of others the classifier."""
    saved, count = train(work, joint_images)
    return prototypes(work, saved.params, count)


def prototypes(work: Work, trained: MetaParams, count: float) -> Fitted:
    settings = with_length(replace(work.benchmark.settings, **SGD, head="prototype", adaptation_steps=0), work.meta_steps)  # type: ignore[call-arg]
    problem = model_of(work.benchmark, settings)
    params = initialized_from(problem, trained).init(jax.random.key(work.seed))
    save_run(Saved(settings, problem, params), work.folder, work.benchmark.seed)
    return as_fitted(problem, params, 0, settings, count, work.meta_steps)


def fit_descent(head: str, work: Work) -> Fitted:
    """Plain gradient descent on the support set, from the parameters that it starts from, or from untrained ones where there
    are none."""
    benchmark, steps, rate = work.benchmark, work.choice["steps"], work.choice["rate"]
    names: dict[str, Any] = {**SGD, "meta_gradient": "first-order", **({"head": head} if benchmark.images else {})}
    usual = replace(benchmark.settings, **names, adaptation_steps=1, inner_rate=1.0)
    problem = model_of(benchmark, usual)
    params = (problem if work.base is None else initialized_from(problem, work.base)).init(jax.random.key(work.seed))
    if usual not in benchmark.free:  # one program for all rates and steps, which are arguments of it
        benchmark.free[usual] = replace(problem, learner=replace(problem.learner, inner_optimizer=optax.sgd))
    given = params._replace(inner=jnp.asarray(rate))
    fitted = as_fitted(benchmark.free[usual], given, steps, usual, work.base_operations)
    settings = replace(usual, adaptation_steps=steps, inner_rate=rate)
    return fitted._replace(saved=Saved(settings, replace(problem, settings=settings), params))


def fit_ridge(work: Work) -> Fitted:
    """Ridge regression on the last layer of the parameters that it starts from, pulled to it; or of each task by itself, to the
    mean."""
    benchmark, ridge, steps = work.benchmark, work.choice["ridge"], work.choice.get("steps", 1)
    bare = {} if work.base is not None else {"hidden": ()}
    usual = replace(benchmark.settings, adapter="ridge-head", inner_clip=0.0, **SGD, **bare)
    problem = model_of(benchmark, usual)
    theta = work.base.theta if work.base is not None else constant_mean_head(benchmark)
    params = MetaParams(theta, jnp.log(jnp.asarray(ridge)))
    fitted = as_fitted(problem, params, steps, usual, work.base_operations)
    settings = replace(usual, ridge=ridge)
    return fitted._replace(saved=Saved(settings, replace(problem, settings=settings), params))


def constant_mean_head(benchmark: Benchmark) -> Any:
    """A last layer that says the mean of all meta-train rows, or how frequent classes are, whatever it is asked."""
    mean = jnp.asarray(np.nanmean(benchmark.targets, 0), jnp.float32)
    return {"layers": {0: {"kernel": jnp.zeros((benchmark.problem.format.features, mean.size)), "bias": mean}}}
