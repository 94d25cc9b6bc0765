"""Predictions on unseen tasks of images, and their uncertainty: calibrated probabilities and detection of unknown classes.

One compiled program adapts to a task and predicts its queries after each number of steps; the rest is NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.core.maml import adaptation_path
from fewstep.core.problem import Problem
from fewstep.core.tasks import TaskFamily
from fewstep.core.types import Episode, Examples, Key, MetaParams
from fewstep.nn.heads import class_means
from fewstep.supervised.fit import select_step
from fewstep.training.jit import jit_hoisted
from fewstep.training.map_tasks import map_tasks, over_parameters
from fewstep.training.progress import watched

AT_ONCE = 32
"""tasks of one compiled call"""


class TaskPredictions(NamedTuple):
    """Of many tasks; arrays are [tasks, steps, queries, ...]."""

    log_probabilities: np.ndarray
    """[..., ways]"""
    similarity: np.ndarray
    """the greatest cosine between a query's features and a class's mean features, both less the mean of the support set"""
    targets: np.ndarray
    """[tasks, queries, ways]; all 0 for strangers"""
    classes: np.ndarray
    """[tasks, ways + strangers]"""

    @property
    def known(self) -> np.ndarray:
        """[queries]: which are of the task's classes."""
        return self.targets[0].sum(-1) > 0


class TaskPredictor:
    """Adapts to tasks of any family and predicts their queries; compiled once for each shape of episodes."""

    def __init__(self, problem: Problem, params: MetaParams, steps: Sequence[int]):
        assert problem.images is not None
        self.params, self.steps, features = params, tuple(steps), problem.images.features

        def one_task(params: MetaParams, support: Examples, query: Examples, key: Key):
            path = adaptation_path(problem.learner, params, support, key, max(self.steps))

            def ask(adapted):
                outputs = problem.predict(adapted, query.inputs)
                return outputs, similarity(features(adapted, query.inputs), features(adapted, support.inputs), support)

            return over_parameters(ask, select_step(path, jnp.asarray(self.steps)))

        def many(params, support, query, key_data):
            keys = jax.random.wrap_key_data(key_data)
            return map_tasks(lambda each: one_task(params, *each), (support, query, keys), AT_ONCE)

        self._program = jit_hoisted(many)

    def predict(self, family: TaskFamily, tasks: int, seed: int, what: str = "tasks") -> TaskPredictions:
        """The answers on the first so many tasks, each met once; `what` people call them while they wait."""
        cut = episode_sampler(family, seed)
        found = []
        for start in watched(range(0, tasks, AT_ONCE), what, AT_ONCE):
            numbers = np.minimum(np.arange(start, start + AT_ONCE), tasks - 1)  # filled up, so that the shape stays
            episodes, keys, classes = cut(jnp.asarray(numbers))
            outputs, alike = self._program(self.params, episodes.support, episodes.query, keys)
            found.append(jax.device_get((outputs, alike, episodes.query.targets, classes)))
        return TaskPredictions(*(np.concatenate(each)[:tasks] for each in zip(*found, strict=True)))


def episode_sampler(family: TaskFamily, seed: int) -> Callable[[jax.Array], tuple[Episode, jax.Array, jax.Array]]:
    """`numbers [tasks] -> (episodes, data of the keys of adaptation, the classes)` of the tasks of these numbers."""

    def draw(numbers: jax.Array) -> tuple[Episode, jax.Array, jax.Array]:
        keys = jax.vmap(lambda number: jax.random.split(jax.random.fold_in(jax.random.key(seed), number)))(numbers)
        episodes = jax.vmap(lambda number, key: family.episode(number, key))(numbers, keys[:, 0])
        assert family.describe is not None
        return episodes, jax.random.key_data(keys[:, 1]), jax.vmap(family.describe)(numbers)

    return jit_hoisted(draw)


def similarity(queries: jax.Array, support: jax.Array, examples: Examples) -> jax.Array:
    """[queries]: the greatest cosine between a query's features and a class's mean features, less the mean of all classes."""
    means = class_means(support, examples)
    middle = jnp.mean(means, 0, keepdims=True)
    unit = lambda rows: rows / jnp.maximum(jnp.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)  # noqa: E731
    return jnp.max(unit(queries - middle) @ unit(means - middle).T, axis=-1)


def is_correct(answers: TaskPredictions) -> np.ndarray:
    """[tasks, steps, known queries]: whether the likeliest class is the right one."""
    known = answers.known
    guess = answers.log_probabilities[:, :, known].argmax(-1)
    return (guess == answers.targets[:, None, known].argmax(-1)).astype(float)


