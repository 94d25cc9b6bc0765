"""Classical models of rows and images: each maps episodes that lead with [episodes] to [episodes, queries, outputs].

Models of rows use the same encoded arrays as a network: standardized inputs and targets, or one-hot classes. For classes they
return scores; the highest one wins. Models of images predict the nearest class mean, of pixels or of histograms of oriented
gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.core.types import Episode, Examples
from fewstep.nn.heads import class_means

Classic = Callable[[Episode], np.ndarray]
NEIGHBORS = 3
RIDGE = 1.0
"""The penalty of ridge regression on standardized inputs."""


def as_arrays(episodes: Episode) -> Episode:
    """Episodes as float64 arrays on the host."""
    return Episode(*(Examples(*(np.asarray(leaf, np.float64) for leaf in part)) for part in episodes))  # type: ignore[arg-type]


def with_gaps(targets: np.ndarray, weight: Any) -> np.ndarray:
    """Targets [..., outputs] with NaN for unknown ones, if weights are [..., outputs]; unchanged if weights are by row."""
    return np.where(np.asarray(weight) > 0, targets, np.nan) if np.ndim(weight) == targets.ndim else targets


def one_output(episodes: Episode, output: int) -> Episode:
    """Reduces episodes with missing targets (weights [episodes, rows, outputs]) to one target and the rows that have it."""
    parts = ((part.inputs, part.targets[..., [output]], part.weight[..., output]) for part in episodes)
    return Episode(*(Examples(*part) for part in parts))


def by_output(classic: Classic) -> Classic:
    """Wraps `classic` to learn each target from the rows that have it, if rows lack targets."""

    @wraps(classic)
    def predict(episodes: Episode) -> np.ndarray:
        if np.ndim(episodes.support.weight) < 3:
            return classic(episodes)
        outputs = range(np.shape(episodes.support.weight)[-1])
        return np.concatenate([classic(one_output(episodes, output)) for output in outputs], -1)

    return predict


def squared_distances(episodes: Episode) -> np.ndarray:
    """Squared distances [episodes, queries, support rows] between inputs; infinite for support rows of weight 0."""
    support, query = as_arrays(episodes)
    x, asked = np.asarray(support.inputs), np.asarray(query.inputs)
    squares = np.square(x).sum(-1)[:, None] + np.square(asked).sum(-1)[..., None] - 2 * asked @ x.swapaxes(1, 2)
    return np.where(np.asarray(support.weight)[:, None] > 0, np.maximum(squares, 0.0), np.inf)


@by_output
def support_mean(episodes: Episode) -> np.ndarray:
    """The mean of the support targets; 0, the mean of meta-train rows, without support rows."""
    support, query = as_arrays(episodes)
    weight = np.asarray(support.weight)
    mean = np.einsum("es,eso->eo", weight, np.asarray(support.targets)) / np.maximum(weight.sum(1), 1.0)[:, None]
    return np.repeat(mean[:, None], query.weight.shape[1], 1)


@by_output
def nearest_rows(episodes: Episode) -> np.ndarray:
    """The mean target of the `NEIGHBORS` nearest support rows, or of all if there are fewer. Ties between classes are resolved
    by the nearest row."""
    support, _ = as_arrays(episodes)
    away, targets = squared_distances(episodes), np.asarray(support.targets)
    near = np.argsort(away, -1, kind="stable")[..., :NEIGHBORS]
    known = np.isfinite(np.take_along_axis(away, near, -1)).astype(float)
    share = known / np.maximum(known.sum(-1, keepdims=True), 1.0)
    share[..., 0] += 1e-9 * known[..., 0]
    each = np.take_along_axis(targets[:, None], near[..., None], 2)  # [episodes, queries, neighbors, outputs]
    return (share[..., None] * each).sum(2)


@by_output
def ridge(episodes: Episode) -> np.ndarray:
    """Ridge regression on the support rows, with an unpenalized intercept."""
    support, query = as_arrays(episodes)
    weight = np.asarray(support.weight)[..., None]
    count = np.maximum(weight.sum(1, keepdims=True), 1.0)
    x, y = np.asarray(support.inputs), np.asarray(support.targets)
    mean_x, mean_y = ((weight * each).sum(1, keepdims=True) / count for each in (x, y))
    x, y = weight * (x - mean_x), weight * (y - mean_y)
    slopes = np.linalg.solve(x.swapaxes(1, 2) @ x + RIDGE * np.eye(x.shape[-1]), x.swapaxes(1, 2) @ y)
    return mean_y + (np.asarray(query.inputs) - mean_x) @ slopes


def always(answer: np.ndarray) -> Classic:
    """The same outputs [outputs] for all rows."""
    return lambda episodes: np.broadcast_to(answer, np.shape(episodes.query.targets))


def described(episodes: Episode) -> np.ndarray:
    """[episodes, queries, features]: query inputs with statistics of the support set: number of rows, means and deviations of
    the targets, target of the nearest row, distance-weighted mean, and slopes."""
    support, query = as_arrays(episodes)
    weight = np.asarray(support.weight)
    if weight.ndim == 3:  # statistics of each target over the rows that have it
        each = [described(one_output(episodes, output)) for output in range(weight.shape[2])]
        return np.concatenate([each[0], *(more[..., query.inputs.shape[-1] :] for more in each[1:])], -1)
    count = np.maximum(weight.sum(1), 1.0)
    x, y, asked = (np.asarray(each) for each in (support.inputs, support.targets, query.inputs))
    mean_x = np.einsum("es,esf->ef", weight, x) / count[:, None]
    mean = np.einsum("es,eso->eo", weight, y) / count[:, None]
    away_x, away = (x - mean_x[:, None]) * weight[..., None], (y - mean[:, None]) * weight[..., None]
    deviation = np.sqrt(np.square(away).sum(1) / count[:, None])
    slopes = np.einsum("esf,eso->efo", away_x, away) / (np.square(away_x).sum(1)[..., None] + 1.0)
    squares = squared_distances(episodes)
    place = squares.argmin(-1)
    nearest = np.take_along_axis(y, place[..., None], 1)
    share = np.exp(-np.where(np.isfinite(squares), squares, 1e9) / (0.1 * x.shape[-1])) + 1e-12 * (weight[:, None] > 0)
    near = np.einsum("eqs,eso->eqo", share, y) / np.maximum(share.sum(-1, keepdims=True), 1e-12)
    line = mean[:, None] + np.einsum("eqf,efo->eqo", asked - mean_x[:, None], slopes)
    everywhere = np.concatenate([count[:, None], mean, deviation], 1)
    wide = np.broadcast_to(everywhere[:, None], (*asked.shape[:2], everywhere.shape[1]))
    distance = np.sqrt(np.take_along_axis(np.where(np.isfinite(squares), squares, 1e9), place[..., None], 2))
    return np.concatenate([asked, wide, nearest, near, line, distance], -1)


def inputs_alone(episodes: Episode) -> np.ndarray:
    """[episodes, queries, features]: query inputs without statistics of the support set."""
    return np.asarray(as_arrays(episodes).query.inputs)


def grown(
    episodes: Episode,
    classes: bool,
    rows: int,
    leaves: int = 31,
    seed: int = 0,
    features: Callable[[Episode], np.ndarray] = described,
) -> tuple[Classic, tuple[int, int]]:
    """(model, (rows, features) of its training data): scikit-learn's gradient boosting on `features`, by default query inputs
    with statistics of the support set, of at most `rows` query rows of meta-train `episodes`; one model per target."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits  # threads do not pay off for few rows

    found, y = features(episodes), with_gaps(np.asarray(episodes.query.targets, np.float64), episodes.query.weight)
    x, y = found.reshape(-1, found.shape[-1]), y.reshape(-1, y.shape[-1])
    known = np.asarray(episodes.query.weight).reshape(len(y), -1).any(1)
    x, y = x[known], y[known]
    some = np.random.default_rng(seed).permutation(len(x))[:rows]
    x, y = x[some], y[some]
    options: dict[str, Any] = {"max_leaf_nodes": leaves, "learning_rate": 0.1, "random_state": seed}
    with threadpool_limits(1):
        if classes:
            several = [HistGradientBoostingClassifier(**options).fit(x, y.argmax(1))]
        else:
            has = ~np.isnan(y)
            several = [HistGradientBoostingRegressor(**options).fit(x[has[:, i]], y[has[:, i], i]) for i in range(y.shape[1])]

    def ask(rows: np.ndarray) -> np.ndarray:
        if not classes:
            return np.stack([trees.predict(rows) for trees in several], 1)
        answer = np.zeros((len(rows), y.shape[1]))
        answer[:, several[0].classes_] = several[0].predict_proba(rows)
        return answer

    def predict(episodes: Episode) -> np.ndarray:
        rows = features(episodes)
        with threadpool_limits(1):
            return ask(rows.reshape(-1, rows.shape[-1])).reshape(*rows.shape[:2], -1)

    return predict, x.shape


