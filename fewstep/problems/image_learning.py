"""From settings and a set of images to a Problem of few-shot classification (floor 3). Used by images.py and omniglot.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from fewstep import losses, nn
from fewstep.errors import BadInput
from fewstep.nn.heads import Head, start_of, with_head
from fewstep.problem import ImageTasks, Problem, Splits
from fewstep.problems.learners import LearningSettings, gradient_learner, make_params, outer_optimizer, outer_schedule
from fewstep.tasks.family import TaskFamily
from fewstep.tasks.image_format import ImageFormat
from fewstep.tasks.image_set import ImageSet
from fewstep.tasks.images import Cut, Photos, Pixels, image_tasks
from fewstep.types import Network, Params

SHOWN = {"train": "meta-train", "validation": "meta-validation", "calibration": "calibration", "test": "meta-test"}
LEAST_CALIBRATION = 4
"""Classes for fewer disjoint tasks than this calibrate no prediction set worth having."""
MOST_FITTED = 2_000
"""Means and deviations of colors are taken from so many meta-train images."""


@dataclass(frozen=True, kw_only=True)
class ImageLearning(LearningSettings):
    """What all problems of images share: the shape of tasks, the network, the recipe."""

    ways: int = 5
    """classes of a task in training; adapted models may have any number"""
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
    inner_optimizer: Literal["sgd", "meta-sgd", "meta-curvature", "lslr"] = "lslr"
    """what a gradient step is: alpha alone (sgd), learned rates per parameter, or per layer and step, or learned matrices"""
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
    average: float = 0.995
    """what is evaluated is a moving average of the parameters with this decay; 0 for the last ones"""
    validation_tasks: int = 200
    """meta-validation tasks by which checkpoints, the number of adaptation steps and the temperature are chosen"""
    clip: float = 10.0
    """largest norm of one task's meta-gradient; 0 for no limit"""
    log_every: int = 100
    """meta-steps between two lines of the log"""

    @property
    def name(self) -> str:
        """of the problem"""
        raise NotImplementedError

    @property
    def source(self) -> str:
        """what messages call the data"""
        raise NotImplementedError

    def read(self) -> ImageSet:
        """The images. Raises `BadInput` where they cannot be used."""
        raise NotImplementedError

    def split(self, found: ImageSet, seed: int) -> dict[str, np.ndarray]:
        """Which classes are for what: disjoint numbers of meta-train, -validation and -test classes."""
        raise NotImplementedError

    def data_protocol(self) -> dict[str, Any]:
        """What data a result was got on, and how its classes were split."""
        raise NotImplementedError

    def build(self, seed: int = 0, format: Any = None) -> Problem:
        """The Problem, with its images: classes are split by `seed`. With a saved `format` the model alone, no file is read."""
        self.check(seed)
        self.check_images()
        if format is not None:
            return self.problem(format)
        found = self.read()
        notes = list(found.notes)
        found, split = self.usable(found, notes, seed)
        format = ImageFormat(found.images.shape[1], found.images.shape[3], colors(found, split["train"]))
        photos = Photos(jnp.asarray(found.images), jnp.asarray(found.start), jnp.asarray(found.length))

        def family(part: str, number: int, rotate: bool, queries: int, strangers: int = 0) -> TaskFamily:
            classes = split[part]
            left = int(found.length[classes].min()) - self.shot_range.most  # of the class with the fewest images
            cut = Cut(self.ways, self.shot_range, min(queries, left), rotate, min(strangers, classes.size - self.ways))
            return image_tasks(photos, classes, cut, format.pixels, jax.random.fold_in(jax.random.key(number), seed))

        turned, asked = self.rotate_test, self.test_queries
        splits = Splits(
            family("train", 0, self.rotate, self.queries),
            family("validation", 1, turned, asked),
            family("test", 2, turned, asked),
            family("calibration", 3, turned, asked) if split["calibration"].size else None,
        )
        strangers = 0 if self.normalization == "batch" else self.ways  # in its batch they would change all predictions
        validation, test = (family(part, number, turned, asked, strangers) for part, number in (("validation", 1), ("test", 2)))
        features = self.features(format.shape)
        parts = {part: [found.names[number] for number in classes] for part, classes in split.items()}
        images = ImageTasks(validation, test, found.names, parts, format.pixels, features, split["calibration"].size)
        counts = ", ".join(f"{split[part].size} {SHOWN[part]}" for part in SHOWN if split[part].size)
        notes.insert(0, f"classes: {counts}; {int(found.length.sum())} images")
        return self.problem(format, splits=splits, notes=tuple(notes), images=images)

    def usable(self, found: ImageSet, notes: list[str], seed: int) -> tuple[ImageSet, dict[str, np.ndarray]]:
        """(the classes with enough images, their split). Raises `BadInput` where too few are left in a part."""
        least = self.shot_range.most + self.queries
        few = found.length < least
        if few.any():
            shown = ", ".join(f"{found.names[i]} ({found.length[i]})" for i in np.flatnonzero(few)[:3])
            notes.append(
                f"{few.sum()} of {few.size} classes have fewer than {least} images (--shots and --queries) and are left out: "
                f"{shown}{', ...' if few.sum() > 3 else ''}"
            )
            found = found.only(np.flatnonzero(~few))
        if found.length.size < 3 * self.ways:
            raise BadInput(
                f"{self.source}: {found.length.size} classes have at least {least} images; expected at least "
                f"{3 * self.ways}, --ways {self.ways} each for meta-training, -validation and -testing. Try fewer --ways, "
                "--shots or --queries, or more classes."
            )
        split = self.split(found, seed)
        # Classes for prediction sets serve for nothing else; where validation has few, it needs them all.
        half = split["validation"].size // 2
        apart = half if half >= LEAST_CALIBRATION * self.ways else 0
        order = np.random.default_rng(seed).permutation(split["validation"])
        split |= {"validation": np.sort(order[apart:]), "calibration": np.sort(order[:apart])}
        for part, classes in split.items():
            if classes.size < self.ways and part != "calibration":
                counts = ", ".join(f"{each.size} meta-{name}" for name, each in split.items())
                raise BadInput(
                    f"{self.source}: --ways {self.ways}, but there are {counts} classes. Try --ways "
                    f"{max(2, min(each.size for each in split.values()))}, or another split."
                )
        return found, split

    def check_images(self) -> None:
        """Raises `BadInput` for the first setting that is out of range."""
        for name, least in {"ways": 2, "test_queries": 1, "filters": 1, "validation_tasks": 1}.items():
            if getattr(self, name) < least:
                raise BadInput(f"--{name.replace('_', '-')} should be at least {least}, got {getattr(self, name)}.")
        if self.adapter != "gradient" or self.body_steps:
            raise BadInput(f"--adapter {self.adapter} is for tables and sine waves; images are adapted by gradient steps.")
        if self.shot_range.least < 1:
            raise BadInput(f"--shots should be at least 1 image of each class, got {self.shot_range.shown}.")
        if self.normalization == "batch" and self.shot_range.least < self.shot_range.most:
            raise BadInput(
                "--normalization batch needs one number of --shots: images that do not count would count in its statistics."
            )

    def body(self, shape: tuple[int, int, int]) -> Network:
        """The network up to its features."""
        if self.network == "resnet12":
            first = 64 if self.filters == ImageLearning.filters else self.filters
            return nn.resnet12(shape, (first, 5 * first // 2, 5 * first, 10 * first), self.normalization)
        if self.network == "mlp":
            inner = nn.mlp([int(np.prod(shape)), *self.hidden], last_activation=jax.nn.relu)
            return Network(inner.init, lambda params, images: inner.apply(params, images.reshape(images.shape[0], -1)))
        strided = self.network == "conv4-strided"
        return nn.conv4(shape, None, self.filters, "stride" if strided else "pool", self.normalization, average=strided)

    def features(self, shape: tuple[int, int, int]) -> Callable[[Params, jax.Array], jax.Array]:
        """`(params, images) -> [images, features]`: what the last layer sees."""
        body = self.body(shape)
        return lambda params, images: body.apply(params["body"], images)

    def problem(self, format: ImageFormat, **parts: Any) -> Problem:
        """The model, the learner and the outer optimizer."""
        body = self.body(format.shape)
        size = jax.eval_shape(lambda key, x: body.apply(body.init(key), x), jax.random.key(0), jnp.zeros((1, *format.shape)))
        network = with_head(body, size.shape[-1])
        predict = lambda params, images: jax.nn.log_softmax(network.apply(params, images))  # noqa: E731
        learner = gradient_learner(self, losses.cross_entropy(predict))
        errors = {"error_rate": losses.wrong, "log_loss": losses.log_loss}
        return Problem(
            name=self.name,
            settings=self,
            init=lambda key: make_params(self, network.init(key)),
            learner=replace(learner, start=start_of(self.head, body)),
            predict=predict,
            metrics={name: losses.mean_over_examples(predict, error) for name, error in errors.items()},
            row_error=losses.wrong,
            outer_rate=outer_schedule(self),
            outer_optimizer=outer_optimizer(self),
            meta_batch_size=self.meta_batch_size,
            meta_steps=self.meta_steps,
            log_every=self.log_every,
            bad_tasks=self.bad_tasks,
            validation_tasks=self.validation_tasks,
            protocol=self.protocol(),
            format=format,
            evaluation_steps=tuple(sorted({0, 1, *(learner.adaptation_steps * times for times in (1, 2, 3))})),
            **parts,
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
            "network": self.network,
            "models": "single, moving average of its parameters" if self.average else "single",
        }

    @staticmethod
    def read_format(saved: dict[str, Any]) -> ImageFormat:
        return ImageFormat.from_json(saved)


def colors(found: ImageSet, train: np.ndarray) -> Pixels:
    """Mean and deviation of each channel over meta-train images."""
    starts, lengths = found.start[train], found.length[train]
    images = np.concatenate([start + np.arange(length) for start, length in zip(starts, lengths, strict=True)])
    some = images[:: max(1, images.size // MOST_FITTED)]
    values = found.images[some].reshape(-1, found.images.shape[-1]) / 255.0
    deviation = np.maximum(values.std(0), 1e-3)
    return Pixels(
        tuple(round(float(value), 6) for value in values.mean(0)), tuple(round(float(value), 6) for value in deviation)
    )
