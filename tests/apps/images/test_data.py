"""Photos and drawings from files: what they are decoded to, which class they are of, what is refused and what is kept.
Place: fewstep/tasks/image_files, photos, image_set, omniglot."""

import csv
import hashlib
import http.server
import io
import os
import re
import shutil
import stat
import struct
import threading
import time
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from fewstep import InputError
from fewstep.apps.images import data as image_files
from fewstep.apps.images import omniglot, photos
from fewstep.apps.images.data import (
    ImageSet,
    Unreadable,
    classes_of,
    open_image,
    read_image_folder,
    read_photos,
    read_prepared,
    write_prepared,
)
from fewstep.apps.images.labels import read_labels
from fewstep.apps.images.omniglot import finn_split, read_omniglot, vinyals_split
from fewstep.storage.cache import cache_directory

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (6, 6), np.uint8)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def refused(act, *words):
    with pytest.raises(InputError) as caught:
        act()
    message = str(caught.value)
    assert not [word for word in words if word not in message], message
    return message


def as_file(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def opened(bytes, size=6, channels=3):
    return open_image(io.BytesIO(bytes), "photo.jpg", size, channels)


def photo(number, size=6):
    """One of many different photos, as the bytes of a PNG."""
    return as_file(Image.fromarray(np.random.default_rng(number).integers(0, 256, (size, size, 3), np.uint8)))


def folder_of(top, names):
    """A folder with a photo under each name."""
    for number, name in enumerate(names):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(photo(number))
    return top


def zip_of(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, bytes in members.items():
            archive.writestr(name, bytes)
    return path


PETS = [f"{pet}/{number}.png" for pet in ("cat", "dog") for number in range(3)]


# one image


@pytest.mark.parametrize(
    ("image", "format"),
    [
        (Image.fromarray(GRAY), "PNG"),
        (Image.fromarray(GRAY), "BMP"),
        (Image.fromarray(GRAY), "GIF"),
        (Image.fromarray(GRAY).convert("RGB"), "TIFF"),
        (Image.fromarray(GRAY).convert("RGBA"), "PNG"),
        (Image.fromarray(GRAY).convert("LA"), "PNG"),
        (Image.fromarray(GRAY).convert("P"), "PNG"),
        (Image.fromarray(GRAY).convert("RGB").convert("CMYK"), "TIFF"),
        (Image.fromarray(GRAY.astype(np.uint16) * 257), "PNG"),
        (Image.fromarray(GRAY.astype(np.uint16) * 257), "TIFF"),
        (Image.fromarray(GRAY.astype(np.int32) * 257), "TIFF"),
        (Image.fromarray(GRAY.astype(np.float32)), "TIFF"),
        (Image.fromarray(GRAY.astype(np.float32) / 255), "TIFF"),
    ],
    ids=lambda each: getattr(each, "mode", each),
)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_picture_is_the_same_array_in_every_mode_that_can_hold_it(image, format, channels):
    expected = np.repeat(GRAY[:, :, None], channels, 2)
    np.testing.assert_array_equal(opened(as_file(image, format), channels=channels), expected)


@pytest.mark.parametrize("format", ["JPEG", "MPO", "WEBP"])  # phones write MPO and call it .jpg
def test_what_phones_and_browsers_write_is_read(format):
    assert np.abs(opened(as_file(Image.new("RGB", (6, 6), (90, 120, 150)), format)).astype(int) - [90, 120, 150]).max() <= 4


def test_black_and_white_is_0_and_255():
    bits = GRAY > 127
    np.testing.assert_array_equal(opened(as_file(Image.fromarray(bits)), channels=1)[:, :, 0], 255 * bits)


@pytest.mark.parametrize("alpha", [0, 64, 128, 255])
def test_what_is_transparent_shows_white(alpha):
    color = np.array([200, 10, 60, alpha], np.uint8)
    image = Image.fromarray(np.tile(color, (6, 6, 1)))
    expected = 255 + (color[:3].astype(float) - 255) * alpha / 255
    assert np.abs(opened(as_file(image)) - expected).max() <= 1


def test_a_transparent_color_of_a_palette_shows_white():
    image = Image.fromarray(np.zeros((6, 6), np.uint8), "L").convert("P")
    assert (opened(as_file(image, transparency=0)) == 255).all()


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda stored: stored),
        (2, np.fliplr),
        (3, lambda stored: np.rot90(stored, 2)),
        (4, np.flipud),
        (5, np.transpose),
        (6, lambda stored: np.rot90(stored, -1)),
        (7, lambda stored: np.rot90(stored, 2).T),
        (8, np.rot90),
    ],
)
def test_an_image_with_exif_rotation_is_turned_upright(orientation, upright):
    image, exif = Image.fromarray(GRAY), Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(opened(as_file(image, exif=exif), channels=1)[:, :, 0], upright(GRAY))


