"""Photos that are there more than once, whatever their names (floor 1): copies, hard links, links. Used by image_files.py."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from fewstep.tasks.photos import Photo, Reader

SHOWN = 3


def contents(photos: Sequence[Photo], read: Reader) -> list[int]:
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


def repeated(
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
