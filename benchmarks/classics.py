"""What a statistician would try on curves over a common grid: the rivals of weather.py.

`Curves` are the training units, whole; `Asked` are the episodes of unseen units. Every rival returns predictions [units, draws,
queries] from the same support rows, in the target's own units; what has to be chosen is chosen on the validation units.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Asked(NamedTuple):
    """Episodes of units; places are numbers of points on the common grid."""

    support_place: np.ndarray
    """[units, draws, shots]"""
    support: np.ndarray
    """[units, draws, shots]"""
    query_place: np.ndarray
    """[units, draws, queries]"""
    query: np.ndarray
    """[units, draws, queries]"""
    weight: np.ndarray
    """[units, draws, queries], 0 where there is no such query"""


class Curves(NamedTuple):
    """Training units on the common grid, and the phase of each grid point in radians of the year."""

    values: np.ndarray
    """[units, places]"""
    angle: np.ndarray
    """[places]"""


Rival = Callable[[Curves, Asked], np.ndarray]


def each_episode(predict) -> Callable[[Curves, Asked], np.ndarray]:
    """`predict(curves, place, support, asked place) -> [queries]` of one episode, for all."""

    def all_episodes(curves: Curves, asked: Asked) -> np.ndarray:
        flat = [part.reshape(-1, part.shape[-1]) for part in asked[:3]]
        rows = [predict(curves, *episode) for episode in zip(*flat, strict=True)]
        return np.array(rows).reshape(asked.query.shape)

    return all_episodes


def harmonics(angle: np.ndarray, orders: int) -> np.ndarray:
    """[points, 1 + 2 orders]: 1, sin, cos, sin 2, cos 2 ..."""
    waves = [wave(order * angle) for order in range(1, orders + 1) for wave in (np.sin, np.cos)]
    return np.stack([np.ones_like(angle), *waves], axis=-1)


@each_episode
def sinusoid(curves: Curves, place, support, query_place):
    """a + b sin + c cos of the year by least squares, from the support rows alone."""
    design = harmonics(curves.angle, 1)
    return design[query_place] @ np.linalg.lstsq(design[place], support, rcond=None)[0]


@each_episode
def mean_curve(curves: Curves, place, support, query_place):
    """The mean of all training curves, moved up or down to the support rows."""
    mean = curves.values.mean(0)
    return mean[query_place] + np.mean(support - mean[place])


def nearest(count: int) -> Rival:
    """The mean of the `count` training curves nearest to the support rows."""

    @each_episode
    def predict(curves: Curves, place, support, query_place):
        distance = np.mean((curves.values[:, place] - support) ** 2, axis=1)
        return curves.values[np.argsort(distance)[:count]][:, query_place].mean(0)

    return predict


def kriging(noise: float) -> Rival:
    """The best linear predictor under the training curves' mean and covariance, `noise` (a variance) on its diagonal."""

    @each_episode
    def predict(curves: Curves, place, support, query_place):
        mean, covariance = curves.values.mean(0), np.cov(curves.values.T)
        known = covariance[np.ix_(place, place)] + noise * np.eye(place.size)
        return mean[query_place] + covariance[np.ix_(query_place, place)] @ np.linalg.solve(known, support - mean[place])

    return predict


