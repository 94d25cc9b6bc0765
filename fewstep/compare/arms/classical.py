"""Arms without a network of fewstep's own (floor 5): what a statistician would try first, by numpy and scikit-learn.

They see the encoded arrays of the same episodes as all others. None of them can be an ordinary run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from fewstep.compare.arms.arm import Arm, Fitted, Work
from fewstep.compare.ground import Ground
from fewstep.types import Episode, Examples

SKLEARN = ("sklearn", "pip install 'fewstep[compare]' (scikit-learn)")
EPISODES, ROWS = 600, 10_000
"""of meta-train tasks that boosting learns from, and so many of their rows"""
MOST_OUTPUTS = 4
"""Boosting grows trees for each output by itself."""


def as_arrays(episodes: Episode) -> Episode:
    """Episodes on the host, in float64."""
    return Episode(*(Examples(*(np.asarray(leaf, np.float64) for leaf in part)) for part in episodes))  # type: ignore[arg-type]


def fit_chance(work: Work) -> Fitted:
    """The same for all classes: of images, none is more frequent."""
    del work
    return Fitted(lambda episodes: np.zeros(np.shape(episodes.query.targets)))


def fit_nearest(work: Work) -> Fitted:
    """1 for the class of the support image whose pixels are nearest, by squares; no image of weight 0 is seen."""

    def predict(episodes: Episode) -> np.ndarray:
        support, query = episodes
        flat = lambda images: np.asarray(images, np.float32).reshape(*images.shape[:2], -1)  # noqa: E731
        near, asked = flat(support.inputs), flat(query.inputs)
        away = np.square(near).sum(-1)[:, None] - 2 * np.einsum("eqp,esp->eqs", asked, near)
        away = np.where(np.asarray(support.weight)[:, None] > 0, away, np.inf)
        return np.take_along_axis(np.asarray(support.targets), away.argmin(-1)[..., None], 1)

    pixels = int(np.prod(work.ground.test.family.episode(np.int32(0), key()).query.inputs.shape))  # type: ignore[arg-type]
    return Fitted(predict, adapt_operations=lambda: 2.0 * pixels * work.ground.settings.shot_range.most)


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
            counts = np.asarray(support.weight[number]) > 0
            x, y, asked = support.inputs[number][counts], support.targets[number][counts], query.inputs[number]
            answers[number] = one_task(make, np.asarray(x), np.asarray(y), np.asarray(asked), classes)
        return answers

    return Fitted(predict, adapt_operations=cost)


def one_task(make: Callable[[], Any], x: np.ndarray, y: np.ndarray, asked: np.ndarray, classes: bool) -> np.ndarray:
    """[queries, outputs]; of classes, what the estimator says of their probabilities."""
    if not classes:
        return np.stack([make().fit(x, column).predict(asked) for column in y.T], 1)
    label, answer = y.argmax(1), np.zeros((len(asked), y.shape[1]))
    if len(np.unique(label)) == 1:
        answer[:, label[0]] = 1.0
        return answer
    fitted = make().fit(x, label)
    answer[:, fitted.classes_] = fitted.predict_proba(asked)
    return answer


def fit_tabpfn(work: Work) -> Fitted:
    import tabpfn  # type: ignore[import-not-found]

    make = tabpfn.TabPFNClassifier if work.ground.classes else tabpfn.TabPFNRegressor
    return per_task(make, work.ground.classes)


def described(episodes: Episode) -> np.ndarray:
    """[episodes, queries, features]: each question with statistics of its support set: how many rows there are, means and
    deviations of the targets, the target of the nearest row, a mean that nearer rows weigh more in, and slopes."""
    support, query = as_arrays(episodes)
    weight = np.asarray(support.weight)
    count = np.maximum(weight.sum(1), 1.0)
    x, y, asked = (np.asarray(each) for each in (support.inputs, support.targets, query.inputs))
    mean_x = np.einsum("es,esf->ef", weight, x) / count[:, None]
    mean = np.einsum("es,eso->eo", weight, y) / count[:, None]
    away_x, away = (x - mean_x[:, None]) * weight[..., None], (y - mean[:, None]) * weight[..., None]
    deviation = np.sqrt(np.square(away).sum(1) / count[:, None])
    slopes = np.einsum("esf,eso->efo", away_x, away) / (np.square(away_x).sum(1)[..., None] + 1.0)
    squares = np.square(x).sum(-1)[:, None] + np.square(asked).sum(-1)[..., None] - 2 * np.einsum("eqf,esf->eqs", asked, x)
    squares = np.where(weight[:, None] > 0, np.maximum(squares, 0.0), np.inf)
    place = squares.argmin(-1)
    nearest = np.take_along_axis(y, place[..., None], 1)
    share = np.exp(-np.where(np.isfinite(squares), squares, 1e9) / (0.1 * x.shape[-1])) + 1e-12 * (weight[:, None] > 0)
    near = np.einsum("eqs,eso->eqo", share, y) / np.maximum(share.sum(-1, keepdims=True), 1e-12)
    line = mean[:, None] + np.einsum("eqf,efo->eqo", asked - mean_x[:, None], slopes)
    everywhere = np.concatenate([count[:, None], mean, deviation], 1)
    wide = np.broadcast_to(everywhere[:, None], (*asked.shape[:2], everywhere.shape[1]))
    distance = np.sqrt(np.take_along_axis(np.where(np.isfinite(squares), squares, 1e9), place[..., None], 2))
    return np.concatenate([asked, wide, nearest, near, line, distance], -1)


def fit_boosting(work: Work, features: Callable[[Episode], np.ndarray] = described) -> Fitted:
    """Trees on questions with their support sets' statistics, or other `features`, grown on episodes of meta-train tasks."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits  # on few rows several threads only wait for each other

    ground = work.ground
    episodes = ground.episodes(EPISODES, draw=1 + work.seed)
    known = np.asarray(episodes.query.weight).ravel() > 0
    found = features(episodes)
    x, y = found.reshape(-1, found.shape[-1])[known], np.asarray(episodes.query.targets, np.float64)
    y = y.reshape(-1, y.shape[-1])[known]
    some = np.random.default_rng(work.seed).permutation(len(x))[:ROWS]
    x, y = x[some], y[some]
    options: dict[str, Any] = {"max_leaf_nodes": work.choice["leaves"], "learning_rate": 0.1, "random_state": work.seed}
    with threadpool_limits(1):
        if ground.classes:
            several = [HistGradientBoostingClassifier(**options).fit(x, y.argmax(1))]
        else:
            several = [HistGradientBoostingRegressor(**options).fit(x, column) for column in y.T]

    def ask(rows: np.ndarray) -> np.ndarray:
        if not ground.classes:
            return np.stack([trees.predict(rows) for trees in several], 1)
        answer = np.zeros((len(rows), y.shape[1]))
        answer[:, several[0].classes_] = several[0].predict_proba(rows)
        return answer

    def predict(episodes: Episode) -> np.ndarray:
        rows = features(episodes)
        with threadpool_limits(1):
            return ask(rows.reshape(-1, rows.shape[-1])).reshape(*rows.shape[:2], -1)

    grown = 100.0 * y.shape[1]
    return Fitted(
        predict, operations=grown * x.size * np.log2(work.choice["leaves"]), adapt_operations=lambda: 10.0 * x.shape[1]
    )


