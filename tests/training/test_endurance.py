"""Long work neither compiles again nor leaks: a fast slice of the endurance benchmark. Place: fewstep/training, runs."""

import gc

import jax

from fewstep import runs
from fewstep.apps.sine.settings import Sine
from fewstep.training.progress import MetricsFile, read_metrics

SMALL = {"hidden": (8,), "adaptation_steps": 1, "inner_optimizer": "sgd", "multi_step": 0.0, "clip": 0.0}
compilations = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **about: compilations.append(event) if event.endswith("backend_compile_duration") else None
)


def test_two_thousand_meta_steps_and_twenty_evaluations_compile_nothing_after_the_first(tmp_path, monkeypatch):
    at = {}

    class Watched(MetricsFile):
        def write(self, record):
            super().write(record)
            at[record["meta_step"]] = len(compilations)

    monkeypatch.setattr("fewstep.training.loop.MetricsFile", Watched)
    run = runs.train(Sine(meta_steps=2_000, log_every=100, **SMALL), tmp_path / "run", quiet=True)
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 20
    assert at[2_000] == at[200]
    run.evaluate((0, 1), tasks=20)
    before, living, objects = len(compilations), 0, 0
    for number in range(20):
        runs.open_run(tmp_path / "run").evaluate((0, 1), tasks=20)
        if number == 10:
            gc.collect()
            living, objects = len(jax.live_arrays()), len(gc.get_objects())
    assert len(compilations) == before
    gc.collect()
    assert len(jax.live_arrays()) <= living  # nothing of an evaluation stays
    assert len(gc.get_objects()) < objects + 100  # a class of modules is some 170, weak references come and go
