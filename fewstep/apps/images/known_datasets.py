"""mini-ImageNet, tieredImageNet, CIFAR-FS and FC100 as they are distributed.

Each exists in several layouts. The first complete one in a folder is read, and the notes name it. All layouts give the same
result: the official split, the classes of a split in the order of their names, the images of a class together. Pickles are read
as data and never executed.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np

from fewstep.apps.images import dataset_layouts as layouts
from fewstep.apps.images.data import ImageSet
from fewstep.apps.images.dataset_layouts import SPLITS, DatasetInfo, Layout, Part, some
from fewstep.apps.images.pickles import require_undamaged
from fewstep.errors import InputError

DatasetName = Literal["mini-imagenet", "tiered-imagenet", "cifar-fs", "fc100"]


def read_known_images(name: DatasetName, data_dir: str | Path) -> ImageSet:
    """A data set that papers compare on: images [images, size, size, 3] with `split` filled, size 84 for mini-ImageNet and
    tieredImageNet, 32 for CIFAR-FS and FC100.

    What differs from the published numbers or from the official split is said in `notes`. Raises `InputError` if the folder
    holds none of the known layouts whole, or where its files are damaged, empty or pickles of more than data.
    """
    if name not in DATASETS:
        raise InputError(f"expected a data set of the names {', '.join(DATASETS)}, got {name!r}. Choose one of them.")
    known, folder = DATASETS[name], Path(data_dir).expanduser()
    with require_undamaged(f"the files of {known.title}", folder):
        layout, paths = _recognized(known, folder)
        found = _put_together(layout.read(paths, known), known, folder)
    first = f"{known.title}, read from {layout.title} ({', '.join(path.name for path in paths)})"
    return found._replace(notes=(first, *found.notes, *_differences(found, known)))


def _recognized(known: DatasetInfo, folder: Path) -> tuple[Layout, list[Path]]:
    """The first layout that lies there whole, and where; `InputError` that names what is missing of the one that nearly
    does."""
    if not folder.is_dir():
        what = "a file; unpack it first" if folder.is_file() else "nothing of that name; check the path"
        raise InputError(f"{folder}: expected the folder of {known.title}, found {what}.")

    def place(need: str) -> Path | None:
        for spelling in need.split("|"):
            path = folder / spelling
            if path.is_dir() if spelling.endswith("/") else path.is_file():
                return path
        return None

    attempts = [(layout, [place(need) for need in layout.needs]) for layout in known.layouts]
    for layout, places in attempts:
        paths = [path for path in places if path is not None]
        if len(paths) == len(places):
            return layout, paths
    nearest, places = max(attempts, key=lambda each: len(each[1]) - each[1].count(None))
    lacking = [need.replace("|", " or ") for need, path in zip(nearest.needs, places, strict=True) if path is None]
    partly = f" Of the {nearest.title}, {', '.join(lacking)} is missing." if len(lacking) < len(places) else ""
    layouts = "; ".join(f"{each.title} ({', '.join(need.split('|')[0] for need in each.needs)})" for each in known.layouts)
    there = some(sorted(path.name + "/" * path.is_dir() for path in folder.iterdir()), 10) or "an empty folder"
    raise InputError(
        f"{folder}: expected {known.title} in one of these layouts: {layouts}.\n"
        f"Found {there}.{partly} Give the folder that itself holds one of them whole."
    )


def _put_together(parts: list[Part], known: DatasetInfo, folder: Path) -> ImageSet:
    """All parts as one set: each image is written once to its place, so that no second copy of all of them is held."""
    total = sum(part.label.size for part in parts)
    images = np.empty((total, known.size, known.size, 3), np.uint8)
    lengths: list[np.ndarray] = []
    names: list[str] = []
    groups: list[str] = []
    files: list[str] = []
    done = 0
    for part, split in zip(parts, SPLITS, strict=True):
        by_name = sorted(range(len(part.names)), key=part.names.__getitem__)
        rank = np.argsort(by_name)[part.label.astype(np.int64)]
        length = np.bincount(rank, minlength=len(by_name))
        if not length.size or not length.all():
            empty = [part.names[by_name[place]] for place in np.flatnonzero(length == 0)]
            what = f"none in {some(empty)}" if empty else "no class"
            raise InputError(f"{folder}: expected images in every class of {split}, found {what}. Download or unpack it again.")
        order = np.argsort(rank, kind="stable")
        place = np.empty_like(order)
        place[order] = done + np.arange(order.size)
        for block in part.blocks:
            images[place[: len(block)]] = block
            place = place[len(block) :]
        assert not place.size, "each reader compares the number of images with that of labels"
        done += order.size
        lengths.append(length)
        names += [part.names[one] for one in by_name]
        groups += [part.groups[one] for one in by_name] if part.groups else []
        files += [part.files[image] for image in order] if part.files else []
    return ImageSet(
        images=images,
        length=np.concatenate(lengths),
        names=_distinct_names(names),
        files=tuple(files) if len(files) == total else (),
        split=tuple(split for part, split in zip(parts, SPLITS, strict=True) for _ in part.names),
        groups=tuple(groups) if len(groups) == len(names) else (),
        notes=tuple(note for part in parts for note in part.notes),
    )


def _distinct_names(names: list[str]) -> tuple[str, ...]:
    """The second class of one name is "crane (2)": ImageNet has the bird and the machine."""
    seen: Counter[str] = Counter()
    told = []
    for name in names:
        seen[name] += 1
        told.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(told)


def _differences(found: ImageSet, known: DatasetInfo) -> list[str]:
    """What is not as published, in words."""
    notes = []
    classes = tuple(found.split.count(split) for split in SPLITS)
    if classes != known.classes:
        shown, expected = (" / ".join(map(str, counts)) for counts in (classes, known.classes))
        notes.append(f"{shown} classes for training / validation / testing; published are {expected}")
    odd = [f"{name} ({size})" for name, size in zip(found.names, found.length, strict=True) if size != known.each]
    if known.each and odd:
        notes.append(f"{len(odd)} of {len(found.names)} classes do not have {known.each} images as published: {some(odd)}")
    official = known.official()
    if official and not set(found.names) & set(official):
        return [*notes, "its classes do not have the official names, so their split was not compared with the official one"]
    placed = dict(zip(found.names, found.split, strict=True))
    moved = [name for name in placed if placed[name] != official.get(name, placed[name])]
    strange = [name for name in placed if official and name not in official]
    absent = [name for name in official if name not in placed]
    if moved:
        shown = [f"{name} ({placed[name]}, officially {official[name]})" for name in moved]
        notes.append(f"{len(moved)} classes stand in another split than officially: {some(shown)}")
    notes += [f"{len(strange)} classes are none of the official ones: {some(strange)}"] if strange else []
    notes += [f"{len(absent)} of the official classes are absent: {some(absent)}"] if absent else []
    return notes


def _named(pattern: str, *splits: str) -> tuple[str, ...]:
    return tuple("|".join(pattern.format(spelling) for spelling in split.split("|")) for split in splits)


ONE_EACH = ("train", "val", "test")
VALIDATION = "val/|validation/|valid/|meta-val/"
FOLDERS = Layout("class folders", ("train/|meta-train/", VALIDATION, "test/|meta-test/"), layouts.from_folders)
CIFAR_100 = Layout("the pickles of CIFAR-100", _named("cifar-100-python/{0}|{0}", "train", "test", "meta"), layouts.from_cifar)
BERTINETTO = ("data/|cifar100/data/", *_named("splits/bertinetto/{0}.txt|cifar100/splits/bertinetto/{0}.txt", *ONE_EACH))
LABELS = _named("{}_labels.pkl", *ONE_EACH)
MINI_IMAGENET = (
    FOLDERS,
    Layout("one folder of images with tables", (*_named("{}.csv", *ONE_EACH), "images/"), layouts.from_tables),
    Layout("cache pickles", _named("mini-imagenet-cache-{}.pkl", "train", "val|validation", "test"), layouts.from_caches),
    Layout(
        "pickles with labels",
        _named("miniImageNet_category_split_{}.pickle", "train_phase_train", "val", "test"),
        layouts.from_labels,
    ),
)
TIERED_IMAGENET = (
    Layout("arrays with labels", (*_named("{}_images.npz", *ONE_EACH), *LABELS), layouts.from_tiered_arrays),
    Layout("pickled PNG files with labels", (*_named("{}_images_png.pkl", *ONE_EACH), *LABELS), layouts.from_tiered_files),
    FOLDERS,
)
CIFAR_FS = (
    FOLDERS,
    Layout("one folder of classes with lists", BERTINETTO, layouts.from_lists),
    CIFAR_100,
    Layout("pickles with labels", _named("CIFAR_FS_{}.pickle", *ONE_EACH), layouts.from_labels),
)
FC100 = (FOLDERS, CIFAR_100, Layout("pickles with labels", _named("FC100_{}.pickle", *ONE_EACH), layouts.from_labels))
DATASETS: dict[DatasetName, DatasetInfo] = {
    "mini-imagenet": DatasetInfo("mini-ImageNet", 84, (64, 16, 20), 600, "mini_imagenet", MINI_IMAGENET),
    "tiered-imagenet": DatasetInfo("tieredImageNet", 84, (351, 97, 160), None, None, TIERED_IMAGENET),
    "cifar-fs": DatasetInfo("CIFAR-FS", 32, (64, 16, 20), 600, "cifar_fs", CIFAR_FS),
    "fc100": DatasetInfo("FC100", 32, (60, 20, 20), 600, "fc100", FC100),
}
