"""Finds image files in a folder or a zip and decodes them. Nothing is unpacked to disk."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from fewstep.errors import InputError
from fewstep.storage.text_files import legible

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FOREIGN = (".heic", ".heif", ".avif", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw")
"""of photos that are found and cannot be read, so that nobody misses them without a word"""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""what Pillow may take a file for, whatever its name: some of its other formats start programs"""
MOST_PIXELS = 100_000_000
"""of one image, as it declares itself before it is decoded"""
MOST_BYTES = 200_000_000
"""of one image file, unpacked"""
MOST_RATIO, RATIO_FROM = 200, 10_000_000
"""A member of a zip that unpacks to more than so many times its size, and to more bytes than this, is no photo."""
MOST_MEMBERS = 2_000_000
"""of a zip"""
VERSION = 1
"""of this preparation: with another one, what was prepared before is made anew"""


class Unreadable(ValueError):
    """One image that cannot be used. The message says which and why."""


class Photo(NamedTuple):
    """One image file, not yet read."""

    name: str
    """its path below the source, with /"""
    size: int
    """bytes"""
    stamp: int
    """when it was last changed, in nanoseconds; in a zip, its checksum"""
    place: Path | zipfile.ZipInfo
    linked: bool = False
    """whether it is reached by a symbolic link"""


Reader = Callable[[Photo], bytes]
Progress = Callable[[int, int], None]


@contextmanager
def photos_in(source: str | Path) -> Iterator[tuple[list[Photo], Reader, list[str]]]:
    """The image files anywhere in a folder or a .zip, by name, or one file; a function that gives the bytes of each; and notes
    on folders that have several names.

    Nothing is unpacked to disk. Raises `InputError` for what is not there, has no images, or is no sound and harmless zip.
    """
    path, archive, notes = Path(source), None, []
    if path.is_dir():
        try:
            photos, twice = _walk(path)
            notes = [f"{link} leads to the same folder as {kept}, which is read once, as {kept}" for link, kept in twice]
        except OSError as error:
            raise InputError(f"{source}: expected a folder that can be read: {error}. Check its permissions.") from error
    elif path.is_file() and path.suffix.lower() == ".zip":
        archive = _open_zip(path)
        photos = [_photo(member) for member in archive.infolist() if _is_image(_name(member))]
    elif path.is_file():
        photos = [Photo(legible(path.name), path.stat().st_size, path.stat().st_mtime_ns, path)]
    else:
        raise InputError(f"{source}: expected a folder or a .zip of photos, found nothing of that name. Check the path.")
    lock = threading.Lock()  # a zip counts its open members, and not safely

    def read(photo: Photo) -> bytes:
        if photo.size > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES // 1_000_000} MB")
        if isinstance(photo.place, Path):
            return photo.place.read_bytes()
        assert archive is not None
        with lock:
            return archive.read(photo.place)

    try:
        if not photos:
            raise InputError(f"{source}: expected photos ({', '.join(ENDINGS)}), found none. Check the path.")
        yield sorted(photos, key=lambda photo: photo.name), read, notes
    finally:
        if archive is not None:
            archive.close()


def _walk(source: Path) -> tuple[list[Photo], list[tuple[str, str]]]:
    """(the photos of a folder and of those in it; the names of folders that lead to a folder which is read under another name,
    with that name). Links are followed after all that is reached without them, so each folder is read once, under its own name
    where that lies in the source, and circles end."""
    known: dict[tuple[int, int], str] = {}
    photos: list[Photo] = []
    twice: list[tuple[str, str]] = []
    waiting: list[tuple[str, Path]] = []

    def read(folder: Path, name: str, linked: bool) -> None:
        here = folder.stat()
        kept = known.setdefault((here.st_dev, here.st_ino), name or ".")
        if kept != (name or "."):
            twice.append((name, kept))
            return
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                inside = f"{name}/{legible(entry.name)}" if name else legible(entry.name)
                if _is(entry.is_dir) and not _is_hidden(entry.name):
                    if entry.is_symlink():
                        waiting.append((inside, Path(entry.path)))
                    else:
                        read(Path(entry.path), inside, linked)
                elif _is_image(entry.name) and _is(entry.is_file):
                    about = entry.stat()
                    photos.append(
                        Photo(inside, about.st_size, about.st_mtime_ns, Path(entry.path), linked or entry.is_symlink())
                    )

    read(source, "", False)
    while waiting:
        links, waiting[:] = sorted(waiting), []
        for name, folder in links:
            read(folder, name, True)
    return photos, twice


def _is(what: Callable[[], bool]) -> bool:
    """`entry.is_dir` or `entry.is_file`; a link that leads to itself is neither."""
    try:
        return what()
    except OSError:
        return False


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"


def _is_image(name: str) -> bool:
    return name.lower().endswith(ENDINGS + FOREIGN) and not any(map(_is_hidden, name.split("/")))


def _name(member: zipfile.ZipInfo) -> str:
    return member.filename.replace("\\", "/")


