"""Settings of folders of classes and of known datasets, and the Problem built from settings and images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.apps.images.data import ImageSet, read_image_folder
from fewstep.apps.images.format import ImageFormat
from fewstep.apps.images.known_datasets import read_known_images
from fewstep.apps.images.labels import read_labels
from fewstep.apps.images.model import JOINT_PARTS, features_of, image_problem, joint_pretraining
from fewstep.apps.images.settings import ImageSettings
from fewstep.apps.images.splits import (
    SHOWN,
    Parts,
    calibration_photos,
    describe_prediction_sets,
    fit_normalization,
    split_groups,
    split_usable_classes,
)
from fewstep.apps.images.tasks import EpisodeSpec, ImageStore, ImageTasks, class_count, image_tasks, joint_batches
from fewstep.core.prefetch import OnHost
from fewstep.core.problem import Problem, Splits
from fewstep.core.tasks import TaskFamily
from fewstep.errors import InputError
from fewstep.gradients.exact import device_memory
from fewstep.recipe.settings import PLAIN_MAML


@dataclass(frozen=True, kw_only=True)
class ImageLearning(ImageSettings):
    """Settings that build a Problem."""

    def build(self, seed: int = 0, format: Any = None) -> Problem:
        """The Problem, with its images: classes are split by `seed`. With a saved `format` the model alone, no file is read."""
        self.check(seed)
        self.check_images()
        if format is not None:
            return image_problem(self, format)
        found, split, notes = self.classes(seed)
        format = ImageFormat(found.images.shape[1], found.images.shape[3], fit_normalization(found, split["train"]))
        photos = ImageStore(self.kept(found.images), jnp.asarray(found.start), jnp.asarray(found.length))

        def queries_of(part: str) -> int:
            """Of each class; as many as the smallest class has beside its shots, where these are fewer than asked for."""
            asked = self.queries if part == "train" else self.test_queries
            return min(asked, int(found.length[split[part]].min()) - self.shot_range.most)

        def family(part: str, number: int, unknown_classes: int = 0) -> TaskFamily:
            classes, training = split[part], part == "train"
            ways = self.train_ways or self.ways if training else self.ways
            cut = EpisodeSpec(
                ways,
                self.shot_range,
                queries_of(part),
                self.rotate if training else self.rotate_test,
                self.variation if training else "none",
                min(unknown_classes, classes.size - ways),
            )
            return image_tasks(photos, classes, cut, format.pixels, jax.random.fold_in(jax.random.key(number), seed))

        splits = Splits(
            family("train", 0),
            family("validation", 1),
            family("test", 2),
        )
        unknown_classes = 0 if self.normalization == "batch" else self.ways  # in its batch they would change all predictions
        images = ImageTasks(
            family("validation", 1, unknown_classes),
            family("test", 2, unknown_classes),
            found.names,
            {part: [found.names[number] for number in classes] for part, classes in split.items()},
            format.pixels,
            features_of(self, format.shape),
            calibration_photos(found, split["calibration"], self.shot_range.most, seed),
        )
        counts = ", ".join(f"{split[part].size} {SHOWN[part]}" for part in SHOWN if split[part].size)
        every = sum(each.size for each in split.values())
        sets = (
            describe_prediction_sets(split["calibration"].size, every)
            if self.sets
            else "prediction sets: none, with batch statistics"
        )
        notes = (f"classes: {counts}; {sum(int(found.length[each].sum()) for each in split.values())} images", sets, *notes)
        problem = image_problem(self, format, splits=splits, notes=notes, images=images)
        problem = replace(problem, protocol={**problem.protocol, "queries_per_class": queries_of("test")})
        if not self.joint_steps:
            return problem
        train = split["train"]
        part = -(-self.joint_batch // JOINT_PARTS)
        batches = joint_batches(photos, train, part, format.pixels, self.rotate, self.variation)
        return replace(problem, warm_start=joint_pretraining(problem, batches, class_count(train, self.rotate)))

    @property
    def sets(self) -> bool:
        """Whether there can be prediction sets: not where a prediction depends on the photos beside it."""
        return self.normalization != "batch"

    def kept(self, images: np.ndarray) -> jax.Array | OnHost:
        """The images where they are to be: a processor's memory is the host's."""
        fits = jax.default_backend() == "cpu" or images.nbytes < device_memory() / 2
        return OnHost(images) if self.images_on == "host" or (self.images_on == "auto" and not fits) else jnp.asarray(images)

    def classes(self, seed: int) -> tuple[ImageSet, Parts, list[str]]:
        """(the classes that can be used, which are for what, what a person should know). Raises `InputError` for too few."""
        found = self.read()
        split = lambda found: self.split(found, seed)  # noqa: E731
        try:
            parts, notes = split_usable_classes(
                found, split, self.ways, self.shot_range.most, self.queries, self.source, seed, self.sets
            )
        except InputError as error:
            raise InputError(" ".join([str(error), *(f"Note: {note}." for note in found.notes)])) from None
        if parts["train"].size < self.train_ways:
            raise InputError(
                f"--train-ways {self.train_ways}, but there are {parts['train'].size} meta-train classes. Try fewer."
            )
        return found, parts, [*found.notes, *notes]


@dataclass(frozen=True, kw_only=True)
class Images(ImageLearning):
    """A folder or zip of classes, FOLDER/class/*.jpg: few-shot classification of images."""

    data: str = ""
    """a folder or a zip of class folders, or the folder of a known data set"""
    layout: Literal["folders", "mini-imagenet", "tiered-imagenet", "cifar-fs", "fc100"] = "folders"
    """what lies in --data: class folders, or a known data set with its official split"""
    labels: str | None = None
    """a table beside the photos with the columns file and class, class and split (train, validation, test), or all three"""
    size: int = 84
    """height and width to which images are brought"""
    channels: Literal[1, 3] = 3
    """3 for colors, 1 for grey"""
    split_by: Literal["class", "group", "data"] = "class"
    """what meta-train, -validation and -test tasks do not share: single classes, whole groups of them (the folder above), or as
    the folders train, val and test of the data say"""
    parts: tuple[float, float, float] = (0.64, 0.16, 0.20)
    """parts of the classes for meta-training, -validation and -testing"""

    @property
    def name(self) -> str:
        return "images"

    @property
    def source(self) -> str:
        return self.data

    def read(self) -> ImageSet:
        """The images. Raises `InputError` if they cannot be used."""
        if not self.data:
            raise InputError("--data is missing: expected a folder or a zip of class folders, such as photos/apple/1.jpg.")
        if self.layout != "folders":
            return read_known_images(self.layout, self.data)
        labels = read_labels(self.labels) if self.labels else None
        return read_image_folder(self.data, self.size, self.channels, labels=labels)

    def split(self, found: ImageSet, seed: int) -> dict[str, np.ndarray]:
        """Which classes are for what: disjoint numbers of meta-train, -validation and -test classes."""
        by = "data" if self.layout != "folders" or (self.labels and found.split) else self.split_by
        if by == "data":
            if not found.split:
                raise InputError(
                    f"--split-by data: expected folders train, val and test in {self.data}, none of whose classes is in "
                    "another one too. Move or remove the others, or leave --split-by out."
                )
            return {part: np.flatnonzero(np.array(found.split) == part) for part in ("train", "validation", "test")}
        groups = np.array(found.groups if by == "group" and found.groups else found.names)
        return split_groups(groups, self.parts, seed)

    def build(self, seed: int = 0, format: Any = None) -> Problem:
        if self.size < 8:
            raise InputError(f"--size should be at least 8, got {self.size}.")
        if min(self.parts) <= 0 or abs(sum(self.parts) - 1) > 1e-6:
            raise InputError(f"--parts should be three positive numbers that sum to 1, got {' '.join(map(str, self.parts))}.")
        return super().build(seed, format)

    def data_protocol(self) -> dict[str, Any]:
        if self.layout != "folders":
            return {"data": self.layout, "split": "official"}
        if self.labels:
            return {"data": "photos with a table", "split": f"by {Path(self.labels).name}, or by class"}
        return {"data": "folders of classes", "split": f"by {self.split_by}, by the seed of the run"}


PRESETS: dict[str, tuple[Images, str]] = {
    "default": (Images(), "the recipe: rates learned by layer and step, first order then exact, averaged parameters"),
    "best": (
        Images(
            joint_steps=3_000,
            variation="photos",
            head="prototype",
            adaptation_steps=3,
            meta_steps=1_500,
        ),
        "joint training on all classes, then MAML from there, with varied photos and classes that begin from their means",
    ),
    "maml": (
        Images(
            inner_rate=0.01,
            normalization="batch",
            queries=15,
            meta_steps=60_000,
            **PLAIN_MAML,
        ),
        "Finn et al. 2017 on mini-ImageNet: five steps at alpha 0.01, batch statistics, 60,000 meta-steps of 4 tasks",
    ),
}
