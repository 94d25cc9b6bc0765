"""What the tests of this folder share: a place to run commands in, runs and adapted models to run them on."""

import pytest
from fuzzing import fuzz_in
from known import untrained
from odd_images import sound
from odd_tables import SOUND, rows, text

from fewstep import plots, runs
from fewstep.apps.images.adapted import adapt_photos
from fewstep.apps.images.problem import Images
from fewstep.apps.tables.settings import Table
from fewstep.storage.tables import read_table
from fewstep.supervised.adapted import adapt

SMALL = {"hidden": (4,), "meta_steps": 4, "log_every": 2, "meta_batch_size": 2, "shots": 3, "queries": 3}
SMALL |= {"adaptation_steps": 1, "inner_optimizer": "sgd", "multi_step": 0.0, "clip": 0.0}  # soon compiled
SMALL_PHOTOS = {**SMALL, "shots": 1, "queries": 1, "test_queries": 1, "size": 8, "network": "mlp", "ways": 2}


@pytest.fixture
def fuzz(tmp_path, monkeypatch):
    return fuzz_in(tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory):
    """A folder with a run on the sound table, and a model adapted to all of its units."""
    folder = tmp_path_factory.mktemp("shelf")
    (folder / "sound.csv").write_bytes(SOUND)
    columns = {"task": "unit", "inputs": ("day", "depth"), "target": ("flow",)}
    run = untrained(Table(data=str(folder / "sound.csv"), adapter="gradient", **columns, **SMALL), folder / "run")
    adapt(run, read_table(folder / "sound.csv")).save(folder / "adapted")
    (folder / "support").mkdir()
    return folder


@pytest.fixture(scope="session")
def photo_shelf(tmp_path_factory):
    """A folder with a run on sound photos, and a model adapted to two of their classes."""
    folder = tmp_path_factory.mktemp("shelf")
    sound(folder / "photos", photos=4)
    sound(folder / "support", 2, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        run = untrained(Images(data=str(folder / "photos"), **SMALL_PHOTOS), folder / "photos-run")
    adapt_photos(run, folder / "support").save(folder / "photos-adapted")
    (folder / "sound.csv").write_bytes(SOUND)
    return folder


@pytest.fixture(scope="session")
def trained_shelf(tmp_path_factory):
    """The same on runs that were trained, calibrated, evaluated and drawn."""
    folder = tmp_path_factory.mktemp("shelf")
    (folder / "sound.csv").write_bytes(text(rows(48)).encode())
    sound(folder / "photos", 24, 4)
    sound(folder / "support", 2, 1)
    columns = {"data": str(folder / "sound.csv"), "task": "unit", "inputs": ("day", "depth"), "target": ("flow",)}
    table = Table(adapter="gradient", **columns, **SMALL)
    photos = Images(data=str(folder / "photos"), **{**SMALL_PHOTOS, "validation_tasks": 4})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for name, settings in (("run", table), ("photos-run", photos)):
            run = runs.train(settings, folder / name, quiet=True)
            run.write_evaluation()
            plots.draw(folder / name)
    adapt(runs.open_run(folder / "run"), read_table(folder / "sound.csv")).save(folder / "adapted")
    adapt_photos(runs.open_run(folder / "photos-run"), folder / "support").save(folder / "photos-adapted")
    return folder