def _photo(member: zipfile.ZipInfo) -> Photo:
    return Photo(_name(member), member.file_size, member.CRC, member)


def _open_zip(path: Path) -> zipfile.ZipFile:
    """A zip that may be read, or `InputError`: what leads out of its folder or unpacks to absurd sizes was made to do harm."""
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # of a damaged directory, whatever comes of it
        raise InputError(f"{path}: expected a zip, but it is damaged or none: {error}. Fetch or make it again.") from error
    found = None
    if len(archive.infolist()) > MOST_MEMBERS:
        found = f"{len(archive.infolist())} members, more than {MOST_MEMBERS}"
    for member in archive.infolist():
        name, size = _name(member), member.file_size
        if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in name.split("/"):
            found = f"a member that leads out of it, {name!r}"
        elif stat.S_ISLNK(member.external_attr >> 16):
            found = f"a link, {name!r}"
        elif _is_image(name) and member.flag_bits & 1:  # what is no image is never opened
            found = f"an encrypted member, {name!r}"
        elif _is_image(name) and size > MOST_BYTES:
            found = f"a member of {size // 1_000_000} MB, {name!r}"
        elif _is_image(name) and size > RATIO_FROM and size > MOST_RATIO * member.compress_size:
            found = f"a member that unpacks to {size // max(member.compress_size, 1)} times its size, {name!r}"
        if found:
            archive.close()
            raise InputError(
                f"{path}: expected a zip of plain photos, found {found}. Zip the photos anew, or give their folder."
            )
    return archive


def digest_of(photos: Sequence[Photo], *settings: Any) -> str:
    """One word for these photos as they are now, prepared with these settings."""
    digest = hashlib.sha256(repr((VERSION, *settings)).encode())
    for photo in photos:
        digest.update(f"{photo.name}\0{photo.size}\0{photo.stamp}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def decode(
    photos: Sequence[Photo], read: Reader, size: int, channels: int, progress: Progress | None = None
) -> tuple[np.ndarray, dict[int, str]]:
    """([photos, size, size, channels] uint8, photo number -> which one it is and why it cannot be read; its row is empty)."""
    images = np.zeros((len(photos), size, size, channels), np.uint8)
    unreadable = {}

    def one(number: int) -> str:
        name = photos[number].name
        try:
            images[number] = _opened(io.BytesIO(read(photos[number])), name, size, channels)
        except Unreadable as error:
            return str(error)
        except Exception as error:  # a damaged member, a file without permission
            return f"{name} ({error})"
        return ""

    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes without the lock
        warnings.simplefilter("ignore")
        for number, reason in enumerate(pool.map(one, range(len(photos)))):
            if reason:
                unreadable[number] = reason
            if progress is not None:
                progress(number + 1, len(photos))
    return images, unreadable


def open_image(source: str | Path | IO[bytes], name: str, size: int, channels: int) -> np.ndarray:
    """[size, size, channels] uint8: the middle square of an image, upright, on white where it is transparent, in gray
    (1 channel) or color (3). Raises `Unreadable` if `source` is damaged, too large or no image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata: what matters is an error
        return _opened(source, name, size, channels)


def _opened(source: str | Path | IO[bytes], name: str, size: int, channels: int) -> np.ndarray:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(source, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            image.load()
            try:
                upright = ImageOps.exif_transpose(image)
            except Exception:  # odd metadata: then the image is taken as it stands
                upright = image
            plain = _eight_bits(upright)
        if plain.has_transparency_data:
            plain = plain.convert("RGBA")
            plain = Image.alpha_composite(Image.new("RGBA", plain.size, "white"), plain)
        plain = plain.convert("L" if channels == 1 else "RGB")
        side = min(plain.size)
        left, top = (plain.width - side) // 2, (plain.height - side) // 2
        square = plain.crop((left, top, left + side, top + side))
        return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS)).reshape(size, size, channels)
    except Image.DecompressionBombError as error:
        raise Unreadable(f"{name} (more than {MOST_PIXELS // 1_000_000} million pixels)") from error
    except UnidentifiedImageError as error:
        hint = "; convert it to JPEG" if name.lower().endswith(FOREIGN) else ""
        raise Unreadable(f"{name} (no JPEG, PNG, WebP, BMP, GIF or TIFF{hint})") from error
    except Exception as error:  # decoders raise whatever comes of damaged bytes
        raise Unreadable(f"{name} ({error})") from error


def _eight_bits(image: Any) -> Any:
    """An image of 16 bits, or of numbers from 0 to 1, 255 or 65,535, as one of 8 bits; any other as it is."""
    from PIL import Image

    if not image.mode.startswith("I") and image.mode != "F":
        return image
    values = np.asarray(image).astype(np.float64)
    least, most = values.min(), values.max()
    if not (least >= 0 and most <= 65_535):
        raise ValueError("numbers that are no 8 or 16 bits")
    white = (1 if most <= 1 else 255) if image.mode == "F" and most <= 255 else 65_535
    return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))
