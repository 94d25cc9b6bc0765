"""A table beside photos that says which class each is of, or which classes are for what (floor 1). Used by image_files.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fewstep.errors import BadInput
from fewstep.tasks.reading import read_table

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

    Raises `BadInput` where it has other columns, another word for a part, one class in several parts or one file in several
    classes.
    """
    table = read_table(path)
    lower = {name.strip().lower(): name for name in reversed(table.columns)}
    file, label, split = (next((lower[name] for name in names if name in lower), None) for names in (FILE, CLASS, SPLIT))
    if label is None or (file is None and split is None):
        raise BadInput(
            f"{path}: expected the columns file and class, or class and split (train, validation, test), found "
            f"{', '.join(table.columns)}. Rename them."
        )
    rows = {name: [str(value).strip() for value in table[name]] for name in (file, label, split) if name}
    parts: dict[str, str] = {}
    for name, word in zip(rows[label], rows[split] if split else (), strict=bool(split)):
        if word.lower() not in PARTS:
            raise BadInput(f"{path}: expected train, validation or test in the column {split}, found {word!r} for {name}.")
        part = PARTS[word.lower()]
        if parts.setdefault(name, part) != part:
            raise BadInput(f"{path}: class {name} is in {parts[name]} and in {part}; expected every class in one part alone.")
    of_file: dict[str, str] = {}
    for name, called in zip(rows[file] if file else (), rows[label], strict=bool(file)):
        if (other := of_file.setdefault(name.replace("\\", "/"), called)) != called:
            raise BadInput(f"{path}: {name} is of class {other} and of {called}; expected one class for every file.")
    return Labels(str(path), of_file, parts)


def labelled(labels: Labels, names: Sequence[str]) -> tuple[dict[str, list[int]], list[str]]:
    """(the numbers of the photos of each class, by the paths `names` of photos or by their last parts; notes on those that one
    of both lacks). Raises `BadInput` where no photo is in the table."""
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
        raise BadInput(
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
