"""Settings that all problems of images share: tasks, network and recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fewstep.apps.images.data import ImageSet
from fewstep.apps.images.format import ImageFormat
from fewstep.apps.images.splits import Parts
from fewstep.apps.images.tasks import Variation
from fewstep.errors import InputError
from fewstep.nn.heads import Head
from fewstep.recipe.settings import ALL, MOST_UNITS, LearningSettings


@dataclass(frozen=True, kw_only=True)
class ImageSettings(LearningSettings):
    """The shape of tasks, the network, the recipe; what each problem says of its own data."""

    ways: int = 5
    """classes of a task; adapted models may have any number"""
    train_ways: int = 0
    """classes of a task of training, where more of them teach more (Snell et al. 2017); 0 for as many as --ways"""
    shots: int | tuple[int, int] = 1
    """support images of each class; a range 1:5 draws the number anew for each task of training"""
    queries: int = 5
    """query images of each class in training"""
    test_queries: int = 15
    """query images of each class where unseen tasks are measured"""
    rotate: bool = False
    """turn each class of a task by a random multiple of 90 degrees, as is usual for Omniglot"""
    rotate_test: bool = False
    """do so with unseen tasks, too"""
    network: Literal["conv4", "conv4-strided", "resnet12", "mlp"] = "conv4"
    """four convolutions with max-pooling or with strides, twelve in residual blocks, or dense layers of --hidden units"""
    filters: int = 32
    """of each convolution of conv4; ResNet-12 has 64 to 640, or this many in its first block if it is not 32"""
    normalization: Literal["group", "batch"] = "group"
    """of each image by itself (group), or by the statistics of its very batch (batch), as in Finn et al. 2017: predictions of
    a query set then depend on one another"""
    head: Head = "shared"
    """what the last layer starts from: one learned column for all classes, zeros, or the classes' mean features"""
    inner_optimizer: Literal["sgd", "meta-sgd", "lslr", "meta-curvature", "alfa"] = "lslr"
    """what a gradient step is: alpha alone (sgd), learned rates per parameter, or per layer and step, learned matrices, or
    rates and decays that a small network sets (alfa)"""
    adaptation_steps: int = 5
    """adaptation steps in training"""
    inner_rate: float = 0.1
    """inner rate alpha; where rates are learned, their starting value"""
    outer_rate: float = 2e-3
    """outer rate beta of Adam"""
    inner_outer_rate: float = 5e-3
    """outer rate of what the inner optimizer learns"""
    outer_decay: float = 0.99
    """second decay of the outer Adam (b2)"""
    meta_batch_size: int = 4
    """tasks per meta-step"""
    meta_steps: int = 4_000
    """meta-steps of the whole run"""
    first_order_until: float = 0.3
    """meta-gradients are of first order during this first part of the run, then exact (MAML++)"""
    variation: Variation = "none"
    """how each training image is varied: moved and zoomed a little (characters), or cropped, mirrored and lit anew (photos)"""
    joint_steps: int = 0
    """meta-training begins from a network that was trained to tell all meta-train classes apart, for so many batches; 0 from an
    untrained one"""
    joint_batch: int = 128
    """images of a batch of that training"""
    average: float = 0.995
    """what is evaluated is a moving average of the parameters with this decay; 0 for the last ones"""
    validation_tasks: int = 200
    """meta-validation tasks by which checkpoints, the number of adaptation steps and the temperature are chosen"""
    clip: float = 10.0
    """largest norm of one task's meta-gradient; 0 for no limit"""
    log_every: int = 100
    """meta-steps between two lines of the log"""
    images_on: Literal["auto", "device", "host"] = "auto"
    """where all images are kept: on the device, or on the host, from which those of each task are sent; auto: on the device
    where they take less than half of its memory"""

    @property
    def name(self) -> str:
        """of the problem"""
        raise NotImplementedError

    @property
    def source(self) -> str:
        """what messages call the data"""
        raise NotImplementedError

    def read(self) -> ImageSet:
        """The images. Raises `InputError` if they cannot be used."""
        raise NotImplementedError

    def split(self, found: ImageSet, seed: int) -> Parts:
        """Which classes are for what: disjoint numbers of meta-train, -validation and -test classes."""
        raise NotImplementedError

    def data_protocol(self) -> dict[str, Any]:
        """What data a result was got on, and how its classes were split."""
        raise NotImplementedError

    def check_images(self) -> None:
        """Raises `InputError` for the first setting that is out of range."""
        for name, least in {"ways": 2, "test_queries": 1, "filters": 1, "validation_tasks": 1, "joint_steps": 0}.items():
            if getattr(self, name) < least:
                raise InputError(f"--{name.replace('_', '-')} should be at least {least}, got {getattr(self, name)}.")
        if self.filters > MOST_UNITS:
            raise InputError(f"--filters should be at most {MOST_UNITS:,}, got {self.filters}.")
        if self.train_ways < 0 or self.train_ways == 1:
            raise InputError(f"--train-ways should be at least 2, or 0 for as many as --ways, got {self.train_ways}.")
        if self.adapter != "gradient" or self.body_steps:
            raise InputError(f"--adapter {self.adapter} is for tables and sine waves; images are adapted by gradient steps.")
        if self.context:
            raise InputError(f"--context {self.context} is for tables and sine waves; try --adapt scales shifts.")
        if self.adapt != ALL and not any(name.split(".")[0] == "head" for name in self.adapt) and self.head != "prototype":
            raise InputError(
                f"--adapt {' '.join(self.adapt)} with --head {self.head}: all classes' columns are alike and none would move. "
                "Give --head prototype, or let the head adapt too."
            )
        if self.shot_range.least < 1:
            raise InputError(f"--shots should be at least 1 image of each class, got {self.shot_range.shown}.")
        if self.normalization == "batch" and self.shot_range.least < self.shot_range.most:
            raise InputError(
                "--normalization batch needs one number of --shots: images that do not count would count in its statistics."
            )

    def protocol(self) -> dict[str, Any]:
        """How a result was got: two results that differ in any of it are not comparable."""
        return {
            **self.data_protocol(),
            "ways": self.ways,
            "shots": self.shot_range.shown,
            "queries_per_class": self.test_queries,
            "trained_adaptation_steps": self.adaptation_steps,
            "classes_turned_at_test": self.rotate_test,
            "normalization": "batch statistics (transductive)" if self.normalization == "batch" else "each image by itself",
            "network": self.network + f", {self.filters} filters" * self.network.startswith("conv4"),
            "models": "single, moving average of its parameters" if self.average else "single",
        }

    @staticmethod
    def read_format(saved: dict[str, Any]) -> ImageFormat:
        return ImageFormat.from_json(saved)
