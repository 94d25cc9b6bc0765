"""What a statistician would try on curves over a common grid: the rivals of cross_fitting.py.

`Curves` are the training units, whole; `Asked` are the episodes of unseen units. Every rival answers with predictions
[units, draws, queries] from the same support rows, in the target's own units, and with how far it expects to be off; what
has to be chosen is chosen on the validation units."""

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
    """Training units on the common grid, and the functions of a grid point that a regression on it would use."""

    values: np.ndarray
    """[units, places]"""
    basis: Callable[[int], np.ndarray]
    """`basis(order) -> [places, functions]`, the constant first: waves of the year, or powers of the year"""


class Answer(NamedTuple):
    """Both [units, draws, queries]."""

    prediction: np.ndarray
    deviation: np.ndarray
    """the standard deviation of a single row about its prediction, up to one factor for all"""


Rival = Callable[[Curves, Asked], Answer]


def each_episode(predict) -> Rival:
    """`predict(curves, place, support, asked place) -> (prediction [queries], deviation [queries])` of one episode, for all."""

    def all_episodes(curves: Curves, asked: Asked) -> Answer:
        flat = [part.reshape(-1, part.shape[-1]) for part in asked[:3]]
        rows = [predict(curves, *episode) for episode in zip(*flat, strict=True)]
        return Answer(*(np.array(part).reshape(asked.query.shape) for part in zip(*rows, strict=True)))

    return all_episodes


@each_episode
def least_squares(curves: Curves, place, support, query_place):
    """A first-order regression on the unit's own rows: a sinusoid of the year, or a line."""
    design = curves.basis(1)
    own, asked = design[place], design[query_place]
    coefficients = np.linalg.lstsq(own, support, rcond=None)[0]
    free = max(place.size - own.shape[1], 1)
    noise = np.sum((support - own @ coefficients) ** 2) / free
    leverage = np.einsum("qi,ij,qj->q", asked, np.linalg.pinv(own.T @ own), asked)
    return asked @ coefficients, np.sqrt((noise + 1e-3) * (1 + leverage))


@each_episode
def mean_curve(curves: Curves, place, support, query_place):
    """The mean of all training curves, moved up or down to the support rows."""
    mean = curves.values.mean(0)
    centered = curves.values - curves.values.mean(1, keepdims=True)
    return mean[query_place] + np.mean(support - mean[place]), centered.std(0)[query_place]


def nearest(count: int) -> Rival:
    """The mean of the `count` training curves nearest to the support rows; off by their spread and by how far they are."""

    @each_episode
    def predict(curves: Curves, place, support, query_place):
        distance = np.mean((curves.values[:, place] - support) ** 2, axis=1)
        chosen = np.argsort(distance)[:count]
        near = curves.values[chosen][:, query_place]
        return near.mean(0), np.sqrt(near.var(0, ddof=1) + distance[chosen].mean())

    return predict


def kriging(noise: float) -> Rival:
    """The best linear predictor under the training curves' mean and covariance, `noise` (a variance) on its diagonal."""

    @each_episode
    def predict(curves: Curves, place, support, query_place):
        mean, covariance = curves.values.mean(0), np.cov(curves.values.T)
        return best_linear(mean, covariance, noise, place, support, query_place)

    return predict


def best_linear(mean, covariance, noise, place, support, query_place):
    """Mean and deviation of the rows asked for, given the support rows, under one normal."""
    known = covariance[np.ix_(place, place)] + noise * np.eye(place.size)
    across = covariance[np.ix_(query_place, place)]
    gain = np.linalg.solve(known, across.T).T
    variance = np.diag(covariance)[query_place] + noise - np.einsum("qs,qs->q", gain, across)
    return mean[query_place] + gain @ (support - mean[place]), np.sqrt(np.maximum(variance, 1e-9))


