"""From settings and a set of images to a Problem of few-shot classification (floor 3). Used by images.py and omniglot.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.errors import BadInput
from fewstep.gradients.auto import device_memory
from fewstep.problem import Problem, Splits
from fewstep.problems.image_classes import SHOWN, Parts, calibration_photos, colors, sets_in_words, usable
from fewstep.problems.image_model import JOINT_PARTS, features_of, image_problem, joint_beginning
from fewstep.problems.image_settings import ImageSettings
from fewstep.tasks.classes import all_classes, count_of
from fewstep.tasks.family import TaskFamily
from fewstep.tasks.image_format import ImageFormat
from fewstep.tasks.image_set import ImageSet
from fewstep.tasks.images import Cut, ImageTasks, Photos, image_tasks
from fewstep.tasks.on_host import OnHost


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
        format = ImageFormat(found.images.shape[1], found.images.shape[3], colors(found, split["train"]))
        photos = Photos(self.kept(found.images), jnp.asarray(found.start), jnp.asarray(found.length))

        def queries_of(part: str) -> int:
            """Of each class; as many as the smallest class has beside its shots, where these are fewer than asked for."""
            asked = self.queries if part == "train" else self.test_queries
            return min(asked, int(found.length[split[part]].min()) - self.shot_range.most)

        def family(part: str, number: int, strangers: int = 0) -> TaskFamily:
            classes, training = split[part], part == "train"
            ways = self.train_ways or self.ways if training else self.ways
            cut = Cut(
                ways,
                self.shot_range,
                queries_of(part),
                self.rotate if training else self.rotate_test,
                self.variation if training else "none",
                min(strangers, classes.size - ways),
            )
            return image_tasks(photos, classes, cut, format.pixels, jax.random.fold_in(jax.random.key(number), seed))

        splits = Splits(
            family("train", 0),
            family("validation", 1),
            family("test", 2),
        )
        strangers = 0 if self.normalization == "batch" else self.ways  # in its batch they would change all predictions
        images = ImageTasks(
            family("validation", 1, strangers),
            family("test", 2, strangers),
            found.names,
            {part: [found.names[number] for number in classes] for part, classes in split.items()},
            format.pixels,
            features_of(self, format.shape),
            calibration_photos(found, split["calibration"], self.shot_range.most, seed),
        )
        counts = ", ".join(f"{split[part].size} {SHOWN[part]}" for part in SHOWN if split[part].size)
        every = sum(each.size for each in split.values())
        sets = sets_in_words(split["calibration"].size, every) if self.sets else "prediction sets: none, with batch statistics"
        notes = (f"classes: {counts}; {sum(int(found.length[each].sum()) for each in split.values())} images", sets, *notes)
        problem = image_problem(self, format, splits=splits, notes=notes, images=images)
        problem = replace(problem, protocol={**problem.protocol, "queries_per_class": queries_of("test")})
        if not self.joint_steps:
            return problem
        train = split["train"]
        part = -(-self.joint_batch // JOINT_PARTS)
        batches = all_classes(photos, train, part, format.pixels, self.rotate, self.variation)
        return replace(problem, beginning=joint_beginning(problem, batches, count_of(train, self.rotate)))

    @property
    def sets(self) -> bool:
        """Whether there can be prediction sets: not where a prediction depends on the photos beside it."""
        return self.normalization != "batch"

    def kept(self, images: np.ndarray) -> jax.Array | OnHost:
        """The images where they are to be: a processor's memory is the host's."""
        fits = jax.default_backend() == "cpu" or images.nbytes < device_memory() / 2
        return OnHost(images) if self.images_on == "host" or (self.images_on == "auto" and not fits) else jnp.asarray(images)

    def classes(self, seed: int) -> tuple[ImageSet, Parts, list[str]]:
        """(the classes that can be used, which are for what, what a person should know). Raises `BadInput` for too few."""
        found = self.read()
        split = lambda found: self.split(found, seed)  # noqa: E731
        try:
            parts, notes = usable(found, split, self.ways, self.shot_range.most, self.queries, self.source, seed, self.sets)
        except BadInput as error:
            raise BadInput(" ".join([str(error), *(f"Note: {note}." for note in found.notes)])) from None
        if parts["train"].size < self.train_ways:
            raise BadInput(
                f"--train-ways {self.train_ways}, but there are {parts['train'].size} meta-train classes. Try fewer."
            )
        return found, parts, [*found.notes, *notes]