def mixed_model(orders: int) -> Rival:
    """A linear mixed model: fixed and random harmonics of the year up to `orders`, fitted by statsmodels (REML)."""

    def predict(curves: Curves, asked: Asked) -> np.ndarray:
        from statsmodels.regression.mixed_linear_model import MixedLM

        units, places = curves.values.shape
        design = harmonics(curves.angle, orders)
        rows = np.tile(design, (units, 1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = MixedLM(curves.values.ravel(), rows, np.repeat(np.arange(units), places), exog_re=rows).fit()
        fixed, random, noise = np.asarray(fit.fe_params), np.asarray(fit.cov_re), fit.scale

        @each_episode
        def best_linear(curves: Curves, place, support, query_place):
            own = design[place]
            gain = random @ own.T @ np.linalg.inv(own @ random @ own.T + noise * np.eye(place.size))
            return design[query_place] @ (fixed + gain @ (support - own @ fixed))

        return best_linear(curves, asked)

    return predict


def boosting(draws: int = 20) -> Rival:
    """Gradient boosting (scikit-learn) on the date and statistics of the support set, trained on episodes of training units."""

    def predict(curves: Curves, asked: Asked) -> np.ndarray:
        from sklearn.ensemble import HistGradientBoostingRegressor

        units, places = curves.values.shape
        shots = asked.support.shape[-1]
        random = np.random.default_rng(0)
        if np.all(np.diff(asked.support_place, axis=-1) == 1):  # asked for the future: so are the episodes it learns from
            first = random.integers(0, places - shots, (units, draws, 1))
            order = first + np.arange(places)
        else:
            order = np.argsort(random.random((units, draws, places)), axis=-1)
        weight = (order < places).astype(float)[..., shots:]
        order = np.minimum(order, places - 1)
        support_place, query_place = order[..., :shots], order[..., shots:]
        unit = np.arange(units)[:, None, None]
        known = Asked(support_place, curves.values[unit, support_place], query_place, curves.values[unit, query_place], weight)
        model = HistGradientBoostingRegressor(max_iter=500, learning_rate=0.05, max_leaf_nodes=63, random_state=0)
        base = lambda asked: sinusoid_by_ridge(curves, asked)  # noqa: E731  trees correct it: they extrapolate badly alone
        model.fit(statistics(curves, known), (known.query - base(known)).ravel(), sample_weight=known.weight.ravel())
        return base(asked) + model.predict(statistics(curves, asked)).reshape(asked.query.shape)

    return predict


def coefficients(curves: Curves, asked: Asked) -> np.ndarray:
    """Ridge coefficients of a sinusoid on each support set: [units, draws, 3]."""
    own = harmonics(curves.angle, 1)[asked.support_place]
    penalty = np.diag([1e-6, 1e-1, 1e-1])
    gram = np.einsum("udsi,udsj->udij", own, own) + penalty
    return np.linalg.solve(gram, np.einsum("udsi,uds->udi", own, asked.support)[..., None])[..., 0]


def sinusoid_by_ridge(curves: Curves, asked: Asked) -> np.ndarray:
    return np.einsum("udqi,udi->udq", harmonics(curves.angle, 1)[asked.query_place], coefficients(curves, asked))


def statistics(curves: Curves, asked: Asked) -> np.ndarray:
    """[rows, features] for boosting: the date, moments and sinusoid of the support set, the support rows nearest in time."""
    gaps = asked.support_place[:, :, None, :] - asked.query_place[..., None]
    order = np.argsort(np.abs(gaps), axis=-1)[..., :3]
    near = np.take_along_axis(np.broadcast_to(asked.support[:, :, None, :], gaps.shape), order, -1)
    of_set = [asked.support.mean(-1), asked.support.std(-1), asked.support.min(-1), asked.support.max(-1)]
    of_set += list(np.moveaxis(coefficients(curves, asked), -1, 0))
    columns = [asked.query_place, np.sin(curves.angle)[asked.query_place], np.cos(curves.angle)[asked.query_place]]
    columns += [np.broadcast_to(value[..., None], asked.query.shape) for value in of_set]
    columns += list(np.moveaxis(near, -1, 0)) + list(np.moveaxis(np.take_along_axis(gaps, order, -1), -1, 0))
    return np.stack([np.asarray(column, float).ravel() for column in columns], axis=1)


def chosen(rivals: Sequence[Rival], curves: Curves, validation: Asked) -> Rival:
    """The rival with the least mean squared error on the validation units."""
    return min(rivals, key=lambda rival: float(np.mean(squared_errors(rival(curves, validation), validation))))


def squared_errors(predicted: np.ndarray, asked: Asked) -> np.ndarray:
    """[units]: the mean over an episode's queries, then over the unit's draws."""
    squares = np.square(predicted - asked.query) * asked.weight
    return np.mean(squares.sum(-1) / asked.weight.sum(-1), axis=1)


RIVALS: dict[str, Sequence[Rival]] = {
    "least-squares sinusoid": [sinusoid],
    "mean curve + offset": [mean_curve],
    "linear mixed model (statsmodels)": [mixed_model(orders) for orders in (1, 2)],
    "gradient boosting (scikit-learn)": [boosting()],
    "kriging (best linear predictor)": [kriging(noise) for noise in (0.1, 0.3, 1.0, 3.0, 10.0)],
    "nearest stations": [nearest(count) for count in (3, 5, 8)],
}
"""name -> one or more settings, the best of which is chosen on validation units"""
