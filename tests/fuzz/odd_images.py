"""Files and folders that are given for photos, by name: bytes, or what makes them or fills a folder."""

import io
import os
import random
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES, PHOTOS = 12, 3


def picture(mode="RGB", size=(10, 10), seed=0, format="PNG", **options):
    """The bytes of an image of random pixels."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


def sound(folder: Path, classes=CLASSES, photos=PHOTOS, ending=".png"):
    """Class folders of photos."""
    for number in range(classes):
        (folder / f"class{number}").mkdir(parents=True)
        for photo in range(photos):
            (folder / f"class{number}" / f"{photo}{ending}").write_bytes(picture(seed=number * photos + photo))


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_bomb(width=20_000, height=20_000, filled=True):
    """A PNG that is tiny and declares to be huge, with its black pixels or without."""
    squeeze = zlib.compressobj(9)
    rows = b"".join(squeeze.compress(b"\x00" * (width + 1)) for _ in range(height if filled else 0)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def files():
    """Single files, each put among sound photos, and made all photos of a folder."""
    png, jpeg = picture(), picture(format="JPEG")
    yield "an empty file.png", b""
    yield "text.png", b"this is text\n" * 9
    yield "html.jpg", b"<html><body>404 Not Found</body></html>"
    yield "random.jpg", random.Random(0).randbytes(5_000)
    yield "zeros.png", b"\x00" * 5_000
    yield "script.gif", b"#!/bin/sh\ntouch /tmp/owned\n"
    yield "postscript.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n"
    yield "svg.png", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    yield "pickle.png", b"cos\nsystem\n(S'touch owned'\ntR."
    yield "pointer.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    for name, whole in (("png", png), ("jpg", jpeg)):
        for part in (1, 8, 30, len(whole) // 2, len(whole) - 20, len(whole) - 1):
            yield f"the first {part} bytes.{name}", whole[:part]
        draw = random.Random(name)
        for number in range(12):
            damaged = bytearray(whole)
            for _ in range(1 + number):
                damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
            yield f"damage {number}.{name}", bytes(damaged)
        yield f"followed by more.{name}", whole + b"more" * 100
    yield "another ending.jpg", png
    yield "another ending.tiff", png
    yield "one pixel.png", picture(size=(1, 1))
    yield "one column.png", picture(size=(1, 900))
    yield "one row.png", picture(size=(900, 1))
    yield "long and thin.png", picture(size=(2, 9_000))
    yield "declared huge.png", png_bomb(60_000, 60_000, False)
    yield "declared without width.png", png_bomb(0, 10, False)
    yield "declared as wide as can be.png", png_bomb(2**31 - 1, 1, False)
    yield "declared beyond that.png", png_bomb(2**32 - 1, 2**32 - 1, False)
    yield "a bomb.png", png_bomb
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        yield f"mode {mode}.png", picture(mode)
    for mode in ("CMYK", "L"):
        yield f"mode {mode}.jpg", picture(mode, format="JPEG")
    for mode in ("CMYK", "LAB", "YCbCr", "F", "I", "RGBA", "1"):
        yield f"mode {mode}.tif", picture(mode, format="TIFF")
    for values, name in (
        ([np.nan] * 100, "nan"),
        ([1e30] * 100, "large"),
        ([-5.0] * 100, "negative"),
        ([np.inf] * 100, "infinite"),
    ):
        buffer = io.BytesIO()
        Image.fromarray(np.array(values, np.float32).reshape(10, 10)).save(buffer, "TIFF")
        yield f"numbers that are {name}.tif", buffer.getvalue()
    frames = [Image.fromarray(np.full((10, 10), 25 * number, np.uint8)) for number in range(9)]
    for format in ("GIF", "WEBP", "PNG", "TIFF"):
        buffer = io.BytesIO()
        frames[0].save(buffer, format, save_all=True, append_images=frames[1:])
        yield f"animated.{format.lower()}", buffer.getvalue()
    for turned in (2, 6, 8, 99):
        exif = Image.Exif()
        exif[0x0112] = turned
        yield f"turned {turned}.jpg", picture(format="JPEG", exif=exif)
    yield "odd metadata.jpg", picture(format="JPEG", exif=b"Exif\x00\x00II*\x00" + b"\xff" * 60)
    yield "a long comment.png", png[:33] + chunk(b"tEXt", b"a\x00" + b"x" * 200_000) + png[33:]
    yield (
        "a comment that is a bomb.png",
        png[:33] + chunk(b"zTXt", b"a\x00\x00" + zlib.compress(b"x" * 50_000_000, 9)) + png[33:],
    )
    yield "a profile that is none.png", png[:33] + chunk(b"iCCP", b"a\x00\x00" + zlib.compress(b"junk")) + png[33:]
    yield "photo.heic", b"\x00\x00\x00\x18ftypheic" + b"\x00" * 90
    yield "photo.avif", b"\x00\x00\x00\x18ftypavif" + b"\x00" * 90


ODD_NAMES = [
    *(
        "a\nb",
        'a"b',
        "a'b",
        "a b",
        "a\tb",
        "\x1b[31m",
        "é",
        "e\u0301",
        "😀",
        "\u202egnp",
        "x" * 200,
        "-1",
        "--json",
        "=1+1",
        "a,b",
    ),
    *(
        "a|b",
        "a;b",
        "%s",
        "{}",
        "[bold]",
        "$HOME",
        "`id`",
        "*",
        "?",
        "~",
        "...",
        "a\\b",
        "NUL",
        "con",
        "a:b",
        "\ufeffa",
        " ",
        "0",
        "nan",
    ),
    *(os.fsdecode(b"\xff\xfe"), os.fsdecode(b"caf\xe9")),
]


def folders():
    """name -> a function that fills a folder."""

    def of(change, **shape):
        def fill(folder):
            sound(folder, **shape)
            change(folder)

        return fill

    def loop(folder):
        (folder / "class0" / "loop").symlink_to(folder)
        (folder / "class1" / "self").symlink_to("self")

    def outside(folder):
        away = folder.parent / "away"
        sound(away, 2)
        (folder / "class99").symlink_to(away / "class0")

    def twice_outside(folder):
        outside(folder)
        (folder / "class98").symlink_to(folder.parent / "away" / "class0")

    def crossed(folder):
        (folder / "class0" / "other").symlink_to(folder / "class1")
        (folder / "class1" / "other").symlink_to(folder / "class0")

    def all_again(folder, make):
        (folder / "class99").mkdir()
        for path in sorted((folder / "class0").iterdir()):
            make(path, folder / "class99" / path.name)

    def loose(folder):
        for path in folder.glob("*/*"):
            path.rename(folder / f"{path.parent.name}-{path.name}")
        for path in list(folder.iterdir()):
            if path.is_dir():
                path.rmdir()

    def deep(folder):
        place = folder / "class0"
        for _ in range(60):
            place = place / "deeper"
        place.mkdir(parents=True)
        (place / "1.png").write_bytes(picture(seed=99))

    def parts(folder):
        for name in ("train", "val", "test"):
            (folder / name).mkdir()
        for number, path in enumerate(sorted(folder.glob("class*"))):
            path.rename(folder / ("train", "val", "test")[number % 3] / path.name)

    yield "sound", of(lambda folder: None)
    yield "empty", lambda folder: folder.mkdir()
    yield "one class", of(lambda folder: None, classes=1)
    yield "two classes", of(lambda folder: None, classes=2)
    yield "one photo a class", of(lambda folder: None, photos=1)
    yield "a class of one photo", of(lambda folder: [path.unlink() for path in (folder / "class0").glob("[12].png")])
    yield "classes of one photo but one", of(lambda folder: [path.unlink() for path in folder.glob("class[1-9]/[12].png")])
    yield "an empty class", of(lambda folder: (folder / "class99").mkdir())
    yield (
        "a class of text files",
        of(lambda folder: [path.rename(path.with_suffix(".txt")) for path in folder.glob("class0/*")]),
    )
    yield "endings that are no images", of(lambda folder: None, ending=".txt")
    yield "endings in capitals", of(lambda folder: None, ending=".PNG")
    yield "no endings", of(lambda folder: None, ending="")
    yield "photos that lie loose", of(loose)
    yield "a photo beside the classes", of(lambda folder: (folder / "1.png").write_bytes(picture()))
    yield "folders called like photos", of(lambda folder: (folder / "class0" / "9.png").mkdir())
    yield "class folders called like photos", of(lambda folder: (folder / "class0").rename(folder / "class0.png"))
    yield "links in circles", of(loop)
    yield "links that lead outside", of(outside)
    yield "a class by two names", of(lambda folder: (folder / "class99").symlink_to(folder / "class0"))
    yield "a class by two links", of(twice_outside)
    yield "all classes in a linked folder too", of(lambda folder: (folder / "again").symlink_to(folder))
    yield "links to each other", of(crossed)
    for name, make in (("copies", shutil.copy), ("hard links", os.link), ("links", os.symlink)):
        yield f"a class of {name} of another", of(lambda folder, make=make: all_again(folder, make))
        yield (
            f"{name} of a photo in another class",
            of(lambda folder, make=make: make(folder / "class0" / "0.png", folder / "class1" / "9.png")),
        )
        yield (
            f"{name} of a photo in its class",
            of(lambda folder, make=make: make(folder / "class0" / "0.png", folder / "class0" / "9.png")),
        )
    yield "links that lead nowhere", of(lambda folder: (folder / "class0" / "9.png").symlink_to("nowhere"))
    yield "a link to an endless device", of(lambda folder: (folder / "class0" / "9.png").symlink_to("/dev/zero"))
    yield "a pipe among the photos", of(lambda folder: os.mkfifo(folder / "class0" / "9.png"))
    yield "sixty folders deep", of(deep)
    yield "hidden folders", of(lambda folder: (folder / "class0").rename(folder / ".class0"))
    yield "folders of a Mac's zip", of(lambda folder: sound(folder / "__MACOSX"))
    yield "train, val and test", of(parts)
    yield "train alone", of(lambda folder: [path.rename(folder / "class0" / path.name) for path in folder.glob("class[1-9]")])
    yield "the same photo in all classes", of(lambda folder: [path.write_bytes(picture()) for path in folder.glob("*/*")])
    yield "black photos", of(lambda folder: [path.write_bytes(png_bomb(9, 9)) for path in folder.glob("*/*")])
    yield (
        "photos of many sizes",
        of(
            lambda folder: [
                path.write_bytes(picture(size=(3 + n, 40 - n))) for n, path in enumerate(sorted(folder.glob("*/*")))
            ]
        ),
    )
    yield "a thousand classes", of(lambda folder: [(folder / f"more{number}").mkdir() for number in range(1000)])
    for name in ODD_NAMES:
        yield f"a class called {ascii(name)[:30]}", of(lambda folder, name=name: (folder / "class0").rename(folder / name))
        yield (
            f"a photo called {ascii(name)[:30]}",
            of(lambda folder, name=name: (folder / "class0" / "0.png").rename(folder / "class0" / f"{name}.png")),
        )


def archives():
    """name -> the bytes of a zip."""

    def of(members, **options):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", **options) as archive:
            for name, content in members:
                archive.writestr(name, content)
        return buffer.getvalue()

    good = [
        (f"class{number}/{photo}.png", picture(seed=9 * number + photo)) for number in range(CLASSES) for photo in range(PHOTOS)
    ]
    whole = of(good)
    link = zipfile.ZipInfo("class0/9.png")
    link.external_attr = 0o120777 << 16
    yield "sound", whole
    yield "empty", of([])
    yield "no zip", b"this is text"
    yield "no bytes", b""
    for part in (4, 30, len(whole) // 2, len(whole) - 1):
        yield f"the first {part} bytes", whole[:part]
    draw = random.Random(0)
    for number in range(16):
        damaged = bytearray(whole)
        for _ in range(1 + number):
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        yield f"damage {number}", bytes(damaged)
    for number in range(8):  # in the directory at its end
        damaged = bytearray(whole)
        for _ in range(1 + number):
            damaged[draw.randrange(len(damaged) - 900, len(damaged))] ^= 1 << draw.randrange(8)
        yield f"damaged directory {number}", bytes(damaged)
    yield "a member outside", of([*good, ("../../x.png", picture())])
    yield "a member from the root", of([*good, ("/tmp/x.png", picture())])
    yield "a member of another drive", of([*good, ("C:\\x.png", picture())])
    yield "a link", of([*good, (link, "/etc/passwd")])
    yield "a bomb", lambda: of([*good, ("class0/9.png", b"\x00" * 150_000_000)], compression=zipfile.ZIP_DEFLATED)
    yield "a zip in a zip", of([("photos.zip", whole)])
    yield "text among photos", of([*good, ("class0/9.png", b"text")])
    yield "members without folders", of([(f"{number}.png", picture(seed=number)) for number in range(9)])
    yield "odd names", of([*good, ("class\n0/9.png", picture()), ("cl\x1b[31mass/9.png", picture())])
    yield "text for photos", of([(name, b"text") for name, _ in good])
    yield "behind other bytes", b"MZ" + b"\x00" * 500 + whole
