"""Readers for the layouts in which known datasets are distributed."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fewstep.apps.images.data import ImageSet, read_image_folder, read_prepared, write_prepared
from fewstep.apps.images.photos import Photo, decode, digest_of
from fewstep.apps.images.pickles import load_pickle, require_undamaged, word, words
from fewstep.errors import InputError
from fewstep.storage.cache import cache_directory

SPLITS = ("train", "validation", "test")
ROWS = 4096
"""Images of a large array are read in portions of so many: tieredImageNet alone takes 16 GB, and should do so once."""


class Part(NamedTuple):
    """The images of one split, as they lie on disk."""

    names: list[str]
    """of its classes"""
    label: np.ndarray
    """[images] the place of each image's class in `names`"""
    blocks: Iterable[np.ndarray]
    """uint8 [some, size, size, 3], in the order of `label`; may be read only when they are asked for"""
    files: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    """[classes] which of them belong together"""
    notes: tuple[str, ...] = ()


class DatasetInfo(NamedTuple):
    """What is published of a data set."""

    title: str
    size: int
    classes: tuple[int, int, int]
    """of the three splits"""
    each: int | None
    """images of a class; None if that varies"""
    split: str | None
    """the file in splits/ with the names of the classes; None if the files themselves are the only names"""
    layouts: tuple[Layout, ...]

    def official(self) -> dict[str, str]:
        """The split of each class by its name; {} where there is no such list."""
        if self.split is None:
            return {}
        listed = json.loads((Path(__file__).parent / "split_lists" / f"{self.split}.json").read_text(encoding="utf-8"))
        return {name: split for split in SPLITS for name in listed[split]}


class Layout(NamedTuple):
    """One way in which a data set lies on disk."""

    title: str
    needs: tuple[str, ...]
    """files and folders/ that make it up; | stands between other spellings of one"""
    read: Callable[[list[Path], DatasetInfo], list[Part]]
    """(where the `needs` were found, what is published) -> the parts of the three splits"""


def some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


# Layouts of files and folders


def from_folders(paths: list[Path], known: DatasetInfo) -> list[Part]:
    """train/n01532829/*.jpg, and so on."""
    return [_part(read_image_folder(path, known.size, 3), path.name) for path in paths]


def from_lists(paths: list[Path], known: DatasetInfo) -> list[Part]:
    """One folder of all classes, and a text file for each split with the names of its classes (Bertinetto et al. 2019)."""
    whole, parts = read_image_folder(paths[0], known.size, 3), []
    for path in paths[1:]:
        listed = path.read_text(encoding="utf-8-sig").split()
        if absent := [name for name in listed if name not in whole.names]:
            raise InputError(f"{paths[0]}: expected a folder for each class in {path.name}, found none for {some(absent)}.")
        parts.append(_part(whole.only([whole.names.index(name) for name in listed]), paths[0].name))
    return [parts[0]._replace(notes=whole.notes), *(part._replace(notes=()) for part in parts[1:])]


def _part(found: ImageSet, folder: str) -> Part:
    label = np.repeat(np.arange(len(found.names)), found.length)
    notes = tuple(f"{folder}: {note}" for note in found.notes)
    files = tuple(f"{folder}/{file}" for file in found.files)
    return Part(list(found.names), label, [found.images], files, found.groups, notes)


def from_tables(paths: list[Path], known: DatasetInfo) -> list[Part]:
    """One folder of all images, and a table of file names and classes for each split (Ravi and Larochelle 2017)."""
    *tables, folder = paths
    there = {path.name: path for path in folder.iterdir()}
    parts = []
    for table in tables:
        with table.open(encoding="utf-8-sig", newline="") as text:
            rows = sorted((row.get("label") or "", row.get("filename") or "") for row in csv.DictReader(text))
        if not rows or not all(map(all, rows)):
            raise InputError(
                f"{table}: expected rows of filename,label below a line that says so. Get the table from its authors."
            )
        if absent := [file for _, file in rows if file not in there]:
            raise InputError(
                f"{folder}: expected the images of {table.name}, {len(absent)} are absent: {some(absent)}. Unpack all."
            )
        found = [there[file].stat() for _, file in rows]
        photos = [Photo(file, at.st_size, at.st_mtime_ns, there[file]) for (_, file), at in zip(rows, found, strict=True)]
        parts.append(_part(_prepared(photos, [label for label, _ in rows], known), folder.name))
    return parts


