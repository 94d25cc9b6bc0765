"""How few-shot classification of images is measured (floor 3): accuracy by adaptation steps with intervals over episodes and
classes, calibrated probabilities, what is none of a task's classes, prediction sets. Used by runs.

One program adapts to a task and looks at its queries after each number of steps; all the rest is NumPy on what it returns.
Meta-validation tasks choose the number of steps, the temperature and the threshold of "none of these"; classes that serve for
nothing else calibrate prediction sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.maml import adaptation_path
from fewstep.problem import Problem
from fewstep.tasks.family import TaskFamily
from fewstep.training.calibrate import best_temperature, quantiles
from fewstep.training.evaluate import summarize
from fewstep.training.fit import at
from fewstep.training.mapping import over_parameters, over_tasks
from fewstep.training.programs import compiled
from fewstep.types import Examples, Key, MetaParams

AT_ONCE = 32
"""tasks of one compiled call"""
ACCEPTED = 0.95
"""part of the images of a task's own classes that are not to be taken for none of them"""
SET_LEVELS = (95, 90, 80)
"""per cent: the level of prediction sets where none is asked for is the first of these that the calibration tasks allow"""
BINS = 15
SCORES = ("probability", "similarity")
"""by which an image is known to be none of the classes: the likeliest class's probability, or how much its features look like
those of any class"""


class Answers(NamedTuple):
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


class Examiner:
    """Asks tasks of any family; the program is compiled once for each shape of episodes."""

    def __init__(self, problem: Problem, params: MetaParams, steps: Sequence[int]):
        assert problem.images is not None
        self.params, self.steps, features = params, tuple(steps), problem.images.features

        def one_task(params: MetaParams, support: Examples, query: Examples, key: Key):
            path = adaptation_path(problem.learner, params, support, key, max(self.steps))

            def ask(adapted):
                outputs = problem.predict(adapted, query.inputs)
                return outputs, similarity(features(adapted, query.inputs), features(adapted, support.inputs), support)

            return over_parameters(ask, at(path, jnp.asarray(self.steps)))

        def many(params, support, query, key_data):
            keys = jax.random.wrap_key_data(key_data)
            return over_tasks(lambda each: one_task(params, *each), (support, query, keys), AT_ONCE)

        self._program = compiled(many)

    def ask(self, family: TaskFamily, tasks: int, seed: int) -> Answers:
        """The answers on the first so many tasks, each met once."""

        def draw(numbers):
            keys = jax.vmap(lambda number: jax.random.split(jax.random.fold_in(jax.random.key(seed), number)))(numbers)
            episodes = jax.vmap(lambda number, key: family.episode(number, key))(numbers, keys[:, 0])
            assert family.describe is not None
            return episodes, jax.random.key_data(keys[:, 1]), jax.vmap(family.describe)(numbers)

        cut = compiled(draw)
        found = []
        for start in range(0, tasks, AT_ONCE):
            numbers = np.minimum(np.arange(start, start + AT_ONCE), tasks - 1)  # filled up, so that the shape stays
            episodes, keys, classes = cut(jnp.asarray(numbers))
            outputs, alike = self._program(self.params, episodes.support, episodes.query, keys)
            found.append(jax.device_get((outputs, alike, episodes.query.targets, classes)))
        return Answers(*(np.concatenate(each)[:tasks] for each in zip(*found, strict=True)))


def similarity(queries: jax.Array, support: jax.Array, examples: Examples) -> jax.Array:
    """[queries]: the greatest cosine between a query's features and a class's mean features, less the mean of all classes."""
    share = examples.targets * examples.weight[:, None]
    means = (share / jnp.maximum(jnp.sum(share, 0, keepdims=True), 1e-12)).T @ support
    middle = jnp.mean(means, 0, keepdims=True)
    unit = lambda rows: rows / jnp.maximum(jnp.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)  # noqa: E731
    return jnp.max(unit(queries - middle) @ unit(means - middle).T, axis=-1)


