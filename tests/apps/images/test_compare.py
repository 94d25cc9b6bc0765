"""A probe on embeddings that the user brings: which photo is which, and what is refused. Place:
fewstep/apps/images/compare.py."""

import json

import numpy as np
import polars as pl
import pytest
from PIL import Image

from fewstep.apps.images.compare import PROBE, embeddings_of, make_image_benchmark
from fewstep.apps.images.problem import Images
from fewstep.apps.sine.settings import Sine
from fewstep.compare.methods import LEARNED
from fewstep.compare.methods.method import Work
from fewstep.compare.request import REQUEST, is_continued, make_request
from fewstep.compare.splits import make_benchmarks
from fewstep.errors import InputError

CLASSES, PHOTOS = 20, 6


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Photos of noise, in which no class can be seen."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for name in range(CLASSES):
        (tmp_path / "data" / f"class{name}").mkdir(parents=True)
        for number in range(PHOTOS):
            path = tmp_path / "data" / f"class{name}" / f"{number}.png"
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    return Images(data=str(tmp_path / "data"), size=8, ways=3, shots=2, queries=2)


def table(settings, noise=0.0, seed=0):
    """Embeddings that tell classes apart, up to some noise: each class has a direction of its own."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(CLASSES, 16))
    names = [f"class{name}/{number}.png" for name in range(CLASSES) for number in range(PHOTOS)]
    values = np.repeat(direction, PHOTOS, 0) + noise * rng.normal(size=(CLASSES * PHOTOS, 16))
    return pl.DataFrame({"file": names, **{f"e{number}": column for number, column in enumerate(values.T)}})


def written(found, path):
    found.write_parquet(path) if path.suffix == ".parquet" else found.write_csv(path)
    return str(path)


def work_on(settings, path, ridge=1.0):
    on = make_image_benchmark(settings, 0, path)
    return on, Work(on, {"ridge": ridge}, 0, None)


@pytest.mark.parametrize("name", ["e.csv", "e.parquet"])
def test_embeddings_that_know_the_classes_tell_all_photos_and_pixels_of_noise_none(name, settings, tmp_path):
    on, work = work_on(settings, written(table(settings).sample(fraction=1.0, shuffle=True, seed=3), tmp_path / name))
    assert on.errors(PROBE.fit(work).predict, "test").max() == 0
    nearest = next(method for method in LEARNED if method.name == "nearest")
    assert on.errors(nearest.fit(work).predict, "test").mean() > 0.4


def test_the_probe_is_ridge_regression_on_centered_embeddings_of_length_one(settings, tmp_path):
    found = table(settings, noise=2.0)
    on, work = work_on(settings, written(found, tmp_path / "e.csv"), ridge=0.3)
    images, parts, _ = on.settings.classes(0)
    row = {name: np.array(values) for name, *values in found.iter_rows()}
    of = np.stack([row[name] for name in images.files])
    train = [i for one in parts["train"] for i in range(images.start[one], images.start[one] + images.length[one])]
    of = of - of[train].mean(0)
    of /= np.linalg.norm(of, axis=1, keepdims=True)
    episodes = next(iter(on.test.parts()))
    number = {image.tobytes(): place for place, image in enumerate(images.images)}
    decode = on.problem.images.pixels.decode
    x, asked = (of[[number[image.tobytes()] for image in decode(part.inputs[0])]] for part in episodes)
    y = np.asarray(episodes.support.targets[0], float) - 1 / 3
    expected = asked @ np.linalg.solve(x.T @ x + 0.3 * np.eye(16), x.T @ y)
    np.testing.assert_allclose(PROBE.fit(work).predict(episodes)[0], expected, atol=1e-9)


def test_without_embeddings_the_probe_is_left_out_and_says_how_to_bring_some(settings):
    assert "--embeddings" in PROBE.absent(make_image_benchmark(settings, 0))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda found: found.head(110), "found none for class"),
        (lambda found: found.rename({"file": "photo"}), "expected a column 'file'"),
        (lambda found: found.select("file"), "columns of numbers"),
        (lambda found: found.with_columns(e3=pl.lit("word")), "found words in e3"),
        (lambda found: found.with_columns(e3=pl.when(pl.int_range(pl.len()) > 0).then("e3")), "finite numbers"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(change, told, settings, tmp_path):
    path = written(change(table(settings)), tmp_path / "e.csv")
    with pytest.raises(InputError, match=told):
        embeddings_of(path, make_image_benchmark(settings, 0).settings, 0)


def test_embeddings_are_of_photos_and_part_of_what_a_comparison_is(settings, tmp_path):
    with pytest.raises(InputError, match="of photos"):
        make_benchmarks(Sine(), 0, print, budget=60, embeddings="e.csv")
    with pytest.raises(InputError, match="no such file"):
        make_request(settings, 60.0, 1, None, 0, "", str(tmp_path / "absent.csv"))
    asked = make_request(settings, 60.0, 1, None, 0, "", written(table(settings), tmp_path / "e.csv"))
    (tmp_path / REQUEST).write_text(json.dumps(asked))
    assert is_continued(tmp_path, asked)
    with pytest.raises(InputError, match="embeddings"):
        is_continued(tmp_path, make_request(settings, 60.0, 1, None, 0, ""))
    with pytest.raises(InputError, match="embeddings"):
        is_continued(tmp_path, make_request(settings, 60.0, 1, None, 0, "", written(table(settings, 1.0), tmp_path / "e.csv")))