def mixed_model(orders: int) -> Rival:
    """A linear mixed model: fixed and random coefficients of the basis up to `orders`, fitted by statsmodels (REML)."""

    def predict(curves: Curves, asked: Asked) -> Answer:
        from statsmodels.regression.mixed_linear_model import MixedLM

        units, places = curves.values.shape
        design = curves.basis(orders)
        rows = np.tile(design, (units, 1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = MixedLM(curves.values.ravel(), rows, np.repeat(np.arange(units), places), exog_re=rows).fit()
        mean, covariance = design @ np.asarray(fit.fe_params), design @ np.asarray(fit.cov_re) @ design.T

        @each_episode
        def one_episode(curves: Curves, place, support, query_place):
            return best_linear(mean, covariance, fit.scale, place, support, query_place)

        return one_episode(curves, asked)

    return predict


def boosting(draws: int = 20) -> Rival:
    """Gradient boosting (scikit-learn) on the place and statistics of the support set, trained on episodes of training units.

    How far it is off, a second one learns from the logarithm of the first one's absolute errors on other training units.
    """

    def predict(curves: Curves, asked: Asked) -> Answer:
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
        features, residual = statistics(curves, known), (known.query - by_ridge(curves, known)).ravel()

        def fitted(rows, target, **settings):
            model = HistGradientBoostingRegressor(learning_rate=0.05, random_state=0, **settings)
            return model.fit(features[rows], target[rows], sample_weight=known.weight.ravel()[rows])

        everything = np.ones(residual.size, bool)
        model = fitted(everything, residual, max_iter=500, max_leaf_nodes=63)
        half = np.repeat(np.arange(units) % 2 == 0, residual.size // units)
        misses = np.log(np.abs(residual - fitted(half, residual, max_iter=500, max_leaf_nodes=63).predict(features)) + 1e-2)
        spread = fitted(~half, misses, max_iter=100)
        rows = statistics(curves, asked)
        shape = asked.query.shape
        return Answer(by_ridge(curves, asked) + model.predict(rows).reshape(shape), np.exp(spread.predict(rows)).reshape(shape))

    return predict


def coefficients(curves: Curves, asked: Asked) -> np.ndarray:
    """Ridge coefficients of a first-order regression on each support set: [units, draws, functions]."""
    own = curves.basis(1)[asked.support_place]
    penalty = np.diag([1e-6] + [1e-1] * (own.shape[-1] - 1))
    gram = np.einsum("udsi,udsj->udij", own, own) + penalty
    return np.linalg.solve(gram, np.einsum("udsi,uds->udi", own, asked.support)[..., None])[..., 0]


def by_ridge(curves: Curves, asked: Asked) -> np.ndarray:
    """What boosting corrects: trees extrapolate badly alone."""
    return np.einsum("udqi,udi->udq", curves.basis(1)[asked.query_place], coefficients(curves, asked))


def statistics(curves: Curves, asked: Asked) -> np.ndarray:
    """[rows, features] for boosting: the place, moments and regression of the support set, the support rows nearest to it."""
    gaps = asked.support_place[:, :, None, :] - asked.query_place[..., None]
    order = np.argsort(np.abs(gaps), axis=-1)[..., :3]
    near = np.take_along_axis(np.broadcast_to(asked.support[:, :, None, :], gaps.shape), order, -1)
    of_set = [asked.support.mean(-1), asked.support.std(-1), asked.support.min(-1), asked.support.max(-1)]
    of_set += list(np.moveaxis(coefficients(curves, asked), -1, 0))
    columns = [asked.query_place, *np.moveaxis(curves.basis(1)[asked.query_place][..., 1:], -1, 0)]
    columns += [np.broadcast_to(value[..., None], asked.query.shape) for value in of_set]
    columns += list(np.moveaxis(near, -1, 0)) + list(np.moveaxis(np.take_along_axis(gaps, order, -1), -1, 0))
    return np.stack([np.asarray(column, float).ravel() for column in columns], axis=1)


def chosen(rivals: Sequence[Rival], curves: Curves, validation: Asked) -> Rival:
    """The rival with the least mean squared error on the validation units."""
    if len(rivals) == 1:
        return rivals[0]
    return min(rivals, key=lambda rival: float(np.mean(squared_errors(rival(curves, validation).prediction, validation))))


def squared_errors(predicted: np.ndarray, asked: Asked) -> np.ndarray:
    """[units]: the mean over an episode's queries, then over the unit's draws."""
    squares = np.square(predicted - asked.query) * asked.weight
    return np.mean(squares.sum(-1) / asked.weight.sum(-1), axis=1)


def rivals(noises: Sequence[float]) -> dict[str, Sequence[Rival]]:
    """name -> one or more settings, the best of which is chosen on validation units; `noises` are variances for kriging."""
    return {
        "least squares on the unit's rows": [least_squares],
        "mean curve + offset": [mean_curve],
        "linear mixed model (statsmodels)": [mixed_model(orders) for orders in (1, 2)],
        "gradient boosting (scikit-learn)": [boosting()],
        "kriging (best linear predictor)": [kriging(noise) for noise in noises],
        "nearest units": [nearest(count) for count in (3, 5, 8)],
    }
