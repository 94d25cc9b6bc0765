"""Reads tables of labels and splits beside photos, and finds photos that occur more than once."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fewstep.apps.images.photos import Photo, Reader
from fewstep.errors import InputError
from fewstep.storage.tables import read_table

PARTS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
"""words for the parts of a data set, as folders and tables have them"""
FILE, CLASS, SPLIT = ("file", "filename", "path", "image"), ("class", "label"), ("split",)
"""what columns may be called, in any case"""


class Labels(NamedTuple):
    """What a table says."""

    source: str
    of_file: dict[str, str]
    """the class of each photo; {} where folders say it"""
    split: dict[str, str]
    """train, validation or test, for each class; {} where that is not said"""


def read_labels(path: str | Path) -> Labels:
    """A CSV, TSV or Parquet table with the columns `file` and `class`, `class` and `split`, or all three.

    Raises `InputError` if it has other columns, another word for a part, one class in several parts or one file in several
    classes.
    """
    table = read_table(path)
    lower = {name.strip().lower(): name for name in reversed(table.columns)}
    file, label, split = (next((lower[name] for name in names if name in lower), None) for names in (FILE, CLASS, SPLIT))
    if label is None or (file is None and split is None):
        raise InputError(
            f"{path}: expected the columns file and class, or class and split (train, validation, test), found "
            f"{', '.join(table.columns)}. Rename them."
        )
    rows = {name: [str(value).strip() for value in table[name]] for name in (file, label, split) if name}
    parts: dict[str, str] = {}
    for name, word in zip(rows[label], rows[split] if split else (), strict=bool(split)):
        if word.lower() not in PARTS:
            raise InputError(f"{path}: expected train, validation or test in the column {split}, found {word!r} for {name}.")
        part = PARTS[word.lower()]
        if parts.setdefault(name, part) != part:
            raise InputError(f"{path}: class {name} is in {parts[name]} and in {part}; expected every class in one part alone.")
    of_file: dict[str, str] = {}
    for name, called in zip(rows[file] if file else (), rows[label], strict=bool(file)):
        if (other := of_file.setdefault(name.replace("\\", "/"), called)) != called:
            raise InputError(f"{path}: {name} is of class {other} and of {called}; expected one class for every file.")
    return Labels(str(path), of_file, parts)


def group_by_label(labels: Labels, names: Sequence[str]) -> tuple[dict[str, list[int]], list[str]]:
    """(the numbers of the photos of each class, by the paths `names` of photos or by their last parts; notes on those that one
    of both lacks). Raises `InputError` if no photo is in the table."""
    classes: dict[str, list[int]] = {}
    met, unknown = set(), []
    for number, name in enumerate(names):
        ends = (name.split("/", start)[-1] for start in range(name.count("/") + 1))  # a/b/1.jpg, b/1.jpg, 1.jpg
        known = next((end for end in ends if end in labels.of_file), None)
        if known is None:
            unknown.append(name)
            continue
        met.add(known)
        classes.setdefault(labels.of_file[known], []).append(number)
    if not classes:
        raise InputError(
            f"{labels.source}: none of the {len(names)} photos is in its column of files: expected names such as {names[0]}."
        )
    notes = []
    if unknown:
        notes.append(f"{len(unknown)} images that are not in {labels.source} were left out: {unknown[0]}{more(unknown)}")
    if missing := [name for name in labels.of_file if name not in met]:
        notes.append(f"{len(missing)} files of {labels.source} were not found: {missing[0]}{more(missing)}")
    return dict(sorted(classes.items())), notes


def more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


SHOWN = 3


def content_numbers(photos: Sequence[Photo], read: Reader) -> list[int]:
    """For each photo the place of the first one with the same bytes. Only photos of one size are read."""
    by_size: dict[int, list[int]] = defaultdict(list)
    for number, photo in enumerate(photos):
        by_size[photo.size].append(number)
    first = list(range(len(photos)))
    for numbers in by_size.values():
        known: dict[bytes, int] = {}
        for number in numbers if len(numbers) > 1 else ():
            first[number] = known.setdefault(hashlib.sha256(read(photos[number])).digest(), number)
    return first


def find_duplicates(
    photos: Sequence[Photo], owner: Sequence[int], names: Sequence[str], content: Sequence[int]
) -> tuple[set[int], list[str]]:
    """(places of the photos to leave out, notes on them), for the number `owner` [photos] of each photo's class and `names`
    [classes]; photos with the same `content` [photos] are the same.

    Within a class a photo counts once. Of classes that hold the same photos one stays, if possible one that is reached
    without links. Any other photo that lies in several classes is left out of all of them: which class it is of is not known.
    """
    out: set[int] = set()
    notes: list[str] = []
    held: dict[int, dict[int, int]] = defaultdict(dict)  # class -> content -> the photo that stays
    again = []
    for number in sorted(range(len(photos)), key=lambda number: (photos[number].linked, number)):
        kept = held[owner[number]].setdefault(content[number], number)
        if kept != number:
            again.append((number, kept))
    if again:
        out |= {number for number, _ in again}
        notes.append(f"{_photos(len(again))} there twice in one class and counted once: {_pairs(again, photos)}")
    same: dict[frozenset[int], list[int]] = defaultdict(list)
    for number in sorted(held):
        same[frozenset(held[number])].append(number)
    twins = []
    for group in same.values():
        stays, *others = sorted(group, key=lambda number: all(photos[place].linked for place in held[number].values()))
        for number in others:
            out |= set(held.pop(number).values())
            twins.append(f"{names[number]} (the same as {names[stays]})")
    if twins:
        notes.append(f"classes that hold the same photos as another one were left out: {_few(twins)}")
    count = Counter(one for kept in held.values() for one in kept)
    shared = {one: [kept[one] for kept in held.values() if one in kept] for one, classes in count.items() if classes > 1}
    if shared:
        out |= {place for places in shared.values() for place in places}
        pairs = [(places[0], places[1]) for places in shared.values()]
        notes.append(f"{_photos(len(shared))} in several classes and left out of all: {_pairs(pairs, photos)}")
        if lost := [names[number] for number, kept in held.items() if set(kept) <= set(shared)]:
            notes.append(f"classes that have no photo of their own were left out: {_few(lost)}")
    return out, notes


def _photos(count: int) -> str:
    return "1 photo is" if count == 1 else f"{count} photos are"


def _pairs(pairs: Sequence[tuple[int, int]], photos: Sequence[Photo]) -> str:
    return _few([f"{photos[one].name} is {photos[other].name}" for one, other in pairs])


def _few(words: Sequence[str]) -> str:
    return ", ".join(words[:SHOWN]) + (f" and {len(words) - SHOWN} more" if len(words) > SHOWN else "")
