"""Runs that are killed or stopped while they compile, clocks that go back: all go on bit for bit. Place: fewstep/training."""

import signal
import sys
import time
from pathlib import Path

import jax
import pytest
from known import assert_same_bits, bowl_problem

from fewstep.supervised import training as supervised
from fewstep.training import loop
from fewstep.training.progress import read_metrics

ROOT = Path(__file__).parents[2]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not part of this distribution", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks.robustness import torture  # noqa: E402

BOWLS = """
import sys
from pathlib import Path
from known import bowl_problem
from fewstep.training.checkpoint import has_checkpoint
from fewstep.training.loop import train
run = Path(sys.argv[1])
run.mkdir(exist_ok=True)
problem = bowl_problem(checkpoint_every=10, log_every=50)
train(problem, run, seed=3, meta_steps=int(sys.argv[2]), resume=has_checkpoint(run), quiet=True)
"""


def bowls(run, meta_steps):
    """Quadratic tasks, compiled in a moment."""
    path = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    return [sys.executable, "-c", path + BOWLS, str(run), str(meta_steps)]


def test_a_run_killed_while_starting_and_while_writing_a_checkpoint_or_its_log_ends_in_the_same_bits(tmp_path):
    found = torture.torture(tmp_path, kills=3, meta_steps=2_000, seed=1, program=bowls)
    assert found["equal"] == dict.fromkeys(found["equal"], True)
    assert found["kinds"] == {"starting": 1, "checkpoint": 1, "log": 1}


@pytest.mark.slow
def test_a_run_killed_fifty_times_ends_in_the_same_bits(tmp_path):
    found = torture.torture(tmp_path, kills=50, meta_steps=20_000, seed=2)
    assert found["equal"] == dict.fromkeys(found["equal"], True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_while_it_compiles_is_saved_and_goes_on_bit_for_bit(tmp_path, monkeypatch, number):
    whole = loop.train(bowl_problem(), tmp_path / "whole", seed=3, quiet=True)
    compiled_chunk = supervised.compiled_chunk

    def stopped(problem, mesh):
        run = compiled_chunk(problem, mesh)
        calls = []

        def call(*arguments):
            if not calls:
                signal.raise_signal(number)  # a signal during compilation is answered when the compiler returns
            calls.append(True)
            return run(*arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(supervised, "compiled_chunk", stopped)
        with pytest.raises(loop.Interrupted):
            loop.train(bowl_problem(), tmp_path / "run", seed=3, quiet=True)
    resumed = loop.train(bowl_problem(), tmp_path / "run", seed=3, resume=True, quiet=True)
    assert_same_bits(jax.device_get(resumed), jax.device_get(whole))


def test_a_clock_that_goes_back_disturbs_nothing(tmp_path, monkeypatch):
    whole = loop.train(bowl_problem(), tmp_path / "whole", seed=3, quiet=True)
    now = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    loop.train(bowl_problem(), tmp_path / "run", seed=3, meta_steps=20, quiet=True)
    resumed = loop.train(bowl_problem(), tmp_path / "run", seed=3, resume=True, quiet=True)
    assert_same_bits(jax.device_get(resumed), jax.device_get(whole))
    seconds = [line["seconds"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
