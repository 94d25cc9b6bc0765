"""A classifier adapted to photos of new classes, in memory and on disk.

The folder holds θ, the support photos at the network's input size and their classes; opening it adapts again. No pickle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.apps.images.data import read_image_folder, read_photos
from fewstep.apps.images.model import features_of
from fewstep.apps.images.prediction_sets import class_scores, limits, scoring, write_photos
from fewstep.apps.images.prediction_sets import read_photos as calibration_photos
from fewstep.apps.images.predictions import ACCEPTED, LEAST_DETECTED, probabilities, similarity
from fewstep.apps.images.tasks import class_weights
from fewstep.core.maml import adapt
from fewstep.core.problem import Problem, needed_to_calibrate
from fewstep.core.types import Examples, Params
from fewstep.errors import InputError
from fewstep.storage.arrays import arrays_in, write_arrays
from fewstep.storage.files import new_directory, write_json
from fewstep.storage.json import read_json
from fewstep.supervised.adapted import FILE, PARAMETERS
from fewstep.supervised.adapted_folder import trained_of
from fewstep.supervised.adapted_rows import uncalibrated
from fewstep.supervised.trained import KEY_SEED, Trained
from fewstep.training.jit import jit_hoisted
from fewstep.training.map_tasks import one_task, shard_examples

if TYPE_CHECKING:
    from fewstep.runs import Run


SUPPORT = "support.npz"
QUERIES_AT_ONCE = 32
HEADERS = 1024
"""bytes that the headers of two arrays take at most"""


@dataclass(frozen=True)
class AdaptedPhotos:
    """A classifier of the classes of its support photos."""

    trained: Trained
    classes: tuple[str, ...]
    images: np.ndarray
    """uint8 [photos, size, size, channels]"""
    labels: np.ndarray
    """[photos] numbers of classes"""
    files: tuple[str, ...]
    steps: int
    calibrating: np.ndarray | None = None
    """uint8 [classes, photos, size, size, channels] of classes that calibrate prediction sets; None if the run keeps none"""
    notes: tuple[str, ...] = ()

    @property
    def problem(self) -> Problem:
        return self.trained.problem

    @property
    def shots(self) -> np.ndarray:
        """[classes]: how many photos of each."""
        return np.bincount(self.labels, minlength=len(self.classes))

    @property
    def calibrated(self) -> bool:
        """Whether probabilities were fitted and limits were set: an unfinished run has neither."""
        return "temperature" in self.trained.calibration

    @property
    def as_calibrated(self) -> bool:
        """Whether ways and shots are those that probabilities and thresholds were fitted at."""
        settings = self.problem.settings
        return len(self.classes) == settings.ways and set(self.shots) == {settings.shot_range.most}

    @cached_property
    def support(self) -> Examples:
        """[photos, ...], as the network sees them, filled up with some of weight 0 to what all devices can share.

        Weights make each class count alike in adaptation. Statistics of a batch know no weights, so where the run normalizes
        by them, the photos of smaller classes are repeated instead.
        """
        if self.problem.settings.normalization == "batch":
            of_class = [np.flatnonzero(self.labels == number) for number in range(len(self.classes))]
            chosen, fill = np.concatenate([np.resize(numbers, self.shots.max()) for numbers in of_class]), 0
        else:
            chosen, fill = np.arange(self.labels.size), -self.labels.size % jax.local_device_count()
        images, labels = np.pad(self.images[chosen], [(0, fill), (0, 0), (0, 0), (0, 0)]), self.labels[chosen]
        targets = jnp.eye(len(self.classes))[np.pad(labels, (0, fill))]
        weight = jnp.asarray(np.pad(class_weights(labels, len(self.classes)), (0, fill)))
        return shard_examples(Examples(self.problem.format.pixels.encode(jnp.asarray(images)), targets, weight))

    @cached_property
    def params(self) -> Params:
        """θ′."""
        return self.trained.program(adaptation_program, self.steps)(self.trained.params, self.support)

    @cached_property
    def _given(self) -> jax.Array:
        """[photos, features] of the support photos."""
        return self.trained.program(feature_program)(self.params, self.support.inputs)

    def predict_known(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(probabilities [photos, classes], whether each photo is none of the classes [photos]) of uint8 photos; False for all
        where `why_no_unknown_rule` says why none can be told."""
        found = []
        for start in range(0, len(images), QUERIES_AT_ONCE):
            part = images[start : start + QUERIES_AT_ONCE]
            batch = self.problem.settings.normalization == "batch"
            fill = np.arange(len(part)) if batch else np.minimum(np.arange(QUERIES_AT_ONCE), len(part) - 1)
            asked = self.trained.program(prediction_program)(self.params, self._given, self.support, shard_examples(part[fill]))
            outputs, alike = jax.device_get(asked)
            found.append((outputs[: len(part)], alike[: len(part)]))
        outputs, alike = (np.concatenate(each) for each in zip(*found, strict=True))
        chance = probabilities(outputs, self.trained.calibration.get("temperature", 1.0))
        rule = self.unknown_rule
        if rule is None:
            return chance, np.zeros(len(images), bool)
        return chance, (chance.max(1) if rule["score"] == "probability" else alike) < rule["limit"]

    @property
    def unknown_rule(self) -> dict[str, Any] | None:
        """Which photos are none of the classes; None if that is not known, or tells nothing."""
        found = self.trained.calibration.get("none_of_these")
        return found if found and found.get("tells", True) else None

    def why_no_unknown_rule(self) -> str:
        """Why no photo is told to be none of the classes, in words; '' where there is a rule."""
        found = self.trained.calibration.get("none_of_these")
        if self.unknown_rule is not None:
            return ""
        if not self.calibrated:
            return uncalibrated(self.trained)
        if self.problem.settings.normalization == "batch":
            return "predictions depend on their batch"
        if found is None:
            return "there were too few meta-validation classes to set its limit"
        return (
            f"it would tell nothing: at the limit that {ACCEPTED:.0%} of a task's own photos pass, {found['told']:.0%} of "
            f"photos of other meta-validation classes are told, and not surely as many as {LEAST_DETECTED:.0%}"
        )

    def why_no_sets(self, level: float) -> str:
        """Why there are no prediction sets at this `level`, in words; '' where there are. Raises `InputError` for a level
        that is none, and where the run is not calibrated."""
        if not 0 < level < 1:
            raise InputError(f"--level should lie between 0 and 1, got {level:g}.")
        if not self.calibrated:
            raise InputError(f"--level {level:g}: {uncalibrated(self.trained)}.")
        photos, needed = self.calibrating, needed_to_calibrate(level)
        if not self.problem.settings.sets:
            return "predictions depend on their batch"
        if photos is None:
            return "the run keeps no photos to calibrate them; `fewstep resume RUN` does it, then adapt again"
        if len(photos) < needed:
            return f"they take {needed} calibration classes, and the run has {len(photos)}. Train on more classes"
        if self.shots.max() >= photos.shape[1]:
            most = photos.shape[1] - 1
            return f"calibration classes allow at most {most} support photos of a class, and there are {self.shots.max()}"
        return ""

    def sets(self, chance: np.ndarray, level: float) -> list[list[str]]:
        """For each photo, with probabilities `chance` [photos, classes], some classes, the right one among them with a
        probability of `level` (`apps/images/prediction_sets.py`). Raises `InputError` if `why_no_sets` says why there are
        none."""
        if why := self.why_no_sets(level):
            raise InputError(f"--level {level:g}: no prediction sets: {why}.")
        assert self.calibrating is not None
        scores = class_scores(
            self.trained.program(scoring, self.steps),
            self.trained.params,
            self.images,
            self.labels,
            self.calibrating,
            self.trained.calibration["temperature"],
            level,
        )
        limit = limits(scores, level)
        return [[name for name, part, most in zip(self.classes, row, limit, strict=True) if 1 - part <= most] for row in chance]

    def seen(self, images: np.ndarray) -> list[str | None]:
        """For each photo the support photo that it is, pixel by pixel; None if there is none."""
        known = {image.tobytes(): name for image, name in zip(self.images, self.files, strict=True)}
        return [known.get(image.tobytes()) for image in images]

    def predict(self, source: str | Path) -> np.ndarray:
        """[photos]: the likeliest class of each photo in a folder or a zip, in the order of `read`."""
        return np.array(self.classes)[self.predict_known(self.read(source)[0])[0].argmax(1)]

    def read(self, source: str | Path) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
        """(photos, their file names, notes) to be classified."""
        return read_photos(source, self.problem.format.size, self.problem.format.channels)

    def truth(self, files: Sequence[str]) -> list[str | None]:
        """The class that the folder of a photo names, where it is one of the model's."""
        folders = (Path(name).parent.name for name in files)
        return [folder if folder in self.classes else None for folder in folders]

    def save(self, directory: str | Path) -> None:
        """Writes it into a new folder."""
        directory = new_directory(directory)
        write_arrays(directory / PARAMETERS, self.trained.params)
        np.savez_compressed(directory / SUPPORT, images=self.images, labels=self.labels)
        if self.calibrating is not None:
            write_photos(directory, self.calibrating)
        content = {"steps": self.steps, "classes": list(self.classes), "files": list(self.files)}
        write_json(directory / FILE, {**self.trained.about(), **content})


