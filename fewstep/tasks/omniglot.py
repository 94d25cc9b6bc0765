"""Omniglot (Lake et al. 2015): 1,623 handwritten characters of 50 alphabets (floor 1). Used by problems/images.py."""

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
from pathlib import Path

import numpy as np

from fewstep.cache import cache_directory
from fewstep.errors import BadInput
from fewstep.tasks.image_set import ImageSet, read_prepared, write_prepared
from fewstep.tasks.photos import VERSION, Photo, Progress, decode, digest_of, photos_in

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
VINYALS = Path(__file__).parent / "splits" / "omniglot_vinyals.json"
FINN_VALIDATION, FINN_TEST = 100, 423


def read_omniglot(data_dir: str | Path | None, *, size: int = 28, progress: Progress | None = None) -> ImageSet:
    """All of Omniglot: 1,623 characters x 20 drawings [size, size, 1], ink 255 on 0, background alphabets first. Groups are
    alphabets.

    `data_dir` holds upstream's two zips or the folders that they unpack to. None: what was prepared before, or else the zips
    are downloaded, once, to the user's cache. `progress(done, total)` is told of every drawing that is read.
    Raises `BadInput` where the data are not found, not complete or cannot be downloaded.
    """
    if size < 1:
        raise BadInput(f"expected drawings of 1 pixel or more a side, got {size}. Change the size.")
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
                raise BadInput(
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

    Raises `BadInput` where a character of the split is not among the names.
    """
    numbers = {name: number for number, name in enumerate(names)}
    split: dict[str, list[str]] = json.loads(VINYALS.read_text(encoding="utf-8"))
    if missing := [name for part in split.values() for name in part if name not in numbers]:
        raise BadInput(f"expected the characters of Omniglot, but {len(missing)} lack, such as {missing[0]!r}. Give all of it.")
    held = {part: np.sort([numbers[name] for name in part_names]) for part, part_names in split.items()}
    return {"train": np.setdiff1d(np.arange(len(names)), np.concatenate(list(held.values()))), **held}


def finn_split(count: int, seed: int) -> dict[str, np.ndarray]:
    """A random split of `count` characters: 423 for test, 100 for validation, the others for training. Of 1,623 these are the
    1,200 characters that Finn et al. 2017 train on, 100 of them kept apart. Raises `BadInput` where too few are left."""
    if count <= FINN_VALIDATION + FINN_TEST:
        raise BadInput(
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
    raise BadInput(
        f"{data_dir}: expected Omniglot's {part}.zip or the folder {part}, found neither. Give the folder that they are in, "
        "or leave it out to download them."
    )


def _characters(data_dir: str | Path, part: str, drawings: Sequence[Photo]) -> list[str]:
    """The names of a part's characters, in order, if it is complete."""
    found = Counter("/".join(each.name.split("/")[-3:-1]) for each in drawings)
    odd = [name for name, count in found.items() if count != DRAWINGS]
    if len(found) != CHARACTERS[part] or odd:
        also = f", {len(odd)} of them with another number, such as {odd[0]} with {found[odd[0]]}" if odd else ""
        raise BadInput(
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
                raise BadInput(
                    f"{address}: expected a file with the md5 sum {expected}, got {found}, and removed it. Try again, or fetch "
                    "Omniglot by other means and give its folder with --data-dir."
                )
            partial.replace(folder / name)
        except (OSError, http.client.HTTPException) as error:
            raise BadInput(
                f"expected Omniglot on this machine or at {address}, which cannot be downloaded: {error}. Try again to go on "
                f"with it, or fetch {' and '.join(ARCHIVES)} by other means and give their folder with --data-dir."
            ) from error
    return folder


def _download(address: str, partial: Path) -> None:
    """Fetches what a partial file lacks, with a line on stderr. Raises `OSError` where the connection fails or breaks off."""
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
