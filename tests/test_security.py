"""Files made to do harm: opening them runs nothing, takes no memory, and is refused in words (SECURITY.md)."""

import hashlib
import io
import json
import os
import re
import shutil
import sys
import tracemalloc
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from known import plain

import fewstep
from fewstep import InputError, runs
from fewstep.application import open_adapted
from fewstep.apps.sine.settings import Sine
from fewstep.storage.arrays import named_leaves, read_arrays, write_arrays
from fewstep.supervised.adapted import adapt
from fewstep.training import checkpoint
from fewstep.training.checkpoint import Damaged

TINY = {"hidden": (8,), "meta_steps": 4, "log_every": 2, "meta_batch_size": 3, "adaptation_steps": 2, "shots": 5, "queries": 5}


class Harm:
    """What a pickle of it would do: make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def pickled(path, harm, name="theta"):
    """An .npz whose array is of Python objects, the first of which does harm when it is unpickled."""
    array = np.empty(1, object)
    array[0] = Harm(harm)
    np.savez(path, **{name: array})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, and what was adapted from it."""
    import polars as pl

    folder = tmp_path_factory.mktemp("trained")
    run = runs.train(Sine(**TINY), folder / "run", quiet=True)
    adapt(run, pl.DataFrame({"x": [0.0, 1.0, 2.0], "y": [1.0, 2.0, 0.0]})).save(folder / "adapted")
    return folder


@pytest.fixture
def harmed(tmp_path):
    """A path that must not come to be."""
    yield tmp_path / "harmed"
    assert not (tmp_path / "harmed").exists()


def test_the_harmful_pickle_would_do_harm_where_pickles_are_loaded(tmp_path):
    pickled(tmp_path / "file.npz", tmp_path / "harmed")
    with np.load(tmp_path / "file.npz", allow_pickle=True) as stored:
        assert stored["theta"].shape == (1,)
    assert (tmp_path / "harmed").is_dir()


@pytest.mark.parametrize("where", ["run", "adapted"])
def test_a_pickle_among_parameters_is_refused_and_runs_nothing(trained, tmp_path, harmed, where):
    shutil.copytree(trained / where, tmp_path / where)
    path = tmp_path / where / "parameters.npz"
    with np.load(path) as stored:
        name = stored.files[0]
    pickled(path, harmed, name)
    with pytest.raises(InputError, match="damaged"):
        runs.open_run(tmp_path / where).params() if where == "run" else open_adapted(tmp_path / where)


def test_a_pickle_named_as_a_checkpoint_is_refused_and_runs_nothing(trained, tmp_path, harmed):
    shutil.copytree(trained / "run", tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        pickled(tmp_path / "pickle.npz", harmed)
        shutil.move(tmp_path / "pickle.npz", path)
    with pytest.raises(InputError, match=r"All checkpoints in .* are damaged"):
        runs.open_run(tmp_path / "run").params("last")


def test_an_array_that_unfolds_to_a_thousand_times_its_file_is_refused_unread(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        content = io.BytesIO()
        np.save(content, np.zeros(10_000_000, np.float32))
        archive.writestr("theta.npy", content.getvalue())
    assert (tmp_path / "bomb.npz").stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(ValueError, match="unfold"):
        read_arrays(tmp_path / "bomb.npz", plain(jnp.zeros(3)))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_an_array_that_claims_more_than_its_file_holds_is_refused(tmp_path):
    write_arrays(tmp_path / "file.npz", plain(jnp.zeros(3)))
    content = (tmp_path / "file.npz").read_bytes()
    assert b"'shape': (3,)" in content
    (tmp_path / "file.npz").write_bytes(content.replace(b"'shape': (3,)", b"'shape': (9,)"))
    with pytest.raises((ValueError, zipfile.BadZipFile)):
        read_arrays(tmp_path / "file.npz", plain(jnp.zeros(3)))


def forged(path, change):
    """A checkpoint whose header was changed by hand, with the digest of what it became."""
    content = bytearray(checkpoint.encode(named_leaves(plain(jnp.zeros(3))), {}))
    length = int.from_bytes(content[:8], "little")
    header = change(content[8 : 8 + length].decode()).encode()
    forged = bytearray(len(header).to_bytes(8, "little") + header + content[8 + length :])
    forged[checkpoint.PLACE] = checkpoint.NO_DIGEST
    forged[checkpoint.PLACE] = hashlib.sha256(forged).hexdigest().encode()
    path.write_bytes(forged)


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.replace('"shape":[3]', '"shape":[1000000000000]'),
        lambda header: header.replace('"data_offsets":[0,12]', '"data_offsets":[0,1000000000000]'),
        lambda header: header.replace('"F32"', '"O"'),
        lambda header: header.rstrip().removesuffix("}") + ',"deep":' + "[" * 100_000 + "]" * 100_000 + "}",
        lambda header: header.replace(r"\"format\": 2", r"\"format\": \"one\""),
        lambda header: header.replace(r"\"record\": {}", r"\"record\": ["),
        lambda header: header.replace(r"\"record\": {}", r"\"recorded\": {}"),
    ],
)
def test_a_checkpoint_that_was_forged_with_a_right_digest_is_refused(tmp_path, change):
    forged(tmp_path / "1.safetensors", lambda header: header)
    like = named_leaves(plain(jnp.zeros(3)))
    assert checkpoint.read_checkpoint(tmp_path / "1.safetensors", like)[0]["theta"].tolist() == [0.0] * 3
    before = (tmp_path / "1.safetensors").read_bytes()
    forged(tmp_path / "1.safetensors", change)
    assert (tmp_path / "1.safetensors").read_bytes() != before
    with pytest.raises((Damaged, InputError)):
        checkpoint.read_checkpoint(tmp_path / "1.safetensors", like)


@pytest.mark.parametrize(
    "change",
    [
        {"problem": "rl", "settings": {"env": "harmful:make"}, "seed": 0},
        {"problem": "harmful:make"},
        {"settings": {"hidden": [8], "inner_optimizer": "harmful:make"}},
        {"settings": {"__class__": "harmful:make"}},
        {"format": {"__reduce__": ["os.mkdir", "harmed"]}},
    ],
)
def test_a_config_that_names_a_module_imports_nothing(trained, tmp_path, harmed, monkeypatch, change):
    (tmp_path / "harmful.py").write_text(f"import os\nos.mkdir({str(harmed)!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained / "run", tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError):
        runs.open_run(tmp_path / "run").params()
    assert "harmful" not in sys.modules


def test_nothing_in_the_package_unpickles_or_evaluates_a_file():
    found = {
        f"{path.name}: {line.strip()}"
        for path in Path(fewstep.__file__).parent.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"allow_pickle=True|pickle\.loads?\(|joblib|dill\b|yaml\.load\(|(?<![\w.])(eval|exec)\(", line)
    }
    assert found == set()
