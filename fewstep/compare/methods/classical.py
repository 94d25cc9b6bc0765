"""Methods without a network of fewstep's own: what a statistician would try first, by numpy and scikit-learn.

They see the encoded arrays of the same episodes as all others. None of them can be an ordinary run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from fewstep.compare.episodes import Benchmark
from fewstep.compare.methods.method import Fitted, Method, Work
from fewstep.core.types import Episode
from fewstep.supervised.classical import as_arrays, described, grown, inputs_alone, with_gaps

SKLEARN = ("sklearn", "pip install 'fewstep[compare]' (scikit-learn)")
EPISODES, ROWS = 600, 10_000
"""of meta-train tasks that boosting learns from, and so many of their rows"""
MOST_OUTPUTS = 4
"""Boosting grows trees for each output by itself."""


def fit_chance(work: Work) -> Fitted:
    """The same for all classes: of images, none is more frequent."""
    del work
    return Fitted(lambda episodes: np.zeros(np.shape(episodes.query.targets)))


def fit_nearest(work: Work) -> Fitted:
    """1 for the class of the support image whose pixels are nearest, by squares; no image of weight 0 is seen."""

    def predict(episodes: Episode) -> np.ndarray:
        support, query = episodes
        flat = lambda images: np.asarray(images, np.float32).reshape(*images.shape[:2], -1)  # noqa: E731
        near, queries = flat(support.inputs), flat(query.inputs)
        away = np.square(near).sum(-1)[:, None] - 2 * np.einsum("eqp,esp->eqs", queries, near)
        away = np.where(np.asarray(support.weight)[:, None] > 0, away, np.inf)
        return np.take_along_axis(np.asarray(support.targets), away.argmin(-1)[..., None], 1)

    pixels = int(np.prod(work.benchmark.test.family.episode(np.int32(0), key()).query.inputs.shape))  # type: ignore[arg-type]
    return Fitted(predict, adapt_operations=lambda: 2.0 * pixels * work.benchmark.settings.shot_range.most)


def key() -> Any:
    import jax

    return jax.random.key(0)


def per_task(make: Callable[[], Any], classes: bool, cost: Callable[[], float] = lambda: 0.0) -> Fitted:
    """An estimator of scikit-learn's conventions, made anew for each episode: fitted to its support set, asked for its queries.
    Of several outputs each has its own."""

    def predict(episodes: Episode) -> np.ndarray:
        support, query = as_arrays(episodes)
        answers = np.zeros(query.targets.shape)
        for number in range(len(answers)):
            counts = np.asarray(support.weight[number]).reshape(len(support.weight[number]), -1).any(1)
            y = with_gaps(np.asarray(support.targets[number]), support.weight[number])[counts]
            x, queries = support.inputs[number][counts], query.inputs[number]
            answers[number] = one_task(make, np.asarray(x), y, np.asarray(queries), classes)
        return answers

    return Fitted(predict, adapt_operations=cost)


def one_task(make: Callable[[], Any], x: np.ndarray, y: np.ndarray, queries: np.ndarray, classes: bool) -> np.ndarray:
    """[queries, outputs]; of classes, what the estimator says of their probabilities. Targets that are not known are NaN; of
    one that no row knows, the answer is 0, its mean over meta-train rows."""

    def answer_of(column: np.ndarray) -> np.ndarray:
        known = ~np.isnan(column)
        return make().fit(x[known], column[known]).predict(queries) if known.any() else np.zeros(len(queries))

    if not classes:
        return np.stack([answer_of(column) for column in y.T], 1)
    label, answer = y.argmax(1), np.zeros((len(queries), y.shape[1]))
    if len(np.unique(label)) == 1:
        answer[:, label[0]] = 1.0
        return answer
    fitted = make().fit(x, label)
    answer[:, fitted.classes_] = fitted.predict_proba(queries)
    return answer


def fit_tabpfn(work: Work) -> Fitted:
    import tabpfn  # type: ignore[import-not-found]

    make = tabpfn.TabPFNClassifier if work.benchmark.classes else tabpfn.TabPFNRegressor
    return per_task(make, work.benchmark.classes)


def fit_boosting(work: Work, features: Callable[[Episode], np.ndarray] = described) -> Fitted:
    """Trees on questions with their support sets' statistics, or other `features`, grown on episodes of meta-train tasks."""
    benchmark, leaves = work.benchmark, work.choice["leaves"]
    episodes = benchmark.episodes(EPISODES, draw=1 + work.seed)
    predict, (rows, columns) = grown(episodes, benchmark.classes, ROWS, leaves, work.seed, features)
    operations = 100.0 * benchmark.outputs * rows * columns * np.log2(leaves)
    return Fitted(predict, operations=operations, adapt_operations=lambda: 10.0 * columns)


def few_outputs(benchmark: Benchmark) -> str:
    if not benchmark.classes and benchmark.outputs > MOST_OUTPUTS:
        return f"{benchmark.outputs} targets, for each of which it would be fitted anew: more than {MOST_OUTPUTS}"
    return ""


CHANCE = Method(
    "prior",
    "No learning",
    "All classes are as likely, whatever the support set says.",
    "none",
    fit_chance,
    rows=False,
    seeded=False,
)
NEAREST = Method(
    "nearest",
    "Nearest image",
    "The class of the support image whose pixels are nearest.",
    "classical",
    fit_nearest,
    rows=False,
    seeded=False,
)
BOOSTING = Method(
    "boosting",
    "Gradient boosting",
    "Trees that see each question with statistics of its support set (means, slopes, nearest rows), grown on meta-train tasks.",
    "classical",
    fit_boosting,
    lambda benchmark: ({"leaves": 8}, {"leaves": 31}),
    images=False,
    needs=SKLEARN,
    why_not=few_outputs,
)
POOLED = replace(
    BOOSTING,
    name="pooled",
    title="Boosting, pooled",
    what="Trees grown on the rows of all meta-train tasks at once; they do not look at a task's support set.",
    fit=partial(fit_boosting, features=inputs_alone),
)
TABPFN = Method(
    "tabpfn",
    "TabPFN",
    "A network trained elsewhere on made-up tables, which reads each support set; nothing of these tasks is learned.",
    "in-context",
    fit_tabpfn,
    images=False,
    needs=("tabpfn", "pip install tabpfn"),
    seeded=False,
    why_not=few_outputs,
)
