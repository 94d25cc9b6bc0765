"""How sure answers about images are (floor 3): probabilities that can be believed, and what is none of a task's classes.

Used by image_report.py and by adapted models.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fewstep.training.image_examiner import Answers

ACCEPTED = 0.95
"""part of the images of a task's own classes that are not to be taken for none of them"""
LEAST_TOLD = 0.2
"""The part of strangers that is told has to be at least this, by its lower 95 % bound over their classes. Then a photo that is
called none of the classes is four times as likely a stranger as one of the task's own, at equal numbers."""
BINS = 15
SCORES = ("probability", "similarity")
"""by which an image is known to be none of the classes: the likeliest class's probability, or how much its features look like
those of any class"""


def threshold(answers: Answers, place: int, temperature: float) -> dict[str, Any]:
    """Which score tells strangers best, below which value an image is none of the classes, and whether that tells anything."""
    known, score = answers.known, scores(answers, place, temperature)
    found = {name: area(each[:, known].ravel(), each[:, ~known].ravel()) for name, each in score.items()}
    best = max(found, key=found.__getitem__)
    limit = float(np.quantile(score[best][:, known], 1 - ACCEPTED))
    told = score[best][:, ~known] < limit
    at_least = lower_bound(told, answers.classes[:, -told.shape[1] :])
    about = {"told": float(told.mean()), "told_at_least": at_least, "tells": at_least >= LEAST_TOLD}
    return {"score": best, "limit": limit, "accepted": ACCEPTED, "area": found, **about}


def lower_bound(told: np.ndarray, classes: np.ndarray) -> float:
    """The lower 95 % confidence bound of the mean of `told` over `classes` (both [tasks, strangers]), which count alike.

    One-sided, by Student's t over classes, since images of one class are told or not together. 0 for a single class."""
    from scipy.special import stdtrit

    by_class = np.array([told[classes == number].mean() for number in np.unique(classes)])
    if by_class.size < 2:
        return 0.0
    half = stdtrit(by_class.size - 1, 0.95) * by_class.std(ddof=1) / np.sqrt(by_class.size)
    return float(max(by_class.mean() - half, 0.0))


def scores(answers: Answers, place: int, temperature: float) -> dict[str, np.ndarray]:
    """By name, [tasks, queries]: the greater, the more like one of the task's classes."""
    likeliest = probabilities(answers.log_probabilities[:, place], temperature).max(-1)
    return dict(zip(SCORES, (likeliest, answers.similarity[:, place]), strict=True))


def probabilities(log_probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of log-probabilities divided by a temperature."""
    powers = np.exp((log_probabilities - log_probabilities.max(-1, keepdims=True)) / temperature)
    return powers / powers.sum(-1, keepdims=True)


def area(known: np.ndarray, strange: np.ndarray) -> float:
    """The probability that an image of the classes scores higher than a stranger (area under the ROC curve); ties halve."""
    order = np.sort(strange)
    below = np.searchsorted(order, known, "left") + np.searchsorted(order, known, "right")
    return float(below.mean() / 2 / strange.size)


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


def strangers_told(answers: Answers, place: int, calibration: dict[str, Any]) -> dict[str, Any]:
    """How many images of other classes are told to be none of a task's classes, and how many of its own are taken for such."""
    found = calibration.get("none_of_these")
    if not found or answers.known.all():
        return {}
    score = scores(answers, place, calibration["temperature"])[found["score"]]
    own, strange = score[:, answers.known], score[:, ~answers.known]
    told = {"accepted": float((own >= found["limit"]).mean()), "told": float((strange < found["limit"]).mean())}
    return {
        "none_of_these": {
            "score": found["score"],
            **told,
            "area": area(own.ravel(), strange.ravel()),
            "tells": found.get("tells", True),
        }
    }