def _prepared(photos: list[Photo], labels: list[str], known: DatasetInfo) -> ImageSet:
    """The images of these files, class by class; from the user's cache where they were read before."""
    digest = digest_of(photos, "table", known.size, *labels)
    path = cache_directory("images") / f"{digest}.npz"
    if (kept := read_prepared(path, digest)) is not None:
        return kept
    images, unreadable = decode(photos, lambda photo: Path(str(photo.place)).read_bytes(), known.size, 3)
    readable = [number for number in range(len(photos)) if number not in unreadable]
    names, owner = np.unique(labels, return_inverse=True)
    notes = (f"{len(unreadable)} images cannot be read and were left out: {some(list(unreadable.values()))}",)
    found = ImageSet(
        images=images[readable] if unreadable else images,
        length=np.bincount(owner[readable], minlength=len(names)),
        names=tuple(names.tolist()),
        files=tuple(photos[number].name for number in readable),
        notes=notes if unreadable else (),
    )
    write_prepared(path, digest, found)
    return found


# Layouts of arrays


def from_caches(paths: list[Path], known: DatasetInfo) -> list[Part]:
    """Pickles of all images of a split, and the numbers of those of each class (Ren et al. 2018)."""
    parts = []
    for path in paths:
        data = load_pickle(path)
        images, places = _images(_field(data, path, "image_data"), path, known), dict(_field(data, path, "class_dict"))
        numbers = [np.asarray(each, np.int64) for each in places.values()]
        listed = np.concatenate([np.arange(0), *numbers])
        if not np.array_equal(np.sort(listed), np.arange(len(images))):
            raise InputError(f"{path}: expected each of {len(images)} images in one class of class_dict. Download it again.")
        label = np.repeat(np.arange(len(numbers)), [each.size for each in numbers])[np.argsort(listed)]
        parts.append(Part([word(name) for name in places], label, [images]))
    return parts


def from_labels(paths: list[Path], known: DatasetInfo) -> list[Part]:
    """Pickles of the images of a split and the numbers of their classes (Gidaris and Komodakis 2018, Lee et al. 2019)."""
    official, parts, numbers = known.official(), [], []
    for path in paths:
        data = load_pickle(path)
        images, label = _images(_field(data, path, "data"), path, known), np.asarray(_field(data, path, "labels"))
        _same_number(len(images), label.size, path)
        number, label = np.unique(label, return_inverse=True)
        names = {value: word(name) for name, value in data.get("catname2label", {}).items()}
        numbers.append(number.tolist())
        unnamed = {one: one if isinstance(one, str) else f"class {one:03}" for one in numbers[-1]}
        parts.append(Part([names.get(one, unnamed[one]) for one in numbers[-1]], label, [images]))
    # CIFAR-100 numbers its classes by name. Where the numbers then fit the official split, they are those.
    cifar = dict(enumerate(sorted(official))) if known.size == 32 else {}
    if all(official.get(cifar.get(one, "")) == split for split, each in zip(SPLITS, numbers, strict=True) for one in each):
        parts = [part._replace(names=[cifar[one] for one in each]) for part, each in zip(parts, numbers, strict=True)]
    return parts


def from_tiered_arrays(paths: list[Path], known: DatasetInfo) -> list[Part]:
    """Uncompressed images of tieredImageNet, with labels."""
    parts = []
    for images, labels in zip(paths[:3], paths[3:], strict=True):
        part = _tiered_labels(labels)
        parts.append(part._replace(blocks=_rows(images, part.label.size, known)))
    note = "colors were taken for BGR, as OpenCV wrote train_images.npz, and turned to RGB"
    return [parts[0]._replace(notes=(note,)), *parts[1:]]


def from_tiered_files(paths: list[Path], known: DatasetInfo) -> list[Part]:
    """Pickled lists of PNG files, with labels (Ren et al. 2018)."""

    def blocks(path: Path, expected: int) -> Iterator[np.ndarray]:
        files = load_pickle(path)
        _same_number(len(files), expected, path)

        def read(photo: Photo) -> bytes:
            file = files[int(photo.name.rpartition("/")[2])]
            return file if isinstance(file, bytes) else np.asarray(file).tobytes()

        for start in range(0, expected, ROWS):
            numbers = range(start, min(start + ROWS, expected))
            block, unreadable = decode([Photo(f"{path}/{number}", 0, 0, path) for number in numbers], read, known.size, 3)
            if unreadable:
                raise InputError(
                    f"{path}: expected PNG files, found damaged ones: {some([*unreadable.values()])}. Download it again."
                )
            yield block

    parts = [_tiered_labels(path) for path in paths[3:]]
    return [part._replace(blocks=blocks(path, part.label.size)) for part, path in zip(parts, paths[:3], strict=True)]


