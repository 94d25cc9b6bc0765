"""How sure answers about images are (floor 3): probabilities that can be believed, what is none of a task's classes, sets of
classes. Used by image_report.py and by adapted models."""

from __future__ import annotations

from typing import Any

import numpy as np

from fewstep.training.calibrate import STATED, quantiles
from fewstep.training.image_examiner import Answers

ACCEPTED = 0.95
"""part of the images of a task's own classes that are not to be taken for none of them"""
BINS = 15
SCORES = ("probability", "similarity")
"""by which an image is known to be none of the classes: the likeliest class's probability, or how much its features look like
those of any class"""


def threshold(answers: Answers, place: int, temperature: float) -> dict[str, Any]:
    """Which score tells strangers best, and below which value an image is none of the classes."""
    known, score = answers.known, scores(answers, place, temperature)
    found = {name: area(each[:, known].ravel(), each[:, ~known].ravel()) for name, each in score.items()}
    best = max(found, key=found.__getitem__)
    limit = float(np.quantile(score[best][:, known], 1 - ACCEPTED))
    return {"score": best, "limit": limit, "accepted": ACCEPTED, "area": found}


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


def set_limits(answers: Answers, temperature: float, distinct: int) -> dict[str, Any]:
    """By level in per cent, the improbability up to which classes belong to a prediction set (split conformal over tasks, Fisch
    et al. 2021, arXiv 2102.08898): None where the tasks are too few. As many tasks count as there are disjoint ones."""
    known = answers.known
    chance = probabilities(answers.log_probabilities[:, 0][:, known], temperature)
    score = 1 - (chance * answers.targets[:, known]).sum(-1)
    ways = answers.targets.shape[-1]
    independent = distinct // ways
    limits = quantiles(score, np.full(score.shape, 1.0), STATED, score.shape[0])
    allowed = [level * (independent + 1) <= 100 * independent + 1e-9 for level in STATED]
    kept = {str(level): limit if fine else None for level, limit, fine in zip(STATED, limits, allowed, strict=True)}
    return {"classes": distinct, "tasks": score.shape[0], "limits": kept}


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
    return {"none_of_these": {"score": found["score"], **told, "area": area(own.ravel(), strange.ravel())}}


def sets_kept(log_probabilities: np.ndarray, targets: np.ndarray, calibration: dict[str, Any]) -> dict[str, Any]:
    """How often prediction sets hold the right class, and how many classes they have."""
    limits = {level: limit for level, limit in calibration.get("sets", {}).get("limits", {}).items() if limit is not None}
    chance = probabilities(log_probabilities, calibration["temperature"])
    kept = {level: 1 - chance <= limit for level, limit in limits.items()}
    found = {
        level: {"coverage": float((inside & (targets > 0)).any(-1).mean()), "classes": float(inside.sum(-1).mean())}
        for level, inside in kept.items()
    }
    return {"sets": found} if found else {}
