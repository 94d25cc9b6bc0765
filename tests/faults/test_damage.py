"""Checkpoints that are not as they were written: noticed, told, and the one before used. Place: fewstep/training."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known import assert_same_bits, bowl_problem, plain
from safetensors.numpy import load_file

from fewstep import InputError, MetaParams, init, runs
from fewstep.apps.sine.settings import Sine
from fewstep.core.maml import MetaState
from fewstep.storage.arrays import named_leaves
from fewstep.training import checkpoint, loop
from fewstep.training.checkpoint import Checkpoints, has_checkpoint
from fewstep.training.progress import read_metrics

STATE = MetaState(plain(jnp.arange(3.0)), (jnp.ones((2, 2), jnp.bfloat16), jnp.array([True])), jnp.asarray(7, jnp.int32))
TINY = {"hidden": (8,), "meta_steps": 6, "log_every": 3, "meta_batch_size": 3, "adaptation_steps": 2, "shots": 5, "queries": 5}


def state_of(problem):
    return init(problem.outer_optimizer, problem.init(jax.random.key(0)))


def last(directory, which="last"):
    with Checkpoints(directory / "checkpoints", "read") as checkpoints:
        return checkpoints.restore(state_of(bowl_problem()), which)


def saved(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """40 meta-steps without a stop: checkpoints after 30 and 40 of them, and the best."""
    directory = tmp_path_factory.mktemp("whole")
    loop.train(bowl_problem(), directory, seed=3, quiet=True)
    return directory


def damage(path, rng):
    """The content of a file cut at a random length, or with one bit changed."""
    content = bytearray(path.read_bytes())
    if rng.random() < 0.5:
        del content[int(rng.integers(len(content))) :]
    else:
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def test_a_checkpoint_cut_at_any_length_is_noticed(tmp_path):
    path = tmp_path / "7.safetensors"
    checkpoint.write(path, named_leaves(STATE), {"validation": 0.5})
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(checkpoint.Damaged):
            checkpoint.read_checkpoint_record(path)


def test_every_flipped_bit_of_a_checkpoint_is_noticed_and_so_is_what_follows_it(tmp_path):
    path = tmp_path / "7.safetensors"
    checkpoint.write(path, named_leaves(STATE), {"validation": 0.5})
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(checkpoint.Damaged):
            checkpoint.read_checkpoint_record(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(checkpoint.Damaged):
        checkpoint.read_checkpoint_record(path)


def test_a_checkpoint_comes_back_to_the_bit_in_every_type(tmp_path):
    record = {"validation": float("nan"), "sums": [1.5, 2], "told": "θ"}
    checkpoint.write(tmp_path / "7.safetensors", named_leaves(STATE), record)
    leaves, found = checkpoint.read_checkpoint(tmp_path / "7.safetensors", named_leaves(STATE))
    assert_same_bits(jax.tree.unflatten(jax.tree.structure(STATE), leaves.values()), jax.device_get(STATE))
    assert np.isnan(found.pop("validation"))
    assert found == {"sums": [1.5, 2], "told": "θ"}
    assert [path.name for path in tmp_path.iterdir()] == ["7.safetensors"]


def test_a_checkpoint_is_laid_out_as_safetensors_are(tmp_path):
    checkpoint.write(tmp_path / "7.safetensors", named_leaves(STATE), {"validation": 0.5})
    content = (tmp_path / "7.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, arrays = json.loads(content[8 : 8 + length]), content[8 + length :]
    assert length % 8 == 0
    assert all(isinstance(value, str) for value in header.pop("__metadata__").values())
    assert {name: (entry["dtype"], entry["shape"]) for name, entry in header.items()} == {
        "params.theta": ("F32", [3]),
        "opt_state.0": ("BF16", [2, 2]),
        "opt_state.1": ("BOOL", [1]),
        "step": ("I32", []),
    }
    ends = sorted(entry["data_offsets"] for entry in header.values())
    assert [begin for begin, _ in ends] == [0, *(end for _, end in ends[:-1])]
    assert ends[-1][1] == len(arrays)
    begin, end = header["params.theta"]["data_offsets"]
    assert np.frombuffer(arrays[begin:end], "<f4").tolist() == [0.0, 1.0, 2.0]


def test_other_readers_of_safetensors_find_the_same_arrays(tmp_path):
    arrays = {
        "key": np.array([3, 2**32 - 1], np.uint32),
        "scalar": np.float32(1.5),
        "large": np.int64(-(2**62)),
        "none": np.zeros((0, 3), np.float32),
        "turned": np.arange(6.0).reshape(2, 3).T,
        "known": np.array(True),
    }
    checkpoint.write(tmp_path / "7.safetensors", arrays, {})
    found = load_file(tmp_path / "7.safetensors")
    assert {name: (each.dtype, each.shape) for name, each in found.items()} == {
        name: (each.dtype, each.shape) for name, each in arrays.items()
    }
    ours, _ = checkpoint.read_checkpoint(tmp_path / "7.safetensors", arrays)
    for name, each in arrays.items():
        np.testing.assert_array_equal(found[name], each)
        np.testing.assert_array_equal(ours[name], each)


def test_a_checkpoint_of_the_earlier_format_has_to_be_trained_again(tmp_path):
    header = b'{"__metadata__":{"sha256":"' + b"0" * 64 + b'","format":"1"}}'
    (tmp_path / "7.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match=r"expected a checkpoint of format 2, found an earlier one\. Train the run again\."):
        Checkpoints(tmp_path, "read")


@pytest.mark.parametrize(
    ("like", "told"),
    [
        ({"theta": np.zeros(4, np.float32)}, r"of theta expected F32\[4\], found F32\[3\]"),
        ({"theta": np.zeros(3, np.int32)}, r"of theta expected I32\[3\], found F32\[3\]"),
        ({"other": np.zeros(3, np.float32)}, r"of other expected F32\[3\], found none"),
        ({}, r"of theta expected none, found F32\[3\]"),
    ],
)
def test_a_checkpoint_of_another_model_says_which_array_differs(tmp_path, like, told):
    checkpoint.write(tmp_path / "7.safetensors", {"theta": np.zeros(3, np.float32)}, {})
    with pytest.raises(InputError, match=told):
        checkpoint.read_checkpoint(tmp_path / "7.safetensors", like)


def test_a_checkpoint_of_a_later_format_says_which_version_it_takes(tmp_path, monkeypatch):
    with monkeypatch.context() as later:
        later.setattr(checkpoint, "FORMAT", 3)
        later.setattr(checkpoint, "__version__", "9.1.0")
        checkpoint.write(tmp_path / "7.safetensors", named_leaves(STATE), {"validation": 0.5})
    for mode in ("read", "resume"):
        with pytest.raises(InputError, match=r"format 2, got 3\. It takes fewstep 9\.1\.0"):
            Checkpoints(tmp_path, mode)


@pytest.mark.parametrize("seed", range(6))
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_bit_for_bit_and_says_so(whole, tmp_path, capsys, seed):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    newest = run / "checkpoints" / "40.safetensors"
    damage(newest, np.random.default_rng(seed))
    content = newest.read_bytes()
    loop.train(bowl_problem(), run, seed=3, resume=True)
    assert "warning: checkpoint" in capsys.readouterr().err
    assert (run / "checkpoints" / "40.damaged").read_bytes() == content
    assert_same_bits(last(run)[0], last(whole)[0])
    (told,) = [line["warnings"] for line in read_metrics(run / "metrics.jsonl") if "warnings" in line]
    assert f"{newest} is damaged" in told[0]
    assert "left as 40.damaged, and the last whole one is of meta-step 30" in told[0]


def test_reading_leaves_a_damaged_checkpoint_where_it_is_and_takes_another(whole, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    best = int(last(run, "best")[0].step)
    before = saved(run)
    (run / "checkpoints" / f"{best}.safetensors").write_bytes(b"")
    state, record = last(run, "best")
    assert int(state.step) != best
    assert record["validation"] >= last(whole, "best")[1]["validation"]
    assert f"warning: checkpoint {run}/checkpoints/{best}.safetensors is damaged" in capsys.readouterr().err
    assert saved(run) == before


def test_where_all_are_damaged_nothing_is_changed_and_the_run_does_not_begin_again(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    before = saved(run)
    for mode in ("read", "resume", "new"):
        with pytest.raises(InputError, match=r"All checkpoints in .* are damaged .*copy, or train again"):
            Checkpoints(run / "checkpoints", mode)
    assert saved(run) == before
    assert has_checkpoint(run)


def test_a_second_damaged_checkpoint_of_the_same_meta_step_is_kept_beside_the_first(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    for _ in range(2):
        (tmp_path / "run" / "checkpoints" / "40.safetensors").write_bytes(b"half")
        loop.train(bowl_problem(), tmp_path / "run", seed=3, resume=True, quiet=True)
    assert {"40.damaged", "40.damaged-2", "40.safetensors"} < set(saved(tmp_path / "run"))


def test_what_was_half_written_when_a_run_was_killed_is_removed_when_it_goes_on(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "50.partial").write_bytes(b"half")
    loop.train(bowl_problem(), tmp_path / "run", seed=3, resume=True, quiet=True)
    assert saved(tmp_path / "run") == saved(whole)


def test_a_checkpoint_that_was_not_validated_is_the_last_and_never_the_best(tmp_path):
    like = state_of(bowl_problem())
    with Checkpoints(tmp_path, "new") as checkpoints:
        for step, validation in enumerate([None, 3.0, float("nan"), 1.0, None, None, None], 1):
            checkpoints.save(like._replace(step=jnp.asarray(step, jnp.int32)), {"validation": validation})
            checkpoints.wait()
            expected = {1: 1, 2: 2, 3: 2}.get(step, 4)
            assert int(checkpoints.restore(like, "best")[0].step) == expected
            assert int(checkpoints.restore(like, "last")[0].step) == step
    assert sorted(int(path.stem) for path in tmp_path.iterdir()) == [4, 6, 7]


def test_checkpoints_more_often_change_nothing_of_a_run(whole, tmp_path):
    loop.train(bowl_problem(checkpoint_every=7), tmp_path, seed=3, meta_steps=40, quiet=True)
    assert {"35.safetensors", "40.safetensors"} <= set(saved(tmp_path))
    assert_same_bits(last(tmp_path)[0], last(whole)[0])
    assert_same_bits(last(tmp_path, "best")[0], last(whole, "best")[0])
    assert [line["meta_step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [10, 20, 30, 40]


def test_a_damaged_checkpoint_is_told_by_the_command_that_meets_it(tmp_path, command):
    run = runs.train(Sine(**TINY, checkpoint_every=2), tmp_path / "run", seed=4, quiet=True)
    (tmp_path / "run" / "parameters.npz").unlink()
    expected = run.params("best")
    (tmp_path / "run" / "checkpoints" / "4.safetensors").write_bytes(b"half")
    (tmp_path / "points.csv").write_text("x,y\n1,2\n2,3\n")
    for words in (
        ["evaluate", "run", "--steps", "1", "--tasks", "5"],
        ["adapt", "run", "--support", "points.csv", "--out", "a"],
    ):
        code, _, err = command(*words)
        assert code == 0, err
        assert "4.safetensors is damaged: it is not as it was written" in err
        assert "Traceback" not in err
    assert isinstance(expected, MetaParams)
    assert_same_bits(run.params("best"), expected)
