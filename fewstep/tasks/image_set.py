"""Images of many classes as one array, and how they are kept between runs (floor 1). Used by image_files.py and omniglot.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fewstep.arrays import arrays_in
from fewstep.cache import keep


class ImageSet(NamedTuple):
    """All images of some classes, class by class."""

    images: np.ndarray
    """[images, height, width, channels] uint8"""
    length: np.ndarray
    """[classes] how many images each class has, in the order in which they stand"""
    names: tuple[str, ...]
    """[classes]"""
    files: tuple[str, ...]
    """[images] where each came from ("class/photo.jpg"), for messages and pictures; () where that is not known"""
    split: tuple[str, ...] = ()
    """[classes] "train", "validation" or "test" where the data itself says so, else ()"""
    groups: tuple[str, ...] = ()
    """[classes] what belongs together (the folder above, a coarse class, an alphabet), else ()"""
    notes: tuple[str, ...] = ()
    """what a person should know: what was left out, and why"""

    @property
    def start(self) -> np.ndarray:
        """[classes] the first image of each class."""
        return np.cumsum(self.length) - self.length

    def only(self, classes: Sequence[int] | np.ndarray) -> ImageSet:
        """The classes of these numbers, in this order; their images are copied."""
        numbers = [int(number) for number in classes]
        start, length = self.start, self.length
        kept = [np.arange(start[number], start[number] + length[number]) for number in numbers]
        images = np.concatenate([np.arange(0), *kept])
        return self._replace(
            images=self.images[images],
            length=length[numbers] if numbers else length[:0],
            names=tuple(self.names[number] for number in numbers),
            files=tuple(self.files[image] for image in images) if self.files else (),
            split=tuple(self.split[number] for number in numbers) if self.split else (),
            groups=tuple(self.groups[number] for number in numbers) if self.groups else (),
        )


def write_prepared(path: Path, digest: str, image_set: ImageSet) -> None:
    """Keeps a set under the `digest` of what it was made from."""
    words = {"digest": digest, **{name: getattr(image_set, name) for name in ("names", "files", "split", "groups", "notes")}}
    text = np.frombuffer(json.dumps(words).encode(), np.uint8)  # one array of bytes: no pickle, and no padded strings
    keep(path, lambda file: np.savez(file, images=image_set.images, length=image_set.length, text=text))


def read_prepared(path: Path, digest: str | None) -> ImageSet | None:
    """The set that was kept under this `digest` (None: under whichever); None where there is none, or a damaged one."""
    try:
        with arrays_in(path) as kept:
            words = json.loads(kept["text"].tobytes())
            if words.pop("digest") != digest and digest is not None:
                return None
            known = ImageSet(kept["images"], kept["length"], **{name: tuple(each) for name, each in words.items()})
    except Exception:  # a damaged file raises whatever comes of it; all that lies here can be made again
        return None
    whole = known.images.ndim == 4 and known.length.sum() == len(known.images) and len(known.length) == len(known.names)
    return known if whole else None
