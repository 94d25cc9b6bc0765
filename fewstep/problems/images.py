"""A folder of classes, or a known data set on disk, as a Problem (floor 3): few-shot classification of one's own photos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fewstep.errors import BadInput
from fewstep.problem import Problem
from fewstep.problems.image_classes import split_groups
from fewstep.problems.image_learning import ImageLearning
from fewstep.problems.settings import PLAIN_MAML
from fewstep.tasks.image_files import read_image_folder
from fewstep.tasks.image_labels import read_labels
from fewstep.tasks.image_set import ImageSet
from fewstep.tasks.known_images import read_known_images


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
        """The images. Raises `BadInput` where they cannot be used."""
        if not self.data:
            raise BadInput("--data is missing: expected a folder or a zip of class folders, such as photos/apple/1.jpg.")
        if self.layout != "folders":
            return read_known_images(self.layout, self.data)
        labels = read_labels(self.labels) if self.labels else None
        return read_image_folder(self.data, self.size, self.channels, labels=labels)

    def split(self, found: ImageSet, seed: int) -> dict[str, np.ndarray]:
        """Which classes are for what: disjoint numbers of meta-train, -validation and -test classes."""
        by = "data" if self.layout != "folders" or (self.labels and found.split) else self.split_by
        if by == "data":
            if not found.split:
                raise BadInput(
                    f"--split-by data: expected folders train, val and test in {self.data}, none of whose classes is in "
                    "another one too. Move or remove the others, or leave --split-by out."
                )
            return {part: np.flatnonzero(np.array(found.split) == part) for part in ("train", "validation", "test")}
        groups = np.array(found.groups if by == "group" and found.groups else found.names)
        return split_groups(groups, self.parts, seed)

    def build(self, seed: int = 0, format: Any = None) -> Problem:
        if self.size < 8:
            raise BadInput(f"--size should be at least 8, got {self.size}.")
        if min(self.parts) <= 0 or abs(sum(self.parts) - 1) > 1e-6:
            raise BadInput(f"--parts should be three positive numbers that sum to 1, got {' '.join(map(str, self.parts))}.")
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