ACCEPTED = 0.95
"""part of the images of a task's own classes that are not to be taken for none of them"""
LEAST_DETECTED = 0.2
"""The part of strangers that is told has to be at least this, by its lower 95 % bound over their classes. Then a photo that is
called none of the classes is four times as likely a stranger as one of the task's own, at equal numbers."""
BINS = 15
SCORES = ("probability", "similarity")
"""by which an image is known to be none of the classes: the likeliest class's probability, or how much its features look like
those of any class"""


def unknown_threshold(answers: TaskPredictions, place: int, temperature: float) -> dict[str, Any]:
    """Which score tells strangers best, below which value an image is none of the classes, and whether that tells anything."""
    known, score = answers.known, scores(answers, place, temperature)
    found = {name: auroc(each[:, known].ravel(), each[:, ~known].ravel()) for name, each in score.items()}
    best = max(found, key=found.__getitem__)
    limit = float(np.quantile(score[best][:, known], 1 - ACCEPTED))
    detected = score[best][:, ~known] < limit
    at_least = lower_bound(detected, answers.classes[:, -detected.shape[1] :])
    about = {"told": float(detected.mean()), "told_at_least": at_least, "tells": at_least >= LEAST_DETECTED}
    return {"score": best, "limit": limit, "accepted": ACCEPTED, "area": found, **about}


def lower_bound(detected: np.ndarray, classes: np.ndarray) -> float:
    """The lower 95 % confidence bound of the mean of `detected` over `classes` (both [tasks, strangers]), which count alike.

    One-sided, by Student's t over classes, since images of one class are told or not together. 0 for a single class."""
    from scipy.special import stdtrit

    by_class = np.array([detected[classes == number].mean() for number in np.unique(classes)])
    if by_class.size < 2:
        return 0.0
    half = stdtrit(by_class.size - 1, 0.95) * by_class.std(ddof=1) / np.sqrt(by_class.size)
    return float(max(by_class.mean() - half, 0.0))


def scores(answers: TaskPredictions, place: int, temperature: float) -> dict[str, np.ndarray]:
    """By name, [tasks, queries]: the greater, the more like one of the task's classes."""
    likeliest = probabilities(answers.log_probabilities[:, place], temperature).max(-1)
    return dict(zip(SCORES, (likeliest, answers.similarity[:, place]), strict=True))


def probabilities(log_probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of log-probabilities divided by a temperature."""
    powers = np.exp((log_probabilities - log_probabilities.max(-1, keepdims=True)) / temperature)
    return powers / powers.sum(-1, keepdims=True)


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """The probability that an image of the classes scores higher than a stranger (area under the ROC curve); ties halve."""
    order = np.sort(unknown)
    below = np.searchsorted(order, known, "left") + np.searchsorted(order, known, "right")
    return float(below.mean() / 2 / unknown.size)


def reliability(log_probabilities: np.ndarray, targets: np.ndarray, temperature: float) -> dict[str, Any]:
    """Expected calibration error before and after the temperature (Guo et al. 2017, 15 bins of equal width), the bins after."""
    right = (log_probabilities.argmax(-1) == targets.argmax(-1)).ravel()

    def binned(temperature: float) -> tuple[float, list[dict[str, float]]]:
        likeliest = probabilities(log_probabilities, temperature).max(-1).ravel()
        place = np.minimum((likeliest * BINS).astype(int), BINS - 1)
        found = [
            {"confidence": float(likeliest[at].mean()), "accuracy": float(right[at].mean()), "share": float(at.mean())}
            for at in (place == number for number in range(BINS))
            if at.any()
        ]
        return sum(each["share"] * abs(each["confidence"] - each["accuracy"]) for each in found), found

    (before, _), (after, bins) = binned(1.0), binned(temperature)
    return {"temperature": temperature, "ece_before": before, "ece": after, "bins": bins}


def unknown_detection(answers: TaskPredictions, place: int, calibration: dict[str, Any]) -> dict[str, Any]:
    """How many images of other classes are told to be none of a task's classes, and how many of its own are taken for such."""
    found = calibration.get("none_of_these")
    if not found or answers.known.all():
        return {}
    score = scores(answers, place, calibration["temperature"])[found["score"]]
    own, unknown = score[:, answers.known], score[:, ~answers.known]
    detected = {"accepted": float((own >= found["limit"]).mean()), "told": float((unknown < found["limit"]).mean())}
    return {
        "none_of_these": {
            "score": found["score"],
            **detected,
            "area": auroc(own.ravel(), unknown.ravel()),
            "tells": found.get("tells", True),
        }
    }
