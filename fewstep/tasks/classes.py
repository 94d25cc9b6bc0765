"""All classes of a data set at once (floor 1): batches for ordinary training, as a family of tasks.

MAML with no adaptation step is ordinary training on query sets, so this is all that joint training needs beside it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fewstep.tasks.augment import Variation, varied
from fewstep.tasks.family import TaskFamily
from fewstep.tasks.images import Photos, Pixels, turned
from fewstep.types import Episode, Examples, Key


def all_classes(
    photos: Photos, classes: np.ndarray, batch: int, pixels: Pixels, rotate: bool = False, variation: Variation = "none"
) -> TaskFamily:
    """Batches of images of these `classes`, each image as likely as any; targets [batch, classes], or with `rotate` [batch, 4 ·
    classes]: a class turned by 90 degrees is another class. The support set of an episode is its query set."""
    start, length = (np.asarray(each)[classes] for each in photos[1:])
    numbers = jnp.asarray(np.concatenate([first + np.arange(count) for first, count in zip(start, length, strict=True)]))
    labels = jnp.asarray(np.repeat(np.arange(classes.size), length))
    columns = count_of(classes, rotate)

    def episode(task: jax.Array, key: Key, shots: jax.Array | int | None = None) -> Episode:
        del task, shots
        image_key, turn_key, vary_key = jax.random.split(key, 3)
        chosen = jax.random.randint(image_key, (batch,), 0, numbers.size)
        images, label = photos.pixels[numbers[chosen]], labels[chosen]
        if rotate:
            turns = jax.random.randint(turn_key, (batch,), 0, 4)
            images, label = jax.vmap(turned)(images, turns), 4 * label + turns
        inputs = varied(pixels.encode(images), variation, vary_key)
        examples = Examples(inputs, jax.nn.one_hot(label, columns), jnp.ones(batch))
        return Episode(examples, examples)

    return TaskFamily(episode, on_host=photos.on_host)


def count_of(classes: np.ndarray, rotate: bool) -> int:
    """How many classes there are to be told apart."""
    return int(classes.size) * (4 if rotate else 1)
