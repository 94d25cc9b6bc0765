"""Images that stay on the host. Place: fewstep/apps/images/tasks.py and --images-on."""

import jax
import numpy as np
import pytest
from known import assert_same_bits, write_photos

from fewstep.apps.images import problem as image_learning
from fewstep.apps.images.problem import Images
from fewstep.core.prefetch import OnHost
from fewstep.supervised.evaluate import evaluate
from fewstep.training import chunk, loop
from fewstep.training.devices import task_mesh
from fewstep.training.progress import read_metrics

SMALL = {"size": 12, "network": "mlp", "hidden": (8,), "adaptation_steps": 1, "ways": 3, "queries": 2, "test_queries": 3}
SMALL |= {"parts": (0.5, 0.25, 0.25), "validation_tasks": 8, "meta_steps": 6, "log_every": 2, "meta_batch_size": 4}
SMALL |= {"joint_steps": 4, "joint_batch": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    patch, root = pytest.MonkeyPatch(), tmp_path_factory.mktemp("photos")
    patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
    yield str(write_photos(root / "data", range(24)))
    patch.undo()


def problem(data, where):
    return Images(data=data, images_on=where, **SMALL).build(0)


def test_images_on_the_host_are_the_same_training_and_the_same_figures_to_the_last_bit(data, tmp_path):
    states, found = [], []
    for where in ("device", "host"):
        built, folder = problem(data, where), tmp_path / where
        folder.mkdir()
        states.append(jax.device_get(loop.train(built, folder, mesh=task_mesh(2), quiet=True)))
        found.append(evaluate(built, states[-1].params, steps=(0, 1), tasks=10))
    assert_same_bits(*states)
    assert found[0] == found[1]
    curves = [[line["meta_loss"] for line in read_metrics(tmp_path / where / "metrics.jsonl")] for where in ("device", "host")]
    assert len(curves[0]) == 3
    assert curves[0] == curves[1]


@pytest.mark.parametrize(("backend", "memory", "expected"), [("cpu", 1, False), ("gpu", 2**40, False), ("gpu", 1000, True)])
def test_images_stay_on_the_host_where_they_would_take_half_of_a_device(data, monkeypatch, backend, memory, expected):
    monkeypatch.setattr(image_learning.jax, "default_backend", lambda: backend)
    monkeypatch.setattr(image_learning, "device_memory", lambda: memory)
    settings = Images(data=data, **SMALL)
    assert isinstance(settings.kept(np.zeros((10, 12, 12, 3), np.uint8)), OnHost) is expected


def test_the_host_gathers_ahead_what_every_meta_step_but_the_first_of_a_training_asks_for(data, tmp_path, monkeypatch):
    at_once, ahead, taken = [], [], OnHost._taken

    def seen(self, numbers):
        (ahead if np.asarray(numbers).tobytes() in self._waiting else at_once).append(numbers.shape)
        return taken(self, numbers)

    monkeypatch.setattr(OnHost, "_taken", seen)
    monkeypatch.setattr(chunk, "SAMPLED_BYTES", 1)  # one meta-batch at a time
    loop.train(problem(data, "host"), tmp_path, mesh=task_mesh(2), quiet=True)
    devices, joint, support, query = 2, (1, 4, 1), (1, 2, 3, 1), (1, 2, 3, 2)
    for shape, steps in ((joint, 4), (support, 6), (query, 6)):
        assert at_once.count(shape) == devices
        assert ahead.count(shape) == devices * (steps - 1)