def test_odd_metadata_do_not_keep_an_image_from_being_read():
    image = as_file(Image.fromarray(GRAY), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(opened(image, channels=1)[:, :, 0], GRAY)


@pytest.mark.parametrize("turned", [False, True])
def test_the_middle_square_is_taken(turned):
    wide = RNG.integers(0, 256, (6, 11), np.uint8)
    image = wide.T if turned else wide
    expected = wide[:, 2:8].T if turned else wide[:, 2:8]
    np.testing.assert_array_equal(opened(as_file(Image.fromarray(image)), channels=1)[:, :, 0], expected)


@pytest.mark.parametrize("size", [7, 84])
def test_sizes_change_by_the_windowed_sinc_of_lanczos(size):
    smooth = RNG.integers(60, 190, (30, 30), np.uint8)
    scale = 30 / size
    away = (np.arange(30) + 0.5 - (np.arange(size)[:, None] + 0.5) * scale) / max(scale, 1)
    weights = np.where(np.abs(away) < 3, np.sinc(away) * np.sinc(away / 3), 0)
    weights /= weights.sum(1, keepdims=True)
    expected = np.clip(weights @ smooth @ weights.T, 0, 255)
    found = opened(as_file(Image.fromarray(smooth)), size, 1)[:, :, 0]
    assert np.abs(found - expected).max() <= 2  # it is rounded twice, across and down


def png_of(width, height):
    """A PNG that declares a size, and nothing in it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


DAMAGED = {
    "truncated": (as_file(Image.fromarray(np.tile(GRAY, (20, 20))), "JPEG")[:-900], "truncated"),
    "empty": (b"", "no JPEG"),
    "text": (b"not an image" * 100, "no JPEG"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n", "no JPEG"),
    "bomb of 400 million pixels": (png_of(20_000, 20_000), "100 million pixels"),
    "bomb of 121 million pixels": (png_of(11_000, 11_000), "100 million pixels"),
}


@pytest.mark.parametrize(("bytes", "why"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_image_is_named_with_the_reason(bytes, why):
    started = time.process_time()  # whatever else this machine does meanwhile
    with pytest.raises(Unreadable, match=rf"photo\.jpg \(.*{why}"):
        opened(bytes)
    assert time.process_time() - started < 1  # nothing of a bomb is decoded


# classes from folders


def found_in(*names):
    classes, notes = classes_of(names, "data")
    return {"/".join(each.folder): ([names[number] for number in each.photos], each.split) for each in classes}, notes


@pytest.mark.parametrize("above", ["", "data/", "data/images/"])
def test_a_class_is_the_folder_that_holds_images_whatever_lies_above_all_of_them(above):
    names = [above + name for name in PETS]
    assert found_in(*names) == ({"cat": (names[:3], ""), "dog": (names[3:], "")}, [])


@pytest.mark.parametrize("above", ["", "data/"])
def test_one_folder_is_one_class(above):
    assert found_in(f"{above}cat/1.jpg", f"{above}cat/2.jpg")[0].keys() == {"cat"}


def test_images_beside_the_class_folders_are_left_out_and_counted():
    classes, notes = found_in("overview.jpg", "plan.jpg", *PETS)
    assert classes.keys() == {"cat", "dog"}
    assert notes == ["2 images outside the class folders were left out: overview.jpg and 1 more"]


@pytest.mark.parametrize(
    "names", [["1.jpg", "2.jpg"], ["train/1.jpg", "test/1.jpg"], ["data/Train/1.jpg", "data/val/1.jpg"]], ids=" ".join
)
def test_photos_without_class_folders_are_refused_in_words(names):
    refused(
        lambda: classes_of(names, "data"), "expected a folder of photos for each class", "found 2 photos", "a folder of its own"
    )


@pytest.mark.parametrize("above", ["", "data/"])
@pytest.mark.parametrize("below", ["", "images/"])
def test_different_classes_under_train_val_and_test_are_the_split(above, below):
    parts = {"train": "cat", "valid": "dog", "test": "owl", "val": "emu"}
    names = [f"{above}{part}/{below}{animal}/1.jpg" for part, animal in parts.items()]
    classes, notes = found_in(*names)
    assert {name: split for name, (_, split) in classes.items()} == {
        "cat": "train",
        "dog": "validation",
        "emu": "validation",
        "owl": "test",
    }
    assert notes == []


def test_the_same_classes_under_train_and_test_are_put_together():
    names = ("test/cat/1.jpg", "test/dog/1.jpg", "train/cat/1.jpg", "train/dog/1.jpg", "train/owl/1.jpg")
    classes, notes = found_in(*names)
    assert classes == {"cat": ([names[0], names[2]], ""), "dog": ([names[1], names[3]], ""), "owl": ([names[4]], "")}
    assert len(notes) == 1 and "put together" in notes[0]


def test_a_class_that_one_part_files_deeper_is_one_class():
    names = ("test/Plants/Fungi/Cap/1.jpg", "test/Plants/Rose/1.jpg", "train/Plants/Cap/1.jpg", "train/Plants/Rose/1.jpg")
    classes, notes = found_in(*names)
    assert {name: files for name, (files, _) in classes.items()} == {
        "Fungi/Cap": [names[0], names[2]],
        "Rose": [names[1], names[3]],
    }
    assert notes[0] == "Cap and Fungi/Cap were taken for one class"


def test_namesakes_in_different_folders_are_different_classes():
    names = ("test/Korean/a/1.jpg", "test/Latin/b/1.jpg", "train/Greek/a/1.jpg", "train/Greek/b/1.jpg")
    classes, notes = found_in(*names)
    assert {name: split for name, (_, split) in classes.items()} == {
        "Korean/a": "test",
        "Latin/b": "test",
        "Greek/a": "train",
        "Greek/b": "train",
    }
    assert notes == []


def test_an_unsorted_test_folder_and_folders_beside_the_parts_are_left_out():
    classes, notes = found_in("icons/cat/1.jpg", "test/1.jpg", "test/2.jpg", "train/cat/1.jpg", "train/dog/1.jpg")
    assert classes.keys() == {"cat", "dog"}
    assert any(note.startswith("3 images outside the class folders") for note in notes)


def test_a_folder_called_test_among_others_is_a_class():
    assert found_in("exam/1.jpg", "quiz/1.jpg", "test/1.jpg")[0].keys() == {"exam", "quiz", "test"}


@pytest.mark.parametrize(
    ("folders", "names", "groups"),
    [
        (["cat", "dog"], ("cat", "dog"), ()),
        (["A/x", "A/y", "B/x", "B/z"], ("A/x", "y", "B/x", "z"), ("A", "A", "B", "B")),
        (["F/A/x", "F/A/y", "F/K", "V/C"], ("x", "y", "K", "C"), ("F/A", "F/A", "F/K", "V/C")),
        (["A/x", "B/y"], ("x", "y"), ()),
    ],
)
def test_classes_are_named_by_their_folders_and_grouped_by_those_above_the_deepest(tmp_path, folders, names, groups):
    found = read_image_folder(folder_of(tmp_path / "data", [f"{folder}/1.png" for folder in folders]), 6, 3)
    assert (found.names, found.groups) == (names, groups)


# whole sets


def test_a_folder_and_a_zip_of_it_give_the_same_set_and_every_photo_its_place(tmp_path):
    names = [*PETS, "cat/.hidden.png", "__MACOSX/cat/0.png", ".trash/0.png", "cat/notes.txt", "dog/UPPER.PNG"]
    top = folder_of(tmp_path / "data", names)
    packed = zip_of(tmp_path / "data.ZIP", {f"data\\{name}": (top / name).read_bytes() for name in names})
    folder, archive = read_image_folder(top, 6, 3), read_image_folder(packed, 6, 3)
    assert folder.files == (*PETS, "dog/UPPER.PNG")
    assert tuple(f"data/{name}" for name in folder.files) == archive.files
    assert folder.names == archive.names == ("cat", "dog")
    assert folder.length.tolist() == archive.length.tolist() == [3, 4] and folder.start.tolist() == [0, 3]
    np.testing.assert_array_equal(folder.images, archive.images)
    for image, name in zip(folder.images, folder.files, strict=True):
        np.testing.assert_array_equal(image, opened((top / name).read_bytes()))


def test_only_takes_some_classes_with_all_that_belongs_to_them():
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    whole = ImageSet(images, np.array([1, 2, 3]), ("a", "b", "c"), tuple("uvwxyz"), ("train", "test", "test"), ("g", "g", "h"))
    some = whole.only([2, 0])
    assert (some.images.ravel().tolist(), some.length.tolist(), some.start.tolist()) == ([3, 4, 5, 0], [3, 1], [0, 3])
    assert some[2:] == (("c", "a"), ("x", "y", "z", "u"), ("test", "train"), ("h", "g"), ())
    some.images[:] = 9
    assert whole.images.max() == 5
    assert len(whole.only([]).images) == 0


def test_unreadable_photos_are_left_out_named_and_counted(tmp_path):
    top = folder_of(tmp_path / "data", PETS)
    for name in ("cat/1a.jpg", "cat/1b.jpg", "dog/9.jpg", "eel/1.jpg"):
        (top / name).parent.mkdir(exist_ok=True)
        (top / name).write_bytes(DAMAGED["truncated"][0])
    found = read_image_folder(top, 6, 3)
    assert found.files == tuple(PETS) and found.names == ("cat", "dog") and found.length.tolist() == [3, 3]
    np.testing.assert_array_equal(found.images[3], opened((top / PETS[3]).read_bytes()))
    assert found.notes[0].startswith("4 of 10 images cannot be read and were left out: cat/1a.jpg (")
    assert found.notes[0].endswith("and 1 more") and "dog/9.jpg" in found.notes[0] and "eel/1.jpg" not in found.notes[0]
    assert found.notes[1] == "classes without a readable image were left out: eel"


def test_photos_that_show_nothing_are_counted_and_named(tmp_path):
    top = folder_of(tmp_path / "data", PETS)
    Image.new("RGB", (1, 1), "red").save(top / "cat" / "dot.png")
    told = (f"1 of {len(PETS) + 1} images are of one color all over: cat/dot.png",)
    assert read_image_folder(top, 6, 3).notes == told
    assert read_photos(top, 6, 3)[2] == told


def test_a_source_without_photos_is_refused_in_words(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.csv").write_text("a,b")
    refused(lambda: read_image_folder(tmp_path / "none", 6, 3), "found nothing of that name")
    refused(lambda: read_image_folder(tmp_path / "empty", 6, 3), "found none")
    refused(lambda: read_image_folder(tmp_path / "text.csv", 6, 3), "found a file")
    refused(lambda: read_photos(tmp_path / "empty", 6, 3), "found none")
    refused(lambda: read_photos(tmp_path / "text.csv", 6, 3), "1 of 1 images cannot be read", "no JPEG")
    refused(lambda: read_image_folder(tmp_path / "empty", 6, 4), "4 channels")
    refused(lambda: read_image_folder(tmp_path / "empty", 0, 3), "0 pixels")
    (tmp_path / "empty" / "cat").mkdir()
    (tmp_path / "empty" / "cat" / "1.jpg").write_bytes(b"")
    refused(lambda: read_image_folder(tmp_path / "empty", 6, 3), "1 of 1 images cannot be read", "cat/1.jpg")


def test_a_link_in_a_circle_is_followed_once(tmp_path):
    top = folder_of(tmp_path / "data", PETS)
    os.symlink(top, top / "cat" / "again")
    os.symlink(top / "dog", top / "hound")
    found = read_image_folder(top, 6, 3)
    assert found.names == ("cat", "dog") and found.files == tuple(PETS)
    assert found.notes == (
        "cat/again leads to the same folder as ., which is read once, as .",
        "hound leads to the same folder as dog, which is read once, as dog",
    )


def test_a_folder_outside_is_a_class_by_the_first_of_its_links(tmp_path):
    (away := tmp_path / "away").mkdir()
    (away / "1.png").write_bytes(photo(100))
    top = folder_of(tmp_path / "data", PETS)
    os.symlink(away, top / "wolf")
    assert read_image_folder(top, 6, 3).names == ("cat", "dog", "wolf") and not read_image_folder(top, 6, 3).notes
    os.symlink(away, top / "bear")
    found = read_image_folder(top, 6, 3)
    assert found.names == ("bear", "cat", "dog")
    assert found.notes == ("wolf leads to the same folder as bear, which is read once, as bear",)
    os.symlink("loop", top / "loop")  # leads to itself, so nowhere
    assert read_image_folder(top, 6, 3).names == ("bear", "cat", "dog")


def test_links_between_the_folders_of_parts_bring_no_class_into_two_of_them(tmp_path):
    names = ["train/cat/1.png", "train/dog/1.png", "test/eel/1.png", "val/fox/1.png"]
    top = folder_of(tmp_path / "data", names)
    os.symlink(top / "train" / "cat", top / "test" / "felix")
    found = read_image_folder(top, 6, 3)
    assert dict(zip(found.names, found.split, strict=True)) == {
        "cat": "train",
        "dog": "train",
        "eel": "test",
        "fox": "validation",
    }
    assert found.notes == ("test/felix leads to the same folder as train/cat, which is read once, as train/cat",)


@pytest.mark.parametrize("make", [shutil.copy, os.link, os.symlink])
def test_a_photo_that_lies_twice_in_a_class_counts_once_and_in_two_classes_not_at_all(tmp_path, make):
    top = folder_of(tmp_path / "data", PETS)
    once = read_image_folder(top, 6, 3)
    make(top / PETS[0], top / "cat" / "again.png")
    found = read_image_folder(top, 6, 3)
    assert found.length.tolist() == [3, 3] and len({image.tobytes() for image in found.images}) == 6
    assert len(found.notes) == 1 and found.notes[0].startswith("1 photo is there twice in one class and counted once")
    make(top / PETS[1], top / "dog" / "strange.png")
    found = read_image_folder(top, 6, 3)
    assert found.length.tolist() == [2, 3] and once.images[1].tobytes() not in {image.tobytes() for image in found.images}
    assert found.notes[1] == f"1 photo is in several classes and left out of all: {PETS[1]} is dog/strange.png"


@pytest.mark.parametrize("make", [shutil.copy, os.link, os.symlink])
def test_a_class_under_two_names_is_trained_on_once(tmp_path, make):
    top = folder_of(tmp_path / "data", PETS)
    (top / "arctic").mkdir()
    for name in PETS[:3]:
        make(top / name, top / "arctic" / f"other {name.split('/')[1]}")
    found = read_image_folder(top, 6, 3)
    stays, goes = ("cat", "arctic") if make is os.symlink else ("arctic", "cat")  # links are no names of their own
    assert found.names == tuple(sorted([stays, "dog"])) and found.length.tolist() == [3, 3]
    assert found.notes == (f"classes that hold the same photos as another one were left out: {goes} (the same as {stays})",)


def test_a_folder_of_all_photos_beside_the_classes_is_refused_by_name(tmp_path):
    top = folder_of(tmp_path / "data", PETS)
    (top / "all").mkdir()
    for name in PETS:
        shutil.copy(top / name, top / "all" / name.replace("/", "-"))
    refused(lambda: read_image_folder(top, 6, 3), "6 photos are in several classes", "all, cat, dog", "Remove what is twice")


def test_a_table_that_gives_one_file_two_classes_is_refused(tmp_path):
    (tmp_path / "photos.csv").write_text("file,class\n1.png,cat\n1.png,cat\n2.png,dog\n")
    assert read_labels(tmp_path / "photos.csv").of_file == {"1.png": "cat", "2.png": "dog"}
    (tmp_path / "photos.csv").write_text("file,class\n1.png,cat\n1.png,dog\n")
    refused(lambda: read_labels(tmp_path / "photos.csv"), "1.png is of class cat and of dog")


@pytest.mark.parametrize("packed", [False, True])
def test_photos_to_predict_are_read_from_anywhere_in_a_source(tmp_path, packed):
    names = ["1.png", "a/b/2.png", "a/3.png"]
    source = folder_of(tmp_path / "data", names)
    if packed:
        source = zip_of(tmp_path / "data.zip", {name: (source / name).read_bytes() for name in names})
    images, files, notes = read_photos(source, 6, 1)
    assert images.shape == (3, 6, 6, 1) and files == ("1.png", "a/3.png", "a/b/2.png") and notes == ()
    np.testing.assert_array_equal(images[1], opened(photo(2), channels=1))


def test_one_photo_to_predict_is_a_file(tmp_path):
    (tmp_path / "mine.jpg").write_bytes(photo(0))
    images, files, _ = read_photos(tmp_path / "mine.jpg", 6, 3)
    np.testing.assert_array_equal(images, opened(photo(0))[None])
    assert files == ("mine.jpg",)


# zips that are refused


@pytest.mark.parametrize(
    "name", ["../cat/1.png", "cat/../../1.png", "/etc/1.png", "C:/cat/1.png", "c:1.png", "..\\1.png", "\\x.png"]
)
def test_a_zip_with_a_member_that_leads_out_of_it_is_refused(tmp_path, name):
    path = zip_of(tmp_path / "data.zip", {"dog/1.png": photo(0), name: photo(1)})
    refused(lambda: read_image_folder(path, 6, 3), "leads out of it", "Zip the photos anew")


def test_a_zip_with_a_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("cat/1.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    refused(lambda: read_image_folder(tmp_path / "data.zip", 6, 3), "a link")


def patched(path, offset, value):
    """A zip whose directory says something else of its first member: of its flags (8) or its size (24)."""
    bytes = bytearray(path.read_bytes())
    entry = bytes.index(b"PK\x01\x02")
    bytes[entry + offset : entry + offset + len(value)] = value
    path.write_bytes(bytes)
    return path


def test_encrypted_and_absurdly_large_members_are_refused(tmp_path):
    plain = {"cat/1.png": photo(0)}
    path = patched(zip_of(tmp_path / "a.zip", plain), 8, b"\x01\x00")
    refused(lambda: read_image_folder(path, 6, 3), "an encrypted member, 'cat/1.png'")
    path = patched(zip_of(tmp_path / "b.zip", plain), 24, struct.pack("<I", 300_000_000))
    refused(lambda: read_image_folder(path, 6, 3), "a member of 300 MB, 'cat/1.png'")
    path = zip_of(tmp_path / "c.zip", {"cat/1.png": bytes(11_000_000)}, zipfile.ZIP_DEFLATED)
    refused(lambda: read_image_folder(path, 6, 3), "times its size, 'cat/1.png'")


def test_a_zip_with_too_many_members_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(photos, "MOST_MEMBERS", 5)
    path = zip_of(tmp_path / "data.zip", {name: photo(0) for name in PETS})
    refused(lambda: read_image_folder(path, 6, 3), "6 members")


def test_what_is_no_photo_in_a_zip_is_not_looked_at(tmp_path):
    members = {"zeros.bin": bytes(11_000_000), **{name: photo(number) for number, name in enumerate(PETS)}}
    path = patched(zip_of(tmp_path / "data.zip", members, zipfile.ZIP_DEFLATED), 8, b"\x01\x00")
    assert read_image_folder(path, 6, 3).length.tolist() == [3, 3]


def test_a_damaged_zip_is_refused_and_a_damaged_member_left_out(tmp_path):
    path = zip_of(tmp_path / "data.zip", {name: photo(number) for number, name in enumerate(PETS)})
    whole = path.read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:-200])
    refused(lambda: read_image_folder(tmp_path / "cut.zip", 6, 3), "damaged")
    (tmp_path / "text.zip").write_bytes(b"no zip")
    refused(lambda: read_photos(tmp_path / "text.zip", 6, 3), "damaged")
    (tmp_path / "bad.zip").write_bytes(whole.replace(photo(0), photo(0)[:50] + b"????" + photo(0)[54:]))
    found = read_image_folder(tmp_path / "bad.zip", 6, 3)
    assert found.length.tolist() == [2, 3] and found.notes[0].startswith(
        "1 of 6 images cannot be read and were left out: cat/0.png ("
    )


# what is kept


def never(*arguments):
    raise AssertionError("read again")


def same_sets(one, other):
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.length, other.length)
    return one[2:] == other[2:]


def test_a_set_that_was_read_once_is_kept_until_a_photo_or_a_setting_changes(tmp_path, monkeypatch):
    top = folder_of(tmp_path / "data", [f"A/{name}" for name in PETS] + ["B/owl/\udcff.png", "B/owl/é.jpg"])
    (top / "B" / "owl" / "bad.jpg").write_bytes(b"")
    told = []
    first = read_image_folder(top, 6, 3, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 9) for done in range(1, 10)]
    with monkeypatch.context() as patch:
        patch.setattr(image_files, "decode", never)
        assert same_sets(read_image_folder(top, 6, 3), first)
        shutil.copytree(top, tmp_path / "moved")  # times are copied too
        assert same_sets(read_image_folder(tmp_path / "moved", 6, 3), first)
        for again in (
            lambda: read_image_folder(top, 5, 3),
            lambda: read_image_folder(top, 6, 1),
            lambda: read_image_folder(top, 6, 3, cache=False),
        ):
            with pytest.raises(AssertionError, match="read again"):
                again()
    changed = top / "A" / PETS[0]
    changed.write_bytes(photo(77))
    os.utime(changed, ns=(0, 0))
    np.testing.assert_array_equal(read_image_folder(top, 6, 3).images[0], opened(photo(77)))


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "other"])
def test_a_damaged_cache_is_made_anew(tmp_path, harm):
    top = folder_of(tmp_path / "data", PETS)
    first = read_image_folder(top, 6, 3)
    (path,) = cache_directory("images").iterdir()
    whole = bytearray(path.read_bytes())
    if harm == "flip":
        whole[whole.index(first.images.tobytes()) + 5] ^= 1
    path.write_bytes({"cut": whole[:-100], "flip": whole, "empty": b"", "other": b"PK\x05\x06" + bytes(18)}[harm])
    assert read_prepared(path, None) is None
    assert same_sets(read_image_folder(top, 6, 3), first)
    assert same_sets(read_prepared(path, None), first)
    assert read_prepared(path, "another digest") is None


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert read_image_folder(folder_of(tmp_path / "data", PETS), 6, 3).length.tolist() == [3, 3]


def test_a_cache_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    found = ImageSet(np.zeros((1, 1, 1, 1), np.uint8), np.array([1]), ("a",), ())
    write_prepared(tmp_path / "kept" / "set.npz", "", found)
    assert list((tmp_path / "kept").iterdir()) == []


# real data


def test_the_grocery_store_has_the_classes_groups_and_photos_of_its_own_tables(real_data):
    home = real_data / "grocery_store"
    if not home.is_dir():
        pytest.skip("needs the folder grocery_store in ../shared/data, which is absent here")
    found = read_image_folder(home / "grocery84.zip", 84, 3)
    rows = list(csv.DictReader((home / "classes.csv").read_text(encoding="utf-8").splitlines()))
    coarse = {row["Class Name (str)"]: row["Coarse Class Name (str)"] for row in rows}
    text = "".join((home / f"{part}.txt").read_text(encoding="utf-8") for part in ("train", "val", "test"))
    lines = [line.split(", ") for line in text.splitlines() if line]
    class_of = {file: rows[int(number)]["Class Name (str)"] for file, number, _ in lines}
    assert len(found.images) == len(lines) == 5421
    assert set(found.names) == set(coarse) and len(found.names) == 81
    assert [class_of[file] for file in found.files] == list(np.repeat(found.names, found.length))
    assert [coarse[name] for name in found.names] == [group.rpartition("/")[2] for group in found.groups]
    assert found.split == () and set(found.images.shape[1:]) == {84, 3}
    with zipfile.ZipFile(home / "grocery84.zip") as archive:  # they are 84 x 84 already: decoding is all that is done
        for number in (0, 2500, 5420):
            decoded = Image.open(io.BytesIO(archive.read(found.files[number])))
            np.testing.assert_array_equal(found.images[number], np.asarray(decoded))
    started = time.process_time()  # whatever else this machine does meanwhile
    again = read_image_folder(home / "grocery84.zip", 84, 3)
    assert time.process_time() - started < 1
    assert same_sets(again, found)


@pytest.fixture(scope="module")
def drawings(real_data, tmp_path_factory):
    """(Omniglot, its folder, its cache)"""
    home, cache = real_data / "omniglot", tmp_path_factory.mktemp("cache")
    if not home.is_dir():
        pytest.skip("needs the folder omniglot in ../shared/data, which is absent here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        return read_omniglot(home), home, cache


def test_omniglot_is_complete_and_white_on_black(drawings):
    found, home, _ = drawings
    assert found.images.shape == (32_460, 28, 28, 1) and found.images.dtype == np.uint8
    assert len(set(found.names)) == 1623 and (found.length == 20).all() and len(set(found.groups)) == 50
    assert found.names[0] == "Alphabet_of_the_Magi/character01" and found.split == ()
    assert [file.split("/")[1:-1] for file in found.files[::20]] == [name.split("/") for name in found.names]
    assert sum(file.startswith("images_background/") for file in found.files) == 19_280
    with zipfile.ZipFile(home / "images_evaluation.zip") as archive:
        for number in (19_280, 30_000):
            ink = 1 - np.asarray(Image.open(io.BytesIO(archive.read(found.files[number]))), float)
            assert np.abs(found.images[number].mean() / 255 - ink.mean()) < 0.02  # as much ink as in the original
    assert len({image.tobytes() for image in found.images}) == 32_459  # two are equal upstream


def test_omniglot_is_read_once(drawings, monkeypatch):
    found, home, cache = drawings
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(omniglot, "decode", never)
    monkeypatch.setattr(omniglot, "ARCHIVES", {})
    started = time.process_time()
    again = read_omniglot(home)
    assert time.process_time() - started < 1
    assert same_sets(again, found)
    assert same_sets(read_omniglot(None), found)


def test_the_split_of_vinyals_is_that_of_its_public_files(drawings, real_data):
    names, home = drawings[0].names, real_data / "splits" / "omniglot_vinyals"
    if not home.is_dir():
        pytest.skip("needs the folder splits in ../shared/data, which is absent here")
    split = vinyals_split(names)
    for part, file in (("train", "train.txt"), ("validation", "val.txt"), ("test", "test.txt")):
        lines = (home / file).read_text().split()
        assert {names[number] for number in split[part]} == {line.rpartition("/")[0] for line in lines}
    assert {part: len(numbers) for part, numbers in split.items()} == {"train": 1028, "validation": 172, "test": 423}
    refused(lambda: vinyals_split(names[:1000]), "characters of Omniglot", "lack")


def test_the_split_of_finn_is_random_whole_and_the_same_for_a_seed():
    one, again, other = (finn_split(1623, seed) for seed in (1, 1, 2))
    assert [len(one[part]) for part in ("train", "validation", "test")] == [1100, 100, 423]
    np.testing.assert_array_equal(np.sort(np.concatenate(list(one.values()))), np.arange(1623))
    assert all((one[part] == again[part]).all() for part in one) and (one["test"] != other["test"]).any()
    refused(lambda: finn_split(500, 0), "got 500")


# Omniglot, small


def few_drawings(part, characters=2, number=20):
    """The members of a zip like upstream's: one dot on white for every drawing, at another place for each."""
    members = {}
    for character in range(characters):
        for drawing in range(number):
            image = Image.new("1", (105, 105), 1)
            image.paste(0, (5 * drawing, 50 * character, 5 * drawing + 5, 50 * character + 50))
            members[f"{part}/{part[7:10]}/character{character + 1:02}/{drawing:02}.png"] = as_file(image)
    return members


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(omniglot, "CHARACTERS", {"images_background": 2, "images_evaluation": 1})
    return {
        "images_background.zip": few_drawings("images_background"),
        "images_evaluation.zip": few_drawings("images_evaluation", 1),
    }


@pytest.mark.parametrize("below", ["", "python"])
@pytest.mark.parametrize("unpacked", [False, True])
def test_omniglot_is_found_packed_or_unpacked_in_a_folder_or_one_below(tmp_path, small, below, unpacked):
    home = tmp_path / "data" / below
    home.mkdir(parents=True)
    for name, members in small.items():
        path = zip_of(home / name, members)
        if unpacked:
            zipfile.ZipFile(path).extractall(home)
            path.unlink()
    told = []
    found = read_omniglot(tmp_path / "data", size=21, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 60) for done in range(1, 61)]
    assert found.names == ("bac/character01", "bac/character02", "eva/character01") and found.groups == ("bac", "bac", "eva")
    assert found.files == tuple(name for members in small.values() for name in members)
    assert found.images.shape == (60, 21, 21, 1)
    columns = np.arange(0, 20)
    assert (found.images[columns, 5, columns, 0] > 200).all()  # the dot of a drawing, in the order of the drawings
    assert (found.images[columns, 5, (columns + 10) % 20, 0] < 10).all()
    assert same_sets(read_omniglot(None, size=21), found)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda members: few_drawings("images_background", 3), ["2 characters with 20 drawings", "found 3 characters"]),
        (lambda members: dict(list(members.items())[1:]), ["found 2 characters", "1 of them", "bac/character01 with 19"]),
        (lambda members: {**members, next(iter(members)): b"no image"}, ["40 drawings", "1 cannot be read", "00.png (no JPEG"]),
        (lambda members: {}, ["found none"]),
    ],
)
def test_incomplete_omniglot_is_refused_with_what_was_found(tmp_path, small, harm, words):
    zip_of(tmp_path / "images_background.zip", harm(small["images_background.zip"]))
    zip_of(tmp_path / "images_evaluation.zip", small["images_evaluation.zip"])
    refused(lambda: read_omniglot(tmp_path), *words)
    refused(lambda: read_omniglot(tmp_path, size=0), "1 pixel or more")
    (tmp_path / "images_background.zip").unlink()
    refused(lambda: read_omniglot(tmp_path), "expected Omniglot's images_background.zip or the folder", "found neither")


