"""Files and folders of every kind where photos are expected. Place: fewstep/apps/images/photos.py, image_files.py and above."""

import odd_images
import pytest

FILES, FOLDERS, ARCHIVES = (dict(each()) for each in (odd_images.files, odd_images.folders, odd_images.archives))
TRAIN = ["train", "images", "--size", "8", "--network", "mlp", "--hidden", "4", "--ways", "2", "--queries", "1", "--shots", "1"]
TRAIN += ["--test-queries", "1", "--adaptation-steps", "1", "--inner-optimizer", "sgd", "--out", "out", "--data"]


def words(command, shelf, source):
    if command == "train":
        return [*TRAIN, source]
    if command == "adapt":
        return ["adapt", str(shelf / "photos-run"), "--support", source, "--out", "out"]
    return ["predict", str(shelf / "photos-adapted"), "--inputs", source, "--out", "out.csv"]


def content(of):
    return of() if callable(of) else of


def cases(sources, fast, others=()):
    """Each source with each command, those of `fast` in the fast slice."""
    return [
        pytest.param(name, command, marks=() if command in fast else pytest.mark.slow)
        for name in sources
        for command in (*fast, *others)
    ]


OUT = ["out", "out.csv", "out_confusion.png"]


@pytest.mark.parametrize(("name", "command"), cases(FILES, ["predict"], ["train", "adapt"]))
def test_a_file_among_photos_is_used_or_left_out_and_counted(fuzz, photo_shelf, record_property, name, command):
    odd_images.sound(fuzz.work / "photos", *((12, 2) if command == "train" else (2, 1)))
    (fuzz.work / "photos" / "class0" / name).write_bytes(content(FILES[name]))
    record_property("kind", "images: a file among others")
    record_property("outcome", outcome := fuzz.check(words(command, photo_shelf, "photos"), OUT))
    assert outcome != "refused"


@pytest.mark.parametrize(("name", "command"), cases(FILES, [], ["predict"]))
def test_a_file_for_a_photo_is_used_or_refused(fuzz, photo_shelf, record_property, name, command):
    (fuzz.work / name).write_bytes(content(FILES[name]))
    record_property("kind", "images: a file alone")
    record_property("outcome", fuzz.check(words(command, photo_shelf, name), OUT))


@pytest.mark.parametrize(("name", "command"), cases(FOLDERS, ["train"], ["adapt", "predict"]))
def test_a_folder_of_photos_is_used_or_refused(fuzz, photo_shelf, record_property, name, command):
    FOLDERS[name](fuzz.work / "photos")
    record_property("kind", "images: a folder")
    record_property("outcome", fuzz.check(words(command, photo_shelf, "photos"), OUT))


@pytest.mark.parametrize(("name", "command"), cases(ARCHIVES, ["train"], ["adapt", "predict"]))
def test_a_zip_of_photos_is_used_or_refused(fuzz, photo_shelf, record_property, name, command):
    (fuzz.work / "photos.zip").write_bytes(content(ARCHIVES[name]))
    record_property("kind", "images: a zip")
    record_property("outcome", fuzz.check(words(command, photo_shelf, "photos.zip"), OUT))
