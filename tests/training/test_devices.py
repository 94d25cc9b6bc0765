"""One training on one device and on many. Place: fewstep/training/devices.py, and --devices of the command."""

import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from known import TINY

from fewstep import init
from fewstep.apps.sine.settings import Sine
from fewstep.training.chunk import compiled_chunk
from fewstep.training.devices import replicate, task_mesh
from fewstep.training.progress import read_metrics

CURVES = """
import sys
from dataclasses import replace
from pathlib import Path
import jax
from fewstep.apps.sine.settings import Sine
from fewstep.training import loop
from fewstep.training.devices import task_mesh
assert jax.device_count() == 8
problem = replace(Sine(meta_steps=200, log_every=1, hidden=(40, 40), adaptation_steps=1).build(), validation_tasks=8)
for name, count in (("1", 1), ("8", 8), ("again", 8)):
    loop.train(problem, Path(sys.argv[1]) / name, mesh=task_mesh(count), quiet=True)
"""


def test_one_device_and_eight_give_one_curve_and_the_same_devices_the_same_bits(tmp_path):
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8"}
    for name in ("1", "8", "again"):
        (tmp_path / name).mkdir()
    subprocess.run([sys.executable, "-c", CURVES, tmp_path], check=True, env=environment)
    curves = {path.name: [line["meta_loss"] for line in read_metrics(path / "metrics.jsonl")] for path in tmp_path.iterdir()}
    assert len(curves["1"]) == 200
    np.testing.assert_allclose(curves["8"], curves["1"], rtol=1e-5)
    assert curves["again"] == curves["8"]


@pytest.mark.parametrize("tasks", [8, 5])
def test_a_meta_step_has_one_all_reduce_of_the_gradient_the_loss_and_the_count_and_no_other_collective(tasks):
    problem, mesh = Sine(hidden=(7,), adaptation_steps=2, meta_batch_size=tasks).build(), task_mesh(2)
    state = replicate(init(problem.outer_optimizer, problem.init(jax.random.key(0))), mesh)
    run = jax.jit(compiled_chunk(problem, mesh))
    program = run.lower(state, jax.random.key(1), jax.numpy.asarray(3)).compile().as_text()
    floats = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert re.findall(r"= (\S+) all-reduce(?:-start)?\(", program) == [f"f32[{floats + 2}]{{0}}"]
    assert not re.findall(r"(?:all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast)", program)


def test_devices_are_chosen_by_the_command_written_down_and_refused_where_there_are_not_so_many(command, tmp_path):
    words = ["train", "sine", *TINY]
    code, _, error = command(*words, "--out", "run", "--devices", 3)
    assert code == 2
    assert "expected all, or a number from 1 to the 2 there are" in error
    assert not (tmp_path / "run").exists()
    assert "expected all, or a number from 1 to the 2 there are" in command("train", "nav2d", "--devices", 3)[2]
    assert command(*words, "--out", "run", "--devices", 1)[0] == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["device"].startswith("1 x ")
    code, _, error = command("resume", "run", "--devices", 2)
    assert code == 0
    assert "done already" in error


@pytest.mark.parametrize("said", [{"JAX_NUM_CPU_DEVICES": "8"}, {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}])
def test_the_command_shows_as_many_devices_as_the_environment_says(said):
    code = "from fewstep.cli.arguments import prepare_jax; prepare_jax(); import jax; print(jax.device_count())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env={**os.environ, **said})
    assert int(done.stdout) == 8