def adapt_photos(model: Run | Trained, source: str | Path, steps: int | None = None) -> AdaptedPhotos:
    """Fits a trained run to the classes in `source`, a folder or a zip of class folders; a `Trained` keeps its programs for the
    next time. Raises `InputError` if `source` holds fewer than two classes."""
    trained = model if isinstance(model, Trained) else Trained.of(model)
    format = trained.problem.format
    found = read_image_folder(source, format.size, format.channels, cache=False)
    if len(found.names) < 2:
        why = f" ({'; '.join(found.notes)})" if found.notes else ""
        listed = ", ".join(found.names)
        raise InputError(f"{source}: expected photos of at least 2 classes, a folder for each, found only {listed}{why}.")
    labels = np.repeat(np.arange(len(found.names)), found.length)
    chosen = trained.calibration.get("chosen_steps", trained.trained_steps) if steps is None else steps
    calibrating = calibration_photos(trained.directory, trained.problem) if trained.directory else None
    return AdaptedPhotos(trained, found.names, found.images, labels, found.files, chosen, calibrating, found.notes)


def adaptation_program(problem: Problem, steps: int) -> Callable[..., Params]:
    """`(params, support)` -> θ′."""
    return jit_hoisted(
        one_task(lambda params, support: adapt(problem.learner, params, support, jax.random.key(KEY_SEED), steps))
    )