def _tiered_labels(path: Path) -> Part:
    data = load_pickle(path)
    label, names = np.asarray(_field(data, path, "label_specific")), words(_field(data, path, "label_specific_str"))
    broad, titles = np.asarray(data.get("label_general", ())), words(data.get("label_general_str", ()))
    number, first = np.unique(label, return_index=True)
    if number.tolist() != list(range(len(names))):
        raise InputError(
            f"{path}: expected label_specific to count all {len(names)} names of label_specific_str. Download it again."
        )
    if broad.shape != label.shape:
        return Part(names, label, ())
    groups = (titles[one] if one < len(titles) else f"group {one}" for one in broad[first])
    return Part(names, label, (), groups=tuple(groups))


def _rows(path: Path, expected: int, known: DatasetInfo) -> Iterator[np.ndarray]:
    """The array "images" of an .npz file, portion by portion, its colors turned from BGR to RGB."""
    with require_undamaged("an array named images", path), zipfile.ZipFile(path) as archive, archive.open("images.npy") as file:
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, kind = header[np.lib.format.read_magic(file)](file)
        if kind != np.uint8 or fortran or shape[1:] != (known.size, known.size, 3):
            raise InputError(f"{path}: expected bytes [images, {known.size}, {known.size}, 3], found {kind} {list(shape)}.")
        _same_number(shape[0], expected, path)
        for start in range(0, expected, ROWS):
            rows = min(ROWS, expected - start)
            yield np.frombuffer(file.read(rows * known.size**2 * 3), np.uint8).reshape(rows, *shape[1:])[..., ::-1]


def from_cifar(paths: list[Path], known: DatasetInfo) -> list[Part]:
    """CIFAR-100 as its authors give it out, whose training and test images are put together and split anew by class."""
    meta, official = load_pickle(paths[2]), known.official()
    names, groups = (words(_field(meta, paths[2], f"{kind}_label_names")) for kind in ("fine", "coarse"))
    data = [(load_pickle(path), path) for path in paths[:2]]
    images = np.concatenate([np.asarray(_field(each, path, "data")) for each, path in data])
    fine, coarse = (
        np.concatenate([np.asarray(_field(each, path, f"{kind}_labels"), np.int64) for each, path in data])
        for kind in ("fine", "coarse")
    )
    images = _images(images.reshape(-1, 3, known.size, known.size), paths[0], known)
    _same_number(len(images), fine.size, paths[0])
    split = np.array([official.get(name, "") for name in names])[fine]
    parts = []
    for each in SPLITS:
        inside = np.flatnonzero(split == each)
        number, first, label = np.unique(fine[inside], return_index=True, return_inverse=True)
        above = tuple(groups[one] for one in coarse[inside[first]])
        parts.append(Part([names[one] for one in number], label, [images[inside]], groups=above))
    return parts


def _images(found: Any, path: Path, known: DatasetInfo) -> np.ndarray:
    """Bytes [images, size, size, 3]; also of images whose channels stand first."""
    images = np.asarray(found)
    if images.shape[1:] == (3, known.size, known.size):
        images = images.transpose(0, 2, 3, 1)
    if images.dtype != np.uint8 or images.shape[1:] != (known.size, known.size, 3):
        shown = f"{images.dtype} {list(images.shape)}"
        raise InputError(f"{path}: expected bytes [images, {known.size}, {known.size}, 3], found {shown}. Is it {known.title}?")
    return images


def _same_number(images: int, labels: int, path: Path) -> None:
    if images != labels:
        raise InputError(f"{path}: expected as many images as labels, found {images} and {labels}. Download both again.")


def _field(data: Any, path: Path, name: str) -> Any:
    if not isinstance(data, dict) or name not in data:
        found = some([str(key) for key in data], 8) if isinstance(data, dict) else type(data).__name__
        raise InputError(f"{path}: expected a dictionary with {name!r}, found {found}. Is it a file of this data set?")
    return data[name]
