"""Splits the classes of an image set into meta-train, -validation, calibration and -test classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fewstep.apps.images.data import ImageSet
from fewstep.apps.images.tasks import MOST_CALIBRATION, MOST_CALIBRATION_PHOTOS, Normalization
from fewstep.core.problem import needed_to_calibrate
from fewstep.errors import InputError

SHOWN = {"train": "meta-train", "validation": "meta-validation", "calibration": "calibration", "test": "meta-test"}
SETS_AT = (80, 90, 95)
"""per cent: levels of prediction sets that people are told about before the training"""
MOST_FITTED = 2_000
"""Means and deviations of colors are taken from so many meta-train images."""
Parts = dict[str, np.ndarray]
"""meta-train, -validation, calibration and -test classes, by number"""


def split_usable_classes(
    found: ImageSet,
    split: Callable[[ImageSet], Parts],
    ways: int,
    shots: int,
    queries: int,
    source: str,
    seed: int,
    sets: bool = True,
) -> tuple[Parts, list[str]]:
    """(which classes are for what, those with too few images left out; what was left out). The split does not depend on how
    many images are asked for, so that a run can be evaluated at other shots on classes that it never saw. Without `sets`, no
    classes are kept for prediction sets.

    Raises `InputError` if too few classes are left in a part.
    """
    least, notes = shots + queries, []
    few = found.length < least
    if few.any():
        shown = ", ".join(f"{found.names[i]} ({found.length[i]})" for i in np.flatnonzero(few)[:3])
        notes.append(
            f"{few.sum()} of {few.size} classes have fewer than {least} images (--shots and --queries) and are left out: "
            f"{shown}{', ...' if few.sum() > 3 else ''}"
        )
    if (~few).sum() < 3 * ways:
        raise InputError(
            f"{source}: {(~few).sum()} classes have at least {least} images; expected at least "
            f"{3 * ways}, --ways {ways} each for meta-training, -validation and -testing. Try fewer --ways, "
            "--shots or --queries, or more classes."
        )
    parts = split(found)
    order = np.random.default_rng(seed).permutation(parts["validation"])
    # Classes for prediction sets serve for nothing else. Meta-validation keeps enough for tasks and for as many strangers;
    # if too few are left for the lowest level, or too few of those kept have images enough, it keeps them all.
    spare = min(order.size // 2, order.size - 2 * ways) if sets else 0
    spare = spare if spare >= needed_to_calibrate(SETS_AT[0] / 100) else 0
    spare = spare if (~few[order[spare:]]).sum() >= ways else 0
    parts = {part: classes[~few[classes]] for part, classes in (parts | {"validation": order[spare:]}).items()}
    apart = order[:spare][~few[order[:spare]]]
    short = [classes.size for classes in parts.values() if classes.size < ways]
    if short:
        counts = ", ".join(f"{classes.size} {SHOWN[part]}" for part, classes in parts.items())
        fewer = f"--ways {min(short)}" if min(short) > 1 else "more classes"
        parts = "--parts 0.34 0.33 0.33 in training, or another split"
        raise InputError(f"{source}: --ways {ways}, but there are {counts} classes. Try {fewer}, or {parts}.")
    return {part: np.sort(classes) for part, classes in (parts | {"calibration": apart}).items()}, notes


def split_groups(groups: np.ndarray, parts: tuple[float, float, float], seed: int) -> Parts:
    """Numbers of classes for meta-training, -validation and -testing; `groups` [classes] stay together: in random order, each
    is given to the part that lacks most."""
    names, of_class = np.unique(groups, return_inverse=True)
    wanted = dict(zip(("train", "validation", "test"), np.array(parts) * groups.size, strict=True))
    chosen: dict[str, list[np.ndarray]] = {part: [] for part in wanted}
    for number in np.random.default_rng(seed).permutation(names.size):
        members = np.flatnonzero(of_class == number)
        part = max(wanted, key=wanted.__getitem__)
        chosen[part].append(members)
        wanted[part] -= members.size
    return {part: np.sort(np.concatenate(each)) if each else np.zeros(0, int) for part, each in chosen.items()}


def fit_normalization(found: ImageSet, train: np.ndarray) -> Normalization:
    """Mean and deviation of each channel over meta-train images."""
    starts, lengths = found.start[train], found.length[train]
    images = np.concatenate([start + np.arange(length) for start, length in zip(starts, lengths, strict=True)])
    some = images[:: max(1, images.size // MOST_FITTED)]
    values = found.images[some].reshape(-1, found.images.shape[-1]) / 255.0
    deviation = np.maximum(values.std(0), 1e-3)
    return Normalization(
        tuple(round(float(value), 6) for value in values.mean(0)), tuple(round(float(value), 6) for value in deviation)
    )


def calibration_photos(found: ImageSet, classes: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """uint8 [classes, photos, height, width, channels]: some photos of calibration classes, as many of each; the same for a
    `seed`."""
    random = np.random.default_rng(seed)
    chosen = random.permutation(classes)[:MOST_CALIBRATION]
    most = min([max(MOST_CALIBRATION_PHOTOS, shots + 5), *found.length[chosen].tolist()]) if chosen.size else 0
    places = [found.start[number] + random.permutation(found.length[number])[:most] for number in chosen]
    return found.images[np.array(places, int).reshape(chosen.size, most)]


def describe_prediction_sets(classes: int, all_classes: int) -> str:
    """Which prediction sets so many calibration classes of `all_classes` allow: a line to read before the training."""
    needed = {level: needed_to_calibrate(level / 100) for level in SETS_AT}
    best = max((level for level, number in needed.items() if number <= classes), default=None)
    allowed = f"up to {best} %" if best else "none"
    takes = ", ".join(f"{number} for {level} %" for level, number in needed.items())
    more = "" if best == SETS_AT[-1] else "; more classes in --data or --parts give more"
    return f"prediction sets (predict --level): {allowed}, by {classes} of {all_classes} classes; it takes {takes}{more}"