def feature_program(problem: Problem) -> Callable[..., jax.Array]:
    """`(θ′, inputs)` -> [photos, features]."""
    return jit_hoisted(features_of(problem.settings, problem.format.shape))


def prediction_program(problem: Problem) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """`(θ′, features of the support photos, support, photos)` -> (log-probabilities, similarity to the likest class)."""
    features = features_of(problem.settings, problem.format.shape)

    def ask(params, given, support, images):
        queries = problem.format.pixels.encode(images)
        return problem.predict(params, queries), similarity(features(params, queries), given, support)

    return jit_hoisted(ask)


def open_photos(directory: str | Path) -> AdaptedPhotos:
    """Opens a folder written by `AdaptedPhotos.save`. Raises `InputError` if it is damaged."""
    directory = Path(directory)
    try:
        saved = read_json(directory / FILE)
        trained = trained_of(saved, directory)
        each = math.prod(trained.problem.format.shape) + np.dtype(int).itemsize
        with arrays_in(directory / SUPPORT, most=len(saved["files"]) * each + HEADERS) as arrays:
            images, labels = arrays["images"], arrays["labels"]
        calibrating = calibration_photos(directory, trained.problem)
        names = tuple(saved["classes"]), tuple(saved["files"])
        return AdaptedPhotos(trained, names[0], images, labels, names[1], saved["steps"], calibrating)
    except InputError:
        raise
    except Exception as error:  # damaged archives raise many kinds
        raise InputError(f"{directory}: the adapted model is damaged ({type(error).__name__}). Adapt again.") from error
