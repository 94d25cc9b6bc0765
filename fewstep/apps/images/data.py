"""Reads photos in a folder or a zip as an `ImageSet`, one class per folder, and caches the prepared images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from fewstep.apps.images.labels import PARTS, Labels, content_numbers, find_duplicates, group_by_label, more
from fewstep.apps.images.photos import Progress, decode, digest_of, photos_in
from fewstep.apps.images.photos import Unreadable as Unreadable
from fewstep.apps.images.photos import open_image as open_image
from fewstep.errors import InputError
from fewstep.storage.arrays import arrays_in
from fewstep.storage.cache import cache_directory, keep


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
    """The set that was kept under this `digest` (None: under whichever); None if there is none, or a damaged one."""
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


Folder: TypeAlias = tuple[str, ...]
"""the names on the way down to it"""


class ImageClass(NamedTuple):
    """The folder of one class, as `classes_of` finds it."""

    folder: Folder
    photos: list[int]
    split: str


def read_image_folder(
    source: str | Path,
    size: int,
    channels: int,
    *,
    labels: Labels | None = None,
    cache: bool = True,
    progress: Progress | None = None,
) -> ImageSet:
    """The photos of SOURCE/class/*.jpg as images [size, size, channels]; SOURCE is a folder or a .zip.

    The class is the folder that holds images, the group of a class the folder above where the tree is that deep. Folders train,
    val and test on top give `split` where they hold different classes, and are put together where they hold the same ones. Of
    either, `labels` may say otherwise: a class or a photo that they do not have is left out. A photo that is there more than
    once, by copies or links, counts once in its class, and is left out if it lies in several (`same_photos.py`). What was
    prepared once is kept in the user's cache, unless `cache` is off. `progress(done, total)` is told of every image read.
    Raises `InputError` if the source cannot be read or has no class folder with a readable image.
    """
    _check_shape(size, channels)
    if Path(source).is_file() and Path(source).suffix.lower() != ".zip":
        raise InputError(
            f"{source}: expected a folder or a .zip with a folder of photos for each class, found a file. Give the folder."
        )
    with photos_in(source) as (photos, read, links):
        digest = digest_of(photos, "each photo once", size, channels, *([] if labels is None else [labels]), *links)
        path = cache_directory("images") / f"{digest}.npz"
        if cache and (known := read_prepared(path, digest)):
            return known
        classes, notes = classes_by(labels, [photo.name for photo in photos], source)
        ordered = [photos[number] for each in classes for number in each.photos]
        images, unreadable = decode(ordered, read, size, channels, progress)
        readable = _readable(unreadable, len(ordered), source, notes)
        content = content_numbers([ordered[number] for number in readable], read)
    owner = np.repeat(np.arange(len(classes)), [len(each.photos) for each in classes])
    called = ["/".join(each.folder) for each in classes]
    length = np.bincount(owner[readable], minlength=len(classes))
    if lost := [name for name, count in zip(called, length, strict=True) if not count]:
        notes.append(f"classes without a readable image were left out: {', '.join(lost[:3])}{_more(len(lost))}")
    left_out, twice = find_duplicates([ordered[number] for number in readable], owner[readable].tolist(), called, content)
    readable, notes = (
        [number for place, number in enumerate(readable) if place not in left_out],
        [*links, *notes, *twice],
    )
    if not readable:
        raise InputError(
            f"{source}: expected photos that lie in one class alone, but {'; '.join(twice)}. Remove what is twice."
        )
    length = np.bincount(owner[readable], minlength=len(classes))
    classes = [each for each, count in zip(classes, length, strict=True) if count]
    _note_blank(images, [ordered[number].name for number in readable], readable, notes)
    image_set = ImageSet(
        images=images if len(readable) == len(images) else images[readable],
        length=length[length > 0],
        names=_names(classes),
        files=tuple(ordered[number].name for number in readable),
        split=tuple(each.split for each in classes) if classes[0].split else (),
        groups=_groups(classes),
        notes=tuple(notes),
    )
    if cache:
        write_prepared(path, digest, image_set)
    return image_set


def read_photos(source: str | Path, size: int, channels: int) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """(images [photos, size, size, channels] uint8, their file names, notes) of all photos anywhere in a folder or a zip, in
    the order of their names, or of one image file. Raises `InputError` if there is none that can be read."""
    _check_shape(size, channels)
    notes: list[str] = []
    with photos_in(source) as (photos, read, links):
        images, unreadable = decode(photos, read, size, channels)
    notes += links
    readable = _readable(unreadable, len(photos), source, notes)
    _note_blank(images, [photos[number].name for number in readable], readable, notes)
    return images[readable], tuple(photos[number].name for number in readable), tuple(notes)


def classes_by(labels: Labels | None, names: Sequence[str], source: str | Path) -> tuple[list[ImageClass], list[str]]:
    """The classes by folders and by a table where there is one, and notes on what was left out. Raises `InputError`."""
    if labels is None:
        return classes_of(names, source)
    if labels.of_file:
        found, notes = group_by_label(labels, names)
        classes = [ImageClass((name,), photos, "") for name, photos in found.items()]
    else:
        classes, notes = classes_of(names, source)
    if not labels.split:
        return classes, notes
    called = _names(classes)
    if lost := [name for name in called if name not in labels.split]:
        notes.append(f"{len(lost)} classes that are not in {labels.source} were left out: {lost[0]}{more(lost)}")
    if len(lost) == len(called):
        raise InputError(
            f"{labels.source}: expected classes of {source}, such as {called[0]}; found {next(iter(labels.split))}."
        )
    kept = [each._replace(split=labels.split[name]) for each, name in zip(classes, called, strict=True) if name in labels.split]
    return kept, notes


def classes_of(names: Sequence[str], source: str | Path) -> tuple[list[ImageClass], list[str]]:
    """The classes that the paths of photos speak of, in the order of their folders, and notes on what was left out.

    Raises `InputError` if no photo lies in a class folder.
    """
    found: dict[Folder, list[int]] = {}
    for number, name in enumerate(names):
        found.setdefault(tuple(name.split("/")[:-1]), []).append(number)
    loose = found.pop((), [])
    wrapped = _shared(found) if len(found) > 1 else max(map(len, found), default=1) - 1
    found = {folder[wrapped:]: photos for folder, photos in found.items()}  # data/photos/Apple is Apple where all lie in there
    loose += found.pop((), [])
    tops = {folder[0] for folder in found}
    parts = {top for top in tops if top.lower() in PARTS}
    parted = len(parts) > 1 and any(folder[0] in parts and len(folder) > 1 for folder in found)
    if not found or (len(parts) > 1 and not parted and parts == tops):
        where = f"directly in {' and '.join(sorted(parts))}" if found else "in no folder"
        raise InputError(
            f"{source}: expected a folder of photos for each class, such as {source}/cat/1.jpg, but found {len(names)} photos "
            f"{where}. Put the photos of each class in a folder of its own."
        )
    notes: list[str] = []
    if not parted:
        classes = [ImageClass(folder, photos, "") for folder, photos in found.items()]
    else:
        inside = {folder: photos for folder, photos in found.items() if folder[0] in parts and len(folder) > 1}
        loose += [number for folder, photos in found.items() if folder not in inside for number in photos]
        classes = _put_together(inside, notes)
    if loose:
        notes.append(f"{len(loose)} images outside the class folders were left out: {names[loose[0]]}{_more(len(loose), 1)}")
    return sorted(classes), notes


def _put_together(inside: dict[Folder, list[int]], notes: list[str]) -> list[ImageClass]:
    """Classes of folders below train, val and test: one that lies under several of them is one class."""
    rests = [folder[1:] for folder in inside]
    wrapped = min(_shared(rests), min(map(len, rests)) - 1)
    photos: dict[Folder, dict[str, list[int]]] = {}
    for folder, numbers in inside.items():
        photos.setdefault(folder[1 + wrapped :], {}).setdefault(PARTS[folder[0].lower()], []).extend(numbers)
    namesakes: dict[str, list[Folder]] = {}
    for folder in photos:
        namesakes.setdefault(folder[-1], []).append(folder)
    for folder in sorted(
        photos, key=len
    ):  # train/Vegetables/Cap and test/Vegetables/Mushroom/Cap: filed deeper, the same class
        deeper = [each for each in namesakes[folder[-1]] if len(each) > len(folder) and _is_within(folder, each)]
        if len(deeper) == 1 and not photos[folder].keys() & photos[deeper[0]].keys():
            photos[deeper[0]] |= photos.pop(folder)
            notes.append(f"{'/'.join(folder)} and {'/'.join(deeper[0])} were taken for one class")
    apart = all(len(parts) == 1 for parts in photos.values()) and len({part for parts in photos.values() for part in parts}) > 1
    if not apart:
        notes.append("the folders for training, validation and test share classes and were put together")
    return [
        ImageClass(folder, sorted(number for numbers in parts.values() for number in numbers), min(parts) if apart else "")
        for folder, parts in photos.items()
    ]


def _shared(folders: Iterable[Folder]) -> int:
    """How many names all paths begin with."""
    return len(list(takewhile(lambda names: len(set(names)) == 1, zip(*folders, strict=False))))


def _is_within(short: Folder, long: Folder) -> bool:
    """Whether all names of one path come in the other too, in the same order."""
    rest = iter(long)
    return all(name in rest for name in short)


def _names(classes: Sequence[ImageClass]) -> tuple[str, ...]:
    """The name of each class's folder, or its path where several have that name."""
    count = Counter(each.folder[-1] for each in classes)
    return tuple("/".join(each.folder) if count[each.folder[-1]] > 1 else each.folder[-1] for each in classes)


def _groups(classes: Sequence[ImageClass]) -> tuple[str, ...]:
    """The deepest folders are classes, those above them groups; a class that lies higher is a group alone: beside
    Fruit/Apple/Gala, in Fruit/Apple, there is Fruit/Kiwi. () where nothing is grouped."""
    depth = max(len(each.folder) for each in classes)
    groups = tuple("/".join(each.folder[: depth - 1]) for each in classes)
    return groups if depth > 1 and len(set(groups)) < len(groups) else ()


def _note_blank(images: np.ndarray, names: list[str], readable: list[int], notes: list[str]) -> None:
    """Counts images that show nothing, such as those of one pixel."""
    blank = [name for name, number in zip(names, readable, strict=True) if (images[number] == images[number, 0, 0]).all()]
    if blank:
        few = ", ".join(blank[:3])
        notes.append(f"{len(blank)} of {len(names)} images are of one color all over: {few}{_more(len(blank))}")


def _readable(unreadable: dict[int, str], total: int, source: str | Path, notes: list[str]) -> list[int]:
    """The numbers of the other images; a note on those that are not. Raises `InputError` if all are not."""
    if unreadable:
        few = "; ".join(list(unreadable.values())[:3])
        notes.append(f"{len(unreadable)} of {total} images cannot be read and were left out: {few}{_more(len(unreadable))}")
    if len(unreadable) == total:
        raise InputError(f"{source}: expected photos, but {notes[-1]}. Check the files.")
    return [number for number in range(total) if number not in unreadable]


def _more(count: int, shown: int = 3) -> str:
    return f" and {count - shown} more" if count > shown else ""


def _check_shape(size: int, channels: int) -> None:
    if size < 1 or channels not in (1, 3):
        raise InputError(
            f"expected images of 1 pixel or more a side in gray (1 channel) or color (3), got {size} pixels and {channels} "
            "channels. Change the size or the number of channels."
        )