# downloads


class Upstream(http.server.BaseHTTPRequestHandler):
    """Serves `files`; answers a Range or, if not `resumes`, ignores it; breaks off after `most` bytes."""

    files, resumes, most, ranges = {}, True, None, []

    def do_GET(self):
        body, wanted = self.files[self.path[1:]], self.headers.get("Range")
        self.ranges.append(wanted)
        start = int(re.findall(r"\d+", wanted)[0]) if wanted and self.resumes else 0
        self.send_response(416 if start >= len(body) else 206 if start else 200)
        rest = body[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.most])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def upstream(tmp_path, monkeypatch, small):
    """A server on this machine in place of upstream's, with the small Omniglot."""
    files = {name: zip_of(tmp_path / name, members).read_bytes() for name, members in small.items()}
    handler = type("Handler", (Upstream,), {"files": files, "ranges": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    sums = {name: hashlib.md5(bytes).hexdigest() for name, bytes in files.items()}
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(omniglot, "ARCHIVES", {name: (f"{address}/{name}", sums[name]) for name in files})
    monkeypatch.setenv("no_proxy", "*")
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def partial_of(name, bytes):
    folder = cache_directory("omniglot")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.partial").write_bytes(bytes)


BACKGROUND = "images_background.zip"


def test_omniglot_is_downloaded_once(upstream, capfd):
    found = read_omniglot(None)
    assert found.names == ("bac/character01", "bac/character02", "eva/character01")
    output, progress = capfd.readouterr()
    assert output == "" and "downloading images_background.zip: " in progress and "images_evaluation.zip" in progress
    assert read_omniglot(None, size=14).images.shape == (60, 14, 14, 1)
    assert upstream.ranges == [None, None]
    assert not list(cache_directory("omniglot").glob("*.partial"))


def test_a_half_download_is_gone_on_with_where_it_ended(upstream):
    whole = upstream.files[BACKGROUND]
    partial_of(BACKGROUND, whole[:1000])
    assert len(read_omniglot(None).images) == 60
    assert upstream.ranges == ["bytes=1000-", None]
    assert (cache_directory("omniglot") / BACKGROUND).read_bytes() == whole


def test_a_server_that_cannot_resume_sends_all_of_it(upstream):
    upstream.resumes = False
    partial_of(BACKGROUND, upstream.files[BACKGROUND][:1000])
    assert len(read_omniglot(None).images) == 60


def test_a_whole_download_that_was_not_yet_checked_is_taken(upstream):
    partial_of(BACKGROUND, upstream.files[BACKGROUND])
    assert len(read_omniglot(None).images) == 60


def test_a_connection_that_breaks_off_keeps_what_came(upstream):
    upstream.most = 3000
    refused(lambda: read_omniglot(None), "cannot be downloaded", "--data-dir")
    upstream.most = None
    assert len(read_omniglot(None).images) == 60
    assert upstream.ranges == [None, "bytes=3000-", None]


@pytest.mark.parametrize("before", [b"", b"x" * 500])
def test_a_download_with_a_wrong_checksum_is_removed_and_refused(upstream, before):
    if before:
        partial_of(BACKGROUND, before)
    else:
        upstream.files[BACKGROUND] = upstream.files[BACKGROUND][:-1] + b"?"
    refused(lambda: read_omniglot(None), "md5 sum", "removed", "--data-dir")
    assert list(cache_directory("omniglot").iterdir()) == []


def test_without_a_network_the_way_by_hand_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(omniglot, "ARCHIVES", {BACKGROUND: ("http://127.0.0.1:9/images_background.zip", "")})
    refused(lambda: read_omniglot(None), "cannot be downloaded", "refused", "--data-dir")
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    refused(lambda: read_omniglot(None), "cannot be downloaded", "--data-dir")


# a table beside the photos


def table_of(path, *rows):
    path.write_text("\n".join(",".join(row) for row in rows) + "\n")
    return path


def test_a_table_says_which_class_each_photo_is_of_and_which_classes_are_for_what(tmp_path):
    top = folder_of(tmp_path / "data", ["a/1.png", "a/2.png", "b/1.png", "3.png", "4.png"])
    rows = [("Filename", "Label", "Split"), ("a/1.png", "x", "train"), ("a/2.png", "y", "VAL"), ("b/1.png", "x", "train")]
    labels = read_labels(table_of(tmp_path / "labels.csv", *rows, ("data/3.png", "y", "val"), ("9.png", "z", "test")))
    found = read_image_folder(top, 6, 3, labels=labels)
    assert found.names == ("x", "y") and found.files == ("a/1.png", "b/1.png", "a/2.png")
    assert found.split == ("train", "validation") and found.length.tolist() == [2, 1]
    assert "2 images that are not in" in found.notes[0] and "2 files of" in found.notes[1]
    assert read_image_folder(top, 6, 3, labels=labels).names == ("x", "y")  # as it was kept
    assert read_image_folder(top, 6, 3).names == ("a", "b")


def test_a_table_of_classes_alone_splits_folders(tmp_path):
    top = folder_of(tmp_path / "data", ["a/1.png", "b/1.png", "c/1.png"])
    found = read_image_folder(
        top, 6, 3, labels=read_labels(table_of(tmp_path / "split.csv", ("split", "class"), ("test", "a"), ("train", "c")))
    )
    assert found.names == ("a", "c") and found.split == ("test", "train")
    assert found.notes[0] == f"1 classes that are not in {tmp_path / 'split.csv'} were left out: b"


@pytest.mark.parametrize(
    "rows, words",
    [
        ([("name", "class"), ("1.png", "x")], ["expected the columns file and class", "name, class"]),
        ([("class", "split"), ("a", "dev")], ["train, validation or test", "'dev'"]),
        ([("class", "split"), ("a", "train"), ("a", "test")], ["class a is in train and in test"]),
        ([("class", "split"), ("q", "train")], ["expected classes of", "such as a"]),
        ([("file", "class"), ("7.png", "x")], ["none of the 2 photos", "a/1.png"]),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_words(tmp_path, rows, words):
    top = folder_of(tmp_path / "data", ["a/1.png", "b/1.png"])
    path = table_of(tmp_path / "labels.csv", *rows)
    refused(lambda: read_image_folder(top, 6, 3, labels=read_labels(path)), *words)
