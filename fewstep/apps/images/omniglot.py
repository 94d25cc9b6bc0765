"""Omniglot (Lake, Salakhutdinov & Tenenbaum 2015): 1,623 handwritten characters of 50 alphabets, 20 drawings each."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fewstep.apps.images.data import ImageSet, read_prepared, write_prepared
from fewstep.apps.images.photos import VERSION, Photo, Progress, decode, digest_of, photos_in
from fewstep.apps.images.problem import ImageLearning
from fewstep.apps.images.tasks import Variation
from fewstep.errors import InputError
from fewstep.nn.heads import Head
from fewstep.recipe.settings import PLAIN_MAML
from fewstep.storage.cache import cache_directory

CHARACTERS = {"images_background": 964, "images_evaluation": 659}
"""how many each part has"""
DRAWINGS = 20
"""of each character, each by another person"""
UPSTREAM = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
ARCHIVES = {
    "images_background.zip": (f"{UPSTREAM}/images_background.zip", "68d2efa1b9178cc56df9314c21c6e718"),
    "images_evaluation.zip": (f"{UPSTREAM}/images_evaluation.zip", "6b91aef0f799c5bb55b94e3f2daec811"),
}
"""file -> (where it is, its md5 sum)"""
PATIENCE = 30
"""seconds without a byte, after which a download is given up"""
PIECE = 1 << 18
"""bytes that are read at a time"""
VINYALS = Path(__file__).parent / "split_lists" / "omniglot_vinyals.json"
FINN_VALIDATION, FINN_TEST = 100, 423


def read_omniglot(data_dir: str | Path | None, *, size: int = 28, progress: Progress | None = None) -> ImageSet:
    """All of Omniglot: 1,623 characters x 20 drawings [size, size, 1], ink 255 on 0, background alphabets first. Groups are
    alphabets.

    `data_dir` holds upstream's two zips or the folders that they unpack to. None: what was prepared before, or else the zips
    are downloaded, once, to the user's cache. `progress(done, total)` is told of every drawing that is read.
    Raises `InputError` if the data are not found, not complete or cannot be downloaded.
    """
    if size < 1:
        raise InputError(f"expected drawings of 1 pixel or more a side, got {size}. Change the size.")
    path = cache_directory("omniglot") / f"drawings-{VERSION}-{size}.npz"
    if data_dir is None:
        return read_prepared(path, None) or read_omniglot(_downloaded(), size=size, progress=progress)
    with contextlib.ExitStack() as opened:
        parts = {part: opened.enter_context(photos_in(_find(Path(data_dir), part))) for part in CHARACTERS}
        drawings = {part: [each for each in photos if each.name.count("/") > 1] for part, (photos, _, _) in parts.items()}
        digest = digest_of([each for part in CHARACTERS for each in drawings[part]], "omniglot", size)
        if known := read_prepared(path, digest):
            return known
        names = [name for part in CHARACTERS for name in _characters(data_dir, part, drawings[part])]
        images: list[np.ndarray] = []
        total = len(names) * DRAWINGS
        for part, (_, read, _) in parts.items():
            before = sum(map(len, images))
            told = progress and (lambda done, _, before=before: progress(before + done, total))
            pixels, unreadable = decode(drawings[part], read, size, 1, told)
            if unreadable:
                raise InputError(
                    f"{data_dir}: expected {len(pixels)} drawings in {part}, but {len(unreadable)} cannot be read, such as "
                    f"{next(iter(unreadable.values()))}. Fetch the data again."
                )
            images.append(255 - pixels)  # they are drawn in black on white
    image_set = ImageSet(
        images=np.concatenate(images),
        length=np.full(len(names), DRAWINGS),
        names=tuple(names),
        files=tuple("/".join((part, *each.name.split("/")[-3:])) for part in CHARACTERS for each in drawings[part]),
        groups=tuple(name.partition("/")[0] for name in names),
    )
    write_prepared(path, digest, image_set)
    return image_set


def vinyals_split(names: Sequence[str]) -> dict[str, np.ndarray]:
    """The split of Vinyals et al. 2016: train 1,028, validation 172 and test 423 characters, as numbers into `names`.

    Raises `InputError` if a character of the split is not among the names.
    """
    numbers = {name: number for number, name in enumerate(names)}
    split: dict[str, list[str]] = json.loads(VINYALS.read_text(encoding="utf-8"))
    if missing := [name for part in split.values() for name in part if name not in numbers]:
        raise InputError(
            f"expected the characters of Omniglot, but {len(missing)} lack, such as {missing[0]!r}. Give all of it."
        )
    held = {part: np.sort([numbers[name] for name in part_names]) for part, part_names in split.items()}
    return {"train": np.setdiff1d(np.arange(len(names)), np.concatenate(list(held.values()))), **held}


def finn_split(count: int, seed: int) -> dict[str, np.ndarray]:
    """A random split of `count` characters: 423 for test, 100 for validation, the others for training. Of 1,623 these are the
    1,200 characters that Finn et al. 2017 train on, 100 of them kept apart. Raises `InputError` if too few are left."""
    if count <= FINN_VALIDATION + FINN_TEST:
        raise InputError(
            f"expected more than {FINN_VALIDATION + FINN_TEST} characters to split, got {count}. Give all of Omniglot."
        )
    order = np.random.default_rng(seed).permutation(count)
    train = count - FINN_VALIDATION - FINN_TEST
    parts = np.split(order, [train, train + FINN_VALIDATION])
    return {part: np.sort(numbers) for part, numbers in zip(("train", "validation", "test"), parts, strict=True)}


def _find(data_dir: Path, part: str) -> Path:
    """The zip or folder of that name in a folder, or one below."""
    inside = sorted(each for each in data_dir.iterdir() if each.is_dir()) if data_dir.is_dir() else []
    for folder in (data_dir, *inside):
        if (folder / f"{part}.zip").is_file():
            return folder / f"{part}.zip"
        if (folder / part).is_dir():
            return folder / part
    raise InputError(
        f"{data_dir}: expected Omniglot's {part}.zip or the folder {part}, found neither. Give the folder that they are in, "
        "or leave it out to download them."
    )


def _characters(data_dir: str | Path, part: str, drawings: Sequence[Photo]) -> list[str]:
    """The names of a part's characters, in order, if it is complete."""
    found = Counter("/".join(each.name.split("/")[-3:-1]) for each in drawings)
    odd = [name for name, count in found.items() if count != DRAWINGS]
    if len(found) != CHARACTERS[part] or odd:
        also = f", {len(odd)} of them with another number, such as {odd[0]} with {found[odd[0]]}" if odd else ""
        raise InputError(
            f"{data_dir}: expected {CHARACTERS[part]} characters with {DRAWINGS} drawings each in {part}, found {len(found)} "
            f"characters{also}. Fetch the data again."
        )
    return list(found)


