"""mini-ImageNet, tieredImageNet, CIFAR-FS and FC100 in the layouts that people have. Place: fewstep/tasks/known_images.

Small folders and files are made in exactly those layouts. The oracle is paint: colors say split, class and number.
"""

import csv
import io
import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewstep import InputError
from fewstep.apps.images import dataset_layouts
from fewstep.apps.images.data import ImageSet
from fewstep.apps.images.known_datasets import DATASETS, SPLITS, _differences, read_known_images
from fewstep.apps.images.pickles import load_pickle

SHORT = {"train": "train", "validation": "val", "test": "test"}
SIZE = {name: known.size for name, known in DATASETS.items()}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def roster(name):
    """Two or three classes of each split, not in the order of their names."""
    official = DATASETS[name].official()
    of = {split: sorted(one for one in official if official[one] == split) for split in SPLITS}
    if not official:
        of = {"train": ["tench", "crane", "abacus"], "validation": ["zebra", "otter"], "test": ["yurt", "crib"]}
    return {
        split: [classes[2], classes[0], classes[1]][: len(classes)] if len(classes) > 2 else classes[::-1]
        for split, classes in of.items()
    }


def count(place):
    return 2 + place % 2


def paint(name, split, place, number):
    """One image: a color of its own, red above, blue at the right."""
    size = SIZE[name]
    image = np.empty((size, size, 3), np.uint8)
    image[:] = 30 + 90 * SPLITS.index(split), 30 + 90 * place, 30 + 90 * number
    image[: size // 4] = 255, 0, 0
    image[:, -size // 4 :] = 0, 0, 255
    return image


def all_of(name, split):
    """[(class, its place, number, image)] of one split, classes mixed."""
    classes = roster(name)[split]
    found = [(each, place, number) for place, each in enumerate(classes) for number in range(count(place))]
    return [(*one, paint(name, split, *one[1:])) for one in found[::2] + found[1::2]]


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **({"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}))


class Python2(pickle._Pickler):
    """Writes what Python 2 wrote: bytes and names as its one kind of text."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_text(self, text):
        raw = text if isinstance(text, bytes) else text.encode("latin1")
        self.write(b"T" + struct.pack("<i", len(raw)) + raw)
        self.memoize(text)

    dispatch[bytes] = save_text
    dispatch[str] = save_text


def dump(path, data, python=3):
    """A pickle as Python 2 with an old numpy wrote it, as Python 3 writes it for Python 2 (2.5), or as Python 3 does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if python == 3:
        path.write_bytes(pickle.dumps(data, 5))
        return
    file = io.BytesIO()
    (Python2 if python == 2 else pickle.Pickler)(file, 2).dump(data)
    path.write_bytes(file.getvalue().replace(b"numpy._core.", b"numpy.core."))


def class_folders(folder, name, python, suffix="jpg", top=SHORT):
    for split in SPLITS:
        for one, _, number, image in all_of(name, split):
            save(folder / top[split] / one / f"{one}_{number}.{suffix}", image)


def meta_folders(folder, name, python):
    class_folders(folder, name, python, "png", {split: f"meta-{short}" for split, short in SHORT.items()})


def tables(folder, name, python):
    for split in SPLITS:
        with (folder / f"{SHORT[split]}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["filename", "label"])
            for one, _, number, image in all_of(name, split):
                rows.writerow([f"{one}{number:08}.jpg", one])
                save(folder / "images" / f"{one}{number:08}.jpg", image)


def caches(folder, name, python, of=SHORT):
    for split in SPLITS:
        found = all_of(name, split)
        places = {one: [at for at, each in enumerate(found) if each[0] == one] for one in roster(name)[split]}
        data = {"image_data": np.stack([each[-1] for each in found]), "class_dict": places}
        dump(folder / f"mini-imagenet-cache-{of[split]}.pkl", data, python)


def learn2learn(folder, name, python):
    caches(folder, name, python, {**SHORT, "validation": "validation"})


def labelled(folder, name, python, pattern, number, named=False):
    for split in SPLITS:
        found = all_of(name, split)
        data = {"data": np.stack([each[-1] for each in found]), "labels": [number(split, each) for each in found]}
        if named:
            data["catname2label"] = {each[0]: number(split, each) for each in found}
        dump(folder / pattern.format(SHORT[split]), data, python)


def category_split(folder, name, python):
    labelled(folder, name, python, "miniImageNet_category_split_{}.pickle", lambda _, each: 7 + each[1], named=True)
    train = "miniImageNet_category_split_train.pickle"
    (folder / train).rename(folder / train.replace("train", "train_phase_train"))


def cifar_numbers(folder, name, python):
    numbers = sorted(DATASETS[name].official())
    pattern = "CIFAR_FS_{}.pickle" if name == "cifar-fs" else "FC100_{}.pickle"
    labelled(folder, name, python, pattern, lambda _, each: numbers.index(each[0]))


def tiered_labels(folder, name, python):
    for split in SPLITS:
        found = all_of(name, split)
        data = {
            "label_specific": np.array([each[1] for each in found], np.int32),
            "label_specific_str": roster(name)[split],
            "label_general": np.array([each[1] % 2 for each in found], np.int32),
            "label_general_str": ["even", "odd"],
        }
        dump(folder / f"{SHORT[split]}_labels.pkl", data, python)


def tiered_arrays(folder, name, python):
    tiered_labels(folder, name, python)
    for split in SPLITS:
        bgr = np.stack([each[-1] for each in all_of(name, split)])[..., ::-1]
        np.savez(folder / f"{SHORT[split]}_images.npz", images=np.ascontiguousarray(bgr))


def tiered_files(folder, name, python):
    tiered_labels(folder, name, python)
    for split in SPLITS:
        files = []
        for *_, image in all_of(name, split):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            files.append(np.frombuffer(file.getvalue(), np.uint8)[:, None].copy())
        dump(folder / f"{SHORT[split]}_images_png.pkl", files, python)


def bertinetto(folder, name, python, top="cifar100"):
    for split in SPLITS:
        for one, _, number, image in all_of(name, split):
            save(folder / top / "data" / one / f"{one}_s_{number:06}.png", image)
        path = folder / top / "splits" / "bertinetto" / f"{SHORT[split]}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{one}\n" for one in roster(name)[split]))


def cifar_100(folder, name, python, top="cifar-100-python"):
    """Upstream's files: the images of a class are spread over train and test, and rows are channel by channel."""
    found = [each for split in SPLITS for each in all_of(name, split)]
    names = sorted({each[0] for each in found})
    groups = ["first", "second"]
    for file, part in (("train", found[1::2]), ("test", found[::2])):
        data = {
            "data": np.stack([each[-1].transpose(2, 0, 1).reshape(-1) for each in part]),
            "fine_labels": [names.index(each[0]) for each in part],
            "coarse_labels": [names.index(each[0]) % 2 for each in part],
            "filenames": ["some_s_000001.png" for _ in part],
            "batch_label": "training batch 1 of 1",
        }
        dump(folder / top / file, {key.encode(): value for key, value in data.items()} if python == 3 else data, python)
    dump(folder / top / "meta", {"fine_label_names": names, "coarse_label_names": groups}, python)


LAYOUTS = [
    ("mini-imagenet", class_folders, "class folders"),
    ("mini-imagenet", tables, "one folder of images with tables"),
    ("mini-imagenet", caches, "cache pickles"),
    ("mini-imagenet", learn2learn, "cache pickles"),
    ("mini-imagenet", category_split, "pickles with labels"),
    ("tiered-imagenet", tiered_arrays, "arrays with labels"),
    ("tiered-imagenet", tiered_files, "pickled PNG files with labels"),
    ("tiered-imagenet", class_folders, "class folders"),
    ("cifar-fs", class_folders, "class folders"),
    ("cifar-fs", meta_folders, "class folders"),
    ("cifar-fs", bertinetto, "one folder of classes with lists"),
    ("cifar-fs", cifar_100, "the pickles of CIFAR-100"),
    ("cifar-fs", cifar_numbers, "pickles with labels"),
    ("fc100", class_folders, "class folders"),
    ("fc100", cifar_100, "the pickles of CIFAR-100"),
    ("fc100", cifar_numbers, "pickles with labels"),
]
IDS = [f"{name}-{write.__name__}" for name, write, _ in LAYOUTS]


def check(found, name, loose):
    """Every image stands in the class and split that its color says, classes by name; JPEG changes colors a little."""
    expected = [(split, one) for split in SPLITS for one in sorted(roster(name)[split])]
    assert list(zip(found.split, found.names, strict=True)) == expected
    assert found.images.dtype == np.uint8
    assert found.images.shape == (found.length.sum(), SIZE[name], SIZE[name], 3)
    for (split, one), start, length in zip(expected, found.start, found.length, strict=True):
        place = roster(name)[split].index(one)
        assert length == count(place)
        images = found.images[start : start + length].astype(int)
        for number, image in enumerate(sorted(images, key=lambda image: image[-1, 0, 2])):
            off = np.abs(image - paint(name, split, place, number))
            assert off.mean() < 4 if loose else not off.any()
    for file, owner in zip(found.files, np.repeat(found.names, found.length), strict=bool(found.files)):
        assert owner in file


@pytest.mark.parametrize(("name", "write", "title"), LAYOUTS, ids=IDS)
def test_every_layout_gives_the_same_images_in_the_same_classes_and_splits(folder, name, write, title):
    files = write in (class_folders, meta_folders, tables, bertinetto)
    for python in (3,) if files else (2, 2.5, 3):  # pickles of all ages
        write(folder, name, python)
        found = read_known_images(name, folder)
        assert title in found.notes[0]
        check(found, name, loose=write in (class_folders, tables))
        assert bool(found.files) == files


def test_what_belongs_together_is_read_where_the_files_say_it(folder):
    tiered_arrays(folder, "tiered-imagenet", 3)
    found = read_known_images("tiered-imagenet", str(folder))
    of = {
        one: ("even", "odd")[place % 2] for classes in roster("tiered-imagenet").values() for place, one in enumerate(classes)
    }
    assert found.groups == tuple(of[name] for name in found.names)
    assert any("BGR" in note for note in found.notes)
    cifar_100(folder, "cifar-fs", 3)
    found = read_known_images("cifar-fs", folder)
    assert found.groups == tuple(("first", "second")[sorted(found.names).index(name) % 2] for name in found.names)


def test_the_folder_itself_may_be_given_as_well_as_the_one_above_it(folder):
    bertinetto(folder, "cifar-fs", 3)
    check(read_known_images("cifar-fs", folder / "cifar100"), "cifar-fs", False)
    cifar_100(folder / "other", "fc100", 3)
    check(read_known_images("fc100", folder / "other" / "cifar-100-python"), "fc100", False)


def test_two_classes_of_one_name_are_told_apart(folder, monkeypatch):
    classes = {"train": ["crane", "tench", "crane"], "validation": ["otter", "zebra"], "test": ["crane", "yurt"]}
    monkeypatch.setitem(globals(), "roster", lambda name: classes)
    for split in SPLITS:
        label = np.arange(len(classes[split])).repeat(2)
        dump(folder / f"{SHORT[split]}_labels.pkl", {"label_specific": label, "label_specific_str": classes[split]})
        images = np.tile(label.astype(np.uint8)[:, None, None, None], (84, 84, 3))
        np.savez(folder / f"{SHORT[split]}_images.npz", images=images)
    found = read_known_images("tiered-imagenet", folder)
    assert found.names == ("crane", "crane (2)", "tench", "otter", "zebra", "crane (3)", "yurt")
    assert found.images[::2, 0, 0, 0].tolist() == [0, 2, 1, 0, 1, 0, 1]
    assert found.groups == ()


def test_the_first_layout_that_is_whole_is_taken(folder):
    caches(folder, "mini-imagenet", 3)
    tables(folder, "mini-imagenet", 3)
    class_folders(folder, "mini-imagenet", 3)
    assert "class folders" in read_known_images("mini-imagenet", folder).notes[0]
    (folder / "val").rename(folder / "elsewhere")
    assert "tables" in read_known_images("mini-imagenet", folder).notes[0]
    (folder / "test.csv").unlink()
    assert "cache pickles" in read_known_images("mini-imagenet", folder).notes[0]


def test_images_of_a_table_are_decoded_once(folder, monkeypatch):
    tables(folder, "mini-imagenet", 3)
    first = read_known_images("mini-imagenet", folder)
    monkeypatch.setattr(dataset_layouts, "decode", None)
    again = read_known_images("mini-imagenet", folder)
    assert np.array_equal(first.images, again.images)
    assert first.files == again.files
    assert (first.names, first.split, first.notes) == (again.names, again.split, again.notes)


def test_the_shipped_splits_are_the_official_ones(real_data):
    source = real_data / "splits"
    shipped = {name: DATASETS[name].official() for name in ("mini-imagenet", "cifar-fs", "fc100")}
    for split, short in SHORT.items():
        of = {name: {one for one in each if each[one] == split} for name, each in shipped.items()}
        with (source / "miniimagenet_ravi" / f"{short}.csv").open() as file:
            assert of["mini-imagenet"] == {row["label"] for row in csv.DictReader(file)}
        cifar = source / "torchmeta_assets" / "cifar100"
        pairs = {
            one: group
            for each in SHORT.values()
            for group, one in json.loads((cifar / "cifar-fs" / f"{each}.json").read_text())
        }
        assert of["cifar-fs"] == {one for _, one in json.loads((cifar / "cifar-fs" / f"{short}.json").read_text())}
        groups = json.loads((cifar / "fc100" / f"{short}.json").read_text())
        assert of["fc100"] == {one for one, group in pairs.items() if group in groups}


@pytest.mark.parametrize("name", ["mini-imagenet", "cifar-fs", "fc100"])
def test_what_is_as_published_needs_no_words_and_what_is_not_is_said(name):
    known, official = DATASETS[name], DATASETS[name].official()
    names = [one for split in SPLITS for one in sorted(official) if official[one] == split]
    whole = ImageSet(np.zeros((0, 1, 1, 3), np.uint8), np.full(100, 600), tuple(names), (), tuple(map(official.get, names)))
    assert tuple(map(whole.split.count, SPLITS)) == known.classes
    assert _differences(whole, known) == []
    swapped = whole._replace(split=tuple({"validation": "test", "test": "validation"}.get(one, one) for one in whole.split))
    moved = sum(known.classes[1:])
    assert any(
        f"{moved} classes stand in another split" in note and "officially" in note for note in _differences(swapped, known)
    )
    few = whole._replace(length=np.where(np.arange(100) == 3, 17, 600))
    assert _differences(few, known) == [f"1 of 100 classes do not have 600 images as published: {names[3]} (17)"]
    strange = whole._replace(names=("dragon", *names[1:]))
    assert [note for note in _differences(strange, known) if "dragon" in note] != []
    assert [note for note in _differences(strange, known) if f"absent: {names[0]}" in note] != []
    unnamed = whole._replace(names=tuple(f"class {number}" for number in range(100)))
    assert [note for note in _differences(unnamed, known) if "not compared" in note] != []


def test_validation_and_test_classes_that_lie_in_each_others_files_are_told(folder):
    """So some copies of the cache pickles came about."""
    caches(folder, "mini-imagenet", 3, {"train": "train", "validation": "test", "test": "val"})
    found = read_known_images("mini-imagenet", folder)
    note = next(note for note in found.notes if "another split" in note)
    assert f"{roster('mini-imagenet')['test'][1]} (validation, officially test)" in note
    assert any("3 / 3 / 3 classes" in note and "64 / 16 / 20" in note for note in found.notes)


def test_numbers_that_are_not_those_of_cifar_100_stay_numbers(folder):
    labelled(folder, "cifar-fs", 3, "CIFAR_FS_{}.pickle", lambda split, each: 10 * SPLITS.index(split) + each[1])
    found = read_known_images("cifar-fs", folder)
    assert found.names[0] == "class 000"
    assert found.names[-1] == "class 022"
    assert any("not compared" in note for note in found.notes)


class Trap:
    """Unpickled by Python itself, it would leave a file."""

    def __init__(self, call, *arguments):
        self.reduced = call, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("place", ["alone", "key", "inside", "array"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(folder, place, protocol):
    caches(folder, "mini-imagenet", 3)
    mark = folder / "ran"
    trap = Trap(os.system, f"touch {mark}")
    data = {"alone": trap, "key": {"image_data": 1, trap: 2}, "inside": {"image_data": [trap]}}
    hidden = np.empty(1, object)
    hidden[0] = trap
    file = folder / "mini-imagenet-cache-val.pkl"
    file.write_bytes(pickle.dumps(data.get(place, {"image_data": hidden}), protocol))
    message = refused("mini-imagenet", folder, file.name, f"{os.name}.system", "may run code", "not loaded")
    assert not mark.exists()
    assert "Download it again" not in message
    pickle.loads(file.read_bytes())  # the trap is a real one
    assert mark.exists()


@pytest.mark.parametrize(
    ("call", "arguments", "word"),
    [
        (eval, ("1",), "builtins.eval"),
        (getattr, ("", "join"), "builtins.getattr"),
        (np.load, ("x",), "load"),
        (np.fromfile, ("x",), "fromfile"),
        (Path, ("x",), "pathlib"),
        (np.dtype, ("V8",), "'V8'"),
        (np.dtype, ([("a", "O")],), "pickle"),
        (np.ndarray, ((1,), "O", bytes(8)), "pickle"),  # an array of whatever lies in memory
    ],
)
def test_only_plain_data_is_unpickled(folder, call, arguments, word):
    caches(folder, "mini-imagenet", 3)
    file = folder / "mini-imagenet-cache-test.pkl"
    file.write_bytes(pickle.dumps({"image_data": Trap(call, *arguments)}))
    refused("mini-imagenet", folder, file.name, word)


def test_another_codec_than_latin_1_is_refused(folder):
    caches(folder, "mini-imagenet", 3)
    file = folder / "mini-imagenet-cache-test.pkl"
    file.write_bytes(pickle.dumps(b"\xff\xfe", 2).replace(b"latin1", b"hex_no"))
    refused("mini-imagenet", folder, file.name, "codec", "hex_no")


@pytest.mark.parametrize(
    "data",
    [
        {"a": np.arange(6.0).reshape(2, 3), "b": [1, 2.5, None, True, "é", b"\x00\xff"], "c": (1, {2, 3}, frozenset([4]))},
        {"big": np.arange(4, dtype=">i4"), "f": np.asfortranarray(np.arange(6).reshape(2, 3)), "n": np.zeros((0, 3), np.int8)},
        {"s": np.array(["a", "bcd"]), "o": np.array([[1], "x", None], object), "z": np.float64(1.5), "i": np.int32(-7)},
    ],
)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_is_unpickled_as_python_does(tmp_path, data, protocol):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(data, protocol))
    found, expected = load_pickle(tmp_path / "x.pkl"), pickle.loads((tmp_path / "x.pkl").read_bytes())
    assert found.keys() == data.keys()
    for key, value in expected.items():
        assert np.array_equal(found[key], value) if isinstance(value, np.ndarray) else found[key] == value
        assert not hasattr(value, "dtype") or found[key].dtype == value.dtype


def refused(name, folder, *words):
    with pytest.raises(InputError) as caught:
        read_known_images(name, folder)
    message = str(caught.value)
    assert not [word for word in words if str(word) not in message], message
    assert 1 <= len(message.splitlines()) <= 3
    return message


def test_a_folder_that_holds_no_layout_is_refused_with_those_it_could_hold_and_what_is_there(folder):
    for name, known in DATASETS.items():
        refused(name, folder, folder, known.title, "an empty folder", *(layout.title for layout in known.layouts))
    (folder / "photos").mkdir()
    (folder / "readme.txt").write_text("")
    refused("mini-imagenet", folder, "train.csv", "mini-imagenet-cache-train.pkl", "photos/, readme.txt")
    refused("fc100", folder / "none", "nothing of that name")
    refused("cifar", folder, "'cifar'", *DATASETS)
    refused("fc100", folder / "readme.txt", "a file", "unpack")


@pytest.mark.parametrize(
    ("name", "write", "lost"),
    [
        ("mini-imagenet", class_folders, "val/"),
        ("mini-imagenet", tables, "test.csv"),
        ("mini-imagenet", tables, "images/"),
        ("mini-imagenet", caches, "mini-imagenet-cache-val.pkl"),
        ("tiered-imagenet", tiered_arrays, "train_labels.pkl"),
        ("tiered-imagenet", tiered_files, "test_images_png.pkl"),
        ("cifar-fs", meta_folders, "meta-test/"),
        ("cifar-fs", bertinetto, "cifar100/splits/bertinetto/val.txt"),
        ("fc100", cifar_100, "cifar-100-python/meta"),
        ("fc100", cifar_numbers, "FC100_train.pickle"),
    ],
)
def test_the_part_that_is_missing_is_named(folder, name, write, lost):
    write(folder, name, 3)
    (folder / lost).rename(folder.parent / "lost")
    refused(name, folder, lost, "is missing")


def test_a_split_or_a_class_without_images_is_refused(folder):
    class_folders(folder, "mini-imagenet", 3)
    for path in (folder / "test").rglob("*.jpg"):
        path.unlink()
    refused("mini-imagenet", folder, "test", "found none")
    for short in SHORT.values():
        (folder / short).rename(folder / f"old_{short}")
    bertinetto(folder, "cifar-fs", 3, ".")
    listed = folder / "splits" / "bertinetto" / "val.txt"
    listed.write_text(listed.read_text() + "unicorn\n")
    refused("cifar-fs", folder, "unicorn", "val.txt")
    listed.write_text("\n")
    refused("cifar-fs", folder, "validation", "no class")
    tiered_arrays(folder, "tiered-imagenet", 3)
    dump(folder / "val_labels.pkl", {"label_specific": np.zeros(4, int), "label_specific_str": ["zebra", "otter"]})
    refused("tiered-imagenet", folder, "val_labels.pkl", "all 2 names")


def test_a_table_without_its_columns_or_images_is_refused_and_a_damaged_image_is_left_out(folder):
    tables(folder, "mini-imagenet", 3)
    one = roster("mini-imagenet")["train"][1]  # of three images
    path = folder / "images" / f"{one}{2:08}.jpg"
    path.write_bytes(path.read_bytes()[:100])
    found = read_known_images("mini-imagenet", folder)
    assert found.length[found.names.index(one)] == 2
    assert any(path.name in note and "left out" in note for note in found.notes)
    path.unlink()
    refused("mini-imagenet", folder, path.name, "train.csv", "1 are absent")
    (folder / "val.csv").write_text("file,class\na.jpg,n01\n")
    (folder / "train.csv").write_bytes((folder / "test.csv").read_bytes())
    refused("mini-imagenet", folder, "val.csv", "filename,label")


def test_arrays_that_do_not_fit_are_refused(folder):
    caches(folder, "mini-imagenet", 3)
    file = folder / "mini-imagenet-cache-val.pkl"
    for data, words in {
        "size": ({"image_data": np.zeros((2, 80, 80, 3), np.uint8), "class_dict": {"a": [0, 1]}}, ["[2, 80, 80, 3]"]),
        "kind": ({"image_data": np.zeros((2, 84, 84, 3)), "class_dict": {"a": [0, 1]}}, ["float64"]),
        "twice": ({"image_data": np.zeros((2, 84, 84, 3), np.uint8), "class_dict": {"a": [0], "b": [0, 1]}}, ["one class"]),
        "beyond": ({"image_data": np.zeros((2, 84, 84, 3), np.uint8), "class_dict": {"a": [0, 2]}}, ["one class"]),
        "keys": ({"images": np.zeros((2, 84, 84, 3), np.uint8)}, ["'image_data'", "found images"]),
        "list": ([1], ["'image_data'", "found list"]),
        "odd": (
            {"image_data": np.zeros((2, 84, 84, 3), np.uint8), "class_dict": 3},
            ["the files of mini-ImageNet", "cannot be read"],
        ),
    }.values():
        dump(file, data)
        refused("mini-imagenet", folder, *words)
    for content in (b"", b"no pickle", pickle.dumps({"image_data": np.zeros(9)})[:-20]):
        file.write_bytes(content)
        refused("mini-imagenet", folder, file.name, "expected a pickle", "Download")


def test_damaged_files_of_tiered_imagenet_are_refused(folder):
    tiered_files(folder, "tiered-imagenet", 3)
    dump(folder / "val_images_png.pkl", [np.zeros(30, np.uint8)] * len(all_of("tiered-imagenet", "validation")))
    refused("tiered-imagenet", folder, "val_images_png.pkl", "damaged")
    dump(folder / "val_images_png.pkl", [])
    refused("tiered-imagenet", folder, "val_images_png.pkl", "as many images as labels, found 0")
    tiered_arrays(folder, "tiered-imagenet", 3)
    file = folder / "test_images.npz"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    refused("tiered-imagenet", folder, file.name, "array named images")
    for wrong, word in {"pictures": np.zeros(3), "images": np.zeros((5, 84, 84, 3))}.items():
        np.savez(file, **{wrong: word})
        refused("tiered-imagenet", folder, file.name, "images")
    np.savez(file, images=np.zeros((1, 84, 84, 3), np.uint8))
    refused("tiered-imagenet", folder, "as many images as labels, found 1")