def inputs_alone(episodes: Episode) -> np.ndarray:
    """[episodes, queries, features]: the questions without their support sets."""
    return np.asarray(as_arrays(episodes).query.inputs)


def few_outputs(ground: Ground) -> str:
    if not ground.classes and ground.outputs > MOST_OUTPUTS:
        return f"{ground.outputs} targets, for each of which it would be fitted anew: more than {MOST_OUTPUTS}"
    return ""


VECTORS: Any = ("sine", "table", "robots")
CHANCE = Arm(
    "prior",
    "No learning",
    "All classes are as likely, whatever the support set says.",
    "none",
    fit_chance,
    kinds=("images",),
    seeded=False,
)
NEAREST = Arm(
    "nearest",
    "Nearest image",
    "The class of the support image whose pixels are nearest.",
    "classical",
    fit_nearest,
    kinds=("images",),
    seeded=False,
)
BOOSTING = Arm(
    "boosting",
    "Gradient boosting",
    "Trees that see each question with statistics of its support set (means, slopes, nearest rows), grown on meta-train tasks.",
    "classical",
    fit_boosting,
    lambda ground: ({"leaves": 8}, {"leaves": 31}),
    kinds=VECTORS,
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
TABPFN = Arm(
    "tabpfn",
    "TabPFN",
    "A network trained elsewhere on made-up tables, which reads each support set; nothing of these tasks is learned.",
    "in-context",
    fit_tabpfn,
    kinds=("table",),
    needs=("tabpfn", "pip install tabpfn"),
    seeded=False,
    why_not=few_outputs,
)