def calibrate_images(problem: Problem, params: MetaParams) -> dict[str, Any]:
    """What `calibration.json` holds. Strangers among the queries of meta-validation tasks set the threshold of "none of these";
    prediction sets are calibrated on classes that serve for nothing else, where there are any."""
    assert problem.images is not None and problem.splits is not None
    images, calibration = problem.images, problem.splits.calibration
    trained = problem.learner.adaptation_steps
    steps = sorted({1, trained, *problem.evaluation_steps} - {0}) if trained else [0]
    answers = Examiner(problem, params, steps).ask(images.validation, problem.validation_tasks, seed=5)
    known = answers.known
    right = accuracy_of(answers)  # [tasks, steps, queries]
    by_steps = right.mean((0, 2))
    # Of numbers of steps that do equally well, within what chance would do, the trained one.
    spread = right.mean(2).std(0) / np.sqrt(right.shape[0])
    best = int(by_steps.argmax())
    place = steps.index(trained) if by_steps[steps.index(trained)] >= by_steps[best] - spread[best] else best
    outputs, targets = answers.log_probabilities[:, place][:, known], answers.targets[:, known]
    temperature = best_temperature(outputs, targets, np.full(targets.shape[:2], 1.0 / targets[..., 0].size))
    result: dict[str, Any] = {
        "kind": "images",
        "tasks": problem.validation_tasks,
        "shots": problem.settings.shot_range.shown,
        "chosen_steps": steps[place],
        "accuracy_by_steps": {str(step): float(value) for step, value in zip(steps, by_steps, strict=True)},
        "temperature": temperature,
    }
    if not known.all():
        result["none_of_these"] = threshold(answers, place, temperature)
    if calibration is not None:
        sets = Examiner(problem, params, [steps[place]]).ask(calibration, problem.validation_tasks, seed=6)
        result["sets"] = set_limits(sets, temperature, images.calibration_classes)
    return result


def threshold(answers: Answers, place: int, temperature: float) -> dict[str, Any]:
    """Which score tells strangers best, and below which value an image is none of the classes."""
    known, found = answers.known, {}
    for name, score in scores(answers, place, temperature).items():
        found[name] = area(score[:, known].ravel(), score[:, ~known].ravel())
    best = max(found, key=found.__getitem__)
    limit = float(np.quantile(scores(answers, place, temperature)[best][:, known], 1 - ACCEPTED))
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
    limits = quantiles(score, np.full(score.shape, 1.0), SET_LEVELS, score.shape[0])
    allowed = [level * (independent + 1) <= 100 * independent + 1e-9 for level in SET_LEVELS]
    kept = {str(level): limit if fine else None for level, limit, fine in zip(SET_LEVELS, limits, allowed, strict=True)}
    return {"classes": distinct, "tasks": score.shape[0], "limits": kept}


def accuracy_of(answers: Answers) -> np.ndarray:
    """[tasks, steps, known queries]: whether the likeliest class is the right one."""
    known = answers.known
    guess = answers.log_probabilities[:, :, known].argmax(-1)
    return (guess == answers.targets[:, None, known].argmax(-1)).astype(float)


def evaluate_images(
    problem: Problem, params: MetaParams, calibration: dict[str, Any], steps: Sequence[int], tasks: int
) -> dict[str, Any]:
    """The figures of `evaluation.json` for the first so many meta-test tasks."""
    assert problem.images is not None
    names = problem.images.names
    chosen = calibration.get("chosen_steps", problem.learner.adaptation_steps)
    steps = sorted({*steps, chosen})
    answers = Examiner(problem, params, steps).ask(problem.images.test, tasks, seed=0)
    known, right = answers.known, accuracy_of(answers)
    loss = -(answers.log_probabilities * answers.targets[:, None]).sum(-1)[:, :, known].mean(-1)
    of_query = np.take_along_axis(answers.classes, answers.targets[:, known].argmax(-1), axis=1)  # [tasks, known queries]
    numbers = np.unique(of_query)
    by_class = np.stack([right.transpose(0, 2, 1)[of_query == number].mean(0) for number in numbers])
    place = steps.index(chosen)
    over_classes = summarize(by_class)
    result = {
        "problem": problem.name,
        "split": "test",
        "tasks": tasks,
        "classes": int(numbers.size),
        "steps": list(steps),
        "metric": "accuracy",
        **summarize(right.mean(2)),
        "ci95_by_class": over_classes["ci95"],
        "query_loss": summarize(loss),
        "by_class": {names[number]: float(value) for number, value in zip(numbers, by_class[:, place], strict=True)},
        "protocol": {
            **problem.protocol,
            "chosen_adaptation_steps": chosen,
            "tasks": tasks,
            "classes": int(numbers.size),
            "interval": "95 %, Student's t, over episodes of these classes; and over classes",
        },
    }
    if "temperature" in calibration:
        outputs, targets = answers.log_probabilities[:, place][:, known], answers.targets[:, known]
        result["calibration"] = reliability(outputs, targets, calibration["temperature"])
        result |= strangers_told(answers, place, calibration) | sets_kept(outputs, targets, calibration)
    return result


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