def _downloaded() -> Path:
    """The user's folder with both zips, after downloading what is not there yet. What broke off is gone on with."""
    folder = cache_directory("omniglot")
    for name, (address, expected) in ARCHIVES.items():
        if (folder / name).is_file():
            continue
        partial = folder / f"{name}.partial"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _download(address, partial)
            found = hashlib.md5(partial.read_bytes(), usedforsecurity=False).hexdigest()
            if found != expected:
                partial.unlink()
                raise InputError(
                    f"{address}: expected a file with the md5 sum {expected}, got {found}, and removed it. Try again, or fetch "
                    "Omniglot by other means and give its folder with --data-dir."
                )
            partial.replace(folder / name)
        except (OSError, http.client.HTTPException) as error:
            raise InputError(
                f"expected Omniglot on this machine or at {address}, which cannot be downloaded: {error}. Try again to go on "
                f"with it, or fetch {' and '.join(ARCHIVES)} by other means and give their folder with --data-dir."
            ) from error
    return folder


def _download(address: str, partial: Path) -> None:
    """Fetches what a partial file lacks, with a line on stderr. Raises `OSError` if the connection fails or breaks off."""
    there = partial.stat().st_size if partial.is_file() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={there}-"} if there else {})
    try:
        answer = urllib.request.urlopen(request, timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416:  # nothing lies beyond what is there: it is whole, or another file
            raise
        return
    with answer, partial.open("ab" if answer.status == 206 else "wb") as file:
        done = file.tell()
        total = done + int(answer.headers.get("Content-Length") or 0)
        while piece := answer.read(PIECE):
            file.write(piece)
            done += len(piece)
            of = f" of {total / 1e6:.1f}" if total else ""
            print(f"\rdownloading {address.rpartition('/')[2]}: {done / 1e6:.1f}{of} MB", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr, flush=True)
    if done < total:
        raise ConnectionError(f"the connection broke off after {done} of {total} bytes")


@dataclass(frozen=True, kw_only=True)
class Omniglot(ImageLearning):
    """Omniglot: 1,623 handwritten characters, 20 drawings each, 28 x 28; turned by right angles they are further classes."""

    data_dir: str = ""
    """folder of upstream's images_background.zip and images_evaluation.zip, or of the folders in them; by default they are
    downloaded once"""
    split_by: Literal["vinyals", "finn"] = "vinyals"
    """1,028 / 172 / 423 characters of Vinyals et al. 2016, or 1,100 / 100 / 423 drawn at random as in Finn et al. 2017"""
    rotate: bool = True
    """turn each class of a task by a random multiple of 90 degrees in training"""
    network: Literal["conv4", "conv4-strided", "resnet12", "mlp"] = "conv4-strided"
    """four convolutions with max-pooling or with strides, twelve in residual blocks, or dense layers of --hidden units"""
    filters: int = 64
    """of each convolution of conv4"""
    inner_rate: float = 0.4
    """inner rate alpha; where rates are learned, their starting value"""
    head: Head = "prototype"
    """what the last layer starts from: one learned column for all classes, zeros, or the classes' mean features"""
    variation: Variation = "characters"
    """how each training image is varied: moved and zoomed a little (characters), or cropped, mirrored and lit anew (photos)"""
    joint_steps: int = 10_000
    """meta-training begins from a network that was trained to tell all meta-train classes apart, for so many batches; 0 from an
    untrained one"""
    train_ways: int = 20
    """classes of a task of training, where more of them teach more (Snell et al. 2017); 0 for as many as --ways"""
    queries: int = 3
    """query images of each class in training"""
    adaptation_steps: int = 1
    """adaptation steps in training"""
    first_order_until: float = 0.0
    """meta-gradients are of first order during this first part of the run, then exact (MAML++)"""
    meta_batch_size: int = 8
    """tasks per meta-step"""
    meta_steps: int = 8_000
    """meta-steps of the whole run"""
    log_every: int = 200
    """meta-steps between two lines of the log"""

    @property
    def name(self) -> str:
        return "omniglot"

    @property
    def source(self) -> str:
        return "Omniglot"

    def read(self) -> ImageSet:
        return read_omniglot(self.data_dir or None)

    def split(self, found: ImageSet, seed: int) -> dict[str, np.ndarray]:
        return vinyals_split(found.names) if self.split_by == "vinyals" else finn_split(len(found.names), seed)

    def data_protocol(self) -> dict[str, Any]:
        split = "Vinyals" if self.split_by == "vinyals" else "1,100 / 100 / 423 at random, by the seed of the run"
        return {"data": "Omniglot", "split": split}


ORIGINAL = Omniglot(
    split_by="finn",
    rotate_test=True,
    queries=1,
    test_queries=1,
    normalization="batch",
    validation_tasks=600,
)
"""the protocol of Finn et al. 2017"""
MAML = replace(
    ORIGINAL,
    head="shared",
    variation="none",
    joint_steps=0,
    train_ways=0,
    meta_batch_size=32,
    meta_steps=60_000,
    log_every=500,
    **PLAIN_MAML,
)

PRESETS: dict[str, tuple[Omniglot, str]] = {
    "default": (Omniglot(), "the recipe: joint training, then MAML of 20 ways; Vinyals' split, no batch statistics"),
    "best": (
        replace(ORIGINAL, filters=128, joint_steps=8_000, meta_steps=6_000),
        "the recipe in the protocol of Finn et al. 2017 (their split, batch statistics), with a wider network",
    ),
    "maml": (MAML, "Finn et al. 2017: one step at alpha 0.4, batch statistics, 60,000 meta-steps of 32 tasks"),
    "maml-short": (
        replace(MAML, meta_steps=15_000, outer_schedule="cosine", outer_rate=2e-3, average=0.995),
        "the same in a quarter of the meta-steps: an outer rate that falls to 0, averaged parameters; half an hour on 2 cores",
    ),
}
