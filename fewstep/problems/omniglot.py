"""Omniglot (Lake, Salakhutdinov & Tenenbaum 2015): 1,623 handwritten characters, 20 drawings each, as a Problem (floor 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from fewstep.nn.heads import Head
from fewstep.problems.image_learning import ImageLearning
from fewstep.problems.settings import PLAIN_MAML
from fewstep.tasks.augment import Variation
from fewstep.tasks.image_set import ImageSet
from fewstep.tasks.omniglot import finn_split, read_omniglot, vinyals_split


@dataclass(frozen=True, kw_only=True)
class Omniglot(ImageLearning):
    """Omniglot: 1,623 handwritten characters, 20 drawings each, 28 x 28; turned by right angles they are further classes."""

    data_dir: str = ""
    """folder of upstream's images_background.zip and images_evaluation.zip, or of the folders in them; by default they are
    downloaded once"""
    split_by: Literal["vinyals", "finn"] = "vinyals"
    """1,028 / 172 / 423 characters of Vinyals et al. 2016, or 1,100 / 100 / 423 drawn at random as in Finn et al. 2017"""
    rotate: bool = True
    """turn each class of a task by a random multiple of 90 degrees in training"""
    network: Literal["conv4", "conv4-strided", "resnet12", "mlp"] = "conv4-strided"
    """four convolutions with max-pooling or with strides, twelve in residual blocks, or dense layers of --hidden units"""
    filters: int = 64
    """of each convolution of conv4"""
    inner_rate: float = 0.4
    """inner rate alpha; where rates are learned, their starting value"""
    head: Head = "prototype"
    """what the last layer starts from: one learned column for all classes, zeros, or the classes' mean features"""
    variation: Variation = "characters"
    """how each training image is varied: moved and zoomed a little (characters), or cropped, mirrored and lit anew (photos)"""
    joint_steps: int = 10_000
    """meta-training begins from a network that was trained to tell all meta-train classes apart, for so many batches; 0 from an
    untrained one"""
    train_ways: int = 20
    """classes of a task of training, where more of them teach more (Snell et al. 2017); 0 for as many as --ways"""
    queries: int = 3
    """query images of each class in training"""
    adaptation_steps: int = 1
    """adaptation steps in training"""
    first_order_until: float = 0.0
    """meta-gradients are of first order during this first part of the run, then exact (MAML++)"""
    meta_batch_size: int = 8
    """tasks per meta-step"""
    meta_steps: int = 8_000
    """meta-steps of the whole run"""
    log_every: int = 200
    """meta-steps between two lines of the log"""

    @property
    def name(self) -> str:
        return "omniglot"

    @property
    def source(self) -> str:
        return "Omniglot"

    def read(self) -> ImageSet:
        return read_omniglot(self.data_dir or None)

    def split(self, found: ImageSet, seed: int) -> dict[str, np.ndarray]:
        return vinyals_split(found.names) if self.split_by == "vinyals" else finn_split(len(found.names), seed)

    def data_protocol(self) -> dict[str, Any]:
        split = "Vinyals" if self.split_by == "vinyals" else "1,100 / 100 / 423 at random, by the seed of the run"
        return {"data": "Omniglot", "split": split}


ORIGINAL = Omniglot(
    split_by="finn",
    rotate_test=True,
    queries=1,
    test_queries=1,
    normalization="batch",
    validation_tasks=600,
)
"""the protocol of Finn et al. 2017"""
MAML = replace(
    ORIGINAL,
    head="shared",
    variation="none",
    joint_steps=0,
    train_ways=0,
    meta_batch_size=32,
    meta_steps=60_000,
    log_every=500,
    **PLAIN_MAML,
)

PRESETS: dict[str, tuple[Omniglot, str]] = {
    "default": (Omniglot(), "the recipe: joint training, then MAML of 20 ways; Vinyals' split, no batch statistics"),
    "best": (
        replace(ORIGINAL, filters=128, joint_steps=8_000, meta_steps=6_000),
        "the recipe in the protocol of Finn et al. 2017 (their split, batch statistics), with a wider network",
    ),
    "maml": (MAML, "Finn et al. 2017: one step at alpha 0.4, batch statistics, 60,000 meta-steps of 32 tasks"),
    "maml-short": (
        replace(MAML, meta_steps=15_000, outer_schedule="cosine", outer_rate=2e-3, average=0.995),
        "the same in a quarter of the meta-steps: an outer rate that falls to 0, averaged parameters; half an hour on 2 cores",
    ),
}