BINS, CELLS = 9, 8
"""orientation bins between 0 and 180 degrees; approximate number of cells along each side of an image"""


def flat(images: jax.Array) -> jax.Array:
    """[images, height, width, channels] -> [images, numbers]: the pixels themselves."""
    return images.reshape(images.shape[0], -1)


def oriented_gradients(images: jax.Array) -> jax.Array:
    """[images, height, width, channels] -> [images, numbers]: histograms of oriented gradients (Dalal & Triggs 2005).

    Uses the channel with the largest gradient at each pixel. Its magnitude is interpolated linearly between the two nearest of
    `BINS` unsigned orientations and summed over square cells; blocks of 2 × 2 cells are normalized to length 1. Pixels beyond
    the last full cell are cropped.
    """
    height, width = images.shape[1:3]
    cell = max(2, min(height, width) // CELLS)
    padded = jnp.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
    down, across = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1], padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    size = jnp.sqrt(jnp.square(down) + jnp.square(across))
    steepest = jnp.argmax(size, -1, keepdims=True)
    down, across, size = (jnp.take_along_axis(each, steepest, -1)[..., 0] for each in (down, across, size))
    place = jnp.mod(jnp.arctan2(down, across), jnp.pi) * (BINS / jnp.pi)  # [0, BINS], a circle
    rows, columns = height // cell, width // cell

    def histogram(number: jax.Array) -> jax.Array:
        away = jnp.abs(place - number)
        share = size * jnp.maximum(0.0, 1.0 - jnp.minimum(away, BINS - away))
        share = share[:, : rows * cell, : columns * cell]
        return share.reshape(-1, rows, cell, columns, cell).sum((2, 4))

    cells = jnp.moveaxis(jax.lax.map(histogram, jnp.arange(BINS, dtype=jnp.float32)), 0, -1)
    blocks = jnp.concatenate([cells[:, :-1, :-1], cells[:, :-1, 1:], cells[:, 1:, :-1], cells[:, 1:, 1:]], -1)
    blocks = blocks / jnp.sqrt(jnp.sum(jnp.square(blocks), -1, keepdims=True) + 1e-6)
    return flat(blocks)


def nearest_mean(features: Callable[[jax.Array], jax.Array]) -> Callable[[Episode], np.ndarray]:
    """Episodes that lead with [episodes] -> minus the squared distance [episodes, queries, classes] to each class's mean."""

    def one(episode: Episode) -> jax.Array:
        support, query = episode
        means, asked = class_means(features(support.inputs), support), features(query.inputs)
        return -jnp.sum(jnp.square(asked[:, None] - means[None]), -1)

    program = jax.jit(lambda episodes: jax.lax.map(one, episodes))
    return lambda episodes: np.asarray(program(episodes))
