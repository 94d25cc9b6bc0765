"""Photos from the command line: train, evaluate, adapt to new classes, predict. Place: fewstep/cli, runs, adapted."""

import csv
import itertools
import json
import shutil
import zipfile
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known import write_photos

import fewstep
from fewstep import cli
from fewstep.apps.images.adapted import AdaptedPhotos, adapt_photos, open_photos
from fewstep.apps.images.data import read_image_folder
from fewstep.apps.images.prediction_sets import read_photos
from fewstep.apps.images.problem import Images
from fewstep.apps.images.tasks import class_weights
from fewstep.core.types import Examples
from fewstep.errors import TrainingError
from fewstep.runs import open_run, run_lock, train
from fewstep.supervised.trained import Trained

CLASSES, PHOTOS = 24, 6
SETTINGS = ["--size", 12, "--network", "mlp", "--hidden", 24, "--meta-steps", 30, "--log-every", 10, "--meta-batch-size", 8]
SETTINGS += ["--ways", 3, "--shots", 1, "--queries", 2, "--test-queries", 3, "--adaptation-steps", 2, "--validation-tasks", 10]
SETTINGS += ["--parts", 0.5, 0.25, 0.25]


def run(*words):
    return cli.main([str(word) for word in words])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(photos of many classes, a run trained on them, photos of four new classes, the run adapted to these)."""
    patch = pytest.MonkeyPatch()
    patch.setattr("fewstep.training.devices.use_cpu_cores", lambda: None)
    root = tmp_path_factory.mktemp("photos")
    patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
    data, new = write_photos(root / "data", range(CLASSES)), write_photos(root / "new", range(50, 54), photos=2)
    assert run("train", "images", "--data", data, *SETTINGS, "--out", root / "run") == 0
    assert run("adapt", root / "run", "--support", new, "--out", root / "adapted") == 0
    yield root
    patch.undo()


def test_a_folder_of_classes_becomes_a_run_with_its_pictures(folders):
    result = json.loads((folders / "run" / "evaluation.json").read_text())
    assert result["metric"] == "accuracy" and result["steps"] == [0, 1, 2, 4, 6] and result["tasks"] == 1000
    assert result["mean"][0] == pytest.approx(1 / 3, abs=0.02) and max(result["mean"]) > 0.8
    for name in ("data", "split", "ways", "shots", "queries_per_class", "classes_turned_at_test", "normalization", "classes"):
        assert name in result["protocol"]
    assert result["protocol"]["queries_per_class"] == 3
    pictures = {path.stem for path in (folders / "run" / "plots").iterdir()}
    assert pictures == {"training", "episodes", "accuracy", "reliability"}


def test_classes_are_split_disjointly_and_all_are_in_a_part(folders):
    tasks = json.loads((folders / "run" / "config.json").read_text())["classes"]
    names = [name for part in tasks.values() for name in part]
    assert sorted(names) == [f"class{number:02d}" for number in range(CLASSES)]


def test_new_classes_are_told_apart_from_two_photos_of_each_whatever_their_number(folders, command, tmp_path):
    inputs = write_photos(tmp_path / "inputs", range(50, 54), seed=1)
    code, out, err = command("predict", folders / "adapted", "--inputs", inputs, "--out", "labels.csv")
    assert code == 0, err
    rows = list(csv.DictReader((tmp_path / "labels.csv").read_text().splitlines()))
    assert len(rows) == 4 * PHOTOS and {row["prediction"] for row in rows} <= {f"class{number}" for number in range(50, 54)}
    right = np.mean([row["prediction"] == row["file"].split("/")[0] for row in rows])
    assert right > 0.8 and f"{round(right * len(rows))} of {len(rows)} photos" in out
    for row in rows:
        assert sum(float(row[f"probability_class{number}"]) for number in range(50, 54)) == pytest.approx(1, abs=1e-3)
    assert (tmp_path / "labels_confusion.png").is_file()


def test_a_kept_model_adapts_to_an_odd_number_of_photos_as_by_one_device_and_traces_once(folders, tmp_path, monkeypatch):
    trained = Trained.of(open_run(folders / "run"))
    first, second = (
        adapt_photos(trained, write_photos(tmp_path / f"{seed}", range(50, 53), seed, photos=3), 2) for seed in (1, 2)
    )
    targets = jnp.eye(3)[first.labels]
    support = Examples(trained.problem.format.pixels.encode(jnp.asarray(first.images)), targets, jnp.ones(9))
    expected = fewstep.adapt(trained.problem.learner, trained.params, support, jax.random.key(0), 2)
    assert jax.device_count() > 1 and len(first.support.weight) % jax.device_count() == 0
    for one, other in zip(jax.tree.leaves(first.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    first.predict_known(first.images)
    monkeypatch.setattr("fewstep.training.jit._trace", None)  # to trace again would fail
    assert second.predict_known(second.images)[0].argmax(1).tolist() == second.labels.tolist()


@pytest.mark.parametrize("times", [7, 50])
def test_more_of_the_same_photos_of_one_class_change_no_answer(folders, times):
    model = adapt_photos(open_run(folders / "run"), folders / "new")
    again = np.concatenate([np.tile(np.flatnonzero(model.labels == 0), times), np.flatnonzero(model.labels > 0)])
    unbalanced = replace(model, images=model.images[again], labels=model.labels[again])
    assert unbalanced.shots.tolist() == [2 * times, 2, 2, 2]
    asked = np.random.default_rng(0).integers(0, 256, (20, *model.images.shape[1:])).astype(np.uint8)
    for one, other in zip(unbalanced.predict_known(asked), model.predict_known(asked), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


def test_classes_of_as_many_photos_weigh_one_each_and_others_the_same_in_sum():
    np.testing.assert_array_equal(class_weights(np.repeat(np.arange(7), 3), 7), np.ones(21, np.float32))
    weights = class_weights(np.array([0] * 50 + [1] + [2] * 3), 3)
    np.testing.assert_allclose([weights[:50].sum(), weights[50], weights[51:].sum()], 18, rtol=1e-6)


def test_where_the_batch_is_normalized_smaller_classes_are_repeated(folders):
    model = adapt_photos(open_run(folders / "run"), folders / "new")
    batch = replace(model.problem, settings=replace(model.problem.settings, normalization="batch"))
    few = replace(model, trained=replace(model.trained, problem=batch), images=model.images[:-1], labels=model.labels[:-1])
    assert few.shots.tolist() == [2, 2, 2, 1]
    np.testing.assert_array_equal(few.support.targets.sum(0), [2, 2, 2, 2])
    np.testing.assert_array_equal(few.support.weight, np.ones(8))
    np.testing.assert_array_equal(few.support.inputs[6], few.support.inputs[7])


def test_photos_of_other_classes_are_mostly_told_to_be_none_of_these(folders, command, tmp_path):
    own, other = write_photos(tmp_path / "own", range(50, 54), seed=2), write_photos(tmp_path / "other", range(70, 76), seed=2)
    shares = []
    for inputs in (own, other):
        code, out, _ = command("predict", folders / "adapted", "--inputs", inputs, "--out", f"{inputs.name}.csv", "--json")
        found = json.loads(out)
        shares.append(found["none_of_these"] / found["photos"])
        assert code == 0
    assert shares[0] < 0.3 < shares[1]


def test_a_photo_that_is_in_both_support_and_inputs_is_said(folders, command):
    code, out, err = command("predict", folders / "adapted", "--inputs", folders / "new", "--out", "same.csv", "--json")
    assert code == 0 and "8 of the photos are support photos too" in err and json.loads(out)["photos"] == 8
    assert "labeled" not in json.loads(out)  # to know them again is no merit


def test_photos_in_a_format_that_cannot_be_read_are_named(folders, command, tmp_path):
    support = write_photos(tmp_path / "support", range(50, 53), photos=2)
    (support / "class50" / "phone.HEIC").write_bytes(b"ftypheic")
    code, _, err = command("adapt", folders / "run", "--support", support, "--out", "heic")
    assert code == 0 and "class50/phone.HEIC (no JPEG" in err and "convert it to JPEG" in err


def test_an_adapted_model_of_photos_is_not_updated_and_not_called_damaged(folders, command):
    code, _, err = command("update", folders / "adapted", "--support", folders / "new")
    assert code == 2 and "update is for robot-faults, sine, table; this is a model of images or omniglot" in err


def test_a_run_that_was_not_trained_to_its_end_is_said_to_be_so(folders, command, tmp_path):
    shutil.copytree(folders / "run", tmp_path / "unfinished")
    (tmp_path / "unfinished" / "calibration.json").unlink()
    with run_lock(tmp_path / "unfinished"):
        code, _, err = command("adapt", "unfinished", "--support", folders / "new", "--out", "meanwhile")
        assert code == 0 and "was being calibrated by another process" in err and "trained to its end" not in err
    (tmp_path / "unfinished" / "parameters.npz").unlink()
    code, _, err = command("adapt", "unfinished", "--support", folders / "new", "--out", "early")
    assert code == 0 and "not trained to its end" in err and "fitted at" not in err and "too few" not in err
    code, _, err = command("predict", "early", "--inputs", folders / "new", "--out", "labels.csv", "--level", "0.9")
    assert code == 2 and "not trained to its end" in err and not (tmp_path / "labels.csv").exists()


def test_a_zip_of_photos_gives_the_same_predictions_as_their_folder(folders, command, tmp_path):
    inputs = write_photos(tmp_path / "inputs", [51, 53], seed=3, photos=2)
    with zipfile.ZipFile(tmp_path / "inputs.zip", "w") as archive:
        for path in sorted(inputs.rglob("*.png")):
            archive.write(path, path.relative_to(inputs))
    for source, out in ((inputs, "folder.csv"), (tmp_path / "inputs.zip", "zip.csv")):
        assert command("predict", folders / "adapted", "--inputs", source, "--out", out)[0] == 0
    assert (tmp_path / "folder.csv").read_text() == (tmp_path / "zip.csv").read_text()


def test_an_evaluation_again_gives_the_same_figures(folders, command):
    before = json.loads((folders / "run" / "evaluation.json").read_text())
    code, out, _ = command("evaluate", folders / "run", "--json")
    after = json.loads(out)
    assert code == 0 and {**after, "seconds": 0} == {**before, "seconds": 0}


def test_tables_of_results_say_both_intervals(folders, command):
    _, out, _ = command("evaluate", folders / "run", "--tasks", 40)
    assert "± over episodes" in out and "± over classes" in out and "none of these" in out


def test_a_support_folder_with_one_class_is_refused_and_nothing_is_written(folders, command, tmp_path):
    one = write_photos(tmp_path / "one", [60])
    code, _, err = command("adapt", folders / "run", "--support", one, "--out", "adapted")
    assert code == 2 and "at least 2 classes" in err and not (tmp_path / "adapted").exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--ways", 9], "24 classes have at least"),
        (["--shots", 5], "0 classes have at least 7 images"),
        (["--data", "nowhere"], "nowhere"),
        (["--split-by", "data"], "--split-by data"),
    ],
)
def test_what_cannot_be_trained_on_is_said_before_anything_is_written(folders, command, tmp_path, words, complaint):
    data = [] if "--data" in words else ["--data", folders / "data"]
    settings = list(SETTINGS)
    for option in words[::2]:
        if option in settings:
            place = settings.index(option)
            del settings[place : place + 2]
    code, _, err = command("train", "images", *data, *settings, *words, "--out", "run")
    assert code == 2 and complaint in err and not (tmp_path / "run").exists()


def test_classes_with_too_few_photos_are_named_and_left_out(folders, command, tmp_path, monkeypatch):
    data = write_photos(tmp_path / "data", range(CLASSES))
    write_photos(data, [90], photos=2)
    code, _, err = command("train", "images", "--data", data, *SETTINGS, "--dry-run")
    assert code == 0, err
    code, _, err = command("train", "images", "--data", data, *SETTINGS, "--meta-steps", 2, "--out", "run")
    assert code == 2 and "given twice" in err
    settings = [2 if before == "--meta-steps" else word for before, word in zip([None, *SETTINGS], SETTINGS, strict=False)]

    def stopped(*words, **options):
        raise TrainingError("that is enough")

    monkeypatch.setattr("fewstep.training.loop.train", stopped)
    code, _, err = command("train", "images", "--data", data, *settings, "--out", "run")
    assert code == 1 and "1 of 25 classes have fewer than 3 images" in err and "class90 (2)" in err


def test_a_damaged_adapted_folder_is_said(folders, command, tmp_path):
    shutil.copytree(folders / "adapted", tmp_path / "broken")
    with np.load(tmp_path / "broken" / "support.npz") as stored:
        images, labels = stored["images"], stored["labels"]
    for harm in ("cut off", "unfolds to a thousand times as much"):
        if harm == "cut off":
            (tmp_path / "broken" / "support.npz").write_bytes(b"PK")
        else:
            np.savez_compressed(tmp_path / "broken" / "support.npz", images=np.repeat(images, 1000, 1), labels=labels)
        code, _, err = command("predict", "broken", "--inputs", folders / "new", "--out", "x.csv")
        assert code == 2 and "damaged" in err and not (tmp_path / "x.csv").exists()


def test_prediction_sets_that_cannot_be_had_are_left_out_with_a_word(folders, command, tmp_path):
    code, _, err = command("predict", folders / "adapted", "--inputs", folders / "new", "--out", "x.csv", "--level", 0.9)
    assert code == 0 and "the column set is left out: at --level 0.9 they take 9 calibration classes" in err
    assert "set" not in (tmp_path / "x.csv").read_text().splitlines()[0].split(",")
    code, _, err = command("predict", folders / "adapted", "--inputs", folders / "new", "--out", "y.csv", "--level", 1.5)
    assert code == 2 and "--level" in err and not (tmp_path / "y.csv").exists()


def test_how_many_classes_prediction_sets_take_is_said_before_the_training(folders):
    notes = open_run(folders / "run").problem().notes
    assert any("prediction sets" in note and "it takes 4 for 80 %, 9 for 90 %" in note for note in notes)


def test_prediction_sets_are_calibrated_at_any_number_of_classes_and_photos(folders, command, tmp_path):
    trained = Trained.of(open_run(folders / "run"))
    model = adapt_photos(trained, write_photos(tmp_path / "support", [50, 51, 52, 53], seed=9, photos=2))
    own = write_photos(tmp_path / "classes", range(100, 109), seed=9)
    kept = adapt_photos(trained, own).images.reshape(9, PHOTOS, 12, 12, 3)
    model = replace(model, calibrating=kept)
    model = replace(model, images=model.images[1:], labels=model.labels[1:])  # 1, 2, 2 and 2 photos
    images, files, _ = model.read(write_photos(tmp_path / "inputs", range(50, 54), seed=3, photos=5))
    chance, _ = model.predict_known(images)
    wide, narrow = model.sets(chance, 0.9), model.sets(chance, 0.5)
    truth = model.truth(files)
    assert np.mean([name in each for name, each in zip(truth, wide, strict=True)]) >= 0.8
    assert all(set(few) <= set(many) for few, many in zip(narrow, wide, strict=True))
    model.save(tmp_path / "kept")
    assert open_photos(tmp_path / "kept").sets(chance, 0.9) == wide
    assert "9 calibration classes, and" not in model.why_no_sets(0.9) and "take 19" in model.why_no_sets(0.95)
    few = replace(model, calibrating=kept[:, :2])
    assert "allow at most 1 support photos" in few.why_no_sets(0.8)
    (tmp_path / "kept" / "calibration_photos.npz").write_bytes(b"PK")
    code, _, err = command("predict", "kept", "--inputs", tmp_path / "inputs", "--out", "x.csv")
    assert code == 2 and "damaged" in err


def test_a_rule_that_tells_no_strangers_is_left_out_with_a_word(folders, command, tmp_path):
    shutil.copytree(folders / "run", tmp_path / "blind")
    calibration = json.loads((tmp_path / "blind" / "calibration.json").read_text())
    assert calibration["none_of_these"]["tells"] and calibration["none_of_these"]["told_at_least"] >= 0.2
    calibration["none_of_these"] |= {"tells": False, "told": 0.07, "told_at_least": 0.05}
    (tmp_path / "blind" / "calibration.json").write_text(json.dumps(calibration))
    code, _, err = command("adapt", "blind", "--support", folders / "new", "--out", "unsure")
    assert code == 0 and "no photo will be told to be none of the classes: it would tell nothing" in err and "7%" in err
    code, out, err = command("predict", "unsure", "--inputs", folders / "data", "--out", "x.csv", "--json")
    assert code == 0 and json.loads(out)["none_of_these"] is None and "the column none_of_these is left out" in err
    assert "none_of_these" not in (tmp_path / "x.csv").read_text().splitlines()[0]


@pytest.fixture(scope="module")
def groceries(real_data, tmp_path_factory):
    """(a run trained on small photos of groceries, whose test classes are the twelve that have most photos; all the photos)."""
    source, root = real_data / "grocery_store" / "grocery84.zip", tmp_path_factory.mktemp("groceries")
    if not source.is_file():
        pytest.skip("needs the folder grocery_store in ../shared/data, which is absent here")
    photos = read_image_folder(source, 28, 3, cache=False)
    parts = {number: "test" if rank < 12 else "train" for rank, number in enumerate(np.argsort(-photos.length).tolist())}
    parts |= {number: "validation" for number in np.argsort(-photos.length).tolist()[12::4]}
    rows = [f"{photos.names[number]},{part}" for number, part in parts.items()]
    (root / "classes.csv").write_text("\n".join(["class,split", *rows]))
    small = {"size": 28, "network": "conv4-strided", "meta_steps": 300, "adaptation_steps": 3, "validation_tasks": 40}
    settings = Images(data=str(source), labels=str(root / "classes.csv"), test_queries=10, log_every=100, **small)
    return train(settings, root / "run", quiet=True), photos


@pytest.mark.slow
def test_from_1_to_100_photos_of_either_class_are_no_worse_than_one_of_each(groceries):
    run, photos = groceries
    trained, most = Trained.of(run), np.argsort(-photos.length)[:5]

    def accuracy(*counts):
        right = []
        for number, pair in enumerate(itertools.combinations(most, 2)):
            random = np.random.default_rng(number)
            drawn = [photos.start[each] + random.permutation(photos.length[each]) for each in pair]
            given = np.concatenate([each[:count] for each, count in zip(drawn, counts, strict=True)])
            asked = np.concatenate([each[-15:] for each in drawn])
            files, steps = tuple(map(str, given)), trained.calibration["chosen_steps"]
            model = AdaptedPhotos(trained, ("a", "b"), photos.images[given], np.repeat([0, 1], counts), files, steps)
            right.append(model.predict_known(photos.images[asked])[0].argmax(1) == np.repeat([0, 1], 15))
        return np.mean(right)

    least = accuracy(1, 1)
    assert least > 0.65
    for counts in ((5, 5), (10, 1), (50, 1), (1, 50), (100, 1), (100, 100)):
        assert accuracy(*counts) > least - 0.08, counts  # 0.5 is chance, which 50 and 1 came to when photos counted alike


@pytest.mark.slow
def test_prediction_sets_of_unseen_groceries_hold_the_right_class_as_often_as_promised(groceries):
    run, _ = groceries
    assert len(read_photos(run.directory, run.problem())) >= 4
    found = run.write_evaluation()["sets"]["80"]
    assert found["coverage"] >= 0.6 and 1 <= found["classes"] <= 5 and found["tasks"] >= 10
