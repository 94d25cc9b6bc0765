"""Runs and adapted models whose files are damaged, by the commands that open them. Place: fewstep/runs, adapted, plots."""

import json
import os
import random
import shutil

import pytest
from fuzzing import begin
from odd_json import files_damaged, parts_damaged

ADAPT = ["adapt", "copy", "--support", "sound.csv", "--out", "out"]
PREDICT = ["predict", "copy", "--inputs", "sound.csv", "--out", "out.csv"]
PHOTOS_ADAPT = ["adapt", "copy", "--support", "support", "--out", "out"]
PHOTOS_PREDICT = ["predict", "copy", "--inputs", "support", "--out", "out.csv", "--level", "0.9"]
READERS = {
    ("run", "config.json"): [["resume", "copy"], ["results", "copy"], ["plot", "copy"], ADAPT],
    ("run", "calibration.json"): [ADAPT],
    ("run", "evaluation.json"): [["results", "copy"], ["plot", "copy"]],
    ("run", "illustrations.json"): [["plot", "copy"]],
    ("run", "metrics.jsonl"): [["plot", "copy"]],
    ("run", "parameters.npz"): [ADAPT],
    ("adapted", "adapted.json"): [PREDICT],
    ("adapted", "parameters.npz"): [PREDICT],
    ("adapted", "support.parquet"): [PREDICT, ["update", "copy", "--support", "sound.csv"]],
    ("photos-run", "config.json"): [PHOTOS_ADAPT],
    ("photos-run", "calibration.json"): [PHOTOS_ADAPT],
    ("photos-run", "evaluation.json"): [["results", "copy"], ["plot", "copy"]],
    ("photos-run", "illustrations.json"): [["plot", "copy"]],
    ("photos-adapted", "adapted.json"): [PHOTOS_PREDICT],
    ("photos-adapted", "support.npz"): [PHOTOS_PREDICT],
}
"""(folder, file) -> the commands that read it"""
OUT = ["out", "out.csv", "copy", "out_confusion.png"]
FAST = {("run", "config.json"): 40, ("photos-run", "config.json"): 35, ("adapted", "adapted.json"): 40}
"""(folder, file) -> so many damages are tried in the fast slice, by the first command that reads the file"""
SLOW = 300
"""of up to six thousand, which would take hours"""


def tried(fuzz, shelf, record_property, folder, file, words, most):
    """One command on `most` of the damages of a file. One test: each alone would take longer to set up than to run."""
    for name in ("sound.csv", "support"):
        os.symlink(shelf / name, fuzz.work / name)
    sound = (shelf / folder / file).read_bytes()
    damages = dict(files_damaged(sound))
    if file.endswith(".json"):
        damages |= {name: text.encode("utf-8", "surrogatepass") for name, text in parts_damaged(json.loads(sound))}
    record_property("kind", f"saved: {file}")
    failed = {}
    for name, content in random.Random(0).sample(list(damages.items()), min(most, len(damages))):
        shutil.copytree(shelf / folder, fuzz.work / "copy")
        (fuzz.work / "copy" / file).write_bytes(content)
        try:
            record_property("outcome", fuzz.check(words, OUT))
        except BaseException as error:
            failed[name] = f"{type(error).__name__}: {str(error)[:300]}"
        for path in map(fuzz.work.joinpath, OUT):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    assert not failed, "\n".join(f"{name}: {told}" for name, told in failed.items())


@pytest.mark.parametrize(("folder", "file"), FAST)
def test_a_damaged_file_of_a_run_is_used_or_refused(fuzz, shelf, photo_shelf, record_property, monkeypatch, folder, file):
    """A usable run is calibrated, evaluated and drawn in the slow slice alone: here its first task is traced."""
    monkeypatch.setattr("fewstep.supervised.conformal.calibrate", begin)
    monkeypatch.setattr("fewstep.supervised.report.measure", begin)
    place = photo_shelf if folder.startswith("photos") else shelf
    tried(fuzz, place, record_property, folder, file, READERS[folder, file][0], FAST[folder, file])


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "file", "words"), [(*where, words) for where, each in READERS.items() for words in each])
def test_many_damages_of_every_file_are_used_or_refused(fuzz, trained_shelf, record_property, folder, file, words):
    tried(fuzz, trained_shelf, record_property, folder, file, words, SLOW)


@pytest.mark.parametrize("file", ["config.json", "parameters.npz", "calibration.json", "evaluation.json", "metrics.jsonl"])
@pytest.mark.parametrize("words", [["resume", "copy"], ["plot", "copy"], ["results", "copy"], ADAPT])
def test_a_pipe_in_place_of_a_file_of_a_run_is_not_waited_for(fuzz, shelf, record_property, file, words):
    os.symlink(shelf / "sound.csv", fuzz.work / "sound.csv")
    shutil.copytree(shelf / "run", fuzz.work / "copy")
    (fuzz.work / "copy" / file).unlink(missing_ok=True)
    os.mkfifo(fuzz.work / "copy" / file)
    record_property("kind", "saved: a pipe")
    record_property("outcome", fuzz.check(words, OUT))
