"""The methods that are networks, or can be adapted like one, as values. How they are fitted stands in networks.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from fewstep.compare.episodes import Benchmark
from fewstep.compare.methods.method import Choice, Method
from fewstep.compare.methods.networks import (
    SGD,
    fit_descent,
    fit_joint_images,
    fit_reptile,
    fit_ridge,
    fit_trained,
    joint_images,
    with_settings,
)
from fewstep.recipe.variants import VARIANTS

RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
"""of plain gradient descent, on standardized data"""
RIDGES = (100.0, 10.0, 1.0, 0.1, 0.01)


def each(name: str, values: tuple[Any, ...], **others: Any) -> tuple[Choice, ...]:
    return tuple({name: value, **others} for value in values)


def inner_rates(benchmark: Benchmark) -> tuple[Choice, ...]:
    """The recipe's own rate first, then a third of it and three times it."""
    usual = benchmark.settings.inner_rate
    return each("inner_rate", (usual, usual / 3, 3 * usual))


def outer_rates(benchmark: Benchmark) -> tuple[Choice, ...]:
    usual, inner = benchmark.settings.outer_rate, benchmark.settings.inner_outer_rate
    return tuple({"outer_rate": usual * times, "inner_outer_rate": inner * times} for times in (1.0, 1 / 3))


def descents(counts: tuple[int, ...], at_most: int) -> Callable[[Benchmark], tuple[Choice, ...]]:
    """Rates times numbers of steps; of images fewer, since each takes long."""

    def grid(benchmark: Benchmark) -> tuple[Choice, ...]:
        steps = tuple(count for count in counts if not benchmark.images or count <= at_most)
        rates = RATES[1:4] if benchmark.images else RATES
        return tuple({"rate": rate, "steps": count} for count in steps for rate in rates)

    return grid


def meta(name: str, title: str, what: str, **fields: Any) -> Method:
    """A method that is meta-trained with these fields of the recipe."""
    made = with_settings(**fields)
    return Method(name, title, what, "meta", partial(fit_trained, made), inner_rates, problem=made)


SCRATCH = Method(
    "scratch",
    "Trained from scratch",
    "The same network, untrained, fitted to the task's own support set alone by gradient descent.",
    "none",
    partial(fit_descent, "zero"),
    descents((10, 100), at_most=10),
)
RIDGE = Method(
    "ridge",
    "Ridge regression",
    "Each task by itself: a linear model of the inputs, pulled to the mean of all tasks by a penalty.",
    "classical",
    fit_ridge,
    lambda benchmark: each("ridge", RIDGES),
    images=False,
    seeded=False,
)
PRIOR = Method(
    "prior",
    "No learning",
    "The mean of all meta-train rows, or their most frequent class, whatever the support set says.",
    "none",
    lambda work: fit_ridge(work._replace(choice={"ridge": 1e12, "steps": 0})),
    images=False,
    seeded=False,
)
JOINT = Method(
    "joint",
    "Joint training",
    "The same network trained on the rows of all meta-train tasks at once; it predicts a new task without adapting to it.",
    "joint",
    partial(fit_trained, with_settings(**SGD, adaptation_steps=0)),
    outer_rates,
    images=False,
    problem=with_settings(**SGD, adaptation_steps=0),
)
JOINT_FINETUNED = Method(
    "joint-finetuned",
    "Joint training, fine-tuned",
    "The jointly trained network, fitted to the support set by gradient descent of a chosen rate and number of steps.",
    "joint",
    partial(fit_descent, "prototype"),
    descents((1, 5, 20), at_most=5),
    depends_on="joint",
)
JOINT_RIDGE = Method(
    "joint-ridge",
    "Ridge on joint features",
    "The last layer of the jointly trained network is solved anew for each task by ridge regression, its features are kept.",
    "joint",
    fit_ridge,
    lambda benchmark: each("ridge", RIDGES),
    images=False,
    depends_on="joint",
)
JOINT_PROTOTYPES = Method(
    "joint-ridge",
    "Prototypes on joint features",
    "A classifier of all meta-train classes is trained; a new image gets the class whose mean features are nearest.",
    "joint",
    fit_joint_images,
    rows=False,
    problem=joint_images,
)
REPTILE = Method(
    "reptile",
    "Reptile",
    "The starting point moves towards what adaptation to each meta-train task leads to; nothing is differentiated twice.",
    "meta",
    fit_reptile,
    lambda benchmark: tuple(
        {**rate, "steps": k * benchmark.settings.adaptation_steps} for rate in inner_rates(benchmark) for k in (1, 4)
    ),
    problem=with_settings(**VARIANTS["reptile"].settings),
)
FOMAML = meta(
    "fomaml",
    "MAML, first order",
    "MAML that leaves second derivatives out.",
    meta_gradient="first-order",
    first_order_until=0.0,
)
ANIL = meta("anil", "ANIL", "MAML in which the last layer alone adapts to a task.", adapt=("head",))
MAML = meta(
    "maml",
    "MAML, exact",
    "A starting point from which a few gradient steps on the support set lead to a good model, by exact meta-gradients.",
)
MAML_FROM_JOINT = replace(
    meta("maml-from-joint", "MAML from joint training", "MAML whose meta-training begins from the jointly trained network."),
    depends_on="joint",
)
BAYES_HEAD = replace(
    meta(
        "bayes-head",
        "Bayesian last layer",
        "Features on which Bayes' rule for the last layer, in closed form, fits a task from its support set (ALPaCA).",
        adapter="bayes-head",
        inner_optimizer="sgd",
    ),
    images=False,
    grid=outer_rates,
)
IN_CONTEXT = Method(
    "in-context",
    "In-context network",
    "One network reads the support set together with the question and answers at once, without a gradient step.",
    "in-context",
    partial(fit_trained, with_settings(**SGD, adapter="in-context")),
    outer_rates,
    images=False,
    problem=with_settings(**SGD, adapter="in-context"),
    why_not=lambda benchmark: "rows lack some of the targets, and it reads whole rows" if benchmark.family.gaps else "",
)
